//! What came of the tasks of a run goes into its journal and its memory. Lists a day anew where that is needed.

use jiff::Timestamp;
use tokio::task::{Id, JoinError};

use super::{ExportRun, RunTask, RunTaskResult};
use crate::api::Reason;
use crate::export::attempt::WindowOutcome;
use crate::export::failure::Failure;
use crate::export::journal::ReceiptFacts;
use crate::export::journal_io::load_day;
use crate::export::keys::AttemptId;
use crate::export::manifest::periods::period_contains;
use crate::export::open::stopped;
use crate::export::record::encode;
use crate::export::run_context::lock;
use crate::export::window::Window;

impl ExportRun {
    pub(super) async fn process_result(&mut self, done: Result<(Id, RunTaskResult), JoinError>) {
        let now = self.now();
        match done {
            Ok((id, done)) => {
                self.running.remove(&id);
                match done {
                    RunTaskResult::Window(window, outcome) => self.window_done(window, outcome, now).await,
                    RunTaskResult::Recover(id, outcome) => self.recover_done(id, outcome, now).await,
                    RunTaskResult::Adopt(window, outcome) => self.adopt_done(window, outcome, now).await,
                    RunTaskResult::Seal(period, outcome) => self.seal_done(period, outcome, now),
                }
            }
            Err(error) => {
                tracing::error!(%error, export = self.ctx.export.name, "a defect: a task of the export ended unexpectedly");
                let failure = Failure::retry(
                    Reason::Failed,
                    "a defect in eventexport ended this task: see its log, and report it",
                );
                match self.running.remove(&error.id()) {
                    Some(RunTask::Recover(id)) => {
                        self.retry_state
                            .record_recovery_failure(id, failure, now, rand::random())
                    }
                    Some(RunTask::Window(window) | RunTask::Adopt(window)) => {
                        lock(&self.ctx.in_progress).retain(|id| id.window != window);
                        lock(&self.ctx.transfers).remove(&window);
                        self.retry_state
                            .record_failure(window, failure, now, rand::random());
                        self.refresh_day(window).await;
                    }
                    Some(RunTask::Seal(_)) => {
                        self.retry_state.record_seal_failure(failure, now, rand::random())
                    }
                    None => {}
                }
            }
        }
    }

    async fn window_done(&mut self, window: Window, outcome: Result<WindowOutcome, Failure>, now: Timestamp) {
        let mut needs_refresh = lock(&self.ctx.stale_windows).remove(&window);
        if !self.user_known && self.ctx.tracker_user.get().is_some() {
            self.user_known = true;
            // Whose user was unknown may be known now.
            self.retry_state
                .unrecovered
                .retain(|_, entry| entry.failure.reason != Reason::OrphanSessionSuspected);
        }
        match outcome {
            Ok(WindowOutcome::Stored(receipt)) => {
                self.retry_state.record_success(window);
                self.stored_now.insert(window);
                if let Some(journal) = &mut self.journal {
                    let facts = ReceiptFacts::new(&receipt, &encode(&*receipt));
                    if receipt.object.is_some() {
                        journal.objects.insert(window, facts.summary.bytes);
                    }
                    journal.receipts.insert(window, Some(facts));
                }
            }
            Ok(WindowOutcome::Covered) => {
                self.retry_state.record_success(window);
                needs_refresh = true;
            }
            Ok(WindowOutcome::Expired) => {
                self.retry_state.record_success(window);
                if let Some(journal) = &mut self.journal {
                    journal.expired.insert(window);
                }
            }
            // Being stopped is no failure of the window.
            Err(failure) if self.ctx.stop.is_cancelled() && failure == stopped() => {}
            Err(failure) => {
                tracing::info!(%window, reason = %failure.reason, message = failure.message, "not exported");
                self.retry_state
                    .record_failure(window, failure, now, rand::random());
            }
        }
        if needs_refresh {
            self.refresh_day(window).await;
        }
    }

    async fn recover_done(&mut self, id: AttemptId, outcome: Result<(), Failure>, now: Timestamp) {
        match outcome {
            Ok(()) => {
                self.retry_state.unrecovered.remove(&id);
                self.refresh_day(id.window).await;
                // Where keys may not be deleted they stay, and mean nothing.
                if let Some(journal) = &mut self.journal {
                    journal.attempts.remove(&id);
                }
            }
            Err(failure) => {
                tracing::info!(attempt = %id, reason = %failure.reason, message = failure.message, "not settled");
                self.retry_state
                    .record_recovery_failure(id, failure, now, rand::random());
            }
        }
    }

    async fn adopt_done(&mut self, window: Window, outcome: Result<bool, Failure>, now: Timestamp) {
        match outcome {
            Ok(true) => self.refresh_day(window).await,
            Ok(false) => {
                self.retry_state.foreign_objects.insert(window);
            }
            Err(failure) => self
                .retry_state
                .record_failure(window, failure, now, rand::random()),
        }
    }

    /// Lists one day anew; if that fails, all of it later.
    pub(super) async fn refresh_day(&mut self, window: Window) {
        let refreshed = load_day(&*self.ctx.peers.store, &self.ctx.export.root, window).await;
        match (refreshed, &mut self.journal) {
            (Ok(mut refreshed), Some(journal)) => {
                refreshed.mark_foreign_attempts(&self.ctx.export, self.store_clock_offset);
                journal.replace_day(window, refreshed);
                self.retry_state
                    .sealed
                    .retain(|period| !period_contains(*period, window));
            }
            (Err(failure), _) => {
                tracing::debug!(message = failure.message, "the journal is listed anew later");
                self.journal = None;
            }
            (Ok(_), None) => {}
        }
    }
}
