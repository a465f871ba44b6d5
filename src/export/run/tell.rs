//! What a run tells: the snapshot of a decision. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::Run;
use crate::export::decide::Decision;
use crate::export::failure::{Failure, Remedy, Trouble};
use crate::export::ground::lock;
use crate::export::journal::Journal;
use crate::export::open::weak;
use crate::export::snapshot::{Retained, SessionFacts, Snapshot, TROUBLES_MAX};
use crate::export::window::Window;

impl Run {
    pub(super) fn tell(&self, decision: &Decision, out: &watch::Sender<Arc<Snapshot>>) -> Arc<Snapshot> {
        let snapshot = Arc::new(self.snapshot(decision));
        out.send_replace(Arc::clone(&snapshot));
        snapshot
    }

    fn retained(&self) -> Option<Retained> {
        let (oldest, ago) = self.ground.reports.oldest()?;
        let at = self.now().checked_sub(ago).ok()?;
        Some(Retained { oldest, at })
    }

    fn snapshot(&self, decision: &Decision) -> Snapshot {
        let empty = Journal::default();
        let journal = self.journal.as_ref().unwrap_or(&empty);
        let tally = &decision.tally;
        let mut windows = BTreeMap::new();
        let mut last_stored = None;
        for (window, receipt) in &journal.receipts {
            if let Some(receipt) = receipt.as_ref().filter(|_| tally.covered.contains(*window)) {
                let mut facts = receipt.facts.clone();
                last_stored = last_stored.max(Some(receipt.stored_at));
                facts.stored_now = self.stored_now.contains(window);
                windows.insert(*window, facts);
            }
        }
        let mut sessions: BTreeMap<String, Window> = lock(&self.ground.sessions).clone();
        let export = &self.ground.export;
        let ours = journal.attempts.iter().filter(|(id, facts)| {
            let record = facts.record.as_ref();
            export.shard.has(id.window.date()) && record.is_none_or(|record| record.holder == export.holder)
        });
        for (id, facts) in ours {
            sessions.extend(facts.sessions.iter().map(|session| (session.clone(), id.window)));
        }
        let mut troubles = decision.troubles.clone();
        let known = lock(&self.ground.shared.support)
            .get(self.ground.peers.store.name())
            .copied();
        if known.is_some_and(|support| !(support.put && support.complete)) && self.ground.export.single_writer
        {
            let Failure { reason, message, .. } = weak(self.ground.peers.store.name());
            troubles.push(Trouble {
                reason,
                message,
                window: None,
                remedy: Remedy::Wait(None),
                again: None,
            });
        }
        troubles.truncate(TROUBLES_MAX);
        Snapshot {
            observed: self.journal.is_some(),
            wanted: tally.wanted,
            stored: tally.stored,
            active: self.active().len() as u64,
            waiting: tally.waiting,
            failed: tally.failed,
            events: windows.values().map(|facts| facts.events).sum(),
            bytes: windows.values().map(|facts| facts.bytes).sum(),
            covered: tally.covered.clone(),
            missing: tally.missing.clone(),
            expired: tally.expired.clone(),
            sessions: sessions
                .into_iter()
                .map(|(id, window)| SessionFacts { id, window })
                .collect(),
            troubles,
            complete: decision.complete,
            sealing: decision.sealing,
            next_look: decision.wake,
            windows: Arc::new(windows),
            transfers: lock(&self.ground.transfers).values().cloned().collect(),
            last_stored,
            retained: self.retained(),
        }
    }
}
