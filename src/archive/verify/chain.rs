//! Check of the chain of manifests of a root. Only unchanged manifests are evidence against a receipt. No I/O.
//!
//! The check starts at the end of the chain: a valid manifest proves the digest of the previous one. An invalid
//! manifest is evidence of nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::consistency::{contradictions, windows};
use super::contents::RootContents;
use super::finding::{Finding, FindingKind};
use super::signature::SignatureStatus;
use crate::archive::layout::Key;
use crate::archive::manifest::document::{DayStatement, FileDigest, Manifest, WindowEntry};
use crate::archive::records::{RangeRecord, Receipt};
use crate::archive::window::{HourSet, Window};
use crate::export::manifest::periods::days;

/// Maximum number of reported contradictions of one manifest.
const CONTRADICTIONS_MAX: usize = 20;

/// Maximum number of reported missing manifests, the latest first. Those that another manifest refers to are always
/// reported.
const MISSING_REPORTED_MAX: usize = 1000;

/// A stored document.
#[derive(Clone, Debug)]
pub struct Document<T> {
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Its contents, or the reason that it cannot be parsed.
    pub parsed: Result<T, String>,
}

/// Receipts by window.
pub type Receipts = BTreeMap<Window, Document<Receipt>>;

/// Manifests by number, with the status of their signatures.
pub type Manifests = BTreeMap<u64, (Document<Manifest>, SignatureStatus)>;

/// Entry of a valid manifest for a window.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// Key of the manifest.
    pub manifest: String,
    /// The entry.
    pub entry: WindowEntry,
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
    /// Hours in the periods of valid manifests.
    pub wanted: HourSet,
    /// Accepted gaps among them.
    pub accepted: HourSet,
    /// Periods of the valid manifests, oldest first.
    pub periods: Vec<RangeRecord>,
    /// Existing manifests.
    pub manifests: u64,
    /// Manifests without an error.
    pub valid: u64,
    /// Existing signatures.
    pub signatures: u64,
    /// Signatures that one of the given keys verifies.
    pub verified: u64,
}

/// Checks all manifests of a root.
pub fn validate(
    contents: &RootContents,
    manifests: &Manifests,
    receipts: &Receipts,
    require_signature: bool,
) -> ChainAudit {
    let mut chain = ChainAudit::default();
    let last = contents.manifests.keys().chain(contents.signatures.keys()).max();
    // The following manifest, if it is valid.
    let mut next: Option<&Manifest> = None;
    let mut missing_reported = 0;
    for number in (1..=last.copied().unwrap_or(0)).rev() {
        let stated = next.and_then(|next| next.previous.as_ref());
        let Some((document, signature)) = manifests.get(&number) else {
            // A foreign file can have the number 99,999,999.
            missing_reported += 1;
            if stated.is_some() || missing_reported <= MISSING_REPORTED_MAX {
                let missing =
                    Finding::new(FindingKind::ManifestMissing, contents.key(&Key::Manifest(number)));
                chain.findings.push(match stated {
                    Some(stated) => missing.expected(format!("sha256 {}", stated.sha256)),
                    None => missing,
                });
            }
            next = None;
            continue;
        };
        let key = contents.key(&Key::Manifest(number));
        let findings = manifest_findings(contents, number, document, stated, receipts);
        chain.manifests += 1;
        let mut valid = findings.is_empty();
        chain.findings.extend(findings);
        match signature {
            SignatureStatus::Absent if require_signature => chain.findings.push(
                Finding::new(FindingKind::SignatureMissing, key.clone())
                    .expected("a signature of the manifest"),
            ),
            SignatureStatus::Absent => {}
            SignatureStatus::Unchecked => chain.signatures += 1,
            SignatureStatus::Valid => {
                chain.signatures += 1;
                chain.verified += 1;
            }
            SignatureStatus::Invalid => {
                chain.signatures += 1;
                valid = false;
                chain.findings.push(
                    Finding::new(
                        FindingKind::SignatureInvalid,
                        contents.key(&Key::Signature(number)),
                    )
                    .expected("a signature of the manifest by one of the given keys"),
                );
            }
        }
        let manifest = document.parsed.as_ref().ok();
        chain.named.extend(
            manifest
                .iter()
                .flat_map(|manifest| windows(manifest))
                .map(|(window, _)| window),
        );
        next = manifest.filter(|_| valid);
        if let Some(manifest) = next {
            chain.merge(manifest, &key);
        }
    }
    if require_signature && contents.manifests.is_empty() {
        let missing = Finding::new(FindingKind::SignatureMissing, contents.root.manifests_prefix());
        chain
            .findings
            .push(missing.expected("a signed manifest").found("no manifest"));
    }
    chain.findings.reverse();
    chain.periods.reverse();
    if chain.signatures > 0
        && manifests
            .values()
            .any(|(_, signature)| *signature == SignatureStatus::Unchecked)
    {
        chain.findings.push(
            Finding::new(FindingKind::SignatureUnchecked, contents.root.manifests_prefix())
                .found(format!("{} signatures", chain.signatures)),
        );
    }
    chain
}

impl ChainAudit {
    /// Adds the statements of a valid manifest. Those of later manifests, which were added before, take precedence.
    fn merge(&mut self, manifest: &Manifest, key: &str) {
        self.valid += 1;
        self.periods.push(manifest.period);
        for (window, entry) in windows(manifest) {
            self.ledger.entry(window).or_insert_with(|| LedgerEntry {
                manifest: key.to_owned(),
                entry: entry.clone(),
            });
        }
        let wanted: HourSet = days(manifest.period)
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
        self.wanted = self.wanted.union(&wanted);
    }
}

/// Checks one manifest by itself, by its successor, and by the receipts that match its digests.
fn manifest_findings(
    contents: &RootContents,
    number: u64,
    document: &Document<Manifest>,
    stated: Option<&FileDigest>,
    receipts: &Receipts,
) -> Vec<Finding> {
    let key = contents.key(&Key::Manifest(number));
    let contradictions = match &document.parsed {
        Ok(manifest) => contradictions(contents, number, manifest, receipts),
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
        return vec![Finding::new(FindingKind::ManifestUnreadable, key).found(why.clone())];
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
