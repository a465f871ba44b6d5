//! What is stated of a period: from receipts and accepted gaps to all that a manifest says, but for its place
//! in the chain. Pure: the same journal gives the same statement, to the byte.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use sha2::{Digest as _, Sha256};

use super::document::{
    DayEntry, DayStatement, FileDigest, GapEntry, Manifest, ManifestHead, ObjectEntry, RootDigest, Totals,
    WindowEntry, root_of,
};
use super::periods::days;
use crate::export::decide::short_days;
use crate::export::journal::{Journal, ReceiptFacts};
use crate::export::keys::Key;
use crate::export::proof::hex;
use crate::export::record::{RangeRecord, Record as _, SOFTWARE};
use crate::export::verdict::{Verdict, of_count};
use crate::export::window::{Cells, Window};
use crate::export::wish::Export;

/// All that a manifest says of a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    space: String,
    scope: String,
    source: String,
    /// What it is about.
    pub period: RangeRecord,
    windows: Vec<WindowEntry>,
    days: Vec<DayEntry>,
    gaps: Vec<GapEntry>,
    totals: Totals,
    root: RootDigest,
}

/// What tells one statement from another: source, period, receipts and gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity([u8; 32]);

/// What the journal lets an export state of a period; `None` while a day is neither covered nor in an accepted gap.
pub fn state(export: &Export, journal: &Journal, period: RangeRecord) -> Option<Statement> {
    let short = short_days(journal, &export.source);
    let (mut windows, mut days_said) = (Vec::new(), Vec::new());
    for date in days(period) {
        let receipts = chosen(export, journal, date);
        days_said.push(day(export, date, &receipts, short.contains_key(&date))?);
        windows.extend(receipts.iter().map(|(window, facts)| entry(*window, facts)));
    }
    let touching = export
        .accepted
        .iter()
        .filter(|gap| gap.start <= period.end && gap.end >= period.start);
    let gaps: BTreeSet<GapEntry> = touching.cloned().collect();
    Some(Statement {
        space: export.space.clone(),
        scope: export.scope.as_str().to_owned(),
        source: export.source.clone(),
        period,
        totals: Totals::of(&windows, &days_said),
        root: root_of(windows.iter().map(|window| &window.receipt)),
        windows,
        days: days_said,
        gaps: gaps.into_iter().collect(),
    })
}

/// The receipts that cover what is wanted of a day, each wanted cell once: of a whole day its own receipt, or
/// else those of its hours; of one hour that of the hour, or else that of the day.
fn chosen<'a>(export: &Export, journal: &'a Journal, date: Date) -> BTreeMap<Window, &'a ReceiptFacts> {
    let day = Window::day(date);
    let good = |window: Window| Some((window, journal.good_receipt(window, &export.source)?));
    let of_day = || good(day).into_iter().collect();
    match export.hour {
        None => {
            let whole: BTreeMap<_, _> = of_day();
            if whole.is_empty() {
                Window::split(date).filter_map(good).collect()
            } else {
                whole
            }
        }
        Some(hour) => match Window::hour(date, hour).and_then(good) {
            Some(own) => BTreeMap::from([own]),
            None => of_day(),
        },
    }
}

fn day(
    export: &Export,
    date: Date,
    receipts: &BTreeMap<Window, &ReceiptFacts>,
    short: bool,
) -> Option<DayEntry> {
    let wanted = export.window_of(date)?;
    let covered: Cells = receipts.keys().copied().collect();
    let hours = covered.hours_of(date) & wanted.hours();
    let events = receipts
        .values()
        .fold(0u64, |sum, facts| sum.saturating_add(facts.facts.events));
    // Of a day in hours, only the report of the day can be compared.
    let split = receipts.keys().any(|window| window.hour_of_day().is_some()) && export.hour.is_none();
    let reported = if split {
        receipts.values().filter_map(|facts| facts.day_reported).max()
    } else {
        receipts.values().find_map(|facts| facts.facts.reported)
    };
    let statement = if hours == wanted.hours() && !short {
        let mut verdicts = receipts.values().map(|facts| facts.facts.verdict);
        if split && !verdicts.clone().all(|verdict| verdict == Verdict::Empty) {
            of_verdict(of_count(events, reported, reported))
        } else {
            of_verdict(verdicts.next()?)
        }
    } else if export.accepts(date) {
        DayStatement::AcceptedGap
    } else {
        return None;
    };
    let count = |hours: u32| u8::try_from(hours.count_ones()).unwrap_or(u8::MAX);
    Some(DayEntry {
        date,
        hours: count(hours),
        wanted: count(wanted.hours()),
        events,
        reported,
        statement,
    })
}

const fn of_verdict(verdict: Verdict) -> DayStatement {
    match verdict {
        Verdict::Matched => DayStatement::Matched,
        Verdict::Over => DayStatement::Over,
        Verdict::Short => DayStatement::Short,
        Verdict::Unknown => DayStatement::Unknown,
        Verdict::Empty => DayStatement::Empty,
    }
}

fn entry(window: Window, receipt: &ReceiptFacts) -> WindowEntry {
    let (facts, proof) = (&receipt.facts, &receipt.proof);
    let key = |key: Key| key.below().unwrap_or_default();
    WindowEntry {
        window: window.to_string(),
        receipt: FileDigest {
            key: key(Key::Receipt(window)),
            sha256: hex(&proof.sha256),
        },
        object: facts.sha256.as_ref().map(|sha256| ObjectEntry {
            key: key(Key::Events(window)),
            bytes: facts.bytes,
            sha256: sha256.to_string(),
            version_id: proof.version_id.clone(),
        }),
        events: facts.events,
        decompressed_bytes: proof.decompressed_bytes,
        reported_before: proof.reported_before,
        reported_after: proof.reported_after,
        verdict: facts.verdict,
    }
}

impl Statement {
    /// What tells it from others.
    pub fn identity(&self) -> Identity {
        identity(
            &[&self.space, &self.scope, &self.source],
            self.period,
            &self.root,
            &self.gaps,
        )
    }

    /// The document, at a place in the chain.
    pub fn manifest(&self, sequence: u64, previous: Option<FileDigest>, written_at: Timestamp) -> Manifest {
        let Self {
            space,
            scope,
            source,
            period,
            windows,
            days,
            gaps,
            totals,
            root,
        } = self.clone();
        Manifest {
            schema: Manifest::SCHEMA.to_owned(),
            sequence,
            space,
            scope,
            source,
            period,
            windows,
            days,
            accepted_gaps: gaps,
            totals,
            root,
            previous,
            written_at,
            software: SOFTWARE.to_owned(),
        }
    }
}

impl ManifestHead {
    /// What tells its statement from others.
    pub fn identity(&self) -> Identity {
        let mut gaps = self.accepted_gaps.clone();
        gaps.sort();
        gaps.dedup();
        identity(
            &[&self.space, &self.scope, &self.source],
            self.period,
            &self.root,
            &gaps,
        )
    }
}

fn identity(whose: &[&str; 3], period: RangeRecord, root: &RootDigest, gaps: &[GapEntry]) -> Identity {
    // Plain data: serialising it to memory has no way to fail.
    let text = serde_json::to_vec(&(whose, period, root, gaps)).unwrap_or_default();
    Identity(Sha256::digest(text).into())
}
