//! The loop of a run: observe, decide, act, tell, wait. Effects are tasks; decisions are `decide`.

mod publish;
mod results;
mod seal;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::attempt::{WindowOutcome, export_window};
use super::decide::{HELD_RELIST_INTERVAL, RunDecision, RunObservation, decide, other_hours_events};
use super::failure::{Failure, Problem};
use super::journal::Journal;
use super::journal_io::{load_journal, put_record};
use super::keys::{AttemptId, Key};
use super::manifest::ChainListing;
use super::record::{ArchiveRecord, RangeRecord, SplitRecord};
use super::recovery::{adopt_object, recover_attempt};
use super::retry_state::RetryState;
use super::run_context::{RunContext, lock};
use super::snapshot::Snapshot;
use super::window::Window;
use crate::api::Reason;
use crate::storage::{PutMode, StoreError};

/// Progress is told this often while transfers run: 1 s.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// The longest that a stopping run waits for its sessions to be deleted: 20 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// The shortest sleep, so that a clock that stands still or goes back does not make a run spin: 50 ms.
const SLEEP_MIN: Duration = Duration::from_millis(50);
/// The next decision waits so many times as long as the last one took: each goes through all windows, and however many
/// they are, deciding is to stay below a tenth of the time. What ends meanwhile is decided on together.
const PACE_FACTOR: u32 = 9;
/// The longest that it waits for that: 100 ms.
const PACE_MAX: Duration = Duration::from_millis(100);
/// The shortest that is waited for: 1 ms, the clock's own step.
const PACE_MIN: Duration = Duration::from_millis(1);
/// The longest sleep, so that a clock that was set does not make a run oversleep: 10 min.
const SLEEP_MAX: Duration = Duration::from_mins(10);

/// A run.
pub(super) struct ExportRun {
    ctx: Arc<RunContext>,
    /// `None`: not listed yet, or to be listed anew.
    journal: Option<Journal>,
    retry_state: RetryState,
    tasks: JoinSet<RunTaskResult>,
    running: HashMap<Id, RunTask>,
    stored_now: BTreeSet<Window>,
    /// Whether the gate is there because the bucket could not be listed.
    listing_failed: bool,
    /// Whether the tracker user was known when sessions were last looked for.
    user_known: bool,
    /// When the bucket was listed last, and whether another holder was found then or later.
    listed_at: Timestamp,
    held_by_other: bool,
    /// Whether a shard at its end has looked at what the others did.
    relisted_for_shards: bool,
    /// The store's clock less ours.
    store_clock_offset: SignedDuration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunTask {
    Window(Window),
    Recover(AttemptId),
    Adopt(Window),
    Seal(RangeRecord),
}

enum RunTaskResult {
    Window(Window, Result<WindowOutcome, Failure>),
    Recover(AttemptId, Result<(), Failure>),
    Adopt(Window, Result<bool, Failure>),
    Seal(RangeRecord, Result<ChainListing, Failure>),
}

impl ExportRun {
    pub(super) fn new(ctx: Arc<RunContext>) -> Self {
        Self {
            ctx,
            journal: None,
            retry_state: RetryState::default(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            stored_now: BTreeSet::new(),
            listing_failed: false,
            user_known: false,
            listed_at: Timestamp::UNIX_EPOCH,
            held_by_other: false,
            relisted_for_shards: false,
            store_clock_offset: SignedDuration::ZERO,
        }
    }

    /// Runs to its end; the last snapshot is published and returned.
    pub(super) async fn run(mut self, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        loop {
            if self.ctx.stop.is_cancelled() {
                return self.stop(out).await;
            }
            self.refresh_journal().await;
            let decide_started = Instant::now();
            let decision = self.decide();
            let mut spent = decide_started.elapsed();
            let mut problems = decision.problems.iter();
            self.held_by_other = problems.any(|problem| problem.reason == Reason::HeldByOther);
            let idle = decision.idle;
            let wake = decision.wake;
            let changed = self.act(decision.clone()).await;
            let publish_started = Instant::now();
            let snapshot = self.publish_snapshot(&decision, out);
            spent += publish_started.elapsed();
            if idle && !changed {
                if self.relist_for_shards() {
                    // At once: there is nothing to wait for.
                    continue;
                }
                return snapshot;
            }
            if !changed {
                self.pause(spent).await;
                self.wait(wake).await;
            }
        }
    }

    /// After a decision that took so long, until the next one may be made.
    async fn pause(&self, spent: Duration) {
        let pause = (spent * PACE_FACTOR).min(PACE_MAX);
        if pause >= PACE_MIN {
            let stopped = self.ctx.stop.cancelled();
            // Stopped or not: whoever comes next asks.
            let _ = tokio::time::timeout(pause, stopped).await;
        }
    }

    /// A shard that stored something lists the bucket once more before it ends: whichever ends last sees the whole
    /// covered and writes its manifest.
    fn relist_for_shards(&mut self) -> bool {
        let relist = !self.ctx.export.shard.is_single()
            && !self.stored_now.is_empty()
            && !std::mem::replace(&mut self.relisted_for_shards, true);
        if relist {
            self.journal = None;
        }
        relist
    }

    /// Lists the bucket, unless that is done.
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
        let store = &*self.ctx.peers.store;
        match load_journal(store, &self.ctx.export.root).await {
            Ok(mut journal) => {
                if let Ok(store_now) = store.now().await {
                    self.store_clock_offset = self.ctx.clock_offset(store_now);
                }
                journal.mark_foreign_attempts(&self.ctx.export, self.store_clock_offset);
                self.journal = Some(journal);
                self.retry_state.sealed.clear();
                self.listed_at = self.now();
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

    fn decide(&self) -> RunDecision {
        let Some(journal) = &self.journal else {
            return self.decide_unlisted();
        };
        let (active, in_progress) = (self.active_windows(), self.attempts_in_progress());
        let now = self.now();
        decide(&RunObservation {
            export: &self.ctx.export,
            journal,
            active: &active,
            in_progress: &in_progress,
            sealing: self.running.values().any(|task| matches!(task, RunTask::Seal(_))),
            retry_state: &self.retry_state,
            listed_at: self.listed_at,
            now,
            store_now: now.checked_add(self.store_clock_offset).unwrap_or(now),
        })
    }

    /// Before the bucket was listed nothing can be decided but when to try again.
    fn decide_unlisted(&self) -> RunDecision {
        let retry_policy = self.ctx.export.retry_policy;
        let Some(export_backoff) = &self.retry_state.export_backoff else {
            return RunDecision::default();
        };
        let exhausted = export_backoff.is_exhausted(retry_policy);
        let Failure {
            reason,
            message,
            remedy,
            ..
        } = export_backoff.failure.clone();
        let retry_at = (!exhausted).then_some(export_backoff.retry_at);
        let problems = vec![Problem {
            reason,
            message,
            window: None,
            remedy,
            retry_at,
        }];
        RunDecision {
            problems,
            wake: retry_at,
            // Sessions may be open as long as anything is under way.
            idle: exhausted && self.running.is_empty(),
            ..RunDecision::default()
        }
    }

    /// Does what was decided; returns whether something changed at once, so that the next decision is due.
    async fn act(&mut self, decision: RunDecision) -> bool {
        let mut changed = false;
        for day in decision.split {
            changed |= self.split_day(day).await;
        }
        for id in decision.recover {
            let facts = self
                .journal
                .as_ref()
                .and_then(|journal| journal.attempts.get(&id))
                .cloned()
                .unwrap_or_default();
            self.spawn(RunTask::Recover(id), move |ctx| async move {
                let span = ctx.recovery_span(id);
                RunTaskResult::Recover(id, recover_attempt(&ctx, id, &facts).instrument(span).await)
            });
        }
        for window in decision.adopt {
            self.spawn(RunTask::Adopt(window), move |ctx| async move {
                let span = ctx.window_span(window);
                RunTaskResult::Adopt(window, adopt_object(&ctx, window).instrument(span).await)
            });
        }
        if let Some(period) = decision.seal {
            self.seal(period);
        }
        for window in decision.start {
            let journal = self.journal.as_ref();
            let other_hours =
                journal.and_then(|journal| other_hours_events(journal, &self.ctx.export, window));
            self.spawn(RunTask::Window(window), move |ctx| async move {
                RunTaskResult::Window(window, export_window(&ctx, window, other_hours).await)
            });
        }
        changed
    }

    fn spawn<F>(&mut self, task: RunTask, work: impl FnOnce(Arc<RunContext>) -> F)
    where
        F: Future<Output = RunTaskResult> + Send + 'static,
    {
        if self.running.values().any(|running| *running == task) {
            return;
        }
        let handle = self.tasks.spawn(work(Arc::clone(&self.ctx)).in_current_span());
        self.running.insert(handle.id(), task);
    }

    async fn split_day(&mut self, day: Window) -> bool {
        let why = self
            .retry_state
            .windows
            .get(&day)
            .map_or_else(String::new, |entry| entry.failure.message.clone());
        tracing::info!(%day, why, "the day is exported by the hour from now on");
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

    /// Waits for something to happen, and takes in what did.
    async fn wait(&mut self, wake: Option<Timestamp>) {
        let until = wake.map_or(SLEEP_MAX, |at| {
            Duration::try_from(at.duration_since(self.now())).unwrap_or_default()
        });
        let transferring = !lock(&self.ctx.transfers).is_empty();
        let sleep = until
            .min(SLEEP_MAX)
            .min(if transferring { PUBLISH_INTERVAL } else { SLEEP_MAX })
            .max(SLEEP_MIN);
        let stop = self.ctx.stop.clone();
        let done = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(sleep) => return,
            () = self.ctx.session_opened.notified() => return,
            Some(done) = self.tasks.join_next_with_id() => done,
        };
        self.process_result(done).await;
        while let Some(done) = self.tasks.try_join_next_with_id() {
            self.process_result(done).await;
        }
    }

    async fn stop(mut self, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        let finish = async {
            while let Some(done) = self.tasks.join_next_with_id().await {
                self.process_result(done).await;
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, finish).await.is_err() {
            tracing::warn!(
                export = self.ctx.export.name,
                "stopped before every session was deleted: the next run settles them"
            );
        }
        let decision = self.decide();
        self.publish_snapshot(&decision, out)
    }

    fn active_windows(&self) -> BTreeSet<Window> {
        let windows = self.running.values().filter_map(|task| match task {
            RunTask::Window(window) => Some(*window),
            RunTask::Recover(_) | RunTask::Adopt(_) | RunTask::Seal(_) => None,
        });
        windows.collect()
    }

    /// Attempts that are worked on, here or by the windows' own tasks.
    fn attempts_in_progress(&self) -> BTreeSet<AttemptId> {
        let mut in_progress = lock(&self.ctx.in_progress).clone();
        in_progress.extend(self.running.values().filter_map(|task| match task {
            RunTask::Recover(id) => Some(*id),
            RunTask::Window(_) | RunTask::Adopt(_) | RunTask::Seal(_) => None,
        }));
        in_progress
    }

    fn now(&self) -> Timestamp {
        (self.ctx.shared.now)()
    }
}
