//! What is known of an export at a moment: read by the operator for the status, by the command line for
//! progress. Plain data, bounded. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::failure::Problem;
use super::verdict::Verdict;
use super::window::{HourSet, Window};

/// The most troubles that a snapshot carries; the count says how many there are in all.
pub const PROBLEMS_MAX: usize = 32;

/// An export at a moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whether the bucket was listed at least once: before, nothing below is known.
    pub observed: bool,
    /// Wanted windows (days, or hours where an hour is asked for).
    pub wanted: u64,
    /// Wanted windows that receipts cover whole.
    pub stored: u64,
    /// Windows being exported now.
    pub active: u64,
    /// Windows that wait: for their day to be over, for a free session, for another holder.
    pub waiting: u64,
    /// Windows whose last try failed.
    pub failed: u64,
    /// Events of the wanted windows that are stored.
    pub events: u64,
    /// Bytes of them, as stored.
    pub bytes: u64,
    /// Cells that receipts cover.
    pub covered: HourSet,
    /// Cells that are wanted, whose day is over, and that nothing covers (expired ones included).
    pub missing: HourSet,
    /// Cells that the service no longer has and no person has accepted.
    pub expired: HourSet,
    /// Sessions that are open, or may be, because of this export.
    pub sessions: Vec<SessionFacts>,
    /// What is wrong or waited for, the worst first.
    pub problems: Vec<Problem>,
    /// All wanted cells are covered or accepted, the range has an end, no session is left, and the manifest
    /// is there.
    pub complete: bool,
    /// A manifest is due that is not there yet.
    pub manifest_due: bool,
    /// When to look again; `None`: nothing will change by itself.
    pub next_run_at: Option<Timestamp>,
    /// What this process stored or found, by window.
    pub windows: Arc<BTreeMap<Window, WindowFacts>>,
    /// Transfers under way.
    pub transfers: Vec<TransferFacts>,
    /// When a wanted window was stored last, by the store's clock; `None`: none is stored.
    pub last_stored: Option<Timestamp>,
    /// What the service was last seen to retain; `None`: it was not asked, or does not list its days.
    pub retention: Option<ObservedRetention>,
}

/// The oldest day that the service listed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedRetention {
    /// The oldest day that it listed.
    pub oldest: Date,
    /// When it was asked.
    pub at: Timestamp,
}

impl ObservedRetention {
    /// The earliest moment at which the service may delete a day: what it lists moves on by a day a day, so a day
    /// that is `n` days younger than the oldest is there for `n` days at least. Where events are kept for longer than
    /// the space has had any, that is too early, never too late.
    pub fn retained_until(&self, day: Date) -> Timestamp {
        let days_newer = day.since(self.oldest).map_or(0, |span| span.get_days());
        let kept = SignedDuration::from_hours(24 * i64::from(days_newer.max(0)));
        self.at.checked_add(kept).unwrap_or(Timestamp::MAX)
    }
}

/// A stored window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowFacts {
    /// Bytes as stored.
    pub bytes: u64,
    /// Events counted.
    pub events: u64,
    /// Events that the service reported, the later report first choice.
    pub reported: Option<u64>,
    /// How the count compares.
    pub verdict: Verdict,
    /// SHA-256 of the object; absent when the window was proved empty.
    pub sha256: Option<Arc<str>>,
    /// Whether this process stored it, rather than found it.
    pub stored_now: bool,
}

/// A session that is open, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// Its id.
    pub id: String,
    /// What it downloads.
    pub window: Window,
}

/// A transfer under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferFacts {
    /// What is transferred.
    pub window: Window,
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes in all, where the service announced them.
    pub announced: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn a_day_is_retained_as_long_as_it_is_newer_than_the_oldest_listed_day() {
        let at: Timestamp = "2018-06-30T06:00:00Z".parse().unwrap();
        let retention = ObservedRetention {
            oldest: date(2018, 6, 23),
            at,
        };
        let kept = |day| {
            retention
                .retained_until(date(2018, 6, day))
                .duration_since(at)
                .as_hours()
        };
        assert_eq!([kept(1), kept(23), kept(24), kept(30)], [0, 0, 24, 7 * 24]);
    }
}
