//! Later revisions in a verification: their receipts, which follow each other without a hole, and their objects. No I/O.

use std::collections::BTreeMap;

use super::attestation::Attestation;
use super::contents::{RevisionRows, RootContents};
use super::receipts::{Expectations, ExpectedObject};
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::Key;
use crate::archive::listing::Journal;
use crate::archive::manifest::chain::{ChainAudit, LedgerEntry};
use crate::archive::manifest::document::RevisionEntry;
use crate::archive::manifest::signature::SignatureStatus;
use crate::archive::receipt::body_key;
use crate::archive::records::{ObjectRecord, Receipt, RecordError};
use crate::archive::stored_document::Document;
use crate::archive::window::Window;

/// Receipts of later revisions, by window and number, with the status of their signatures.
pub type RevisionReceipts = BTreeMap<(Window, u32), (Document<Receipt>, SignatureStatus)>;

/// Adds the content of the receipts of later revisions to the journal: to each first receipt those that follow it. One
/// that does not makes the window unreadable.
pub fn add_revisions(contents: &mut RootContents, receipts: &RevisionReceipts) {
    let root = contents.root.clone();
    let key = |window, number| {
        let key = Key::RevisionReceipt(window, number);
        root.key(&key).unwrap_or_default()
    };
    let mut highest: BTreeMap<Window, u32> = BTreeMap::new();
    for (window, number) in receipts.keys() {
        highest.insert(*window, *number);
    }
    let Journal {
        receipts: first,
        unreadable,
        ..
    } = &mut contents.journal;
    for (window, highest) in highest {
        let Some(facts) = first.get_mut(&window).and_then(Option::as_mut) else {
            continue;
        };
        // Of an earlier listing.
        unreadable.remove(&window);
        for number in 1..=highest {
            let key = key(window, number);
            let added = match receipts.get(&(window, number)).map(|(document, _)| document) {
                None => Err(RecordError::Missing { key }),
                Some(Document {
                    parsed: Err(error), ..
                }) => Err(error.clone()),
                Some(Document {
                    parsed: Ok(receipt),
                    sha256,
                }) => facts
                    .add_revision(window, receipt, sha256.parse().unwrap_or_default())
                    .map_err(|(expected, found)| RecordError::Inconsistent { key, expected, found }),
            };
            if let Err(error) = added {
                unreadable.insert(window, error);
                first.insert(window, None);
                break;
            }
        }
    }
}

/// Returns the attestation of a window with its later revisions: the weakest of all its receipts.
pub fn attest_revisions(
    attestations: &mut BTreeMap<Window, Attestation>,
    receipts: &RevisionReceipts,
    chain: &ChainAudit,
) {
    for ((window, number), (document, signature)) in receipts {
        let stated = (*window, *number, document.sha256.clone());
        let attestation = if chain.attested_revisions.contains(&stated) {
            Attestation::SignedManifest
        } else if *signature == SignatureStatus::Valid {
            Attestation::SignedReceipt
        } else {
            Attestation::ReceiptAlone
        };
        if let Some(weakest) = attestations.get_mut(window) {
            *weakest = attestation.max(*weakest);
        }
    }
}

impl Expectations {
    /// Checks the receipts of later revisions, and adds their objects.
    pub fn add_revisions(
        &mut self,
        contents: &RootContents,
        receipts: &RevisionReceipts,
        chain: &ChainAudit,
    ) {
        for ((window, number), (document, signature)) in receipts {
            self.add_revision(contents, (*window, *number), document, chain);
            if *signature == SignatureStatus::Invalid {
                let key = contents.key(&Key::ReceiptSignature(*window, *number));
                let invalid = Finding::new(FindingKind::SignatureInvalid, key).with_window(*window);
                self.findings
                    .push(invalid.expected("a signature of the receipt by one of the given keys"));
            }
        }
        for ((window, number), rows) in &contents.revisions {
            let stated = chain.ledger.get(window).is_some_and(|entry| {
                let mut revisions = entry.entry.revisions.iter();
                revisions.any(|later| later.revision == *number)
            });
            // The manifest shows that its receipt is missing.
            if !stated {
                self.add_unproved(contents, (*window, *number), rows);
            }
        }
        for (window, entry) in &chain.ledger {
            for later in &entry.entry.revisions {
                if !receipts.contains_key(&(*window, later.revision)) {
                    let key = contents.key(&Key::RevisionReceipt(*window, later.revision));
                    let expected = format!("sha256 {}, by {}", later.receipt.sha256, entry.manifest);
                    self.findings
                        .push(missing_receipt(*window, key).expected(expected));
                }
            }
        }
        for (window, error) in &contents.journal.unreadable {
            let RecordError::Missing { key } = error else {
                continue;
            };
            if !self.findings.iter().any(|finding| finding.key == *key) {
                let expected = "a receipt, by that of a later revision";
                self.findings
                    .push(missing_receipt(*window, key.clone()).expected(expected));
            }
        }
        self.objects
            .sort_by(|one, other| (one.window, &one.key).cmp(&(other.window, &other.key)));
    }

    fn add_revision(
        &mut self,
        contents: &RootContents,
        (window, number): (Window, u32),
        document: &Document<Receipt>,
        chain: &ChainAudit,
    ) {
        let key = contents.key(&Key::RevisionReceipt(window, number));
        let entry = chain.ledger.get(&window);
        let stated = entry.and_then(|entry| {
            let mut revisions = entry.entry.revisions.iter();
            revisions.find(|later| later.revision == number)
        });
        if stated.is_none() {
            self.not_in_manifest.insert(window);
        }
        let changed = stated.filter(|stated| stated.receipt.sha256 != document.sha256);
        let finding = match (&document.parsed, changed.zip(entry)) {
            (Err(error @ RecordError::Archived { .. }), _) => {
                Finding::new(FindingKind::ObjectArchived, key).found(error.to_string())
            }
            (Err(error @ RecordError::Refused { .. }), _) => {
                Finding::new(FindingKind::ObjectUnreadable, key).found(error.to_string())
            }
            (_, Some((stated, entry))) => Finding::new(FindingKind::ReceiptChanged, key)
                .expected(format!("sha256 {}, by {}", stated.receipt.sha256, entry.manifest))
                .found(format!("sha256 {}", document.sha256)),
            (Err(error), None) => unreadable(key, error),
            (Ok(receipt), None) => {
                let contradiction = contents.journal.unreadable.get(&window);
                if let Some(error @ RecordError::Inconsistent { key: named, .. }) = contradiction
                    && *named == key
                {
                    self.findings.push(unreadable(key, error).with_window(window));
                    return;
                }
                if let (Some(stated), Some(entry)) = (stated, entry) {
                    self.findings.extend(wrong_entry(window, stated, receipt, entry));
                }
                self.objects
                    .extend(objects(contents, (window, number), receipt, &key));
                return;
            }
        };
        self.findings.push(finding.with_window(window));
    }

    /// Reports files of a revision without a receipt, unless an attempt is about to write it. The earlier revisions stay
    /// proved.
    fn add_unproved(
        &mut self,
        contents: &RootContents,
        (window, number): (Window, u32),
        rows: &RevisionRows,
    ) {
        let mut attempts = contents.journal.attempts.keys();
        if rows.receipt.is_some() || attempts.any(|id| id.window == window) {
            return;
        }
        let receipt = contents.key(&Key::RevisionReceipt(window, number));
        for row in [&rows.body, &rows.supplement].into_iter().flatten() {
            let unproved = Finding::new(FindingKind::ObjectWithoutReceipt, row.key.clone());
            self.findings.push(unproved.expected(receipt.clone()));
        }
        if let Some(signature) = &rows.signature {
            let expected = format!("a receipt, by its signature {}", signature.key);
            self.findings
                .push(missing_receipt(window, receipt).expected(expected));
        }
    }
}

fn missing_receipt(window: Window, key: String) -> Finding {
    Finding::new(FindingKind::ReceiptMissing, key).with_window(window)
}

fn unreadable(key: String, error: &RecordError) -> Finding {
    match error {
        RecordError::Misplaced { expected, found, .. } => Finding::new(FindingKind::ReceiptMisplaced, key)
            .expected(expected)
            .found(found),
        RecordError::Inconsistent { expected, found, .. } => {
            Finding::new(FindingKind::ReceiptInconsistent, key)
                .expected(expected)
                .found(found)
        }
        error => Finding::new(FindingKind::ReceiptUnreadable, key).found(error.to_string()),
    }
}

/// Compares the entry of a manifest with the receipt that it states.
fn wrong_entry(
    window: Window,
    stated: &RevisionEntry,
    receipt: &Receipt,
    entry: &LedgerEntry,
) -> Option<Finding> {
    let object = receipt.object.as_ref().map_or("", |object| &object.sha256);
    let supplement = receipt.supplement.as_ref().map(|supplement| &supplement.sha256);
    let same = stated.events == receipt.events
        && stated.missing_events == receipt.missing_events
        && stated.object.sha256 == object
        && stated.supplement.as_ref().map(|supplement| &supplement.sha256) == supplement
        && stated.reported_before == receipt.reported_before
        && stated.reported_after == receipt.reported_after
        && stated.verdict == receipt.verdict;
    (!same).then(|| {
        Finding::new(FindingKind::ManifestInconsistent, entry.manifest.clone())
            .with_window(window)
            .expected(format!(
                "the values of the receipt of revision {}",
                stated.revision
            ))
            .found("others".to_owned())
    })
}

/// Returns the objects of a revision: the full body, unless the receipt only states a newer count, and the supplement.
fn objects(
    contents: &RootContents,
    (window, number): (Window, u32),
    receipt: &Receipt,
    stated_by: &str,
) -> Vec<ExpectedObject> {
    let own = body_key(window, number).relative();
    let body = receipt.object.as_ref();
    let body = body.filter(|body| Some(&body.key) == own.as_ref());
    let late = receipt.supplement_events.unwrap_or(0);
    let bodies = body.map(|body| (body, receipt.events));
    let supplements = receipt.supplement.as_ref().map(|supplement| (supplement, late));
    let expected = |(object, events): (&ObjectRecord, u64)| ExpectedObject {
        window,
        key: format!("{}{}", contents.root.as_str(), object.key),
        stated_by: stated_by.to_owned(),
        from_receipt: true,
        bytes: object.bytes,
        sha256: object.sha256.to_ascii_lowercase(),
        crc64: Some(object.crc64nvme.to_ascii_lowercase()),
        members: Some(object.gzip_members),
        decompressed: object.decompressed_bytes,
        events,
        uncounted: Some(None),
    };
    bodies.into_iter().chain(supplements).map(expected).collect()
}
