//! Rules of a fault proxy: which requests they hit, and what happens to these. All proxies of one program share them,
//! with the list of its requests. No I/O except signals to the program.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::sync::{broadcast, oneshot};

use super::replies::ErrorStatus;
use crate::testkit::process::Process;

/// Maximum time a truncated reply is held until the program has made the awaited request.
const HOLD_MAX: Duration = Duration::from_mins(1);

/// Interval at which a held request or reply is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum recorded requests; later ones are only counted.
const REQUESTS_MAX: usize = 200_000;

/// Peer behind a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ProxiedPeer {
    /// Kubernetes API server.
    ApiServer,
    /// Activity Tracker.
    Tracker,
    /// UAA, which issues tokens.
    Uaa,
    /// Object store.
    Store,
}

impl fmt::Display for ProxiedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiServer => "API server",
            Self::Tracker => "tracker",
            Self::Uaa => "UAA",
            Self::Store => "store",
        })
    }
}

/// Recorded request.
#[derive(Clone, Debug)]
pub(crate) struct RecordedRequest {
    pub(crate) peer: ProxiedPeer,
    /// `METHOD /path?query`, percent-decoded.
    pub(crate) line: String,
    pub(crate) at: Instant,
    /// Process that sent it; `None` if it is not a watched one.
    pub(crate) process: Option<u32>,
    /// `name: value` of each header, one per line.
    pub(crate) headers: String,
    /// Body of a request to the API server; null if there is none.
    pub(crate) body: Value,
    /// Status of the peer's reply, even if the program never got it.
    pub(crate) status: Option<StatusCode>,
    /// Bytes of the reply's body that passed.
    pub(crate) reply_bytes: u64,
    /// Name of the rule that hit it.
    pub(crate) rule: Option<String>,
}

impl RecordedRequest {
    pub(crate) fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.is_success())
    }

    /// True if the line contains all parts.
    pub(crate) fn contains(&self, parts: &[&str]) -> bool {
        parts.iter().all(|part| self.line.contains(part))
    }

    pub(crate) fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// Path without its query.
    pub(crate) fn path(&self) -> &str {
        let path = self.line.split(' ').nth(1).unwrap_or_default();
        path.split('?').next().unwrap_or_default()
    }
}

/// Method, path and query, as in [`RecordedRequest`].
pub(crate) fn request_line(method: &Method, path: &str) -> String {
    format!("{method} {}", percent_decode_str(path).decode_utf8_lossy())
}

/// True for a request by its peer, line and headers.
pub(crate) type RequestPredicate = Arc<dyn Fn(ProxiedPeer, &str, &HeaderMap) -> bool + Send + Sync>;

/// Requests that a rule hits.
#[derive(Clone)]
pub(crate) enum RequestMatcher {
    /// All requests of all peers.
    Any,
    /// All requests of these peers.
    Peers(Vec<ProxiedPeer>),
    /// Requests of that peer with all these parts in their line.
    LineContains(ProxiedPeer, Vec<&'static str>),
    /// Requests for which this is true of peer, line and headers.
    When(RequestPredicate),
}

impl RequestMatcher {
    pub(crate) fn when(
        holds: impl Fn(ProxiedPeer, &str, &HeaderMap) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::When(Arc::new(holds))
    }

    fn matches(&self, peer: ProxiedPeer, line: &str, headers: &HeaderMap) -> bool {
        match self {
            Self::Any => true,
            Self::Peers(peers) => peers.contains(&peer),
            Self::LineContains(of, parts) => *of == peer && parts.iter().all(|part| line.contains(part)),
            Self::When(holds) => holds(peer, line, headers),
        }
    }
}

/// Returns a new request for one.
pub(crate) type RequestRewriter = Arc<dyn Fn(Request<Bytes>) -> Result<Request<Bytes>> + Send + Sync>;

/// Returns the lines to send for one line of a reply.
pub(crate) type LineRewriter = Arc<dyn Fn(String) -> Vec<String> + Send + Sync>;

/// Fault of a request, in the order of its way.
#[derive(Clone)]
pub(crate) enum Action {
    /// Breaks the connection before the peer gets the request.
    DropRequest,
    /// Never answers; the peer does not get the request.
    HangRequest,
    /// Delays the request until the gate opens.
    HoldRequest(Arc<Gate>),
    /// An intermediary replies; the peer does not get the request.
    ErrorReply(ErrorStatus),
    /// Replies with that document; the peer does not get the request.
    JsonReply(Value),
    RewriteRequest(RequestRewriter),
    /// The peer gets this many bytes of the body.
    CutRequest(usize),
    /// The peer acts; its reply passes when it is complete.
    Pass,
    /// The peer acts; breaks the connection before the first byte of the reply.
    LoseReply,
    /// The peer acts; an intermediary replies.
    ReplaceReply(ErrorStatus),
    /// The peer acts; delays the reply until the client gives up.
    HangReply,
    /// The program gets this many bytes of the reply, and the store has since answered a request with these parts
    /// in its line; then the connection breaks.
    CutReply(usize, &'static [&'static str]),
    /// The program gets this many bytes of the reply; the connection stays open.
    HangReplyAfter(usize),
    /// Breaks the connection in the middle of the reply's body.
    HalveReply,
    /// Sends the reply's body in small pieces with pauses.
    TrickleReply,
    RewriteLines(LineRewriter),
    /// Holds replies back as long as the rule is armed: from their first byte, or only bodies.
    HoldReplies {
        from: Held,
    },
}

/// Part of replies that [`Action::HoldReplies`] holds back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Everything,
    Bodies,
    /// Bodies of the replies that were in progress when the rule was armed.
    OpenBodies(usize),
}

/// Gate for held requests, closed at first.
#[derive(Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    waiting: AtomicUsize,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Number of held requests.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) async fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while !self.open.load(Ordering::SeqCst) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Signal to the program at the moment of the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TargetSignal {
    Kill,
    Freeze,
}

/// Rule: its requests, counted since it was armed, and what happens to them.
#[derive(Clone)]
pub(crate) struct Rule {
    name: String,
    matcher: RequestMatcher,
    nth: usize,
    times: usize,
    per_mille: u32,
    action: Action,
    signal: Option<(TargetSignal, Option<Arc<Process>>)>,
}

impl Rule {
    /// Returns a rule for the first such request.
    pub(crate) fn new(matcher: RequestMatcher, action: Action) -> Self {
        Self {
            name: "fault".to_owned(),
            matcher,
            nth: 1,
            times: 1,
            per_mille: 1000,
            action,
            signal: None,
        }
    }

    /// Names it in logs and reports.
    pub(crate) fn named(mut self, name: &impl ToString) -> Self {
        self.name = name.to_string();
        self
    }

    /// Hits the `nth` request that matches, from 1.
    pub(crate) fn nth(mut self, nth: usize) -> Self {
        self.nth = nth;
        self
    }

    /// Hits this many requests.
    pub(crate) fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Hits that part of the requests, at random.
    pub(crate) fn per_mille(mut self, per_mille: u32) -> Self {
        self.per_mille = per_mille;
        self
    }

    /// Kills the target at that moment.
    pub(crate) fn kill(mut self) -> Self {
        self.signal = Some((TargetSignal::Kill, None));
        self
    }

    /// Freezes that process at that moment; it gets the reply after it resumes.
    pub(crate) fn freeze(mut self, process: &Arc<Process>) -> Self {
        self.signal = Some((TargetSignal::Freeze, Some(Arc::clone(process))));
        self
    }
}

/// Reports the rule and its first request when it hit, and after the death of a killed program.
pub(crate) type InjectionReceiver = oneshot::Receiver<Result<String>>;

struct ArmedRule {
    rule: Rule,
    matched: usize,
    left: usize,
    sender: Option<oneshot::Sender<Result<String>>>,
    hits: Arc<AtomicUsize>,
    lifted: Arc<AtomicBool>,
    /// Rules to arm after the last hit of this one.
    next: VecDeque<ArmedRule>,
}

impl ArmedRule {
    fn new(rule: Rule) -> (Self, InjectionReceiver) {
        let (sender, receiver) = oneshot::channel();
        let armed = Self {
            left: rule.times,
            rule,
            matched: 0,
            sender: Some(sender),
            hits: Arc::default(),
            lifted: Arc::default(),
            next: VecDeque::new(),
        };
        (armed, receiver)
    }

    /// True if it applies to requests on their way, not to open replies.
    fn is_triggered(&self) -> bool {
        !matches!(self.rule.action, Action::HoldReplies { .. }) && !self.lifted.load(Ordering::SeqCst)
    }
}

/// Rule that stays armed until this is dropped.
pub(crate) struct KeptRule {
    hits: Arc<AtomicUsize>,
    lifted: Arc<AtomicBool>,
}

impl KeptRule {
    /// Number of requests that it hit.
    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

impl Drop for KeptRule {
    fn drop(&mut self) {
        self.lifted.store(true, Ordering::SeqCst);
    }
}

/// Rule that hits a request now.
pub(super) struct TriggeredRule {
    pub(super) action: Action,
    name: String,
    line: String,
    signal: Option<(TargetSignal, Option<Arc<Process>>)>,
    sender: Option<oneshot::Sender<Result<String>>>,
}

impl TriggeredRule {
    /// Sends the signal and reports it. Runs in its own task, because the program's death ends the connection and the
    /// task that serves it.
    pub(super) async fn inject(self) {
        let task = tokio::spawn(async move {
            let sent = match &self.signal {
                None => Ok(()),
                Some((TargetSignal::Kill, Some(target))) => target.kill().await,
                Some((TargetSignal::Freeze, Some(target))) => target.signal("-STOP").await,
                Some((_, None)) => Err(anyhow::anyhow!("there is no program to kill")),
            };
            if let Some(sender) = self.sender {
                let _ = sender.send(sent.map(|()| format!("{} {}", self.name, self.line)));
            }
        });
        let _ = task.await;
    }
}

/// Interruption of the open replies to matching requests.
#[derive(Clone)]
pub(super) struct Interruption {
    matcher: RequestMatcher,
    pub(super) text: Option<String>,
}

impl Interruption {
    pub(super) fn concerns(&self, peer: ProxiedPeer, line: &str) -> bool {
        self.matcher.matches(peer, line, &HeaderMap::new())
    }
}

/// State that all proxies of one program share.
pub(crate) struct Rules {
    requests: Mutex<(usize, Vec<RecordedRequest>)>,
    armed: Mutex<Vec<ArmedRule>>,
    target: Mutex<Option<Arc<Process>>>,
    secrets: Mutex<BTreeSet<String>>,
    watched: Mutex<Vec<u32>>,
    pub(super) interruptions: broadcast::Sender<Interruption>,
}

impl Rules {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            requests: Mutex::default(),
            armed: Mutex::default(),
            target: Mutex::default(),
            secrets: Mutex::default(),
            watched: Mutex::default(),
            interruptions: broadcast::channel(1024).0,
        })
    }

    /// Sets the process that rules kill from now on.
    pub(crate) fn set_target(&self, target: &Arc<Process>) {
        *lock(&self.target) = Some(Arc::clone(target));
    }

    /// Identifies the requests of this process from now on.
    pub(crate) fn watch(&self, process: u32) {
        lock(&self.watched).push(process);
    }

    pub(super) fn watched(&self) -> Vec<u32> {
        lock(&self.watched).clone()
    }

    /// Arms a rule. Several may be armed; the last one that hits a request wins.
    pub(crate) fn arm(&self, rule: Rule) -> InjectionReceiver {
        let (armed, receiver) = ArmedRule::new(rule);
        lock(&self.armed).push(armed);
        receiver
    }

    /// Arms rules in sequence: each after the last hit of the previous one.
    pub(crate) fn arm_sequence(&self, rules: Vec<Rule>) -> Vec<InjectionReceiver> {
        let (mut queue, receivers): (VecDeque<_>, Vec<_>) = rules.into_iter().map(ArmedRule::new).unzip();
        if let Some(mut first) = queue.pop_front() {
            first.next = queue;
            lock(&self.armed).push(first);
        }
        receivers
    }

    /// Arms a rule for all requests from its `nth` on, until the result is dropped.
    pub(crate) fn keep(&self, rule: Rule) -> KeptRule {
        let (mut armed, _) = ArmedRule::new(rule);
        armed.left = usize::MAX;
        let kept = KeptRule {
            hits: Arc::clone(&armed.hits),
            lifted: Arc::clone(&armed.lifted),
        };
        lock(&self.armed).push(armed);
        kept
    }

    /// Holds all replies back until the result is dropped.
    pub(crate) fn hold_replies(&self) -> KeptRule {
        let from = Held::Everything;
        self.keep(Rule::new(RequestMatcher::Any, Action::HoldReplies { from }))
    }

    /// Stops all traffic for good; connections stay open.
    pub(crate) fn stop_traffic(&self) -> [KeptRule; 2] {
        let requests = Action::HoldRequest(Arc::default());
        [
            self.hold_replies(),
            self.keep(Rule::new(RequestMatcher::Any, requests)),
        ]
    }

    /// Holds the bodies of these replies back until the result is dropped; only those in progress if `open`.
    pub(crate) fn hold_bodies(&self, matcher: RequestMatcher, open: bool) -> KeptRule {
        let from = if open {
            Held::OpenBodies(self.count())
        } else {
            Held::Bodies
        };
        self.keep(Rule::new(matcher, Action::HoldReplies { from }))
    }

    /// Sends a line of text to all open replies to these requests.
    pub(crate) fn send_line(&self, matcher: RequestMatcher, text: &str) {
        let text = Some(format!("{text}\n"));
        let _ = self.interruptions.send(Interruption { matcher, text });
    }

    /// Breaks all open replies to these requests.
    pub(crate) fn break_replies(&self, matcher: RequestMatcher) {
        let _ = self.interruptions.send(Interruption { matcher, text: None });
    }

    /// Adds a value that must not appear in a log.
    pub(super) fn add_secret(&self, secret: &str) {
        lock(&self.secrets).insert(secret.to_owned());
    }

    /// Returns the tokens that passed through the proxies.
    pub(crate) fn secrets(&self) -> BTreeSet<String> {
        lock(&self.secrets).clone()
    }

    /// Returns all requests so far, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        lock(&self.requests).1.clone()
    }

    /// Number of requests so far.
    pub(crate) fn count(&self) -> usize {
        lock(&self.requests).0
    }

    /// Returns all requests to that peer so far.
    pub(crate) fn requests_to(&self, peer: ProxiedPeer) -> Vec<RecordedRequest> {
        self.filtered(|seen| seen.peer == peer)
    }

    pub(crate) fn requests_from(&self, process: u32) -> Vec<RecordedRequest> {
        self.filtered(|seen| seen.process == Some(process))
    }

    fn filtered(&self, wanted: impl Fn(&RecordedRequest) -> bool) -> Vec<RecordedRequest> {
        let requests = lock(&self.requests);
        requests.1.iter().filter(|seen| wanted(seen)).cloned().collect()
    }

    /// Waits until the store answers a request with these parts in its line.
    pub(super) async fn wait_answered(&self, parts: &[&str]) -> Result<()> {
        let start = Instant::now();
        let is_it = |seen: &RecordedRequest| {
            seen.peer == ProxiedPeer::Store && seen.contains(parts) && seen.succeeded()
        };
        while !parts.is_empty() && self.filtered(is_it).is_empty() {
            ensure!(start.elapsed() < HOLD_MAX, "no answer to {parts:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Records a request; returns its number and the rule that hits it.
    pub(super) fn record(
        &self,
        mut request: RecordedRequest,
        headers: &HeaderMap,
    ) -> (usize, Option<TriggeredRule>) {
        // Locks are taken in this order only: numbers and rules belong together.
        let mut requests = lock(&self.requests);
        let mut armed = lock(&self.armed);
        armed.retain(|one| !one.lifted.load(Ordering::SeqCst));
        let mut now = None;
        for (place, one) in armed.iter_mut().enumerate().filter(|(_, one)| one.is_triggered()) {
            if !one.rule.matcher.matches(request.peer, &request.line, headers) {
                continue;
            }
            one.matched += 1;
            let due = one.matched >= one.rule.nth
                && (one.rule.per_mille >= 1000 || rand::random_range(0..1000) < one.rule.per_mille);
            if due {
                now = Some(place);
            }
        }
        let triggered = now.and_then(|place| {
            let one = armed.get_mut(place)?;
            one.hits.fetch_add(1, Ordering::SeqCst);
            one.left -= 1;
            let signal = one.rule.signal.clone();
            let triggered = TriggeredRule {
                action: one.rule.action.clone(),
                name: one.rule.name.clone(),
                line: request.line.clone(),
                signal: signal
                    .map(|(signal, target)| (signal, target.or_else(|| lock(&self.target).clone()))),
                sender: one.sender.take(),
            };
            if one.left == 0 {
                let mut one = armed.remove(place);
                if let Some(mut next) = one.next.pop_front() {
                    next.next = one.next;
                    armed.push(next);
                }
            }
            Some(triggered)
        });
        request.rule = triggered.as_ref().map(|triggered| triggered.name.clone());
        let number = requests.0;
        requests.0 += 1;
        if number < REQUESTS_MAX {
            requests.1.push(request);
        }
        (number, triggered)
    }

    /// Adds later information to a request.
    pub(super) fn update(&self, number: usize, learn: impl FnOnce(&mut RecordedRequest)) {
        if let Some(seen) = lock(&self.requests).1.get_mut(number) {
            learn(seen);
        }
    }

    /// Waits while the reply to that request is held back.
    pub(super) async fn wait_released(&self, peer: ProxiedPeer, line: &str, number: usize, body: bool) {
        let holds = |one: &ArmedRule| match one.rule.action {
            Action::HoldReplies { from } => {
                let part = match from {
                    Held::Everything => true,
                    Held::Bodies => body,
                    Held::OpenBodies(end) => body && number < end,
                };
                part && !one.lifted.load(Ordering::SeqCst)
                    && one.rule.matcher.matches(peer, line, &HeaderMap::new())
            }
            _ => false,
        };
        while lock(&self.armed).iter().any(holds) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Waits for the request of an armed rule.
pub(crate) async fn wait_injected(limit: Duration, receiver: InjectionReceiver) -> Result<String> {
    let receiver = tokio::time::timeout(limit, receiver).await;
    receiver.context("the request never came")??
}

/// Returns a reply with that document.
pub(super) fn json_reply(document: &Value) -> Response<Body> {
    use axum::response::IntoResponse as _;
    axum::Json(document).into_response()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
