//! Verdicts on a download: comparison of its event count with the reports, and the evaluation of empty answers. No I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::window::{HourSet, Window};
use crate::tracker::Day;

/// Comparison of the counted events with the counts that the service reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Between the reports before and after the download, inclusive.
    Matched,
    /// More than the service reports: its listing lags, or the day grew.
    Over,
    /// Fewer than the service reports: not covered.
    Short,
    /// The service gives no count for this window: the transfer and the gzip alone are the proof.
    Unknown,
    /// No events, and the service's listing proves that there were none.
    Empty,
}

/// Compares the counted events with the reports before and after the download.
pub fn compare_counts(events: u64, before: Option<u64>, after: Option<u64>) -> Verdict {
    let (low, high) = match (before, after) {
        (Some(before), Some(after)) => (before.min(after), before.max(after)),
        (Some(one), None) | (None, Some(one)) => (one, one),
        (None, None) => return Verdict::Unknown,
    };
    if events < low {
        Verdict::Short
    } else if events > high {
        Verdict::Over
    } else {
        Verdict::Matched
    }
}

/// Compares the counted events with the newest report alone: the one after the download, else the one before it.
pub fn compare_with_newest(events: u64, before: Option<u64>, after: Option<u64>) -> Verdict {
    let newest = after.or(before);
    compare_counts(events, newest, newest)
}

impl Verdict {
    /// Returns the weaker of two verdicts: the one that proves less.
    #[must_use]
    pub const fn weaker(self, other: Self) -> Self {
        if other.weakness() > self.weakness() {
            other
        } else {
            self
        }
    }

    const fn weakness(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Matched => 1,
            Self::Over => 2,
            Self::Unknown => 3,
            Self::Short => 4,
        }
    }
}

/// A day of which all 24 hours are stored, each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitDay {
    /// Events of its hours.
    pub events: u64,
    /// Highest count that the service reported for the day while its hours were stored.
    pub reported: Option<u64>,
}

impl SplitDay {
    /// Compares the sum of the hours with the report for the day. The service does not count single hours.
    pub fn verdict(self) -> Verdict {
        compare_counts(self.events, self.reported, self.reported)
    }
}

/// Adds up the hours of each day. Takes stored windows with their events and the report for their day; ignores windows
/// of a whole day, and days of which an hour is missing.
pub fn split_days(stored: impl IntoIterator<Item = (Window, u64, Option<u64>)>) -> BTreeMap<Date, SplitDay> {
    let mut days: BTreeMap<Date, SplitDay> = BTreeMap::new();
    let mut hours: Vec<Window> = Vec::new();
    for (window, events, reported) in stored {
        if window.hour_of_day().is_some() {
            let day = days.entry(window.date()).or_default();
            day.events = day.events.saturating_add(events);
            day.reported = day.reported.max(reported);
            hours.push(window);
        }
    }
    let hours: HourSet = hours.into_iter().collect();
    days.retain(|date, _| hours.contains(Window::day(*date)));
    days
}

/// Daily listing of the service, over a range wider than the export's, so that its edges are significant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayListing {
    days: Vec<Day>,
}

/// Entry of a listing for one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DayLookup {
    /// The day is listed, with its count if that is a number.
    Listed(Option<u64>),
    /// The day is missing between listed days.
    Omitted,
    /// The day is before the oldest listed day.
    BeforeOldest(Date),
    /// The day is after the newest listed day.
    AfterNewest(Date),
    /// The listing is empty.
    EmptyListing,
}

impl DayListing {
    /// Creates a listing from rows in any order.
    pub fn new(mut days: Vec<Day>) -> Self {
        days.sort_by_key(|day| day.date);
        Self { days }
    }

    /// Returns the oldest listed day.
    pub fn oldest(&self) -> Option<Date> {
        self.days.first().map(|day| day.date)
    }

    /// Returns the entry of a day.
    pub fn lookup(&self, date: Date) -> DayLookup {
        if let Ok(at) = self.days.binary_search_by_key(&date, |day| day.date) {
            return DayLookup::Listed(self.days.get(at).and_then(|day| day.count));
        }
        match (self.days.first(), self.days.last()) {
            (Some(first), _) if date < first.date => DayLookup::BeforeOldest(first.date),
            (_, Some(last)) if date > last.date => DayLookup::AfterNewest(last.date),
            (Some(_), Some(_)) => DayLookup::Omitted,
            _ => DayLookup::EmptyListing,
        }
    }

    /// Returns the reported events of a window; `None` for hours, which the service does not count.
    pub fn count(&self, window: Window) -> Option<u64> {
        if window.hour_of_day().is_some() {
            return None;
        }
        match self.lookup(window.date()) {
            DayLookup::Listed(count) => count,
            DayLookup::Omitted => Some(0),
            DayLookup::BeforeOldest(_) | DayLookup::AfterNewest(_) | DayLookup::EmptyListing => None,
        }
    }

    /// Returns the reported events of a day, also if it is exported by the hour.
    pub fn count_of_day(&self, date: Date) -> Option<u64> {
        self.count(Window::day(date))
    }

    /// Returns the service's SIZE of a day, a hint of unknown unit.
    pub fn size_hint(&self, date: Date) -> Option<u64> {
        let at = self.days.binary_search_by_key(&date, |day| day.date).ok()?;
        self.days.get(at).and_then(|day| day.size)
    }
}

/// Form of an answer without events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EmptyAnswer {
    /// `404` on the download.
    NotFound,
    /// `204`.
    NoContent,
    /// `200` without a byte.
    ZeroBytes,
    /// A complete gzip without events.
    GzipOfNothing,
}

/// Evidence about an answer without events.
#[derive(Clone, Copy, Debug)]
pub struct EmptyEvidence<'a> {
    /// The requested window.
    pub window: Window,
    /// Form of the answer.
    pub answer: EmptyAnswer,
    /// True if the session was still readable after the answer.
    pub session_readable: bool,
    /// Listing that was requested after the answer; `None` if the service refuses to list.
    pub listing: Option<&'a DayListing>,
    /// For an hour: stored events of the other hours of its day, if all of them are exported.
    pub other_hours: Option<u64>,
    /// The oldest day with events that the service delivered within the last hour.
    pub oldest_served: Option<Date>,
    /// Time of the evaluation.
    pub now: Timestamp,
}

/// Verdict on an answer without events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyVerdict {
    /// There were no events.
    Proved,
    /// The service reports this number of events: the answer is short.
    Short(u64),
    /// For an hour: the other hours have fewer events than the service reports for the day, so this one may have some.
    ShortOfDay {
        /// Stored events of the other hours.
        other_hours: u64,
        /// Reported events of the day.
        reported: u64,
    },
    /// The service no longer has the day; its oldest day is this one.
    Expired(Date),
    /// Nothing is proved; the text states the missing evidence.
    Unproved(&'static str),
}

/// Minimum retention of the service, documented as "a few days": 3 days. Within it, a complete gzip without events is
/// proof even if the day is not listed.
const RETENTION_DAYS_MIN: i64 = 3;

/// Evaluates an answer without events. A 404 alone proves nothing, and neither does a day past retention.
pub fn evaluate_empty(evidence: &EmptyEvidence<'_>) -> EmptyVerdict {
    use EmptyVerdict::{Expired, Proved, Short, ShortOfDay, Unproved};
    let date = evidence.window.date();
    let lookup = evidence
        .listing
        .map_or(DayLookup::EmptyListing, |listing| listing.lookup(date));
    let by_hour = evidence.window.hour_of_day().is_some();
    let unlisted = evidence.answer == EmptyAnswer::GzipOfNothing
        && (is_surely_retained(evidence) || is_newer_than_served(evidence));
    match lookup {
        DayLookup::BeforeOldest(oldest) if !is_surely_retained(evidence) => Expired(oldest),
        _ if !evidence.session_readable => Unproved("the session was not readable after the empty answer"),
        DayLookup::Listed(Some(count)) if count > 0 && !by_hour => Short(count),
        // The day has events, and the service does not count hours: either the other hours hold all events, or a
        // complete gzip without events must prove that this hour has none.
        DayLookup::Listed(Some(reported))
            if reported > 0 && evidence.answer != EmptyAnswer::GzipOfNothing =>
        {
            match evidence.other_hours {
                Some(other_hours) if other_hours < reported => ShortOfDay {
                    other_hours,
                    reported,
                },
                Some(_) => Proved,
                None => Unproved("the day has events, and the service has no counts of hours"),
            }
        }
        DayLookup::Listed(Some(_)) | DayLookup::Omitted => Proved,
        DayLookup::Listed(None) if evidence.answer == EmptyAnswer::GzipOfNothing => Proved,
        DayLookup::Listed(None) => Unproved("the service lists the day without a count"),
        DayLookup::BeforeOldest(_) | DayLookup::AfterNewest(_) | DayLookup::EmptyListing if unlisted => {
            Proved
        }
        DayLookup::BeforeOldest(_) => Unproved("the day is before the oldest day that the service lists"),
        DayLookup::AfterNewest(_) => Unproved("the day is after the newest day that the service lists"),
        DayLookup::EmptyListing => Unproved("the service lists no days and may have lost this one"),
    }
}

fn is_surely_retained(evidence: &EmptyEvidence<'_>) -> bool {
    evidence.now.duration_since(evidence.window.end()).as_hours() < RETENTION_DAYS_MIN * 24
}

/// Returns true if the window is at least two days newer than a day that was served within the last hour: retention
/// advances by a day a day, so the service still has it.
fn is_newer_than_served(evidence: &EmptyEvidence<'_>) -> bool {
    let two_days_later = |day: Date| day.tomorrow().and_then(Date::tomorrow);
    evidence
        .oldest_served
        .is_some_and(|served| two_days_later(served).is_ok_and(|sure| evidence.window.date() >= sure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn listing(rows: &[(i8, Option<u64>)]) -> DayListing {
        let day = |&(day, count): &(i8, Option<u64>)| Day {
            date: date(2018, 6, day),
            count,
            size: None,
            types: None,
            searchable: None,
        };
        DayListing::new(rows.iter().map(day).collect())
    }

    #[test]
    fn a_count_is_compared_with_both_reports() {
        let table = [
            (5, Some(5), Some(5), Verdict::Matched),
            (6, Some(5), Some(7), Verdict::Matched),
            (4, Some(5), Some(7), Verdict::Short),
            (8, Some(5), Some(7), Verdict::Over),
            (6, Some(7), Some(5), Verdict::Matched),
            (5, None, Some(5), Verdict::Matched),
            (4, Some(5), None, Verdict::Short),
            (4, None, None, Verdict::Unknown),
        ];
        for (events, before, after, verdict) in table {
            assert_eq!(
                compare_counts(events, before, after),
                verdict,
                "{events} {before:?} {after:?}"
            );
        }
    }

    #[test]
    fn the_newest_report_alone_decides() {
        let table = [
            (2_000, Some(2_000), Some(2_500), Verdict::Short),
            (2_500, Some(2_000), Some(2_500), Verdict::Matched),
            (2_501, Some(2_000), Some(2_500), Verdict::Over),
            (2_000, Some(2_500), Some(2_000), Verdict::Matched),
            (2_000, Some(2_500), None, Verdict::Short),
            (2_000, None, None, Verdict::Unknown),
        ];
        for (events, before, after, verdict) in table {
            assert_eq!(compare_with_newest(events, before, after), verdict, "{events}");
        }
    }

    #[test]
    fn a_split_day_is_the_sum_of_its_24_hours() {
        let (whole, partial) = (date(2018, 6, 4), date(2018, 6, 5));
        let hours = Window::split(whole).chain(Window::split(partial).skip(1));
        let stored = hours.map(|hour| (hour, 10, Some(u64::from(hour.hour_of_day() == Some(3)) * 250)));
        let days = split_days(stored.chain([(Window::day(whole), 7, Some(9))]));
        let sum = SplitDay {
            events: 240,
            reported: Some(250),
        };
        assert_eq!(days, BTreeMap::from([(whole, sum)]));
        assert_eq!(sum.verdict(), Verdict::Short);
    }

    #[test]
    fn the_weaker_verdict_proves_less() {
        use Verdict::{Empty, Matched, Over, Short, Unknown};
        for (weak, strong) in [
            (Matched, Empty),
            (Over, Matched),
            (Unknown, Over),
            (Short, Unknown),
        ] {
            assert_eq!((weak.weaker(strong), strong.weaker(weak)), (weak, weak));
        }
    }

    #[test]
    fn an_empty_day_needs_a_readable_session_and_a_listing() {
        use EmptyAnswer::{GzipOfNothing, NotFound};
        let full = listing(&[(1, Some(9)), (3, Some(0)), (5, Some(4)), (7, None)]);
        let none = DayListing::default();
        let old: Timestamp = "2018-07-20T00:00:00Z".parse().unwrap();
        let evaluate = |day: i8, answer, readable, listing: Option<&DayListing>| {
            evaluate_empty(&EmptyEvidence {
                window: Window::day(date(2018, 6, day)),
                answer,
                session_readable: readable,
                listing,
                other_hours: None,
                oldest_served: None,
                now: old,
            })
        };
        assert_eq!(evaluate(3, NotFound, true, Some(&full)), EmptyVerdict::Proved);
        assert_eq!(evaluate(2, NotFound, true, Some(&full)), EmptyVerdict::Proved);
        assert!(matches!(
            evaluate(2, NotFound, false, Some(&full)),
            EmptyVerdict::Unproved(_)
        ));
        assert_eq!(
            evaluate(5, GzipOfNothing, true, Some(&full)),
            EmptyVerdict::Short(4)
        );
        assert!(matches!(
            evaluate(7, NotFound, true, Some(&full)),
            EmptyVerdict::Unproved(_)
        ));
        assert!(matches!(
            evaluate(9, GzipOfNothing, true, Some(&full)),
            EmptyVerdict::Unproved(_)
        ));
        assert!(matches!(
            evaluate(3, GzipOfNothing, true, Some(&none)),
            EmptyVerdict::Unproved(_)
        ));
        assert!(matches!(
            evaluate(3, GzipOfNothing, true, None),
            EmptyVerdict::Unproved(_)
        ));
        assert!(matches!(
            evaluate(5, GzipOfNothing, false, Some(&full)),
            EmptyVerdict::Unproved(_)
        ));
        let later = listing(&[(20, Some(1))]);
        for answer in [NotFound, GzipOfNothing] {
            assert_eq!(
                evaluate(3, answer, true, Some(&later)),
                EmptyVerdict::Expired(date(2018, 6, 20))
            );
        }
    }

    #[test]
    fn an_empty_hour_needs_a_complete_gzip_or_the_sum_of_its_day() {
        let listing = listing(&[(5, Some(4))]);
        let evaluate = |answer, other_hours| {
            evaluate_empty(&EmptyEvidence {
                window: "2018-06-05T07".parse().unwrap(),
                answer,
                session_readable: true,
                listing: Some(&listing),
                other_hours,
                oldest_served: None,
                now: "2018-06-07T00:00:00Z".parse().unwrap(),
            })
        };
        assert_eq!(evaluate(EmptyAnswer::GzipOfNothing, None), EmptyVerdict::Proved);
        assert_eq!(
            evaluate(EmptyAnswer::GzipOfNothing, Some(0)),
            EmptyVerdict::Proved
        );
        for other_hours in [4, 5] {
            assert_eq!(
                evaluate(EmptyAnswer::NotFound, Some(other_hours)),
                EmptyVerdict::Proved
            );
        }
        let (other_hours, reported) = (3, 4);
        assert_eq!(
            evaluate(EmptyAnswer::NotFound, Some(other_hours)),
            EmptyVerdict::ShortOfDay {
                other_hours,
                reported
            }
        );
        for answer in [
            EmptyAnswer::NotFound,
            EmptyAnswer::NoContent,
            EmptyAnswer::ZeroBytes,
        ] {
            assert!(matches!(evaluate(answer, None), EmptyVerdict::Unproved(_)));
        }
    }

    #[test]
    fn without_a_listing_only_a_surely_retained_day_is_proved_empty() {
        let window = Window::day(date(2018, 6, 3));
        let evidence = EmptyEvidence {
            window,
            answer: EmptyAnswer::GzipOfNothing,
            session_readable: true,
            listing: None,
            other_hours: None,
            oldest_served: None,
            now: "2018-06-05T00:00:00Z".parse().unwrap(),
        };
        assert_eq!(evaluate_empty(&evidence), EmptyVerdict::Proved);
        assert!(matches!(
            evaluate_empty(&EmptyEvidence {
                answer: EmptyAnswer::NotFound,
                ..evidence
            }),
            EmptyVerdict::Unproved(_)
        ));
        let late = EmptyEvidence {
            now: "2018-07-05T00:00:00Z".parse().unwrap(),
            ..evidence
        };
        assert!(matches!(evaluate_empty(&late), EmptyVerdict::Unproved(_)));
        assert_eq!(
            evaluate_empty(&EmptyEvidence {
                oldest_served: Some(date(2018, 6, 1)),
                ..late
            }),
            EmptyVerdict::Proved
        );
        assert!(matches!(
            evaluate_empty(&EmptyEvidence {
                oldest_served: Some(date(2018, 6, 2)),
                ..late
            }),
            EmptyVerdict::Unproved(_)
        ));
    }
}
