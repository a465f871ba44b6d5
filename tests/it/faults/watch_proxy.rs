//! Proxy before the API server with the faults of networks, load balancers and lagging servers for lists and watches:
//! they stall, break, lose and repeat events, and return stale data. Everything else passes unchanged. Records all
//! requests except watches.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::bed::Cluster;

/// Larger than any request or reply of a test except watches.
const BODY_MAX: usize = 16 << 20;

/// Interval at which a held line is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Listed and watched kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchedKind {
    Exports,
    Secrets,
}

impl WatchedKind {
    /// Finds the kind of a path without its query.
    fn from_path(path: &str) -> Option<Self> {
        match path.rsplit('/').next()? {
            "eventexports" => Some(Self::Exports),
            "secrets" => Some(Self::Secrets),
            _ => None,
        }
    }
}

/// Request other than a watch, with its reply.
#[derive(Clone, Debug)]
pub(crate) struct ApiRequest {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    /// Path without its query.
    pub(crate) path: String,
    /// Null if there is none.
    pub(crate) body: Value,
    pub(crate) status: u16,
}

/// Faults of the lists and watches of one kind.
#[derive(Default)]
pub(crate) struct WatchRules {
    /// Replies with a number up to this one are frozen permanently.
    frozen_through: u64,
    /// Watches are paused; nothing is lost.
    pub(crate) paused: bool,
    /// Number of lists that are never answered.
    pub(crate) unanswered_lists: usize,
    /// Replies to the next lists.
    pub(crate) canned_lists: VecDeque<Value>,
    /// Watches fail with this status until the next list.
    pub(crate) watch_error: Option<u16>,
    /// Number of events to lose.
    pub(crate) events_to_drop: usize,
    /// Number of extra copies of each event.
    pub(crate) duplicates: usize,
    /// Status writes are held until this ends.
    pub(crate) hold_status_writes: bool,
    /// Number of held status writes.
    status_writes_in_flight: usize,
}

/// Text sent to all open watches of a kind.
#[derive(Clone)]
enum WatchCommand {
    Text(String),
    Disconnect,
}

struct WatchChannel {
    rules: Mutex<WatchRules>,
    commands: broadcast::Sender<WatchCommand>,
    /// All events that the API server sent.
    received_events: Mutex<Vec<Value>>,
}

struct WatchProxyState {
    endpoint: String,
    client: reqwest::Client,
    lines: [WatchChannel; 2],
    answers: Mutex<u64>,
    requests: Mutex<Vec<ApiRequest>>,
}

/// Serves until dropped, on the runtime of the test that started it.
pub(crate) struct WatchProxy {
    port: u16,
    shared: Arc<WatchProxyState>,
    _serving: AbortOnDropHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WatchProxy {
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let line = || WatchChannel {
            rules: Mutex::default(),
            commands: broadcast::channel(1024).0,
            received_events: Mutex::default(),
        };
        let shared = Arc::new(WatchProxyState {
            endpoint: cluster.server_url(),
            client: cluster.http_client()?,
            lines: [line(), line()],
            answers: Mutex::new(0),
            requests: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            port,
            shared,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Returns the config of a client that uses the proxy, which has all rights.
    pub(crate) fn config(&self) -> Result<kube::Config> {
        Ok(kube::Config::new(
            format!("http://127.0.0.1:{}", self.port).parse()?,
        ))
    }

    /// Changes the faults of that kind.
    pub(crate) fn update_rules(&self, kind: WatchedKind, change: impl FnOnce(&mut WatchRules)) {
        change(&mut lock(&self.shared.line(kind).rules));
    }

    /// Returns the number of events that are still to be lost.
    pub(crate) fn events_to_drop(&self, kind: WatchedKind) -> usize {
        lock(&self.shared.line(kind).rules).events_to_drop
    }

    /// Returns the number of held status writes.
    pub(crate) fn held_status_writes(&self, kind: WatchedKind) -> usize {
        lock(&self.shared.line(kind).rules).status_writes_in_flight
    }

    /// Freezes the replies in progress; their connections stay open.
    pub(crate) fn freeze(&self, kind: WatchedKind) {
        let now = *lock(&self.shared.answers);
        self.update_rules(kind, |rules| rules.frozen_through = now);
    }

    /// Breaks all open watches.
    pub(crate) fn cut(&self, kind: WatchedKind) {
        let _ = self.shared.line(kind).commands.send(WatchCommand::Disconnect);
    }

    /// Sends an event to all open watches.
    pub(crate) fn send_event(&self, kind: WatchedKind, event: &Value) {
        self.send_text(kind, &event.to_string());
    }

    /// Sends any text to all open watches.
    pub(crate) fn send_text(&self, kind: WatchedKind, text: &str) {
        let _ = self
            .shared
            .line(kind)
            .commands
            .send(WatchCommand::Text(text.to_owned()));
    }

    /// Sends an error Status, as the API server does in the middle of a watch.
    pub(crate) fn send_error(&self, kind: WatchedKind, code: u16) {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "sent by the test", "reason": "Expired", "code": code });
        self.send_event(kind, &json!({ "type": "ERROR", "object": status }));
    }

    /// Returns all events that the API server sent, even those that the operator never got.
    pub(crate) fn received_events(&self, kind: WatchedKind) -> Vec<Value> {
        lock(&self.shared.line(kind).received_events).clone()
    }

    /// Returns all requests so far, except watches.
    pub(crate) fn requests(&self) -> Vec<ApiRequest> {
        lock(&self.shared.requests).clone()
    }

    /// Returns the requests that change something, except leases.
    pub(crate) fn writes(&self) -> Vec<ApiRequest> {
        let mut noted = self.requests();
        noted.retain(|noted| noted.method != Method::GET && !noted.path.contains("/leases"));
        noted
    }
}

async fn answer(State(shared): State<Arc<WatchProxyState>>, request: Request<Body>) -> Response {
    shared
        .forward(request)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("test proxy: {error:#}")).into_response())
}

fn error_response(code: u16) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "refused by the test", "reason": "Expired", "code": code });
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, axum::Json(status)).into_response()
}

impl WatchProxyState {
    fn line(&self, kind: WatchedKind) -> &WatchChannel {
        let [exports, secrets] = &self.lines;
        match kind {
            WatchedKind::Exports => exports,
            WatchedKind::Secrets => secrets,
        }
    }

    async fn forward(self: &Arc<Self>, request: Request<Body>) -> Result<Response> {
        let serial = {
            let mut answers = lock(&self.answers);
            *answers += 1;
            *answers
        };
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let watches = query.contains("watch=true") || query.contains("watch=1");
        let listed = WatchedKind::from_path(&path).filter(|_| request.method() == Method::GET);
        if let Some(kind) = listed
            && let Some(instead) = self.canned_response(kind, watches).await
        {
            return Ok(instead);
        }
        let (head, body) = request.into_parts();
        let body = to_bytes(body, BODY_MAX).await?;
        if head.method == Method::PATCH && path.contains("/eventexports/") && path.ends_with("/status") {
            self.hold_status_write(WatchedKind::Exports).await;
        }
        let url = match query.as_str() {
            "" => format!("{}{path}", self.endpoint),
            query => format!("{}{path}?{query}", self.endpoint),
        };
        let mut asked = self.client.request(head.method.clone(), url).body(body.clone());
        for name in [header::CONTENT_TYPE, header::ACCEPT] {
            if let Some(value) = head.headers.get(&name) {
                asked = asked.header(name, value);
            }
        }
        let reply = asked.send().await?;
        let status = reply.status();
        if let Some(kind) = listed.filter(|_| watches && status.is_success()) {
            return Ok(self.watch(kind, serial, reply));
        }
        let kind = reply.headers().get(header::CONTENT_TYPE).cloned();
        let reply_body = reply.bytes().await?;
        lock(&self.requests).push(ApiRequest {
            at: Instant::now(),
            method: head.method,
            path,
            body: serde_json::from_slice(&body).unwrap_or_default(),
            status: status.as_u16(),
        });
        let mut response = (status, reply_body).into_response();
        if let Some(kind) = kind {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        Ok(response)
    }

    /// Waits while status writes are held.
    async fn hold_status_write(&self, kind: WatchedKind) {
        let rules = || lock(&self.line(kind).rules);
        rules().status_writes_in_flight += 1;
        while rules().hold_status_writes {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        rules().status_writes_in_flight -= 1;
    }

    /// Returns the reply to a list or watch that is not forwarded.
    async fn canned_response(&self, kind: WatchedKind, watches: bool) -> Option<Response> {
        let rules = || lock(&self.line(kind).rules);
        if watches {
            let refused = rules().watch_error?;
            return Some(error_response(refused));
        }
        let held = {
            let mut rules = rules();
            rules.watch_error = None;
            let held = rules.unanswered_lists > 0;
            rules.unanswered_lists = rules.unanswered_lists.saturating_sub(1);
            held
        };
        if held {
            // Waits until the client disconnects.
            std::future::pending::<()>().await;
        }
        let list = rules().canned_lists.pop_front()?;
        Some(axum::Json(list).into_response())
    }

    fn watch(self: &Arc<Self>, kind: WatchedKind, serial: u64, reply: reqwest::Response) -> Response {
        let (send, mut pieces) = mpsc::channel::<io::Result<Bytes>>(16);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let commands = shared.line(kind).commands.subscribe();
            tokio::select! {
                () = shared.carry(kind, serial, reply, commands, &send) => {}
                () = send.closed() => {}
            }
        });
        let body = Body::from_stream(stream::poll_fn(move |context| pieces.poll_recv(context)));
        let mut response = Response::new(body);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }

    /// Forwards the lines of a watch.
    async fn carry(
        &self,
        kind: WatchedKind,
        serial: u64,
        reply: reqwest::Response,
        mut commands: broadcast::Receiver<WatchCommand>,
        send: &mpsc::Sender<io::Result<Bytes>>,
    ) {
        let line = self.line(kind);
        let mut source = reply.bytes_stream();
        let mut rest = Vec::new();
        loop {
            let piece = tokio::select! {
                piece = source.next() => piece,
                word = commands.recv() => {
                    self.wait_unfrozen(kind, serial).await;
                    match word {
                        Ok(WatchCommand::Text(text)) => send_line(send, &text).await,
                        Ok(WatchCommand::Disconnect) => {
                            let _ = send.send(Err(io::Error::other("cut by the test"))).await;
                            return;
                        }
                        Err(_) => {}
                    }
                    continue;
                }
            };
            let Some(Ok(piece)) = piece else {
                self.wait_unfrozen(kind, serial).await;
                return;
            };
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = rest.drain(..=end).collect();
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                let event: Value = serde_json::from_str(&text).unwrap_or_default();
                let is_event = event["type"] != "BOOKMARK";
                if is_event {
                    lock(&line.received_events).push(event);
                }
                self.wait_unfrozen(kind, serial).await;
                let times = {
                    let mut rules = lock(&line.rules);
                    let lost = is_event && rules.events_to_drop > 0;
                    rules.events_to_drop -= usize::from(lost);
                    if lost { 0 } else { 1 + rules.duplicates }
                };
                for _ in 0..times {
                    send_line(send, &text).await;
                }
            }
        }
    }

    /// Waits while the watch is paused, or forever if frozen.
    async fn wait_unfrozen(&self, kind: WatchedKind, serial: u64) {
        loop {
            {
                let rules = lock(&self.line(kind).rules);
                if serial > rules.frozen_through && !rules.paused {
                    return;
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

async fn send_line(send: &mpsc::Sender<io::Result<Bytes>>, text: &str) {
    let _ = send.send(Ok(Bytes::from(format!("{text}\n")))).await;
}

/// Returns the current list of that kind, for later replay.
pub(crate) async fn list_exports(cluster: &Cluster, namespace: &str) -> Result<Value> {
    let path = format!("/apis/eventexport.io/v1alpha1/namespaces/{namespace}/eventexports");
    let url = format!("{}{path}", cluster.server_url());
    let text = cluster.http_client()?.get(url).send().await?.text().await?;
    serde_json::from_str(&text).context("a list of EventExports")
}
