//! State of each window of an archive: the only answer to the question whether a window is covered. No I/O.
//!
//! Engine, status, plan and inspection show the result of [`assess`] and nothing else.

use std::collections::BTreeMap;
use std::fmt;

use jiff::civil::Date;

use super::counts::{Verdict, split_days};
use super::listing::{Journal, ReceiptFacts};
use super::records::RecordError;
use super::window::{HourSet, Window};
use crate::api::Reason;

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

/// A window that has data in the archive and is not covered by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The receipt cannot be read.
    Unreadable(RecordError),
    /// The receipt names another source.
    OtherSource(String),
    /// The object that the receipt names does not exist.
    ObjectMissing,
    /// The object has another size than the receipt states.
    ObjectSizeMismatch {
        /// Bytes that the receipt states.
        stated: u64,
        /// Bytes that the store has.
        found: u64,
    },
    /// Fewer events are stored than the newest count of the service. Of a day: the sum of its hours.
    Short {
        /// Events that are stored.
        events: u64,
        /// Events that the service reported last.
        reported: u64,
    },
    /// An object without receipt and attempt.
    Orphaned,
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
    for (window, facts) in journal.receipts.iter().filter_map(read) {
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
        damaged.insert(day, Damage::Short { events, reported });
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
    let expired: HourSet = journal
        .expired_windows(source.unwrap_or_default(), *oldest_listed)
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

fn read<'a>((window, facts): (&Window, &'a Option<ReceiptFacts>)) -> Option<(Window, &'a ReceiptFacts)> {
    Some((*window, facts.as_ref()?))
}

/// Returns the reason why a receipt does not cover its window.
fn receipt_damage(
    journal: &Journal,
    window: Window,
    facts: &ReceiptFacts,
    source: Option<&str>,
) -> Option<Damage> {
    if source.is_some_and(|source| source != facts.source) {
        return Some(Damage::OtherSource(facts.source.clone()));
    }
    let summary = &facts.summary;
    if let Some(reported) = summary.reported.filter(|reported| summary.events < *reported) {
        return Some(Damage::Short {
            events: summary.events,
            reported,
        });
    }
    // Proved empty: there is no object.
    summary.sha256.as_ref()?;
    match journal.objects.get(&window) {
        None => Some(Damage::ObjectMissing),
        Some(found) if *found != summary.bytes => Some(Damage::ObjectSizeMismatch {
            stated: summary.bytes,
            found: *found,
        }),
        Some(_) => None,
    }
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

/// Returns the receipts that cover a window, each hour once: where a day has a receipt of its own, not those of its
/// hours. Counts and totals are sums over these.
pub fn counted_receipts<'a>(
    journal: &'a Journal,
    coverage: &'a Coverage,
    window: Window,
) -> impl Iterator<Item = (Window, &'a ReceiptFacts)> {
    let counts =
        |receipt: &Window| coverage.covered.contains(*receipt) && !coverage.damaged.contains_key(receipt);
    let day = Window::day(window.date());
    let by_day = counts(&day) && journal.receipts.contains_key(&day);
    let receipts = journal.receipts.range(window.same_day()).filter_map(read);
    receipts.filter(move |(receipt, _)| counts(receipt) && (*receipt == day || !by_day))
}

/// Returns days whose 24 hours are stored and have fewer events than the newest count of the day: stored and reported.
pub fn day_shortfalls(journal: &Journal, source: Option<&str>) -> BTreeMap<Date, (u64, u64)> {
    let stored = journal.receipts.keys().filter_map(|window| {
        let facts = valid_receipt(journal, *window, source)?;
        Some((*window, facts.summary.events, facts.day_reported))
    });
    let short = split_days(stored).into_iter().filter(|(date, sum)| {
        sum.verdict() == Verdict::Short && valid_receipt(journal, Window::day(*date), source).is_none()
    });
    short
        .filter_map(|(date, sum)| Some((date, (sum.events, sum.reported?))))
        .collect()
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
        if self.expired.intersects(window) {
            return WindowState::Expired;
        }
        WindowState::Missing
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

impl Damage {
    /// The reason, as conditions name it.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Unreadable(RecordError::Unreadable { .. }) => Reason::ReceiptUnreadable,
            Self::Unreadable(RecordError::UnsupportedSchema { .. }) => Reason::UnsupportedSchema,
            Self::Unreadable(RecordError::Archived { .. }) => Reason::ObjectArchived,
            Self::OtherSource(_) => Reason::SourceMismatch,
            Self::ObjectMissing => Reason::ObjectMissing,
            Self::ObjectSizeMismatch { .. } => Reason::ObjectSizeMismatch,
            Self::Short { .. } => Reason::Short,
            Self::Orphaned => Reason::ForeignObject,
        }
    }

    /// The name in JSON output.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable(RecordError::Unreadable { .. }) => "Unreadable",
            Self::Unreadable(RecordError::UnsupportedSchema { .. }) => "UnsupportedSchema",
            Self::Unreadable(RecordError::Archived { .. }) => "ObjectArchived",
            Self::OtherSource(_) => "OtherSource",
            Self::ObjectMissing => "ObjectMissing",
            Self::ObjectSizeMismatch { .. } => "ObjectSizeMismatch",
            Self::Short { .. } => "Short",
            Self::Orphaned => "Orphaned",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::OtherSource(source) => write!(f, "its receipt names the source {source}"),
            Self::ObjectMissing => f.write_str("its receipt exists, but its object is missing"),
            Self::ObjectSizeMismatch { stated, found } => {
                write!(f, "its object has {found} bytes, but its receipt states {stated}")
            }
            Self::Short { events, reported } => {
                write!(
                    f,
                    "{events} events are stored, but the service reported {reported}"
                )
            }
            Self::Orphaned => f.write_str("its object has no receipt"),
        }
    }
}

impl WindowState {
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::civil::date;
    use ulid::Ulid;

    use super::*;
    use crate::archive::layout::AttemptId;
    use crate::archive::listing::{AttemptFacts, ExpiredFacts, ReceiptProof, WindowFacts};

    const SOURCE: &str = "https://a";

    fn facts(events: u64, reported: Option<u64>, bytes: Option<u64>) -> ReceiptFacts {
        ReceiptFacts {
            source: SOURCE.to_owned(),
            day_reported: None,
            stored_at: Timestamp::UNIX_EPOCH,
            summary: WindowFacts {
                bytes: bytes.unwrap_or(0),
                events,
                reported,
                verdict: Verdict::Matched,
                sha256: bytes.map(|_| "ab".into()),
                stored_now: false,
            },
            proof: ReceiptProof::default(),
        }
    }

    fn unreadable() -> RecordError {
        RecordError::Unreadable {
            key: "k".to_owned(),
            schema: "s",
            message: "m".to_owned(),
        }
    }

    /// An archive whose 15 June is in some state, and the state.
    type Case = (&'static str, fn(&mut Journal), WindowState);

    const DAY: Window = Window::day(date(2018, 6, 15));

    fn store(journal: &mut Journal, window: Window, facts: ReceiptFacts) {
        if facts.summary.sha256.is_some() {
            journal.objects.insert(window, facts.summary.bytes);
        }
        journal.receipts.insert(window, Some(facts));
    }

    fn hour(hour: u8) -> Window {
        Window::hour(DAY.date(), hour).unwrap()
    }

    fn hours(journal: &mut Journal, range: std::ops::Range<u8>, day_reported: u64) {
        for number in range {
            let facts = ReceiptFacts {
                day_reported: Some(day_reported),
                ..facts(1, None, Some(10))
            };
            store(journal, hour(number), facts);
        }
    }

    fn expired() -> ExpiredFacts {
        ExpiredFacts {
            source: SOURCE.to_owned(),
            oldest_listed: date(2018, 6, 20),
        }
    }

    fn damaged(damage: Damage) -> WindowState {
        WindowState::Damaged(damage)
    }

    #[test]
    fn each_window_has_exactly_one_state() {
        let short = |events, reported| damaged(Damage::Short { events, reported });
        let table: Vec<Case> = vec![
            ("nothing", |_| {}, WindowState::Missing),
            (
                "a receipt with its object",
                |j| store(j, DAY, facts(5, Some(5), Some(50))),
                WindowState::Covered,
            ),
            (
                "more than reported",
                |j| store(j, DAY, facts(6, Some(5), Some(50))),
                WindowState::Covered,
            ),
            (
                "no count",
                |j| store(j, DAY, facts(5, None, Some(50))),
                WindowState::Covered,
            ),
            (
                "proved empty",
                |j| store(j, DAY, facts(0, Some(0), None)),
                WindowState::Covered,
            ),
            (
                "fewer than the newest count",
                |j| store(j, DAY, facts(4, Some(5), Some(50))),
                short(4, 5),
            ),
            (
                "an unread receipt",
                |j| {
                    j.receipts.insert(DAY, None);
                },
                WindowState::Missing,
            ),
            (
                "an unreadable receipt",
                |j| {
                    j.receipts.insert(DAY, None);
                    j.unreadable.insert(DAY, unreadable());
                },
                damaged(Damage::Unreadable(unreadable())),
            ),
            (
                "an unreadable receipt with its object",
                |j| {
                    j.objects.insert(DAY, 50);
                    j.receipts.insert(DAY, None);
                    j.unreadable.insert(DAY, unreadable());
                },
                damaged(Damage::Unreadable(unreadable())),
            ),
            (
                "another source",
                |j| {
                    store(
                        j,
                        DAY,
                        ReceiptFacts {
                            source: "https://b".to_owned(),
                            ..facts(5, None, Some(50))
                        },
                    );
                },
                damaged(Damage::OtherSource("https://b".to_owned())),
            ),
            (
                "an object that is gone",
                |j| {
                    store(j, DAY, facts(5, Some(5), Some(50)));
                    j.objects.clear();
                },
                damaged(Damage::ObjectMissing),
            ),
            (
                "an object of another size",
                |j| {
                    store(j, DAY, facts(5, Some(5), Some(50)));
                    j.objects.insert(DAY, 49);
                },
                damaged(Damage::ObjectSizeMismatch {
                    stated: 50,
                    found: 49,
                }),
            ),
            (
                "an object without a receipt",
                |j| {
                    j.objects.insert(DAY, 50);
                },
                damaged(Damage::Orphaned),
            ),
            (
                "an object of an attempt in progress",
                |j| {
                    j.objects.insert(DAY, 50);
                    let id = AttemptId {
                        window: DAY,
                        ulid: Ulid::nil(),
                    };
                    j.attempts.insert(id, AttemptFacts::default());
                },
                WindowState::Missing,
            ),
            (
                "expired",
                |j| {
                    j.expired.insert(DAY, Some(expired()));
                },
                WindowState::Expired,
            ),
            (
                "expired, and stored by another run",
                |j| {
                    j.expired.insert(DAY, Some(expired()));
                    store(j, DAY, facts(5, Some(5), Some(50)));
                },
                WindowState::Covered,
            ),
            (
                "a split day",
                |j| {
                    j.splits.insert(DAY);
                },
                WindowState::Missing,
            ),
            (
                "some hours",
                |j| hours(j, 0..23, 24),
                WindowState::Partial(HourSet::from_iter([hour(23)])),
            ),
            ("all hours", |j| hours(j, 0..24, 24), WindowState::Covered),
            (
                "all hours, fewer than the day",
                |j| hours(j, 0..24, 25),
                short(24, 25),
            ),
            (
                "hours that a receipt of the day supersedes",
                |j| {
                    hours(j, 0..24, 25);
                    store(j, DAY, facts(25, Some(25), Some(50)));
                },
                WindowState::Covered,
            ),
            (
                "an hour with a missing object",
                |j| {
                    hours(j, 0..24, 24);
                    j.objects.remove(&hour(7));
                },
                damaged(Damage::ObjectMissing),
            ),
            (
                "an hour with a missing object that a receipt of the day supersedes",
                |j| {
                    hours(j, 0..24, 24);
                    j.objects.remove(&hour(7));
                    store(j, DAY, facts(25, Some(25), Some(50)));
                },
                WindowState::Covered,
            ),
        ];
        for (name, arrange, state) in table {
            let mut journal = Journal::default();
            arrange(&mut journal);
            let wanted = HourSet::from_iter([DAY]);
            let mut expectation = Expectation {
                wanted: wanted.clone(),
                ..Expectation::of_source(SOURCE)
            };
            let coverage = assess(&expectation, &journal);
            assert_eq!(coverage.state(DAY), state, "{name}");
            let covered = state == WindowState::Covered;
            assert_eq!(
                coverage.missing.is_empty(),
                covered,
                "{name}: a damaged window is missing"
            );

            // A gap that the user accepts hides everything but data that counts.
            expectation.accepted = wanted.clone();
            let accepted = assess(&expectation, &journal);
            let expected = if covered {
                WindowState::Covered
            } else {
                WindowState::Accepted
            };
            assert_eq!(accepted.state(DAY), expected, "{name}, accepted");
            assert!(accepted.missing.is_empty(), "{name}, accepted");

            // Before the window is due, nothing is missing, but damage shows.
            expectation.accepted = HourSet::default();
            expectation.not_due = wanted;
            let early = assess(&expectation, &journal);
            assert!(early.missing.is_empty(), "{name}, not due");
            let expected = match state {
                WindowState::Covered | WindowState::Damaged(_) => state,
                _ => WindowState::NotDue,
            };
            if !matches!(expected, WindowState::NotDue) || early.covered.is_empty() {
                assert_eq!(early.state(DAY), expected, "{name}, not due");
            }
        }
    }

    #[test]
    fn totals_count_each_hour_once_and_only_what_exists() {
        let mut journal = Journal::default();
        hours(&mut journal, 0..24, 24);
        let expectation = Expectation::of_source(SOURCE);
        let sum = |journal: &Journal| -> u64 {
            let coverage = assess(&expectation, journal);
            counted_receipts(journal, &coverage, DAY)
                .map(|(_, facts)| facts.summary.events)
                .sum()
        };
        assert_eq!(sum(&journal), 24);
        journal.objects.remove(&hour(7));
        assert_eq!(sum(&journal), 23, "a missing object is not counted");
        store(&mut journal, DAY, facts(30, Some(30), Some(50)));
        assert_eq!(sum(&journal), 30, "a day and its hours are not counted twice");
    }
}
