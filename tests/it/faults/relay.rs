//! A proxy before the API server that does to lists and watches what networks, load balancers and lagging API servers do
//! to them: they stand still, break off, lose, repeat, and go back in time. All else passes as it comes. Notes every
//! request that is no watch.

// A test that cannot go on must stop.
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

/// More than any request or reply of a test that is no watch.
const BODY_MAX: usize = 16 << 20;

/// How often a line that is held back is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What is listed and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Exports,
    Secrets,
}

impl Kind {
    /// Of a path without its query.
    fn of(path: &str) -> Option<Self> {
        match path.rsplit('/').next()? {
            "eventexports" => Some(Self::Exports),
            "secrets" => Some(Self::Secrets),
            _ => None,
        }
    }
}

/// A request that is no watch, with its answer.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    /// Without its query.
    pub(crate) path: String,
    /// Null where there is none.
    pub(crate) body: Value,
    pub(crate) status: u16,
}

/// What befalls the lists and watches of one kind.
#[derive(Default)]
pub(crate) struct Rules {
    /// Answers that began up to this number say nothing any more, for good.
    frozen: u64,
    /// Watches say nothing until that ends; nothing is lost.
    pub(crate) held: bool,
    /// So many lists are never answered.
    pub(crate) unanswered: usize,
    /// What the next lists are answered with.
    pub(crate) lists: VecDeque<Value>,
    /// Watches are refused with this status until somebody lists.
    pub(crate) refused: Option<u16>,
    /// So many of the next events are lost.
    pub(crate) lost: usize,
    /// How often each event comes again.
    pub(crate) again: usize,
    /// Statuses that are written stay on their way until that ends.
    pub(crate) writes_held: bool,
    /// How many are on their way so.
    on_their_way: usize,
}

/// What is said to all open watches of a kind.
#[derive(Clone)]
enum Word {
    Line(String),
    Cut,
}

struct Line {
    rules: Mutex<Rules>,
    words: broadcast::Sender<Word>,
    /// Every event that the API server sent.
    heard: Mutex<Vec<Value>>,
}

struct Shared {
    endpoint: String,
    client: reqwest::Client,
    lines: [Line; 2],
    answers: Mutex<u64>,
    noted: Mutex<Vec<Noted>>,
}

/// Serves until dropped, on the runtime of the test that started it.
pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    pub(crate) async fn before(cluster: &Cluster) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let line = || Line {
            rules: Mutex::default(),
            words: broadcast::channel(1024).0,
            heard: Mutex::default(),
        };
        let shared = Arc::new(Shared {
            endpoint: cluster.server_url(),
            client: cluster.http_client()?,
            lines: [line(), line()],
            answers: Mutex::new(0),
            noted: Mutex::default(),
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

    /// For a client of the API server behind it, which knows the relay as a client with all rights.
    pub(crate) fn config(&self) -> Result<kube::Config> {
        Ok(kube::Config::new(
            format!("http://127.0.0.1:{}", self.port).parse()?,
        ))
    }

    /// Changes what befalls that kind from now on.
    pub(crate) fn rule(&self, kind: Kind, change: impl FnOnce(&mut Rules)) {
        change(&mut lock(&self.shared.line(kind).rules));
    }

    /// How many of the next events are still to be lost.
    pub(crate) fn to_lose(&self, kind: Kind) -> usize {
        lock(&self.shared.line(kind).rules).lost
    }

    /// How many statuses are held up on their way.
    pub(crate) fn held_up(&self, kind: Kind) -> usize {
        lock(&self.shared.line(kind).rules).on_their_way
    }

    /// Answers that are under way say nothing any more; their connections stay open.
    pub(crate) fn freeze(&self, kind: Kind) {
        let now = *lock(&self.shared.answers);
        self.rule(kind, |rules| rules.frozen = now);
    }

    /// Breaks all open watches off.
    pub(crate) fn cut(&self, kind: Kind) {
        let _ = self.shared.line(kind).words.send(Word::Cut);
    }

    /// Says something in all open watches.
    pub(crate) fn say(&self, kind: Kind, event: &Value) {
        self.say_text(kind, &event.to_string());
    }

    /// The same, of what need not be an event.
    pub(crate) fn say_text(&self, kind: Kind, text: &str) {
        let _ = self.shared.line(kind).words.send(Word::Line(text.to_owned()));
    }

    /// Says that the API server failed, as it does in the middle of a watch.
    pub(crate) fn say_error(&self, kind: Kind, code: u16) {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "said by the test", "reason": "Expired", "code": code });
        self.say(kind, &json!({ "type": "ERROR", "object": status }));
    }

    /// Every event so far that the API server sent, also where the operator never heard of it.
    pub(crate) fn heard(&self, kind: Kind) -> Vec<Value> {
        lock(&self.shared.line(kind).heard).clone()
    }

    /// Every request so far that is no watch.
    pub(crate) fn noted(&self) -> Vec<Noted> {
        lock(&self.shared.noted).clone()
    }

    /// Requests that change something, but for those about leases.
    pub(crate) fn writes(&self) -> Vec<Noted> {
        let mut noted = self.noted();
        noted.retain(|noted| noted.method != Method::GET && !noted.path.contains("/leases"));
        noted
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    shared
        .forward(request)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("test proxy: {error:#}")).into_response())
}

fn refusal(code: u16) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "refused by the test", "reason": "Expired", "code": code });
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, axum::Json(status)).into_response()
}

impl Shared {
    fn line(&self, kind: Kind) -> &Line {
        let [exports, secrets] = &self.lines;
        match kind {
            Kind::Exports => exports,
            Kind::Secrets => secrets,
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
        let listed = Kind::of(&path).filter(|_| request.method() == Method::GET);
        if let Some(kind) = listed
            && let Some(instead) = self.instead(kind, watches).await
        {
            return Ok(instead);
        }
        let (head, body) = request.into_parts();
        let body = to_bytes(body, BODY_MAX).await?;
        if head.method == Method::PATCH && path.contains("/eventexports/") && path.ends_with("/status") {
            self.hold_up(Kind::Exports).await;
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
        let said = reply.bytes().await?;
        lock(&self.noted).push(Noted {
            at: Instant::now(),
            method: head.method,
            path,
            body: serde_json::from_slice(&body).unwrap_or_default(),
            status: status.as_u16(),
        });
        let mut response = (status, said).into_response();
        if let Some(kind) = kind {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        Ok(response)
    }

    /// While statuses may not arrive.
    async fn hold_up(&self, kind: Kind) {
        let rules = || lock(&self.line(kind).rules);
        rules().on_their_way += 1;
        while rules().writes_held {
            tokio::time::sleep(LOOK).await;
        }
        rules().on_their_way -= 1;
    }

    /// What a list or watch is answered without asking.
    async fn instead(&self, kind: Kind, watches: bool) -> Option<Response> {
        let rules = || lock(&self.line(kind).rules);
        if watches {
            let refused = rules().refused?;
            return Some(refusal(refused));
        }
        let held = {
            let mut rules = rules();
            rules.refused = None;
            let held = rules.unanswered > 0;
            rules.unanswered = rules.unanswered.saturating_sub(1);
            held
        };
        if held {
            // Until the client goes away.
            std::future::pending::<()>().await;
        }
        let list = rules().lists.pop_front()?;
        Some(axum::Json(list).into_response())
    }

    fn watch(self: &Arc<Self>, kind: Kind, serial: u64, reply: reqwest::Response) -> Response {
        let (send, mut pieces) = mpsc::channel::<io::Result<Bytes>>(16);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let words = shared.line(kind).words.subscribe();
            tokio::select! {
                () = shared.carry(kind, serial, reply, words, &send) => {}
                () = send.closed() => {}
            }
        });
        let body = Body::from_stream(stream::poll_fn(move |context| pieces.poll_recv(context)));
        let mut response = Response::new(body);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }

    /// Carries the lines of a watch to its end.
    async fn carry(
        &self,
        kind: Kind,
        serial: u64,
        reply: reqwest::Response,
        mut words: broadcast::Receiver<Word>,
        send: &mpsc::Sender<io::Result<Bytes>>,
    ) {
        let line = self.line(kind);
        let mut source = reply.bytes_stream();
        let mut rest = Vec::new();
        loop {
            let piece = tokio::select! {
                piece = source.next() => piece,
                word = words.recv() => {
                    self.wait(kind, serial).await;
                    match word {
                        Ok(Word::Line(text)) => pass(send, &text).await,
                        Ok(Word::Cut) => {
                            let _ = send.send(Err(io::Error::other("cut by the test"))).await;
                            return;
                        }
                        Err(_) => {}
                    }
                    continue;
                }
            };
            let Some(Ok(piece)) = piece else {
                self.wait(kind, serial).await;
                return;
            };
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = rest.drain(..=end).collect();
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                let event: Value = serde_json::from_str(&text).unwrap_or_default();
                let is_event = event["type"] != "BOOKMARK";
                if is_event {
                    lock(&line.heard).push(event);
                }
                self.wait(kind, serial).await;
                let times = {
                    let mut rules = lock(&line.rules);
                    let lost = is_event && rules.lost > 0;
                    rules.lost -= usize::from(lost);
                    if lost { 0 } else { 1 + rules.again }
                };
                for _ in 0..times {
                    pass(send, &text).await;
                }
            }
        }
    }

    /// While nothing may be said; for ever, where it stands still.
    async fn wait(&self, kind: Kind, serial: u64) {
        loop {
            {
                let rules = lock(&self.line(kind).rules);
                if serial > rules.frozen && !rules.held {
                    return;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn pass(send: &mpsc::Sender<io::Result<Bytes>>, text: &str) {
    let _ = send.send(Ok(Bytes::from(format!("{text}\n")))).await;
}

/// A list of that kind as the API server has it now, to be shown again later.
pub(crate) async fn list(cluster: &Cluster, namespace: &str) -> Result<Value> {
    let path = format!("/apis/eventexport.io/v1alpha1/namespaces/{namespace}/eventexports");
    let url = format!("{}{path}", cluster.server_url());
    let text = cluster.http_client()?.get(url).send().await?.text().await?;
    serde_json::from_str(&text).context("a list of EventExports")
}
