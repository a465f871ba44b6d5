//! The loop of a run: list the bucket, decide, start tasks, publish a snapshot, wait for results.
//!
//! Decisions are pure (`decide`); effects are tasks, and only this loop changes the journal in memory. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::active_work::{ActiveWork, EventEffect};
use super::attempt::{AttemptReport, PriorEvidence, WindowOutcome, export_window};
use super::commit::ReceiptWrite;
use super::decide::{HELD_RELIST_INTERVAL, RunDecision, RunObservation, decide, other_hours_events};
use super::document_task::{DocumentKind, DocumentTask};
use super::documents::{DocumentResult, Documents};
use super::engine::{RunControl, SpecUpdate};
use super::failure::{Failure, Observed, Problem, RetryClass};
use super::journal_io::{load_day, put_record};
use super::open::{JournaledSessions, conditional_writes_unsupported, stopped};
use super::recovery::{InterruptedAttempt, adopt_object, recover_attempt};
use super::report::ReportState;
use super::retry_state::RetryState;
use super::revision::{RevisionTarget, StoredRevisions, confirm_count};
use super::run_context::{RunContext, RunInbox};
use super::run_tasks::{RunTask, RunTaskEnd, RunTaskResult, RunTasks};
use super::snapshot::{PROBLEMS_MAX, SessionFacts, Snapshot};
use super::spec::RetryPolicy;
use super::task_events::TaskEvent;
use crate::api::Reason;
use crate::archive::counts::DayListing;
use crate::archive::coverage::{Confirmation, Growth};
use crate::archive::layout::{AttemptId, Key};
use crate::archive::listing::{Journal, overlap};
use crate::archive::read::read_receipts;
use crate::archive::receipt::{ReceiptFacts, Sha256Digest};
use crate::archive::records::{ArchiveRecord, Receipt, SplitRecord, encode};
use crate::archive::window::Window;
use crate::session::occupancy::SessionHolder;
use crate::storage::{PutMode, StoreError};

/// Time until the days of the service are listed again after a failure: 5 min.
const LIST_DAYS_RETRY: Duration = Duration::from_mins(5);
/// Pause after a failure to get the newest counts of the service: 2 s.
const RECHECK_RETRY: Duration = Duration::from_secs(2);
/// Interval between snapshots while transfers run: 1 s.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum time that a stopping run waits for its sessions to be deleted: 20 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
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

/// One run of an export: its journal in memory, its retry state and its tasks.
pub(super) struct ExportRun {
    ctx: Arc<RunContext>,
    /// `None`: the bucket must be listed first.
    journal: Option<Journal>,
    retry_state: RetryState,
    documents: Documents,
    /// Attempts, sessions and transfers.
    work: ActiveWork,
    inbox: RunInbox,
    tasks: RunTasks,
    stored_now: BTreeSet<Window>,
    /// Windows whose receipt this run wrote or found. A listing that leaves one out is behind: the receipt is then read
    /// by its key.
    known_receipts: BTreeSet<Window>,
    /// True if this run has logged that a listing is behind.
    lag_logged: bool,
    /// True if `export_backoff` exists because listing the bucket failed.
    listing_failed: bool,
    /// Time of the last complete listing of the bucket.
    listed_at: Timestamp,
    /// Earliest time of the next listing of the service's days.
    list_days_at: Instant,
    /// True if that listing must be a new one, however young the last one is.
    list_days_again: bool,
    /// Newest counts of the service, to compare the stored days with.
    counts: Option<Arc<DayListing>>,
    /// Earliest time of the next comparison with newer counts; `None`: the first decision sets it.
    recheck_at: Option<Instant>,
    /// True if the listing in progress is for that comparison.
    rechecking: bool,
    /// True if the last decision found an attempt of another holder; the bucket is then listed again from time to time.
    held_by_other: bool,
    /// True if this shard has listed the bucket once more at its end.
    relisted_for_shards: bool,
    /// Clock of the store minus the local clock.
    store_clock_offset: SignedDuration,
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
        let documents = Documents::new(head, ctx.export.abandoned_head.as_ref());
        Self {
            retry_state: retry_state.map_or_else(
                || RetryState {
                    session_wait: ctx.shared.limits.session_wait,
                    report: ReportState {
                        since: (ctx.shared.now)(),
                        ..ReportState::default()
                    },
                    ..RetryState::default()
                },
                Arc::unwrap_or_clone,
            ),
            ctx,
            journal: None,
            documents,
            work: ActiveWork::default(),
            inbox,
            tasks: RunTasks::default(),
            stored_now: BTreeSet::new(),
            known_receipts: BTreeSet::new(),
            lag_logged: false,
            listing_failed: false,
            listed_at: Timestamp::UNIX_EPOCH,
            list_days_at: Instant::now(),
            list_days_again: false,
            counts: None,
            recheck_at: None,
            rechecking: false,
            held_by_other: false,
            relisted_for_shards: false,
            store_clock_offset: SignedDuration::ZERO,
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
            let wake = self.next_wake(&decision);
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
        let least = match &self.journal {
            None => WAIT_UNLISTED_MIN,
            Some(journal) if journal.receipts.len() <= SMALL_ARCHIVE_WINDOWS => WAIT_MIN,
            Some(_) => WAIT_LARGE_MIN,
        };
        let wait = Duration::try_from(wake.duration_since(self.now())).unwrap_or_default();
        restarted && self.tasks.is_empty() && wait >= least && self.retry_state.is_small()
    }

    /// Returns the last snapshot of a run that ends to wait.
    fn end_to_wait(self, snapshot: &Snapshot, wake: Timestamp) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            next_run_at: Some(wake),
            retry_state: Some(Arc::new(self.retry_state)),
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
        self.journal = None;
        (self.list_days_at, self.list_days_again) = (Instant::now(), true);
        self.recheck_at = Some(Instant::now());
        let now = self.now();
        self.retry_state.retry_all(now);
    }

    /// Takes a newer spec over. Tasks that run go on with the one that they began with.
    fn take_update(&mut self) {
        // An error means that nobody sends one.
        if !self.updates.has_changed().unwrap_or(false) {
            return;
        }
        let SpecUpdate { number, export } = self.updates.borrow_and_update().clone();
        let Some(export) = export else { return };
        self.documents.forget_abandoned(export.abandoned_head.as_ref());
        self.ctx = Arc::new(self.ctx.with_export(export));
        self.applied = number;
        // The periods of manifests and the days to compare may be others.
        self.retry_state.sealed.clear();
        self.retry_state.documents.remove(&DocumentKind::Manifest);
        self.retry_state.head_due = self.documents.head().is_some();
        self.counts = None;
        // A person who changes a spec expects a try at once.
        self.end_waits();
        tracing::info!(export = self.ctx.export.name, "spec changed, transfers go on");
    }

    /// Lists the bucket if the journal is missing or stale, unless the export is backing off.
    async fn refresh_journal(&mut self) {
        let age = self.now().duration_since(self.listed_at);
        let stale = self.held_by_other && age >= HELD_RELIST_INTERVAL;
        if self.journal.is_some() && !stale
            || self
                .retry_state
                .export_backoff
                .as_ref()
                .is_some_and(|export_backoff| export_backoff.is_backing_off(self.now()))
        {
            return;
        }
        let ctx = Arc::clone(&self.ctx);
        let store = &*ctx.peers.store;
        let looking = *self.look.borrow();
        let loaded = async {
            let mut journal = ctx.load_journal().await?;
            self.add_unlisted_receipts(&mut journal, |_| true).await?;
            Ok::<_, Failure>(journal)
        };
        let loaded = tokio::select! {
            loaded = loaded => loaded,
            // The loop ends the run.
            () = ctx.stop.cancelled() => return,
        };
        match loaded {
            Ok(mut journal) => {
                if let Ok(store_now) = store.now().await {
                    self.store_clock_offset = self.ctx.clock_offset(store_now);
                }
                self.ctx
                    .export
                    .mark_foreign_attempts(&mut journal, self.store_clock_offset);
                self.documents.add_links(std::mem::take(&mut journal.chain.links));
                self.ctx.remove_spent_attempts(&mut journal);
                self.journal = Some(journal);
                self.retry_state.sealed.clear();
                self.retry_state.head_due = self.documents.head().is_some();
                self.listed_at = self.now();
                self.looked = looking;
                if std::mem::take(&mut self.listing_failed) {
                    self.retry_state.export_backoff = None;
                }
            }
            Err(failure) => {
                let now = self.now();
                self.listing_failed = true;
                self.retry_state
                    .record_export_failure(failure.export_wide(), now, rand::random());
            }
        }
    }

    /// Adds the receipts of the wanted windows that exist although the listing leaves them out.
    async fn add_unlisted_receipts(
        &mut self,
        journal: &mut Journal,
        wanted: impl Fn(Window) -> bool,
    ) -> Result<(), Failure> {
        let known = self
            .known_receipts
            .iter()
            .copied()
            .filter(|window| wanted(*window));
        let unlisted: Vec<Window> = known
            .filter(|window| !journal.receipts.contains_key(window))
            .collect();
        let (Some(window), ctx) = (unlisted.first(), &self.ctx) else {
            return Ok(());
        };
        if !std::mem::replace(&mut self.lag_logged, true) {
            tracing::warn!(
                %window, receipts = unlisted.len(), store = %ctx.peers.store.identity(),
                "the listing of the bucket leaves out receipts that this run wrote or found, reading them by their keys"
            );
        }
        journal
            .receipts
            .extend(unlisted.into_iter().map(|window| (window, None)));
        read_receipts(&*ctx.peers.store, &ctx.export.root, journal, wanted)
            .await
            .map_err(|error| Failure::from(&error))
    }

    /// Makes a shard that stored something list the bucket once more before it ends: the shard that ends last sees the
    /// complete coverage and writes the manifest. Returns true if the bucket must be listed again.
    fn relist_for_shards(&mut self) -> bool {
        let relist = !self.ctx.export.shard.is_single()
            && !self.stored_now.is_empty()
            && !std::mem::replace(&mut self.relisted_for_shards, true);
        if relist {
            self.journal = None;
        }
        relist
    }

    fn decide(&mut self) -> RunDecision {
        self.apply_events();
        let Some(journal) = &self.journal else {
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
            retry_state: &self.retry_state,
            oldest_listed: self
                .ctx
                .listing_cache
                .retention()
                .map(|retention| retention.oldest),
            counts: self.counts.as_deref(),
            recheck_due: self.recheck_at.is_none_or(|at| Instant::now() >= at),
            listed_at: self.listed_at,
            now,
            store_now: now.checked_add(self.store_clock_offset).unwrap_or(now),
        })
    }

    /// Decides only when to list the bucket again: nothing else is known yet.
    fn decide_unlisted(&self) -> RunDecision {
        let retry_policy = self.ctx.export.retry_policy;
        let Some(export_backoff) = &self.retry_state.export_backoff else {
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

    /// Lists the days of the service, regularly: all days while the archive lacks some, since retention moves, and what was
    /// found to be expired may be listed again; the latest days to compare stored ones with the newest counts. Returns true
    /// while that is in progress.
    fn list_days(&mut self, decision: &RunDecision) -> bool {
        let now = Instant::now();
        if self.journal.is_some() && !decision.recheck && self.recheck_at.is_none_or(|at| now >= at) {
            // Nothing is stored yet. What this run stores is compared with the counts of its download.
            self.recheck_at = Some(now + self.ctx.shared.limits.listing_max_age);
        }
        let all = !decision.coverage.missing.is_empty() && now >= self.list_days_at;
        if (all || decision.recheck) && !self.is_listing_days() {
            let look = std::mem::take(&mut self.list_days_again);
            self.rechecking = decision.recheck;
            if all {
                self.list_days_at = now + self.ctx.shared.limits.listing_max_age;
            }
            self.spawn(RunTask::ListDays, move |ctx| async move {
                let list = async {
                    if all {
                        ctx.listing_cache.refresh(look).await
                    } else {
                        ctx.listing_cache.latest(look).await
                    }
                };
                let listed = tokio::select! {
                    listed = list => listed,
                    () = ctx.stop.cancelled() => Err(stopped()),
                };
                RunTaskResult::ListDays(listed)
            });
        }
        self.is_listing_days()
    }

    fn is_listing_days(&self) -> bool {
        self.tasks.is_running(|task| *task == RunTask::ListDays)
    }

    /// Returns the time of the next decision, which may be to list the days of the service.
    fn next_wake(&self, decision: &RunDecision) -> Option<Timestamp> {
        let left = self.list_days_at.saturating_duration_since(Instant::now());
        let list_at = self.now().checked_add(left).ok();
        let list_at = list_at.filter(|_| !decision.coverage.missing.is_empty());
        decision
            .wake
            .into_iter()
            .chain(list_at)
            .chain(self.recheck_time())
            .min()
    }

    /// Returns the time of the next comparison with newer counts, if it is not due already. It keeps no run alive.
    fn recheck_time(&self) -> Option<Timestamp> {
        let left = self.recheck_at?.checked_duration_since(Instant::now())?;
        self.now().checked_add(left).ok()
    }

    fn list_days_done(&mut self, outcome: Result<Option<Arc<DayListing>>, Failure>, now: Timestamp) {
        let max_age = self.ctx.shared.limits.listing_max_age;
        match outcome {
            Ok(counts) => {
                self.counts = counts;
                self.retry_state.recheck = None;
                self.recheck_at = Some(Instant::now() + max_age);
            }
            Err(failure) => {
                tracing::info!(reason = %failure.reason, error = failure.message, "cannot list the days of the service");
                self.list_days_at = Instant::now() + LIST_DAYS_RETRY.min(max_age);
                if !self.rechecking {
                    return;
                }
                let again = self
                    .retry_state
                    .record_recheck_failure(failure, now, rand::random());
                let retry = if again { RECHECK_RETRY } else { max_age };
                self.recheck_at = Some(Instant::now() + retry.min(max_age));
            }
        }
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
        let journaled_sessions = Arc::new(self.journaled_sessions());
        for window in decision.start.into_iter().chain(decision.revise) {
            let Ok(revision) = self.revision_target(window, &decision.coverage.grown) else {
                continue;
            };
            self.first_transfer_at.get_or_insert((self.ctx.shared.now)());
            let journal = self.journal.as_ref();
            let last = self.retry_state.windows.get(&window);
            let prior = PriorEvidence {
                other_hours: journal
                    .and_then(|journal| other_hours_events(journal, &self.ctx.export, window)),
                before_oldest_since: self.retry_state.before_oldest_since(window),
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

    /// Returns the revision to store of a window; `None` if the window is not stored. Error: no number is left.
    fn revision_target(
        &self,
        window: Window,
        grown: &BTreeMap<Date, Growth>,
    ) -> Result<Option<RevisionTarget>, ()> {
        let Some(growth) = grown.get(&window.date()) else {
            return Ok(None);
        };
        let receipts = self.journal.as_ref().map(|journal| &journal.receipts);
        let facts = receipts.and_then(|receipts| receipts.get(&window)?.as_ref());
        match facts {
            Some(facts) => RevisionTarget::next(facts, growth.reported).map(Some).ok_or(()),
            None => Ok(None),
        }
    }

    /// Starts the task that confirms the newest count of a stored window.
    fn confirm(&mut self, confirmation: Confirmation) {
        let Confirmation { window, reported } = confirmation;
        let journal = self.journal.as_ref();
        let facts = journal.and_then(|journal| journal.receipts.get(&window)?.as_ref());
        let Some(facts) = facts else { return };
        let revisions = StoredRevisions {
            current: facts.current_revision().map_or(0, |current| current.revision),
            highest: facts.highest_revision(),
        };
        self.spawn(RunTask::Confirm(window), move |ctx| async move {
            let confirmed = confirm_count(&ctx, window, revisions, reported).await;
            RunTaskResult::Confirm(window, confirmed)
        });
    }

    async fn confirm_done(&mut self, window: Window, outcome: Result<ReceiptWrite, Failure>, now: Timestamp) {
        match outcome {
            Ok(ReceiptWrite::Written(receipt)) => {
                self.retry_state.record_success(window);
                self.add_revision(window, &receipt);
            }
            Ok(ReceiptWrite::WrittenByOther) => self.refresh_day(window).await,
            Err(failure) => {
                tracing::info!(%window, reason = %failure.reason, error = failure.message, "cannot confirm count");
                self.retry_state
                    .record_failure(window, failure, now, rand::random());
            }
        }
    }

    /// Adds the receipt of a later revision to the journal in memory.
    fn add_revision(&mut self, window: Window, receipt: &Receipt) {
        self.retry_state.sealed.retain(|period| !period.contains(window));
        let Some(journal) = &mut self.journal else { return };
        let files = journal.revisions.entry((window, receipt.revision)).or_default();
        files.has_receipt = true;
        let own = Key::Revision(window, receipt.revision).relative();
        let object = receipt.object.as_ref();
        files.body = object
            .filter(|object| Some(&object.key) == own.as_ref())
            .map(|object| object.bytes);
        files.supplement = receipt.supplement.as_ref().map(|supplement| supplement.bytes);
        let facts = journal.receipts.get_mut(&window).and_then(Option::as_mut);
        let sha256 = Sha256Digest::of(&encode(receipt));
        let added = facts.map(|facts| facts.add_revision(window, receipt, sha256));
        if !matches!(added, Some(Ok(()))) {
            // The bucket has something else than this run expected.
            self.journal = None;
        }
    }

    /// Starts the recovery of interrupted attempts.
    fn recover(&mut self, attempts: Vec<AttemptId>) {
        let (Some(journal), false) = (&self.journal, attempts.is_empty()) else {
            return;
        };
        let closed = Arc::new(self.work.closed_attempts().clone());
        let known = journal.attempts.keys().chain(&*closed).copied();
        let idle = known.filter(|id| !self.work.attempts().contains(id));
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

    /// Returns the sessions that the journal names, with their holders.
    fn journaled_sessions(&self) -> JournaledSessions {
        let attempts = self.journal.iter().flat_map(|journal| journal.attempts.values());
        let sessions = attempts.flat_map(|facts| {
            let record = facts.record.as_ref();
            let own = record.is_none_or(|record| record.holder == self.ctx.export.holder);
            let holder = if own {
                SessionHolder::Own
            } else {
                SessionHolder::Known
            };
            facts
                .sessions
                .iter()
                .map(move |session| (session.clone(), holder))
        });
        sessions.collect()
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
                self.retry_state.windows.remove(&day);
                if let Some(journal) = &mut self.journal {
                    journal.splits.insert(day);
                }
                true
            }
            Err(error) => {
                let now = self.now();
                self.retry_state.record_export_failure(
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
        let Some(journal) = &self.journal else { return };
        let (ctx, sealed) = (Arc::clone(&self.ctx), &self.retry_state.sealed);
        let work = self.documents.work(task, ctx, journal, sealed);
        self.spawn(RunTask::Document(task), |_| async move {
            RunTaskResult::Document(task, work.await)
        });
    }

    fn document_done(&mut self, task: DocumentTask, result: DocumentResult) {
        let journal = self.journal.as_mut();
        self.documents
            .record(task, result, &self.ctx, journal, &mut self.retry_state);
    }

    /// Waits for a result, the stop signal, a new session or `wake`, and processes all results that are there.
    async fn wait(&mut self, wake: Option<Timestamp>) {
        let until = wake.map_or(SLEEP_MAX, |at| {
            Duration::try_from(at.duration_since(self.now())).unwrap_or_default()
        });
        let (started, until) = (Instant::now(), until.min(SLEEP_MAX).max(SLEEP_MIN));
        let stop = self.ctx.stop.clone();
        let end = loop {
            let publish = if self.work.is_transferring() {
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
        self.process_end(end).await;
        while let Some(end) = self.tasks.try_next() {
            self.process_end(end).await;
        }
    }

    /// Applies an event of a task.
    fn apply(&mut self, event: TaskEvent) -> EventEffect {
        let effect = self.work.apply(event);
        if effect == EventEffect::UserKnown {
            self.inbox
                .tracker_user
                .send_replace(self.work.tracker_user().cloned());
            // Sessions that could not be attributed without the user can be checked now.
            self.retry_state
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
                        Some(end) => self.process_end(end).await,
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

    async fn process_end(&mut self, end: RunTaskEnd) {
        // A task sends its events before it ends.
        self.apply_events();
        let now = self.now();
        match end {
            RunTaskEnd::Done(result) => match result {
                RunTaskResult::Window(window, report) => self.window_done(window, report, now).await,
                RunTaskResult::Recover(id, user_known, outcome) => {
                    self.recover_done(id, user_known, outcome, now).await;
                }
                RunTaskResult::Adopt(window, outcome) => self.adopt_done(window, outcome, now).await,
                RunTaskResult::Confirm(window, outcome) => self.confirm_done(window, outcome, now).await,
                RunTaskResult::Document(task, result) => self.document_done(task, result),
                RunTaskResult::ListDays(outcome) => self.list_days_done(outcome, now),
            },
            RunTaskEnd::Panicked(task, error) => {
                tracing::error!(%error, export = self.ctx.export.name, "export task ended unexpectedly, report this bug");
                let failure = Failure::retry(
                    Reason::Failed,
                    "an export task ended unexpectedly: this is a bug in eventexport, report it with its log",
                );
                match task {
                    Some(RunTask::Recover(id)) => {
                        self.retry_state
                            .record_recovery_failure(id, failure, now, rand::random());
                    }
                    Some(RunTask::Window(window) | RunTask::Adopt(window)) => {
                        self.work.end_attempt(window, None);
                        self.retry_state
                            .record_failure(window, failure, now, rand::random());
                        self.refresh_day(window).await;
                    }
                    Some(RunTask::Confirm(window)) => {
                        self.retry_state
                            .record_failure(window, failure, now, rand::random());
                    }
                    Some(RunTask::Document(task)) => self.document_done(task, Err(failure).into()),
                    Some(RunTask::ListDays) => self.list_days_done(Err(failure), now),
                    None => {}
                }
            }
        }
    }

    async fn window_done(&mut self, window: Window, report: AttemptReport, now: Timestamp) {
        let AttemptReport { outcome, leftover } = report;
        self.work.end_attempt(window, leftover);
        let mut needs_refresh = leftover.is_some_and(|leftover| leftover.journaled);
        match outcome {
            Ok(WindowOutcome::Stored(receipt)) if receipt.revision > 0 => {
                self.recheck_done(window);
                self.stored_now.insert(window);
                self.add_revision(window, &receipt);
            }
            Ok(WindowOutcome::Unchanged) => self.recheck_done(window),
            Ok(WindowOutcome::Stored(receipt)) => {
                self.retry_state.record_success(window);
                self.stored_now.insert(window);
                self.known_receipts.insert(window);
                if let Some(journal) = &mut self.journal {
                    let facts = ReceiptFacts::new(&receipt, Sha256Digest::of(&encode(&*receipt)));
                    if receipt.object.is_some() {
                        journal.objects.insert(window, facts.summary.bytes);
                    }
                    journal.receipts.insert(window, Some(Box::new(facts)));
                }
            }
            Ok(WindowOutcome::Covered) => {
                self.known_receipts.insert(window);
                let before = self.stored_revision(window);
                self.refresh_day(window).await;
                if before.is_some() && self.stored_revision(window) == before {
                    self.record_unlisted(window, now);
                } else {
                    self.covered_by_other(window, now);
                }
                needs_refresh = false;
            }
            Ok(WindowOutcome::Expired(facts)) => {
                self.retry_state.record_success(window);
                if let Some(journal) = &mut self.journal {
                    journal.expired.insert(window, Some(facts));
                }
            }
            // A stop is not a failure of the window.
            Err(failure) if self.ctx.stop.is_cancelled() && failure == stopped() => {}
            Err(failure) => {
                tracing::info!(%window, reason = %failure.reason, error = failure.message, "cannot export window");
                // The body of a changed day has a receipt.
                needs_refresh |= failure.reason == Reason::DayChanged;
                self.retry_state
                    .record_failure(window, failure, now, rand::random());
            }
        }
        if needs_refresh {
            self.refresh_day(window).await;
        }
    }

    /// Records that a stored window was downloaded again.
    fn recheck_done(&mut self, window: Window) {
        self.retry_state.record_success(window);
        let counts = self.counts.as_ref();
        if let Some(reported) = counts.and_then(|counts| counts.count_of_day(window.date())) {
            self.retry_state.rechecked.insert(window, reported);
        }
    }

    /// Checks that the bucket shows what an attempt found: that another holder stored the window, or part of it.
    /// Otherwise the window is tried again after a pause, as after a failure.
    fn covered_by_other(&mut self, window: Window, now: Timestamp) {
        let shown = self.journal.as_ref().is_none_or(|journal| {
            let mut evidence = journal.receipts.keys().chain(journal.objects.keys());
            evidence.any(|other| overlap(*other, window))
        });
        if shown {
            return self.retry_state.record_success(window);
        }
        self.record_unlisted(window, now);
    }

    /// Returns the number of the highest revision of a stored window.
    fn stored_revision(&self, window: Window) -> Option<u32> {
        let facts = self.journal.as_ref()?.receipts.get(&window)?;
        facts.as_deref().map(ReceiptFacts::highest_revision)
    }

    /// Records that the bucket does not show what an attempt found.
    fn record_unlisted(&mut self, window: Window, now: Timestamp) {
        let message = format!(
            "{window} was found in {}, and the listing of the bucket leaves it out: the listing is behind, or another process deleted it",
            self.ctx.peers.store.identity()
        );
        tracing::warn!(%window, error = message, "cannot take the window over, will retry");
        let failure = Failure::retry(Reason::ListingIncomplete, message);
        self.retry_state
            .record_failure(window, failure, now, rand::random());
    }

    /// `user_known`: whether the recovery knew the user of the sessions.
    async fn recover_done(
        &mut self,
        id: AttemptId,
        user_known: bool,
        outcome: Result<(), Failure>,
        now: Timestamp,
    ) {
        match outcome {
            Ok(()) => {
                self.work.mark_closed(id);
                self.retry_state.unrecovered.remove(&id);
                self.refresh_day(id.window).await;
                // A listing that is behind still shows it.
                if let Some(journal) = &mut self.journal {
                    journal.attempts.remove(&id);
                }
            }
            Err(failure) => {
                tracing::info!(attempt = %id, reason = %failure.reason, error = failure.message, "cannot recover attempt");
                let suspected = failure.reason == Reason::OrphanSessionSuspected;
                if suspected && !user_known && self.work.tracker_user().is_some() {
                    // Learned meanwhile: the session can be checked at once.
                    return;
                }
                self.retry_state
                    .record_recovery_failure(id, failure, now, rand::random());
            }
        }
    }

    async fn adopt_done(&mut self, window: Window, outcome: Result<bool, Failure>, now: Timestamp) {
        match outcome {
            Ok(true) => {
                self.refresh_day(window).await;
                self.check_adopted(window, now);
            }
            Ok(false) => {
                self.retry_state.foreign_objects.insert(window);
            }
            Err(failure) => self
                .retry_state
                .record_failure(window, failure, now, rand::random()),
        }
    }

    /// Checks that the bucket shows the receipt of an adopted object. Otherwise the object is adopted again after a pause.
    fn check_adopted(&mut self, window: Window, now: Timestamp) {
        let mut orphaned = self.journal.iter().flat_map(Journal::orphaned_objects);
        if !orphaned.any(|other| other == window) {
            return;
        }
        let message = format!(
            "the receipt of {window} exists in {}, and can neither be listed nor read: delete or restore it",
            self.ctx.peers.store.identity()
        );
        tracing::warn!(%window, error = message, "cannot adopt object, will retry");
        let failure = Failure::retry(Reason::ListingIncomplete, message);
        self.retry_state
            .record_failure(window, failure, now, rand::random());
    }

    /// Lists one day again; on failure drops the journal, so that the complete bucket is listed later.
    async fn refresh_day(&mut self, window: Window) {
        let ctx = Arc::clone(&self.ctx);
        let refreshed = async {
            let mut day = load_day(&*ctx.peers.store, &ctx.export.root, window, ctx.journal_share()).await?;
            let same_day = |known: Window| known.date() == window.date();
            self.add_unlisted_receipts(&mut day, same_day).await?;
            Ok::<_, Failure>(day)
        };
        let stopped = async {
            ctx.stop.cancelled().await;
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        let refreshed = tokio::select! {
            refreshed = refreshed => refreshed,
            () = stopped => return,
        };
        match (refreshed, &mut self.journal) {
            (Ok(mut refreshed), Some(journal)) => {
                self.ctx
                    .export
                    .mark_foreign_attempts(&mut refreshed, self.store_clock_offset);
                self.ctx.remove_spent_attempts(&mut refreshed);
                journal.replace_day(window, refreshed);
                self.retry_state.sealed.retain(|period| !period.contains(window));
            }
            (Err(failure), _) => {
                tracing::debug!(day = %window.date(), error = failure.message, "cannot list day, will list the bucket");
                self.journal = None;
            }
            (Ok(_), None) => {}
        }
    }

    fn publish_snapshot(&self, decision: &RunDecision, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        let snapshot = Arc::new(self.build_snapshot(decision));
        out.send_replace(Arc::clone(&snapshot));
        snapshot
    }

    fn build_snapshot(&self, decision: &RunDecision) -> Snapshot {
        let empty = Journal::default();
        let journal = self.journal.as_ref().unwrap_or(&empty);
        let coverage = &decision.coverage;
        let mut windows = BTreeMap::new();
        let mut last_stored = None;
        for (window, receipt) in &journal.receipts {
            if let Some(receipt) = receipt.as_ref().filter(|_| coverage.covered.contains(*window)) {
                let mut facts = receipt.reported_facts();
                last_stored = last_stored.max(Some(receipt.current_stored_at()));
                facts.stored_now = self.stored_now.contains(window);
                windows.insert(*window, facts);
            }
        }
        let mut sessions: BTreeMap<String, Window> = self.work.sessions().clone();
        let export = &self.ctx.export;
        let own_attempts = journal.attempts.iter().filter(|(id, facts)| {
            let record = facts.record.as_ref();
            export.shard.contains(id.window.date())
                && record.is_none_or(|record| record.holder == export.holder)
        });
        for (id, facts) in own_attempts {
            sessions.extend(facts.sessions.iter().map(|session| (session.clone(), id.window)));
        }
        let mut problems = decision.problems.clone();
        let support = self.ctx.known_support();
        if support.is_some_and(|support| !(support.put && support.complete)) && self.ctx.export.single_writer
        {
            let Failure { reason, message, .. } =
                conditional_writes_unsupported(self.ctx.peers.store.identity());
            problems.push(Problem {
                reason,
                message,
                window: None,
                class: RetryClass::Wait(None),
                next_try: None,
                retry_at: None,
            });
        }
        problems.truncate(PROBLEMS_MAX);
        // Each hour once: a day may be stored beside its hours.
        let counted = || {
            let of_day = |window: &Window| window.hour_of_day().is_none();
            let by_day = |window: &Window| windows.contains_key(&Window::day(window.date()));
            let counts = windows
                .iter()
                .filter(move |(window, _)| of_day(window) || !by_day(window));
            counts.map(|(_, facts)| facts)
        };
        Snapshot {
            observed: self.journal.is_some(),
            wanted: coverage.wanted,
            stored: coverage.stored,
            active: self.tasks.windows().len() as u64,
            waiting: coverage.waiting,
            failed: coverage.failed,
            events: counted().map(|facts| facts.events).sum(),
            bytes: counted().map(|facts| facts.bytes).sum(),
            late_events: counted().map(|facts| facts.late_events).sum(),
            grown: coverage.grown.clone(),
            covered: coverage.covered.clone(),
            missing: coverage.missing.clone(),
            expired: coverage.expired.clone(),
            damaged: coverage.damaged.clone(),
            sessions: sessions
                .into_iter()
                .map(|(id, window)| SessionFacts { id, window })
                .collect(),
            problems,
            open_attempts: decision.open_attempts.iter().map(|id| id.window).collect(),
            suspected_sessions: self.work.suspected_sessions().iter().cloned().collect(),
            finished: decision.finished,
            complete: decision.complete,
            manifest_due: decision.sealing,
            head: self.documents.head().cloned(),
            next_run_at: decision.wake,
            windows: Arc::new(windows),
            transfers: self.work.transfers(),
            last_stored,
            first_transfer_at: self.first_transfer_at,
            looked: self.looked,
            applied: self.applied,
            retention: self.ctx.listing_cache.retention(),
            retry_state: None,
        }
    }

    /// Returns the attempts that tasks of this process work on.
    fn attempts_in_progress(&self) -> BTreeSet<AttemptId> {
        let mut in_progress = self.tasks.recoveries();
        in_progress.extend(self.work.attempts());
        in_progress
    }

    fn now(&self) -> Timestamp {
        (self.ctx.shared.now)()
    }
}
