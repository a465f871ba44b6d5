//! What an archive covers, and where its counts need a look: from keys, receipts and manifests, without the objects.
//! Judges purely.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;

use super::archive::RootDocuments;
use super::chain;
use super::contents::RootContents;
use super::coverage::{self, RangeBasis};
use crate::export::spec::ExportSpec;
use crate::export::verdict::{DayListing, DayLookup, Verdict};
use crate::export::window::{HourSet, Window};

/// Merged runs of a range: 1,000; then how many more there are.
const RUNS_MAX: usize = 1000;

/// What one root holds.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Where the range comes from.
    pub basis: RangeBasis,
    /// What should be covered, merged.
    pub wanted: Vec<String>,
    /// What is covered, merged.
    pub covered: Vec<String>,
    /// What should be and is not, merged.
    pub missing: Vec<String>,
    /// What a person accepted as missing, merged.
    pub accepted: Vec<String>,
    /// What the service no longer had when it was asked, and is not covered, merged.
    pub expired: Vec<String>,
    /// Days that are stored by the hour.
    pub split: Vec<Date>,
    /// Receipts that can be read.
    pub windows: u64,
    /// Of these, windows that were proved empty.
    pub empty: u64,
    /// Of these, windows of which the service gave no count.
    pub uncounted: u64,
    /// Events that they name.
    pub events: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Receipts that cannot be read.
    pub unreadable: Vec<Window>,
    /// Windows that were stored late.
    pub late: Vec<LateWindow>,
    /// Windows whose count is not what the service said all along.
    pub mismatches: Vec<CountMismatch>,
    /// Sessions that the journal names as open: the window, and the id.
    pub sessions: Vec<(Window, String)>,
    /// Manifests that are there.
    pub manifests: u64,
    /// What the service says now of days that are stored; `None`: it was not asked.
    pub grown: Option<Vec<GrownDay>>,
}

/// A window that was stored late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateWindow {
    /// Which.
    pub window: Window,
    /// When.
    pub stored_at: Timestamp,
    /// Whole days after its end.
    pub days: i64,
}

/// A window, or a day in hours, whose counts disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountMismatch {
    /// Which.
    pub window: Window,
    /// Events that are stored.
    pub events: u64,
    /// Events that the service reported before the download.
    pub before: Option<u64>,
    /// Events that it reported after it (of a day in hours: of the day).
    pub after: Option<u64>,
    /// Why it is told.
    pub kind: MismatchKind,
}

/// How counts disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MismatchKind {
    /// More events are stored than the service reported.
    Over,
    /// Fewer are stored than it reported.
    Short,
    /// The service's count changed during the download.
    Moved,
}

/// A day of which the service reports more now than is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrownDay {
    /// The day.
    pub date: Date,
    /// Events that are stored.
    pub stored: u64,
    /// Events that the service reports now.
    pub reported: u64,
}

impl MismatchKind {
    /// As programs read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Over => "Over",
            Self::Short => "Short",
            Self::Moved => "Moved",
        }
    }

    /// For people.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Over => "more stored than reported: the service's listing lagged, or the day grew",
            Self::Short => "fewer stored than reported",
            Self::Moved => "the service's count changed during the download",
        }
    }
}

/// Looks at one root; late is what was stored more than `late_after` days after its end.
pub fn inspect(
    contents: &RootContents,
    documents: &RootDocuments,
    export: Option<&ExportSpec>,
    now: Timestamp,
    late_after: u32,
) -> Inspection {
    let chain = chain::validate(contents, &documents.manifests, &documents.receipts, false);
    let mut covered = HourSet::default();
    let mut out = Inspection {
        basis: RangeBasis::FirstToLast,
        wanted: Vec::new(),
        covered: Vec::new(),
        missing: Vec::new(),
        accepted: Vec::new(),
        expired: Vec::new(),
        split: Vec::new(),
        windows: 0,
        empty: 0,
        uncounted: 0,
        events: 0,
        bytes: 0,
        unreadable: Vec::new(),
        late: Vec::new(),
        mismatches: Vec::new(),
        sessions: contents
            .sessions
            .iter()
            .map(|(id, session, _)| (id.window, session.clone()))
            .collect(),
        manifests: contents.manifests.len() as u64,
        grown: None,
    };
    for (window, document) in &documents.receipts {
        let Ok(receipt) = &document.parsed else {
            out.unreadable.push(*window);
            continue;
        };
        let there = match &receipt.object {
            None => true,
            Some(object) => contents
                .objects
                .get(window)
                .is_some_and(|listed| listed.size == object.bytes),
        };
        // As the engine counts: of the export's source, and with its object.
        if there && export.is_none_or(|export| export.source == receipt.source) {
            covered.insert(*window);
        }
        out.windows += 1;
        out.events = out.events.saturating_add(receipt.events);
        out.bytes = out
            .bytes
            .saturating_add(receipt.object.as_ref().map_or(0, |object| object.bytes));
        out.empty += u64::from(receipt.object.is_none());
        out.uncounted += u64::from(receipt.verdict == Verdict::Unknown);
        let days = receipt.stored_at.duration_since(window.end()).as_hours() / 24;
        if days > i64::from(late_after) {
            out.late.push(LateWindow {
                window: *window,
                stored_at: receipt.stored_at,
                days,
            });
        }
        let (before, after) = (receipt.reported_before, receipt.reported_after);
        let kind = match receipt.verdict {
            Verdict::Over => Some(MismatchKind::Over),
            Verdict::Short => Some(MismatchKind::Short),
            _ => before
                .zip(after)
                .and_then(|(before, after)| (before != after).then_some(MismatchKind::Moved)),
        };
        if let Some(kind) = kind {
            out.mismatches.push(CountMismatch {
                window: *window,
                events: receipt.events,
                before,
                after,
                kind,
            });
        }
    }
    let range = coverage::expected_range(export, now, &chain, &covered);
    let missing = range.missing(&covered);
    let expired: HourSet = contents.expired.iter().copied().collect();
    out.basis = range.basis;
    out.wanted = range.wanted.ranges(RUNS_MAX);
    out.missing = missing.ranges(RUNS_MAX);
    out.accepted = range.accepted.ranges(RUNS_MAX);
    out.expired = expired.difference(&covered).ranges(RUNS_MAX);
    out.covered = covered.ranges(RUNS_MAX);
    out.check_split_days(documents);
    out
}

impl Inspection {
    /// Days that are stored by the hour, and their sums against the service's report of the day.
    fn check_split_days(&mut self, documents: &RootDocuments) {
        let mut sums: BTreeMap<Date, (HourSet, u64, Option<u64>)> = BTreeMap::new();
        for (window, document) in &documents.receipts {
            if let (Some(_), Ok(receipt)) = (window.hour_of_day(), &document.parsed) {
                let (cells, events, reported) = sums.entry(window.date()).or_default();
                cells.insert(*window);
                *events = events.saturating_add(receipt.events);
                *reported = (*reported).max(receipt.reported_of_day);
            }
        }
        for (date, (cells, events, reported)) in sums {
            if !cells.contains(Window::day(date)) {
                continue;
            }
            self.split.push(date);
            if let Some(reported) = reported.filter(|reported| *reported != events) {
                self.mismatches.push(CountMismatch {
                    window: Window::day(date),
                    events,
                    before: None,
                    after: Some(reported),
                    kind: if events < reported {
                        MismatchKind::Short
                    } else {
                        MismatchKind::Over
                    },
                });
            }
        }
        self.mismatches.sort_by_key(|one| one.window);
    }

    /// Takes in what the service says now: days that it lists with more events than are stored.
    pub fn compare_listing(&mut self, documents: &RootDocuments, listing: &DayListing) {
        let mut stored: BTreeMap<Date, u64> = BTreeMap::new();
        let whole = |window: &Window| window.hour_of_day().is_none();
        for (window, document) in documents.receipts.iter().filter(|(window, _)| whole(window)) {
            if let Ok(receipt) = &document.parsed {
                stored.insert(window.date(), receipt.events);
            }
        }
        for date in &self.split {
            let hours = documents
                .receipts
                .iter()
                .filter(|(window, _)| window.date() == *date && !whole(window));
            let events = hours.filter_map(|(_, document)| Some(document.parsed.as_ref().ok()?.events));
            stored
                .entry(*date)
                .or_insert_with(|| events.fold(0, u64::saturating_add));
        }
        let grown = stored
            .into_iter()
            .filter_map(|(date, stored)| match listing.lookup(date) {
                DayLookup::Listed(Some(reported)) if reported > stored => Some(GrownDay {
                    date,
                    stored,
                    reported,
                }),
                _ => None,
            });
        self.grown = Some(grown.collect());
    }

    /// Whether something that should be there is not.
    pub fn is_incomplete(&self) -> bool {
        let grown = self.grown.as_ref().is_some_and(|grown| !grown.is_empty());
        !self.missing.is_empty() || !self.unreadable.is_empty() || grown
    }
}
