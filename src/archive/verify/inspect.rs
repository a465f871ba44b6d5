//! Coverage of an archive and problems of its counts, from keys, receipts and manifests without objects. No I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;

use super::archive::RootDocuments;
use super::chain;
use super::contents::RootContents;
use super::coverage::{self, RangeBasis};
use crate::archive::counts::{DayListing, DayLookup, SplitDay, Verdict, split_days};
use crate::archive::window::{HourSet, Window};
use crate::export::spec::ExportSpec;

/// Maximum number of merged ranges in a list: 1,000. One more entry states the number of omitted ranges.
const RUNS_MAX: usize = 1000;

/// Result of the inspection of one root.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Origin of the expected range.
    pub basis: RangeBasis,
    /// Expected windows, merged.
    pub wanted: Vec<String>,
    /// Covered windows, merged.
    pub covered: Vec<String>,
    /// Expected windows that are not covered, merged.
    pub missing: Vec<String>,
    /// Accepted gaps, merged.
    pub accepted: Vec<String>,
    /// Windows that had expired in the service and are not covered, merged.
    pub expired: Vec<String>,
    /// Days that are stored by the hour.
    pub split: Vec<Date>,
    /// Readable receipts with their object, if they name one.
    pub windows: u64,
    /// Those of empty windows.
    pub empty: u64,
    /// Those of windows for which the service gave no count.
    pub uncounted: u64,
    /// Their events.
    pub events: u64,
    /// Size of their objects in bytes.
    pub bytes: u64,
    /// Windows with an unreadable receipt.
    pub unreadable: Vec<Window>,
    /// Windows that were stored late.
    pub late: Vec<LateWindow>,
    /// Windows with a count that differs from a report of the service.
    pub mismatches: Vec<CountMismatch>,
    /// Open sessions of the journal: the window and the id.
    pub sessions: Vec<(Window, String)>,
    /// Existing manifests.
    pub manifests: u64,
    /// Days that have grown in the service since they were stored; `None` if the service was not asked.
    pub grown: Option<Vec<GrownDay>>,
}

/// A window that was stored late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateWindow {
    /// The window.
    pub window: Window,
    /// Time of storing.
    pub stored_at: Timestamp,
    /// Delay after its end, in full days.
    pub days: i64,
}

/// Disagreeing counts of a window, or of a day in hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountMismatch {
    /// The window.
    pub window: Window,
    /// Stored events.
    pub events: u64,
    /// Events that the service reported before the download.
    pub before: Option<u64>,
    /// Events that it reported after the download (for a day in hours: for the day).
    pub after: Option<u64>,
    /// Kind of the disagreement.
    pub kind: MismatchKind,
}

/// Kind of a disagreement of counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MismatchKind {
    /// More events are stored than the service reported.
    Over,
    /// Fewer events are stored than the service reported.
    Short,
    /// The service's count changed during the download.
    Moved,
}

/// A day for which the service now reports more events than are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrownDay {
    /// The day.
    pub date: Date,
    /// Stored events.
    pub stored: u64,
    /// Events that the service reports now.
    pub reported: u64,
}

impl MismatchKind {
    /// Returns the name in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Over => "Over",
            Self::Short => "Short",
            Self::Moved => "Moved",
        }
    }

    /// Returns the description in text output.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Over => "more stored than reported: the service's listing was late, or the day grew",
            Self::Short => "fewer stored than reported",
            Self::Moved => "the service's count changed during the download",
        }
    }
}

/// Inspects one root. A window is late if it was stored more than `late_after` days after its end.
pub fn inspect(
    contents: &RootContents,
    documents: &RootDocuments,
    export: Option<&ExportSpec>,
    now: Timestamp,
    late_after: u32,
) -> Inspection {
    let chain = chain::validate(contents, &documents.manifests, &documents.receipts, false);
    let (mut covered, mut stored) = (HourSet::default(), Vec::new());
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
        let complete = match &receipt.object {
            None => true,
            Some(object) => contents
                .objects
                .get(window)
                .is_some_and(|listed| listed.size == object.bytes),
        };
        if complete {
            out.windows += 1;
            out.events = out.events.saturating_add(receipt.events);
            out.bytes = out
                .bytes
                .saturating_add(receipt.object.as_ref().map_or(0, |object| object.bytes));
            out.empty += u64::from(receipt.object.is_none());
            out.uncounted += u64::from(receipt.verdict == Verdict::Unknown);
            // The rule of the engine: the source of the export, an existing object, and enough events in it.
            if receipt.is_sufficient() && export.is_none_or(|export| export.source == receipt.source) {
                covered.insert(*window);
            }
            stored.push((*window, receipt.events, receipt.reported_of_day));
        }
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
    // A window whose object is gone still belongs to the range.
    let named: HourSet = documents.receipts.keys().copied().collect();
    let range = coverage::expected_range(export, now, &chain, &named);
    let missing = range.missing(&covered);
    let expired: HourSet = contents.expired.iter().copied().collect();
    out.basis = range.basis;
    out.wanted = range.wanted.ranges(RUNS_MAX);
    out.missing = missing.ranges(RUNS_MAX);
    out.accepted = range.accepted.ranges(RUNS_MAX);
    out.expired = expired.difference(&covered).ranges(RUNS_MAX);
    out.covered = covered.ranges(RUNS_MAX);
    out.check_split_days(split_days(stored));
    out
}

impl Inspection {
    /// Compares the sums of days that are stored by the hour with the service's counts for the days.
    fn check_split_days(&mut self, days: BTreeMap<Date, SplitDay>) {
        for (date, sum) in days {
            self.split.push(date);
            let kind = match sum.verdict() {
                Verdict::Short => MismatchKind::Short,
                Verdict::Over => MismatchKind::Over,
                Verdict::Matched | Verdict::Unknown | Verdict::Uncounted | Verdict::Empty => continue,
            };
            self.mismatches.push(CountMismatch {
                window: Window::day(date),
                events: sum.events,
                before: None,
                after: sum.reported,
                kind,
            });
        }
        self.mismatches.sort_by_key(|one| one.window);
    }

    /// Finds days for which the service now lists more events than are stored.
    pub fn compare_listing(&mut self, documents: &RootDocuments, listing: &DayListing) {
        let mut stored: BTreeMap<Date, u64> = BTreeMap::new();
        let is_day = |window: &Window| window.hour_of_day().is_none();
        for (window, document) in documents.receipts.iter().filter(|(window, _)| is_day(window)) {
            if let Ok(receipt) = &document.parsed {
                stored.insert(window.date(), receipt.events);
            }
        }
        for date in &self.split {
            let hours = documents
                .receipts
                .iter()
                .filter(|(window, _)| window.date() == *date && !is_day(window));
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

    /// Returns true if an expected window is missing, unreadable or has grown.
    pub fn is_incomplete(&self) -> bool {
        let grown = self.grown.as_ref().is_some_and(|grown| !grown.is_empty());
        !self.missing.is_empty() || !self.unreadable.is_empty() || grown
    }
}
