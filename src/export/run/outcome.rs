//! What came of the tasks of a run goes into its journal and its memory. Lists a day anew where that is needed.

use jiff::Timestamp;
use tokio::task::{Id, JoinError};

use super::{Done, Job, Run};
use crate::api::Reason;
use crate::export::attempt::Outcome;
use crate::export::failure::Failure;
use crate::export::ground::lock;
use crate::export::journal::ReceiptFacts;
use crate::export::journal_io::observe_day;
use crate::export::keys::AttemptId;
use crate::export::manifest::periods::touches;
use crate::export::open::stopped;
use crate::export::record::encode;
use crate::export::window::Window;

impl Run {
    pub(super) async fn take_in(&mut self, done: Result<(Id, Done), JoinError>) {
        let now = self.now();
        match done {
            Ok((id, done)) => {
                self.jobs.remove(&id);
                match done {
                    Done::Window(window, outcome) => self.window_done(window, outcome, now).await,
                    Done::Settle(id, outcome) => self.settle_done(id, outcome, now).await,
                    Done::Adopt(window, outcome) => self.adopt_done(window, outcome, now).await,
                    Done::Seal(period, outcome) => self.seal_done(period, outcome, now),
                }
            }
            Err(error) => {
                tracing::error!(%error, export = self.ground.export.name, "a defect: a task of the export ended unexpectedly");
                let failure = Failure::retry(
                    Reason::Failed,
                    "a defect in eventexport ended this task: see its log, and report it",
                );
                match self.jobs.remove(&error.id()) {
                    Some(Job::Settle(id)) => self.memory.unsettled(id, failure, now, rand::random()),
                    Some(Job::Window(window) | Job::Adopt(window)) => {
                        lock(&self.ground.busy).retain(|id| id.window != window);
                        lock(&self.ground.transfers).remove(&window);
                        self.memory.failed(window, failure, now, rand::random());
                        self.refresh(window).await;
                    }
                    Some(Job::Seal(_)) => self.memory.unsealed(failure, now, rand::random()),
                    None => {}
                }
            }
        }
    }

    async fn window_done(&mut self, window: Window, outcome: Result<Outcome, Failure>, now: Timestamp) {
        let mut look_again = lock(&self.ground.dirty).remove(&window);
        if !self.user_known && self.ground.user.get().is_some() {
            self.user_known = true;
            // Whose user was unknown may be known now.
            self.memory
                .unsettled
                .retain(|_, tried| tried.failure.reason != Reason::SessionUnaccounted);
        }
        match outcome {
            Ok(Outcome::Stored(receipt)) => {
                self.memory.succeeded(window);
                self.stored_now.insert(window);
                if let Some(journal) = &mut self.journal {
                    let facts = ReceiptFacts::new(&receipt, &encode(&*receipt));
                    if receipt.object.is_some() {
                        journal.objects.insert(window, facts.facts.bytes);
                    }
                    journal.receipts.insert(window, Some(facts));
                }
            }
            Ok(Outcome::Covered) => {
                self.memory.succeeded(window);
                look_again = true;
            }
            Ok(Outcome::Expired) => {
                self.memory.succeeded(window);
                if let Some(journal) = &mut self.journal {
                    journal.expired.insert(window);
                }
            }
            // Being stopped is no failure of the window.
            Err(failure) if self.ground.stop.is_cancelled() && failure == stopped() => {}
            Err(failure) => {
                tracing::info!(%window, reason = %failure.reason, message = failure.message, "not exported");
                self.memory.failed(window, failure, now, rand::random());
            }
        }
        if look_again {
            self.refresh(window).await;
        }
    }

    async fn settle_done(&mut self, id: AttemptId, outcome: Result<(), Failure>, now: Timestamp) {
        match outcome {
            Ok(()) => {
                self.memory.unsettled.remove(&id);
                self.refresh(id.window).await;
                // Where keys may not be deleted they stay, and mean nothing.
                if let Some(journal) = &mut self.journal {
                    journal.attempts.remove(&id);
                }
            }
            Err(failure) => {
                tracing::info!(attempt = %id, reason = %failure.reason, message = failure.message, "not settled");
                self.memory.unsettled(id, failure, now, rand::random());
            }
        }
    }

    async fn adopt_done(&mut self, window: Window, outcome: Result<bool, Failure>, now: Timestamp) {
        match outcome {
            Ok(true) => self.refresh(window).await,
            Ok(false) => {
                self.memory.foreign.insert(window);
            }
            Err(failure) => self.memory.failed(window, failure, now, rand::random()),
        }
    }

    /// Lists one day anew; if that fails, all of it later.
    pub(super) async fn refresh(&mut self, window: Window) {
        let newer = observe_day(&*self.ground.peers.store, &self.ground.export.root, window).await;
        match (newer, &mut self.journal) {
            (Ok(mut newer), Some(journal)) => {
                newer.tell_apart(&self.ground.export, self.store_ahead);
                journal.replace_day(window, newer);
                self.memory.sealed.retain(|period| !touches(*period, window));
            }
            (Err(failure), _) => {
                tracing::debug!(message = failure.message, "the journal is listed anew later");
                self.journal = None;
            }
            (Ok(_), None) => {}
        }
    }
}
