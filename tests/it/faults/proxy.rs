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

use super::board::{Board, Struck};
use super::body::{self, Pieces};
use super::fault::Fault;
use super::refusal::refuse;
use super::request::{Peer, line};
use crate::bed::{Cluster, Gateway, http_client};

/// More than any reply that is read whole before it is lost, or in which an address is changed.
const REPLY_MAX: usize = 64 << 20;

/// Serves until dropped, on the runtime of the test that started it.
pub(crate) struct Proxy {
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

struct Line {
    peer: Peer,
    /// Where the peer is: `http://…` without a slash at its end.
    endpoint: String,
    client: reqwest::Client,
    /// What the tracker says of the UAA, and what is told instead: its proxy.
    told: Option<(String, String)>,
    board: Arc<Board>,
}

impl Proxy {
    /// Before a peer that speaks plain HTTP at `endpoint`.
    pub(crate) async fn start(peer: Peer, endpoint: &str, board: &Arc<Board>) -> Result<Self> {
        Self::before(peer, endpoint, http_client()?, None, board).await
    }

    /// Before the tracker, whose UAA is at the same address: its discovery names the proxy `uaa` instead.
    pub(crate) async fn tracker(endpoint: &str, uaa: &Self, board: &Arc<Board>) -> Result<Self> {
        let told = (endpoint.trim_end_matches('/').to_owned(), uaa.endpoint());
        Self::before(Peer::Tracker, endpoint, http_client()?, Some(told), board).await
    }

    /// Before the bucket's store.
    pub(crate) async fn store(gateway: &Gateway, board: &Arc<Board>) -> Result<Self> {
        Self::start(Peer::Store, &gateway.endpoint(), board).await
    }

    /// Before the API server, which knows the proxy as a client with all rights.
    pub(crate) async fn cluster(cluster: &Cluster, board: &Arc<Board>) -> Result<Self> {
        let client = cluster.http_client()?;
        Self::before(Peer::Cluster, &cluster.server_url(), client, None, board).await
    }

    async fn before(
        peer: Peer,
        endpoint: &str,
        client: reqwest::Client,
        told: Option<(String, String)>,
        board: &Arc<Board>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let line = Arc::new(Line {
            peer,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            client,
            told,
            board: Arc::clone(board),
        });
        let serving = AbortOnDropHandle::new(tokio::spawn(accept(listener, line)));
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

async fn accept(listener: TcpListener, line: Arc<Line>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(converse(stream, Arc::clone(&line)));
    }
}

/// One connection; an error of the service ends it without an answer.
async fn converse(stream: TcpStream, line: Arc<Line>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let line = Arc::clone(&line);
        async move { line.forward(request.map(Body::new)).await }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Line {
    /// An error means that the connection breaks off.
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let (number, struck) = self.board.note(self.peer, &line(request.method().as_str(), path));
        if let Some(token) = request.headers().get("x-auth-token") {
            let token = token.to_str().unwrap_or_default();
            self.board.hide(token.trim_start_matches("bearer "));
        }
        let fault = struck.as_ref().map(|struck| struck.fault);
        match fault {
            Some(Fault::KillBefore | Fault::DropBefore) => {
                strike(struck).await;
                bail!("not sent");
            }
            Some(Fault::Answer(refusal)) => {
                // As a server that is polite: one that closes on an unread body may reset the connection instead.
                let _ = to_bytes(request.into_body(), REPLY_MAX).await;
                strike(struck).await;
                Ok(refuse(self.peer, refusal))
            }
            Some(Fault::KillSending(bytes)) => {
                let cut =
                    request.map(|body| Body::from_stream(body::cut(pieces(body), bytes, strike(struck))));
                self.ask(number, cut).await?;
                bail!("cut");
            }
            Some(Fault::KillAfter | Fault::LoseReply | Fault::Hang) => {
                let reply = self.ask(number, request).await?;
                to_bytes(reply.into_body(), REPLY_MAX)
                    .await
                    .context("the reply")?;
                strike(struck).await;
                if fault == Some(Fault::Hang) {
                    // Until the client goes away: then the connection ends, and this with it.
                    std::future::pending::<()>().await;
                }
                bail!("the reply is lost");
            }
            Some(Fault::KillReceiving(bytes, parts)) => {
                let board = Arc::clone(&self.board);
                let held = async move {
                    // That it never came is seen in what is left behind.
                    let _ = board.answered(parts).await;
                    strike(struck).await;
                };
                let reply = self.ask(number, request).await?;
                Ok(reply.map(|body| Body::from_stream(body::cut(pieces(body), bytes, held))))
            }
            Some(Fault::CutBody) => {
                let reply = self.ask(number, request).await?;
                let whole = length(&reply);
                Ok(reply.map(|body| Body::from_stream(body::cut(pieces(body), whole / 2, strike(struck)))))
            }
            Some(Fault::TrickleBody) => {
                let reply = self.ask(number, request).await?;
                strike(struck).await;
                let whole = length(&reply);
                Ok(reply.map(|body| Body::from_stream(body::trickle(pieces(body), whole))))
            }
            None => self.ask(number, request).await,
        }
    }

    /// What the peer says.
    async fn ask(&self, number: usize, mut request: Request<Body>) -> Result<Response<Body>> {
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
        let (client, board) = (self.client.clone(), Arc::clone(&self.board));
        let request = request.try_into()?;
        let asked = tokio::spawn(async move {
            let reply = client.execute(request).await?;
            let status = reply.status();
            board.learn(number, |seen| seen.status = Some(status));
            reqwest::Result::Ok(reply)
        });
        let reply = asked.await??;
        let (mut reply, body) = Response::from(reply).into_parts();
        // Of this connection, not of the reply.
        reply.headers.remove(header::CONNECTION);
        reply.headers.remove(header::TRANSFER_ENCODING);
        let mut body = Body::new(body);
        if self.peer == Peer::Uaa {
            let said = to_bytes(body, REPLY_MAX).await?;
            let tokens: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
            for token in ["access_token", "refresh_token"].map(|name| tokens.get(name)) {
                if let Some(token) = token.and_then(serde_json::Value::as_str) {
                    self.board.hide(token);
                }
            }
            body = Body::from(said);
        }
        if discovers && let Some((own, told)) = &self.told {
            let text = String::from_utf8(to_bytes(body, REPLY_MAX).await?.to_vec())?;
            body = Body::from(text.replace(own, told));
            reply.headers.remove(header::CONTENT_LENGTH);
        }
        let board = Arc::clone(&self.board);
        let counted = move |piece: io::Result<Bytes>| {
            let bytes = piece.as_ref().map_or(0, Bytes::len);
            board.learn(number, |seen| seen.reply_bytes += bytes as u64);
            piece
        };
        // A stream hides that there is nothing in it, as in the reply to a HEAD.
        if body.is_end_stream() {
            return Ok(Response::from_parts(reply, Body::empty()));
        }
        Ok(Response::from_parts(
            reply,
            Body::from_stream(pieces(body).map(counted)),
        ))
    }
}

async fn strike(struck: Option<Struck>) {
    if let Some(struck) = struck {
        struck.strike().await;
    }
}

fn pieces(body: Body) -> Pieces {
    body.into_data_stream()
        .map(|piece| piece.map_err(io::Error::other))
        .boxed()
}

/// How long the body says that it is; where it does not, long enough that some of it is there.
fn length(reply: &Response<Body>) -> usize {
    let said = reply.headers().get(header::CONTENT_LENGTH);
    let said = said.and_then(|said| said.to_str().ok()?.parse().ok());
    said.unwrap_or(64)
}
