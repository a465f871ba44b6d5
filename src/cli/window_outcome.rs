//! Outcome of an export for a window, from its last snapshot. No I/O.

use jiff::Timestamp;

use crate::api::Reason;
use crate::archive::counts::Verdict;
use crate::archive::coverage::Damage;
use crate::archive::listing::overlap;
use crate::archive::receipt::{Sha256Digest, WindowFacts};
use crate::archive::window::Window;
use crate::export::failure::{Problem, RetryClass};
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;

/// Outcome of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRow {
    /// Day, or hour if the spec requests an hour.
    pub window: Window,
    /// Facts of the stored data.
    pub stored: Option<StoredFacts>,
    /// Result of the run for it.
    pub state: WindowOutcome,
    /// True if some of its hours are covered, and it is not covered itself.
    pub partial: bool,
}

impl WindowRow {
    /// Returns the state of the window in the archive, as every command names it.
    pub const fn archive_state(&self) -> &'static str {
        match &self.state {
            WindowOutcome::StoredNow | WindowOutcome::AlreadyStored => "Covered",
            WindowOutcome::Accepted => "Accepted",
            WindowOutcome::NotDue(_) => "NotDue",
            WindowOutcome::Damaged(damage) => damage.as_str(),
            _ if self.partial => "Partial",
            WindowOutcome::Expired => "Expired",
            WindowOutcome::Waiting(_) | WindowOutcome::Failed(_) | WindowOutcome::NotTried => "Missing",
        }
    }
}

/// Stored data of a window: one object, or the sum of the hours of a split day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFacts {
    /// Events counted.
    pub events: u64,
    /// Events that the service reported; absent unless it did for every receipt.
    pub reported: Option<u64>,
    /// Bytes as stored.
    pub bytes: u64,
    /// Weakest verdict of the receipts.
    pub verdict: Verdict,
    /// SHA-256 of the object, if there is exactly one.
    pub sha256: Option<Sha256Digest>,
    /// Number of windows: 1, or up to 24 for a split day.
    pub receipts: usize,
    /// Highest number of a revision; 0: first receipts only.
    pub revision: u32,
    /// Events that came after the first receipts.
    pub late_events: u64,
}

/// Result of a run for a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowOutcome {
    /// This run stored it.
    StoredNow,
    /// An earlier run stored it.
    AlreadyStored,
    /// The spec accepts the gap.
    Accepted,
    /// Not over, or `settleAfter` has not passed; due at this time.
    NotDue(Timestamp),
    /// The archive has data of it that does not count.
    Damaged(Damage),
    /// The service no longer has it.
    Expired,
    /// Waits for an external condition.
    Waiting(Reason),
    /// The last attempt failed.
    Failed(Reason),
    /// No attempt was made.
    NotTried,
}

impl WindowOutcome {
    /// True if the window is due and neither stored nor accepted.
    pub const fn is_missing(&self) -> bool {
        match self {
            Self::StoredNow | Self::AlreadyStored | Self::Accepted | Self::NotDue(_) => false,
            Self::Damaged(_) | Self::Expired | Self::Waiting(_) | Self::Failed(_) | Self::NotTried => true,
        }
    }

    /// True if a run stored the window.
    pub const fn is_stored(&self) -> bool {
        matches!(self, Self::StoredNow | Self::AlreadyStored)
    }
}

/// Returns the facts of a covered window, and true if this run stored any of it. The facts are absent if the snapshot
/// has only the coverage.
pub(super) fn stored_facts(window: Window, snapshot: &Snapshot) -> Option<(Option<StoredFacts>, bool)> {
    if !snapshot.covered.contains(window) {
        return None;
    }
    let day = Window::day(window.date());
    if let Some(facts) = snapshot
        .windows
        .get(&window)
        .or_else(|| snapshot.windows.get(&day))
    {
        return Some((Some(StoredFacts::from(facts)), facts.stored_now));
    }
    let hours = snapshot
        .windows
        .iter()
        .filter(|(part, _)| part.date() == window.date())
        .map(|(_, facts)| facts);
    let mut sum: Option<StoredFacts> = None;
    let mut now = false;
    for facts in hours {
        now |= facts.stored_now;
        sum = Some(match sum {
            None => StoredFacts::from(facts),
            Some(sum) => sum.merge(facts),
        });
    }
    Some((sum, now))
}

/// Returns the outcome of a window that is neither stored nor accepted.
pub(super) fn missing_state(
    export: &ExportSpec,
    window: Window,
    snapshot: &Snapshot,
    now: Timestamp,
) -> WindowOutcome {
    let due = export.due_at(window);
    if due > now {
        return WindowOutcome::NotDue(due);
    }
    let mut damaged = snapshot.damaged.range(window.same_day());
    if let Some((_, damage)) = damaged.find(|(part, _)| overlap(**part, window)) {
        return WindowOutcome::Damaged(damage.clone());
    }
    if snapshot.expired.intersects(window) {
        return WindowOutcome::Expired;
    }
    let of_day = |problem: &&Problem| problem.window.is_some_and(|other| other.date() == window.date());
    let own = snapshot.problems.iter().find(of_day);
    // A problem of the whole export explains a window without an attempt.
    match own.or_else(|| snapshot.problems.iter().find(|problem| problem.window.is_none())) {
        None => WindowOutcome::NotTried,
        Some(problem) => match problem.class {
            RetryClass::Wait(_) => WindowOutcome::Waiting(problem.reason),
            RetryClass::Retry(_) | RetryClass::Manual => WindowOutcome::Failed(problem.reason),
        },
    }
}

impl From<&WindowFacts> for StoredFacts {
    fn from(facts: &WindowFacts) -> Self {
        let WindowFacts {
            bytes,
            events,
            reported,
            verdict,
            uncounted: _,
            sha256,
            stored_now: _,
            revision,
            late_events,
        } = facts.clone();
        Self {
            events,
            reported,
            bytes,
            verdict,
            sha256,
            receipts: 1,
            revision,
            late_events,
        }
    }
}

impl StoredFacts {
    fn merge(self, other: &WindowFacts) -> Self {
        Self {
            events: self.events.saturating_add(other.events),
            reported: self
                .reported
                .zip(other.reported)
                .map(|(one, two)| one.saturating_add(two)),
            bytes: self.bytes.saturating_add(other.bytes),
            verdict: self.verdict.weaker(other.verdict),
            sha256: None,
            receipts: self.receipts + 1,
            revision: self.revision.max(other.revision),
            late_events: self.late_events.saturating_add(other.late_events),
        }
    }
}
