//! The loop of a run: list the bucket, decide, start tasks, publish a snapshot, wait for results.
//!
//! Decisions are pure (`decide`); effects are tasks, and only this loop changes the journal in memory. I/O.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::active_work::EventEffect;
use super::attempt::export_window;
use super::attempt_state::PriorEvidence;
use super::day_schedule::DaySchedule;
use super::decide::{HELD_RELIST_INTERVAL, RunDecision, RunObservation, decide, other_hours_events};
use super::document_task::{DocumentKind, DocumentTask};
use super::documents::Documents;
use super::failure::{Failure, Observed, Problem};
use super::journal_io::put_record;
use super::recovery::{InterruptedAttempt, adopt_object, recover_attempt};
use super::report_state::ReportState;
use super::retry_state::RetryState;
use super::revision::confirm_count;
use super::run_context::{RunContext, RunInbox, STOP_TIMEOUT};
use super::run_control::{RunControl, SpecUpdate};
use super::run_snapshot::build_snapshot;
use super::run_state::RunState;
use super::run_tasks::{RunTask, RunTaskEnd, RunTaskResult, RunTasks};
use super::snapshot::Snapshot;
use super::spec::RetryPolicy;
use super::task_events::TaskEvent;
use crate::api::Reason;
use crate::archive::coverage::Confirmation;
use crate::archive::layout::{AttemptId, Key};
use crate::archive::records::{ArchiveRecord, SplitRecord};
use crate::archive::window::Window;
use crate::storage::{PutMode, StoreError};

/// Interval between snapshots while transfers run: 1 s.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum sleep: 50 ms. A clock that stands still or goes back does not make the loop spin.
const SLEEP_MIN: Duration = Duration::from_millis(50);
/// Pause before the next decision, as a multiple of the time that the last one took. Each decision visits all windows;
/// this keeps it below a tenth of the time for any number of windows, and batches the results that arrive meanwhile.
const PACE_FACTOR: u32 = 9;
/// Maximum pause between decisions: 100 ms.
const PACE_MAX: Duration = Duration::from_millis(100);
/// Minimum pause between decisions: 1 ms, the resolution of the timer.
const PACE_MIN: Duration = Duration::from_millis(1);
/// Minimum wait for which a run ends whose bucket could not be listed: 5 s.
const WAIT_UNLISTED_MIN: Duration = Duration::from_secs(5);
/// Minimum wait for which a run with a small archive ends: 20 s. The next one lists the bucket again.
const WAIT_MIN: Duration = Duration::from_secs(20);
/// Minimum wait for which a run with a large archive ends, which takes many requests to list: 2 min.
const WAIT_LARGE_MIN: Duration = Duration::from_mins(2);
/// Maximum windows with a receipt in a small archive: about those of a page of the listing.
const SMALL_ARCHIVE_WINDOWS: usize = 300;
/// Maximum sleep: 10 min. A clock that is set does not make the loop oversleep.
const SLEEP_MAX: Duration = Duration::from_mins(10);

/// One run of an export: its state, its tasks, and those who ask it for something.
pub(super) struct ExportRun {
    ctx: Arc<RunContext>,
    state: RunState,
    inbox: RunInbox,
    tasks: RunTasks,
    /// True if `export_backoff` exists because listing the bucket failed.
    listing_failed: bool,
    /// True if the last decision found an attempt of another holder; the bucket is then listed again from time to time.
    held_by_other: bool,
    /// True if this shard has listed the bucket once more at its end.
    relisted_for_shards: bool,
    /// Time at which this run started its first window.
    first_transfer_at: Option<Timestamp>,
    /// Requests to look again.
    look: watch::Receiver<u64>,
    /// Number of the last request that was answered.
    looked: u64,
    /// Newer specs.
    updates: watch::Receiver<SpecUpdate>,
    /// Number of the last one that was taken over.
    applied: u64,
}

/// Returns the count of the service that a failed attempt observed.
fn observed_count(failure: &Failure) -> Option<u64> {
    match failure.observed {
        Some(Observed::Count(count)) => Some(count),
        Some(Observed::BeforeOldest) | None => None,
    }
}

impl ExportRun {
    pub(super) fn new(ctx: Arc<RunContext>, inbox: RunInbox, control: RunControl) -> Self {
        let RunControl {
            stop: _,
            look,
            head,
            updates,
            sessions: _,
            retry_state,
        } = control;
        let retry_state = retry_state.map_or_else(
            || RetryState {
                session_wait: ctx.shared.limits.session_wait,
                report: ReportState {
                    since: (ctx.shared.now)(),
                    ..ReportState::default()
                },
                ..RetryState::default()
            },
            Arc::unwrap_or_clone,
        );
        let documents = Documents::new(head, ctx.export.abandoned_head.as_ref());
        let days = DaySchedule::new(ctx.shared.limits.listing_max_age);
        Self {
            ctx,
            state: RunState::new(retry_state, documents, days),
            inbox,
            tasks: RunTasks::default(),
            listing_failed: false,
            held_by_other: false,
            relisted_for_shards: false,
            first_transfer_at: None,
            look,
            looked: 0,
            updates,
            applied: 0,
        }
    }

    /// Runs until nothing is left to do or the run is stopped; publishes and returns the last snapshot.
    pub(super) async fn run(mut self, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        loop {
            if self.ctx.stop.is_cancelled() {
                return self.stop(out).await;
            }
            self.look_again();
            self.take_update();
            self.refresh_journal().await;
            let decide_started = Instant::now();
            let decision = self.decide();
            let mut spent = decide_started.elapsed();
            let mut problems = decision.problems.iter();
            self.held_by_other = problems.any(|problem| problem.reason == Reason::HeldByOther);
            let idle = decision.idle;
            let lists_days = self.list_days(&decision);
            let list_at = self.state.days.next_time(&decision, self.now());
            let wake = decision.wake.into_iter().chain(list_at).min();
            let changed = self.act(decision.clone()).await;
            let publish_started = Instant::now();
            let snapshot = self.publish_snapshot(&decision, out);
            spent += publish_started.elapsed();
            if idle && !changed && !lists_days {
                if self.relist_for_shards() {
                    // Nothing to wait for.
                    continue;
                }
                return snapshot;
            }
            if !changed {
                if let Some(wake) = wake.filter(|wake| self.may_end_to_wait(*wake)) {
                    return self.end_to_wait(&snapshot, wake);
                }
                self.pause(spent).await;
                self.wait(wake).await;
            }
        }
    }

    /// Returns true if the run may end and be started again at `wake`: nothing runs, and that costs less than to keep the
    /// clients and the journal until then.
    fn may_end_to_wait(&self, wake: Timestamp) -> bool {
        let restarted = self.ctx.export.retry_policy == RetryPolicy::Forever;
        let least = match self.state.journal.listed() {
            None => WAIT_UNLISTED_MIN,
            Some(journal) if journal.receipts.len() <= SMALL_ARCHIVE_WINDOWS => WAIT_MIN,
            Some(_) => WAIT_LARGE_MIN,
        };
        let wait = Duration::try_from(wake.duration_since(self.now())).unwrap_or_default();
        restarted && self.tasks.is_empty() && wait >= least && self.state.retry_state.is_small()
    }

    /// Returns the last snapshot of a run that ends to wait.
    fn end_to_wait(self, snapshot: &Snapshot, wake: Timestamp) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            next_run_at: Some(wake),
            retry_state: Some(Arc::new(self.state.retry_state)),
            ..snapshot.clone()
        })
    }

    /// Ends all waits if a user asks to look now. The bucket and the days of the service are then listed again.
    fn look_again(&mut self) {
        // An error means that nobody can ask.
        if self.look.has_changed().unwrap_or(false) {
            self.look.mark_unchanged();
            self.end_waits();
            tracing::info!("looking again as requested");
        }
    }

    /// Ends all waits: the bucket and the days of the service are listed again. Transfers go on.
    fn end_waits(&mut self) {
        self.state.journal.drop_listing();
        self.state.days.list_now();
        let now = self.now();
        self.state.retry_state.retry_all(now);
    }

    /// Takes a newer spec over. Tasks that run go on with the one that they began with.
    fn take_update(&mut self) {
        // An error means that nobody sends one.
        if !self.updates.has_changed().unwrap_or(false) {
            return;
        }
        let SpecUpdate { number, export } = self.updates.borrow_and_update().clone();
        let Some(export) = export else { return };
        self.state
            .documents
            .forget_abandoned(export.abandoned_head.as_ref());
        self.ctx = Arc::new(self.ctx.with_export(export));
        self.applied = number;
        // The periods of manifests and the days to compare may be others.
        self.state.retry_state.sealed.clear();
        self.state.retry_state.documents.remove(&DocumentKind::Manifest);
        self.state.retry_state.head_due = self.state.documents.head().is_some();
        self.state.days.forget_counts();
        // A person who changes a spec expects a try at once.
        self.end_waits();
        tracing::info!(export = self.ctx.export.name, "spec changed, transfers go on");
    }

    /// Lists the bucket if the journal is missing or stale, unless the export is backing off.
    async fn refresh_journal(&mut self) {
        let now = self.now();
        let stale = self.held_by_other && self.state.journal.age(now) >= HELD_RELIST_INTERVAL;
        let failed = self.state.retry_state.export_backoff.as_ref();
        if self.state.journal.listed().is_some() && !stale
            || failed.is_some_and(|failed| failed.is_backing_off(now))
        {
            return;
        }
        let looking = *self.look.borrow();
        match self.state.journal.list(&self.ctx).await {
            // Stopped: the loop ends the run.
            Ok(None) => {}
            Ok(Some(links)) => {
                self.state.documents.add_links(links);
                self.state.retry_state.sealed.clear();
                self.state.retry_state.head_due = self.state.documents.head().is_some();
                self.looked = looking;
                if std::mem::take(&mut self.listing_failed) {
                    self.state.retry_state.export_backoff = None;
                }
            }
            Err(failure) => {
                let now = self.now();
                self.listing_failed = true;
                self.state
                    .retry_state
                    .record_export_failure(failure.export_wide(), now, rand::random());
            }
        }
    }

    /// Makes a shard that stored something list the bucket once more before it ends: the shard that ends last sees the
    /// complete coverage and writes the manifest. Returns true if the bucket must be listed again.
    fn relist_for_shards(&mut self) -> bool {
        let relist = !self.ctx.export.shard.is_single()
            && !self.state.stored_now.is_empty()
            && !std::mem::replace(&mut self.relisted_for_shards, true);
        if relist {
            self.state.journal.drop_listing();
        }
        relist
    }

    fn decide(&mut self) -> RunDecision {
        self.apply_events();
        let Some(journal) = self.state.journal.listed() else {
            return self.decide_unlisted();
        };
        let (active, in_progress) = (self.tasks.windows(), self.attempts_in_progress());
        let writing = self.tasks.documents();
        let now = self.now();
        decide(&RunObservation {
            export: &self.ctx.export,
            journal,
            active: &active,
            in_progress: &in_progress,
            writing: &writing,
            stamps: self.ctx.peers.timestamps.is_some(),
            signs: self.ctx.peers.signing.available().is_some(),
            retry_state: &self.state.retry_state,
            oldest_listed: self
                .ctx
                .listing_cache
                .retention()
                .map(|retention| retention.oldest),
            counts: self.state.days.counts(),
            recheck_due: self.state.days.is_recheck_due(),
            listed_at: self.state.journal.listed_at(),
            now,
            store_now: self.state.journal.store_time(now),
        })
    }

    /// Decides only when to list the bucket again: nothing else is known yet.
    fn decide_unlisted(&self) -> RunDecision {
        let retry_policy = self.ctx.export.retry_policy;
        let Some(export_backoff) = &self.state.retry_state.export_backoff else {
            return RunDecision::default();
        };
        let exhausted = export_backoff.is_exhausted(retry_policy);
        let failure = &export_backoff.failure;
        let message = failure.describe(&self.ctx.export.setting_names);
        let Failure { reason, class, .. } = *failure;
        let retry_at = (!exhausted).then_some(export_backoff.retry_at);
        let problems = vec![Problem {
            reason,
            message,
            window: None,
            class,
            next_try: export_backoff.next_try(retry_policy),
            retry_at,
        }];
        RunDecision {
            problems,
            wake: retry_at,
            // Running tasks may hold open sessions.
            idle: exhausted && self.tasks.is_empty(),
            ..RunDecision::default()
        }
    }

    /// Lists the days of the service when that is due. Returns true while it is in progress.
    fn list_days(&mut self, decision: &RunDecision) -> bool {
        let (listed, running) = (self.state.journal.listed().is_some(), self.is_listing_days());
        if let Some(request) = self.state.days.next_request(decision, listed, running) {
            self.spawn(RunTask::ListDays, move |ctx| async move {
                RunTaskResult::ListDays(request.send(&ctx).await)
            });
        }
        self.is_listing_days()
    }

    fn is_listing_days(&self) -> bool {
        self.tasks.is_running(|task| *task == RunTask::ListDays)
    }

    /// Starts the decided tasks. Returns true if the state changed immediately, so that the next decision is due.
    async fn act(&mut self, decision: RunDecision) -> bool {
        let mut changed = false;
        for day in decision.split {
            changed |= self.split_day(day).await;
        }
        self.recover(decision.recover);
        for window in decision.adopt {
            self.spawn(RunTask::Adopt(window), move |ctx| async move {
                let span = ctx.window_span(window);
                RunTaskResult::Adopt(window, adopt_object(&ctx, window).instrument(span).await)
            });
        }
        if let Some(task) = decision.document {
            self.write_document(task);
        }
        for confirmation in decision.confirm {
            self.confirm(confirmation);
        }
        let journaled_sessions = Arc::new(self.state.journal.sessions(&self.ctx.export.holder));
        for window in decision.start.into_iter().chain(decision.revise) {
            let growth = decision.coverage.grown.get(&window.date());
            let Ok(revision) = self.state.journal.revision_target(window, growth) else {
                continue;
            };
            self.first_transfer_at.get_or_insert((self.ctx.shared.now)());
            let journal = self.state.journal.listed();
            let last = self.state.retry_state.windows.get(&window);
            let prior = PriorEvidence {
                other_hours: journal
                    .and_then(|journal| other_hours_events(journal, &self.ctx.export, window)),
                before_oldest_since: self.state.retry_state.before_oldest_since(window),
                uncounted_before: last.is_some_and(|last| last.failure.reason == Reason::EventsUncounted),
                revision,
                last_failure: last.map(|last| (last.failure.reason, observed_count(&last.failure))),
                journaled_sessions: Arc::clone(&journaled_sessions),
            };
            self.spawn(RunTask::Window(window), move |ctx| async move {
                RunTaskResult::Window(window, export_window(&ctx, window, prior).await)
            });
        }
        changed
    }

    /// Starts the task that confirms the newest count of a stored window.
    fn confirm(&mut self, confirmation: Confirmation) {
        let Confirmation { window, reported } = confirmation;
        let Some(revisions) = self.state.journal.revisions(window) else {
            return;
        };
        self.spawn(RunTask::Confirm(window), move |ctx| async move {
            let confirmed = confirm_count(&ctx, window, revisions, reported).await;
            RunTaskResult::Confirm(window, confirmed)
        });
    }

    /// Starts the recovery of interrupted attempts.
    fn recover(&mut self, attempts: Vec<AttemptId>) {
        let (Some(journal), false) = (self.state.journal.listed(), attempts.is_empty()) else {
            return;
        };
        let closed = Arc::new(self.state.work.closed_attempts().clone());
        let known = journal.attempts.keys().chain(&*closed).copied();
        let idle = known.filter(|id| !self.state.work.attempts().contains(id));
        let idle = Arc::new(idle.collect::<BTreeSet<AttemptId>>());
        let interrupted: Vec<InterruptedAttempt> = attempts
            .into_iter()
            .map(|id| InterruptedAttempt {
                id,
                facts: journal.attempts.get(&id).cloned().unwrap_or_default(),
                closed: Arc::clone(&closed),
                idle: Arc::clone(&idle),
            })
            .collect();
        for interrupted in interrupted {
            let id = interrupted.id;
            self.spawn(RunTask::Recover(id), move |ctx| async move {
                let user_known = ctx.tracker_user().is_some();
                let recovered = recover_attempt(&ctx, &interrupted);
                let recovered = recovered.instrument(ctx.recovery_span(id)).await;
                RunTaskResult::Recover(id, user_known, recovered)
            });
        }
    }

    fn spawn<F>(&mut self, task: RunTask, work: impl FnOnce(Arc<RunContext>) -> F)
    where
        F: Future<Output = RunTaskResult> + Send + 'static,
    {
        let ctx = Arc::clone(&self.ctx);
        self.tasks.spawn(task, || work(ctx));
    }

    async fn split_day(&mut self, day: Window) -> bool {
        let why = self
            .state
            .retry_state
            .windows
            .get(&day)
            .map_or_else(String::new, |entry| entry.failure.message.clone());
        tracing::info!(%day, error = why, "exporting day by the hour");
        let record = SplitRecord {
            schema: SplitRecord::SCHEMA.to_owned(),
            why,
            at: self.now(),
        };
        let root = &self.ctx.export.root;
        let written = put_record(
            &*self.ctx.peers.store,
            root,
            &Key::Split(day),
            &record,
            PutMode::Create,
        )
        .await;
        match written {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {
                self.state.retry_state.windows.remove(&day);
                if let Some(journal) = self.state.journal.listed_mut() {
                    journal.splits.insert(day);
                }
                true
            }
            Err(error) => {
                let now = self.now();
                self.state.retry_state.record_export_failure(
                    Failure::from(&error).export_wide(),
                    now,
                    rand::random(),
                );
                false
            }
        }
    }

    /// Starts the task that writes a document.
    fn write_document(&mut self, task: DocumentTask) {
        let Some(journal) = self.state.journal.listed() else {
            return;
        };
        let (ctx, sealed) = (Arc::clone(&self.ctx), &self.state.retry_state.sealed);
        let work = self.state.documents.work(task, ctx, journal, sealed);
        self.spawn(RunTask::Document(task), |_| async move {
            RunTaskResult::Document(task, work.await)
        });
    }

    /// Waits for a result, the stop signal, a new session or `wake`, and processes all results that are there.
    async fn wait(&mut self, wake: Option<Timestamp>) {
        let until = wake.map_or(SLEEP_MAX, |at| {
            Duration::try_from(at.duration_since(self.now())).unwrap_or_default()
        });
        let (started, until) = (Instant::now(), until.min(SLEEP_MAX).max(SLEEP_MIN));
        let stop = self.ctx.stop.clone();
        let end = loop {
            let publish = if self.state.work.is_transferring() {
                PUBLISH_INTERVAL
            } else {
                SLEEP_MAX
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = self.look.changed() => {
                    self.look.mark_changed();
                    return;
                }
                Ok(()) = self.updates.changed() => {
                    self.updates.mark_changed();
                    return;
                }
                () = tokio::time::sleep_until(started + until.min(publish)) => return,
                Some(event) = self.inbox.events.recv() => {
                    if self.apply(event) != EventEffect::Noted {
                        return;
                    }
                }
                Some(end) = self.tasks.next() => break end,
            }
        };
        self.record_end(end).await;
        while let Some(end) = self.tasks.try_next() {
            self.record_end(end).await;
        }
    }

    /// Applies an event of a task.
    fn apply(&mut self, event: TaskEvent) -> EventEffect {
        let effect = self.state.work.apply(event);
        if effect == EventEffect::UserKnown {
            self.inbox
                .tracker_user
                .send_replace(self.state.work.tracker_user().cloned());
            // Sessions that could not be attributed without the user can be checked now.
            self.state
                .retry_state
                .unrecovered
                .retain(|_, entry| entry.failure.reason != Reason::OrphanSessionSuspected);
        }
        effect
    }

    /// Applies the events that are there.
    fn apply_events(&mut self) {
        while let Ok(event) = self.inbox.events.try_recv() {
            self.apply(event);
        }
    }

    /// Pauses after a decision that took `spent`.
    async fn pause(&self, spent: Duration) {
        let pause = (spent * PACE_FACTOR).min(PACE_MAX);
        if pause >= PACE_MIN {
            let stopped = self.ctx.stop.cancelled();
            // The loop checks `stop` itself.
            let _ = tokio::time::timeout(pause, stopped).await;
        }
    }

    async fn stop(mut self, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        let finish = async {
            loop {
                tokio::select! {
                    Some(event) = self.inbox.events.recv() => drop(self.apply(event)),
                    end = self.tasks.next() => match end {
                        Some(end) => self.record_end(end).await,
                        None => break,
                    },
                }
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, finish).await.is_err() {
            tracing::warn!(
                export = self.ctx.export.name,
                "stopping before all sessions are deleted, the next run deletes them"
            );
        }
        let decision = self.decide();
        self.publish_snapshot(&decision, out)
    }

    fn publish_snapshot(&self, decision: &RunDecision, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        let snapshot = Arc::new(Snapshot {
            active: self.tasks.windows().len() as u64,
            first_transfer_at: self.first_transfer_at,
            looked: self.looked,
            applied: self.applied,
            ..build_snapshot(&self.ctx, &self.state, decision)
        });
        out.send_replace(Arc::clone(&snapshot));
        snapshot
    }

    /// Records the end of a task.
    async fn record_end(&mut self, end: RunTaskEnd) {
        // A task sends its events before it ends.
        self.apply_events();
        self.state.record_end(&self.ctx, end).await;
    }

    /// Returns the attempts that tasks of this process work on.
    fn attempts_in_progress(&self) -> BTreeSet<AttemptId> {
        let mut in_progress = self.tasks.recoveries();
        in_progress.extend(self.state.work.attempts());
        in_progress
    }

    fn now(&self) -> Timestamp {
        (self.ctx.shared.now)()
    }
}
