//! Sums over the windows of an export, or of several. No I/O.

use super::outcome::{StoredFacts, WindowState};
use crate::export::verdict::Verdict;

/// Sums over the stored windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportTotals {
    /// Wanted windows.
    pub wanted: u64,
    /// Stored by this run.
    pub stored_now: u64,
    /// Stored before.
    pub already_stored: u64,
    /// Of the stored: proved to have no events.
    pub empty: u64,
    /// Of the stored: those for which the service gave no count.
    pub uncounted: u64,
    /// Of the stored: those with more events than the service counts.
    pub over: u64,
    /// Accepted gaps.
    pub accepted: u64,
    /// Not due yet.
    pub not_due: u64,
    /// Due, and neither stored nor accepted.
    pub missing: u64,
    /// Of the missing: those that the service no longer has.
    pub expired: u64,
    /// Events counted.
    pub events: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Of the bytes: those that this run stored.
    pub bytes_now: u64,
}

impl ExportTotals {
    /// Counts a window.
    pub(super) fn add(&mut self, stored: Option<&StoredFacts>, state: &WindowState) {
        self.wanted += 1;
        match state {
            WindowState::StoredNow => self.stored_now += 1,
            WindowState::AlreadyStored => self.already_stored += 1,
            WindowState::Accepted => self.accepted += 1,
            WindowState::NotDue(_) => self.not_due += 1,
            WindowState::Expired
            | WindowState::Waiting(_)
            | WindowState::Failed(_)
            | WindowState::NotTried => self.missing += 1,
        }
        self.expired += u64::from(*state == WindowState::Expired);
        let Some(facts) = stored else { return };
        self.events = self.events.saturating_add(facts.events);
        self.bytes = self.bytes.saturating_add(facts.bytes);
        if *state == WindowState::StoredNow {
            self.bytes_now = self.bytes_now.saturating_add(facts.bytes);
        }
        match facts.verdict {
            Verdict::Empty => self.empty += 1,
            Verdict::Unknown => self.uncounted += 1,
            Verdict::Over => self.over += 1,
            Verdict::Matched | Verdict::Short => {}
        }
    }

    /// Windows that are stored, now or before.
    pub const fn stored(&self) -> u64 {
        self.stored_now + self.already_stored
    }

    /// The sums of several exports.
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
            bytes: self.bytes.saturating_add(other.bytes),
            bytes_now: self.bytes_now.saturating_add(other.bytes_now),
        }
    }
}
