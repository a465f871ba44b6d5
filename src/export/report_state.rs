//! State of the reports of a run. No I/O.

use jiff::{SignedDuration, Timestamp};

use crate::archive::receipt::Sha256Digest;

/// Minimum time between two reports while the archive changes: 1 h.
const REPORT_INTERVAL: SignedDuration = SignedDuration::from_hours(1);

/// Reports of a run.
#[derive(Clone, Debug)]
pub struct ReportState {
    /// Digest of the archive that the stored report is about; `None`: the store is asked.
    pub about: Option<Sha256Digest>,
    /// Time of the last report; before the first one, the start of the run.
    pub since: Timestamp,
    /// True if the next report is written as soon as nothing is being stored: it is the first one of the run, or a person
    /// asks to look now.
    pub at_once: bool,
}

impl Default for ReportState {
    fn default() -> Self {
        Self {
            about: None,
            since: Timestamp::MIN,
            at_once: true,
        }
    }
}

impl ReportState {
    /// Returns the time from which the next report may be written. `quiet`: nothing is being stored; `ends`: the run ends
    /// when nothing is left to do.
    pub fn due_at(&self, quiet: bool, ends: bool) -> Timestamp {
        if quiet && (ends || self.at_once) {
            return Timestamp::MIN;
        }
        self.since.checked_add(REPORT_INTERVAL).unwrap_or(self.since)
    }

    /// Records that the report of an archive exists. `written`: it was sent now.
    pub fn record(&mut self, about: Sha256Digest, written: bool, now: Timestamp) {
        self.about = Some(about);
        if written {
            (self.since, self.at_once) = (now, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_at_once_when_nothing_is_stored_and_else_hourly() {
        let at = |minutes: i64| Timestamp::from_second(1_528_000_000 + 60 * minutes).unwrap();
        let mut state = ReportState {
            since: at(0),
            ..ReportState::default()
        };
        assert_eq!(state.due_at(true, false), Timestamp::MIN);
        assert_eq!(state.due_at(false, false), at(60));
        state.record(Sha256Digest::default(), false, at(5));
        assert_eq!(state.due_at(true, false), Timestamp::MIN, "nothing was sent");
        state.record(Sha256Digest::default(), true, at(10));
        assert_eq!(state.due_at(true, false), at(70));
        assert_eq!(state.due_at(false, true), at(70));
        assert_eq!(
            state.due_at(true, true),
            Timestamp::MIN,
            "the last one of a run that ends"
        );
    }
}
