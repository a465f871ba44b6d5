//! Report on an archive for a person who keeps or audits it: a state for each day, the gaps with their reasons, the chain
//! of manifests, and what was checked. Built from a verification, so that it states what that checked. No I/O.
//!
//! [`Report`] is the model; `text`, `html` and `json` render it. The same archive gives the same bytes: a report has no
//! time but those of the archive.

pub mod html;
pub mod json;
mod month;
#[cfg(test)]
mod tests;
pub mod text;

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;

use super::calendar::{CalendarDay, DayMark};
use super::finding::{Finding, FindingKind};
use super::manifest::Head;
use super::manifest::document::GapEntry;
use super::verify::report::{RootReport, VerifyReport};
use crate::api::{escape, human, sanitize};

/// Maximum number of rows in a table of an HTML or text report. JSON output has all.
const ROWS_MAX: usize = 500;

/// Maximum number of ranges on a line.
const RANGES_MAX: usize = 8;

/// Maximum length of a text of the archive in an HTML or text report, in characters. JSON output has all.
const TEXT_MAX_CHARS: usize = 4096;

/// What the reader of an archive gave for its verification.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Location of the archive: `s3://audit/tracker`, `export`.
    pub location: String,
    /// Name of the export, if a resource declares it.
    pub export: Option<String>,
    /// Accepted gaps of that export.
    pub gaps: Option<Vec<GapEntry>>,
    /// Ids of the public keys.
    pub key_ids: Vec<String>,
    /// Manifests that were noted earlier.
    pub heads: Vec<Head>,
}

/// Report on one archive.
#[derive(Clone, Debug)]
pub struct Report {
    /// What its reader gave.
    pub given: Given,
    /// True if nothing is missing and no check failed.
    pub passed: bool,
    /// True if the only problems are objects that could not be checked.
    pub unchecked: bool,
    /// Problems.
    pub problems: Vec<Finding>,
    /// Remarks.
    pub remarks: Vec<Finding>,
    /// One section for each space and scope.
    pub sections: Vec<Section>,
}

/// Part of a report about one space and scope.
#[derive(Clone, Debug)]
pub struct Section {
    /// The verification.
    pub verified: RootReport,
    /// Sums over its calendar.
    pub totals: DayTotals,
    /// Days that are not covered, merged.
    pub gaps: Vec<Gap>,
}

/// Sums over the days of a calendar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayTotals {
    /// Number of days by mark.
    pub marks: BTreeMap<DayMark, u64>,
    /// Events of the receipts that cover the days.
    pub events: u64,
    /// Those that came after the first receipts.
    pub late_events: u64,
    /// Size of the objects in bytes.
    pub bytes: u64,
}

/// Consecutive days that are not covered, for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First day.
    pub start: Date,
    /// Last day, inclusive.
    pub end: Date,
    /// State, as JSON output names it.
    pub state: String,
    /// Mark of each of the days.
    pub mark: DayMark,
    /// Reason of the acceptance, or explanation of damage.
    pub reason: Option<String>,
}

impl Report {
    /// Builds the report from a verification.
    pub fn new(given: Given, verified: VerifyReport) -> Self {
        let (problems, remarks): (Vec<&Finding>, Vec<&Finding>) = verified
            .all()
            .into_iter()
            .partition(|finding| finding.kind.is_error());
        let owned = |findings: Vec<&Finding>| findings.into_iter().cloned().collect::<Vec<_>>();
        Self {
            passed: problems.is_empty(),
            unchecked: verified.is_unchecked(),
            problems: owned(problems),
            remarks: owned(remarks),
            sections: verified
                .roots
                .into_iter()
                .map(|root| Section::new(root, given.gaps.as_deref()))
                .collect(),
            given,
        }
    }

    /// Returns one line on the result. A report does not prove: no object was read.
    pub fn result(&self) -> String {
        match (self.passed, self.unchecked) {
            (true, _) => "no problem found".to_owned(),
            (false, true) => format!(
                "NOT CHECKED: {} could not be read",
                human::plural(self.problems.len() as u64, "object")
            ),
            (false, false) => format!(
                "NOT COMPLETE: {}",
                human::plural(self.problems.len() as u64, "problem")
            ),
        }
    }

    /// Returns what was checked in a section and what was not, as labels and sentences.
    pub fn evidence(&self, section: &Section) -> Vec<(&'static str, String)> {
        let root = &section.verified;
        let lost = self.problems.iter();
        let lost = lost
            .filter(|finding| finding.kind == FindingKind::HeadMissing)
            .count();
        let documents = "every receipt, manifest and checkpoint was read; those of the range were compared with each \
                         other and with the listing";
        let objects = format!(
            "checked: {}. No object was read: whether the data is readable, is complete gzip and holds the stated \
             events was not checked",
            root.describe_checks()
        );
        let mut rows = vec![
            ("documents", documents.to_owned()),
            ("objects", objects),
            ("manifests", root.manifests.describe()),
            ("attested", root.describe_attestation()),
        ];
        if !self.given.key_ids.is_empty() {
            rows.push(("given keys", self.given.key_ids.join(", ")));
        }
        rows.push((
            "noted heads",
            match (self.given.heads.len(), lost) {
                (0, _) => {
                    "none given: manifests that were removed from the end would not be noticed".to_owned()
                }
                (all, 0) => format!("{} found in the chain", human::plural(all as u64, "head")),
                (_, lost) => format!("{} NOT in the chain", human::plural(lost as u64, "head")),
            },
        ));
        rows
    }

    /// Returns the commands that check a section: with this software, and without it.
    pub fn commands(&self, section: &Section) -> [String; 2] {
        let key = if section.verified.manifests.signatures > 0 || !self.given.key_ids.is_empty() {
            " --public-key FILE"
        } else {
            ""
        };
        let head = section.verified.manifests.head.as_ref();
        let head = head.map(|head| format!(" --head {head}")).unwrap_or_default();
        [
            format!(
                "eventexport verify {}{key}{head}",
                shell_quoted(&self.given.location)
            ),
            format!("sh audit.sh{key}{head} {}", shell_quoted(&section.verified.root)),
        ]
    }
}

impl Section {
    fn new(verified: RootReport, accepted: Option<&[GapEntry]>) -> Self {
        let reason = |day: &CalendarDay| {
            let reason = match (day.mark(), accepted) {
                (DayMark::Accepted, Some(gaps)) => {
                    GapEntry::find(gaps, day.date()).map(|gap| gap.reason.clone())
                }
                (DayMark::Accepted, None) => verified.gap_reasons.get(&day.date()).cloned(),
                _ => day.message(),
            };
            reason.map(|reason| sanitize(&reason).into_owned())
        };
        let mut totals = DayTotals::default();
        let mut gaps: Vec<Gap> = Vec::new();
        for day in &verified.calendar.days {
            totals.add(day);
            if day.mark().is_covered() {
                continue;
            }
            let next = Gap {
                start: day.date(),
                end: day.date(),
                state: day.state_name(),
                mark: day.mark(),
                reason: reason(day),
            };
            match gaps.last_mut() {
                Some(last) if last.continues(&next) => last.end = next.end,
                _ => gaps.push(next),
            }
        }
        Self {
            verified,
            totals,
            gaps,
        }
    }

    /// Returns the title: space and scope, or the key if it names neither.
    pub fn title(&self) -> String {
        let RootReport {
            root, space, scope, ..
        } = &self.verified;
        match (space, scope) {
            (Some(space), Some(scope)) => format!("Space {}, scope {}", sanitize(space), sanitize(scope)),
            _ if root.is_empty() => "(the root itself)".to_owned(),
            _ => escape(root).into_owned(),
        }
    }

    /// Returns one line on the days: those that are covered, then the others by state.
    pub fn summary(&self) -> String {
        let days: u64 = self.totals.marks.values().sum();
        let marks = self.totals.marks.iter();
        let (covered, others): (Vec<_>, Vec<_>) = marks.partition(|(mark, _)| mark.is_covered());
        let number: u64 = covered.iter().map(|(_, number)| **number).sum();
        let list = |marks: Vec<(&DayMark, &u64)>| {
            let texts = marks
                .into_iter()
                .map(|(mark, number)| format!("{} {}", mark.label(), human::count(*number)));
            texts.collect::<Vec<_>>().join(", ")
        };
        let mut text = format!(
            "{} of {} covered",
            human::count(number),
            human::plural(days, "day")
        );
        if !covered.is_empty() {
            text = format!("{text} ({})", list(covered));
        }
        if !others.is_empty() {
            text = format!("{text}; {}", list(others));
        }
        text
    }

    /// Returns the covered days whose count differs from that of the service, or that have late events.
    pub fn differing_days(&self) -> Vec<&CalendarDay> {
        let days = self.verified.calendar.days.iter();
        days.filter(|day| {
            let differs = matches!(day.mark(), DayMark::Over | DayMark::Uncounted);
            differs || day.mark().is_covered() && day.late_events > 0
        })
        .collect()
    }
}

impl DayTotals {
    fn add(&mut self, day: &CalendarDay) {
        *self.marks.entry(day.mark()).or_default() += 1;
        self.events = self.events.saturating_add(day.events);
        self.late_events = self.late_events.saturating_add(day.late_events);
        self.bytes = self.bytes.saturating_add(day.bytes);
    }
}

impl Gap {
    /// Returns true if another gap follows this one for the same reason.
    fn continues(&self, next: &Self) -> bool {
        let adjacent = self.end.tomorrow().is_ok_and(|day| day == next.start);
        adjacent && (&self.state, self.mark, &self.reason) == (&next.state, next.mark, &next.reason)
    }

    /// Returns the days: `2018-06-01` or `2018-06-01/2018-06-03`.
    pub fn days(&self) -> String {
        if self.start == self.end {
            self.start.to_string()
        } else {
            format!("{}/{}", self.start, self.end)
        }
    }
}

/// Describes a day in one line: `2018-06-28 proved empty`, `2018-06-28 matched: 1,224 events, 1,224 reported`.
fn describe_day(day: &CalendarDay) -> String {
    let mut text = format!("{} {}", day.window, day.mark().label());
    let mut details = Vec::new();
    if day.hours > 0 && day.hours < day.wanted() {
        details.push(format!("{} of {} hours", day.hours, day.wanted()));
    }
    if day.events > 0 {
        details.push(human::plural(day.events, "event"));
    }
    if let Some(reported) = day.reported.filter(|_| day.mark() != DayMark::Empty) {
        details.push(format!("{} reported", human::count(reported)));
    }
    if day.late_events > 0 {
        details.push(format!("{} late", human::count(day.late_events)));
    }
    if !details.is_empty() {
        text = format!("{text}: {}", details.join(", "));
    }
    text
}

/// Returns a time without the fraction of its second.
fn to_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Returns a word for a POSIX shell.
fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=~%+,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with(['-', '~']) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
