//! Days of an archive with one state each, as reports show them. No I/O.

use jiff::civil::Date;

use super::counts::{SplitDay, Verdict, evaluate_day};
use super::coverage::{Coverage, Damage, WindowState, counted_receipts, expected_windows};
use super::finding::FindingKind;
use super::listing::Journal;
use super::receipt::ReceiptFacts;
use super::window::{HourSet, Window};

/// Maximum number of days in a calendar: a century. Of a longer range, the newest days are kept.
const DAYS_MAX: usize = 36_600;

/// A day of an archive, or the only wanted hour of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalendarDay {
    /// The day, or its hour.
    pub window: Window,
    /// State by keys and receipts.
    pub state: WindowState,
    /// Finding of a verification that contradicts a covered day.
    pub refuted_by: Option<FindingKind>,
    /// Covered hours of the window.
    pub hours: u8,
    /// Events of the receipts that cover the window.
    pub events: u64,
    /// Those that came after the first receipts.
    pub late_events: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Newest count of the service in these receipts.
    pub reported: Option<u64>,
    /// Verdict on these receipts.
    pub verdict: Option<Verdict>,
}

/// Calendar of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// Expected days, oldest first.
    pub days: Vec<CalendarDay>,
    /// Number of older days that are left out.
    pub omitted: u64,
}

/// Mark of a day in a calendar: its state, and the verdict if it is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DayMark {
    /// Covered, with as many events as the service reported.
    Matched,
    /// Covered: proved to have no events.
    Empty,
    /// Covered, with more events than the service reported.
    Over,
    /// Covered; the service reported no count.
    Unknown,
    /// Covered; the content could be counted only in part.
    Uncounted,
    /// The missing hours are an accepted gap.
    Accepted,
    /// Not ended or settled.
    NotDue,
    /// Some hours are covered.
    Partial,
    /// Fewer events than the service reported.
    Short,
    /// Data that does not count.
    Damaged,
    /// The service no longer has the day.
    Expired,
    /// Nothing is stored.
    Missing,
}

impl Calendar {
    /// Builds the calendar of the wanted hours of an assessed archive.
    pub fn new(journal: &Journal, coverage: &Coverage, wanted: &HourSet) -> Self {
        let all = wanted.days().count();
        let omitted = all.saturating_sub(DAYS_MAX);
        let windows = expected_windows(wanted).skip(omitted);
        Self {
            days: windows
                .map(|window| CalendarDay::new(journal, coverage, window))
                .collect(),
            omitted: omitted as u64,
        }
    }
}

impl CalendarDay {
    /// Builds the day of a window.
    pub fn new(journal: &Journal, coverage: &Coverage, window: Window) -> Self {
        let receipts: Vec<_> = counted_receipts(journal, coverage, window.date())
            .filter(|(counted, _)| counted.hours() & window.hours() != 0)
            .collect();
        let facts = || receipts.iter().map(|(_, facts)| *facts);
        let sum = |value: fn(&ReceiptFacts) -> u64| facts().map(value).fold(0, u64::saturating_add);
        let hours = coverage.covered.hours_of(window.date()) & window.hours();
        let events = sum(|facts| facts.current().events);
        let of_hours = window.hour_of_day().is_none()
            && receipts
                .iter()
                .any(|(counted, _)| counted.hour_of_day().is_some());
        let complete = hours == window.hours();
        let reported = if of_hours {
            facts().filter_map(ReceiptFacts::current_day_reported).max()
        } else {
            facts().find_map(|facts| facts.current().reported)
        };
        let verdicts = facts().map(|facts| facts.current().verdict);
        Self {
            window,
            state: coverage.state(window),
            refuted_by: None,
            hours: u8::try_from(hours.count_ones()).unwrap_or(u8::MAX),
            events,
            late_events: sum(ReceiptFacts::late_events),
            bytes: sum(ReceiptFacts::stored_bytes),
            reported,
            verdict: evaluate_day(
                verdicts,
                (of_hours && complete).then_some(SplitDay { events, reported }),
            ),
        }
    }

    /// Returns the UTC day.
    pub const fn date(&self) -> Date {
        self.window.date()
    }

    /// Returns the number of wanted hours: 24, or 1 of an export of one hour of each day.
    pub const fn wanted(&self) -> u8 {
        match self.window.hour_of_day() {
            Some(_) => 1,
            None => 24,
        }
    }

    /// Returns the mark.
    pub const fn mark(&self) -> DayMark {
        if self.refuted_by.is_some() {
            return DayMark::Damaged;
        }
        match &self.state {
            WindowState::Covered => match self.verdict {
                Some(Verdict::Matched) => DayMark::Matched,
                Some(Verdict::Empty) => DayMark::Empty,
                Some(Verdict::Over) => DayMark::Over,
                Some(Verdict::Uncounted) => DayMark::Uncounted,
                Some(Verdict::Short) => DayMark::Short,
                Some(Verdict::Unknown) | None => DayMark::Unknown,
            },
            WindowState::Accepted => DayMark::Accepted,
            WindowState::NotDue => DayMark::NotDue,
            WindowState::Partial(_) => DayMark::Partial,
            WindowState::Damaged(Damage::Short { .. }) => DayMark::Short,
            WindowState::Damaged(_) => DayMark::Damaged,
            WindowState::Expired => DayMark::Expired,
            WindowState::Missing => DayMark::Missing,
        }
    }

    /// Returns the state in JSON output: the one that every command shows or, if only a verification contradicts it, the
    /// kind of its finding.
    pub fn state_name(&self) -> String {
        match self.refuted_by {
            Some(kind) => kind.as_str(),
            None => self.state.as_str().to_owned(),
        }
    }

    /// Returns the explanation of a day that is not covered, if there is one.
    pub fn message(&self) -> Option<String> {
        if let Some(kind) = self.refuted_by {
            return Some(kind.explanation().to_owned());
        }
        match &self.state {
            WindowState::Partial(missing) => Some(format!("missing: {}", missing.ranges(24).join(", "))),
            WindowState::Expired => Some("the service no longer had the events".to_owned()),
            state => state.message(),
        }
    }
}

impl DayMark {
    /// All marks, in the order of a legend.
    pub const ALL: [Self; 12] = [
        Self::Matched,
        Self::Empty,
        Self::Over,
        Self::Unknown,
        Self::Uncounted,
        Self::Accepted,
        Self::NotDue,
        Self::Partial,
        Self::Short,
        Self::Damaged,
        Self::Expired,
        Self::Missing,
    ];

    /// Returns true if the day is covered.
    pub const fn is_covered(self) -> bool {
        matches!(
            self,
            Self::Matched | Self::Empty | Self::Over | Self::Unknown | Self::Uncounted
        )
    }

    /// Returns the character that shows the mark without color.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Matched => "=",
            Self::Empty => "e",
            Self::Over => "+",
            Self::Unknown => "?",
            Self::Uncounted => "~",
            Self::Accepted => "a",
            Self::NotDue => ".",
            Self::Partial => "P",
            Self::Short => "S",
            Self::Damaged => "D",
            Self::Expired => "X",
            Self::Missing => "M",
        }
    }

    /// Returns the name in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Empty => "empty",
            Self::Over => "over",
            Self::Unknown => "unknown",
            Self::Uncounted => "uncounted",
            Self::Accepted => "accepted",
            Self::NotDue => "notDue",
            Self::Partial => "partial",
            Self::Short => "short",
            Self::Damaged => "damaged",
            Self::Expired => "expired",
            Self::Missing => "missing",
        }
    }

    /// Returns the label in text output.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Empty => "proved empty",
            Self::Over => "more than reported",
            Self::Unknown => "no count reported",
            Self::Uncounted => "counted in part",
            Self::Accepted => "accepted gap",
            Self::NotDue => "not due",
            Self::Partial => "hours missing",
            Self::Short => "short",
            Self::Damaged => "damaged",
            Self::Expired => "expired",
            Self::Missing => "missing",
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::civil::date;

    use super::*;
    use crate::archive::counts::latest_count;
    use crate::archive::coverage::{Expectation, assess};
    use crate::archive::listing::{ExpiredFacts, RevisionFiles};
    use crate::archive::receipt::{ReceiptProof, RevisionFacts, Sha256Digest, SupplementFacts, WindowFacts};
    use crate::archive::records::UncountedRecord;

    const SOURCE: &str = "https://a";

    fn facts(verdict: Verdict, events: u64, reported: Option<u64>) -> ReceiptFacts {
        let uncounted = (verdict == Verdict::Uncounted).then(|| UncountedRecord {
            reason: "NotAnObject".to_owned(),
            at_byte: 7,
        });
        ReceiptFacts {
            source: SOURCE.into(),
            day_reported: None,
            stored_at: Timestamp::UNIX_EPOCH,
            summary: WindowFacts {
                bytes: 10 * events,
                events,
                reported: latest_count(None, reported),
                verdict,
                uncounted: uncounted.map(Box::new),
                sha256: (events > 0).then(Sha256Digest::default),
                stored_now: false,
                revision: 0,
                late_events: 0,
            },
            proof: ReceiptProof::default(),
            revisions: Vec::new(),
        }
    }

    fn store(journal: &mut Journal, window: Window, facts: ReceiptFacts) {
        if facts.summary.sha256.is_some() {
            journal.objects.insert(window, facts.summary.bytes);
        }
        journal.receipts.insert(window, Some(Box::new(facts)));
    }

    fn store_hours(journal: &mut Journal, day: Date, hours: std::ops::Range<u8>, day_reported: u64) {
        for hour in hours {
            let facts = ReceiptFacts {
                day_reported: Some(day_reported),
                ..facts(Verdict::Unknown, 2, None)
            };
            store(journal, Window::hour(day, hour).unwrap(), facts);
        }
    }

    #[test]
    fn each_day_has_the_mark_of_its_state_and_verdict() {
        let day = |number| date(2018, 6, number);
        let mut journal = Journal::default();
        let whole = [
            (1, Verdict::Matched, 5, Some(5), DayMark::Matched),
            (2, Verdict::Empty, 0, Some(0), DayMark::Empty),
            (3, Verdict::Over, 6, Some(5), DayMark::Over),
            (4, Verdict::Unknown, 5, None, DayMark::Unknown),
            (5, Verdict::Uncounted, 5, Some(5), DayMark::Uncounted),
            (6, Verdict::Matched, 4, Some(5), DayMark::Short),
            (7, Verdict::Matched, 5, Some(5), DayMark::Damaged),
        ];
        for (number, verdict, events, reported, _) in whole {
            store(
                &mut journal,
                Window::day(day(number)),
                facts(verdict, events, reported),
            );
        }
        journal.objects.remove(&Window::day(day(7)));
        store_hours(&mut journal, day(8), 0..24, 48);
        store_hours(&mut journal, day(9), 0..24, 47);
        store_hours(&mut journal, day(10), 0..24, 49);
        store_hours(&mut journal, day(11), 4..24, 48);
        store_hours(&mut journal, day(12), 0..1, 48);
        let expired = ExpiredFacts {
            source: SOURCE.to_owned(),
            oldest_listed: day(20),
        };
        journal.expired.insert(Window::day(day(13)), Some(expired));
        let hours = [
            (8, DayMark::Matched),
            (9, DayMark::Over),
            (10, DayMark::Short),
            (11, DayMark::Partial),
            (12, DayMark::Accepted),
            (13, DayMark::Expired),
            (14, DayMark::Missing),
            (15, DayMark::NotDue),
        ];
        let expectation = Expectation {
            source: Some(SOURCE.to_owned()),
            oldest_listed: None,
            wanted: (1..=15).map(|number| Window::day(day(number))).collect(),
            accepted: HourSet::from_iter([Window::day(day(12))]),
            not_due: HourSet::from_iter([Window::day(day(15))]),
        };
        let coverage = assess(&expectation, &journal);
        let calendar = Calendar::new(&journal, &coverage, &expectation.wanted);
        let marks: Vec<DayMark> = calendar.days.iter().map(CalendarDay::mark).collect();
        let expected = whole.map(|(_, _, _, _, mark)| mark).into_iter();
        let expected = expected.chain(hours.map(|(_, mark)| mark));
        assert_eq!(marks, expected.collect::<Vec<_>>());

        let at = |number: usize| &calendar.days[number - 1];
        assert_eq!((at(8).hours, at(8).events, at(8).reported), (24, 48, Some(48)));
        assert_eq!((at(11).hours, at(11).events), (20, 40));
        // What does not count is not in the sums.
        assert_eq!((at(6).events, at(7).events, at(10).hours), (0, 0, 0));
        let refuted = CalendarDay {
            refuted_by: Some(FindingKind::ObjectChanged),
            ..at(1).clone()
        };
        assert_eq!(
            (refuted.mark(), refuted.state_name().as_str()),
            (DayMark::Damaged, "ObjectChanged")
        );
    }

    #[test]
    fn late_events_are_in_the_sums_and_named() {
        let window = Window::day(date(2018, 6, 1));
        let mut journal = Journal::default();
        let later = facts(Verdict::Matched, 8, Some(8));
        let revised = ReceiptFacts {
            revisions: vec![RevisionFacts {
                revision: 1,
                object: 1,
                day_reported: None,
                stored_at: Timestamp::UNIX_EPOCH,
                summary: later.summary,
                proof: later.proof,
                missing_events: 0,
                supplement: Some(SupplementFacts {
                    bytes: 30,
                    events: 3,
                    sha256: Sha256Digest::default(),
                    version_id: None,
                }),
            }],
            ..facts(Verdict::Matched, 5, Some(5))
        };
        store(&mut journal, window, revised);
        let files = RevisionFiles {
            body: Some(80),
            supplement: Some(30),
            has_receipt: true,
        };
        journal.revisions.insert((window, 1), files);
        let wanted = HourSet::from_iter([window]);
        let expectation = Expectation {
            wanted: wanted.clone(),
            ..Expectation::default()
        };
        let calendar = Calendar::new(&journal, &assess(&expectation, &journal), &wanted);
        let day = &calendar.days[0];
        assert_eq!(
            (day.mark(), day.events, day.late_events, day.reported),
            (DayMark::Matched, 8, 3, Some(8))
        );
    }

    #[test]
    fn a_calendar_keeps_the_newest_days_of_a_range_of_millennia() {
        let wanted = HourSet::from_ranges(&["1900-01-01/2018-06-30".to_owned()]);
        let calendar = Calendar::new(&Journal::default(), &Coverage::default(), &wanted);
        assert_eq!(calendar.days.len(), DAYS_MAX);
        assert_eq!(calendar.days.last().unwrap().date(), date(2018, 6, 30));
        assert_eq!(calendar.omitted + DAYS_MAX as u64, wanted.len() / 24);
    }

    #[test]
    fn each_mark_has_its_own_symbol() {
        let symbols: std::collections::BTreeSet<_> = DayMark::ALL.iter().map(|mark| mark.symbol()).collect();
        assert_eq!(symbols.len(), DayMark::ALL.len());
    }
}
