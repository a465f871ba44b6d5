//! State of each window of an archive: the only answer to the question whether a window is covered. No I/O.
//!
//! Engine, status, plan and inspection show the result of [`assess`] and nothing else. `damage` has the reasons why data does
//! not count, `late_events` the comparison with the newest counts.

mod damage;
mod late_events;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;

use self::damage::{is_intact, receipt_damage};
use super::counts::{Verdict, split_days};
use super::listing::Journal;
use super::receipt::ReceiptFacts;
use super::records::UncountedRecord;
use super::window::{HourSet, Window};

pub use self::damage::Damage;
pub use self::late_events::{
    Confirmation, Growth, ListingComparison, changed_windows, compare_with_listing, stored_receipt,
};

/// Content that an archive should have.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// Source of the events; receipts of another source cover nothing. `None`: every source counts.
    pub source: Option<String>,
    /// Oldest day that the service lists, if it is known: an expired window is not later.
    pub oldest_listed: Option<Date>,
    /// Hours that the archive should hold.
    pub wanted: HourSet,
    /// Wanted hours in gaps that the user accepted.
    pub accepted: HourSet,
    /// Wanted hours that have not ended or settled.
    pub not_due: HourSet,
}

/// State of a window. The order of the variants is the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// Every hour is covered.
    Covered,
    /// The user accepted that the window is missing.
    Accepted,
    /// The window has data that does not count.
    Damaged(Damage),
    /// The window has not ended or settled.
    NotDue,
    /// Some hours are covered; the set holds the others.
    Partial(HourSet),
    /// The service no longer has the window.
    Expired,
    /// Nothing is stored.
    Missing,
}

/// State of all windows of an archive.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Hours that receipts cover, wanted or not.
    pub covered: HourSet,
    /// Wanted hours that are accepted gaps and not covered.
    pub accepted: HourSet,
    /// Wanted hours that are not due and not covered.
    pub not_due: HourSet,
    /// Wanted hours that are due, not covered and not accepted.
    pub missing: HourSet,
    /// Hours that the service no longer has, as the journal states.
    pub expired: HourSet,
    /// Windows with data that does not count.
    pub damaged: BTreeMap<Window, Damage>,
}

/// Assesses the archive. Receipts whose content is not known cover nothing.
pub fn assess(expectation: &Expectation, journal: &Journal) -> Coverage {
    let source = expectation.source.as_deref();
    let mut damaged: BTreeMap<Window, Damage> = journal
        .unreadable
        .iter()
        .map(|(window, error)| (*window, Damage::Unreadable(error.clone())))
        .collect();
    let mut covered = HourSet::default();
    for (window, facts) in journal.read_receipts() {
        match receipt_damage(journal, window, facts, source) {
            None => covered.insert(window),
            Some(damage) => {
                damaged.insert(window, damage);
            }
        }
    }
    for (date, (events, reported)) in day_shortfalls(journal, source) {
        let day = Window::day(date);
        covered = covered.difference(&HourSet::from_iter([day]));
        damaged.insert(
            day,
            match first_uncounted(journal, day) {
                None => Damage::Short { events, reported },
                Some(uncounted) => Damage::Uncounted {
                    events,
                    reported: Some(reported),
                    uncounted: uncounted.clone(),
                },
            },
        );
    }
    let orphaned = journal
        .orphaned_objects()
        .filter(|window| !covered.contains(*window));
    for window in orphaned {
        damaged.entry(window).or_insert(Damage::Orphaned);
    }
    let Expectation {
        source: _,
        oldest_listed,
        wanted,
        accepted,
        not_due,
    } = expectation;
    // Without an expected source, the receipts name those that count.
    let named: BTreeSet<&str> = match source {
        Some(source) => BTreeSet::from([source]),
        None => journal.read_receipts().map(|(_, facts)| &*facts.source).collect(),
    };
    let expired: HourSet = named
        .into_iter()
        .flat_map(|source| journal.expired_windows(source, *oldest_listed))
        .collect();
    let accepted = accepted.intersection(wanted).difference(&covered);
    let not_due = not_due
        .intersection(wanted)
        .difference(&covered)
        .difference(&accepted);
    Coverage {
        missing: wanted
            .difference(&covered)
            .difference(&accepted)
            .difference(&not_due),
        accepted,
        not_due,
        expired: expired.difference(&covered),
        covered,
        damaged,
    }
}

/// Returns the end of the count of the first hour of a day whose content could be counted only in part.
fn first_uncounted(journal: &Journal, day: Window) -> Option<&UncountedRecord> {
    let mut hours = journal
        .receipts
        .range(day.same_day())
        .filter(|(window, _)| window.hour_of_day().is_some())
        .filter_map(|(_, facts)| facts.as_ref());
    hours.find_map(|facts| facts.current().uncounted.as_deref())
}

/// Returns the receipt of a window if it covers it.
pub fn valid_receipt<'a>(
    journal: &'a Journal,
    window: Window,
    source: Option<&str>,
) -> Option<&'a ReceiptFacts> {
    let facts = journal.receipts.get(&window)?.as_ref()?;
    receipt_damage(journal, window, facts, source)
        .is_none()
        .then_some(facts)
}

/// Returns the receipts that cover a day, each hour once: where the day has a receipt of its own, not those of its
/// hours. Counts and totals are sums over these.
pub fn counted_receipts<'a>(
    journal: &'a Journal,
    coverage: &'a Coverage,
    day: Date,
) -> impl Iterator<Item = (Window, &'a ReceiptFacts)> {
    let receipts = journal.receipts.range(Window::day(day).same_day());
    let read = receipts.filter_map(|(window, facts)| Some((*window, facts.as_deref()?)));
    read.filter(move |(window, _)| is_counted(journal, coverage, *window))
}

/// Returns the receipts that cover an archive, each hour once.
pub fn all_counted_receipts<'a>(
    journal: &'a Journal,
    coverage: &'a Coverage,
) -> impl Iterator<Item = (Window, &'a ReceiptFacts)> {
    let receipts = journal.read_receipts();
    receipts.filter(move |(window, _)| is_counted(journal, coverage, *window))
}

/// Returns the receipts whose objects exist, each hour once: those that cover an archive and, of hours that none of them
/// has, others, for example with fewer events than the service reported.
pub fn readable_receipts<'a>(
    journal: &'a Journal,
    coverage: &'a Coverage,
    source: Option<&str>,
) -> BTreeMap<Window, &'a ReceiptFacts> {
    let mut readable: BTreeMap<Window, &ReceiptFacts> = all_counted_receipts(journal, coverage).collect();
    let mut hours: HourSet = readable.keys().copied().collect();
    // A day comes before its hours.
    for (window, facts) in journal.read_receipts() {
        let same_source = source.is_none_or(|source| source == &*facts.source);
        if same_source && is_intact(journal, window, facts) && !hours.intersects(window) {
            hours.insert(window);
            readable.insert(window, facts);
        }
    }
    readable
}

/// Returns true if the receipt of a window covers it, and no receipt of the day covers the same hour.
fn is_counted(journal: &Journal, coverage: &Coverage, window: Window) -> bool {
    let covers = |window: Window| {
        let read = journal.receipts.get(&window).is_some_and(Option::is_some);
        read && coverage.covered.contains(window) && !coverage.damaged.contains_key(&window)
    };
    let day = Window::day(window.date());
    covers(window) && (window == day || !covers(day))
}

/// Returns days whose 24 hours are stored and have fewer events than the newest count of the day: stored and reported.
pub fn day_shortfalls(journal: &Journal, source: Option<&str>) -> BTreeMap<Date, (u64, u64)> {
    let stored = journal.receipts.keys().filter_map(|window| {
        let facts = valid_receipt(journal, *window, source)?;
        Some((*window, facts.current().events, facts.current_day_reported()))
    });
    let short = split_days(stored).into_iter().filter(|(date, sum)| {
        sum.verdict() == Verdict::Short && valid_receipt(journal, Window::day(*date), source).is_none()
    });
    short
        .filter_map(|(date, sum)| Some((date, (sum.events, sum.reported?))))
        .collect()
}

/// Returns one window for each wanted day, oldest first: the day or, of an export of one hour of each day, that hour.
pub fn expected_windows(wanted: &HourSet) -> impl DoubleEndedIterator<Item = Window> {
    wanted.days().map(|(date, hours)| {
        let hour = Window::split(date).find(|hour| hour.hours() == hours);
        hour.unwrap_or(Window::day(date))
    })
}

impl Expectation {
    /// Expects nothing but events of this source: for what an archive covers, whatever is wanted.
    pub fn of_source(source: &str) -> Self {
        Self {
            source: Some(source.to_owned()),
            ..Self::default()
        }
    }
}

impl Coverage {
    /// Returns the state of a window, a day or an hour.
    pub fn state(&self, window: Window) -> WindowState {
        if self.covered.contains(window) {
            return WindowState::Covered;
        }
        if self.accepted.intersects(window) && self.covered.union(&self.accepted).contains(window) {
            return WindowState::Accepted;
        }
        if let Some((_, damage)) = self.damage_in(window).next() {
            return WindowState::Damaged(damage.clone());
        }
        if self.not_due.contains(window) {
            return WindowState::NotDue;
        }
        if self.covered.intersects(window) {
            return WindowState::Partial(HourSet::from_iter([window]).difference(&self.covered));
        }
        if self.expired.contains(window) {
            return WindowState::Expired;
        }
        WindowState::Missing
    }

    /// Returns the windows that are not covered, with their states: expected ones, a day at a time, and others with data
    /// that does not count.
    pub fn uncovered(&self, wanted: &HourSet) -> Vec<(Window, WindowState)> {
        let expected: BTreeMap<Window, WindowState> = expected_windows(wanted)
            .map(|window| (window, self.state(window)))
            .collect();
        let mut all: BTreeMap<Window, WindowState> = self
            .damaged
            .keys()
            .filter(|window| !wanted.intersects(**window))
            .map(|window| (*window, self.state(*window)))
            .collect();
        all.extend(expected);
        all.retain(|_, state| *state != WindowState::Covered);
        all.into_iter().collect()
    }

    /// Returns the damaged windows that overlap a window and are neither covered otherwise nor accepted, in time order.
    pub fn damage_in(&self, window: Window) -> impl Iterator<Item = (Window, &Damage)> {
        self.damaged
            .range(window.same_day())
            .filter(move |(damaged, _)| {
                let overlaps = damaged.hours() & window.hours() != 0;
                overlaps && !self.covered.contains(**damaged) && !self.accepted.contains(**damaged)
            })
            .map(|(window, damage)| (*window, damage))
    }
}

impl WindowState {
    /// Returns the explanation of damage.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Damaged(damage) => Some(damage.to_string()),
            _ => None,
        }
    }

    /// The name in JSON output.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Covered => "Covered",
            Self::Accepted => "Accepted",
            Self::Damaged(damage) => damage.as_str(),
            Self::NotDue => "NotDue",
            Self::Partial(_) => "Partial",
            Self::Expired => "Expired",
            Self::Missing => "Missing",
        }
    }
}
