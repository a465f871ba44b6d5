//! Proxy before a peer of the operator. It records each request and applies the injector's faults.
//!
//! Bodies are streamed in both directions. The `Host` header stays that of the proxy, so that signatures hold. The
//! operator uses plain HTTP even if the peer uses TLS: the faults are above TLS.

use std::io;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, Response, header};
use futures::StreamExt as _;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::body::{self, BodyStream};
use super::error_replies::error_reply;
use super::fault::InjectedFault;
use super::injector::{FaultInjector, TriggeredFault};
use super::request::{ProxiedPeer, request_line};
use crate::bed::{Cluster, Gateway, http_client};

/// Larger than any reply that is buffered, to lose it or to change an address in it.
const REPLY_MAX: usize = 64 << 20;

/// Serves until dropped, on the runtime of the test that started it.
pub(crate) struct FaultProxy {
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

struct ProxyUpstream {
    peer: ProxiedPeer,
    /// Address of the peer: `http://…` without a trailing slash.
    endpoint: String,
    client: reqwest::Client,
    /// Address of the UAA in the tracker's discovery document, and its replacement: the UAA's proxy.
    discovery_rewrite: Option<(String, String)>,
    injector: Arc<FaultInjector>,
}

impl FaultProxy {
    /// Starts a proxy before a peer with plain HTTP at `endpoint`.
    pub(crate) async fn start(
        peer: ProxiedPeer,
        endpoint: &str,
        injector: &Arc<FaultInjector>,
    ) -> Result<Self> {
        Self::start_with(peer, endpoint, http_client()?, None, injector).await
    }

    /// Starts a proxy before the tracker and its UAA at the same address. Its discovery document names the proxy
    /// `uaa`.
    pub(crate) async fn tracker(endpoint: &str, uaa: &Self, injector: &Arc<FaultInjector>) -> Result<Self> {
        let discovery_rewrite = (endpoint.trim_end_matches('/').to_owned(), uaa.endpoint());
        Self::start_with(
            ProxiedPeer::Tracker,
            endpoint,
            http_client()?,
            Some(discovery_rewrite),
            injector,
        )
        .await
    }

    /// Starts a proxy before the store.
    pub(crate) async fn store(gateway: &Gateway, injector: &Arc<FaultInjector>) -> Result<Self> {
        Self::start(ProxiedPeer::Store, &gateway.endpoint(), injector).await
    }

    /// Starts a proxy before the API server; the proxy is a client with all rights.
    pub(crate) async fn cluster(cluster: &Cluster, injector: &Arc<FaultInjector>) -> Result<Self> {
        let client = cluster.http_client()?;
        Self::start_with(
            ProxiedPeer::ApiServer,
            &cluster.server_url(),
            client,
            None,
            injector,
        )
        .await
    }

    async fn start_with(
        peer: ProxiedPeer,
        endpoint: &str,
        client: reqwest::Client,
        discovery_rewrite: Option<(String, String)>,
        injector: &Arc<FaultInjector>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let upstream = Arc::new(ProxyUpstream {
            peer,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            client,
            discovery_rewrite,
            injector: Arc::clone(injector),
        });
        let serving = AbortOnDropHandle::new(tokio::spawn(accept(listener, upstream)));
        Ok(Self {
            port,
            _serving: serving,
        })
    }

    /// `http://127.0.0.1:…`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

async fn accept(listener: TcpListener, upstream: Arc<ProxyUpstream>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(serve_connection(stream, Arc::clone(&upstream)));
    }
}

/// Serves one connection. An error of the service ends it without a reply.
async fn serve_connection(stream: TcpStream, upstream: Arc<ProxyUpstream>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let upstream = Arc::clone(&upstream);
        async move { upstream.forward(request.map(Body::new)).await }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl ProxyUpstream {
    /// Forwards a request. An error breaks the connection.
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let (number, triggered) = self
            .injector
            .record(self.peer, &request_line(request.method().as_str(), path));
        if let Some(token) = request.headers().get("x-auth-token") {
            let token = token.to_str().unwrap_or_default();
            self.injector.add_secret(token.trim_start_matches("bearer "));
        }
        let fault = triggered.as_ref().map(|triggered| triggered.fault);
        match fault {
            Some(InjectedFault::KillBefore | InjectedFault::DropBefore) => {
                inject(triggered).await;
                bail!("not sent");
            }
            Some(InjectedFault::ErrorReply(refusal)) => {
                // Read the body first: a server that closes with an unread body may reset the connection.
                let _ = to_bytes(request.into_body(), REPLY_MAX).await;
                inject(triggered).await;
                Ok(error_reply(self.peer, refusal))
            }
            Some(InjectedFault::KillSending(bytes)) => {
                let cut = request
                    .map(|body| Body::from_stream(body::cut(body_stream(body), bytes, inject(triggered))));
                self.send(number, cut).await?;
                bail!("cut");
            }
            Some(InjectedFault::KillAfter | InjectedFault::LoseReply | InjectedFault::HangReply) => {
                let reply = self.send(number, request).await?;
                to_bytes(reply.into_body(), REPLY_MAX)
                    .await
                    .context("the reply")?;
                inject(triggered).await;
                if fault == Some(InjectedFault::HangReply) {
                    // Waits until the client disconnects, which also drops this task.
                    std::future::pending::<()>().await;
                }
                bail!("the reply is lost");
            }
            Some(InjectedFault::KillReceiving(bytes, parts)) => {
                let injector = Arc::clone(&self.injector);
                let held = async move {
                    // A missing answer shows in the leftovers.
                    let _ = injector.wait_answered(parts).await;
                    inject(triggered).await;
                };
                let reply = self.send(number, request).await?;
                Ok(reply.map(|body| Body::from_stream(body::cut(body_stream(body), bytes, held))))
            }
            Some(InjectedFault::CutBody) => {
                let reply = self.send(number, request).await?;
                let whole = body_length(&reply);
                Ok(reply.map(|body| {
                    Body::from_stream(body::cut(body_stream(body), whole / 2, inject(triggered)))
                }))
            }
            Some(InjectedFault::TrickleBody) => {
                let reply = self.send(number, request).await?;
                inject(triggered).await;
                let whole = body_length(&reply);
                Ok(reply.map(|body| Body::from_stream(body::trickle(body_stream(body), whole))))
            }
            None => self.send(number, request).await,
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
        // In its own task: the peer's reply is recorded even if the operator disconnects meanwhile.
        let (client, injector) = (self.client.clone(), Arc::clone(&self.injector));
        let request = request.try_into()?;
        let asked = tokio::spawn(async move {
            let reply = client.execute(request).await?;
            let status = reply.status();
            injector.update(number, |seen| seen.status = Some(status));
            reqwest::Result::Ok(reply)
        });
        let reply = asked.await??;
        let (mut reply, body) = Response::from(reply).into_parts();
        // This header belongs to the connection, not to the reply.
        reply.headers.remove(header::CONNECTION);
        reply.headers.remove(header::TRANSFER_ENCODING);
        let mut body = Body::new(body);
        if self.peer == ProxiedPeer::Uaa {
            let buffered = to_bytes(body, REPLY_MAX).await?;
            let tokens: serde_json::Value = serde_json::from_slice(&buffered).unwrap_or_default();
            for token in ["access_token", "refresh_token"].map(|name| tokens.get(name)) {
                if let Some(token) = token.and_then(serde_json::Value::as_str) {
                    self.injector.add_secret(token);
                }
            }
            body = Body::from(buffered);
        }
        if discovers && let Some((own, discovery_rewrite)) = &self.discovery_rewrite {
            let text = String::from_utf8(to_bytes(body, REPLY_MAX).await?.to_vec())?;
            body = Body::from(text.replace(own, discovery_rewrite));
            reply.headers.remove(header::CONTENT_LENGTH);
        }
        let injector = Arc::clone(&self.injector);
        let counted = move |piece: io::Result<Bytes>| {
            let bytes = piece.as_ref().map_or(0, Bytes::len);
            injector.update(number, |seen| seen.reply_bytes += bytes as u64);
            piece
        };
        // A stream hides that it is empty, as in the reply to a HEAD.
        if body.is_end_stream() {
            return Ok(Response::from_parts(reply, Body::empty()));
        }
        Ok(Response::from_parts(
            reply,
            Body::from_stream(body_stream(body).map(counted)),
        ))
    }
}

async fn inject(triggered: Option<TriggeredFault>) {
    if let Some(triggered) = triggered {
        triggered.inject().await;
    }
}

fn body_stream(body: Body) -> BodyStream {
    body.into_data_stream()
        .map(|piece| piece.map_err(io::Error::other))
        .boxed()
}

/// Declared length of the body, or a length large enough to get part of it.
fn body_length(reply: &Response<Body>) -> usize {
    let length = reply.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(64)
}
