//! Late events: stored days of which the service now reports another count. No I/O.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::damage::{Damage, is_intact, newer_late, receipt_damage};
use crate::archive::counts::{DayListing, Verdict, is_grown};
use crate::archive::listing::{Journal, LateFacts};
use crate::archive::receipt::ReceiptFacts;
use crate::archive::window::Window;

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
            (counted && is_intact(journal, window, facts)).then_some(facts)
        }
        Some(_) => None,
    }
}
