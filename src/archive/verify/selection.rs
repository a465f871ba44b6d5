//! Selects the objects of a root that together hold each of its events once. No I/O.
//!
//! These are the objects that queries read, the first one of each window and its supplements, and not the full bodies of later
//! revisions. Of a day that is stored as a day and by the hour, the day's objects are selected.

use super::receipts::ExpectedObject;
use super::recheck::RootReading;
use crate::archive::coverage::{self, Damage};
use crate::archive::finding::Finding;
use crate::archive::layout::Key;
use crate::archive::window::{HourSet, Window};
use crate::storage::ObjectSummary;

/// Objects with the events of a root.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Objects to read, oldest window first.
    pub objects: Vec<SelectedObject>,
    /// Windows of the range with events or proved empty.
    pub windows: u64,
    /// Accepted gaps in the range.
    pub accepted: HourSet,
    /// Windows of the range whose data does not cover them. Some have selected objects, with fewer events than there should be.
    pub damaged: Vec<(Window, Damage)>,
    /// Errors of receipts whose windows are not covered otherwise.
    pub findings: Vec<Finding>,
    /// Other hours of the range that are neither covered nor accepted gaps.
    pub missing: HourSet,
}

/// An object to read.
#[derive(Clone, Debug)]
pub struct SelectedObject {
    /// Content that the receipt states.
    pub expected: ExpectedObject,
    /// Row of the listing.
    pub listed: ObjectSummary,
}

/// Selects the objects of the expected range of a root. `source`: the only source that counts.
pub fn select(reading: &RootReading, source: Option<&str>) -> Selection {
    let RootReading {
        contents,
        expectations,
        range,
        ..
    } = reading;
    let in_range = |window: Window| range.wanted.intersects(window);
    // The receipt of an error does not count.
    let mut journal = contents.journal.clone();
    for window in expectations.findings.iter().filter_map(|finding| finding.window) {
        if let Some(facts) = journal.receipts.get_mut(&window) {
            *facts = None;
        }
    }
    let coverage = coverage::assess(&range.expectation(source), &journal);
    let receipts = coverage::readable_receipts(&journal, &coverage, source);
    let mut objects: Vec<(u32, SelectedObject)> = expectations
        .objects
        .iter()
        .filter(|expected| receipts.contains_key(&expected.window) && in_range(expected.window))
        .filter_map(|expected| {
            let number = match contents.root.parse(&expected.key) {
                Key::Events(_) => 0,
                Key::Supplement(_, number) => number,
                _ => return None,
            };
            let object = SelectedObject {
                expected: expected.clone(),
                listed: contents.object(&expected.key)?.clone(),
            };
            Some((number, object))
        })
        .collect();
    objects.sort_by_key(|(number, object)| (object.expected.window, *number));
    let is_missing = |window: Window| coverage.missing.intersects(window);
    let findings: Vec<Finding> = expectations
        .findings
        .iter()
        .filter(|finding| finding.window.is_some_and(is_missing))
        .cloned()
        .collect();
    let has_finding = |window: Window| findings.iter().any(|finding| finding.window == Some(window));
    let damaged: Vec<(Window, Damage)> = coverage
        .damaged
        .iter()
        .filter(|(window, _)| is_missing(**window) && !has_finding(**window))
        .map(|(window, damage)| (*window, damage.clone()))
        .collect();
    let described: HourSet = damaged
        .iter()
        .map(|(window, _)| *window)
        .chain(findings.iter().filter_map(|finding| finding.window))
        .collect();
    Selection {
        objects: objects.into_iter().map(|(_, object)| object).collect(),
        windows: receipts.keys().filter(|window| in_range(**window)).count() as u64,
        missing: coverage.missing.difference(&described),
        accepted: coverage.accepted,
        damaged,
        findings,
    }
}
