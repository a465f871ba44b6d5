//! Archived days for [`status`](super::status), from the receipts. [`assess`] has the decisions, without I/O.
//! Reads the store; writes nothing.

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::human;
use super::open_archive::OpenArchive;
use crate::archive::calendar::CalendarDay;
use crate::archive::coverage::{self, Coverage, Expectation, WindowState};
use crate::archive::layout::ArchiveRoot;
use crate::archive::listing::Journal;
use crate::archive::read::{ReadOptions, read_journal};
use crate::archive::window::{HourSet, Window};
use crate::export::spec::ExportSpec;

/// Maximum number of missing ranges in a cell of a partial day.
const RANGES_SHOWN: usize = 3;

/// Lists the root, and reads the receipts of the days from `start` to `end`.
pub async fn read_days(
    location: &OpenArchive,
    root: &ArchiveRoot,
    start: Date,
    end: Date,
) -> Result<Journal, String> {
    let options = ReadOptions {
        days: Some(start..=end),
        all_manifests: false,
        ..ReadOptions::default()
    };
    let (journal, _) = read_journal(&*location.store, root, &options)
        .await
        .map_err(|error| error.describe(&location.setting_names))?;
    Ok(journal)
}

/// Assesses the days from `start` to `end` of an archive of this source, with the gaps that an export accepts.
pub fn assess(
    journal: &Journal,
    source: &str,
    (start, end): (Date, Date),
    export: Option<&ExportSpec>,
    now: Timestamp,
) -> Coverage {
    let days = std::iter::successors(Some(start), |day| day.tomorrow().ok()).take_while(|day| *day <= end);
    let wanted: HourSet = days.filter_map(|day| window_of(export, day)).collect();
    let due = |window: Window| export.map_or_else(|| window.end(), |export| export.due_at(window));
    let windows = wanted.days().filter_map(|(day, _)| window_of(export, day));
    let expectation = Expectation {
        source: Some(source.to_owned()),
        oldest_listed: None,
        accepted: export.map_or_else(HourSet::default, |export| export.accepted_hours(&wanted)),
        not_due: windows.filter(|window| due(*window) > now).collect(),
        wanted,
    };
    coverage::assess(&expectation, journal)
}

/// Returns the window of a day: its hour, if the export is limited to one.
fn window_of(export: Option<&ExportSpec>, day: Date) -> Option<Window> {
    match export.and_then(|export| export.hour) {
        Some(hour) => Window::hour(day, hour),
        None => Some(Window::day(day)),
    }
}

/// Returns a day of an assessed archive.
pub fn archived_day(
    journal: &Journal,
    coverage: &Coverage,
    export: Option<&ExportSpec>,
    day: Date,
) -> CalendarDay {
    CalendarDay::new(
        journal,
        coverage,
        window_of(export, day).unwrap_or(Window::day(day)),
    )
}

/// Returns the cell of the table; `listed` is the number of events that the service reports now.
pub fn cell(day: &CalendarDay, listed: Option<u64>) -> String {
    let events = human::count(day.events);
    let verdict = day
        .verdict
        .map(|verdict| format!(" {verdict:?}"))
        .unwrap_or_default();
    match &day.state {
        WindowState::Covered => match listed.map(|listed| listed.saturating_sub(day.events)) {
            Some(more @ 1..) => format!("{events}{verdict}; {} more now", human::count(more)),
            _ => format!("{events}{verdict}"),
        },
        WindowState::Partial(missing) => {
            format!(
                "{events} partial; missing {}",
                missing.ranges(RANGES_SHOWN).join(", ")
            )
        }
        WindowState::Missing => "missing".to_owned(),
        WindowState::NotDue => "not over".to_owned(),
        WindowState::Accepted => "accepted gap".to_owned(),
        WindowState::Expired => "EXPIRED".to_owned(),
        WindowState::Damaged(damage) => format!("{}: {damage}", damage.as_str()),
    }
}

/// Returns the JSON object of the day.
pub fn to_json(day: &CalendarDay, listed: Option<u64>) -> Value {
    let (missing, reason) = match &day.state {
        WindowState::Partial(missing) => (missing.ranges(RANGES_SHOWN), None),
        WindowState::Damaged(damage) => (Vec::new(), Some(damage.to_string())),
        _ => (Vec::new(), None),
    };
    json!({
        "state": day.state.as_str(),
        "events": day.events,
        "bytes": day.bytes,
        "verdict": day.verdict.map(|verdict| format!("{verdict:?}")),
        "missingHours": missing,
        "reason": reason,
        "moreReported": listed.map(|listed| listed.saturating_sub(day.events)),
    })
}

#[cfg(test)]
#[allow(missing_docs)]
pub mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::counts::Verdict;
    use crate::archive::listing::ExpiredFacts;
    use crate::archive::receipt::{ReceiptFacts, ReceiptProof, Sha256Digest, WindowFacts};

    const SOURCE: &str = "https://a";

    /// Facts of a receipt; its object has ten bytes for each event.
    pub fn receipt(source: &str, events: u64, verdict: Verdict, object: bool) -> ReceiptFacts {
        ReceiptFacts {
            source: source.into(),
            day_reported: None,
            stored_at: Timestamp::UNIX_EPOCH,
            proof: ReceiptProof::default(),
            revisions: Vec::new(),
            summary: WindowFacts {
                bytes: if object { 10 * events } else { 0 },
                events,
                reported: None,
                verdict,
                uncounted: None,
                sha256: object.then(Sha256Digest::default),
                stored_now: false,
                revision: 0,
                late_events: 0,
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
            journal.receipts.insert(window, Some(Box::new(facts)));
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
        let expired = ExpiredFacts {
            source: SOURCE.to_owned(),
            oldest_listed: Date::MAX,
        };
        journal.expired.insert(day(7), Some(expired));
        let days = (date(2018, 6, 1), date(2018, 6, 9));
        let coverage = assess(&journal, SOURCE, days, None, now);
        for (number, listed, wanted) in [
            (1, Some(5), "5 Matched"),
            (1, Some(9), "5 Matched; 4 more now"),
            (2, None, "0 Empty"),
            (3, Some(60), "40 partial; missing 2018-06-03T20/2018-06-03T23"),
            (4, None, "OtherSource: its receipt names the source https://b"),
            (
                5,
                None,
                "ObjectSizeMismatch: its object has 49 bytes, but its receipt states 50",
            ),
            (6, None, "Orphaned: its object has no receipt"),
            (7, None, "EXPIRED"),
            (8, Some(3), "missing"),
            (9, Some(3), "not over"),
        ] {
            let archived = archived_day(&journal, &coverage, None, date(2018, 6, number));
            assert_eq!(cell(&archived, listed), wanted, "day {number}");
            if number == 3 {
                assert_eq!(archived.verdict, Some(Verdict::Over));
            }
        }
    }
}
