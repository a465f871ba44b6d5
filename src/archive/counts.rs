//! Verdicts on a download: comparison of its event count with the reports, and the evaluation of empty answers. No I/O.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::window::Window;
use crate::pipeline::events::EventCount;
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
    /// The content could be counted only in part. Documents state `Unknown` and the field `uncounted`, because
    /// earlier readers refuse a verdict that they do not know.
    #[serde(rename(serialize = "Unknown"), skip_deserializing)]
    Uncounted,
}

impl Verdict {
    /// Returns the verdict as documents state it.
    #[must_use]
    pub const fn recorded(self) -> Self {
        match self {
            Self::Uncounted => Self::Unknown,
            Self::Matched | Self::Over | Self::Short | Self::Unknown | Self::Empty => self,
        }
    }
}

/// Returns the verdict on the content of a window with the reports before and after the download.
pub fn evaluate_count(count: EventCount, before: Option<u64>, after: Option<u64>) -> Verdict {
    match count.uncounted {
        Some(_) => Verdict::Uncounted,
        None => compare_counts(count.events, before, after),
    }
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

/// Returns true if the events of a window whose content could be counted only in part are enough to cover it: some were
/// counted, and not fewer than the service reports. Without a report, they are as good as any count without one.
pub fn partial_count_suffices(events: u64, before: Option<u64>, after: Option<u64>) -> bool {
    events > 0 && compare_counts(events, before, after) != Verdict::Short
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
    fn a_partial_count_covers_a_window_only_with_enough_events() {
        let table = [
            (5, None, None, true),
            (5, Some(5), Some(5), true),
            (5, Some(4), Some(4), true),
            (4, Some(5), Some(5), false),
            (0, None, None, false),
            (0, Some(0), Some(0), false),
        ];
        for (events, before, after, enough) in table {
            assert_eq!(
                partial_count_suffices(events, before, after),
                enough,
                "{events} {before:?} {after:?}"
            );
        }
    }

    #[test]
    fn each_body_has_a_verdict_and_covers_its_window_or_not() {
        use Verdict::{Matched, Over, Short, Uncounted, Unknown};
        // The body, the events that the service reports, the verdict, and whether the window is covered.
        let bodies: &[(&[u8], Option<u64>, Verdict, bool)] = &[
            (b"{}\n{}\n", Some(2), Matched, true),
            (b"{}\n{}\n", None, Unknown, true),
            (b"{}\n{}\n", Some(1), Over, true),
            (b"{}\n{}\n", Some(3), Short, false),
            (b"\xef\xbb\xbf{}\n{}\n", Some(2), Matched, true),
            (b"\xef\xbb\xbf[{},{}]", Some(2), Matched, true),
            (b"{}{}", Some(2), Matched, true),
            (b"{}\n{}{}\n", Some(3), Matched, true),
            (b"{}\n{}{}\n", Some(4), Short, false),
            (b"{} {}\n{}\n", Some(3), Matched, true),
            (b"{}\r\n\r\n{}\r\n", Some(2), Matched, true),
            (b"{\n}\n{\n}\n", Some(2), Matched, true),
            (b"[{},{}]", Some(2), Matched, true),
            (b"[{},{}]\n[{}]", Some(3), Matched, true),
            (b"[{}][{}]", Some(2), Matched, true),
            (b"{}\nnull\n{}\n", Some(2), Matched, true),
            (b"[null,{}]", Some(1), Matched, true),
            (b"\x1e{}\n\x1e{}\n", Some(2), Matched, true),
            (b"{}\n{}\n\0\0\0", Some(2), Matched, true),
            (b"{}\n\0{}\n", Some(2), Matched, true),
            (b"{}\n{}\nerror\n", Some(2), Uncounted, true),
            (b"{}\nerror\n{}\n", Some(2), Uncounted, false),
            (b"{}\nerror\n{}\n", None, Uncounted, true),
            (b"error\n{}\n{}\n", Some(2), Uncounted, false),
            (b"error\n{}\n{}\n", None, Uncounted, false),
            (b"{}\n{\"a\":", Some(2), Uncounted, false),
            (b"{}\n{\"a\":", None, Uncounted, true),
            (b"[{},{}", Some(3), Uncounted, false),
            (b"{\"events\":[{},{}]}", Some(2), Uncounted, false),
            (b"{\"events\":[{},{}]}", None, Uncounted, true),
            (b"{\"attachments\":[{}]}", Some(1), Uncounted, true),
            (b"{\"events\":[]}", Some(1), Uncounted, false),
            (b"{\"events\":[]}", None, Uncounted, false),
            (b"<html></html>", None, Uncounted, false),
            (b"<html></html>", Some(0), Uncounted, false),
        ];
        for (body, reported, verdict, covers) in bodies {
            let mut counter = crate::pipeline::events::EventCounter::default();
            counter.push(body);
            let count = counter.finish();
            let found = evaluate_count(count, *reported, *reported);
            let covered = match found {
                Short => false,
                Uncounted => partial_count_suffices(count.events, *reported, *reported),
                _ => true,
            };
            let name = format!("{} of {reported:?}", body.escape_ascii());
            assert_eq!((found, covered), (*verdict, *covers), "{name}");
        }
    }

    #[test]
    fn a_document_never_states_a_verdict_that_earlier_readers_refuse() {
        assert_eq!(serde_json::to_string(&Verdict::Uncounted).unwrap(), "\"Unknown\"");
        assert!(serde_json::from_str::<Verdict>("\"Uncounted\"").is_err());
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
