//! What all proxies of one operator share: the list of all requests, and the faults that wait for theirs. No I/O but
//! the kill of the operator.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::fault::InjectedFault;
use super::request::{ProxiedPeer, RecordedRequest, RequestKey};

/// How long a reply that is cut in its middle is held until the operator has done what it is waited for.
const HOLD_MAX: Duration = Duration::from_mins(1);

/// A process to be killed.
pub(crate) struct TargetProcess(tokio::sync::Mutex<Child>);

impl TargetProcess {
    pub(crate) fn new(child: Child) -> Arc<Self> {
        Arc::new(Self(tokio::sync::Mutex::new(child)))
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) async fn kill(&self) -> Result<()> {
        let mut child = self.0.lock().await;
        ensure!(child.try_wait()?.is_none(), "it ended by itself before");
        child.start_kill()?;
        let ended = child.wait().await?;
        ensure!(ended.signal() == Some(9), "it ended by itself: {ended}");
        Ok(())
    }

    /// SIGTERM; whether it ended well and within `limit`. If not in time, it is killed.
    pub(crate) async fn stop(&self, limit: Duration) -> Result<bool> {
        let mut child = self.0.lock().await;
        let Some(id) = child.id() else { return Ok(false) };
        let told = Command::new("kill").arg(id.to_string()).status().await?;
        ensure!(told.success(), "kill: {told}");
        if let Ok(ended) = tokio::time::timeout(limit, child.wait()).await {
            return Ok(ended?.success());
        }
        child.kill().await?;
        Ok(false)
    }

    /// Whether it still runs.
    pub(crate) async fn is_running(&self) -> Result<bool> {
        Ok(self.0.lock().await.try_wait()?.is_none())
    }
}

/// Which requests are counted.
#[derive(Clone, Debug)]
pub(crate) enum RequestMatcher {
    /// All, of all peers.
    Any,
    /// All of these peers.
    Peers(Vec<ProxiedPeer>),
    /// Those of that peer whose line has all these parts.
    LineContains(ProxiedPeer, Vec<&'static str>),
    /// Those that are known by that name.
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

/// A fault, and the request that it befalls: the `nth` of those that are wanted, from 1, counted since it was armed.
#[derive(Clone, Debug)]
pub(crate) struct FaultPlan {
    pub(crate) matcher: RequestMatcher,
    pub(crate) nth: usize,
    pub(crate) fault: InjectedFault,
}

/// Tells what befell which request, once it did; where the operator was killed, once it is gone.
pub(crate) type InjectionReceiver = oneshot::Receiver<Result<String>>;

struct ArmedFault {
    plan: FaultPlan,
    matched: usize,
    sender: oneshot::Sender<Result<String>>,
    /// Those that wait until this one befell its request.
    next: VecDeque<ArmedFault>,
}

/// A fault that befalls a request now.
pub(super) struct TriggeredFault {
    pub(super) fault: InjectedFault,
    line: String,
    target: Option<Arc<TargetProcess>>,
    sender: oneshot::Sender<Result<String>>,
}

impl TriggeredFault {
    /// Kills the operator if the fault does, and tells. In a task of its own: when the operator dies, so does the
    /// connection and what serves it.
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

/// What all proxies of one operator share.
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

    /// Whom faults kill from now on.
    pub(crate) fn set_target(&self, target: &Arc<TargetProcess>) {
        *lock(&self.target) = Some(Arc::clone(target));
    }

    /// Lets a fault wait for its request. Several may wait; each befalls one request, and where two wait for the same,
    /// the one that was armed first.
    pub(crate) fn arm(&self, plan: FaultPlan) -> InjectionReceiver {
        let (armed, receiver) = arm_fault(plan);
        lock(&self.armed).push(armed);
        receiver
    }

    /// Lets faults wait one after the other: each is armed at the moment when the one before it befell its request.
    pub(crate) fn arm_sequence(&self, plans: Vec<FaultPlan>) -> Vec<InjectionReceiver> {
        let (mut queue, receiver): (VecDeque<_>, Vec<_>) = plans.into_iter().map(arm_fault).unzip();
        if let Some(mut first) = queue.pop_front() {
            first.next = queue;
            lock(&self.armed).push(first);
        }
        receiver
    }

    /// Notes what no log may show.
    pub(super) fn add_secret(&self, secret: &str) {
        lock(&self.secrets).insert(secret.to_owned());
    }

    /// The tokens that passed by.
    pub(crate) fn secrets(&self) -> BTreeSet<String> {
        lock(&self.secrets).clone()
    }

    /// All requests so far, of all peers, in the order in which they came.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        lock(&self.requests).clone()
    }

    /// All requests so far of that peer.
    pub(crate) fn requests_to(&self, peer: ProxiedPeer) -> Vec<RecordedRequest> {
        let mut seen = self.requests();
        seen.retain(|seen| seen.peer == peer);
        seen
    }

    /// Waits until the store answered a request whose line has these parts.
    pub(super) async fn wait_answered(&self, parts: &[&str]) -> Result<()> {
        let start = Instant::now();
        let is_it = |seen: &RecordedRequest| seen.contains(parts) && seen.succeeded();
        while !self.requests_to(ProxiedPeer::Store).iter().any(is_it) {
            ensure!(start.elapsed() < HOLD_MAX, "no answer to {parts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Notes a request; its number here, and the fault that befalls it.
    pub(super) fn record(&self, peer: ProxiedPeer, line: &str) -> (usize, Option<TriggeredFault>) {
        // One lock after the other, always in this order: numbers and faults go together.
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

    /// Notes what is learned of a request later.
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

/// Waits for the request that a fault was armed for.
pub(crate) async fn wait_injected(limit: Duration, receiver: InjectionReceiver) -> Result<String> {
    let receiver = tokio::time::timeout(limit, receiver).await;
    receiver.context("the request never came")??
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
