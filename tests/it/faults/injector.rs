//! State that all proxies of one operator share: the list of requests and the armed faults. No I/O except killing the
//! operator.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::fault::InjectedFault;
use super::request::{ProxiedPeer, RecordedRequest, RequestKey};

/// Maximum time a truncated reply is held until the operator has made the awaited request.
const HOLD_MAX: Duration = Duration::from_mins(1);

/// Process to kill.
pub(crate) struct TargetProcess(tokio::sync::Mutex<Child>);

impl TargetProcess {
    pub(crate) fn new(child: Child) -> Arc<Self> {
        Arc::new(Self(tokio::sync::Mutex::new(child)))
    }

    /// Sends SIGKILL and returns when the process is gone.
    pub(crate) async fn kill(&self) -> Result<()> {
        let mut child = self.0.lock().await;
        ensure!(child.try_wait()?.is_none(), "it ended by itself before");
        child.start_kill()?;
        let ended = child.wait().await?;
        ensure!(ended.signal() == Some(9), "it ended by itself: {ended}");
        Ok(())
    }

    /// Sends SIGTERM. Returns true if it exits successfully within `limit`; otherwise kills it.
    pub(crate) async fn stop(&self, limit: Duration) -> Result<bool> {
        let mut child = self.0.lock().await;
        let Some(id) = child.id() else { return Ok(false) };
        let status = Command::new("kill").arg(id.to_string()).status().await?;
        ensure!(status.success(), "kill: {status}");
        if let Ok(ended) = tokio::time::timeout(limit, child.wait()).await {
            return Ok(ended?.success());
        }
        child.kill().await?;
        Ok(false)
    }

    /// True if it still runs.
    pub(crate) async fn is_running(&self) -> Result<bool> {
        Ok(self.0.lock().await.try_wait()?.is_none())
    }
}

/// Requests that count.
#[derive(Clone, Debug)]
pub(crate) enum RequestMatcher {
    /// All requests of all peers.
    Any,
    /// All requests of these peers.
    Peers(Vec<ProxiedPeer>),
    /// Requests of that peer with all these parts in their line.
    LineContains(ProxiedPeer, Vec<&'static str>),
    /// Requests with that key.
    Key(RequestKey),
}

impl RequestMatcher {
    fn matches(&self, peer: ProxiedPeer, line: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Peers(peers) => peers.contains(&peer),
            Self::LineContains(of, parts) => *of == peer && parts.iter().all(|part| line.contains(part)),
            Self::Key(request) => request.peer == peer && *request == RequestKey::new(peer, line),
        }
    }
}

/// Fault and its request: the `nth` matching one, from 1, counted since it was armed.
#[derive(Clone, Debug)]
pub(crate) struct FaultPlan {
    pub(crate) matcher: RequestMatcher,
    pub(crate) nth: usize,
    pub(crate) fault: InjectedFault,
}

/// Reports the fault and its request after injection, and after the death of a killed operator.
pub(crate) type InjectionReceiver = oneshot::Receiver<Result<String>>;

struct ArmedFault {
    plan: FaultPlan,
    matched: usize,
    sender: oneshot::Sender<Result<String>>,
    /// Faults to arm after this one is injected.
    next: VecDeque<ArmedFault>,
}

/// Fault that is injected now.
pub(super) struct TriggeredFault {
    pub(super) fault: InjectedFault,
    line: String,
    target: Option<Arc<TargetProcess>>,
    sender: oneshot::Sender<Result<String>>,
}

impl TriggeredFault {
    /// Kills the operator if the fault does, and reports it. Runs in its own task, because the operator's death ends
    /// the connection and the task that serves it.
    pub(super) async fn inject(self) {
        let task = tokio::spawn(async move {
            let killed = match self.target {
                _ if !self.fault.kills() => Ok(()),
                Some(target) => target.kill().await,
                None => Err(anyhow::anyhow!("there is no operator to kill")),
            };
            let _ = self
                .sender
                .send(killed.map(|()| format!("{} {}", self.fault, self.line)));
        });
        let _ = task.await;
    }
}

/// State that all proxies of one operator share.
#[derive(Default)]
pub(crate) struct FaultInjector {
    requests: Mutex<Vec<RecordedRequest>>,
    armed: Mutex<Vec<ArmedFault>>,
    target: Mutex<Option<Arc<TargetProcess>>>,
    secrets: Mutex<BTreeSet<String>>,
}

impl FaultInjector {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Sets the process that faults kill from now on.
    pub(crate) fn set_target(&self, target: &Arc<TargetProcess>) {
        *lock(&self.target) = Some(Arc::clone(target));
    }

    /// Arms a fault. Several may be armed; each hits one request, and the first armed one wins.
    pub(crate) fn arm(&self, plan: FaultPlan) -> InjectionReceiver {
        let (armed, receiver) = arm_fault(plan);
        lock(&self.armed).push(armed);
        receiver
    }

    /// Arms faults in sequence: each when the previous one is injected.
    pub(crate) fn arm_sequence(&self, plans: Vec<FaultPlan>) -> Vec<InjectionReceiver> {
        let (mut queue, receiver): (VecDeque<_>, Vec<_>) = plans.into_iter().map(arm_fault).unzip();
        if let Some(mut first) = queue.pop_front() {
            first.next = queue;
            lock(&self.armed).push(first);
        }
        receiver
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
        lock(&self.requests).clone()
    }

    /// Returns all requests to that peer so far.
    pub(crate) fn requests_to(&self, peer: ProxiedPeer) -> Vec<RecordedRequest> {
        let mut seen = self.requests();
        seen.retain(|seen| seen.peer == peer);
        seen
    }

    /// Waits until the store answers a request with these parts in its line.
    pub(super) async fn wait_answered(&self, parts: &[&str]) -> Result<()> {
        let start = Instant::now();
        let is_it = |seen: &RecordedRequest| seen.contains(parts) && seen.succeeded();
        while !self.requests_to(ProxiedPeer::Store).iter().any(is_it) {
            ensure!(start.elapsed() < HOLD_MAX, "no answer to {parts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Records a request; returns its number and the fault to inject.
    pub(super) fn record(&self, peer: ProxiedPeer, line: &str) -> (usize, Option<TriggeredFault>) {
        // Locks are taken in this order only: numbers and faults belong together.
        let mut seen = lock(&self.requests);
        let mut armed = lock(&self.armed);
        let mut now = None;
        for (place, one) in armed.iter_mut().enumerate() {
            if !one.plan.matcher.matches(peer, line) {
                continue;
            }
            one.matched += 1;
            if now.is_none() && one.matched >= one.plan.nth {
                now = Some(place);
            }
        }
        let triggered = now.map(|place| armed.remove(place)).map(|mut one| {
            if let Some(mut next) = one.next.pop_front() {
                next.next = one.next;
                armed.push(next);
            }
            TriggeredFault {
                fault: one.plan.fault,
                line: line.to_owned(),
                target: lock(&self.target).clone(),
                sender: one.sender,
            }
        });
        let number = seen.len();
        seen.push(RecordedRequest {
            peer,
            line: line.to_owned(),
            at: Instant::now(),
            status: None,
            reply_bytes: 0,
            fault: triggered.as_ref().map(|triggered| triggered.fault),
        });
        (number, triggered)
    }

    /// Adds later information to a request.
    pub(super) fn update(&self, number: usize, learn: impl FnOnce(&mut RecordedRequest)) {
        if let Some(seen) = lock(&self.requests).get_mut(number) {
            learn(seen);
        }
    }
}

fn arm_fault(plan: FaultPlan) -> (ArmedFault, InjectionReceiver) {
    let (sender, receiver) = oneshot::channel();
    let armed = ArmedFault {
        plan,
        matched: 0,
        sender,
        next: VecDeque::new(),
    };
    (armed, receiver)
}

/// Waits for the request of an armed fault.
pub(crate) async fn wait_injected(limit: Duration, receiver: InjectionReceiver) -> Result<String> {
    let receiver = tokio::time::timeout(limit, receiver).await;
    receiver.context("the request never came")??
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
