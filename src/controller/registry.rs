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

use super::decide::{FinishedTask, MAX_FAILURE_BACKOFF, MAX_RELEASE_BACKOFF, RESYNC_INTERVAL};
use super::entry::{ExportEntry, TaskKind, TaskState};
use super::exporter::ExportRunner;
use super::secrets::FetchedSecrets;
use super::supervise::{StartPriority, Task};
use super::{finalizer, supervise};
use crate::api::EventExport;
use crate::export::engine::ReleaseReport;
use crate::export::failure::{Failure, Remedy};
use crate::export::semaphore::PrioritySemaphore;
use crate::export::snapshot::Snapshot;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{NamedResource, ResourceSource};

/// Exports whose bucket is being listed for the first time, at once: a restart with thousands of resources must not
/// ask everything of everyone in one second.
pub(super) const MAX_FIRST_LISTINGS: usize = 32;

/// How many wake-ups may wait; who has more to say waits.
const WAKE_UP_CAPACITY: usize = 1024;

/// First pause after a failure; it doubles.
const BACKOFF_BASE: SignedDuration = SignedDuration::from_secs(5);

/// First pause after the API server did not answer; it doubles.
const API_BACKOFF_BASE: SignedDuration = SignedDuration::from_secs(1);

/// Longest pause after the API server did not answer.
const MAX_API_BACKOFF: SignedDuration = SignedDuration::from_mins(5);

/// Shortest rest, whatever the engine says: a defect there must not keep a processor busy.
const MIN_IDLE: SignedDuration = SignedDuration::from_secs(5);

/// Rest of an export that ended without having seen its bucket.
const UNOBSERVED_IDLE: SignedDuration = SignedDuration::from_mins(1);

/// So many exports are named in one line of the log at most.
const MAX_LOGGED_NAMES: usize = 10;

/// What wakes the controller for one resource.
pub(super) type WakeUps = mpsc::Sender<ObjectRef<EventExport>>;

/// What this process does for each resource.
pub(super) struct ExportRegistry {
    entries: Mutex<RegistryState>,
    pub(super) tasks: TaskTracker,
    pub(super) start_queue: PrioritySemaphore<StartPriority>,
    pub(super) wake_ups: WakeUps,
    pub(super) metrics: Metrics,
    pub(super) now: fn() -> Timestamp,
}

#[derive(Default)]
struct RegistryState {
    /// Boxed: a table has room for twice as many as are in it.
    by_uid: HashMap<Arc<str>, Box<ExportEntry>>,
    by_name: HashMap<Arc<ObjectRef<EventExport>>, Arc<str>>,
    by_secret: SecretUsers,
    serial: u64,
}

/// Who uses a Secret, by namespace and name.
type SecretUsers = HashMap<(String, String), BTreeSet<Arc<str>>>;

fn remove_user(by_secret: &mut SecretUsers, uid: &str, namespace: &str, name: &str) {
    let key = (namespace.to_owned(), name.to_owned());
    if let Some(users) = by_secret.get_mut(&key) {
        users.remove(uid);
        if users.is_empty() {
            by_secret.remove(&key);
        }
    }
}

/// What a resource is called by: without its version and UID, which are kept beside it.
fn object_ref(object: &EventExport) -> ObjectRef<EventExport> {
    let name = ObjectRef::new(&object.name_any());
    match object.namespace() {
        Some(namespace) => name.within(&namespace),
        None => name,
    }
}

/// How work in a task ended.
pub(super) enum TaskOutcome {
    Exported(Arc<Snapshot>),
    Released(ReleaseReport),
    /// It could not begin, until somebody does something.
    Blocked(Failure),
    /// It could not begin: the API server did not answer, or the resource is gone.
    NotStarted,
    /// It panicked, or was cut off.
    Crashed,
}

impl ExportRegistry {
    /// Empty; the receiver gets the resources to look at.
    pub(super) fn new(
        metrics: Metrics,
        now: fn() -> Timestamp,
    ) -> (Arc<Self>, mpsc::Receiver<ObjectRef<EventExport>>) {
        let (wake_ups, woken) = mpsc::channel(WAKE_UP_CAPACITY);
        let (tasks, start_queue) = (TaskTracker::new(), PrioritySemaphore::new(MAX_FIRST_LISTINGS));
        let registry = Self {
            entries: Mutex::default(),
            tasks,
            start_queue,
            wake_ups,
            metrics,
            now,
        };
        (Arc::new(registry), woken)
    }

    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        // A panic under this lock leaves an entry that the next look mends.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes what is remembered of a resource, which is remembered from now on.
    pub(super) fn with_or_insert<T>(
        &self,
        uid: &str,
        object: &EventExport,
        f: impl FnOnce(&mut ExportEntry) -> T,
    ) -> T {
        let mut entries = self.lock();
        let RegistryState { by_uid, by_name, .. } = &mut *entries;
        let entry = by_uid.entry(uid.into()).or_insert_with_key(|uid| {
            let object = Arc::new(object_ref(object));
            by_name.insert(object.clone(), uid.clone());
            Box::new(ExportEntry::new(object))
        });
        f(entry)
    }

    /// Reads or changes what is remembered of a resource; `None`: it is gone meanwhile.
    pub(super) fn with<T>(&self, uid: &str, f: impl FnOnce(&mut ExportEntry) -> T) -> Option<T> {
        self.lock().by_uid.get_mut(uid).map(|entry| f(entry))
    }

    /// The Secrets that a resource uses from now on: said before they are read, so that no change is missed.
    pub(super) fn register_secrets(&self, uid: &str, namespace: &str, names: &HashSet<&str>) {
        let mut entries = self.lock();
        let RegistryState {
            by_uid, by_secret, ..
        } = &mut *entries;
        let Some(entry) = by_uid.get_mut(uid) else {
            return;
        };
        for name in entry.secrets.begin_reading(names) {
            remove_user(by_secret, uid, namespace, &name);
        }
        for name in names {
            let key = (namespace.to_owned(), (*name).to_owned());
            by_secret.entry(key).or_default().insert(uid.into());
        }
    }

    /// What was read of them.
    pub(super) fn record_secrets(&self, uid: &str, fetched: &FetchedSecrets) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.secrets.end_reading(fetched);
        }
    }

    /// A Secret is seen in some version, or not at all: the resources that use it in another one.
    pub(super) fn observe_secret(
        &self,
        namespace: &str,
        name: &str,
        version: Option<&str>,
    ) -> Vec<ObjectRef<EventExport>> {
        let mut entries = self.lock();
        let RegistryState {
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
            if entry.secrets.observe_version(name, version) {
                woken.push(ObjectRef::clone(&entry.object));
            }
        }
        woken
    }

    /// All Secrets that are used: what a complete list of the cluster's Secrets is compared with.
    pub(super) fn used_secrets(&self) -> HashSet<(String, String)> {
        self.lock().by_secret.keys().cloned().collect()
    }

    /// Sessions cannot be released, for a reason that trying again does not mend.
    pub(super) fn mark_release_impossible(&self, uid: &str, spec: u64, why: String) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.state = TaskState::Finished {
                spec,
                result: FinishedTask::ReleaseImpossible,
            };
            entry.secrets.stale = false;
            entry.restart_requested = false;
            entry.left.get_or_insert_default().unknown = Some(why);
        }
    }

    /// Begins work in a task of its own.
    pub(super) fn start_task(self: &Arc<Self>, uid: &str, spec: u64, task: Task) {
        let mut entries = self.lock();
        entries.serial += 1;
        let serial = entries.serial;
        // A resource that is gone meanwhile gets no work that nobody would stop.
        let Some(entry) = entries.by_uid.get_mut(uid) else {
            return;
        };
        entry.restart_requested = false;
        if task.kind() == TaskKind::Export {
            entry.suspended = false;
            (entry.last, entry.left, entry.rebuilt) = (None, None, false);
        }
        if let Task::Release(runner) = &task {
            entry.runner = Some(runner.clone());
        }
        entry.failure = None;
        let running = supervise::spawn(
            self,
            uid.into(),
            ObjectRef::clone(&entry.object),
            serial,
            spec,
            task,
        );
        entry.state = TaskState::Running(running);
    }

    /// The work has its job, and the credentials of what came before it are needed no more.
    pub(super) fn attach_runner(&self, uid: &str, serial: u64, runner: &Arc<dyn ExportRunner>) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid)
            && matches!(&entry.state, TaskState::Running(running) if running.serial == serial)
        {
            entry.runner = Some(runner.clone());
        }
    }

    /// Tells the work to stop; its end wakes the controller.
    pub(super) fn stop(&self, uid: &str) {
        if let Some(TaskState::Running(running)) = self.lock().by_uid.get(uid).map(|entry| &entry.state) {
            running.stop.cancel();
        }
    }

    /// Cuts the work off where it stands.
    pub(super) fn abort(&self, uid: &str) {
        if let Some(TaskState::Running(running)) = self.lock().by_uid.get(uid).map(|entry| &entry.state) {
            running.stop.cancel();
            running.abort.abort();
        }
    }

    /// Work ended.
    pub(super) fn finish_task(&self, uid: &str, serial: u64, outcome: TaskOutcome) {
        let now = (self.now)();
        let mut entries = self.lock();
        let Some(entry) = entries.by_uid.get_mut(uid) else {
            return;
        };
        let TaskState::Running(running) = &entry.state else {
            return;
        };
        if running.serial != serial {
            return;
        }
        let spec = running.spec;
        let result = match outcome {
            TaskOutcome::Exported(snapshot) => after_export(entry, uid, snapshot, now),
            TaskOutcome::Released(released) => after_release(entry, released, now),
            TaskOutcome::Blocked(failure) => after_blocked(entry, failure, now),
            TaskOutcome::NotStarted => after_not_started(entry, now),
            TaskOutcome::Crashed => after_crash(entry, now),
        };
        entry.state = TaskState::Finished { spec, result };
        if entry.sessions == Some(false) {
            entry.runner = None;
        }
    }

    /// The resource is gone: its work stops by itself, and nothing is remembered.
    pub(super) fn remove(&self, uid: &str) {
        let mut entries = self.lock();
        let Some(entry) = entries.by_uid.remove(uid) else {
            return;
        };
        if let TaskState::Running(running) = &entry.state {
            running.stop.cancel();
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
            remove_user(&mut entries.by_secret, uid, namespace, name);
        }
    }

    /// Another resource of the same name is there: what is remembered of the one before is forgotten, even if nobody
    /// said that it was deleted. Not if the watch shows the past.
    pub(super) fn replace_recreated(&self, object: &EventExport) {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let known = {
            let entries = self.lock();
            let known = entries.by_name.get(&object_ref(object)).cloned();
            known.filter(|known| {
                let entry = entries.by_uid.get(known);
                **known != *uid && !entry.is_some_and(|entry| entry.is_newer_than(object))
            })
        };
        if let Some(known) = known {
            self.remove(&known);
        }
    }

    /// Only these resources exist: what is remembered of others is forgotten.
    pub(super) fn retain_only(&self, existing: &HashSet<String>) {
        let gone: Vec<_> = self
            .lock()
            .by_uid
            .keys()
            .filter(|uid| !existing.contains(&***uid))
            .cloned()
            .collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// Stops all work, each deleting its sessions, and cuts off what has not ended after `limit`.
    pub(super) async fn stop_all(&self, limit: Duration) {
        self.tasks.close();
        for entry in self.lock().by_uid.values() {
            if let TaskState::Running(running) = &entry.state {
                running.stop.cancel();
            }
        }
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            let left = self.tasks.len();
            let exports = self.running_names();
            warn!(
                left,
                exports, "exports did not end in time and are cut off; the next start cleans up"
            );
            self.abort_all();
        }
    }

    /// The names of exports whose work has not ended, as far as a line of the log holds them.
    fn running_names(&self) -> String {
        let work = self.lock();
        let running = work.by_uid.values().filter(|entry| match &entry.state {
            TaskState::Running(running) => !running.abort.is_finished(),
            _ => false,
        });
        let names: Vec<String> = running
            .take(MAX_LOGGED_NAMES)
            .map(|entry| entry.object.to_string())
            .collect();
        names.join(", ")
    }

    /// Cuts all work off where it stands.
    pub(super) fn abort_all(&self) {
        for entry in self.lock().by_uid.values() {
            if let TaskState::Running(running) = &entry.state {
                running.stop.cancel();
                running.abort.abort();
            }
        }
    }
}

impl ResourceSource for ExportRegistry {
    fn all(&self) -> Vec<NamedResource> {
        let named = |entry: &ExportEntry| {
            let (namespace, name) = (entry.object.namespace.clone(), entry.object.name.clone());
            let facts = entry.facts.as_deref().cloned();
            (namespace.unwrap_or_default(), name, facts.unwrap_or_default())
        };
        let entries = self.lock();
        let ours = entries
            .by_uid
            .values()
            .filter(|entry| !entry.contention.served_by_other());
        ours.map(|entry| named(entry)).collect()
    }
}

/// When a run that ended is due again.
fn after_export(entry: &mut ExportEntry, uid: &str, snapshot: Arc<Snapshot>, now: Timestamp) -> FinishedTask {
    let daily = later(now, finalizer::jittered(RESYNC_INTERVAL, uid));
    let next = match snapshot.next_run_at {
        Some(next) => next.min(daily),
        None if snapshot.observed => daily,
        None => later(now, UNOBSERVED_IDLE),
    };
    if snapshot.observed {
        entry.failures = 0;
        entry.sessions = Some(!snapshot.sessions.is_empty());
    }
    let export = entry.runner.as_ref().map(|runner| runner.export().clone());
    entry.last = export.map(|export| (snapshot, export));
    FinishedTask::Idle(next.max(later(now, MIN_IDLE)))
}

fn after_blocked(entry: &mut ExportEntry, failure: Failure, now: Timestamp) -> FinishedTask {
    let pause = match failure.remedy {
        Remedy::Retry(_) => backoff(entry.failures, MAX_FAILURE_BACKOFF),
        Remedy::Wait(_) | Remedy::Manual => MAX_FAILURE_BACKOFF,
    };
    entry.failures = entry.failures.saturating_add(1);
    entry.failure = Some(failure);
    FinishedTask::Failed(later(now, pause))
}

fn after_not_started(entry: &mut ExportEntry, now: Timestamp) -> FinishedTask {
    let pause = API_BACKOFF_BASE.saturating_mul(1 << entry.failures.min(16));
    entry.failures = entry.failures.saturating_add(1);
    FinishedTask::Failed(later(now, pause.min(MAX_API_BACKOFF)))
}

fn after_release(entry: &mut ExportEntry, released: ReleaseReport, now: Timestamp) -> FinishedTask {
    if released.leftover_sessions.is_empty() && released.unknown.is_none() {
        (entry.sessions, entry.left, entry.failures) = (Some(false), None, 0);
        return FinishedTask::Idle(now);
    }
    let permanent = released.permanent;
    entry.left = Some(Box::new(released));
    if permanent && !entry.rebuilt {
        // With credentials from memory. Perhaps the Secrets have better ones by now: that is tried, once.
        entry.runner = None;
        return FinishedTask::ReleaseFailed(now);
    }
    let pause = backoff(entry.failures, MAX_RELEASE_BACKOFF);
    entry.failures = entry.failures.saturating_add(1);
    if permanent {
        FinishedTask::ReleaseImpossible
    } else {
        FinishedTask::ReleaseFailed(later(now, pause))
    }
}

fn after_crash(entry: &mut ExportEntry, now: Timestamp) -> FinishedTask {
    let message = "the export broke down (a defect of the operator, its log says more); it is tried again";
    entry.failure = Some(Failure::retry(crate::api::Reason::Failed, message).export_wide());
    let pause = backoff(entry.failures, MAX_FAILURE_BACKOFF);
    entry.failures = entry.failures.saturating_add(1);
    FinishedTask::Failed(later(now, pause))
}

fn backoff(failures: u32, most: SignedDuration) -> SignedDuration {
    BACKOFF_BASE.saturating_mul(1 << failures.min(16)).min(most)
}

fn later(now: Timestamp, pause: SignedDuration) -> Timestamp {
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}
