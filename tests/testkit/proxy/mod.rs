//! The fault proxy: it stands before a peer of the program, records each request, and applies rules to it.
//!
//! A rule matches requests by peer, line and headers, hits the n-th or every one, and acts on the request or on the
//! reply: drop, delay, cut, reply with an error, rewrite; it may kill or freeze the program at that moment. Bodies are
//! streamed in both directions. The `Host` header stays that of the proxy, so that signatures hold. The program uses
//! plain HTTP even if the peer uses TLS, unless a [`Wire`] asks for it.

mod body;
mod created;
mod replies;
mod rules;
mod strip_header;
mod wire;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use self::body::{ReplyBody, body_stream};
use self::replies::error_reply;
use self::rules::{TriggeredRule, json_reply};
use crate::bed::{Cluster, Gateway, http_client};

pub(crate) use self::created::{created, creations};
pub(crate) use self::replies::ErrorStatus;
pub(crate) use self::rules::{
    Action, Gate, InjectionReceiver, KeptRule, ProxiedPeer, RecordedRequest, RequestMatcher, Rule, Rules,
    request_line, wait_injected,
};
pub(crate) use self::strip_header::strip_if_none_match;
pub(crate) use self::wire::Wire;

/// Larger than any body that is buffered: to lose or change it, or to pass it at once.
const BODY_MAX: usize = 64 << 20;

/// Serves until dropped, on the runtime of the test that started it. Dereferences to its rules.
pub(crate) struct Proxy {
    peer: ProxiedPeer,
    address: SocketAddr,
    /// CA of the TLS listener; `None` if it serves plain HTTP.
    pub(crate) ca_pem: Option<String>,
    connections: Arc<AtomicUsize>,
    rules: Arc<Rules>,
    _serving: AbortOnDropHandle<()>,
}

struct Upstream {
    peer: ProxiedPeer,
    /// Address of the peer: `http://…` without a trailing slash.
    endpoint: String,
    client: reqwest::Client,
    /// Address of the UAA in the tracker's discovery document, and its replacement: the UAA's proxy.
    discovery_rewrite: Option<(String, String)>,
    rules: Arc<Rules>,
}

impl Deref for Proxy {
    type Target = Arc<Rules>;

    fn deref(&self) -> &Arc<Rules> {
        &self.rules
    }
}

impl Proxy {
    /// Starts a proxy before a peer with plain HTTP at `endpoint`.
    pub(crate) async fn start(peer: ProxiedPeer, endpoint: &str, rules: &Arc<Rules>) -> Result<Self> {
        Self::listen(peer, endpoint, http_client()?, None, rules, None).await
    }

    /// Starts a proxy before the tracker and its UAA at the same address. Its discovery document names the proxy
    /// `uaa`.
    pub(crate) async fn tracker(endpoint: &str, uaa: &Self, rules: &Arc<Rules>) -> Result<Self> {
        let discovery = (endpoint.trim_end_matches('/').to_owned(), uaa.endpoint());
        let client = http_client()?;
        Self::listen(
            ProxiedPeer::Tracker,
            endpoint,
            client,
            Some(discovery),
            rules,
            None,
        )
        .await
    }

    /// Starts a proxy before the store.
    pub(crate) async fn store(gateway: &Gateway, rules: &Arc<Rules>) -> Result<Self> {
        Self::start(ProxiedPeer::Store, &gateway.endpoint(), rules).await
    }

    /// Starts a proxy before the gateway that makes it a store without conditional writes.
    pub(crate) async fn weak_store(gateway: &Gateway) -> Result<(Self, KeptRule)> {
        let proxy = Self::store(gateway, &Rules::new()).await?;
        let stripped = proxy.keep(strip_if_none_match(gateway));
        Ok((proxy, stripped))
    }

    /// Starts a proxy before the API server; the proxy is a client with all rights.
    pub(crate) async fn cluster(cluster: &Cluster, rules: &Arc<Rules>) -> Result<Self> {
        let client = cluster.http_client()?;
        Self::listen(
            ProxiedPeer::ApiServer,
            &cluster.server_url(),
            client,
            None,
            rules,
            None,
        )
        .await
    }

    /// Starts a proxy that is as far away as the wire says.
    pub(crate) async fn remote(peer: ProxiedPeer, endpoint: &str, wire: Wire) -> Result<Self> {
        Self::listen(peer, endpoint, http_client()?, None, &Rules::new(), Some(wire)).await
    }

    async fn listen(
        peer: ProxiedPeer,
        endpoint: &str,
        client: reqwest::Client,
        discovery_rewrite: Option<(String, String)>,
        rules: &Arc<Rules>,
        wire: Option<Wire>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let upstream = Arc::new(Upstream {
            peer,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            client,
            discovery_rewrite,
            rules: Arc::clone(rules),
        });
        let connections = Arc::<AtomicUsize>::default();
        let ca_pem = wire.as_ref().and_then(Wire::ca_pem);
        let accepting = accept(listener, upstream, Arc::clone(&connections), wire);
        Ok(Self {
            peer,
            address,
            ca_pem,
            connections,
            rules: Arc::clone(rules),
            _serving: AbortOnDropHandle::new(tokio::spawn(accepting)),
        })
    }

    /// `http://127.0.0.1:…`
    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.ca_pem.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Writes a kubeconfig that uses the proxy of an API server.
    pub(crate) fn write_kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bed",
            "clusters": [{ "name": "bed", "cluster": { "server": self.endpoint() } }],
            "users": [{ "name": "bed", "user": {} }],
            "contexts": [{ "name": "bed", "context": { "cluster": "bed", "user": "bed" } }],
        });
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Returns the requests to this peer so far.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.rules.requests_to(self.peer)
    }

    /// Returns the requests of a watched process to this peer.
    pub(crate) fn requests_from(&self, process: u32) -> Vec<RecordedRequest> {
        let mut requests = self.requests();
        requests.retain(|request| request.process == Some(process));
        requests
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, upstream: Arc<Upstream>, count: Arc<AtomicUsize>, wire: Option<Wire>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, from)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        count.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let own = listener.local_addr().map_or(0, |address| address.port());
        let process = wire::owner(from.port(), own, &upstream.rules.watched());
        let upstream = Arc::clone(&upstream);
        match wire.clone() {
            None => connections.spawn(serve(stream, process, upstream)),
            Some(wire) => connections.spawn(async move {
                let far = wire.carry(stream);
                match wire.tls() {
                    None => serve(far, process, upstream).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(far).await {
                            serve(stream, process, upstream).await;
                        }
                    }
                }
            }),
        };
    }
}

/// Serves one connection. An error of the service ends it without a reply.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    process: Option<u32>,
    upstream: Arc<Upstream>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let upstream = Arc::clone(&upstream);
        async move { upstream.forward(request.map(Body::new), process).await }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Upstream {
    /// Forwards a request. An error breaks the connection.
    async fn forward(&self, mut request: Request<Body>, process: Option<u32>) -> Result<Response<Body>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let line = request_line(request.method(), path);
        let mut body = serde_json::Value::Null;
        if self.peer == ProxiedPeer::ApiServer {
            let (head, whole) = request.into_parts();
            let whole = to_bytes(whole, BODY_MAX).await?;
            body = serde_json::from_slice(&whole).unwrap_or_default();
            request = Request::from_parts(head, Body::from(whole));
        }
        let mut headers = String::new();
        for (name, value) in request.headers() {
            let _ = writeln!(headers, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
        let recorded = RecordedRequest {
            peer: self.peer,
            line: line.clone(),
            at: Instant::now(),
            process,
            headers,
            body,
            status: None,
            reply_bytes: 0,
            rule: None,
        };
        let (number, triggered) = self.rules.record(recorded, request.headers());
        if let Some(token) = request.headers().get("x-auth-token") {
            let token = token.to_str().unwrap_or_default();
            self.rules.add_secret(token.trim_start_matches("bearer "));
        }
        let Some(triggered) = triggered else {
            let reply = self.send(number, request).await?;
            return self.pass(&line, number, reply, None).await;
        };
        self.apply(&line, number, request, triggered).await
    }

    /// Forwards a request that a rule hits.
    async fn apply(
        &self,
        line: &str,
        number: usize,
        request: Request<Body>,
        triggered: TriggeredRule,
    ) -> Result<Response<Body>> {
        match triggered.action.clone() {
            Action::DropRequest => {
                triggered.inject().await;
                bail!("not sent");
            }
            Action::HangRequest => {
                triggered.inject().await;
                // Waits until the client disconnects, which also drops this task.
                std::future::pending().await
            }
            Action::ErrorReply(status) => {
                // Read the body first: a server that closes with an unread body may reset the connection.
                let _ = to_bytes(request.into_body(), BODY_MAX).await;
                triggered.inject().await;
                Ok(error_reply(self.peer, status))
            }
            Action::JsonReply(document) => {
                triggered.inject().await;
                Ok(json_reply(&document))
            }
            Action::HoldRequest(gate) => {
                triggered.inject().await;
                gate.pass().await;
                let reply = self.send(number, request).await?;
                self.pass(line, number, reply, None).await
            }
            Action::RewriteRequest(rewrite) => {
                triggered.inject().await;
                let (head, body) = request.into_parts();
                let body = to_bytes(body, BODY_MAX).await?;
                let mut whole = Request::from_parts(head, body);
                *whole.uri_mut() = format!("{}{}", self.endpoint, whole.uri()).parse()?;
                let rewritten = rewrite(whole)?.map(Body::from);
                let reply = self.send(number, rewritten).await?;
                self.pass(line, number, reply, None).await
            }
            Action::CutRequest(bytes) => {
                let cut = request
                    .map(|body| Body::from_stream(body::cut(body_stream(body), bytes, triggered.inject())));
                self.send(number, cut).await?;
                bail!("cut");
            }
            Action::RewriteLines(lines) => {
                triggered.inject().await;
                let reply = self.send(number, request).await?;
                self.pass(line, number, reply, Some(lines)).await
            }
            action => {
                let reply = self.send(number, request).await?;
                self.apply_to_reply(line, number, reply, action, triggered).await
            }
        }
    }

    async fn apply_to_reply(
        &self,
        line: &str,
        number: usize,
        reply: Response<Body>,
        action: Action,
        triggered: TriggeredRule,
    ) -> Result<Response<Body>> {
        let reply = self.pass(line, number, reply, None).await?;
        let length = reply.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        // A length large enough to get part of it.
        let length: usize = length.unwrap_or(64);
        let inject = triggered.inject();
        match action {
            Action::CutReply(bytes, parts) => {
                let rules = Arc::clone(&self.rules);
                let end = async move {
                    // A missing answer shows in the leftovers.
                    let _ = rules.wait_answered(parts).await;
                    inject.await;
                };
                Ok(cut(reply, bytes, end))
            }
            Action::HangReplyAfter(bytes) => {
                let end = async move {
                    inject.await;
                    std::future::pending::<()>().await;
                };
                Ok(cut(reply, bytes, end))
            }
            Action::HalveReply => Ok(cut(reply, length / 2, inject)),
            Action::TrickleReply => {
                inject.await;
                Ok(reply.map(|body| Body::from_stream(body::trickle(body_stream(body), length))))
            }
            Action::ReplaceReply(status) => {
                to_bytes(reply.into_body(), BODY_MAX).await.context("the reply")?;
                inject.await;
                Ok(error_reply(self.peer, status))
            }
            _ => {
                let (head, body) = reply.into_parts();
                let body = to_bytes(body, BODY_MAX).await.context("the reply")?;
                inject.await;
                match action {
                    Action::Pass => Ok(Response::from_parts(head, Body::from(body))),
                    Action::HangReply => std::future::pending().await,
                    _ => bail!("the reply is lost"),
                }
            }
        }
    }

    /// Sends the request to the peer.
    async fn send(&self, number: usize, mut request: Request<Body>) -> Result<Response<Body>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let discovers = path == "/v2/info";
        *request.uri_mut() = format!("{}{path}", self.endpoint).parse()?;
        // A stream of unknown length would be sent in chunks even if empty.
        let request = if request.body().is_end_stream() {
            request.map(|_| reqwest::Body::default())
        } else {
            request.map(|body| reqwest::Body::wrap_stream(body.into_data_stream()))
        };
        // In its own task: the peer's reply is recorded even if the program disconnects meanwhile.
        let (client, rules) = (self.client.clone(), Arc::clone(&self.rules));
        let request = request.try_into()?;
        let asked = tokio::spawn(async move {
            let reply = client.execute(request).await?;
            let status = reply.status();
            rules.update(number, |seen| seen.status = Some(status));
            reqwest::Result::Ok(reply)
        });
        let reply = asked.await??;
        let (mut reply, body) = Response::from(reply).into_parts();
        // This header belongs to the connection, not to the reply.
        reply.headers.remove(header::CONNECTION);
        reply.headers.remove(header::TRANSFER_ENCODING);
        let mut body = Body::new(body);
        if self.peer == ProxiedPeer::Uaa {
            let buffered = to_bytes(body, BODY_MAX).await?;
            let tokens: serde_json::Value = serde_json::from_slice(&buffered).unwrap_or_default();
            for token in ["access_token", "refresh_token"].map(|name| tokens.get(name)) {
                if let Some(token) = token.and_then(serde_json::Value::as_str) {
                    self.rules.add_secret(token);
                }
            }
            body = Body::from(buffered);
        }
        if discovers && let Some((own, rewritten)) = &self.discovery_rewrite {
            let text = String::from_utf8(to_bytes(body, BODY_MAX).await?.to_vec())?;
            body = Body::from(text.replace(own, rewritten));
            reply.headers.remove(header::CONTENT_LENGTH);
        }
        Ok(Response::from_parts(reply, body))
    }

    /// Returns the reply as it is passed on.
    async fn pass(
        &self,
        line: &str,
        number: usize,
        reply: Response<Body>,
        lines: Option<rules::LineRewriter>,
    ) -> Result<Response<Body>> {
        self.rules.wait_released(self.peer, line, number, false).await;
        let (mut head, body) = reply.into_parts();
        // A stream hides that it is empty, as in the reply to a HEAD.
        if body.is_end_stream() {
            return Ok(Response::from_parts(head, Body::empty()));
        }
        if lines.is_some() {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let mut passing = ReplyBody::new(body_stream(body), &self.rules, self.peer, line, number);
        passing.lines = lines;
        Ok(Response::from_parts(
            head,
            Body::from_stream(passing.into_stream()),
        ))
    }
}

fn cut(
    reply: Response<Body>,
    bytes: usize,
    end: impl Future<Output = ()> + Send + 'static,
) -> Response<Body> {
    reply.map(|body| Body::from_stream(body::cut(body_stream(body), bytes, end)))
}
