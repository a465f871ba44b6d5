//! The content of a manifest, derived from receipts and accepted gaps; only its position in the chain is missing.
//! Deterministic: the same journal gives the same bytes. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use sha2::{Digest as _, Sha256};

use crate::archive::coverage::{day_shortfalls, valid_receipt};
use crate::archive::layout::Key;
use crate::archive::listing::Journal;
use crate::archive::manifest::document::{
    DayEntry, DayEvidence, FileDigest, GapEntry, Manifest, ManifestHeader, ObjectEntry, PeriodTotals,
    REVISED_SCHEMA, RevisionEntry, RootDigest, WindowEntry, root_digest,
};
use crate::archive::receipt::{ReceiptFacts, RevisionFacts, body_key};
use crate::archive::records::{ArchiveRecord as _, RangeRecord, SOFTWARE};
use crate::archive::window::Window;
use crate::export::spec::ExportSpec;

/// The content of the manifest of a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    space: String,
    scope: String,
    source: String,
    /// The period of the statement.
    pub period: RangeRecord,
    windows: Vec<WindowEntry>,
    days: Vec<DayEntry>,
    gaps: Vec<GapEntry>,
    totals: PeriodTotals,
    root: RootDigest,
}

/// Position of a manifest in its chain, and where and by which key it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainPlace {
    /// Its number.
    pub sequence: u64,
    /// The manifest before it.
    pub previous: Option<FileDigest>,
    /// Id of the key that signs it.
    pub key_id: Option<String>,
    /// The bucket; `None` for a directory.
    pub bucket: Option<String>,
    /// The prefix in the bucket; `None` for a directory.
    pub prefix: Option<String>,
}

/// Digests that identify a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatementId {
    /// Of source and period.
    subject: [u8; 32],
    /// Of receipts and gaps.
    content: [u8; 32],
}

impl StatementId {
    /// Returns true if both statements are about the same period of the same source.
    pub fn has_same_period(&self, other: &Self) -> bool {
        self.subject == other.subject
    }
}

/// Builds the statement of a period; `None` if a day is neither covered nor in an accepted gap.
pub fn build_statement(export: &ExportSpec, journal: &Journal, period: RangeRecord) -> Option<Statement> {
    let short = day_shortfalls(journal, Some(&export.source));
    let (mut windows, mut day_entries) = (Vec::new(), Vec::new());
    for date in period.days() {
        let receipts = covering_receipts(export, journal, date);
        let entries = receipts
            .iter()
            .map(|(window, facts)| (*window, window_entry(*window, facts)));
        let entries: Vec<(Window, WindowEntry)> = entries.collect();
        day_entries.push(DayEntry::derive(&DayEvidence {
            wanted: export.window_of(date)?,
            windows: &entries
                .iter()
                .map(|(window, entry)| (*window, entry))
                .collect::<Vec<_>>(),
            reported_of_day: receipts
                .values()
                .filter_map(|facts| facts.current_day_reported())
                .max(),
            short: short.contains_key(&date),
            accepted: export.in_accepted_gap(date),
        })?);
        windows.extend(entries.into_iter().map(|(_, entry)| entry));
    }
    let overlapping_gaps = export
        .accepted_gaps
        .iter()
        .filter(|gap| gap.start <= period.end && gap.end >= period.start);
    let gaps: BTreeSet<GapEntry> = overlapping_gaps.cloned().collect();
    Some(Statement {
        space: export.space.clone(),
        scope: export.scope.as_str().to_owned(),
        source: export.source.clone(),
        period,
        totals: PeriodTotals::of(&windows, &day_entries),
        root: root_digest(windows.iter().flat_map(WindowEntry::receipts)),
        windows,
        days: day_entries,
        gaps: gaps.into_iter().collect(),
    })
}

/// Returns the receipts that cover the wanted cells of a day, each cell once. For a complete day: its own receipt, else
/// those of its hours. For one hour: its own receipt, else that of the day.
fn covering_receipts<'a>(
    export: &ExportSpec,
    journal: &'a Journal,
    date: Date,
) -> BTreeMap<Window, &'a ReceiptFacts> {
    let day = Window::day(date);
    let usable = |window: Window| Some((window, valid_receipt(journal, window, Some(&export.source))?));
    let day_receipts = || usable(day).into_iter().collect();
    match export.hour {
        None => {
            let receipts: BTreeMap<_, _> = day_receipts();
            if receipts.is_empty() {
                Window::split(date).filter_map(usable).collect()
            } else {
                receipts
            }
        }
        Some(hour) => match Window::hour(date, hour).and_then(usable) {
            Some(hour_receipt) => BTreeMap::from([hour_receipt]),
            None => day_receipts(),
        },
    }
}

fn window_entry(window: Window, receipt: &ReceiptFacts) -> WindowEntry {
    let (facts, proof) = (&receipt.summary, &receipt.proof);
    let key = |key: Key| key.relative().unwrap_or_default();
    WindowEntry {
        window: window.to_string(),
        receipt: FileDigest {
            key: key(Key::Receipt(window)),
            sha256: proof.sha256.to_string(),
        },
        object: facts.sha256.as_ref().map(|sha256| ObjectEntry {
            key: key(Key::Events(window)),
            bytes: facts.bytes,
            sha256: sha256.to_string(),
            version_id: proof.version_id.as_deref().map(ToOwned::to_owned),
        }),
        events: facts.events,
        decompressed_bytes: proof.decompressed_bytes,
        reported_before: proof.reported_before,
        reported_after: proof.reported_after,
        verdict: facts.verdict.recorded(),
        uncounted: facts.uncounted.as_deref().cloned(),
        revisions: receipt
            .revisions
            .iter()
            .filter_map(|later| revision_entry(window, later))
            .collect(),
    }
}

fn revision_entry(window: Window, later: &RevisionFacts) -> Option<RevisionEntry> {
    let RevisionFacts {
        revision,
        object,
        summary,
        proof,
        supplement,
        missing_events,
        ..
    } = later;
    let key = |key: Key| key.relative().unwrap_or_default();
    Some(RevisionEntry {
        revision: *revision,
        receipt: FileDigest {
            key: key(Key::RevisionReceipt(window, *revision)),
            sha256: proof.sha256.to_string(),
        },
        object: ObjectEntry {
            key: key(body_key(window, *object)),
            bytes: summary.bytes,
            sha256: summary.sha256?.to_string(),
            version_id: proof.version_id.as_deref().map(ToOwned::to_owned),
        },
        supplement: supplement.as_ref().map(|supplement| ObjectEntry {
            key: key(Key::Supplement(window, *revision)),
            bytes: supplement.bytes,
            sha256: supplement.sha256.to_string(),
            version_id: supplement.version_id.as_deref().map(ToOwned::to_owned),
        }),
        events: summary.events,
        missing_events: (*missing_events > 0).then_some(*missing_events),
        decompressed_bytes: proof.decompressed_bytes,
        reported_before: proof.reported_before,
        reported_after: proof.reported_after,
        verdict: summary.verdict.recorded(),
    })
}

impl Statement {
    /// Returns the id of the statement.
    pub fn statement_id(&self) -> StatementId {
        statement_id(
            &[&self.space, &self.scope, &self.source],
            self.period,
            &self.root,
            &self.gaps,
        )
    }

    /// Returns the number of events that it states.
    pub const fn events(&self) -> u64 {
        self.totals.events
    }

    /// Returns the receipts that it states, with their days.
    pub fn receipts(&self) -> impl Iterator<Item = (Date, &FileDigest)> {
        let entries = self.windows.iter().filter_map(|entry| {
            let window: Window = entry.window.parse().ok()?;
            Some((window.date(), entry))
        });
        entries.flat_map(|(day, entry)| entry.receipts().map(move |receipt| (day, receipt)))
    }

    /// Returns the manifest for a position in the chain.
    pub fn manifest(&self, place: ChainPlace, written_at: Timestamp) -> Manifest {
        let ChainPlace {
            sequence,
            previous,
            key_id,
            bucket,
            prefix,
        } = place;
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
        let revised = windows.iter().any(|window| !window.revisions.is_empty());
        let schema = if revised { REVISED_SCHEMA } else { Manifest::SCHEMA };
        Manifest {
            schema: schema.to_owned(),
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
            key_id,
            bucket,
            prefix,
            written_at,
            software: SOFTWARE.to_owned(),
        }
    }
}

impl ManifestHeader {
    /// Returns the id of the statement in the manifest.
    pub fn statement_id(&self) -> StatementId {
        let mut gaps = self.accepted_gaps.clone();
        gaps.sort();
        gaps.dedup();
        statement_id(
            &[&self.space, &self.scope, &self.source],
            self.period,
            &self.root,
            &gaps,
        )
    }
}

fn statement_id(
    source: &[&str; 3],
    period: RangeRecord,
    root: &RootDigest,
    gaps: &[GapEntry],
) -> StatementId {
    // Plain data: serializing it to memory cannot fail.
    let digest = |text: serde_json::Result<Vec<u8>>| Sha256::digest(text.unwrap_or_default()).into();
    StatementId {
        subject: digest(serde_json::to_vec(&(source, period))),
        content: digest(serde_json::to_vec(&(root, gaps))),
    }
}
