//! The loop of a run: observe, decide, act, tell, wait. Effects are tasks; decisions are `decide`.

mod outcome;
mod seal;
mod tell;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::attempt::{Outcome, export_window};
use super::decide::{Decision, HELD_LOOK, Observation, decide, events_beside};
use super::failure::{Failure, Trouble};
use super::ground::{Ground, lock};
use super::journal::Journal;
use super::journal_io::{observe, put};
use super::keys::{AttemptId, Key};
use super::manifest::Chain;
use super::memory::Memory;
use super::record::{RangeRecord, Record, SplitRecord};
use super::settle::{adopt, settle};
use super::snapshot::Snapshot;
use super::window::Window;
use crate::api::Reason;
use crate::storage::{Condition, StoreError};

/// Progress is told this often while transfers run: 1 s.
const TELL: Duration = Duration::from_secs(1);
/// The longest that a stopping run waits for its sessions to be deleted: 20 s.
const STOP: Duration = Duration::from_secs(20);
/// The shortest sleep, so that a clock that stands still or goes back does not make a run spin: 50 ms.
const PAUSE: Duration = Duration::from_millis(50);
/// The next decision waits so many times as long as the last one took: each goes through all windows, and however many
/// they are, deciding is to stay below a tenth of the time. What ends meanwhile is decided on together.
const PACE: u32 = 9;
/// The longest that it waits for that: 100 ms.
const PACE_MOST: Duration = Duration::from_millis(100);
/// The shortest that is waited for: 1 ms, the clock's own step.
const PACE_LEAST: Duration = Duration::from_millis(1);
/// The longest sleep, so that a clock that was set does not make a run oversleep: 10 min.
const SLEEP: Duration = Duration::from_mins(10);

/// A run.
pub(super) struct Run {
    ground: Arc<Ground>,
    /// `None`: not listed yet, or to be listed anew.
    journal: Option<Journal>,
    memory: Memory,
    tasks: JoinSet<Done>,
    jobs: HashMap<Id, Job>,
    stored_now: BTreeSet<Window>,
    /// Whether the gate is there because the bucket could not be listed.
    blinded: bool,
    /// Whether the tracker user was known when sessions were last looked for.
    user_known: bool,
    /// When the bucket was listed last, and whether another holder was found then or later.
    listed: Timestamp,
    held: bool,
    /// Whether a shard at its end has looked at what the others did.
    looked_for_others: bool,
    /// The store's clock less ours.
    store_ahead: SignedDuration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Window(Window),
    Settle(AttemptId),
    Adopt(Window),
    Seal(RangeRecord),
}

enum Done {
    Window(Window, Result<Outcome, Failure>),
    Settle(AttemptId, Result<(), Failure>),
    Adopt(Window, Result<bool, Failure>),
    Seal(RangeRecord, Result<Chain, Failure>),
}

impl Run {
    pub(super) fn new(ground: Arc<Ground>) -> Self {
        Self {
            ground,
            journal: None,
            memory: Memory::default(),
            tasks: JoinSet::new(),
            jobs: HashMap::new(),
            stored_now: BTreeSet::new(),
            blinded: false,
            user_known: false,
            listed: Timestamp::UNIX_EPOCH,
            held: false,
            looked_for_others: false,
            store_ahead: SignedDuration::ZERO,
        }
    }

    /// Runs to its end; the last snapshot is published and returned.
    pub(super) async fn go(mut self, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        loop {
            if self.ground.stop.is_cancelled() {
                return self.stop(out).await;
            }
            self.look().await;
            let deciding = Instant::now();
            let decision = self.decide();
            let mut spent = deciding.elapsed();
            let mut troubles = decision.troubles.iter();
            self.held = troubles.any(|trouble| trouble.reason == Reason::HeldBy);
            let rest = decision.rest;
            let wake = decision.wake;
            let changed = self.act(decision.clone()).await;
            let telling = Instant::now();
            let snapshot = self.tell(&decision, out);
            spent += telling.elapsed();
            if rest && !changed {
                if self.look_for_others() {
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
        let pause = (spent * PACE).min(PACE_MOST);
        if pause >= PACE_LEAST {
            let stopped = self.ground.stop.cancelled();
            // Stopped or not: whoever comes next asks.
            let _ = tokio::time::timeout(pause, stopped).await;
        }
    }

    /// A shard that stored something lists the bucket once more before it ends: whichever ends last sees the whole
    /// covered and writes its manifest.
    fn look_for_others(&mut self) -> bool {
        let first = !self.ground.export.shard.is_whole()
            && !self.stored_now.is_empty()
            && !std::mem::replace(&mut self.looked_for_others, true);
        if first {
            self.journal = None;
        }
        first
    }

    /// Lists the bucket, unless that is done.
    async fn look(&mut self) {
        let age = self.now().duration_since(self.listed);
        let stale = self.held && age >= HELD_LOOK;
        if self.journal.is_some() && !stale
            || self
                .memory
                .gate
                .as_ref()
                .is_some_and(|gate| gate.waits(self.now()))
        {
            return;
        }
        let store = &*self.ground.peers.store;
        match observe(store, &self.ground.export.root).await {
            Ok(mut journal) => {
                if let Ok(store_now) = store.now().await {
                    self.store_ahead = self.ground.ahead(store_now);
                }
                journal.tell_apart(&self.ground.export, self.store_ahead);
                self.journal = Some(journal);
                self.memory.sealed.clear();
                self.listed = self.now();
                if std::mem::take(&mut self.blinded) {
                    self.memory.gate = None;
                }
            }
            Err(failure) => {
                let now = self.now();
                self.blinded = true;
                self.memory.gated(failure.of_export(), now, rand::random());
            }
        }
    }

    fn decide(&self) -> Decision {
        let Some(journal) = &self.journal else {
            return self.blind();
        };
        let (active, busy) = (self.active(), self.busy());
        let now = self.now();
        decide(&Observation {
            export: &self.ground.export,
            journal,
            active: &active,
            busy: &busy,
            sealing: self.jobs.values().any(|job| matches!(job, Job::Seal(_))),
            memory: &self.memory,
            listed: self.listed,
            now,
            store_now: now.checked_add(self.store_ahead).unwrap_or(now),
        })
    }

    /// Before the bucket was listed nothing can be decided but when to try again.
    fn blind(&self) -> Decision {
        let persistence = self.ground.export.persistence;
        let Some(gate) = &self.memory.gate else {
            return Decision::default();
        };
        let given_up = gate.given_up(persistence);
        let Failure {
            reason,
            message,
            remedy,
            ..
        } = gate.failure.clone();
        let again = (!given_up).then_some(gate.again);
        let troubles = vec![Trouble {
            reason,
            message,
            window: None,
            remedy,
            again,
        }];
        Decision {
            troubles,
            wake: again,
            // Sessions may be open as long as anything is under way.
            rest: given_up && self.jobs.is_empty(),
            ..Decision::default()
        }
    }

    /// Does what was decided; returns whether something changed at once, so that the next decision is due.
    async fn act(&mut self, decision: Decision) -> bool {
        let mut changed = false;
        for day in decision.split {
            changed |= self.split(day).await;
        }
        for id in decision.settle {
            let facts = self
                .journal
                .as_ref()
                .and_then(|journal| journal.attempts.get(&id))
                .cloned()
                .unwrap_or_default();
            self.spawn(Job::Settle(id), move |ground| async move {
                let span = ground.settle_span(id);
                Done::Settle(id, settle(&ground, id, &facts).instrument(span).await)
            });
        }
        for window in decision.adopt {
            self.spawn(Job::Adopt(window), move |ground| async move {
                let span = ground.window_span(window);
                Done::Adopt(window, adopt(&ground, window).instrument(span).await)
            });
        }
        if let Some(period) = decision.seal {
            self.seal(period);
        }
        for window in decision.start {
            let journal = self.journal.as_ref();
            let others = journal.and_then(|journal| events_beside(journal, &self.ground.export, window));
            self.spawn(Job::Window(window), move |ground| async move {
                Done::Window(window, export_window(&ground, window, others).await)
            });
        }
        changed
    }

    fn spawn<F>(&mut self, job: Job, work: impl FnOnce(Arc<Ground>) -> F)
    where
        F: Future<Output = Done> + Send + 'static,
    {
        if self.jobs.values().any(|running| *running == job) {
            return;
        }
        let handle = self.tasks.spawn(work(Arc::clone(&self.ground)).in_current_span());
        self.jobs.insert(handle.id(), job);
    }

    async fn split(&mut self, day: Window) -> bool {
        let why = self
            .memory
            .windows
            .get(&day)
            .map_or_else(String::new, |tried| tried.failure.message.clone());
        tracing::info!(%day, why, "the day is exported by the hour from now on");
        let record = SplitRecord {
            schema: SplitRecord::SCHEMA.to_owned(),
            why,
            at: self.now(),
        };
        let root = &self.ground.export.root;
        let written = put(
            &*self.ground.peers.store,
            root,
            &Key::Split(day),
            &record,
            Condition::IfAbsent,
        )
        .await;
        match written {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {
                self.memory.windows.remove(&day);
                if let Some(journal) = &mut self.journal {
                    journal.splits.insert(day);
                }
                true
            }
            Err(error) => {
                let now = self.now();
                self.memory
                    .gated(Failure::from(&error).of_export(), now, rand::random());
                false
            }
        }
    }

    /// Waits for something to happen, and takes in what did.
    async fn wait(&mut self, wake: Option<Timestamp>) {
        let until = wake.map_or(SLEEP, |at| {
            Duration::try_from(at.duration_since(self.now())).unwrap_or_default()
        });
        let transferring = !lock(&self.ground.transfers).is_empty();
        let sleep = until
            .min(SLEEP)
            .min(if transferring { TELL } else { SLEEP })
            .max(PAUSE);
        let stop = self.ground.stop.clone();
        let done = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(sleep) => return,
            () = self.ground.opened.notified() => return,
            Some(done) = self.tasks.join_next_with_id() => done,
        };
        self.take_in(done).await;
        while let Some(done) = self.tasks.try_join_next_with_id() {
            self.take_in(done).await;
        }
    }

    async fn stop(mut self, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        let finish = async {
            while let Some(done) = self.tasks.join_next_with_id().await {
                self.take_in(done).await;
            }
        };
        if tokio::time::timeout(STOP, finish).await.is_err() {
            tracing::warn!(
                export = self.ground.export.name,
                "stopped before every session was deleted: the next run settles them"
            );
        }
        let decision = self.decide();
        self.tell(&decision, out)
    }

    fn active(&self) -> BTreeSet<Window> {
        let windows = self.jobs.values().filter_map(|job| match job {
            Job::Window(window) => Some(*window),
            Job::Settle(_) | Job::Adopt(_) | Job::Seal(_) => None,
        });
        windows.collect()
    }

    /// Attempts that are worked on, here or by the windows' own tasks.
    fn busy(&self) -> BTreeSet<AttemptId> {
        let mut busy = lock(&self.ground.busy).clone();
        busy.extend(self.jobs.values().filter_map(|job| match job {
            Job::Settle(id) => Some(*id),
            Job::Window(_) | Job::Adopt(_) | Job::Seal(_) => None,
        }));
        busy
    }

    fn now(&self) -> Timestamp {
        (self.ground.shared.now)()
    }
}
