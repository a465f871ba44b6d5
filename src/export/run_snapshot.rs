//! Snapshot of a run, from its state and the last decision. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decide::RunDecision;
use super::failure::{Failure, Problem, RetryClass, conditional_writes_unsupported};
use super::run_context::RunContext;
use super::run_state::RunState;
use super::snapshot::{PROBLEMS_MAX, SessionFacts, Snapshot};
use crate::archive::listing::Journal;
use crate::archive::window::Window;

/// Returns the snapshot after a decision, without what only the loop knows.
pub(super) fn build_snapshot(ctx: &RunContext, state: &RunState, decision: &RunDecision) -> Snapshot {
    let empty = Journal::default();
    let journal = state.journal.listed().unwrap_or(&empty);
    let coverage = &decision.coverage;
    let mut windows = BTreeMap::new();
    let mut last_stored = None;
    for (window, receipt) in &journal.receipts {
        if let Some(receipt) = receipt.as_ref().filter(|_| coverage.covered.contains(*window)) {
            let mut facts = receipt.reported_facts();
            last_stored = last_stored.max(Some(receipt.current_stored_at()));
            facts.stored_now = state.stored_now.contains(window);
            windows.insert(*window, facts);
        }
    }
    let mut sessions: BTreeMap<String, Window> = state.work.sessions().clone();
    let export = &ctx.export;
    let own_attempts = journal.attempts.iter().filter(|(id, facts)| {
        let record = facts.record.as_ref();
        export.shard.contains(id.window.date()) && record.is_none_or(|record| record.holder == export.holder)
            // Its keys may be left if the bucket refused to delete them.
            && !state.work.closed_attempts().contains(id)
    });
    for (id, facts) in own_attempts {
        sessions.extend(facts.sessions.iter().map(|session| (session.clone(), id.window)));
    }
    let mut problems = decision.problems.clone();
    let support = ctx.known_support();
    if support.is_some_and(|support| !(support.put && support.complete)) && ctx.export.single_writer {
        let Failure { reason, message, .. } = conditional_writes_unsupported(ctx.peers.store.identity());
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
        observed: state.journal.listed().is_some(),
        wanted: coverage.wanted,
        stored: coverage.stored,
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
        suspected_sessions: state.work.suspected_sessions().iter().cloned().collect(),
        finished: decision.finished,
        complete: decision.complete,
        manifest_due: decision.sealing,
        head: state.documents.head().cloned(),
        next_run_at: decision.wake,
        windows: Arc::new(windows),
        transfers: state.work.transfers(),
        last_stored,
        retention: ctx.listing_cache.retention(),
        // Of the loop.
        active: 0,
        first_transfer_at: None,
        looked: 0,
        applied: 0,
        retry_state: None,
    }
}
