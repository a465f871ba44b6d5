//! Registry of resources and their tasks, keyed by UID. [`ExportRegistry::apply`] records what the tasks report.

use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::decide::{FinishedTask, MAX_FAILURE_BACKOFF, MAX_RELEASE_BACKOFF};
use super::entry::{ExportEntry, RunningTask, TaskKind, TaskState, spec_digest};
use super::export_name::ExportName;
use super::exporter::ExportRunner;
use super::runs::{RunEvent, RunEventKind, Task, TaskId, TaskOutcome};
use super::secrets::FetchedSecrets;
use super::secrets_in_use::WatchedObject;
use super::start_places::slow_start_time;
use crate::api::{EventExport, Reason, ReferencedObject};
use crate::export::engine::ReleaseReport;
use crate::export::failure::{Failure, Problem, RetryClass};
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;
use crate::telemetry::metrics::{NamedResource, ResourceSource};

/// Capacity of the wake-up channel. Senders wait when it is full.
const WAKE_UP_CAPACITY: usize = 1024;

/// Initial backoff after a failure. It doubles.
const BACKOFF_BASE: SignedDuration = SignedDuration::from_secs(5);

/// Initial backoff after the API server did not answer. It doubles.
const API_BACKOFF_BASE: SignedDuration = SignedDuration::from_secs(1);

/// Maximum backoff after the API server did not answer.
const MAX_API_BACKOFF: SignedDuration = SignedDuration::from_mins(5);

/// Minimum idle time, whatever the engine returns: a defect there must not cause a busy loop.
const MIN_IDLE: SignedDuration = SignedDuration::from_secs(5);

/// Idle time of an export that ended without a listing of its bucket.
const UNOBSERVED_IDLE: SignedDuration = SignedDuration::from_mins(1);

/// Maximum names of exports in one log line.
const MAX_LOGGED_NAMES: usize = 10;

/// Channel that triggers the reconcile of a resource.
pub(super) type WakeUps = mpsc::Sender<ExportName>;

/// State and task of each resource.
pub(super) struct ExportRegistry {
    entries: Mutex<RegistryState>,
    pub(super) wake_ups: WakeUps,
    now: fn() -> Timestamp,
}

#[derive(Default)]
struct RegistryState {
    /// Boxed: the table allocates room for up to twice as many entries.
    by_uid: HashMap<Arc<str>, Box<ExportEntry>>,
    by_name: HashMap<ExportName, Arc<str>>,
    by_secret: SecretUsers,
    serial: u64,
    /// True once the process stops: then no task starts.
    closed: bool,
}

impl RegistryState {
    /// Returns the number of the next task, and the entry that it is for. `None`: the process stops, or the resource is gone,
    /// and nothing would stop the task.
    fn next_task(&mut self, uid: &str) -> Option<(u64, &mut ExportEntry)> {
        let entry = self.by_uid.get_mut(uid).filter(|_| !self.closed)?;
        self.serial += 1;
        Some((self.serial, entry))
    }
}

/// UIDs of the resources that use a Secret or ConfigMap.
type SecretUsers = HashMap<Arc<WatchedObject>, BTreeSet<Arc<str>>>;

fn remove_user(by_secret: &mut SecretUsers, uid: &str, watched: &WatchedObject) {
    if let Some(users) = by_secret.get_mut(watched) {
        users.remove(uid);
        if users.is_empty() {
            by_secret.remove(watched);
        }
    }
}

impl ExportRegistry {
    /// Creates an empty registry. The receiver gets the resources to reconcile.
    pub(super) fn new(now: fn() -> Timestamp) -> (Arc<Self>, mpsc::Receiver<ExportName>) {
        let (wake_ups, woken) = mpsc::channel(WAKE_UP_CAPACITY);
        let registry = Self {
            entries: Mutex::default(),
            wake_ups,
            now,
        };
        (Arc::new(registry), woken)
    }

    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        // A panic under this lock leaves an entry that the next reconcile corrects.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` with the entry of a resource, and creates the entry if it does not exist.
    pub(super) fn with_or_insert<T>(
        &self,
        uid: &str,
        object: &EventExport,
        f: impl FnOnce(&mut ExportEntry) -> T,
    ) -> T {
        let mut entries = self.lock();
        let RegistryState { by_uid, by_name, .. } = &mut *entries;
        let entry = by_uid.entry(uid.into()).or_insert_with_key(|uid| {
            let name = ExportName::of(object);
            by_name.insert(name.clone(), uid.clone());
            Box::new(ExportEntry::new(name))
        });
        f(entry)
    }

    /// Calls `f` with the entry of a resource. Returns `None` if the resource is gone.
    pub(super) fn with<T>(&self, uid: &str, f: impl FnOnce(&mut ExportEntry) -> T) -> Option<T> {
        self.lock().by_uid.get_mut(uid).map(|entry| f(entry))
    }

    /// Registers the Secrets and ConfigMaps that a resource uses. Call it before reading them, so that no change is missed.
    pub(super) fn register_secrets(&self, uid: &str, namespace: &str, objects: BTreeSet<ReferencedObject>) {
        let mut entries = self.lock();
        let RegistryState {
            by_uid, by_secret, ..
        } = &mut *entries;
        let Some(uid) = by_uid.get_key_value(uid).map(|(uid, _)| Arc::clone(uid)) else {
            return;
        };
        let mut used = Vec::with_capacity(objects.len());
        for object in objects {
            let namespace = namespace.into();
            // The resources that use an object share one allocation of its name, and of their UID.
            let users = by_secret.entry(Arc::new(WatchedObject { namespace, object }));
            used.push(Arc::clone(users.key()));
            users.or_default().insert(Arc::clone(&uid));
        }
        let entry = by_uid.get_mut(&uid);
        let gone = entry.map(|entry| entry.secrets.begin_reading(used));
        for watched in gone.unwrap_or_default() {
            remove_user(by_secret, &uid, &watched);
        }
    }

    /// Records the versions of the Secrets that were read.
    pub(super) fn record_secrets(&self, uid: &str, fetched: &FetchedSecrets) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.secrets.end_reading(fetched);
        }
    }

    /// Records the version of a Secret or ConfigMap from the watch. `None`: deleted. Returns the resources that use another
    /// version.
    pub(super) fn observe_secret(&self, watched: &WatchedObject, version: Option<&str>) -> Vec<ExportName> {
        let mut entries = self.lock();
        let RegistryState {
            by_uid, by_secret, ..
        } = &mut *entries;
        let Some(users) = by_secret.get(watched) else {
            return Vec::new();
        };
        let mut woken = Vec::new();
        for uid in users {
            let Some(entry) = by_uid.get_mut(uid) else {
                continue;
            };
            if entry.secrets.observe_version(&watched.object, version) {
                woken.push(entry.name.clone());
            }
        }
        woken
    }

    /// Returns all Secrets and ConfigMaps in use, to compare them with a complete list of the cluster.
    pub(super) fn used_secrets(&self) -> HashSet<Arc<WatchedObject>> {
        self.lock().by_secret.keys().cloned().collect()
    }

    /// Records that sessions cannot be deleted, for a reason that a retry does not change.
    pub(super) fn mark_release_impossible(&self, uid: &str, spec: u64, why: String) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.state = TaskState::Finished {
                spec,
                result: FinishedTask::ReleaseImpossible,
            };
            entry.secrets.stale = false;
            entry.restart_requested = false;
            entry.release_report.get_or_insert_default().unknown = Some(why);
        }
    }

    /// Records that the export of a resource waits for its start: `wait` gets the number of the task, and starts the wait,
    /// which ends with [`ExportRegistry::start_queued`].
    pub(super) fn queue_export(&self, uid: &str, spec: u64, wait: impl FnOnce(u64) -> AbortOnDropHandle<()>) {
        let mut entries = self.lock();
        let Some((serial, entry)) = entries.next_task(uid) else {
            return;
        };
        entry.reset_for_run();
        entry.state = TaskState::Queued {
            serial,
            spec,
            _wait: wait(serial),
        };
    }

    /// Records the task that `spawn` starts for an export that waited for it. Does nothing if it waits no longer.
    pub(super) fn start_queued(
        &self,
        uid: &str,
        serial: u64,
        task: Task,
        spawn: impl FnOnce(TaskId, Task) -> RunningTask,
    ) {
        let mut entries = self.lock();
        let Some(entry) = entries.by_uid.get_mut(uid) else {
            return;
        };
        if !matches!(&entry.state, TaskState::Queued { serial: queued, .. } if *queued == serial) {
            return;
        }
        // What was requested while it waited.
        entry.reset_for_run();
        start(entry, uid, serial, |id| spawn(id, task));
    }

    /// Records the task that `spawn` starts to delete the sessions of a resource.
    pub(super) fn start_release(
        &self,
        uid: &str,
        runner: Arc<dyn ExportRunner>,
        spawn: impl FnOnce(TaskId, Task) -> RunningTask,
    ) {
        let mut entries = self.lock();
        let Some((serial, entry)) = entries.next_task(uid) else {
            return;
        };
        (entry.restart_requested, entry.failure) = (false, None);
        entry.runner = Some(runner.clone());
        start(entry, uid, serial, |id| spawn(id, Task::Release(runner)));
    }

    /// Records what a task reports, unless another task has started since. Returns the resource to reconcile.
    pub(super) fn apply(&self, event: RunEvent) -> Option<ExportName> {
        let RunEvent { task, kind } = event;
        match kind {
            RunEventKind::Changed => {}
            RunEventKind::Prepared(runner) => {
                let mut entries = self.lock();
                let entry = entries.by_uid.get_mut(&task.uid)?;
                if matches!(&entry.state, TaskState::Running(running) if running.serial == task.serial) {
                    // It replaces the runner of the previous task and its credentials.
                    entry.runner = Some(runner);
                }
                return None;
            }
            RunEventKind::Ended(outcome) => self.finish_task(&task.uid, task.serial, outcome),
        }
        Some(task.name)
    }

    /// Asks the task to stop; its end triggers a reconcile. One that waits for its start is removed at once.
    pub(super) fn stop(&self, uid: &str) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.stop();
        }
    }

    /// Restarts an export if `condition` holds, also before a pause has passed: stops its task if there is one. Returns the
    /// resource to reconcile.
    pub(super) fn restart_if(
        &self,
        uid: &str,
        condition: impl FnOnce(&ExportEntry) -> bool,
    ) -> Option<ExportName> {
        let mut entries = self.lock();
        let entry = entries.by_uid.get_mut(uid).filter(|entry| condition(entry))?;
        (entry.restart_requested, entry.failures) = (true, 0);
        if let TaskState::Running(running) = &entry.state
            && running.kind == TaskKind::Export
        {
            running.stop.cancel();
        }
        Some(entry.name.clone())
    }

    /// Gives a running task the newer spec of its resource. Returns false if it cannot take it.
    pub(super) fn apply_spec(&self, uid: &str, object: &Arc<EventExport>, export: ExportSpec) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.by_uid.get_mut(uid) else {
            return false;
        };
        let (TaskState::Running(running), Some(runner)) = (&mut entry.state, &mut entry.runner) else {
            return false;
        };
        let export = Arc::new(export);
        *runner = runner.with_export(&export);
        (running.spec, running.object) = (spec_digest(&object.spec), object.clone());
        running.updates.send_modify(|update| {
            update.number += 1;
            update.export = Some(export);
        });
        true
    }

    /// Aborts the task.
    pub(super) fn abort(&self, uid: &str) {
        if let Some(entry) = self.lock().by_uid.get_mut(uid) {
            entry.abort();
        }
    }

    fn finish_task(&self, uid: &str, serial: u64, outcome: TaskOutcome) {
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
        // No spec has the digest 0: what ended before it took the newest one over is not its result.
        let spec = match &outcome {
            TaskOutcome::Exported(snapshot) | TaskOutcome::GaveWay(snapshot)
                if !running.has_applied(snapshot) =>
            {
                0
            }
            _ => running.spec,
        };
        let result = match outcome {
            TaskOutcome::Exported(snapshot) => {
                if snapshot.observed {
                    entry.complete_spec = NonZero::new(spec).filter(|_| snapshot.complete);
                }
                after_export(entry, uid, snapshot, now)
            }
            TaskOutcome::GaveWay(snapshot) => {
                let bucket = running.object.spec.destination.s3.bucket.clone();
                after_giving_way(entry, uid, snapshot, &bucket, now)
            }
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

    /// Removes a deleted resource, and asks its task to stop.
    pub(super) fn remove(&self, uid: &str) {
        let mut entries = self.lock();
        let Some(mut entry) = entries.by_uid.remove(uid) else {
            return;
        };
        entry.stop();
        if entries
            .by_name
            .get(&entry.name)
            .is_some_and(|known| **known == *uid)
        {
            entries.by_name.remove(&entry.name);
        }
        for watched in entry.secrets.objects() {
            remove_user(&mut entries.by_secret, uid, watched);
        }
    }

    /// Removes the earlier resource of the same name: the watch may have missed its deletion. Does nothing if the watch
    /// delivers an old version.
    pub(super) fn replace_recreated(&self, object: &EventExport) {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let known = {
            let entries = self.lock();
            let known = entries.by_name.get(&ExportName::of(object)).cloned();
            known.filter(|known| {
                let entry = entries.by_uid.get(known);
                **known != *uid && !entry.is_some_and(|entry| entry.is_newer_than(object))
            })
        };
        if let Some(known) = known {
            self.remove(&known);
        }
    }

    /// Returns the resources with a running task, or with a result that no status shows yet.
    pub(super) fn unwritten_exports(&self) -> Vec<ExportName> {
        let entries = self.lock();
        let running = entries.by_uid.values().filter(|entry| {
            let unwritten = matches!(entry.state, TaskState::Running(_))
                || entry.last_run.is_some()
                || entry.verification.is_some();
            unwritten && !entry.served_by_other()
        });
        running.map(|entry| entry.name.clone()).collect()
    }

    /// Asks all tasks to stop, and starts none any more. They delete their sessions.
    pub(super) fn stop_all(&self) {
        let mut entries = self.lock();
        entries.closed = true;
        for entry in entries.by_uid.values_mut() {
            entry.stop();
        }
    }

    /// Returns the names of exports with a running task, at most [`MAX_LOGGED_NAMES`].
    pub(super) fn running_names(&self) -> String {
        let entries = self.lock();
        let running = entries.by_uid.values().filter(|entry| match &entry.state {
            TaskState::Running(running) => !running.abort.is_finished(),
            _ => false,
        });
        let names: Vec<String> = running
            .take(MAX_LOGGED_NAMES)
            .map(|entry| entry.name.to_string())
            .collect();
        names.join(", ")
    }

    /// Aborts all tasks.
    pub(super) fn abort_all(&self) {
        for entry in self.lock().by_uid.values_mut() {
            entry.abort();
        }
    }
}

fn start(entry: &mut ExportEntry, uid: &str, serial: u64, spawn: impl FnOnce(TaskId) -> RunningTask) {
    let (uid, name) = (uid.into(), entry.name.clone());
    entry.state = TaskState::Running(Box::new(spawn(TaskId { uid, name, serial })));
}

impl ResourceSource for ExportRegistry {
    fn all(&self) -> Vec<NamedResource> {
        let named = |entry: &ExportEntry| {
            let (namespace, name) = (entry.name.namespace().to_owned(), entry.name.name().to_owned());
            let facts = entry.facts.as_deref().cloned();
            (namespace, name, facts.unwrap_or_default())
        };
        let entries = self.lock();
        let served = entries.by_uid.values().filter(|entry| !entry.served_by_other());
        served.map(|entry| named(entry)).collect()
    }
}

/// Returns the result of a run that ended, with the time of the next one.
fn after_export(entry: &mut ExportEntry, uid: &str, snapshot: Arc<Snapshot>, now: Timestamp) -> FinishedTask {
    let daily = daily_run(now, uid);
    let next = match snapshot.next_run_at {
        Some(next) => next.min(daily),
        None if snapshot.observed => daily,
        None => later(now, UNOBSERVED_IDLE),
    };
    // The run ended before it saw the request: the next one answers it.
    if let Some(look) = entry.look.as_mut().filter(|look| look.number > snapshot.looked) {
        look.number = 0;
        entry.restart_requested = true;
    }
    if snapshot.observed {
        entry.failures = 0;
        entry.sessions = Some(!snapshot.sessions.is_empty());
    }
    entry.retry_state.clone_from(&snapshot.retry_state);
    let export = entry.runner.as_ref().map(|runner| runner.export().clone());
    entry.last_run = export.map(|export| (snapshot, export));
    let next = next.max(later(now, MIN_IDLE));
    if entry.retry_state.is_some() {
        FinishedTask::Waiting(next)
    } else {
        FinishedTask::Idle(next)
    }
}

/// Returns the time of the daily run of an idle export: its own time of day, between 1 and 25 h from `now`. It does not
/// depend on when a process started, so a restart changes no status.
fn daily_run(now: Timestamp, uid: &str) -> Timestamp {
    const DAY: i64 = 24 * 3600;
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    let offset = i64::try_from(hasher.finish() % DAY.unsigned_abs()).unwrap_or(0);
    let earliest = now.as_second().saturating_add(3600);
    let wait = (offset - earliest).rem_euclid(DAY);
    Timestamp::from_second(earliest.saturating_add(wait)).unwrap_or(Timestamp::MAX)
}

/// Returns the result of a run that gave its place up: it is tried again, with more time.
fn after_giving_way(
    entry: &mut ExportEntry,
    uid: &str,
    mut snapshot: Arc<Snapshot>,
    bucket: &str,
    now: Timestamp,
) -> FinishedTask {
    let failures = entry.failures;
    let seconds = slow_start_time(failures).as_secs();
    if !snapshot.observed {
        let message = format!(
            "bucket {bucket} was not listed within {seconds} s of the start, while other exports waited to start: it is tried again with more time"
        );
        return after_blocked(
            entry,
            Failure::retry(Reason::DestinationUnreachable, message),
            now,
        );
    }
    let message = format!(
        "no session was needed or possible within {seconds} s of the start, while other exports waited to start: the service or its UAA may not answer; it is tried again with more time"
    );
    let retry_at = later(now, backoff(failures, MAX_FAILURE_BACKOFF));
    Arc::make_mut(&mut snapshot).problems.push(Problem {
        reason: Reason::SourceUnreachable,
        message,
        window: None,
        class: RetryClass::Retry(None),
        next_try: None,
        retry_at: Some(retry_at),
    });
    after_export(entry, uid, snapshot, now);
    entry.failures = failures.saturating_add(1);
    FinishedTask::Waiting(retry_at)
}

fn after_blocked(entry: &mut ExportEntry, failure: Failure, now: Timestamp) -> FinishedTask {
    let pause = match failure.class {
        RetryClass::Retry(_) => backoff(entry.failures, MAX_FAILURE_BACKOFF),
        RetryClass::Wait(_) | RetryClass::Manual => MAX_FAILURE_BACKOFF,
    };
    entry.failures = entry.failures.saturating_add(1);
    entry.failure = Some(Box::new(failure));
    FinishedTask::Failed(later(now, pause))
}

fn after_not_started(entry: &mut ExportEntry, now: Timestamp) -> FinishedTask {
    let pause = API_BACKOFF_BASE.saturating_mul(1 << entry.failures.min(16));
    entry.failures = entry.failures.saturating_add(1);
    FinishedTask::Failed(later(now, pause.min(MAX_API_BACKOFF)))
}

fn after_release(entry: &mut ExportEntry, released: ReleaseReport, now: Timestamp) -> FinishedTask {
    if released.leftover_sessions.is_empty() && released.unknown.is_none() {
        (entry.sessions, entry.release_report, entry.failures) = (Some(false), None, 0);
        return FinishedTask::Idle(now);
    }
    let permanent = released.permanent;
    entry.release_report = Some(Box::new(released));
    if permanent && !entry.runner_rebuilt {
        // The credentials came from memory. Retries once with those of the Secrets, which may be newer.
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
    let message = "the export crashed (a defect of the operator, see its log); the operator retries it";
    let failure = Failure::retry(Reason::Failed, message).export_wide();
    entry.failure = Some(Box::new(failure));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_exports_run_at_their_own_time_of_day() {
        let now = Timestamp::from_second(1_528_500_000).unwrap();
        let runs: Vec<Timestamp> = (0..1000).map(|n| daily_run(now, &n.to_string())).collect();
        let in_hours = |at: &Timestamp| at.duration_since(now).as_hours();
        assert!(runs.iter().all(|at| (1..=25).contains(&in_hours(at))));
        let early = runs.iter().filter(|at| in_hours(at) < 13).count();
        assert!((400..600).contains(&early), "{early}");
        // A process that starts later states the same time, until it has passed.
        for (n, at) in runs.iter().enumerate() {
            let later = at.checked_sub(SignedDuration::from_hours(1)).unwrap();
            assert_eq!(daily_run(later, &n.to_string()), *at);
            let next = at.checked_add(SignedDuration::from_hours(24)).unwrap();
            assert_eq!(daily_run(*at, &n.to_string()), next);
        }
    }

    #[tokio::test]
    async fn an_export_that_waits_for_its_start_holds_no_task_once_it_is_stopped() {
        let spec = serde_json::json!({
            "space": "s", "dateRange": {"start": "2018-06-01"},
            "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}},
            "destination": {"s3": {"bucket": "audit"}},
        });
        let object = EventExport::new("june", serde_json::from_value(spec).unwrap());
        let (registry, _woken) = ExportRegistry::new(Timestamp::now);
        registry.with_or_insert("uid", &object, |_| ());
        let queue = || {
            let (ended, end) = tokio::sync::oneshot::channel::<()>();
            let mut number = 0;
            registry.queue_export("uid", 1, |serial| {
                number = serial;
                AbortOnDropHandle::new(tokio::spawn(async move {
                    let _ended = ended;
                    std::future::pending::<()>().await;
                }))
            });
            (number, end)
        };
        let waits = || {
            let waits = |entry: &mut ExportEntry| matches!(entry.state, TaskState::Queued { .. });
            registry.with("uid", waits).unwrap()
        };
        let place = super::super::start_places::StartPlaces::new();
        let tenant = crate::shares::queue::Tenant::new("", "s", "june");
        let (stopped, end) = queue();
        assert!(waits());
        registry.stop("uid");
        assert!(!waits());
        assert!(end.await.is_err(), "its task is gone");
        // Its place came too late, while it waits again.
        let (_again, end) = queue();
        let task = Task::Export {
            place: place.acquire("peers", &tenant, 0).await,
            prepare: Box::new(|| unreachable!()),
        };
        registry.start_queued("uid", stopped, task, |_, _| unreachable!());
        assert!(waits());
        registry.stop_all();
        assert!(end.await.is_err());
        queue();
        assert!(!waits(), "nothing starts any more");
    }
}
