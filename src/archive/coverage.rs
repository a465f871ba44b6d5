//! State of each window of an archive: the only answer to the question whether a window is covered. No I/O.
//!
//! Engine, status, plan and inspection show the result of [`assess`] and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::Date;

use super::counts::{DayListing, Verdict, is_grown, partial_count_suffices, split_days};
use super::layout::Key;
use super::listing::{Journal, LateFacts};
use super::receipt::{ReceiptFacts, body_key};
use super::records::{RecordError, UncountedRecord};
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
    /// A file of a later revision does not exist.
    RevisionMissing {
        /// Key below the root.
        key: String,
    },
    /// A file of a later revision has another size than its receipt states.
    RevisionSizeMismatch {
        /// Key below the root.
        key: String,
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
    /// The content could be counted only in part, and the counted events are not enough. Of a day: the sum of its hours.
    Uncounted {
        /// Events that were counted.
        events: u64,
        /// Events that the service reported last.
        reported: Option<u64>,
        /// End of the count. Of a day: of the first such hour.
        uncounted: UncountedRecord,
    },
    /// The receipt states that there are no events, but an object exists.
    UnexpectedObject,
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

/// Returns the reason why a receipt does not cover its window.
fn receipt_damage(
    journal: &Journal,
    window: Window,
    facts: &ReceiptFacts,
    source: Option<&str>,
) -> Option<Damage> {
    if source.is_some_and(|source| source != &*facts.source) {
        return Some(Damage::OtherSource(facts.source.to_string()));
    }
    let current = facts.current();
    let reported = current.reported.max(newest_report(journal, window, facts));
    let short = reported.filter(|reported| current.events < *reported);
    if let (Some(reported), None) = (short, &current.uncounted) {
        return Some(Damage::Short {
            events: current.events,
            reported,
        });
    }
    if let Some(damage) =
        object_damage(journal, window, facts).or_else(|| revision_damage(journal, window, facts))
    {
        return Some(damage);
    }
    let uncounted = current.uncounted.as_deref()?;
    let insufficient = !partial_count_suffices(current.events, None, current.reported);
    insufficient.then(|| Damage::Uncounted {
        events: current.events,
        reported: current.reported,
        uncounted: uncounted.clone(),
    })
}

/// Returns the count of late events that the service reported after the highest revision and did not give.
fn newest_report(journal: &Journal, window: Window, facts: &ReceiptFacts) -> Option<u64> {
    let late = newer_late(journal, window, facts)?;
    // The archive stays proved for what it held: a person decides which body is right.
    late.changed.is_none().then_some(late.reported)
}

/// Returns the record of late events of a window if it is newer than the highest revision.
fn newer_late<'a>(journal: &'a Journal, window: Window, facts: &ReceiptFacts) -> Option<&'a LateFacts> {
    let late = journal.late.get(&window)?.as_ref()?;
    let counts = late.source == *facts.source && late.seen_at > facts.current_stored_at();
    counts.then_some(late)
}

/// Checks the first object of a window.
fn object_damage(journal: &Journal, window: Window, facts: &ReceiptFacts) -> Option<Damage> {
    if facts.summary.sha256.is_none() {
        // Proved empty: there is no object.
        return journal.is_unexplained(window).then_some(Damage::UnexpectedObject);
    }
    let stated = facts.summary.bytes;
    match journal.objects.get(&window) {
        None => Some(Damage::ObjectMissing),
        Some(found) if *found != stated => Some(Damage::ObjectSizeMismatch {
            stated,
            found: *found,
        }),
        Some(_) => None,
    }
}

/// Checks the files of later revisions.
fn revision_damage(journal: &Journal, window: Window, facts: &ReceiptFacts) -> Option<Damage> {
    facts.revisions.iter().find_map(|later| {
        let files = journal.revision_files(window, later.revision);
        let body = (later.object == later.revision).then_some(later.summary.bytes);
        let supplement = later.supplement.as_ref().map(|supplement| supplement.bytes);
        let stated = [
            (body_key(window, later.revision), body, files.body),
            (
                Key::Supplement(window, later.revision),
                supplement,
                files.supplement,
            ),
        ];
        stated.into_iter().find_map(|(key, stated, found)| {
            let (stated, key) = (stated?, key.relative().unwrap_or_default());
            match found {
                None => Some(Damage::RevisionMissing { key }),
                Some(found) if found != stated => Some(Damage::RevisionSizeMismatch { key, stated, found }),
                Some(_) => None,
            }
        })
    })
}

/// Returns the stored windows whose later body, as the service gave it last, lacks stored events.
pub fn changed_windows(
    journal: &Journal,
    source: Option<&str>,
) -> impl Iterator<Item = (Window, u64, LateFacts)> {
    journal.late.keys().filter_map(move |window| {
        let facts = journal.receipts.get(window)?.as_ref()?;
        let late = newer_late(journal, *window, facts)?;
        let same = source.is_none_or(|source| *source == *facts.source);
        (same && late.changed.is_some()).then(|| (*window, facts.current().events, late.clone()))
    })
}

/// A stored day of which the service now reports more events than the archive has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The stored windows of the day: the day, or its hours.
    pub windows: Vec<Window>,
    /// Events that are stored.
    pub stored: u64,
    /// Newest count of the service.
    pub reported: u64,
}

/// A stored window whose receipt states no count, or an older one than the record of late events, and that has enough
/// events by the newest count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// The window.
    pub window: Window,
    /// Newest count of the service.
    pub reported: u64,
}

/// Comparison of the stored days with the newest counts of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListingComparison {
    /// Days with late events, oldest first.
    pub grown: BTreeMap<Date, Growth>,
    /// Windows whose count can be confirmed, oldest first.
    pub confirmed: Vec<Confirmation>,
}

/// Compares the stored days that the service still lists with its newest counts: the only rule for late events. A day
/// that is not stored completely, or of which a file is missing, is left out.
pub fn compare_with_listing(
    journal: &Journal,
    source: &str,
    listing: &DayListing,
    includes: impl Fn(Date) -> bool,
) -> ListingComparison {
    let mut comparison = ListingComparison::default();
    for (date, reported) in listing.counts().filter(|(date, _)| includes(*date)) {
        let day = Window::day(date);
        let windows: Vec<Window> = match stored_receipt(journal, day, source) {
            Some(_) => vec![day],
            None => Window::split(date).collect(),
        };
        let facts: Option<Vec<&ReceiptFacts>> = windows
            .iter()
            .map(|window| stored_receipt(journal, *window, source))
            .collect();
        let Some(facts) = facts else { continue };
        let events = facts.iter().map(|facts| facts.current().events);
        let stored = events.fold(0, u64::saturating_add);
        if is_grown(stored, reported) {
            let growth = Growth {
                windows,
                stored,
                reported,
            };
            comparison.grown.insert(date, growth);
        } else if let [facts] = facts[..]
            && needs_confirmation(journal, day, facts)
        {
            let window = day;
            comparison.confirmed.push(Confirmation { window, reported });
        }
    }
    comparison
}

/// Returns true if the service's newest count can replace a missing or a higher one.
fn needs_confirmation(journal: &Journal, window: Window, facts: &ReceiptFacts) -> bool {
    let current = facts.current();
    let unknown = current.verdict == Verdict::Unknown && current.reported.is_none();
    unknown || newer_late(journal, window, facts).is_some_and(|late| late.changed.is_none())
}

/// Returns the receipt of a window whose files are there, also if it has fewer events than the service reported.
pub fn stored_receipt<'a>(journal: &'a Journal, window: Window, source: &str) -> Option<&'a ReceiptFacts> {
    let facts = journal.receipts.get(&window)?.as_ref()?;
    match receipt_damage(journal, window, facts, Some(source)) {
        None | Some(Damage::Short { .. }) => {
            let counted = facts.current().uncounted.is_none();
            let intact = object_damage(journal, window, facts).is_none()
                && revision_damage(journal, window, facts).is_none();
            (counted && intact).then_some(facts)
        }
        Some(_) => None,
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
        let intact = object_damage(journal, window, facts).is_none()
            && revision_damage(journal, window, facts).is_none();
        if same_source && intact && !hours.intersects(window) {
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

impl Damage {
    /// The reason, as conditions name it.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Unreadable(error) => error.reason(),
            Self::OtherSource(_) => Reason::SourceMismatch,
            Self::ObjectMissing | Self::RevisionMissing { .. } => Reason::ObjectMissing,
            Self::ObjectSizeMismatch { .. } | Self::RevisionSizeMismatch { .. } => Reason::ObjectSizeMismatch,
            Self::Short { .. } => Reason::Short,
            Self::Uncounted { .. } => Reason::EventsUncounted,
            Self::UnexpectedObject | Self::Orphaned => Reason::ForeignObject,
        }
    }

    /// The name in JSON output.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable(error) => error.as_str(),
            Self::OtherSource(_) => "OtherSource",
            Self::ObjectMissing | Self::RevisionMissing { .. } => "ObjectMissing",
            Self::ObjectSizeMismatch { .. } | Self::RevisionSizeMismatch { .. } => "ObjectSizeMismatch",
            Self::Short { .. } => "Short",
            Self::Uncounted { .. } => "Uncounted",
            Self::UnexpectedObject => "UnexpectedObject",
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
            Self::RevisionMissing { key } => write!(f, "a receipt names {key}, which is missing"),
            Self::RevisionSizeMismatch { key, stated, found } => {
                write!(f, "{key} has {found} bytes, but its receipt states {stated}")
            }
            Self::Short { events, reported } => {
                write!(
                    f,
                    "{events} events are stored, but the service reported {reported}"
                )
            }
            Self::Uncounted {
                events,
                reported,
                uncounted,
            } => {
                write!(
                    f,
                    "only {events} events could be counted ({uncounted} of the decompressed data), and the service reported "
                )?;
                match reported {
                    None => f.write_str("no count"),
                    Some(reported) => write!(f, "{reported}"),
                }
            }
            Self::UnexpectedObject => {
                f.write_str("its receipt states that there are no events, but an object exists")
            }
            Self::Orphaned => f.write_str("its object has no receipt"),
        }
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::civil::date;
    use ulid::Ulid;

    use super::*;
    use crate::archive::layout::AttemptId;
    use crate::archive::listing::{AttemptFacts, ExpiredFacts, RevisionFiles};
    use crate::archive::receipt::{ReceiptProof, RevisionFacts, Sha256Digest, SupplementFacts, WindowFacts};
    use crate::archive::records::ChangedRecord;

    const SOURCE: &str = "https://a";

    fn facts(events: u64, reported: Option<u64>, bytes: Option<u64>) -> ReceiptFacts {
        ReceiptFacts {
            source: SOURCE.into(),
            day_reported: None,
            stored_at: Timestamp::UNIX_EPOCH,
            summary: WindowFacts {
                bytes: bytes.unwrap_or(0),
                events,
                reported,
                verdict: Verdict::Matched,
                uncounted: None,
                sha256: bytes.map(|_| Sha256Digest::default()),
                stored_now: false,
                revision: 0,
                late_events: 0,
            },
            proof: ReceiptProof::default(),
            revisions: Vec::new(),
        }
    }

    fn uncounted() -> UncountedRecord {
        UncountedRecord {
            reason: "NotAnObject".to_owned(),
            at_byte: 77,
        }
    }

    fn counted_in_part(events: u64, reported: Option<u64>) -> ReceiptFacts {
        let mut facts = facts(events, reported, Some(50));
        facts.summary.verdict = Verdict::Uncounted;
        facts.summary.uncounted = Some(Box::new(uncounted()));
        facts
    }

    fn unreadable() -> RecordError {
        RecordError::Unreadable {
            key: "k".to_owned(),
            schema: "s",
            message: "m".to_owned(),
        }
    }

    fn misplaced() -> RecordError {
        RecordError::Misplaced {
            key: "k".to_owned(),
            expected: "e".to_owned(),
            found: "f".to_owned(),
        }
    }

    /// An archive whose 15 June is in some state, and the state.
    type Case = (&'static str, fn(&mut Journal), WindowState);

    const DAY: Window = Window::day(date(2018, 6, 15));

    fn store(journal: &mut Journal, window: Window, facts: ReceiptFacts) {
        if facts.summary.sha256.is_some() {
            journal.objects.insert(window, facts.summary.bytes);
        }
        journal.receipts.insert(window, Some(Box::new(facts)));
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
        let partial = |events, reported| {
            damaged(Damage::Uncounted {
                events,
                reported,
                uncounted: uncounted(),
            })
        };
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
                "counted in part, as many as the newest count",
                |j| store(j, DAY, counted_in_part(5, Some(5))),
                WindowState::Covered,
            ),
            (
                "counted in part, and no count",
                |j| store(j, DAY, counted_in_part(5, None)),
                WindowState::Covered,
            ),
            (
                "counted in part, fewer than the newest count",
                |j| store(j, DAY, counted_in_part(4, Some(5))),
                partial(4, Some(5)),
            ),
            (
                "no event could be counted, and no count",
                |j| store(j, DAY, counted_in_part(0, None)),
                partial(0, None),
            ),
            (
                "counted in part, and the object is gone",
                |j| {
                    store(j, DAY, counted_in_part(4, Some(5)));
                    j.objects.clear();
                },
                damaged(Damage::ObjectMissing),
            ),
            (
                "all hours, one counted in part, as many as the day",
                |j| {
                    hours(j, 0..24, 24);
                    store(j, hour(7), counted_in_part(1, None));
                },
                WindowState::Covered,
            ),
            (
                "all hours, one counted in part, fewer than the day",
                |j| {
                    hours(j, 0..24, 25);
                    store(j, hour(7), counted_in_part(1, None));
                },
                partial(24, Some(25)),
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
                            source: "https://b".into(),
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
                "an object beside a receipt without one",
                |j| {
                    store(j, DAY, facts(0, Some(0), None));
                    j.objects.insert(DAY, 50);
                },
                damaged(Damage::UnexpectedObject),
            ),
            (
                "a receipt of another window",
                |j| {
                    j.objects.insert(DAY, 50);
                    j.receipts.insert(DAY, None);
                    j.unreadable.insert(DAY, misplaced());
                },
                damaged(Damage::Unreadable(misplaced())),
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

    /// Adds a later revision with these events, of which those beyond the earlier ones are its supplement.
    fn revise(journal: &mut Journal, window: Window, events: u64, reported: Option<u64>) {
        let mut later = facts(events, reported, Some(70)).summary;
        let stored = journal.receipts.get_mut(&window).unwrap().as_mut().unwrap();
        let revision = stored.highest_revision() + 1;
        later.revision = revision;
        let supplement = SupplementFacts {
            bytes: 20,
            events: events - stored.current().events,
            sha256: Sha256Digest::default(),
            version_id: None,
        };
        stored.revisions.push(RevisionFacts {
            revision,
            object: revision,
            day_reported: None,
            stored_at: Timestamp::from_second(i64::from(revision)).unwrap(),
            summary: later,
            proof: ReceiptProof::default(),
            missing_events: 0,
            supplement: Some(supplement),
        });
        let files = RevisionFiles {
            body: Some(70),
            supplement: Some(20),
            has_receipt: true,
        };
        journal.revisions.insert((window, revision), files);
    }

    fn record_late(journal: &mut Journal, reported: u64, second: i64, changed: bool) {
        let changed = changed.then_some(ChangedRecord {
            events: 4,
            missing: 1,
        });
        let late = LateFacts {
            source: SOURCE.to_owned(),
            reported,
            changed,
            seen_at: Timestamp::from_second(second).unwrap(),
        };
        journal.late.insert(DAY, Some(late));
    }

    fn listed(count: Option<u64>) -> DayListing {
        DayListing::new(vec![crate::tracker::Day {
            date: DAY.date(),
            count,
            size: None,
            types: None,
            searchable: None,
        }])
    }

    #[test]
    fn a_stored_day_has_grown_if_the_service_lists_more_than_its_highest_revision_has() {
        type Arrange = fn(&mut Journal);
        type GrowthCase = (&'static str, Arrange, Option<u64>, Option<(u64, usize)>, bool);
        let day: Arrange = |j| store(j, DAY, facts(5, Some(5), Some(50)));
        let revised: Arrange = |j| {
            store(j, DAY, facts(5, Some(5), Some(50)));
            revise(j, DAY, 7, Some(7));
        };
        let in_hours: Arrange = |j| hours(j, 0..24, 24);
        let without_an_hour: Arrange = |j| hours(j, 0..23, 23);
        let unknown: Arrange = |j| {
            let mut facts = facts(5, None, Some(50));
            facts.summary.verdict = Verdict::Unknown;
            store(j, DAY, facts);
        };
        let short: Arrange = |j| {
            store(j, DAY, facts(5, Some(5), Some(50)));
            record_late(j, 7, 1, false);
        };
        let table: Vec<GrowthCase> = vec![
            ("nothing stored", |_| {}, Some(5), None, false),
            ("as many", day, Some(5), None, false),
            ("fewer", day, Some(4), None, false),
            ("more", day, Some(6), Some((5, 1)), false),
            ("listed without a count", day, None, None, false),
            ("as many as the revision", revised, Some(7), None, false),
            ("more than the revision", revised, Some(8), Some((7, 1)), false),
            ("the sum of the hours", in_hours, Some(24), None, false),
            ("more than the hours", in_hours, Some(25), Some((24, 24)), false),
            ("an hour is missing", without_an_hour, Some(30), None, false),
            (
                "proved empty",
                |j| store(j, DAY, facts(0, Some(0), None)),
                Some(3),
                Some((0, 1)),
                false,
            ),
            (
                "the object is gone",
                |j| {
                    store(j, DAY, facts(5, Some(5), Some(50)));
                    j.objects.clear();
                },
                Some(6),
                None,
                false,
            ),
            ("no count before, enough now", unknown, Some(5), None, true),
            (
                "no count before, too few now",
                unknown,
                Some(6),
                Some((5, 1)),
                false,
            ),
            ("reported and not given", short, Some(7), Some((5, 1)), false),
            ("reported, and taken back", short, Some(5), None, true),
        ];
        for (name, arrange, count, grown, confirmed) in table {
            let mut journal = Journal::default();
            arrange(&mut journal);
            let found = compare_with_listing(&journal, SOURCE, &listed(count), |_| true);
            let growth = found.grown.get(&DAY.date());
            let growth = growth.map(|growth| (growth.stored, growth.windows.len()));
            assert_eq!(growth, grown, "{name}");
            assert_eq!(!found.confirmed.is_empty(), confirmed, "{name}");
            let excluded = compare_with_listing(&journal, SOURCE, &listed(count), |_| false);
            assert_eq!(excluded, ListingComparison::default(), "{name}");
        }
        let mut journal = Journal::default();
        day(&mut journal);
        let nothing = compare_with_listing(&journal, SOURCE, &DayListing::default(), |_| true);
        assert_eq!(nothing, ListingComparison::default(), "no longer listed");
    }

    #[test]
    fn the_highest_revision_counts_and_each_of_its_files_must_be_there() {
        let expectation = Expectation::of_source(SOURCE);
        let mut journal = Journal::default();
        store(&mut journal, DAY, facts(5, Some(7), Some(50)));
        let state = |journal: &Journal| assess(&expectation, journal).state(DAY);
        assert_eq!(
            state(&journal),
            damaged(Damage::Short {
                events: 5,
                reported: 7
            })
        );
        revise(&mut journal, DAY, 7, Some(7));
        assert_eq!(state(&journal), WindowState::Covered);
        let key = |key: &str| format!("{key}.json.gz");
        for (key, body, supplement) in [
            (key("_revisions/2018-06-15/1/events"), None, Some(20)),
            (key("date=2018-06-15/events-r1"), Some(70), None),
        ] {
            let mut damage = journal.clone();
            let files = damage.revisions.get_mut(&(DAY, 1)).unwrap();
            (files.body, files.supplement) = (body, supplement);
            assert_eq!(state(&damage), damaged(Damage::RevisionMissing { key }));
        }
        let mut longer = journal.clone();
        longer.revisions.get_mut(&(DAY, 1)).unwrap().supplement = Some(21);
        assert!(matches!(
            state(&longer),
            WindowState::Damaged(Damage::RevisionSizeMismatch {
                stated: 20,
                found: 21,
                ..
            })
        ));
        // A record of late events counts if it is newer, and a changed body takes no proof away.
        record_late(&mut journal, 9, 0, false);
        assert_eq!(state(&journal), WindowState::Covered);
        record_late(&mut journal, 9, 2, false);
        assert_eq!(
            state(&journal),
            damaged(Damage::Short {
                events: 7,
                reported: 9
            })
        );
        record_late(&mut journal, 9, 2, true);
        assert_eq!(state(&journal), WindowState::Covered);
        assert_eq!(changed_windows(&journal, Some(SOURCE)).count(), 1);
    }

    #[test]
    fn totals_count_each_hour_once_and_only_what_exists() {
        let mut journal = Journal::default();
        hours(&mut journal, 0..24, 24);
        let expectation = Expectation::of_source(SOURCE);
        let sum = |journal: &Journal| -> u64 {
            let coverage = assess(&expectation, journal);
            counted_receipts(journal, &coverage, DAY.date())
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
