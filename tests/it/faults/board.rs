//! What all proxies of one operator share: the list of all requests, and the faults that wait for theirs. No I/O but
//! the kill of the operator.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::fault::Fault;
use super::request::{Peer, Request, Seen};

/// How long a reply that is cut in its middle is held until the operator has done what it is waited for.
const HOLD_MAX: Duration = Duration::from_mins(1);

/// A process to be killed.
pub(crate) struct Victim(tokio::sync::Mutex<Child>);

impl Victim {
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
    pub(crate) async fn lives(&self) -> Result<bool> {
        Ok(self.0.lock().await.try_wait()?.is_none())
    }
}

/// Which requests are counted.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// All, of all peers.
    Any,
    /// All of these peers.
    Of(Vec<Peer>),
    /// Those of that peer whose line has all these parts.
    Parts(Peer, Vec<&'static str>),
    /// Those that are known by that name.
    Named(Request),
}

impl Wanted {
    fn fits(&self, peer: Peer, line: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Of(peers) => peers.contains(&peer),
            Self::Parts(of, parts) => *of == peer && parts.iter().all(|part| line.contains(part)),
            Self::Named(request) => request.peer == peer && *request == Request::new(peer, line),
        }
    }
}

/// A fault, and the request that it befalls: the `nth` of those that are wanted, from 1, counted since it was armed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) wanted: Wanted,
    pub(crate) nth: usize,
    pub(crate) fault: Fault,
}

/// Tells what befell which request, once it did; where the operator was killed, once it is gone.
pub(crate) type Told = oneshot::Receiver<Result<String>>;

struct Armed {
    plan: Plan,
    matched: usize,
    tell: oneshot::Sender<Result<String>>,
    /// Those that wait until this one befell its request.
    then: VecDeque<Armed>,
}

/// A fault that befalls a request now.
pub(super) struct Struck {
    pub(super) fault: Fault,
    line: String,
    victim: Option<Arc<Victim>>,
    tell: oneshot::Sender<Result<String>>,
}

impl Struck {
    /// Kills the operator if the fault does, and tells. In a task of its own: when the operator dies, so does the
    /// connection and what serves it.
    pub(super) async fn strike(self) {
        let task = tokio::spawn(async move {
            let killed = match self.victim {
                _ if !self.fault.kills() => Ok(()),
                Some(victim) => victim.kill().await,
                None => Err(anyhow::anyhow!("there is no operator to kill")),
            };
            let _ = self
                .tell
                .send(killed.map(|()| format!("{} {}", self.fault, self.line)));
        });
        let _ = task.await;
    }
}

/// What all proxies of one operator share.
#[derive(Default)]
pub(crate) struct Board {
    seen: Mutex<Vec<Seen>>,
    armed: Mutex<Vec<Armed>>,
    victim: Mutex<Option<Arc<Victim>>>,
    secrets: Mutex<BTreeSet<String>>,
}

impl Board {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Whom faults kill from now on.
    pub(crate) fn aim(&self, victim: &Arc<Victim>) {
        *lock(&self.victim) = Some(Arc::clone(victim));
    }

    /// Lets a fault wait for its request. Several may wait; each befalls one request, and where two wait for the same,
    /// the one that was armed first.
    pub(crate) fn arm(&self, plan: Plan) -> Told {
        let (armed, told) = armed(plan);
        lock(&self.armed).push(armed);
        told
    }

    /// Lets faults wait one after the other: each is armed at the moment when the one before it befell its request.
    pub(crate) fn arm_in_turn(&self, plans: Vec<Plan>) -> Vec<Told> {
        let (mut queue, told): (VecDeque<_>, Vec<_>) = plans.into_iter().map(armed).unzip();
        if let Some(mut first) = queue.pop_front() {
            first.then = queue;
            lock(&self.armed).push(first);
        }
        told
    }

    /// Notes what no log may show.
    pub(super) fn hide(&self, secret: &str) {
        lock(&self.secrets).insert(secret.to_owned());
    }

    /// The tokens that passed by.
    pub(crate) fn secrets(&self) -> BTreeSet<String> {
        lock(&self.secrets).clone()
    }

    /// All requests so far, of all peers, in the order in which they came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// All requests so far of that peer.
    pub(crate) fn seen_of(&self, peer: Peer) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| seen.peer == peer);
        seen
    }

    /// Waits until the store answered a request whose line has these parts.
    pub(super) async fn answered(&self, parts: &[&str]) -> Result<()> {
        let start = Instant::now();
        let is_it = |seen: &Seen| seen.is(parts) && seen.succeeded();
        while !self.seen_of(Peer::Store).iter().any(is_it) {
            ensure!(start.elapsed() < HOLD_MAX, "no answer to {parts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Notes a request; its number here, and the fault that befalls it.
    pub(super) fn note(&self, peer: Peer, line: &str) -> (usize, Option<Struck>) {
        // One lock after the other, always in this order: numbers and faults go together.
        let mut seen = lock(&self.seen);
        let mut armed = lock(&self.armed);
        let mut now = None;
        for (place, one) in armed.iter_mut().enumerate() {
            if !one.plan.wanted.fits(peer, line) {
                continue;
            }
            one.matched += 1;
            if now.is_none() && one.matched >= one.plan.nth {
                now = Some(place);
            }
        }
        let struck = now.map(|place| armed.remove(place)).map(|mut one| {
            if let Some(mut next) = one.then.pop_front() {
                next.then = one.then;
                armed.push(next);
            }
            Struck {
                fault: one.plan.fault,
                line: line.to_owned(),
                victim: lock(&self.victim).clone(),
                tell: one.tell,
            }
        });
        let number = seen.len();
        seen.push(Seen {
            peer,
            line: line.to_owned(),
            at: Instant::now(),
            status: None,
            reply_bytes: 0,
            fault: struck.as_ref().map(|struck| struck.fault),
        });
        (number, struck)
    }

    /// Notes what is learned of a request later.
    pub(super) fn learn(&self, number: usize, learn: impl FnOnce(&mut Seen)) {
        if let Some(seen) = lock(&self.seen).get_mut(number) {
            learn(seen);
        }
    }
}

fn armed(plan: Plan) -> (Armed, Told) {
    let (tell, told) = oneshot::channel();
    let armed = Armed {
        plan,
        matched: 0,
        tell,
        then: VecDeque::new(),
    };
    (armed, told)
}

/// Waits for the request that a fault was armed for.
pub(crate) async fn within(limit: Duration, told: Told) -> Result<String> {
    let told = tokio::time::timeout(limit, told).await;
    told.context("the request never came")??
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
