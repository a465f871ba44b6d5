//! A proxy before a peer of the operator. It notes every request on the board, and does to it what the board says.
//!
//! Bodies pass as they come, in both directions. The `Host` header stays that of the proxy, so that signatures hold.
//! The operator speaks plain HTTP to it, also where the peer speaks TLS: what is tried here is above that.

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

/// More than any reply that is read whole before it is lost, or in which an address is changed.
const REPLY_MAX: usize = 64 << 20;

/// Serves until dropped, on the runtime of the test that started it.
pub(crate) struct FaultProxy {
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

struct ProxyUpstream {
    peer: ProxiedPeer,
    /// Where the peer is: `http://…` without a slash at its end.
    endpoint: String,
    client: reqwest::Client,
    /// What the tracker says of the UAA, and what is told instead: its proxy.
    discovery_rewrite: Option<(String, String)>,
    injector: Arc<FaultInjector>,
}

impl FaultProxy {
    /// Before a peer that speaks plain HTTP at `endpoint`.
    pub(crate) async fn start(
        peer: ProxiedPeer,
        endpoint: &str,
        injector: &Arc<FaultInjector>,
    ) -> Result<Self> {
        Self::start_with(peer, endpoint, http_client()?, None, injector).await
    }

    /// Before the tracker, whose UAA is at the same address: its discovery names the proxy `uaa` instead.
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

    /// Before the bucket's store.
    pub(crate) async fn store(gateway: &Gateway, injector: &Arc<FaultInjector>) -> Result<Self> {
        Self::start(ProxiedPeer::Store, &gateway.endpoint(), injector).await
    }

    /// Before the API server, which knows the proxy as a client with all rights.
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

/// One connection; an error of the service ends it without an answer.
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
    /// An error means that the connection breaks off.
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
                // As a server that is polite: one that closes on an unread body may reset the connection instead.
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
                    // Until the client goes away: then the connection ends, and this with it.
                    std::future::pending::<()>().await;
                }
                bail!("the reply is lost");
            }
            Some(InjectedFault::KillReceiving(bytes, parts)) => {
                let injector = Arc::clone(&self.injector);
                let held = async move {
                    // That it never came is seen in what is left behind.
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

    /// What the peer says.
    async fn send(&self, number: usize, mut request: Request<Body>) -> Result<Response<Body>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let discovers = path == "/v2/info";
        *request.uri_mut() = format!("{}{path}", self.endpoint).parse()?;
        // A stream without a known length would be sent in chunks, even if it is nothing.
        let request = if request.body().is_end_stream() {
            request.map(|_| reqwest::Body::default())
        } else {
            request.map(|body| reqwest::Body::wrap_stream(body.into_data_stream()))
        };
        // In a task of its own: where the operator goes away meanwhile, what the peer did is noted all the same.
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
        // Of this connection, not of the reply.
        reply.headers.remove(header::CONNECTION);
        reply.headers.remove(header::TRANSFER_ENCODING);
        let mut body = Body::new(body);
        if self.peer == ProxiedPeer::Uaa {
            let said = to_bytes(body, REPLY_MAX).await?;
            let tokens: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
            for token in ["access_token", "refresh_token"].map(|name| tokens.get(name)) {
                if let Some(token) = token.and_then(serde_json::Value::as_str) {
                    self.injector.add_secret(token);
                }
            }
            body = Body::from(said);
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
        // A stream hides that there is nothing in it, as in the reply to a HEAD.
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

/// How long the body says that it is; where it does not, long enough that some of it is there.
fn body_length(reply: &Response<Body>) -> usize {
    let said = reply.headers().get(header::CONTENT_LENGTH);
    let said = said.and_then(|said| said.to_str().ok()?.parse().ok());
    said.unwrap_or(64)
}
