//! The registry: what this process does for each resource, keyed by UID. Work runs in tasks of its own, outside
//! `reconcile`; how it is watched over is in [`super::supervise`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::decide::{End, FAILED_MOST, LOOK_AGAIN, RELEASE_MOST};
use super::entry::{Entry, Kind, State};
use super::exporter::Job;
use super::secrets::Fetched;
use super::supervise::{Task, Turn};
use super::{finalizer, supervise};
use crate::api::EventExport;
use crate::export::engine::Released;
use crate::export::failure::{Failure, Remedy};
use crate::export::queue::Queue;
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

/// First pause after the API server did not answer; it doubles.
const NOT_BEGUN_FIRST: SignedDuration = SignedDuration::from_secs(1);

/// Longest pause after the API server did not answer.
const NOT_BEGUN_MOST: SignedDuration = SignedDuration::from_mins(5);

/// Shortest rest, whatever the engine says: a defect there must not keep a processor busy.
const REST_LEAST: SignedDuration = SignedDuration::from_secs(5);

/// Rest of an export that ended without having seen its bucket.
const REST_BLIND: SignedDuration = SignedDuration::from_mins(1);

/// So many exports are named in one line of the log at most.
const NAMED_MOST: usize = 10;

/// What wakes the controller for one resource.
pub(super) type WakeUps = mpsc::Sender<ObjectRef<EventExport>>;

/// What this process does for each resource.
pub(super) struct Runs {
    entries: Mutex<Entries>,
    pub(super) tasks: TaskTracker,
    pub(super) looks: Queue<Turn>,
    pub(super) wake_ups: WakeUps,
    pub(super) metrics: Metrics,
    pub(super) now: fn() -> Timestamp,
}

#[derive(Default)]
struct Entries {
    /// Boxed: a table has room for twice as many as are in it.
    by_uid: HashMap<Arc<str>, Box<Entry>>,
    by_name: HashMap<Arc<ObjectRef<EventExport>>, Arc<str>>,
    by_secret: Users,
    serial: u64,
}

/// Who uses a Secret, by namespace and name.
type Users = HashMap<(String, String), BTreeSet<Arc<str>>>;

fn uses_no_more(by_secret: &mut Users, uid: &str, namespace: &str, name: &str) {
    let key = (namespace.to_owned(), name.to_owned());
    if let Some(users) = by_secret.get_mut(&key) {
        users.remove(uid);
        if users.is_empty() {
            by_secret.remove(&key);
        }
    }
}

/// What a resource is called by: without its version and UID, which are kept beside it.
fn name_of(object: &EventExport) -> ObjectRef<EventExport> {
    let name = ObjectRef::new(&object.name_any());
    match object.namespace() {
        Some(namespace) => name.within(&namespace),
        None => name,
    }
}

/// How work in a task ended.
pub(super) enum Outcome {
    Ran(Arc<Snapshot>),
    Released(Released),
    /// It could not begin, until somebody does something.
    Blocked(Failure),
    /// It could not begin: the API server did not answer, or the resource is gone.
    NotBegun,
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
        let (tasks, looks) = (TaskTracker::new(), Queue::new(LOOKS));
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
        let Entries { by_uid, by_name, .. } = &mut *entries;
        let entry = by_uid.entry(uid.into()).or_insert_with_key(|uid| {
            let object = Arc::new(name_of(object));
            by_name.insert(object.clone(), uid.clone());
            Box::new(Entry::new(object))
        });
        f(entry)
    }

    /// Reads or changes what is remembered of a resource; `None`: it is gone meanwhile.
    pub(super) fn with<T>(&self, uid: &str, f: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.lock().by_uid.get_mut(uid).map(|entry| f(entry))
    }

    /// The Secrets that a resource uses from now on: said before they are read, so that no change is missed.
    pub(super) fn uses(&self, uid: &str, namespace: &str, names: &HashSet<&str>) {
        let mut entries = self.lock();
        let Entries {
            by_uid, by_secret, ..
        } = &mut *entries;
        let Some(entry) = by_uid.get_mut(uid) else {
            return;
        };
        for name in entry.secrets.begin_reading(names) {
            uses_no_more(by_secret, uid, namespace, &name);
        }
        for name in names {
            let key = (namespace.to_owned(), (*name).to_owned());
            by_secret.entry(key).or_default().insert(uid.into());
        }
    }

    /// What was read of them.
    pub(super) fn read(&self, uid: &str, fetched: &Fetched) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.secrets.end_reading(fetched);
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
            if entry.secrets.saw(name, version) {
                woken.push(ObjectRef::clone(&entry.object));
            }
        }
        woken
    }

    /// All Secrets that are used: what a complete list of the cluster's Secrets is compared with.
    pub(super) fn secrets_used(&self) -> HashSet<(String, String)> {
        self.lock().by_secret.keys().cloned().collect()
    }

    /// Sessions cannot be released, for a reason that trying again does not mend.
    pub(super) fn unreleasable(&self, uid: &str, spec: u64, why: String) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.state = State::Ended {
                spec,
                end: End::Unreleasable,
            };
            entry.secrets.stale = false;
            entry.afresh = false;
            entry.left.get_or_insert_default().unknown = Some(why);
        }
    }

    /// Begins work in a task of its own.
    pub(super) fn begin(self: &Arc<Self>, uid: &str, spec: u64, task: Task) {
        let mut entries = self.lock();
        entries.serial += 1;
        let serial = entries.serial;
        // A resource that is gone meanwhile gets no work that nobody would stop.
        let Some(entry) = entries.by_uid.get_mut(uid) else {
            return;
        };
        entry.afresh = false;
        if task.kind() == Kind::Export {
            entry.suspended = false;
            (entry.last, entry.left, entry.rebuilt) = (None, None, false);
        }
        if let Task::Release(job) = &task {
            entry.job = Some(job.clone());
        }
        entry.failure = None;
        let live = supervise::start(
            self,
            uid.into(),
            ObjectRef::clone(&entry.object),
            serial,
            spec,
            task,
        );
        entry.state = State::Live(live);
    }

    /// The work has its job, and the credentials of what came before it are needed no more.
    pub(super) fn prepared(&self, uid: &str, serial: u64, job: &Arc<dyn Job>) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid)
            && matches!(&entry.state, State::Live(live) if live.serial == serial)
        {
            entry.job = Some(job.clone());
        }
    }

    /// Tells the work to stop; its end wakes the controller.
    pub(super) fn stop(&self, uid: &str) {
        if let Some(State::Live(live)) = self.lock().by_uid.get(uid).map(|entry| &entry.state) {
            live.stop.cancel();
        }
    }

    /// Cuts the work off where it stands.
    pub(super) fn cut_off(&self, uid: &str) {
        if let Some(State::Live(live)) = self.lock().by_uid.get(uid).map(|entry| &entry.state) {
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
            Outcome::Blocked(failure) => blocked(entry, failure, now),
            Outcome::NotBegun => not_begun(entry, now),
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
        let Some(entry) = entries.by_uid.remove(uid) else {
            return;
        };
        if let State::Live(live) = &entry.state {
            live.stop.cancel();
        }
        if entries
            .by_name
            .get(&entry.object)
            .is_some_and(|known| **known == *uid)
        {
            entries.by_name.remove(&entry.object);
        }
        let namespace = entry.object.namespace.as_deref().unwrap_or_default();
        for name in entry.secrets.names() {
            uses_no_more(&mut entries.by_secret, uid, namespace, name);
        }
    }

    /// Another resource of the same name is there: what is remembered of the one before is forgotten, even if nobody
    /// said that it was deleted. Not if the watch shows the past.
    pub(super) fn replace_namesake(&self, object: &EventExport) {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let known = {
            let entries = self.lock();
            let known = entries.by_name.get(&name_of(object)).cloned();
            known.filter(|known| {
                let entry = entries.by_uid.get(known);
                **known != *uid && !entry.is_some_and(|entry| entry.outlives(object))
            })
        };
        if let Some(known) = known {
            self.forget(&known);
        }
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
            let exports = self.unended();
            warn!(
                left,
                exports, "exports did not end in time and are cut off; the next start cleans up"
            );
            self.cut_off_all();
        }
    }

    /// The names of exports whose work has not ended, as far as a line of the log holds them.
    fn unended(&self) -> String {
        let work = self.lock();
        let live = work.by_uid.values().filter(|entry| match &entry.state {
            State::Live(live) => !live.abort.is_finished(),
            _ => false,
        });
        let names: Vec<String> = live
            .take(NAMED_MOST)
            .map(|entry| entry.object.to_string())
            .collect();
        names.join(", ")
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
        ours.map(|entry| named(entry)).collect()
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

fn blocked(entry: &mut Entry, failure: Failure, now: Timestamp) -> End {
    let pause = match failure.remedy {
        Remedy::Retry(_) => backoff(entry.failures, FAILED_MOST),
        Remedy::Wait(_) | Remedy::Person => FAILED_MOST,
    };
    entry.failures = entry.failures.saturating_add(1);
    entry.failure = Some(failure);
    End::Failed(later(now, pause))
}

fn not_begun(entry: &mut Entry, now: Timestamp) -> End {
    let pause = NOT_BEGUN_FIRST.saturating_mul(1 << entry.failures.min(16));
    entry.failures = entry.failures.saturating_add(1);
    End::Failed(later(now, pause.min(NOT_BEGUN_MOST)))
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
    let pause = backoff(entry.failures, FAILED_MOST);
    entry.failures = entry.failures.saturating_add(1);
    End::Failed(later(now, pause))
}

fn backoff(failures: u32, most: SignedDuration) -> SignedDuration {
    BACKOFF_FIRST.saturating_mul(1 << failures.min(16)).min(most)
}

fn later(now: Timestamp, pause: SignedDuration) -> Timestamp {
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}
