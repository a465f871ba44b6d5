//! Check of the chain of manifests of a root. Only unchanged manifests are evidence. No I/O.
//!
//! The check starts at the end of the chain: a valid manifest proves the digest of the previous one. An invalid
//! manifest is evidence of nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;

use super::consistency::{contradictions, windows};
use super::document::{DayStatement, FileDigest, GapEntry, Manifest, WindowEntry};
use super::head::Head;
use super::signature::SignatureStatus;
use crate::api::sanitize;
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::{ArchiveRoot, Key};
use crate::archive::records::{RangeRecord, RecordError};
use crate::archive::stored_document::{Document, Receipts, SignedDocument};
use crate::archive::window::{HourSet, Window};

/// Maximum number of reported contradictions of one manifest.
const CONTRADICTIONS_MAX: usize = 20;

/// Maximum number of reported missing manifests, the latest first. Those that another manifest refers to are always
/// reported.
const MISSING_REPORTED_MAX: usize = 1000;

/// Entry of a valid manifest for a window.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// Key of the manifest.
    pub manifest: String,
    /// The entry.
    pub entry: WindowEntry,
}

/// Statements of the valid manifests of a root.
#[derive(Clone, Debug, Default)]
pub struct SealedPeriods {
    /// Hours in the periods of valid manifests.
    pub wanted: HourSet,
    /// Accepted gaps among them.
    pub accepted: HourSet,
    /// Periods of the valid manifests, oldest first.
    pub periods: Vec<RangeRecord>,
    /// Reason of each accepted day, from the newest valid manifest that states one.
    pub gap_reasons: BTreeMap<Date, String>,
}

/// Result of the check of a chain of manifests.
#[derive(Clone, Debug, Default)]
pub struct ChainAudit {
    /// Errors and remarks.
    pub findings: Vec<Finding>,
    /// Entry of the latest valid manifest for each window.
    pub ledger: BTreeMap<Window, LedgerEntry>,
    /// Windows in any readable manifest.
    pub named: BTreeSet<Window>,
    /// Windows with the receipt that a manifest lists which the holder of a given key wrote.
    pub attested: BTreeSet<Window>,
    /// Digests of the receipts of later revisions that such a manifest lists, by window and number.
    pub attested_revisions: BTreeSet<(Window, u32, String)>,
    /// The newest manifest, if it is valid.
    pub head: Option<Head>,
    /// Statements of the valid manifests.
    pub sealed: SealedPeriods,
    /// Existing manifests.
    pub manifests: u64,
    /// Numbers of the manifests without an error.
    pub valid: BTreeSet<u64>,
    /// Existing signatures.
    pub signatures: u64,
    /// Signatures that one of the given keys verifies.
    pub verified: u64,
}

/// Check of a chain in progress, from its end to its beginning.
#[derive(Debug)]
pub struct ChainWalk<'a> {
    root: &'a ArchiveRoot,
    /// True if a manifest without a signature is an error.
    require_signature: bool,
    /// Digest of the next document, by the manifest after it, if that is valid.
    stated: Option<FileDigest>,
    /// True if the last manifest is valid and signed, or its digest is in a later one that is.
    attested: bool,
    missing_reported: usize,
    unchecked: bool,
    audit: ChainAudit,
}

/// Checks all manifests of a root. `last`: highest number of a manifest or signature.
pub fn validate(
    root: &ArchiveRoot,
    last: u64,
    manifests: &BTreeMap<u64, SignedDocument>,
    receipts: &Receipts,
    require_signature: bool,
) -> ChainAudit {
    let mut walk = ChainWalk::new(root, require_signature);
    for number in numbers_to_check(last, manifests) {
        let found = manifests.get(&number);
        let later = walk.audit.sealed.wanted.clone();
        let valid = walk.step(number, found, receipts);
        let Some(manifest) = found.and_then(|(document, _)| document.parsed.as_ref().ok()) else {
            continue;
        };
        for (window, entry) in windows(manifest) {
            walk.audit.named.insert(window);
            let receipt = receipts.get(&window);
            if walk.attested && receipt.is_some_and(|receipt| receipt.sha256 == entry.receipt.sha256) {
                walk.audit.attested.insert(window);
            }
            if walk.attested {
                let later = entry.revisions.iter();
                let digests = later.map(|later| (window, later.revision, later.receipt.sha256.clone()));
                walk.audit.attested_revisions.extend(digests);
            }
            // A later manifest of the same days supersedes this one: what it does not list need not exist any more.
            if valid && !later.contains(window) {
                walk.audit.ledger.entry(window).or_insert_with(|| LedgerEntry {
                    manifest: full_key(root, &Key::Manifest(number)),
                    entry: entry.clone(),
                });
            }
        }
    }
    walk.finish()
}

/// Returns the numbers from the highest one down to 1, without the rest of a gap of more than [`MISSING_REPORTED_MAX`]: a
/// foreign file can have the number 99,999,999.
fn numbers_to_check(last: u64, manifests: &BTreeMap<u64, SignedDocument>) -> impl Iterator<Item = u64> {
    let mut next = Some(last).filter(|last| *last > 0);
    let mut missing = 0;
    std::iter::from_fn(move || {
        let number = next?;
        missing = if manifests.contains_key(&number) {
            0
        } else {
            missing + 1
        };
        next = if missing > MISSING_REPORTED_MAX {
            let before = manifests.range(..number).next_back();
            before.map(|(number, _)| *number)
        } else {
            number.checked_sub(1).filter(|number| *number > 0)
        };
        Some(number)
    })
}

impl<'a> ChainWalk<'a> {
    /// Starts a check at the end of the chain.
    pub fn new(root: &'a ArchiveRoot, require_signature: bool) -> Self {
        Self {
            root,
            require_signature,
            stated: None,
            attested: false,
            missing_reported: 0,
            unchecked: false,
            audit: ChainAudit::default(),
        }
    }

    /// Checks the manifest with a number; `None` if it does not exist. The numbers descend by one. Returns true if the
    /// manifest is valid.
    pub fn step(&mut self, number: u64, found: Option<&SignedDocument>, receipts: &Receipts) -> bool {
        let stated = self.stated.take();
        let by_later = std::mem::take(&mut self.attested) && stated.is_some();
        let key = full_key(self.root, &Key::Manifest(number));
        let Some((document, signature)) = found else {
            // A foreign file can have the number 99,999,999.
            self.missing_reported += 1;
            if stated.is_some() || self.missing_reported <= MISSING_REPORTED_MAX {
                let missing = Finding::new(FindingKind::ManifestMissing, key);
                self.audit.findings.push(match stated {
                    Some(stated) => missing.expected(format!("sha256 {}", stated.sha256)),
                    None => missing,
                });
            }
            return false;
        };
        let findings = manifest_findings(self.root, number, document, stated.as_ref(), receipts);
        let consistent = findings.is_empty();
        self.audit.manifests += 1;
        self.audit.findings.extend(findings);
        let valid = self.check_signature(number, *signature) && consistent;
        let Ok(manifest) = &document.parsed else {
            return false;
        };
        if valid {
            if self.audit.manifests == 1 {
                self.audit.head = Head::new(number, &document.sha256).ok();
            }
            self.attested = by_later || *signature == SignatureStatus::Valid;
            self.audit.valid.insert(number);
            self.audit.sealed.add(manifest);
            self.stated.clone_from(&manifest.previous);
        }
        valid
    }

    /// Returns false if the signature is invalid.
    fn check_signature(&mut self, number: u64, signature: SignatureStatus) -> bool {
        let audit = &mut self.audit;
        audit.signatures += u64::from(signature != SignatureStatus::Absent);
        match signature {
            SignatureStatus::Absent if self.require_signature => {
                let key = full_key(self.root, &Key::Manifest(number));
                audit.findings.push(
                    Finding::new(FindingKind::SignatureMissing, key).expected("a signature of the manifest"),
                );
            }
            SignatureStatus::Absent => {}
            SignatureStatus::Unchecked => self.unchecked = true,
            SignatureStatus::Valid => audit.verified += 1,
            SignatureStatus::Invalid => {
                let key = full_key(self.root, &Key::Signature(number));
                audit.findings.push(
                    Finding::new(FindingKind::SignatureInvalid, key)
                        .expected("a signature of the manifest by one of the given keys"),
                );
                return false;
            }
        }
        true
    }

    /// Returns the result after the first manifest.
    pub fn finish(self) -> ChainAudit {
        let Self {
            root,
            unchecked,
            mut audit,
            ..
        } = self;
        audit.findings.reverse();
        audit.sealed.periods.reverse();
        if unchecked {
            audit.findings.push(
                Finding::new(FindingKind::SignatureUnchecked, root.manifests_prefix())
                    .found(format!("{} signatures", audit.signatures)),
            );
        }
        audit
    }
}

impl SealedPeriods {
    /// Adds the statements of a valid manifest. Those of later manifests, which were added before, take precedence.
    fn add(&mut self, manifest: &Manifest) {
        self.periods.push(manifest.period);
        let wanted: HourSet = manifest
            .period
            .days()
            .filter_map(|day| match manifest.period.hour {
                None => Some(Window::day(day)),
                Some(hour) => Window::hour(day, hour),
            })
            .collect();
        let accepted: HourSet = manifest
            .days
            .iter()
            .filter(|day| day.statement == DayStatement::AcceptedGap)
            .map(|day| Window::day(day.date))
            .collect();
        let accepted = accepted.intersection(&wanted).difference(&self.wanted);
        self.accepted = self.accepted.union(&accepted);
        for (day, _) in accepted.days() {
            if let Some(gap) = GapEntry::find(&manifest.accepted_gaps, day) {
                let reason = sanitize(&gap.reason).into_owned();
                self.gap_reasons.entry(day).or_insert(reason);
            }
        }
        self.wanted = self.wanted.union(&wanted);
    }
}

fn full_key(root: &ArchiveRoot, key: &Key) -> String {
    root.key(key).unwrap_or_default()
}

/// Checks one manifest by itself, by its successor, and by the receipts that match its digests.
fn manifest_findings(
    root: &ArchiveRoot,
    number: u64,
    document: &Document<Manifest>,
    stated: Option<&FileDigest>,
    receipts: &Receipts,
) -> Vec<Finding> {
    let key = full_key(root, &Key::Manifest(number));
    if let Err(error @ RecordError::Archived { .. }) = &document.parsed {
        return vec![Finding::new(FindingKind::ObjectArchived, key).found(error.to_string())];
    }
    if let Err(error @ RecordError::Refused { .. }) = &document.parsed {
        return vec![Finding::new(FindingKind::ObjectUnreadable, key).found(error.to_string())];
    }
    let contradictions = match &document.parsed {
        Ok(manifest) => contradictions(root, number, manifest, receipts),
        Err(_) => Vec::new(),
    };
    if let Some(stated) = stated.filter(|stated| stated.sha256 != document.sha256) {
        let mut found = format!("sha256 {}", document.sha256);
        if let Err(why) = &document.parsed {
            found = format!("{found} ({why})");
        } else if let Some(first) = contradictions.first() {
            found = format!("{found} ({} instead of {})", first.found, first.expected);
        }
        return vec![
            Finding::new(FindingKind::ManifestChanged, key)
                .expected(format!("sha256 {}, by the next manifest", stated.sha256))
                .found(found),
        ];
    }
    if let Err(why) = &document.parsed {
        return vec![Finding::new(FindingKind::ManifestUnreadable, key).found(why.to_string())];
    }
    let findings = contradictions
        .into_iter()
        .take(CONTRADICTIONS_MAX)
        .map(|contradiction| Finding {
            window: contradiction.window,
            ..Finding::new(FindingKind::ManifestInconsistent, key.clone())
                .expected(contradiction.expected)
                .found(contradiction.found)
        });
    findings.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_number_does_not_delay_the_check() {
        let document = || {
            let error = RecordError::Archived { key: "k".to_owned() };
            (Document::unreadable(error), SignatureStatus::Absent)
        };
        let numbers = |last, present: &[u64]| -> Vec<u64> {
            let manifests = present.iter().map(|number| (*number, document())).collect();
            numbers_to_check(last, &manifests).collect()
        };
        assert_eq!(numbers(0, &[]), [0; 0]);
        assert_eq!(numbers(4, &[2, 4]), [4, 3, 2, 1]);
        let far = numbers(99_999_999, &[1, 2]);
        assert_eq!(far.len(), MISSING_REPORTED_MAX + 3);
        assert_eq!(far[MISSING_REPORTED_MAX + 1..], [2, 1]);
    }
}
