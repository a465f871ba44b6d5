//! What a run tells: the snapshot of a decision. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::ExportRun;
use crate::export::decide::RunDecision;
use crate::export::failure::{Failure, Problem, Remedy};
use crate::export::journal::Journal;
use crate::export::open::conditional_writes_unsupported;
use crate::export::run_context::lock;
use crate::export::snapshot::{ObservedRetention, PROBLEMS_MAX, SessionFacts, Snapshot};
use crate::export::window::Window;

impl ExportRun {
    pub(super) fn publish_snapshot(
        &self,
        decision: &RunDecision,
        out: &watch::Sender<Arc<Snapshot>>,
    ) -> Arc<Snapshot> {
        let snapshot = Arc::new(self.build_snapshot(decision));
        out.send_replace(Arc::clone(&snapshot));
        snapshot
    }

    fn observed_retention(&self) -> Option<ObservedRetention> {
        let (oldest, ago) = self.ctx.listing_cache.oldest()?;
        let at = self.now().checked_sub(ago).ok()?;
        Some(ObservedRetention { oldest, at })
    }

    fn build_snapshot(&self, decision: &RunDecision) -> Snapshot {
        let empty = Journal::default();
        let journal = self.journal.as_ref().unwrap_or(&empty);
        let coverage = &decision.coverage;
        let mut windows = BTreeMap::new();
        let mut last_stored = None;
        for (window, receipt) in &journal.receipts {
            if let Some(receipt) = receipt.as_ref().filter(|_| coverage.covered.contains(*window)) {
                let mut facts = receipt.summary.clone();
                last_stored = last_stored.max(Some(receipt.stored_at));
                facts.stored_now = self.stored_now.contains(window);
                windows.insert(*window, facts);
            }
        }
        let mut sessions: BTreeMap<String, Window> = lock(&self.ctx.sessions).clone();
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
        let support = lock(&self.ctx.shared.support)
            .get(self.ctx.peers.store.name())
            .copied();
        if support.is_some_and(|support| !(support.put && support.complete)) && self.ctx.export.single_writer
        {
            let Failure { reason, message, .. } = conditional_writes_unsupported(self.ctx.peers.store.name());
            problems.push(Problem {
                reason,
                message,
                window: None,
                remedy: Remedy::Wait(None),
                retry_at: None,
            });
        }
        problems.truncate(PROBLEMS_MAX);
        Snapshot {
            observed: self.journal.is_some(),
            wanted: coverage.wanted,
            stored: coverage.stored,
            active: self.active_windows().len() as u64,
            waiting: coverage.waiting,
            failed: coverage.failed,
            events: windows.values().map(|facts| facts.events).sum(),
            bytes: windows.values().map(|facts| facts.bytes).sum(),
            covered: coverage.covered.clone(),
            missing: coverage.missing.clone(),
            expired: coverage.expired.clone(),
            sessions: sessions
                .into_iter()
                .map(|(id, window)| SessionFacts { id, window })
                .collect(),
            problems,
            complete: decision.complete,
            manifest_due: decision.sealing,
            next_run_at: decision.wake,
            windows: Arc::new(windows),
            transfers: lock(&self.ctx.transfers).values().cloned().collect(),
            last_stored,
            retention: self.observed_retention(),
        }
    }
}
