//! Verdicts on a download: comparison of its event count with the reports, and the evaluation of empty answers. No I/O.

pub mod days;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};

use super::window::{HourSet, Window};
use crate::pipeline::events::EventCount;
use crate::tracker::{Day, TransferEnd};

/// Comparison of the counted events with the latest count that the service reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// As many as the service reports.
    Matched,
    /// More than the service reports: its listing lags.
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

/// Returns the latest count of the service: the one after the download or, without one, the one before it.
pub fn latest_count(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    after.or(before)
}

/// Compares the counted events with the latest count of the service.
pub fn compare_counts(events: u64, before: Option<u64>, after: Option<u64>) -> Verdict {
    match latest_count(before, after).map(|reported| events.cmp(&reported)) {
        None => Verdict::Unknown,
        Some(std::cmp::Ordering::Less) => Verdict::Short,
        Some(std::cmp::Ordering::Equal) => Verdict::Matched,
        Some(std::cmp::Ordering::Greater) => Verdict::Over,
    }
}

/// Returns true if the events of a window whose content could be counted only in part are enough to cover it: some were
/// counted, and not fewer than the service reports. Without a report, they are as good as any count without one.
pub fn partial_count_suffices(events: u64, before: Option<u64>, after: Option<u64>) -> bool {
    events > 0 && compare_counts(events, before, after) != Verdict::Short
}

/// Returns true if a stored window has late events: the service's newest count is greater than the stored events.
pub const fn is_grown(stored: u64, reported: u64) -> bool {
    reported > stored
}

/// Reason why received events do not cover what was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// There are fewer events than the service reports.
    Short {
        /// Latest count of the service.
        reported: u64,
    },
    /// The content could be counted only in part: less than the service reports, or nothing.
    Uncounted {
        /// Latest count of the service.
        reported: Option<u64>,
    },
    /// The connection closed without an end marker, and neither a further request nor the count confirms the end.
    EndUnconfirmed,
}

/// Evaluates received events by the reports before and after their transfer: returns the verdict, and why they do not
/// cover what was requested; empty if they do.
pub fn evaluate_transfer(
    count: EventCount,
    end: TransferEnd,
    before: Option<u64>,
    after: Option<u64>,
) -> (Verdict, Vec<Shortfall>) {
    let (verdict, reported) = (evaluate_count(count, before, after), latest_count(before, after));
    let mut shortfalls = Vec::new();
    if verdict == Verdict::Uncounted && !partial_count_suffices(count.events, before, after) {
        shortfalls.push(Shortfall::Uncounted { reported });
    }
    if let Some(reported) = reported.filter(|_| verdict == Verdict::Short) {
        shortfalls.push(Shortfall::Short { reported });
    }
    if end == TransferEnd::CloseUnconfirmed && verdict != Verdict::Matched {
        shortfalls.push(Shortfall::EndUnconfirmed);
    }
    (verdict, shortfalls)
}

/// Days listed before and after a range, so that the edges of the listing show retention and not the requested range:
/// 45 days, longer than the service keeps events.
const LISTING_MARGIN_DAYS: i64 = 45;

/// Returns the days to list for the days from `first` to `last`: with a margin on both sides, and none in the future.
pub fn listing_range(first: Date, last: Date, today: Date) -> (Date, Date) {
    let margin = LISTING_MARGIN_DAYS.days();
    let start = first.saturating_sub(margin);
    (start, last.saturating_add(margin).min(today).max(start))
}

/// Time for which the service may fail to list its days before days that may be near the end of retention are exported
/// without a count: 10 min.
const LISTING_PATIENCE: Duration = Duration::from_mins(10);

/// Least time before the end of retention for which an export waits for a count: 24 h.
const RETENTION_MARGIN: SignedDuration = SignedDuration::from_hours(24);

/// Returns true if a day can wait for a count although the service fails to list its days for `failing_for`.
/// `retained_until`: earliest time at which the service may delete the day, if known.
pub fn can_wait_for_count(failing_for: Duration, retained_until: Option<Timestamp>, now: Timestamp) -> bool {
    failing_for < LISTING_PATIENCE
        || retained_until.is_some_and(|until| until.duration_since(now) > RETENTION_MARGIN)
}

/// Time after the settling of a window for which its export waits until the service lists the day or a later one:
/// 3 days.
const LISTING_WAIT: SignedDuration = SignedDuration::from_hours(3 * 24);

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
            Self::Uncounted => 4,
            Self::Short => 5,
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

/// Returns the verdict on a day by those of its windows. `sum`: of a day that is stored by the hour; it is compared
/// instead of the hours, which the service does not count.
pub fn evaluate_day(verdicts: impl Iterator<Item = Verdict>, sum: Option<SplitDay>) -> Option<Verdict> {
    let verdicts: Vec<Verdict> = verdicts.collect();
    let weakest = verdicts.iter().copied().reduce(Verdict::weaker)?;
    Some(match sum {
        // Content that could be counted only in part is compared with nothing.
        Some(_) if verdicts.contains(&Verdict::Uncounted) => Verdict::Uncounted,
        Some(sum) if weakest != Verdict::Empty => sum.verdict(),
        _ => weakest,
    })
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

    /// Returns the listed days that have a count, oldest first.
    pub fn counts(&self) -> impl Iterator<Item = (Date, u64)> + '_ {
        self.days.iter().filter_map(|day| Some((day.date, day.count?)))
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

    /// Returns the reported events of a window; `None` for hours, which the service does not count, and for days that
    /// are not listed: that the service leaves out a day is no count.
    pub fn count(&self, window: Window) -> Option<u64> {
        if window.hour_of_day().is_some() {
            return None;
        }
        self.count_of_day(window.date())
    }

    /// Returns the reported events of a day, also if it is exported by the hour.
    pub fn count_of_day(&self, date: Date) -> Option<u64> {
        match self.lookup(date) {
            DayLookup::Listed(count) => count,
            DayLookup::Omitted
            | DayLookup::BeforeOldest(_)
            | DayLookup::AfterNewest(_)
            | DayLookup::EmptyListing => None,
        }
    }

    /// Returns true if the service leaves out a day between listed days: if there are no events either, that is 0.
    pub fn omits(&self, date: Date) -> bool {
        self.lookup(date) == DayLookup::Omitted
    }

    /// Returns true if the service lists neither the day nor a later one yet, and the time to wait for that is not over.
    /// `settled_at`: earliest time of the export.
    pub fn is_not_listed_yet(&self, date: Date, settled_at: Timestamp, now: Timestamp) -> bool {
        let newer = match self.lookup(date) {
            DayLookup::AfterNewest(_) | DayLookup::EmptyListing => true,
            DayLookup::Listed(_) | DayLookup::Omitted | DayLookup::BeforeOldest(_) => false,
        };
        newer && now.duration_since(settled_at) < LISTING_WAIT
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

/// Evidence about an answer without events. The form of the answer is no evidence: none of them proves anything.
#[derive(Clone, Copy, Debug)]
pub struct EmptyEvidence<'a> {
    /// The requested window.
    pub window: Window,
    /// True if the session was still readable after the answer.
    pub session_readable: bool,
    /// Listing that was requested after the answer; `None` if the service refuses to list.
    pub listing: Option<&'a DayListing>,
    /// For an hour: stored events of the other hours of its day, if all of them are exported.
    pub other_hours: Option<u64>,
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
    /// The day is before this oldest listed day. The service no longer has it if a later look shows the same.
    BeforeOldest(Date),
    /// Nothing is proved; the text states the missing evidence.
    Unproved(&'static str),
}

/// Evaluates an answer without events. An empty answer alone proves nothing, and neither does a day that the service
/// leaves out at an edge of its listing.
pub fn evaluate_empty(evidence: &EmptyEvidence<'_>) -> EmptyVerdict {
    use EmptyVerdict::{BeforeOldest, Proved, Short, ShortOfDay, Unproved};
    let EmptyEvidence {
        window,
        session_readable,
        listing,
        other_hours,
    } = *evidence;
    if !session_readable {
        return Unproved("the session was not readable after the empty answer");
    }
    let Some(listing) = listing else {
        return Unproved("the service does not list its days");
    };
    let by_hour = window.hour_of_day().is_some();
    match listing.lookup(window.date()) {
        DayLookup::Listed(Some(0)) | DayLookup::Omitted => Proved,
        DayLookup::Listed(Some(reported)) if !by_hour => Short(reported),
        // The service does not count hours: only the other hours can show that this one has no events.
        DayLookup::Listed(Some(reported)) => match other_hours {
            Some(other_hours) if other_hours < reported => ShortOfDay {
                other_hours,
                reported,
            },
            Some(_) => Proved,
            None => Unproved("the day has events, and the service has no counts of hours"),
        },
        DayLookup::Listed(None) => Unproved("the service lists the day without a count"),
        DayLookup::BeforeOldest(oldest) => BeforeOldest(oldest),
        DayLookup::AfterNewest(_) => Unproved("the day is after the newest day that the service lists"),
        DayLookup::EmptyListing => Unproved("the service lists no days and may have lost this one"),
    }
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
    fn the_newest_count_decides() {
        let table = [
            (5, Some(5), Some(5), Verdict::Matched),
            // The day grew during the download.
            (2_000, Some(2_000), Some(2_500), Verdict::Short),
            (6, Some(5), Some(7), Verdict::Short),
            (7, Some(5), Some(7), Verdict::Matched),
            (8, Some(5), Some(7), Verdict::Over),
            (6, Some(7), Some(5), Verdict::Over),
            (5, None, Some(5), Verdict::Matched),
            (40, None, Some(2_400), Verdict::Short),
            (4, Some(5), None, Verdict::Short),
            (5, Some(5), None, Verdict::Matched),
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
        use Verdict::{Empty, Matched, Over, Short, Uncounted, Unknown};
        for (weak, strong) in [
            (Matched, Empty),
            (Over, Matched),
            (Unknown, Over),
            (Uncounted, Unknown),
            (Short, Uncounted),
        ] {
            assert_eq!((weak.weaker(strong), strong.weaker(weak)), (weak, weak));
        }
    }

    #[test]
    fn a_day_that_the_listing_leaves_out_has_no_count() {
        let listing = listing(&[(1, Some(9)), (3, Some(0)), (5, None)]);
        let day = |day| Window::day(date(2018, 6, day));
        assert_eq!(listing.count(day(1)), Some(9));
        assert_eq!(listing.count(day(3)), Some(0));
        for unknown in [2, 4, 5, 6, 30] {
            assert_eq!(listing.count(day(unknown)), None, "{unknown}");
        }
        assert_eq!(listing.count("2018-06-01T07".parse().unwrap()), None);
        assert!(listing.omits(date(2018, 6, 2)) && !listing.omits(date(2018, 6, 6)));
    }

    #[test]
    fn an_empty_day_needs_a_readable_session_and_a_listing_around_it() {
        let full = listing(&[(1, Some(9)), (3, Some(0)), (5, Some(4)), (7, None)]);
        let none = DayListing::default();
        let evaluate = |day: i8, session_readable, listing: Option<&DayListing>| {
            evaluate_empty(&EmptyEvidence {
                window: Window::day(date(2018, 6, day)),
                session_readable,
                listing,
                other_hours: None,
            })
        };
        assert_eq!(evaluate(3, true, Some(&full)), EmptyVerdict::Proved);
        assert_eq!(evaluate(2, true, Some(&full)), EmptyVerdict::Proved);
        assert_eq!(evaluate(5, true, Some(&full)), EmptyVerdict::Short(4));
        // Not readable, without a count, after the newest day, nothing listed, no listing.
        for (day, readable, listing) in [
            (2, false, Some(&full)),
            (5, false, Some(&full)),
            (7, true, Some(&full)),
            (9, true, Some(&full)),
            (3, true, Some(&none)),
            (3, true, None),
        ] {
            let verdict = evaluate(day, readable, listing);
            assert!(matches!(verdict, EmptyVerdict::Unproved(_)), "{day}: {verdict:?}");
        }
        let later = listing(&[(20, Some(1))]);
        assert_eq!(
            evaluate(3, true, Some(&later)),
            EmptyVerdict::BeforeOldest(date(2018, 6, 20))
        );
        let lost = evaluate(3, false, Some(&later));
        assert!(matches!(lost, EmptyVerdict::Unproved(_)), "{lost:?}");
    }

    #[test]
    fn an_empty_hour_needs_the_sum_of_its_day() {
        let evaluate = |listing: &DayListing, other_hours| {
            evaluate_empty(&EmptyEvidence {
                window: "2018-06-05T07".parse().unwrap(),
                session_readable: true,
                listing: Some(listing),
                other_hours,
            })
        };
        let day = listing(&[(5, Some(4))]);
        for other_hours in [4, 5] {
            assert_eq!(evaluate(&day, Some(other_hours)), EmptyVerdict::Proved);
        }
        let (other_hours, reported) = (3, 4);
        assert_eq!(
            evaluate(&day, Some(other_hours)),
            EmptyVerdict::ShortOfDay {
                other_hours,
                reported
            }
        );
        assert!(matches!(evaluate(&day, None), EmptyVerdict::Unproved(_)));
        assert_eq!(evaluate(&listing(&[(5, Some(0))]), None), EmptyVerdict::Proved);
        assert_eq!(
            evaluate(&listing(&[(4, Some(1)), (6, Some(1))]), None),
            EmptyVerdict::Proved
        );
    }

    #[test]
    fn a_day_newer_than_the_newest_listed_day_waits_for_a_bounded_time() {
        let settled: Timestamp = "2018-06-06T06:00:00Z".parse().unwrap();
        let after = |hours| settled.checked_add(SignedDuration::from_hours(hours)).unwrap();
        let older = listing(&[(1, Some(9)), (4, Some(9))]);
        let day = date(2018, 6, 5);
        for listing in [&older, &DayListing::default()] {
            assert!(listing.is_not_listed_yet(day, settled, settled));
            assert!(listing.is_not_listed_yet(day, settled, after(71)));
            assert!(!listing.is_not_listed_yet(day, settled, after(72)));
        }
        for listed in [
            listing(&[(5, Some(0))]),
            listing(&[(4, Some(1)), (6, Some(1))]),
            listing(&[(6, Some(1))]),
        ] {
            assert!(!listed.is_not_listed_yet(day, settled, settled));
        }
    }

    #[test]
    fn a_day_far_from_the_end_of_retention_waits_for_a_count() {
        let now: Timestamp = "2018-06-06T06:00:00Z".parse().unwrap();
        let until = |hours| now.checked_add(SignedDuration::from_hours(hours)).ok();
        for (minutes, retained_until, waits) in [
            (0, None, true),
            (9, until(0), true),
            (10, None, false),
            (10, until(24), false),
            (10, until(25), true),
            (600, until(25), true),
        ] {
            assert_eq!(
                can_wait_for_count(Duration::from_mins(minutes), retained_until, now),
                waits,
                "{minutes} {retained_until:?}"
            );
        }
    }

    #[test]
    fn no_future_day_is_listed() {
        let day = |month, day| date(2018, month, day);
        let today = day(6, 9);
        assert_eq!(listing_range(day(6, 1), day(6, 8), today), (day(4, 17), today));
        assert_eq!(
            listing_range(day(3, 1), day(3, 2), today),
            (day(1, 15), day(4, 16))
        );
        let (start, end) = listing_range(day(9, 1), day(9, 2), today);
        assert!(start <= end);
    }
}
