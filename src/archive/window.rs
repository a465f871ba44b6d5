//! Windows and cells: the units of requests and of coverage. No I/O.
//!
//! A cell is one hour of one UTC day. A window is a UTC day or one hour of it: one session, one object, one receipt.
//! Coverage is a set of cells, so windows of days and of hours add up.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};

/// Maximum number of ranges that are parsed from a status: more than a status holds.
const RANGES_MAX: usize = 1_000;

/// Maximum number of days in parsed ranges, more than two centuries. Without it, a status could name the complete
/// calendar a thousand times.
const RANGE_DAYS_MAX: usize = 100_000;

/// All 24 hours of a day.
const ALL_HOURS: u32 = (1 << 24) - 1;

/// A UTC day or one hour of it. Ordered by time; a day sorts before its hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    day: Date,
    hour: Option<u8>,
}

/// Invalid window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid window {0:?}: use a day (2018-06-28) or an hour (2018-06-28T07)")]
pub struct ParseWindowError(pub String);

impl Window {
    /// Creates the window of a UTC day.
    pub const fn day(day: Date) -> Self {
        Self { day, hour: None }
    }

    /// Creates the window of one hour; `None` if `hour` is greater than 23.
    pub fn hour(day: Date, hour: u8) -> Option<Self> {
        (hour < 24).then_some(Self {
            day,
            hour: Some(hour),
        })
    }

    /// Returns the UTC day.
    pub const fn date(self) -> Date {
        self.day
    }

    /// Returns the hour, 0–23; `None` for a day.
    pub const fn hour_of_day(self) -> Option<u8> {
        self.hour
    }

    /// Returns the covered hours as bits 0–23.
    pub(crate) fn hours(self) -> u32 {
        self.hour.map_or(ALL_HOURS, |hour| 1 << hour)
    }

    /// Returns the position among windows that wait: the oldest, which expires first, is first.
    pub fn order(self) -> i64 {
        self.end().as_second()
    }

    /// Returns the first instant after the window. Saturates at the end of the calendar.
    pub fn end(self) -> Timestamp {
        let start = self
            .day
            .to_zoned(TimeZone::UTC)
            .map_or(Timestamp::MAX, |zoned| zoned.timestamp());
        let hours = self.hour.map_or(24, |hour| i64::from(hour) + 1);
        start.checked_add(hours.hours()).unwrap_or(Timestamp::MAX)
    }

    /// Returns the range of all windows of the day: the day and its hours.
    pub fn same_day(self) -> RangeInclusive<Self> {
        let last = Self {
            day: self.day,
            hour: Some(23),
        };
        Self::day(self.day)..=last
    }

    /// Returns the 24 hours of a day.
    pub fn split(day: Date) -> impl Iterator<Item = Self> {
        (0..24).map(move |hour| Self {
            day,
            hour: Some(hour),
        })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hour {
            None => write!(f, "{}", self.day),
            Some(hour) => write!(f, "{}T{hour:02}", self.day),
        }
    }
}

impl FromStr for Window {
    type Err = ParseWindowError;

    fn from_str(text: &str) -> Result<Self, ParseWindowError> {
        let error = || ParseWindowError(text.to_owned());
        let (day, hour) = match text.split_once('T') {
            None => (text, None),
            // `u8::from_str` would also accept a sign.
            Some((day, hour)) if hour.len() == 2 && hour.bytes().all(|byte| byte.is_ascii_digit()) => {
                (day, Some(hour.parse::<u8>().map_err(|_| error())?))
            }
            Some(_) => return Err(error()),
        };
        let day = parse_date(day).ok_or_else(error)?;
        match hour {
            None => Ok(Self::day(day)),
            Some(hour) => Self::hour(day, hour).ok_or_else(error),
        }
    }
}

/// Parses a date in the exact form `YYYY-MM-DD`.
pub fn parse_date(text: &str) -> Option<Date> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || !text.is_ascii() {
        return None;
    }
    let number =
        |range: std::ops::Range<usize>| text.get(range)?.bytes().all(|b| b.is_ascii_digit()).then_some(());
    number(0..4)?;
    number(5..7)?;
    number(8..10)?;
    text.parse().ok()
}

/// A set of cells: days in order, each with its hours as bits 0–23, never 0. Each decision visits all days of an
/// export, so the set is one contiguous vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HourSet(Vec<(Date, u32)>);

impl HourSet {
    /// Creates a set from days in any order, with duplicates.
    fn from_days(mut days: Vec<(Date, u32)>) -> Self {
        days.sort_by_key(|(day, _)| *day);
        days.dedup_by(|(later, more), (day, hours)| {
            let same = later == day;
            if same {
                *hours |= *more;
            }
            same
        });
        Self(days)
    }

    /// Adds the cells of a window. Constant time only at the end of the set: use `collect` for many windows.
    pub fn insert(&mut self, window: Window) {
        let (day, hours) = (window.day, window.hours());
        match self.search(day) {
            Ok(index) => self
                .0
                .iter_mut()
                .skip(index)
                .take(1)
                .for_each(|known| known.1 |= hours),
            Err(index) => self.0.insert(index, (day, hours)),
        }
    }

    fn search(&self, day: Date) -> Result<usize, usize> {
        self.0.binary_search_by_key(&day, |(day, _)| *day)
    }

    /// Returns true if the set contains every cell of the window.
    pub fn contains(&self, window: Window) -> bool {
        self.hours_of(window.day) & window.hours() == window.hours()
    }

    /// Returns true if the set contains any cell of the window.
    pub fn intersects(&self, window: Window) -> bool {
        self.hours_of(window.day) & window.hours() != 0
    }

    /// Returns the hours of a day in the set, as bits 0–23.
    pub(crate) fn hours_of(&self, day: Date) -> u32 {
        let index = self.search(day).ok();
        index
            .and_then(|index| self.0.get(index))
            .map_or(0, |(_, hours)| *hours)
    }

    /// Returns the cells in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_days([self.0.as_slice(), &other.0].concat())
    }

    /// Returns the cells in this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |hours, other_hours| hours & !other_hours)
    }

    /// Returns the cells in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |hours, other_hours| hours & other_hours)
    }

    /// Combines the hours of each day of this set with those of the other, in one pass over both.
    fn combine(&self, other: &Self, combine_hours: impl Fn(u32, u32) -> u32) -> Self {
        let mut others = other.0.iter().peekable();
        let days = self.0.iter().filter_map(|(day, hours)| {
            while others.next_if(|(other_day, _)| other_day < day).is_some() {}
            let other_hours = others
                .next_if(|(other_day, _)| other_day == day)
                .map_or(0, |(_, hours)| *hours);
            let hours = combine_hours(*hours, other_hours);
            (hours != 0).then_some((*day, hours))
        });
        Self(days.collect())
    }

    /// Returns the days of the set with their hours as bits 0–23, oldest first.
    pub(crate) fn days(&self) -> impl DoubleEndedIterator<Item = (Date, u32)> + '_ {
        self.0.iter().copied()
    }

    /// Returns true if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of cells.
    pub fn len(&self) -> u64 {
        self.days().map(|(_, hours)| u64::from(hours.count_ones())).sum()
    }

    /// Formats the set as merged ranges: `2018-06-01/2018-06-30` for days (both inclusive),
    /// `2018-06-01T07/2018-06-01T09` for hours. Returns at most `max` ranges, the oldest first, then `and N more` if
    /// ranges are left out.
    pub fn ranges(&self, max: usize) -> Vec<String> {
        let runs = self.runs();
        let more = runs.len().saturating_sub(max);
        let mut texts: Vec<String> = runs.iter().take(max).map(|run| format_range(*run)).collect();
        if more > 0 {
            texts.push(format!("and {more} more"));
        }
        texts
    }

    /// Returns the merged ranges as their first and last window: adjacent complete days, or adjacent hours of one day.
    pub fn runs(&self) -> Vec<(Window, Window)> {
        let mut runs: Vec<(Window, Window)> = Vec::new();
        for (day, hours) in self.days() {
            for (first, last) in ranges_of_day(day, hours) {
                match runs.last_mut() {
                    Some(run) if is_adjacent(run.1, first) => run.1 = last,
                    _ => runs.push((first, last)),
                }
            }
        }
        runs
    }

    /// Parses the output of [`HourSet::ranges`]. Ignores texts that are not ranges, such as `and N more`.
    pub fn from_ranges(texts: &[String]) -> Self {
        Self::from_bounds(
            texts
                .iter()
                .map(|text| text.split_once('/').unwrap_or((text, text))),
        )
    }

    /// Parses the first and last window of ranges. Ignores texts that are not windows.
    pub fn from_bounds<'a>(bounds: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut days = Vec::new();
        for (first, last) in bounds.into_iter().take(RANGES_MAX) {
            let (Ok(first), Ok(last)) = (first.parse::<Window>(), last.parse::<Window>()) else {
                continue;
            };
            let mut day = Some(first.day);
            while let Some(date) = day.filter(|day| *day <= last.day && days.len() < RANGE_DAYS_MAX) {
                let begin = first.hour.filter(|_| date == first.day).unwrap_or(0);
                let end = last.hour.filter(|_| date == last.day).unwrap_or(23);
                days.push((date, (begin..=end).fold(0, |hours, hour| hours | 1 << hour)));
                day = date.tomorrow().ok();
            }
        }
        days.retain(|(_, hours)| *hours != 0);
        Self::from_days(days)
    }
}

impl FromIterator<Window> for HourSet {
    fn from_iter<I: IntoIterator<Item = Window>>(windows: I) -> Self {
        let windows = windows.into_iter();
        Self::from_days(windows.map(|window| (window.day, window.hours())).collect())
    }
}

/// Returns a complete day as one range, or the ranges of its hours.
fn ranges_of_day(day: Date, hours: u32) -> Vec<(Window, Window)> {
    if hours & ALL_HOURS == ALL_HOURS {
        return vec![(Window::day(day), Window::day(day))];
    }
    let mut runs: Vec<(Window, Window)> = Vec::new();
    for hour in (0..24u8).filter(|hour| hours & (1 << hour) != 0) {
        let window = Window {
            day,
            hour: Some(hour),
        };
        match runs.last_mut() {
            Some(run) if run.1.hour.is_some_and(|last| last + 1 == hour) => run.1 = window,
            _ => runs.push((window, window)),
        }
    }
    runs
}

/// Returns true for consecutive complete days; hours of different days are not merged.
fn is_adjacent(last: Window, first: Window) -> bool {
    last.hour.is_none() && first.hour.is_none() && last.day.tomorrow().is_ok_and(|next| next == first.day)
}

fn format_range((first, last): (Window, Window)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}/{last}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use jiff::civil::date;
    use proptest::prelude::*;

    #[test]
    fn a_window_parses_from_its_own_text() {
        for text in ["2018-06-28", "2018-06-28T07", "2016-02-29T23"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
        for text in [
            "2018-02-30",
            "2018-6-1",
            "2018-06-28T24",
            "2018-06-28T7",
            "2018-06-28T+7",
            "+018-06-28",
            "2018-06-28T007",
            "",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_ends_where_the_next_begins() {
        assert_eq!(
            Window::day(date(2018, 6, 28)).end().to_string(),
            "2018-06-29T00:00:00Z"
        );
        assert_eq!(
            Window::hour(date(2018, 6, 28), 23).unwrap().end().to_string(),
            "2018-06-29T00:00:00Z"
        );
        assert_eq!(Window::day(Date::MAX).end(), Timestamp::MAX);
    }

    #[test]
    fn twenty_four_hours_cover_the_day() {
        let day = date(2018, 6, 28);
        let mut cells: HourSet = Window::split(day).skip(1).collect();
        assert!(!cells.contains(Window::day(day)));
        assert!(cells.intersects(Window::day(day)));
        cells.insert(Window::hour(day, 0).unwrap());
        assert!(cells.contains(Window::day(day)));
        assert_eq!(cells.ranges(9), ["2018-06-28"]);
    }

    #[test]
    fn ranges_merge_adjacent_days_and_count_what_they_omit() {
        let mut cells: HourSet = [
            date(2018, 6, 1),
            date(2018, 6, 2),
            date(2018, 6, 30),
            date(2018, 7, 1),
        ]
        .map(Window::day)
        .into_iter()
        .collect();
        cells.insert(Window::hour(date(2018, 6, 10), 3).unwrap());
        cells.insert(Window::hour(date(2018, 6, 10), 4).unwrap());
        cells.insert(Window::hour(date(2018, 6, 10), 9).unwrap());
        assert_eq!(
            cells.ranges(9),
            [
                "2018-06-01/2018-06-02",
                "2018-06-10T03/2018-06-10T04",
                "2018-06-10T09",
                "2018-06-30/2018-07-01"
            ]
        );
        assert_eq!(cells.ranges(1), ["2018-06-01/2018-06-02", "and 3 more"]);
        assert_eq!(HourSet::from_ranges(&cells.ranges(9)), cells);
        assert_eq!(HourSet::from_ranges(&cells.ranges(1)).len(), 48);
        let calendar = vec!["0000-01-01/9999-12-31".to_owned(); RANGES_MAX];
        assert_eq!(HourSet::from_ranges(&calendar).len(), 24 * RANGE_DAYS_MAX as u64);
    }

    /// Windows of a few days, so that they overlap.
    fn windows() -> impl Strategy<Value = Vec<Window>> {
        let window = (1..8i8, prop::option::of(0..24u8)).prop_map(|(day, hour)| Window {
            day: date(2018, 6, day),
            hour,
        });
        prop::collection::vec(window, 0..20)
    }

    /// Returns the cells of the windows as pairs of day and hour.
    fn hours_of_windows(windows: &[Window]) -> BTreeSet<(Date, u8)> {
        let hours = |window: &Window| match window.hour {
            Some(hour) => hour..hour + 1,
            None => 0..24,
        };
        windows
            .iter()
            .flat_map(|window| hours(window).map(|hour| (window.day, hour)))
            .collect()
    }

    fn hours_of_set(cells: &HourSet) -> BTreeSet<(Date, u8)> {
        let of_day = |(day, hours): (Date, u32)| {
            let within = (0..24u8).filter(move |hour| hours & (1 << hour) != 0);
            within.map(move |hour| (day, hour))
        };
        cells.days().flat_map(of_day).collect()
    }

    proptest! {
        #[test]
        fn set_operations_match_a_plain_set_of_hours(one in windows(), other in windows()) {
            let (a, b) = (hours_of_windows(&one), hours_of_windows(&other));
            let cells: HourSet = one.iter().copied().collect();
            let others: HourSet = other.iter().copied().collect();
            let mut inserted = HourSet::default();
            for window in &one {
                inserted.insert(*window);
            }
            prop_assert_eq!(&inserted, &cells);
            prop_assert_eq!(hours_of_set(&cells), a.clone());
            prop_assert_eq!(hours_of_set(&cells.union(&others)), &a | &b);
            prop_assert_eq!(hours_of_set(&cells.difference(&others)), &a - &b);
            prop_assert_eq!(hours_of_set(&cells.intersection(&others)), &a & &b);
            prop_assert_eq!(cells.len(), a.len() as u64);
            // Sets with equal cells are equal: no day without hours is kept.
            prop_assert_eq!(cells.difference(&others).union(&cells.intersection(&others)), cells.clone());
            prop_assert!(cells.difference(&cells).is_empty());
            for window in &other {
                let hours = hours_of_windows(std::slice::from_ref(window));
                prop_assert_eq!(cells.contains(*window), hours.is_subset(&a));
                prop_assert_eq!(cells.intersects(*window), !hours.is_disjoint(&a));
            }
        }
    }
}
