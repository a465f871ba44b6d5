//! Expected objects of a root, by its receipts or, for a missing or changed receipt, by the manifest. No I/O.

use std::collections::BTreeSet;

use super::attestation::ReceiptSignatures;
use super::contents::{FileEffect, RootContents};
use crate::archive::coverage::{Coverage, Damage};
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::Key;
use crate::archive::manifest::chain::{ChainAudit, LedgerEntry};
use crate::archive::manifest::signature::SignatureStatus;
use crate::archive::records::{Receipt, RecordError, UncountedRecord};
use crate::archive::stored_document::{Document, Receipts};
use crate::archive::window::Window;

/// An object that must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedObject {
    /// Window of its events.
    pub window: Window,
    /// The full key.
    pub key: String,
    /// Full key of the receipt or manifest that describes the object.
    pub stated_by: String,
    /// True if that is a receipt.
    pub from_receipt: bool,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal digits.
    pub sha256: String,
    /// CRC-64/NVME, 16 hexadecimal digits.
    pub crc64: Option<String>,
    /// Members of the gzip.
    pub members: Option<u64>,
    /// Size after decompression in bytes.
    pub decompressed: u64,
    /// Events.
    pub events: u64,
    /// End of the count, if the content could be counted only in part; `None`: not stated.
    pub uncounted: Option<Option<UncountedRecord>>,
}

/// Result of the check of the receipts of a root.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// Errors of receipts, and files that should not exist.
    pub findings: Vec<Finding>,
    /// Objects that must exist, in chronological order.
    pub objects: Vec<ExpectedObject>,
    /// Endpoints in valid receipts.
    pub sources: BTreeSet<String>,
    /// Windows with a receipt that no manifest lists.
    pub not_in_manifest: BTreeSet<Window>,
}

/// Checks the receipts of a root, and derives the expected objects.
pub fn expected_objects(
    contents: &RootContents,
    receipts: &Receipts,
    chain: &ChainAudit,
    signatures: &ReceiptSignatures,
) -> Expectations {
    let mut out = Expectations::default();
    for (window, document) in receipts {
        out.add_receipt(contents, *window, document, chain);
        if signatures.get(window) == Some(&SignatureStatus::Invalid) {
            let key = contents.key(&Key::ReceiptSignature(*window, 0));
            let invalid = Finding::new(FindingKind::SignatureInvalid, key).with_window(*window);
            out.findings
                .push(invalid.expected("a signature of the receipt by one of the given keys"));
        }
    }
    for (window, entry) in &chain.ledger {
        if !receipts.contains_key(window) {
            out.findings.push(
                Finding::new(FindingKind::ReceiptMissing, contents.key(&Key::Receipt(*window)))
                    .with_window(*window)
                    .expected(format!(
                        "sha256 {}, by {}",
                        entry.entry.receipt.sha256, entry.manifest
                    )),
            );
            out.objects.extend(object_from_entry(contents, *window, entry));
        }
    }
    for (window, listed) in &contents.receipt_signatures {
        if !contents.receipts.contains_key(window) && !chain.ledger.contains_key(window) {
            out.findings.push(
                Finding::new(FindingKind::ReceiptMissing, contents.key(&Key::Receipt(*window)))
                    .with_window(*window)
                    .expected(format!("a receipt, by its signature {}", listed.key)),
            );
        }
    }
    out.objects.sort_by_key(|expected| expected.window);
    let is_read = |effect| effect == FileEffect::Read;
    let strays = contents.unknown.findings(contents.root.as_str(), is_read);
    out.findings.extend(strays);
    out
}

impl Expectations {
    fn add_receipt(
        &mut self,
        contents: &RootContents,
        window: Window,
        document: &Document<Receipt>,
        chain: &ChainAudit,
    ) {
        let key = contents.key(&Key::Receipt(window));
        if !chain.named.contains(&window) {
            self.not_in_manifest.insert(window);
        }
        let entry = chain.ledger.get(&window);
        let changed = entry.filter(|entry| entry.entry.receipt.sha256 != document.sha256);
        let finding = match (&document.parsed, changed) {
            (Err(error @ RecordError::Archived { .. }), _) => {
                Finding::new(FindingKind::ObjectArchived, key).found(error.to_string())
            }
            (Err(error @ RecordError::Refused { .. }), _) => {
                Finding::new(FindingKind::ObjectUnreadable, key).found(error.to_string())
            }
            (parsed, Some(entry)) => Finding::new(FindingKind::ReceiptChanged, key)
                .expected(format!(
                    "sha256 {}, by {}",
                    entry.entry.receipt.sha256, entry.manifest
                ))
                .found(match parsed {
                    Ok(_) => format!("sha256 {}", document.sha256),
                    Err(error) if document.sha256.is_empty() => error.to_string(),
                    Err(error) => format!("sha256 {} ({error})", document.sha256),
                }),
            (Err(RecordError::Misplaced { expected, found, .. }), None) => {
                Finding::new(FindingKind::ReceiptMisplaced, key)
                    .expected(expected)
                    .found(found)
            }
            (Err(RecordError::Inconsistent { expected, found, .. }), None) => {
                Finding::new(FindingKind::ReceiptInconsistent, key)
                    .expected(expected)
                    .found(found)
            }
            (Err(error), None) => Finding::new(FindingKind::ReceiptUnreadable, key).found(error.to_string()),
            (Ok(receipt), None) => {
                self.sources.insert(receipt.source.clone());
                self.objects
                    .extend(object_from_receipt(contents, window, receipt, key));
                return;
            }
        };
        self.findings.push(finding.with_window(window));
        self.objects
            .extend(entry.and_then(|entry| object_from_entry(contents, window, entry)));
    }
}

/// Returns the findings of windows whose data does not count, outside of accepted gaps: missing events and objects
/// without a receipt. Objects that receipts name are checked one by one.
pub fn coverage_findings(contents: &RootContents, coverage: &Coverage) -> Vec<Finding> {
    let unaccepted = coverage
        .damaged
        .iter()
        .filter(|(window, _)| !coverage.accepted.contains(**window));
    // Queries read an hour's object beside that of its day.
    let beside = contents
        .journal
        .orphaned_objects()
        .filter(|window| coverage.covered.contains(*window))
        .map(|window| {
            let key = contents.key(&Key::Events(window));
            Finding::new(FindingKind::ObjectWithoutReceipt, key)
                .expected(contents.key(&Key::Receipt(window)))
                .with_window(window)
        });
    unaccepted
        .filter_map(|(window, damage)| {
            let receipt = contents.key(&Key::Receipt(*window));
            let by_hour = !contents.receipts.contains_key(window);
            let (key, place) = if by_hour {
                (contents.root.day_objects_prefix(*window), " in its hours")
            } else {
                (receipt, "")
            };
            let finding = match damage {
                Damage::Short { events, reported } => {
                    let kind = if by_hour {
                        FindingKind::DayShort
                    } else {
                        FindingKind::WindowShort
                    };
                    Finding::new(kind, key)
                        .expected(format!(
                            "at least {reported} events, by the service's newest count"
                        ))
                        .found(format!("{events} events{place}"))
                }
                Damage::Uncounted {
                    events,
                    reported,
                    uncounted,
                } => Finding::new(FindingKind::EventsUnproved, key)
                    .expected(reported.map_or_else(
                        || "events that can be counted to the end".to_owned(),
                        |reported| format!("{reported} events, by the service's count"),
                    ))
                    .found(format!("{events} events{place}, counted up to {uncounted}")),
                Damage::UnexpectedObject => Finding::new(
                    FindingKind::ObjectWithoutReceipt,
                    contents.key(&Key::Events(*window)),
                )
                .expected("no object, since the receipt is for an empty window"),
                Damage::Orphaned => Finding::new(
                    FindingKind::ObjectWithoutReceipt,
                    contents.key(&Key::Events(*window)),
                )
                .expected(contents.key(&Key::Receipt(*window))),
                Damage::Unreadable(_)
                | Damage::OtherSource(_)
                | Damage::ObjectMissing
                | Damage::RevisionMissing { .. }
                | Damage::RevisionSizeMismatch { .. }
                | Damage::ObjectSizeMismatch { .. } => return None,
            };
            Some(finding.with_window(*window))
        })
        .chain(beside)
        .collect()
}

/// Returns a remark for each covered or accepted window whose content could be counted only in part.
pub fn uncounted_remarks(contents: &RootContents, coverage: &Coverage) -> Vec<Finding> {
    let journal = &contents.journal;
    let read = journal
        .receipts
        .iter()
        .filter_map(|(window, facts)| Some((*window, facts.as_ref()?)));
    read.filter_map(|(window, facts)| {
        let uncounted = facts.summary.uncounted.as_deref()?;
        let reported = coverage.damaged.contains_key(&window) && !coverage.accepted.contains(window);
        let remark = Finding::new(FindingKind::EventsUncounted, contents.key(&Key::Receipt(window)));
        (!reported).then(|| {
            remark
                .with_window(window)
                .expected("events that can be counted to the end")
                .found(format!(
                    "{} events, counted up to {uncounted}",
                    facts.summary.events
                ))
        })
    })
    .collect()
}

fn object_from_receipt(
    contents: &RootContents,
    window: Window,
    receipt: &Receipt,
    stated_by: String,
) -> Option<ExpectedObject> {
    let object = receipt.object.as_ref()?;
    Some(ExpectedObject {
        window,
        key: contents.key(&Key::Events(window)),
        stated_by,
        from_receipt: true,
        bytes: object.bytes,
        sha256: object.sha256.to_ascii_lowercase(),
        crc64: Some(object.crc64nvme.to_ascii_lowercase()),
        members: Some(object.gzip_members),
        decompressed: object.decompressed_bytes,
        events: receipt.events,
        uncounted: Some(receipt.uncounted.clone()),
    })
}

fn object_from_entry(contents: &RootContents, window: Window, entry: &LedgerEntry) -> Option<ExpectedObject> {
    let object = entry.entry.object.as_ref()?;
    Some(ExpectedObject {
        window,
        key: contents.key(&Key::Events(window)),
        stated_by: entry.manifest.clone(),
        from_receipt: false,
        bytes: object.bytes,
        sha256: object.sha256.to_ascii_lowercase(),
        crc64: None,
        members: None,
        decompressed: entry.entry.decompressed_bytes,
        events: entry.entry.events,
        uncounted: None,
    })
}
