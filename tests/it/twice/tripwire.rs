//! A proxy before a peer of the operator that keeps a list of all requests, and freezes the operator at one of them.
//!
//! Bodies pass as they come, in both directions. The `Host` header stays that of the proxy, so that signatures hold.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _, stream};
use http_body::Body as _;
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// More than any reply that is read whole before the operator is killed.
const REPLY_MAX: usize = 1 << 20;

/// How long a reply that is cut in its middle is held until the operator has done what it is waited for.
const HOLD_MAX: Duration = Duration::from_mins(1);

/// A process to be frozen, by its id.
pub(crate) struct Victim(u32);

impl Victim {
    /// Gets SIGSTOP, and hears of its request once it goes on.
    pub(crate) fn to_be_frozen(id: u32) -> Arc<Self> {
        Arc::new(Self(id))
    }

    async fn strike(&self) -> Result<()> {
        let mut kill = tokio::process::Command::new("kill");
        let stopped = kill.args(["-STOP", &self.0.to_string()]).status().await?;
        ensure!(stopped.success(), "it ended by itself before");
        Ok(())
    }
}

/// When within a request the operator is killed or frozen.
#[derive(Clone)]
pub(crate) enum When {
    /// The peer did as asked, and the operator never hears of it; where it is frozen, it does when it goes on.
    After,
    /// The request is on its way until it is let go, and then reaches the peer.
    Late(Arc<Notify>),
    /// The peer got so many bytes of the body, and no more.
    Sending(usize),
    /// The operator got so many bytes of the reply, and has since got an answer to such a request of another peer.
    Receiving(usize, Arc<Tripwire>, &'static [&'static str]),
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After => f.write_str("after"),
            Self::Late(_) => f.write_str("on the way to the peer:"),
            Self::Sending(bytes) => write!(f, "{bytes} bytes into"),
            Self::Receiving(bytes, ..) => write!(f, "{bytes} bytes into the reply of"),
        }
    }
}

/// The request that the operator does not survive.
pub(crate) struct Wire {
    /// Parts of its line, all of them.
    pub(crate) parts: Vec<&'static str>,
    /// Which of those, from 1.
    pub(crate) nth: usize,
    pub(crate) when: When,
    pub(crate) victim: Arc<Victim>,
}

/// A request as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `METHOD /path?query`, percent-decoded.
    pub(crate) line: String,
    /// What the peer answered, also where the operator never heard of it.
    pub(crate) status: Option<StatusCode>,
}

impl Seen {
    pub(crate) fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.is_success())
    }

    pub(crate) fn is(&self, parts: &[&str]) -> bool {
        parts.iter().all(|part| self.line.contains(part))
    }
}

/// Serves until dropped, on the runtime of the test that started it.
pub(crate) struct Tripwire {
    port: u16,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    endpoint: String,
    client: reqwest::Client,
    seen: Mutex<Vec<Seen>>,
    armed: Mutex<Option<Armed>>,
}

struct Armed {
    wire: Wire,
    matched: usize,
    tell: oneshot::Sender<Result<String>>,
}

/// A wire that was touched: whoever has it pulls it.
struct Touched {
    when: When,
    victim: Arc<Victim>,
    line: String,
    tell: oneshot::Sender<Result<String>>,
}

impl Touched {
    /// In a task of its own: when the operator dies, so does the connection and what serves it. Whether it lives.
    async fn pull(self) -> bool {
        let pulled = tokio::spawn(async move {
            let struck = self.victim.strike().await;
            let lives = struck.is_ok();
            let said = format!("{} {}", self.when, self.line);
            let _ = self.tell.send(struck.map(|_| said));
            lives
        });
        pulled.await.unwrap_or(false)
    }
}

impl Tripwire {
    /// A proxy before the peer at `endpoint`.
    pub(crate) async fn start(endpoint: &str) -> Result<Arc<Self>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none());
        let shared = Arc::new(Shared {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            client: client.build()?,
            seen: Mutex::default(),
            armed: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Arc::new(Self { port, shared, server }))
    }

    /// `http://127.0.0.1:…`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Kills at that request; tells when and where, once the process is gone.
    pub(crate) fn arm(&self, wire: Wire) -> oneshot::Receiver<Result<String>> {
        let (tell, told) = oneshot::channel();
        *lock(&self.shared.armed) = Some(Armed {
            wire,
            matched: 0,
            tell,
        });
        told
    }

    /// Waits for an answer to a request whose line has these parts.
    async fn answered(&self, parts: &[&str]) -> Result<()> {
        let start = Instant::now();
        while !self.seen().iter().any(|seen| seen.is(parts) && seen.succeeded()) {
            ensure!(start.elapsed() < HOLD_MAX, "no answer to {parts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Tripwire {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    shared
        .forward(request)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("test proxy: {error:#}")).into_response())
}

impl Shared {
    /// Notes a request; the wire, if this is its request.
    fn note(&self, line: &str) -> (usize, Option<Touched>) {
        let mut seen = lock(&self.seen);
        let number = seen.len();
        seen.push(Seen {
            line: line.to_owned(),
            status: None,
        });
        let mut armed = lock(&self.armed);
        let now = armed.as_mut().is_some_and(|armed| {
            armed.matched += usize::from(armed.wire.parts.iter().all(|part| line.contains(part)));
            armed.matched == armed.wire.nth
        });
        let touched = if now { armed.take() } else { None };
        let touched = touched.map(|Armed { wire, tell, .. }| Touched {
            when: wire.when,
            victim: wire.victim,
            line: line.to_owned(),
            tell,
        });
        (number, touched)
    }

    async fn forward(&self, mut request: Request<Body>) -> Result<Response> {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let decoded = percent_decode_str(&path).decode_utf8_lossy();
        let (number, mut touched) = self.note(&format!("{} {decoded}", request.method()));
        *request.uri_mut() = format!("{}{path}", self.endpoint).parse()?;

        let when = touched.as_ref().map(|touched| touched.when.clone());
        if let Some(When::Late(release)) = &when {
            pull(touched.take()).await;
            release.notified().await;
        }
        let request = match when {
            Some(When::Sending(bytes)) => {
                let touched = touched.take();
                request.map(|body| {
                    let pieces = body
                        .into_data_stream()
                        .map(|piece| piece.map_err(io::Error::other));
                    reqwest::Body::wrap_stream(cut(pieces, bytes, async move {
                        pull(touched).await;
                    }))
                })
            }
            // A stream without a known length would be sent in chunks, even if it is nothing.
            _ if request.body().is_end_stream() => request.map(|_| reqwest::Body::default()),
            _ => request.map(|body| reqwest::Body::wrap_stream(body.into_data_stream())),
        };
        let reply = self.client.execute(request.try_into()?).await?;
        let status = reply.status();
        let note = |status| {
            if let Some(seen) = lock(&self.seen).get_mut(number) {
                seen.status = Some(status);
            }
        };
        note(status);
        let (mut reply, body) = axum::http::Response::from(reply).into_parts();
        // Of this connection, not of the reply.
        reply.headers.remove(header::CONNECTION);
        reply.headers.remove(header::TRANSFER_ENCODING);
        match when {
            Some(When::After) => {
                let body = to_bytes(Body::new(body), REPLY_MAX).await.context("the reply")?;
                ensure!(pull(touched).await, "the reply is lost");
                Ok(Response::from_parts(reply, Body::from(body)))
            }
            Some(When::Receiving(bytes, other, parts)) => {
                let held = async move {
                    // That it never came is seen in what is left behind.
                    let _ = other.answered(parts).await;
                    pull(touched).await;
                };
                let pieces = Body::new(body)
                    .into_data_stream()
                    .map(|piece| piece.map_err(io::Error::other));
                Ok(Response::from_parts(
                    reply,
                    Body::from_stream(cut(pieces, bytes, held)),
                ))
            }
            _ => Ok(Response::from_parts(reply, Body::new(body))),
        }
    }
}

async fn pull(touched: Option<Touched>) -> bool {
    match touched {
        Some(touched) => touched.pull().await,
        None => false,
    }
}

/// The first `bytes` of a body; then `end` happens, and the body breaks off.
fn cut(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    bytes: usize,
    end: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let state = (Box::pin(pieces), bytes, Some(Box::pin(end)));
    stream::unfold(state, async |(mut pieces, left, mut end)| {
        if left > 0
            && let Some(Ok(mut piece)) = pieces.next().await
        {
            piece.truncate(left);
            return Some((Ok(piece.clone()), (pieces, left - piece.len(), end)));
        }
        end.take()?.await;
        let broken = io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the test");
        Some((Err(broken), (pieces, 0, end)))
    })
}
