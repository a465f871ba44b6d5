//! Inspection of an archive: its coverage and remarks on its counts, from keys, receipts and manifests without objects.
//! No I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;

use super::calendar::Calendar;
use super::counts::{DayListing, DayLookup, SplitDay, Verdict, compare_counts, is_grown, split_days};
use super::coverage::{self, Coverage, Expectation, WindowState};
use super::listing::Journal;
use super::manifest::Head;
use super::manifest::chain::SealedPeriods;
use super::range::{self, RangeBasis};
use super::window::{HourSet, Window};

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
    /// Windows, expected or with data, that are not covered, with their states.
    pub uncovered: Vec<(Window, WindowState)>,
    /// Days that are stored by the hour.
    pub split: Vec<Date>,
    /// Receipts that cover a window, each hour once.
    pub windows: u64,
    /// Those of empty windows.
    pub empty: u64,
    /// Those of windows for which the service gave no count.
    pub uncounted: u64,
    /// Their events.
    pub events: u64,
    /// Those that came after the first receipt of their window.
    pub late_events: u64,
    /// Windows with later revisions.
    pub revised: u64,
    /// Size of their objects in bytes.
    pub bytes: u64,
    /// Windows that were stored late.
    pub late: Vec<LateWindow>,
    /// Windows with a count that differs from a report of the service.
    pub mismatches: Vec<CountMismatch>,
    /// Open sessions of the journal: the window and the id.
    pub sessions: Vec<(Window, String)>,
    /// Expected days.
    pub calendar: Calendar,
    /// Existing manifests.
    pub manifests: u64,
    /// The newest manifest, if it was read.
    pub head: Option<Head>,
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

/// Inspects one root: against an expectation or, without one, against its manifests. A window is late if it was stored
/// more than `late_after` days after its end.
pub fn inspect(
    journal: &Journal,
    sealed: &SealedPeriods,
    expectation: Option<&Expectation>,
    late_after: u32,
) -> Inspection {
    let stored: HourSet = journal.read_receipts().map(|(window, _)| window).collect();
    let range = range::expected_range(expectation, sealed, &stored);
    let source = expectation.and_then(|expectation| expectation.source.as_deref());
    let coverage = coverage::assess(&range.expectation(source), journal);
    let mut out = Inspection {
        basis: range.basis,
        wanted: range.wanted.ranges(RUNS_MAX),
        covered: coverage.covered.ranges(RUNS_MAX),
        missing: coverage.missing.ranges(RUNS_MAX),
        accepted: coverage.accepted.ranges(RUNS_MAX),
        expired: coverage.expired.ranges(RUNS_MAX),
        uncovered: coverage.uncovered(&range.wanted),
        split: Vec::new(),
        windows: 0,
        empty: 0,
        uncounted: 0,
        events: 0,
        late_events: 0,
        revised: 0,
        bytes: 0,
        late: Vec::new(),
        mismatches: Vec::new(),
        sessions: journal
            .sessions()
            .map(|(id, session)| (id.window, session.clone()))
            .collect(),
        calendar: Calendar::new(journal, &coverage, &range.wanted),
        manifests: journal.chain.manifests.len() as u64,
        head: journal.chain.head(),
        grown: None,
    };
    out.add_totals(journal, &coverage);
    out.add_remarks(journal, late_after);
    out
}

impl Inspection {
    fn add_totals(&mut self, journal: &Journal, coverage: &Coverage) {
        for (_, facts) in coverage::all_counted_receipts(journal, coverage) {
            let summary = facts.current();
            self.windows += 1;
            self.events = self.events.saturating_add(summary.events);
            self.bytes = self.bytes.saturating_add(facts.stored_bytes());
            self.late_events = self.late_events.saturating_add(facts.late_events());
            self.revised += u64::from(facts.current_revision().is_some());
            self.empty += u64::from(summary.sha256.is_none());
            self.uncounted += u64::from(summary.verdict.recorded() == Verdict::Unknown);
        }
    }

    fn add_remarks(&mut self, journal: &Journal, late_after: u32) {
        for (window, facts) in journal.read_receipts() {
            let days = facts.stored_at.duration_since(window.end()).as_hours() / 24;
            if days > i64::from(late_after) {
                self.late.push(LateWindow {
                    window,
                    stored_at: facts.stored_at,
                    days,
                });
            }
            let proof = facts.current_proof();
            let (before, after) = (proof.reported_before, proof.reported_after);
            let events = facts.current().events;
            let kind = match compare_counts(events, before, after) {
                Verdict::Short => Some(MismatchKind::Short),
                Verdict::Over => Some(MismatchKind::Over),
                _ => before
                    .zip(after)
                    .and_then(|(before, after)| (before != after).then_some(MismatchKind::Moved)),
            };
            if let Some(kind) = kind {
                self.mismatches.push(CountMismatch {
                    window,
                    events,
                    before,
                    after,
                    kind,
                });
            }
        }
        let stored = journal.read_receipts();
        let stored =
            stored.map(|(window, facts)| (window, facts.current().events, facts.current_day_reported()));
        self.check_split_days(split_days(stored));
    }

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
    pub fn compare_listing(&mut self, journal: &Journal, listing: &DayListing) {
        let mut stored: BTreeMap<Date, u64> = BTreeMap::new();
        for (window, facts) in journal.read_receipts() {
            let events = facts.current().events;
            if window.hour_of_day().is_none() {
                stored.insert(window.date(), events);
            } else if !journal.receipts.contains_key(&Window::day(window.date())) {
                let sum = stored.entry(window.date()).or_default();
                *sum = sum.saturating_add(events);
            }
        }
        // Some hours of a day say nothing about its sum.
        stored.retain(|date, _| {
            let by_day = journal.receipts.contains_key(&Window::day(*date));
            by_day || self.split.contains(date)
        });
        let grown = stored
            .into_iter()
            .filter_map(|(date, stored)| match listing.lookup(date) {
                DayLookup::Listed(Some(reported)) if is_grown(stored, reported) => Some(GrownDay {
                    date,
                    stored,
                    reported,
                }),
                _ => None,
            });
        self.grown = Some(grown.collect());
    }

    /// Returns true if nothing is covered, an expected window is missing, data does not count, or a day has grown.
    pub fn is_incomplete(&self) -> bool {
        let grown = self.grown.as_ref().is_some_and(|grown| !grown.is_empty());
        let bad = |state: &WindowState| !matches!(state, WindowState::Accepted);
        let nothing = self.windows == 0 && self.accepted.is_empty();
        nothing || grown || self.uncovered.iter().any(|(_, state)| bad(state))
    }
}
