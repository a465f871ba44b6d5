//! Archived days for [`status`](super::status), from the receipts. [`assess_day`] has the decisions, without I/O.
//! Reads the store; writes nothing.

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::human;
use super::location::OpenArchive;
use crate::archive::counts::Verdict;
use crate::archive::layout::ArchiveRoot;
use crate::archive::listing::{Journal, ReceiptMismatch};
use crate::archive::window::{HourSet, Window};
use crate::export::journal_io::{RecordReadError, read_receipts};

/// Maximum number of missing ranges in a cell of a partial day.
const RANGES_SHOWN: usize = 3;

/// Day in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedDay {
    /// State of the day.
    pub state: DayState,
    /// Events counted, over all receipts that cover the day.
    pub events: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Weakest verdict of the receipts.
    pub verdict: Option<Verdict>,
}

/// State of a day in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DayState {
    /// All 24 hours are stored.
    Complete,
    /// Some hours are stored; contains the merged ranges of missing hours.
    Partial(Vec<String>),
    /// Nothing is stored, and the day is over.
    Missing,
    /// Nothing is stored, and the day is not over.
    Ongoing,
    /// Nothing is stored, and the service no longer had the day at the last attempt.
    Expired,
    /// Stored data does not count, for this reason.
    Inconsistent(String),
}

impl DayState {
    /// Returns the value in JSON output.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Complete => "Whole",
            Self::Partial(_) => "Part",
            Self::Missing => "Missing",
            Self::Ongoing => "NotOver",
            Self::Expired => "Expired",
            Self::Inconsistent(_) => "Doubtful",
        }
    }
}

/// Lists the root, and reads the receipts of the days from `start` to `end`.
pub async fn read_journal(
    location: &OpenArchive,
    root: &ArchiveRoot,
    start: Date,
    end: Date,
) -> Result<Journal, String> {
    let store = &location.store;
    let rows = store
        .list(root.as_str())
        .await
        .map_err(|error| error.describe(&location.setting_names))?;
    let mut journal = Journal::from_listing(root, &rows);
    let within = |window: Window| (start..=end).contains(&window.date());
    read_receipts(store.as_ref(), root, &mut journal, within)
        .await
        .map_err(|error| match error {
            RecordReadError::Store(error) => error.describe(&location.setting_names),
            RecordReadError::Record(error) => error.to_string(),
        })?;
    Ok(journal)
}

/// Returns the state of a day of this source in the journal.
pub fn assess_day(journal: &Journal, source: &str, day: Date, now: Timestamp) -> ArchivedDay {
    let full_day = Window::day(day);
    let covered = journal.covered(source);
    let mut archived = ArchivedDay {
        state: DayState::Missing,
        events: 0,
        bytes: 0,
        verdict: None,
    };
    let receipts = journal
        .receipts
        .iter()
        .filter(|(window, _)| window.date() == day && covered.contains(**window));
    for facts in receipts.filter_map(|(_, facts)| facts.as_ref()) {
        archived.events = archived.events.saturating_add(facts.summary.events);
        archived.bytes = archived.bytes.saturating_add(facts.summary.bytes);
        archived.verdict = archived.verdict.weaker(facts.summary.verdict);
    }
    archived.state = if covered.contains(full_day) {
        DayState::Complete
    } else if let Some((_, mismatch)) = journal
        .mismatches(source)
        .find(|(window, _)| window.date() == day)
    {
        DayState::Inconsistent(match mismatch {
            ReceiptMismatch::Source(other) => format!("its receipt is from source {other}"),
            ReceiptMismatch::ObjectMissing => "its object is missing".to_owned(),
            ReceiptMismatch::ObjectSize { stated, found } => format!(
                "its object has {}, its receipt says {}",
                human::plural(found, "byte"),
                human::plural(stated, "byte")
            ),
            ReceiptMismatch::Uncounted {
                events, uncounted, ..
            } => format!(
                "only {} of it could be counted ({uncounted})",
                human::plural(events, "event")
            ),
        })
    } else if covered.intersects(full_day) {
        let missing = HourSet::from_iter([full_day]).difference(&covered);
        DayState::Partial(missing.ranges(RANGES_SHOWN))
    } else if journal.expired.iter().any(|window| window.date() == day) {
        DayState::Expired
    } else if journal.orphaned_objects().any(|window| window.date() == day) {
        DayState::Inconsistent("object without a receipt".to_owned())
    } else if full_day.end() > now {
        DayState::Ongoing
    } else {
        DayState::Missing
    };
    archived
}

/// Selects the weaker of two verdicts.
trait WeakerVerdict {
    fn weaker(self, other: Verdict) -> Self;
}

impl WeakerVerdict for Option<Verdict> {
    fn weaker(self, other: Verdict) -> Self {
        let weakness = |verdict: Verdict| match verdict {
            Verdict::Empty => 0,
            Verdict::Matched => 1,
            Verdict::Over => 2,
            Verdict::Unknown => 3,
            Verdict::Uncounted => 4,
            Verdict::Short => 5,
        };
        Some(match self {
            Some(one) if weakness(one) >= weakness(other) => one,
            _ => other,
        })
    }
}

impl ArchivedDay {
    /// Returns the cell of the table; `listed` is the number of events that the service reports now.
    pub fn cell(&self, listed: Option<u64>) -> String {
        let events = human::count(self.events);
        let verdict = self
            .verdict
            .map(|verdict| format!(" {verdict:?}"))
            .unwrap_or_default();
        match &self.state {
            DayState::Complete => match listed.map(|listed| listed.saturating_sub(self.events)) {
                Some(more @ 1..) => format!("{events}{verdict}; {} more now", human::count(more)),
                _ => format!("{events}{verdict}"),
            },
            DayState::Partial(missing) => format!("{events} partial; missing {}", missing.join(", ")),
            DayState::Missing => "missing".to_owned(),
            DayState::Ongoing => "not over".to_owned(),
            DayState::Expired => "EXPIRED".to_owned(),
            DayState::Inconsistent(reason) => format!("INCONSISTENT: {reason}"),
        }
    }

    /// Returns the JSON object of the day.
    pub fn to_json(&self, listed: Option<u64>) -> Value {
        let (missing, reason) = match &self.state {
            DayState::Partial(missing) => (missing.as_slice(), None),
            DayState::Inconsistent(reason) => (&[][..], Some(reason)),
            _ => (&[][..], None),
        };
        json!({
            "state": self.state.as_str(),
            "events": self.events,
            "bytes": self.bytes,
            "verdict": self.verdict.map(|verdict| format!("{verdict:?}")),
            "missingHours": missing,
            "why": reason,
            "moreNow": listed.map(|listed| listed.saturating_sub(self.events)),
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::listing::WindowFacts;
    use crate::archive::listing::{ReceiptFacts, ReceiptProof};

    const SOURCE: &str = "https://a";

    fn receipt(source: &str, events: u64, verdict: Verdict, object: bool) -> ReceiptFacts {
        ReceiptFacts {
            source: source.to_owned(),
            day_reported: None,
            stored_at: Timestamp::UNIX_EPOCH,
            proof: ReceiptProof::default(),
            summary: WindowFacts {
                bytes: if object { 10 * events } else { 0 },
                events,
                reported: None,
                verdict,
                uncounted: None,
                sha256: object.then(|| "ab".into()),
                stored_now: false,
            },
        }
    }

    #[test]
    fn each_day_state_names_its_cause() {
        let now: Timestamp = "2018-06-09T12:00:00Z".parse().unwrap();
        let day = |day| Window::day(date(2018, 6, day));
        let mut journal = Journal::default();
        let mut stored = |window: Window, facts: ReceiptFacts| {
            if facts.summary.bytes > 0 {
                journal.objects.insert(window, facts.summary.bytes);
            }
            journal.receipts.insert(window, Some(facts));
        };
        stored(day(1), receipt(SOURCE, 5, Verdict::Matched, true));
        stored(day(2), receipt(SOURCE, 0, Verdict::Empty, false));
        for hour in 0..20 {
            let window = Window::hour(date(2018, 6, 3), hour).unwrap();
            stored(
                window,
                receipt(
                    SOURCE,
                    2,
                    if hour == 7 {
                        Verdict::Over
                    } else {
                        Verdict::Matched
                    },
                    true,
                ),
            );
        }
        stored(day(4), receipt("https://b", 5, Verdict::Matched, true));
        stored(day(5), receipt(SOURCE, 5, Verdict::Matched, true));
        journal.objects.insert(day(5), 49);
        journal.objects.insert(day(6), 7);
        journal.expired.insert(day(7));
        for (number, listed, wanted) in [
            (1, Some(5), "5 Matched"),
            (1, Some(9), "5 Matched; 4 more now"),
            (2, None, "0 Empty"),
            (3, Some(60), "40 partial; missing 2018-06-03T20/2018-06-03T23"),
            (4, None, "INCONSISTENT: its receipt is from source https://b"),
            (
                5,
                None,
                "INCONSISTENT: its object has 49 bytes, its receipt says 50 bytes",
            ),
            (6, None, "INCONSISTENT: object without a receipt"),
            (7, None, "EXPIRED"),
            (8, Some(3), "missing"),
            (9, Some(3), "not over"),
        ] {
            let archived = assess_day(&journal, SOURCE, date(2018, 6, number), now);
            assert_eq!(archived.cell(listed), wanted, "day {number}");
            if number == 3 {
                assert_eq!(archived.verdict, Some(Verdict::Over));
            }
        }
    }
}
