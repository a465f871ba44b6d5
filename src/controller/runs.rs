//! The registry: what this process does for each resource, keyed by UID. Work runs in tasks of its own, outside
//! `reconcile`; how it is watched over is in [`super::supervise`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::decide::{End, LOOK_AGAIN};
use super::entry::{Entry, Kind, State};
use super::exporter::Job;
use super::secrets::Fetched;
use super::{finalizer, supervise};
use crate::api::EventExport;
use crate::export::engine::Released;
use crate::export::failure::{Failure, Remedy};
use crate::export::snapshot::Snapshot;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{Named, Resources};

/// Exports whose bucket is being listed for the first time, at once: a restart with thousands of resources must not
/// ask everything of everyone in one second.
pub(super) const LOOKS: usize = 32;

/// How many wake-ups may wait; who has more to say waits.
const WAKE_UPS: usize = 1024;

/// First pause after a failure; it doubles.
const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(5);

/// Longest pause after a failure that may go away by itself, or for which nothing tells that a person mended it.
const BACKOFF_MOST: SignedDuration = SignedDuration::from_mins(10);

/// Longest pause between two tries to release sessions: there are ten minutes in all.
const RELEASE_MOST: SignedDuration = SignedDuration::from_mins(1);

/// Shortest rest, whatever the engine says: a defect there must not keep a processor busy.
const REST_LEAST: SignedDuration = SignedDuration::from_secs(5);

/// Rest of an export that ended without having seen its bucket.
const REST_BLIND: SignedDuration = SignedDuration::from_mins(1);

/// What wakes the controller for one resource.
pub(super) type WakeUps = mpsc::Sender<ObjectRef<EventExport>>;

/// What this process does for each resource.
pub(super) struct Runs {
    entries: Mutex<Entries>,
    pub(super) tasks: TaskTracker,
    pub(super) looks: Arc<Semaphore>,
    pub(super) wake_ups: WakeUps,
    pub(super) metrics: Metrics,
    pub(super) now: fn() -> Timestamp,
}

#[derive(Default)]
struct Entries {
    by_uid: HashMap<Arc<str>, Entry>,
    /// Who uses a Secret, by namespace and name.
    by_secret: HashMap<(String, String), BTreeSet<Arc<str>>>,
    serial: u64,
}

/// How work in a task ended.
pub(super) enum Outcome {
    Ran(Arc<Snapshot>),
    Released(Released),
    /// It panicked, or was cut off.
    Broke,
}

impl Runs {
    /// Empty; the receiver gets the resources to look at.
    pub(super) fn new(
        metrics: Metrics,
        now: fn() -> Timestamp,
    ) -> (Arc<Self>, mpsc::Receiver<ObjectRef<EventExport>>) {
        let (wake_ups, woken) = mpsc::channel(WAKE_UPS);
        let (tasks, looks) = (TaskTracker::new(), Arc::new(Semaphore::new(LOOKS)));
        let runs = Self {
            entries: Mutex::default(),
            tasks,
            looks,
            wake_ups,
            metrics,
            now,
        };
        (Arc::new(runs), woken)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic under this lock leaves an entry that the next look mends.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes what is remembered of a resource, which is remembered from now on.
    pub(super) fn enter<T>(&self, uid: &str, object: &EventExport, f: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.lock();
        f(entries
            .by_uid
            .entry(uid.into())
            .or_insert_with(|| Entry::new(ObjectRef::from_obj(object))))
    }

    /// Reads or changes what is remembered of a resource; `None`: it is gone meanwhile.
    pub(super) fn with<T>(&self, uid: &str, f: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.lock().by_uid.get_mut(uid).map(f)
    }

    /// The Secrets that a resource uses from now on: said before they are read, so that no change is missed.
    pub(super) fn uses(&self, uid: &str, namespace: &str, names: &HashSet<&str>) {
        let mut entries = self.lock();
        entries.by_secret.retain(|(of, name), users| {
            if of == namespace && !names.contains(name.as_str()) {
                users.remove(uid);
            }
            !users.is_empty()
        });
        for name in names {
            let key = (namespace.to_owned(), (*name).to_owned());
            entries.by_secret.entry(key).or_default().insert(uid.into());
        }
    }

    /// What was read of them.
    pub(super) fn read(&self, uid: &str, fetched: &Fetched) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.secrets.versions.clone_from(&fetched.versions);
            entry.secrets.digest = fetched.digest;
            entry.secrets.stale = false;
        }
    }

    /// A Secret is seen in some version, or not at all: the resources that use it in another one.
    pub(super) fn secret_seen(
        &self,
        namespace: &str,
        name: &str,
        version: Option<&str>,
    ) -> Vec<ObjectRef<EventExport>> {
        let mut entries = self.lock();
        let Entries {
            by_uid, by_secret, ..
        } = &mut *entries;
        let Some(users) = by_secret.get(&(namespace.to_owned(), name.to_owned())) else {
            return Vec::new();
        };
        let mut woken = Vec::new();
        for uid in users {
            let Some(entry) = by_uid.get_mut(uid) else {
                continue;
            };
            let in_use = entry.secrets.versions.get(name).map(Option::as_deref);
            if in_use.is_some_and(|in_use| in_use != version) {
                entry.secrets.stale = true;
                woken.push(entry.object.clone());
            }
        }
        woken
    }

    /// All Secrets that are used: what a complete list of the cluster's Secrets is compared with.
    pub(super) fn secrets_used(&self) -> HashSet<(String, String)> {
        self.lock().by_secret.keys().cloned().collect()
    }

    /// It could not begin.
    pub(super) fn blocked(&self, uid: &str, spec: u64, failure: Failure) {
        let now = (self.now)();
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            let pause = match failure.remedy {
                Remedy::Retry(_) => backoff(entry.failures, BACKOFF_MOST),
                Remedy::Wait(_) | Remedy::Person => BACKOFF_MOST,
            };
            entry.failures = entry.failures.saturating_add(1);
            entry.state = State::Ended {
                spec,
                end: End::Failed(later(now, pause)),
            };
            entry.failure = Some(failure);
            (entry.afresh, entry.suspended) = (false, false);
            entry.last = None;
        }
    }

    /// Sessions cannot be released, for a reason that trying again does not mend.
    pub(super) fn unreleasable(&self, uid: &str, spec: u64, why: String) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.state = State::Ended {
                spec,
                end: End::Unreleasable,
            };
            entry.secrets.stale = false;
            entry.left.get_or_insert_default().unknown = Some(why);
        }
    }

    /// Begins work in a task of its own.
    pub(super) fn begin(self: &Arc<Self>, uid: &str, kind: Kind, spec: u64, job: Arc<dyn Job>) {
        let mut entries = self.lock();
        entries.serial += 1;
        let serial = entries.serial;
        // A resource that is gone meanwhile gets no work that nobody would stop.
        let Some(entry) = entries.by_uid.get_mut(uid) else {
            return;
        };
        let live = supervise::start(
            self,
            uid.into(),
            entry.object.clone(),
            serial,
            kind,
            spec,
            job.clone(),
        );
        entry.state = State::Live(live);
        entry.job = Some(job);
        entry.failure = None;
        if kind == Kind::Export {
            (entry.afresh, entry.suspended) = (false, false);
            (entry.last, entry.left, entry.rebuilt) = (None, None, false);
        }
    }

    /// Tells the work to stop; its end wakes the controller.
    pub(super) fn stop(&self, uid: &str) {
        if let Some(Entry {
            state: State::Live(live),
            ..
        }) = self.lock().by_uid.get(uid)
        {
            live.stop.cancel();
        }
    }

    /// Cuts the work off where it stands.
    pub(super) fn cut_off(&self, uid: &str) {
        if let Some(Entry {
            state: State::Live(live),
            ..
        }) = self.lock().by_uid.get(uid)
        {
            live.stop.cancel();
            live.abort.abort();
        }
    }

    /// Work ended.
    pub(super) fn ended(&self, uid: &str, serial: u64, outcome: Outcome) {
        let now = (self.now)();
        let mut entries = self.lock();
        let Some(entry) = entries.by_uid.get_mut(uid) else {
            return;
        };
        let State::Live(live) = &entry.state else { return };
        if live.serial != serial {
            return;
        }
        let spec = live.spec;
        let end = match outcome {
            Outcome::Ran(snapshot) => rested(entry, uid, snapshot, now),
            Outcome::Released(released) => released_end(entry, released, now),
            Outcome::Broke => broke(entry, now),
        };
        entry.state = State::Ended { spec, end };
        if entry.sessions == Some(false) {
            entry.job = None;
        }
    }

    /// The resource is gone: its work stops by itself, and nothing is remembered.
    pub(super) fn forget(&self, uid: &str) {
        let mut entries = self.lock();
        if let Some(Entry {
            state: State::Live(live),
            ..
        }) = entries.by_uid.remove(uid)
        {
            live.stop.cancel();
        }
        entries.by_secret.retain(|_, users| {
            users.remove(uid);
            !users.is_empty()
        });
    }

    /// Only these resources exist: what is remembered of others is forgotten.
    pub(super) fn forget_others(&self, existing: &HashSet<String>) {
        let gone: Vec<_> = self
            .lock()
            .by_uid
            .keys()
            .filter(|uid| !existing.contains(&***uid))
            .cloned()
            .collect();
        for uid in gone {
            self.forget(&uid);
        }
    }

    /// Stops all work, each deleting its sessions, and cuts off what has not ended after `limit`.
    pub(super) async fn stop_all(&self, limit: Duration) {
        self.tasks.close();
        for entry in self.lock().by_uid.values() {
            if let State::Live(live) = &entry.state {
                live.stop.cancel();
            }
        }
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            let left = self.tasks.len();
            warn!(
                left,
                "exports did not end in time and are cut off; the next start cleans up"
            );
            self.cut_off_all();
        }
    }

    /// Cuts all work off where it stands.
    pub(super) fn cut_off_all(&self) {
        for entry in self.lock().by_uid.values() {
            if let State::Live(live) = &entry.state {
                live.stop.cancel();
                live.abort.abort();
            }
        }
    }
}

impl Resources for Runs {
    fn all(&self) -> Vec<Named> {
        let named = |entry: &Entry| {
            let (namespace, name) = (entry.object.namespace.clone(), entry.object.name.clone());
            let facts = entry.facts.as_deref().cloned();
            (namespace.unwrap_or_default(), name, facts.unwrap_or_default())
        };
        let entries = self.lock();
        let ours = entries
            .by_uid
            .values()
            .filter(|entry| !entry.others.are_serving());
        ours.map(named).collect()
    }
}

/// When a run that ended is due again.
fn rested(entry: &mut Entry, uid: &str, snapshot: Arc<Snapshot>, now: Timestamp) -> End {
    let daily = later(now, finalizer::jittered(LOOK_AGAIN, uid));
    let next = match snapshot.next_look {
        Some(next) => next.min(daily),
        None if snapshot.observed => daily,
        None => later(now, REST_BLIND),
    };
    if snapshot.observed {
        entry.failures = 0;
        entry.sessions = Some(!snapshot.sessions.is_empty());
    }
    let export = entry.job.as_ref().map(|job| job.export().clone());
    entry.last = export.map(|export| (snapshot, export));
    End::Rested(next.max(later(now, REST_LEAST)))
}

fn released_end(entry: &mut Entry, released: Released, now: Timestamp) -> End {
    if released.left.is_empty() && released.unknown.is_none() {
        (entry.sessions, entry.left, entry.failures) = (Some(false), None, 0);
        return End::Rested(now);
    }
    let hopeless = released.hopeless;
    entry.left = Some(Box::new(released));
    if hopeless && !entry.rebuilt {
        // With credentials from memory. Perhaps the Secrets have better ones by now: that is tried, once.
        entry.job = None;
        return End::NotReleased(now);
    }
    let pause = backoff(entry.failures, RELEASE_MOST);
    entry.failures = entry.failures.saturating_add(1);
    if hopeless {
        End::Unreleasable
    } else {
        End::NotReleased(later(now, pause))
    }
}

fn broke(entry: &mut Entry, now: Timestamp) -> End {
    let message = "the export broke down (a defect of the operator, its log says more); it is tried again";
    entry.failure = Some(Failure::retry(crate::api::Reason::Failed, message).of_export());
    let pause = backoff(entry.failures, BACKOFF_MOST);
    entry.failures = entry.failures.saturating_add(1);
    End::Failed(later(now, pause))
}

fn backoff(failures: u32, most: SignedDuration) -> SignedDuration {
    BACKOFF_FIRST.saturating_mul(1 << failures.min(16)).min(most)
}

fn later(now: Timestamp, pause: SignedDuration) -> Timestamp {
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}
