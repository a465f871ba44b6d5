//! Totals over the windows of one or more exports. No I/O.

use super::window_outcome::{StoredFacts, WindowOutcome};
use crate::archive::counts::Verdict;

/// Totals over the windows of one or more exports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportTotals {
    /// Wanted windows.
    pub wanted: u64,
    /// Windows stored by this run.
    pub stored_now: u64,
    /// Windows stored by earlier runs.
    pub already_stored: u64,
    /// Stored windows that are proved empty.
    pub empty: u64,
    /// Stored windows without a count from the service.
    pub uncounted: u64,
    /// Stored windows with more events than the service reports.
    pub over: u64,
    /// Accepted gaps.
    pub accepted: u64,
    /// Windows that are not due yet.
    pub not_due: u64,
    /// Windows that are due and neither stored nor accepted.
    pub missing: u64,
    /// Missing windows that the service no longer has.
    pub expired: u64,
    /// Events counted.
    pub events: u64,
    /// Those that came after the first receipt of their window.
    pub late_events: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Bytes stored by this run.
    pub bytes_now: u64,
}

impl ExportTotals {
    /// Adds a window.
    pub(super) fn add(&mut self, stored: Option<&StoredFacts>, state: &WindowOutcome) {
        self.wanted += 1;
        match state {
            WindowOutcome::StoredNow => self.stored_now += 1,
            WindowOutcome::AlreadyStored => self.already_stored += 1,
            WindowOutcome::Accepted => self.accepted += 1,
            WindowOutcome::NotDue(_) => self.not_due += 1,
            WindowOutcome::Damaged(_)
            | WindowOutcome::Expired
            | WindowOutcome::Waiting(_)
            | WindowOutcome::Failed(_)
            | WindowOutcome::NotTried => self.missing += 1,
        }
        self.expired += u64::from(*state == WindowOutcome::Expired);
        let Some(facts) = stored else { return };
        self.events = self.events.saturating_add(facts.events);
        self.late_events = self.late_events.saturating_add(facts.late_events);
        self.bytes = self.bytes.saturating_add(facts.bytes);
        if *state == WindowOutcome::StoredNow {
            self.bytes_now = self.bytes_now.saturating_add(facts.bytes);
        }
        match facts.verdict {
            Verdict::Empty => self.empty += 1,
            Verdict::Unknown | Verdict::Uncounted => self.uncounted += 1,
            Verdict::Over => self.over += 1,
            Verdict::Matched | Verdict::Short => {}
        }
    }

    /// Returns the number of stored windows.
    pub const fn stored(&self) -> u64 {
        self.stored_now + self.already_stored
    }

    /// Returns the sum of two totals.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            wanted: self.wanted + other.wanted,
            stored_now: self.stored_now + other.stored_now,
            already_stored: self.already_stored + other.already_stored,
            empty: self.empty + other.empty,
            uncounted: self.uncounted + other.uncounted,
            over: self.over + other.over,
            accepted: self.accepted + other.accepted,
            not_due: self.not_due + other.not_due,
            missing: self.missing + other.missing,
            expired: self.expired + other.expired,
            events: self.events.saturating_add(other.events),
            late_events: self.late_events.saturating_add(other.late_events),
            bytes: self.bytes.saturating_add(other.bytes),
            bytes_now: self.bytes_now.saturating_add(other.bytes_now),
        }
    }
}
