//! Months of a calendar, for the renderings. No I/O.

use jiff::civil::Date;

use crate::archive::calendar::CalendarDay;

/// Days of the week, Monday first.
pub(super) const WEEKDAYS: [&str; 7] = ["Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"];

/// Names of the months.
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Maximum number of months with a calendar of their own: two years. A longer range has a compact form.
pub(super) const DETAILED_MONTHS_MAX: usize = 24;

/// A month of a calendar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Month<'a> {
    /// Its first day.
    pub(super) first: Date,
    /// Its days in the calendar.
    pub(super) days: &'a [CalendarDay],
}

/// Returns the months that have days.
pub(super) fn months(days: &[CalendarDay]) -> Vec<Month<'_>> {
    let same_month =
        |one: &CalendarDay, other: &CalendarDay| one.date().first_of_month() == other.date().first_of_month();
    let chunks = days.chunk_by(same_month);
    chunks
        .filter_map(|days| {
            let first = days.first()?.date().first_of_month();
            Some(Month { first, days })
        })
        .collect()
}

/// Returns the name of the month of a day.
pub(super) fn name(date: Date) -> &'static str {
    let number = usize::try_from(date.month()).unwrap_or_default();
    MONTHS.get(number.wrapping_sub(1)).copied().unwrap_or_default()
}

/// Returns the column of a day, 0 for Monday.
pub(super) fn column(date: Date) -> usize {
    usize::try_from(date.weekday().to_monday_zero_offset()).unwrap_or_default()
}

impl<'a> Month<'a> {
    /// Returns the entry of a day.
    pub(super) fn day(&self, date: Date) -> Option<&'a CalendarDay> {
        let at = self.days.binary_search_by_key(&date, CalendarDay::date).ok()?;
        self.days.get(at)
    }

    /// Returns the weeks with days of the calendar, each with a place for each weekday; `None` outside of the month.
    pub(super) fn weeks(&self) -> Vec<[Option<Date>; 7]> {
        let mut weeks = Vec::new();
        let mut week = [None; 7];
        for date in self
            .first
            .series(jiff::Span::new().days(1))
            .take_while(|date| date.month() == self.first.month())
        {
            if let Some(place) = week.get_mut(column(date)) {
                *place = Some(date);
            }
            if column(date) == 6 {
                weeks.push(std::mem::take(&mut week));
            }
        }
        if week.iter().any(Option::is_some) {
            weeks.push(week);
        }
        weeks.retain(|week| week.iter().flatten().any(|date| self.day(*date).is_some()));
        weeks
    }
}
