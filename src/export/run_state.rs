//! State of a run: the bucket, the documents and the work as the results of its tasks left them. I/O with the store, to list
//! a day again.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::active_work::ActiveWork;
use super::attempt_state::{AttemptReport, WindowOutcome};
use super::commit::ReceiptWrite;
use super::day_schedule::DaySchedule;
use super::document_task::DocumentTask;
use super::documents::{DocumentResult, Documents};
use super::failure::{Failure, stopped};
use super::retry_state::RetryState;
use super::run_context::RunContext;
use super::run_journal::RunJournal;
use super::run_tasks::{RunTask, RunTaskEnd, RunTaskResult};
use crate::api::Reason;
use crate::archive::layout::AttemptId;
use crate::archive::records::Receipt;
use crate::archive::window::Window;

/// What a run knows. Only the loop of the run changes it.
pub(super) struct RunState {
    pub(super) journal: RunJournal,
    pub(super) retry_state: RetryState,
    pub(super) documents: Documents,
    /// Attempts, sessions and transfers.
    pub(super) work: ActiveWork,
    /// Windows that this run stored.
    pub(super) stored_now: BTreeSet<Window>,
    /// Listings of the days of the service.
    pub(super) days: DaySchedule,
}

impl RunState {
    /// Creates the state of a run that has not listed the bucket.
    pub(super) fn new(retry_state: RetryState, documents: Documents, days: DaySchedule) -> Self {
        Self {
            journal: RunJournal::default(),
            retry_state,
            documents,
            work: ActiveWork::default(),
            stored_now: BTreeSet::new(),
            days,
        }
    }

    /// Records the end of a task.
    pub(super) async fn record_end(&mut self, ctx: &RunContext, end: RunTaskEnd) {
        let now = (ctx.shared.now)();
        match end {
            RunTaskEnd::Done(result) => match result {
                RunTaskResult::Window(window, report) => self.window_done(ctx, window, report, now).await,
                RunTaskResult::Recover(id, user_known, outcome) => {
                    self.recover_done(ctx, id, user_known, outcome, now).await;
                }
                RunTaskResult::Adopt(window, outcome) => self.adopt_done(ctx, window, outcome, now).await,
                RunTaskResult::Confirm(window, outcome) => self.confirm_done(ctx, window, outcome, now).await,
                RunTaskResult::Document(task, result) => self.document_done(ctx, task, result),
                RunTaskResult::ListDays(outcome) => self.days.record(outcome, &mut self.retry_state, now),
            },
            RunTaskEnd::Panicked(task, error) => {
                tracing::error!(%error, export = ctx.export.name, "export task ended unexpectedly, report this bug");
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
                        self.refresh_day(ctx, window).await;
                    }
                    Some(RunTask::Confirm(window)) => {
                        self.retry_state
                            .record_failure(window, failure, now, rand::random());
                    }
                    Some(RunTask::Document(task)) => self.document_done(ctx, task, Err(failure).into()),
                    Some(RunTask::ListDays) => self.days.record(Err(failure), &mut self.retry_state, now),
                    None => {}
                }
            }
        }
    }

    async fn window_done(&mut self, ctx: &RunContext, window: Window, report: AttemptReport, now: Timestamp) {
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
                self.journal.add_stored(window, &receipt);
            }
            Ok(WindowOutcome::Covered) => {
                self.journal.add_known_receipt(window);
                let before = self.journal.stored_revision(window);
                self.refresh_day(ctx, window).await;
                if before.is_some() && self.journal.stored_revision(window) == before {
                    self.record_unlisted(ctx, window, now);
                } else {
                    self.covered_by_other(ctx, window, now);
                }
                needs_refresh = false;
            }
            Ok(WindowOutcome::Expired(facts)) => {
                self.retry_state.record_success(window);
                if let Some(journal) = self.journal.listed_mut() {
                    journal.expired.insert(window, Some(facts));
                }
            }
            Ok(WindowOutcome::Yielded) => {
                tracing::info!(%window, "gave its session to an export without one, and is exported again");
            }
            // A stop is not a failure of the window.
            Err(failure) if ctx.stop.is_cancelled() && failure == stopped() => {}
            Err(failure) => {
                tracing::info!(%window, reason = %failure.reason, error = failure.message, "cannot export window");
                // The body of a changed day has a receipt.
                needs_refresh |= failure.reason == Reason::DayChanged;
                self.retry_state
                    .record_failure(window, failure, now, rand::random());
            }
        }
        if needs_refresh {
            self.refresh_day(ctx, window).await;
        }
    }

    /// Records that a stored window was downloaded again.
    fn recheck_done(&mut self, window: Window) {
        self.retry_state.record_success(window);
        let counts = self.days.counts();
        if let Some(reported) = counts.and_then(|counts| counts.count_of_day(window.date())) {
            self.retry_state.rechecked.insert(window, reported);
        }
    }

    /// Checks that the bucket shows what an attempt found: that another holder stored the window, or part of it.
    /// Otherwise the window is tried again after a pause, as after a failure.
    fn covered_by_other(&mut self, ctx: &RunContext, window: Window, now: Timestamp) {
        let journal = self.journal.listed();
        if journal.is_none_or(|journal| journal.has_data_in(window)) {
            return self.retry_state.record_success(window);
        }
        self.record_unlisted(ctx, window, now);
    }

    /// Records that the bucket does not show what an attempt found.
    fn record_unlisted(&mut self, ctx: &RunContext, window: Window, now: Timestamp) {
        let message = format!(
            "{window} was found in {}, and the listing of the bucket leaves it out: the listing is behind, or another process deleted it",
            ctx.peers.store.identity()
        );
        tracing::warn!(%window, error = message, "cannot take the window over, will retry");
        let failure = Failure::retry(Reason::ListingIncomplete, message);
        self.retry_state
            .record_failure(window, failure, now, rand::random());
    }

    /// `user_known`: whether the recovery knew the user of the sessions.
    async fn recover_done(
        &mut self,
        ctx: &RunContext,
        id: AttemptId,
        user_known: bool,
        outcome: Result<(), Failure>,
        now: Timestamp,
    ) {
        match outcome {
            Ok(()) => {
                self.work.mark_closed(id);
                self.retry_state.unrecovered.remove(&id);
                self.refresh_day(ctx, id.window).await;
                // A listing that is behind still shows it.
                if let Some(journal) = self.journal.listed_mut() {
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

    async fn adopt_done(
        &mut self,
        ctx: &RunContext,
        window: Window,
        outcome: Result<bool, Failure>,
        now: Timestamp,
    ) {
        match outcome {
            Ok(true) => {
                self.refresh_day(ctx, window).await;
                self.check_adopted(ctx, window, now);
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
    fn check_adopted(&mut self, ctx: &RunContext, window: Window, now: Timestamp) {
        let journal = self.journal.listed();
        if !journal.is_some_and(|journal| journal.orphaned_objects().any(|other| other == window)) {
            return;
        }
        let message = format!(
            "the receipt of {window} exists in {}, and can neither be listed nor read: delete or restore it",
            ctx.peers.store.identity()
        );
        tracing::warn!(%window, error = message, "cannot adopt object, will retry");
        let failure = Failure::retry(Reason::ListingIncomplete, message);
        self.retry_state
            .record_failure(window, failure, now, rand::random());
    }

    async fn confirm_done(
        &mut self,
        ctx: &RunContext,
        window: Window,
        outcome: Result<ReceiptWrite, Failure>,
        now: Timestamp,
    ) {
        match outcome {
            Ok(ReceiptWrite::Written(receipt)) => {
                self.retry_state.record_success(window);
                self.add_revision(window, &receipt);
            }
            Ok(ReceiptWrite::WrittenByOther) => self.refresh_day(ctx, window).await,
            Err(failure) => {
                tracing::info!(%window, reason = %failure.reason, error = failure.message, "cannot confirm count");
                self.retry_state
                    .record_failure(window, failure, now, rand::random());
            }
        }
    }

    fn document_done(&mut self, ctx: &RunContext, task: DocumentTask, result: DocumentResult) {
        let journal = self.journal.listed_mut();
        self.documents
            .record(task, result, ctx, journal, &mut self.retry_state);
    }

    /// Adds the receipt of a later revision to the journal.
    fn add_revision(&mut self, window: Window, receipt: &Receipt) {
        self.retry_state.sealed.retain(|period| !period.contains(window));
        self.journal.add_revision(window, receipt);
    }

    /// Lists one day again.
    async fn refresh_day(&mut self, ctx: &RunContext, window: Window) {
        if self.journal.refresh_day(ctx, window).await {
            self.retry_state.sealed.retain(|period| !period.contains(window));
        }
    }
}
