//! Reads the listing and the documents of an archive, and looks again before a file is reported missing: an export may
//! be writing meanwhile, and a listing may leave keys out. Reads the store.
//!
//! The first listing decides which objects are checked. Later listings only answer for what the first one lacked.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::attestation::{Attestation, attest};
use super::contents::RootContents;
use super::documents::{RootDocuments, read_documents};
use super::listing::list_roots;
use super::options::VerifyOptions;
use super::receipts::{self, Expectations};
use super::revisions::{add_revisions, attest_revisions};
use crate::archive::checkpoint::{self, CheckpointAudit, CheckpointEvidence};
use crate::archive::coverage::{self, Coverage};
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::Key;
use crate::archive::manifest::chain::{self, ChainAudit};
use crate::archive::memory::JournalShare;
use crate::archive::presence::{HEADS_MAX, find_unlisted};
use crate::archive::range::{self, ExpectedRange};
use crate::archive::read::read_negative_records;
use crate::archive::stored_document::Receipts;
use crate::archive::window::{HourSet, Window};
use crate::storage::StoreError;

/// Listing and documents of an archive.
#[derive(Debug, Default)]
pub struct ArchiveReading {
    /// Roots, in the order of their keys.
    pub roots: Vec<RootReading>,
    /// A finding for each file outside of them.
    pub findings: Vec<Finding>,
}

/// Listing and documents of a root, and the conclusions from them.
#[derive(Debug)]
pub struct RootReading {
    /// The listing.
    pub contents: RootContents,
    /// Every receipt and manifest.
    pub documents: RootDocuments,
    /// Check of the manifests.
    pub chain: ChainAudit,
    /// Check of the checkpoints.
    pub checkpoints: CheckpointAudit,
    /// Objects that must exist.
    pub expectations: Expectations,
    /// The range that the root must cover.
    pub range: ExpectedRange,
    /// State of its windows, by keys and receipts.
    pub coverage: Coverage,
    /// Attestation of each receipt in the range.
    pub attestations: BTreeMap<Window, Attestation>,
    /// Windows whose receipt must be attested and is not.
    pub unattested: HourSet,
    /// Numbers of noted manifests that the listing lacks.
    pub unlisted_heads: Vec<u64>,
}

/// Windows with an object in the first listing, by root.
type FirstListed = BTreeMap<String, BTreeSet<Window>>;

/// A file that should exist.
struct Absence {
    key: String,
    window: Option<Window>,
}

/// Reads an archive. If something is missing, lists it again, then asks for the missing keys by name.
pub async fn read_archive(options: &VerifyOptions) -> Result<ArchiveReading, StoreError> {
    let mut reading = ArchiveReading::default();
    reading.list_again(options, None).await?;
    let first: FirstListed = reading
        .roots
        .iter()
        .map(|root| {
            let windows = root.contents.objects.keys().copied().collect();
            (root.contents.root.as_str().to_owned(), windows)
        })
        .collect();
    for listing in 0..options.recheck.listings {
        if reading.is_complete() {
            return Ok(reading);
        }
        if listing > 0 {
            tokio::time::sleep(options.recheck.pause).await;
        }
        let changed = reading.list_again(options, Some(&first)).await?;
        if !changed && !reading.is_being_written() {
            break;
        }
    }
    reading.ask_for_absent(options).await?;
    Ok(reading)
}

impl ArchiveReading {
    /// Replaces the reading by that of a newer listing. Documents whose row is unchanged are not read again. Returns
    /// true if the listing differs.
    async fn list_again(
        &mut self,
        options: &VerifyOptions,
        first: Option<&FirstListed>,
    ) -> Result<bool, StoreError> {
        let (listed, findings) = list_roots(options).await?;
        let mut known: BTreeMap<String, RootReading> = std::mem::take(&mut self.roots)
            .into_iter()
            .map(|root| (root.contents.root.as_str().to_owned(), root))
            .collect();
        let mut changed = listed.len() != known.len();
        for mut contents in listed {
            let key = contents.root.as_str().to_owned();
            let known = known.remove(&key);
            changed |= known
                .as_ref()
                .is_none_or(|known| !known.contents.has_same_files(&contents));
            if let Some(first) = first {
                // An export is about to write the receipts of objects that an earlier listing did not have.
                let first = first.get(&key);
                contents.retain_objects(|contents, window| {
                    contents.receipts.contains_key(&window)
                        || first.is_some_and(|first| first.contains(&window))
                });
            }
            let known = known.map(|known| (known.contents, known.documents));
            self.roots
                .push(RootReading::read(options, contents, known).await?);
        }
        self.findings = findings;
        Ok(changed)
    }

    /// Returns true if nothing is missing.
    fn is_complete(&self) -> bool {
        self.roots
            .iter()
            .all(|root| root.absences().is_empty() && root.coverage.missing.is_empty())
    }

    /// Returns true if an attempt is at work on a window of a missing file.
    fn is_being_written(&self) -> bool {
        let at_work = |root: &RootReading, absence: &Absence| {
            let window = absence.window.as_ref();
            let mut attempts = root.contents.journal.attempts.keys();
            window.is_some_and(|window| attempts.any(|id| id.window == *window))
        };
        self.roots
            .iter()
            .any(|root| root.absences().iter().any(|absence| at_work(root, absence)))
    }

    /// Asks for the missing files by name, and adds those that exist.
    async fn ask_for_absent(&mut self, options: &VerifyOptions) -> Result<(), StoreError> {
        let mut left = HEADS_MAX;
        for root in &mut self.roots {
            let absent = root.absences().into_iter().map(|absence| absence.key);
            let absent: Vec<String> = absent.take(left).collect();
            left -= absent.len();
            let found = find_unlisted(&*options.store, absent).await?;
            if found.is_empty() {
                continue;
            }
            let mut contents = root.contents.clone();
            for row in found {
                // Few, as many as were asked for.
                let _ = contents.add(row, &JournalShare::default());
            }
            let documents = std::mem::take(&mut root.documents);
            let known = (root.contents.clone(), documents);
            *root = RootReading::read(options, contents, Some(known)).await?;
        }
        Ok(())
    }
}

impl RootReading {
    async fn read(
        options: &VerifyOptions,
        mut contents: RootContents,
        known: Option<(RootContents, RootDocuments)>,
    ) -> Result<Self, StoreError> {
        let documents = read_documents(options, &contents, known).await?;
        let includes = |window: Window| options.includes(window.date());
        let (root, journal) = (&contents.root, &mut contents.journal);
        read_negative_records(&*options.store, root, journal, includes).await?;
        let mut chain = chain::validate(
            &contents.root,
            contents.last_manifest(),
            &documents.manifests,
            &documents.receipts,
            options.requires_signed_manifests(),
        );
        let checkpoints = checkpoint::validate(
            &contents.root,
            &documents.checkpoints,
            &CheckpointEvidence {
                manifests: &documents.manifests,
                receipts: &documents.receipts,
                sealed: &chain.sealed.wanted,
                require_signature: options.requires_signed_manifests(),
            },
        );
        chain.ledger.retain(|window, _| includes(*window));
        let receipts = receipts_in_range(options, &documents.receipts);
        contents.add_receipts(&receipts);
        add_revisions(&mut contents, &documents.revisions);
        let mut expectations =
            receipts::expected_objects(&contents, &receipts, &chain, &documents.receipt_signatures);
        expectations.add_revisions(&contents, &documents.revisions, &chain);
        let mut attestations = attest(&receipts, &chain, &documents.receipt_signatures);
        attest_revisions(&mut attestations, &documents.revisions, &chain);
        let unattested: HourSet = attestations
            .iter()
            .filter(|(_, attestation)| **attestation == Attestation::ReceiptAlone)
            .map(|(window, _)| *window)
            .filter(|window| options.requires_attestation(*window))
            .collect();
        let heads = options.heads.iter().map(|head| head.sequence);
        let unlisted_heads = heads
            .filter(|number| !contents.manifests.contains_key(number))
            .collect();
        let range = expected_range(options, &contents, &chain);
        let coverage = coverage::assess(&range.expectation(options.source()), &contents.journal);
        Ok(Self {
            contents,
            documents,
            chain,
            checkpoints,
            expectations,
            range,
            coverage,
            attestations,
            unattested,
            unlisted_heads,
        })
    }

    /// Returns the files that other files refer to, and that the listing lacks.
    fn absences(&self) -> Vec<Absence> {
        let Self {
            contents,
            documents,
            chain,
            checkpoints,
            expectations,
            coverage,
            attestations,
            unattested,
            unlisted_heads,
            ..
        } = self;
        let orphaned = receipts::coverage_findings(contents, coverage);
        let objects = expectations
            .objects
            .iter()
            .filter(|expected| contents.object(&expected.key).is_none())
            .map(|expected| Absence {
                key: expected.key.clone(),
                window: Some(expected.window),
            });
        let findings = expectations
            .findings
            .iter()
            .chain(&chain.findings)
            .chain(&checkpoints.findings)
            .chain(&orphaned);
        let documents = findings.filter_map(|finding| {
            let absent = |key| {
                Some(Absence {
                    key,
                    window: finding.window,
                })
            };
            match (finding.kind, finding.window) {
                (
                    FindingKind::ReceiptMissing
                    | FindingKind::ManifestMissing
                    | FindingKind::CheckpointMissing,
                    _,
                ) => absent(finding.key.clone()),
                (FindingKind::ObjectWithoutReceipt, Some(window))
                    if !documents.receipts.contains_key(&window) =>
                {
                    absent(contents.key(&Key::Receipt(window)))
                }
                (FindingKind::ObjectWithoutReceipt, None) => match contents.root.parse(&finding.key) {
                    Key::Revision(window, number) | Key::Supplement(window, number) => {
                        absent(contents.key(&Key::RevisionReceipt(window, number)))
                    }
                    _ => None,
                },
                (FindingKind::SignatureMissing, _) => match contents.root.parse(&finding.key) {
                    Key::Manifest(number) => absent(contents.key(&Key::Signature(number))),
                    Key::Checkpoint(day) => absent(contents.key(&Key::CheckpointSignature(day))),
                    _ => absent(contents.key(&Key::Manifest(1))),
                },
                _ => None,
            }
        });
        let signatures = attestations
            .keys()
            .filter(|window| unattested.contains(**window))
            .map(|window| Absence {
                key: contents.key(&Key::ReceiptSignature(*window, 0)),
                window: Some(*window),
            });
        let heads = unlisted_heads.iter().map(|number| Absence {
            key: contents.key(&Key::Manifest(*number)),
            window: None,
        });
        objects.chain(documents).chain(signatures).chain(heads).collect()
    }
}

/// Returns the range that a root must cover.
fn expected_range(options: &VerifyOptions, contents: &RootContents, chain: &ChainAudit) -> ExpectedRange {
    let stored: HourSet = contents
        .journal
        .read_receipts()
        .map(|(window, _)| window)
        .collect();
    let expectation = options.expectation.as_ref();
    let mut range = range::expected_range(expectation, &chain.sealed, &stored);
    let hour = expectation.map_or_else(|| range::sealed_hour(&chain.sealed), |_| options.hour);
    if options.partial {
        range.limit_days(|day| options.includes(day));
    } else {
        range.assert_days((options.since, options.until), hour);
    }
    range
}

fn receipts_in_range<'a>(options: &VerifyOptions, receipts: &'a Receipts) -> Cow<'a, Receipts> {
    if options.since.is_none() && options.until.is_none() {
        return Cow::Borrowed(receipts);
    }
    let within = receipts
        .iter()
        .filter(|(window, _)| options.includes(window.date()));
    Cow::Owned(
        within
            .map(|(window, document)| (*window, document.clone()))
            .collect(),
    )
}
