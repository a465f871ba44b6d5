//! Proxy before a peer of the operator that records all requests and freezes the operator at one of them.
//!
//! Bodies are streamed in both directions. The `Host` header stays that of the proxy, so that signatures hold.

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

/// Larger than any reply that is buffered before the operator is killed.
const REPLY_MAX: usize = 1 << 20;

/// Maximum time a truncated reply is held until the operator has made the awaited request.
const HOLD_MAX: Duration = Duration::from_mins(1);

/// Process to freeze, by id.
pub(crate) struct FreezeTarget(u32);

impl FreezeTarget {
    /// Targets a process for SIGSTOP; it gets the reply after it resumes.
    pub(crate) fn new(id: u32) -> Arc<Self> {
        Arc::new(Self(id))
    }

    async fn freeze(&self) -> Result<()> {
        let mut kill = tokio::process::Command::new("kill");
        let stopped = kill.args(["-STOP", &self.0.to_string()]).status().await?;
        ensure!(stopped.success(), "it ended by itself before");
        Ok(())
    }
}

/// Point of a request at which the operator is killed or frozen.
#[derive(Clone)]
pub(crate) enum FreezePoint {
    /// The peer acted, and the reply is lost; a frozen operator gets it after it resumes.
    AfterReply,
    /// The request is delayed until released, and then reaches the peer.
    DelayRequest(Arc<Notify>),
    /// The peer gets this many bytes of the body.
    Sending(usize),
    /// The operator gets this many bytes of the reply, and has since got a reply to such a request from another peer.
    Receiving(usize, Arc<FreezeProxy>, &'static [&'static str]),
}

impl fmt::Display for FreezePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AfterReply => f.write_str("after"),
            Self::DelayRequest(_) => f.write_str("on the way to the peer:"),
            Self::Sending(bytes) => write!(f, "{bytes} bytes into"),
            Self::Receiving(bytes, ..) => write!(f, "{bytes} bytes into the reply of"),
        }
    }
}

/// Request at which the operator is killed or frozen.
pub(crate) struct FreezeTrigger {
    /// All parts of its line.
    pub(crate) parts: Vec<&'static str>,
    /// Ordinal among the matching requests, from 1.
    pub(crate) nth: usize,
    pub(crate) point: FreezePoint,
    pub(crate) target: Arc<FreezeTarget>,
}

/// Recorded request.
#[derive(Clone, Debug)]
pub(crate) struct ProxiedRequest {
    /// `METHOD /path?query`, percent-decoded.
    pub(crate) line: String,
    /// Status of the peer's reply, even if the operator never got it.
    pub(crate) status: Option<StatusCode>,
}

impl ProxiedRequest {
    pub(crate) fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.is_success())
    }

    pub(crate) fn contains(&self, parts: &[&str]) -> bool {
        parts.iter().all(|part| self.line.contains(part))
    }
}

/// Serves until dropped, on the runtime of the test that started it.
pub(crate) struct FreezeProxy {
    port: u16,
    shared: Arc<FreezeProxyState>,
    server: JoinHandle<()>,
}

struct FreezeProxyState {
    endpoint: String,
    client: reqwest::Client,
    requests: Mutex<Vec<ProxiedRequest>>,
    armed: Mutex<Option<ArmedFreeze>>,
}

struct ArmedFreeze {
    trigger: FreezeTrigger,
    matched: usize,
    sender: oneshot::Sender<Result<String>>,
}

/// Freeze to carry out now.
struct TriggeredFreeze {
    point: FreezePoint,
    target: Arc<FreezeTarget>,
    line: String,
    sender: oneshot::Sender<Result<String>>,
}

impl TriggeredFreeze {
    /// Freezes or kills the operator; returns true if it lives. Runs in its own task, because the operator's death
    /// ends the connection and the task that serves it.
    async fn freeze(self) -> bool {
        let pulled = tokio::spawn(async move {
            let frozen = self.target.freeze().await;
            let lives = frozen.is_ok();
            let description = format!("{} {}", self.point, self.line);
            let _ = self.sender.send(frozen.map(|()| description));
            lives
        });
        pulled.await.unwrap_or(false)
    }
}

impl FreezeProxy {
    /// Starts a proxy before the peer at `endpoint`.
    pub(crate) async fn start(endpoint: &str) -> Result<Arc<Self>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none());
        let shared = Arc::new(FreezeProxyState {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            client: client.build()?,
            requests: Mutex::default(),
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

    /// Returns all requests so far.
    pub(crate) fn requests(&self) -> Vec<ProxiedRequest> {
        lock(&self.shared.requests).clone()
    }

    /// Arms a trigger; the receiver gets its time and request once the process is frozen or gone.
    pub(crate) fn arm(&self, trigger: FreezeTrigger) -> oneshot::Receiver<Result<String>> {
        let (sender, receiver) = oneshot::channel();
        *lock(&self.shared.armed) = Some(ArmedFreeze {
            trigger,
            matched: 0,
            sender,
        });
        receiver
    }

    /// Waits for a reply to a request with these parts in its line.
    async fn wait_answered(&self, parts: &[&str]) -> Result<()> {
        let start = Instant::now();
        while !self
            .requests()
            .iter()
            .any(|seen| seen.contains(parts) && seen.succeeded())
        {
            ensure!(start.elapsed() < HOLD_MAX, "no answer to {parts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for FreezeProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(shared): State<Arc<FreezeProxyState>>, request: Request<Body>) -> Response {
    shared
        .forward(request)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("test proxy: {error:#}")).into_response())
}

impl FreezeProxyState {
    /// Records a request; returns its number and the triggered freeze.
    fn record(&self, line: &str) -> (usize, Option<TriggeredFreeze>) {
        let mut seen = lock(&self.requests);
        let number = seen.len();
        seen.push(ProxiedRequest {
            line: line.to_owned(),
            status: None,
        });
        let mut armed = lock(&self.armed);
        let now = armed.as_mut().is_some_and(|armed| {
            armed.matched += usize::from(armed.trigger.parts.iter().all(|part| line.contains(part)));
            armed.matched == armed.trigger.nth
        });
        let triggered = if now { armed.take() } else { None };
        let triggered = triggered.map(|ArmedFreeze { trigger, sender, .. }| TriggeredFreeze {
            point: trigger.point,
            target: trigger.target,
            line: line.to_owned(),
            sender,
        });
        (number, triggered)
    }

    async fn forward(&self, mut request: Request<Body>) -> Result<Response> {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let decoded = percent_decode_str(&path).decode_utf8_lossy();
        let (number, mut triggered) = self.record(&format!("{} {decoded}", request.method()));
        *request.uri_mut() = format!("{}{path}", self.endpoint).parse()?;

        let point = triggered.as_ref().map(|triggered| triggered.point.clone());
        if let Some(FreezePoint::DelayRequest(release)) = &point {
            freeze(triggered.take()).await;
            release.notified().await;
        }
        let request = match point {
            Some(FreezePoint::Sending(bytes)) => {
                let triggered = triggered.take();
                request.map(|body| {
                    let pieces = body
                        .into_data_stream()
                        .map(|piece| piece.map_err(io::Error::other));
                    reqwest::Body::wrap_stream(cut(pieces, bytes, async move {
                        freeze(triggered).await;
                    }))
                })
            }
            // A stream of unknown length would be sent in chunks even if empty.
            _ if request.body().is_end_stream() => request.map(|_| reqwest::Body::default()),
            _ => request.map(|body| reqwest::Body::wrap_stream(body.into_data_stream())),
        };
        let reply = self.client.execute(request.try_into()?).await?;
        let status = reply.status();
        let note = |status| {
            if let Some(seen) = lock(&self.requests).get_mut(number) {
                seen.status = Some(status);
            }
        };
        note(status);
        let (mut reply, body) = axum::http::Response::from(reply).into_parts();
        // This header belongs to the connection, not to the reply.
        reply.headers.remove(header::CONNECTION);
        reply.headers.remove(header::TRANSFER_ENCODING);
        match point {
            Some(FreezePoint::AfterReply) => {
                let body = to_bytes(Body::new(body), REPLY_MAX).await.context("the reply")?;
                ensure!(freeze(triggered).await, "the reply is lost");
                Ok(Response::from_parts(reply, Body::from(body)))
            }
            Some(FreezePoint::Receiving(bytes, other, parts)) => {
                let held = async move {
                    // A missing answer shows in the leftovers.
                    let _ = other.wait_answered(parts).await;
                    freeze(triggered).await;
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

async fn freeze(triggered: Option<TriggeredFreeze>) -> bool {
    match triggered {
        Some(triggered) => triggered.freeze().await,
        None => false,
    }
}

/// Passes the first `bytes` of a body, then runs `end` and breaks the connection.
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
