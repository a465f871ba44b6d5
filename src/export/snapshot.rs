//! Snapshot of an export at a point in time: the operator derives the status from it, the command line the
//! progress. Plain data, bounded. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::failure::Problem;
use super::retry_state::RetryState;
use crate::archive::coverage::{Damage, Growth};
use crate::archive::manifest::HeadRecord;
use crate::archive::receipt::WindowFacts;
use crate::archive::window::{HourSet, Window};

/// Maximum number of problems in a snapshot.
pub const PROBLEMS_MAX: usize = 32;

/// State of an export at a point in time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// True if the bucket was listed at least once; until then, nothing below is known.
    pub observed: bool,
    /// Wanted windows: days, or hours if the spec names an hour.
    pub wanted: u64,
    /// Wanted windows that receipts cover completely.
    pub stored: u64,
    /// Windows being exported now.
    pub active: u64,
    /// Windows that wait: for the end of their day, for a free session, for another holder, for a retry.
    pub waiting: u64,
    /// Windows that need manual action.
    pub failed: u64,
    /// Events of the wanted windows that are stored.
    pub events: u64,
    /// Stored bytes of the wanted windows.
    pub bytes: u64,
    /// Those of the events that came after the first receipt of their window.
    pub late_events: u64,
    /// Stored days of which the service reports more events than the archive has.
    pub grown: BTreeMap<Date, Growth>,
    /// Cells that receipts cover.
    pub covered: HourSet,
    /// Wanted cells of past days that nothing covers, including expired ones.
    pub missing: HourSet,
    /// Cells that the service no longer has and that are not accepted as a gap.
    pub expired: HourSet,
    /// Wanted windows with data that does not count and that are not accepted as a gap.
    pub damaged: BTreeMap<Window, Damage>,
    /// Sessions of this export that are open or may be open.
    pub sessions: Vec<SessionFacts>,
    /// Problems and waits, the worst first; at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// Windows of attempts that are in progress or must be recovered: each may have a session open.
    pub open_attempts: Vec<Window>,
    /// Sessions that attempts with a lost reply may have opened, at the last search; not all may be known.
    pub suspected_sessions: Vec<String>,
    /// True if every due cell is covered or accepted, no attempt is open, and every due manifest exists.
    pub finished: bool,
    /// True if the run is finished and the range has an end that is past.
    pub complete: bool,
    /// True if a manifest is due that does not exist yet.
    pub manifest_due: bool,
    /// Newest manifest, to be remembered outside the bucket; `None`: there is none, or it is not known yet.
    pub head: Option<HeadRecord>,
    /// Time of the next decision; `None`: nothing changes by itself.
    pub next_run_at: Option<Timestamp>,
    /// Windows that this process stored or found.
    pub windows: Arc<BTreeMap<Window, WindowFacts>>,
    /// Windows that are being transferred, oldest first.
    pub transfers: Vec<TransferFacts>,
    /// Time at which the last wanted window was stored, by the store's clock; `None`: none is stored.
    pub last_stored: Option<Timestamp>,
    /// Time at which this run started its first window; `None`: it started none.
    pub first_transfer_at: Option<Timestamp>,
    /// Number of the last request to look again that was answered by a complete listing.
    pub looked: u64,
    /// Number of the newest spec update that the run took over; 0: none.
    pub applied: u64,
    /// Last observed retention of the service; `None`: not requested, or the service does not list its days.
    pub retention: Option<ObservedRetention>,
    /// Failures of a run that ended to wait until `next_run_at`: the next run goes on with them.
    pub retry_state: Option<Arc<RetryState>>,
}

/// The oldest day that the service listed, with the time of the listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedRetention {
    /// The oldest listed day.
    pub oldest: Date,
    /// Time of the listing.
    pub at: Timestamp,
}

impl ObservedRetention {
    /// Returns the earliest time at which the service may delete a day. Retention advances by a day a day, so a day
    /// `n` days newer than the oldest is kept for at least `n` days. In a space younger than its retention, the
    /// result is too early, never too late.
    pub fn retained_until(&self, day: Date) -> Timestamp {
        let days_newer = day.since(self.oldest).map_or(0, |span| span.get_days());
        let kept = SignedDuration::from_hours(24 * i64::from(days_newer.max(0)));
        self.at.checked_add(kept).unwrap_or(Timestamp::MAX)
    }
}

/// A session that is open or may be open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// The session id.
    pub id: String,
    /// The window that it downloads.
    pub window: Window,
}

/// A window that is being transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferFacts {
    /// The window being transferred.
    pub window: Window,
    /// Step of the transfer.
    pub phase: TransferPhase,
    /// Bytes so far.
    pub bytes: u64,
    /// Total bytes, if the service announced them.
    pub announced: Option<u64>,
}

/// Step of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferPhase {
    /// A session is being opened, and the download requested.
    Opening,
    /// Bytes are received.
    Downloading,
    /// Every byte is received; the object and its receipt are being written.
    Storing,
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
