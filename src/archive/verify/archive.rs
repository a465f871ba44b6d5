//! Reads an archive and runs the checks: listing, receipts and manifests (see `recheck`), then every object, several
//! concurrently. Does I/O, reading only. Memory is bounded by the documents and a few pieces of each object in flight.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::civil::Date;
use tokio::sync::mpsc;

use super::build_report::build_report;
use super::contents::{self, RootContents};
use super::observation::ObjectObservation;
use super::receipts::ExpectedObject;
use super::recheck::{self, ArchiveReading, Recheck};
use super::report::VerifyReport;
use crate::archive::coverage::Expectation;
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::ArchiveRoot;
use crate::archive::manifest::chain::{Document, Receipts, SignedDocument};
use crate::archive::manifest::document::{self, MANIFEST_MAX_BYTES, Manifest};
use crate::archive::manifest::signature::{self, PublicKey};
use crate::archive::read::{get_document, per_document};
use crate::archive::receipt::read_receipt;
use crate::archive::records::{ArchiveRecord as _, RECORD_MAX_BYTES, Receipt, RecordError};
use crate::pipeline::prover::{Proof, Prover};
use crate::storage::{ObjectSummary, Store, StoreError};

/// Maximum concurrent reads of documents.
const DOCUMENT_CONCURRENCY: usize = 32;
/// Concurrent reads of objects from a bucket, for each processor.
const OBJECTS_PER_CPU: usize = 4;
/// Maximum concurrent reads of objects from a bucket.
const OBJECT_CONCURRENCY_MAX: usize = 16;
/// Size of the ranges that are read from a bucket: 4 MiB. An object in flight needs memory for three.
const RANGE_BYTES: u64 = 4 << 20;
/// Maximum size of a signature file in bytes. A longer file is no signature.
const SIGNATURE_MAX_BYTES: u64 = 1024;

/// Options of a verification.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Store of the archive.
    pub store: Arc<dyn Store>,
    /// Prefix of its keys: empty, or ends with `/`.
    pub prefix: String,
    /// Content that the archive should have; the prefix is then its root. `None`: what its manifests state.
    pub expectation: Option<Expectation>,
    /// The only hour of each day that the archive should have, if an expectation is given.
    pub hour: Option<u8>,
    /// True: compare checksums of the store without reading objects.
    pub quick: bool,
    /// Public keys. One of them must verify each signature.
    pub keys: Vec<PublicKey>,
    /// True if every manifest must have a signature.
    pub require_signature: bool,
    /// First day to verify.
    pub since: Option<Date>,
    /// Last day to verify.
    pub until: Option<Date>,
    /// Further listings before a file is reported missing.
    pub recheck: Recheck,
}

/// Progress of a verification.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    /// Objects to check, as far as known.
    pub objects: AtomicU64,
    /// Total size of the objects to check, in bytes.
    pub bytes: AtomicU64,
    /// Checked objects.
    pub objects_done: AtomicU64,
    /// Bytes read so far.
    pub bytes_done: AtomicU64,
}

/// Receipts and manifests of a root.
#[derive(Debug, Default)]
pub struct RootDocuments {
    /// Every receipt.
    pub receipts: Receipts,
    /// Every manifest, by number.
    pub manifests: BTreeMap<u64, SignedDocument>,
}

/// Verifies an archive. Fails only on errors of the store.
pub async fn verify(
    options: &VerifyOptions,
    progress: &Arc<VerifyProgress>,
) -> Result<VerifyReport, StoreError> {
    let ArchiveReading { roots, findings } = recheck::read_archive(options).await?;
    let mut report = VerifyReport {
        roots: Vec::new(),
        findings,
    };
    for root in &roots {
        let present = root
            .expectations
            .objects
            .iter()
            .filter_map(|expected| root.contents.objects.get(&expected.window));
        for listed in present {
            progress.objects.fetch_add(1, Ordering::Relaxed);
            progress.bytes.fetch_add(listed.size, Ordering::Relaxed);
        }
    }
    for root in roots {
        let seen = check_objects(options, &root.contents, &root.expectations.objects, progress).await;
        report.roots.push(build_report(options, root, &seen));
    }
    Ok(report.conclude(&options.prefix))
}

/// Lists the roots below the prefix, and a finding for each file outside of them.
pub async fn list_roots(options: &VerifyOptions) -> Result<(Vec<RootContents>, Vec<Finding>), StoreError> {
    let listing = contents::group_by_root(&options.prefix, options.store.list(&options.prefix).await?);
    let mut roots = listing.roots;
    if roots.is_empty() && options.expectation.is_some() {
        roots.push(RootContents::new(ArchiveRoot::from_prefix(&options.prefix)));
    }
    for contents in &mut roots {
        contents.retain_objects(|_, window| options.includes(window.date()));
    }
    let foreign = listing
        .outside
        .into_iter()
        .map(|key| Finding::new(FindingKind::ForeignFile, key))
        .collect();
    Ok((roots, foreign))
}

impl VerifyOptions {
    /// Returns the expected source, if one is given. Receipts of other sources cover nothing then.
    pub fn source(&self) -> Option<&str> {
        self.expectation.as_ref()?.source.as_deref()
    }

    /// Returns true if a day is in the range to verify.
    pub fn includes(&self, day: Date) -> bool {
        self.since.is_none_or(|since| day >= since) && self.until.is_none_or(|until| day <= until)
    }
}

/// Reads every receipt, manifest and signature of a root. Ignores files that are deleted after the listing.
///
/// Documents of an earlier reading whose rows are unchanged are used again.
pub async fn read_documents(
    options: &VerifyOptions,
    contents: &RootContents,
    known: Option<(RootContents, RootDocuments)>,
) -> Result<RootDocuments, StoreError> {
    let store = &*options.store;
    let mut out = known.map_or_else(RootDocuments::default, |(old, documents)| {
        documents.retain_unchanged(&old, contents)
    });
    let unread = contents
        .receipts
        .iter()
        .filter(|(window, _)| !out.receipts.contains_key(window));
    let receipts: Vec<_> = stream::iter(unread.collect::<Vec<_>>())
        .map(async |(window, listed)| {
            let bytes = get_document(store, &listed.key, RECORD_MAX_BYTES, Receipt::SCHEMA).await;
            let document = match per_document(bytes)? {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => {
                    Document::new(&bytes, |bytes| read_receipt(&contents.root, *window, bytes))
                }
                Err(error) => Document::unreadable(error),
            };
            Ok::<_, StoreError>(Some((*window, document)))
        })
        .buffer_unordered(DOCUMENT_CONCURRENCY)
        .try_collect()
        .await?;
    out.receipts.extend(receipts.into_iter().flatten());
    for (number, listed) in &contents.manifests {
        if out.manifests.contains_key(number) {
            continue;
        }
        let signature = contents.signatures.get(number);
        if let Some(document) = read_manifest(options, *number, listed, signature).await? {
            out.manifests.insert(*number, document);
        }
    }
    Ok(out)
}

/// Reads a manifest and its signature; `None` if the manifest does not exist.
async fn read_manifest(
    options: &VerifyOptions,
    number: u64,
    listed: &ObjectSummary,
    signature: Option<&ObjectSummary>,
) -> Result<Option<SignedDocument>, StoreError> {
    let store = &*options.store;
    let get = async |key: &str, limit| per_document(get_document(store, key, limit, Manifest::SCHEMA).await);
    let bytes = match get(&listed.key, MANIFEST_MAX_BYTES).await? {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => bytes,
        Err(error) => {
            let status = signature::SignatureStatus::Absent;
            return Ok(Some((Document::unreadable(error), status)));
        }
    };
    let signature = match signature {
        None => None,
        Some(listed) => match get(&listed.key, SIGNATURE_MAX_BYTES).await? {
            Ok(signature) => signature,
            Err(error @ RecordError::Archived { .. }) => {
                let status = signature::SignatureStatus::Absent;
                return Ok(Some((Document::unreadable(error), status)));
            }
            // A file of this size is no signature.
            Err(_) => Some(bytes::Bytes::new()),
        },
    };
    let status = signature::check(&bytes, signature.as_deref(), &options.keys);
    let document = Document::new(&bytes, |bytes| {
        document::parse_manifest::<Manifest>(&listed.key, number, bytes)
    });
    Ok(Some((document, status)))
}

impl RootDocuments {
    /// Returns the documents whose rows are the same in both listings.
    fn retain_unchanged(mut self, old: &RootContents, new: &RootContents) -> Self {
        self.receipts
            .retain(|window, _| old.receipts.get(window) == new.receipts.get(window));
        self.manifests.retain(|number, _| {
            old.manifests.get(number) == new.manifests.get(number)
                && old.signatures.get(number) == new.signatures.get(number)
        });
        self
    }
}

/// Checks the expected objects, and returns the results in their order; `None` if an object does not exist.
async fn check_objects(
    options: &VerifyOptions,
    contents: &RootContents,
    expected: &[ExpectedObject],
    progress: &Arc<VerifyProgress>,
) -> Vec<Option<Result<ObjectObservation, StoreError>>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let local = expected
        .first()
        .is_some_and(|first| options.store.local_path(&first.key).is_some());
    let at_once = match (options.quick, local) {
        (true, _) => DOCUMENT_CONCURRENCY,
        (false, true) => processors,
        (false, false) => (processors * OBJECTS_PER_CPU).min(OBJECT_CONCURRENCY_MAX),
    };
    stream::iter(expected)
        .map(async |expected| {
            let listed = contents.objects.get(&expected.window)?;
            let seen = if options.quick {
                match options.store.head_recorded(&listed.key).await {
                    Ok(None) => return None,
                    Ok(Some(info)) => Ok(ObjectObservation::from(info)),
                    Err(error) => Err(error),
                }
            } else {
                match prove_object(options, listed, expected.decompressed, progress).await {
                    Ok(None) => return None,
                    Ok(Some(proved)) => Ok(ObjectObservation::from(proved)),
                    Err(error) => Err(error),
                }
            };
            progress.objects_done.fetch_add(1, Ordering::Relaxed);
            Some(seen)
        })
        .buffered(at_once)
        .collect()
        .await
}

/// Reads and checks one object; `None` if it was deleted after the listing.
async fn prove_object(
    options: &VerifyOptions,
    listed: &ObjectSummary,
    limit: u64,
    progress: &Arc<VerifyProgress>,
) -> Result<Option<Proof>, StoreError> {
    let read_error = |message: String| StoreError::Io {
        store: options.store.identity().to_string(),
        key: listed.key.clone(),
        message,
    };
    if let Some(path) = options.store.local_path(&listed.key) {
        let progress = Arc::clone(progress);
        let proved = tokio::task::spawn_blocking(move || {
            super::object::prove_file(&path, limit, &mut |bytes| {
                progress.bytes_done.fetch_add(bytes, Ordering::Relaxed);
            })
        })
        .await
        .map_err(|error| read_error(format!("the check was interrupted: {error}")))?;
        return match proved {
            Ok(proved) => Ok(Some(proved)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(read_error(format!("cannot read: {error}"))),
        };
    }
    // One piece is checked, one waits, one is being read.
    let (pieces, mut queue) = mpsc::channel::<bytes::Bytes>(1);
    let prover = tokio::task::spawn_blocking(move || {
        let mut prover = Prover::with_limit(limit);
        while let Some(piece) = queue.blocking_recv() {
            prover.push(&piece);
        }
        prover.finish()
    });
    let mut offset = 0;
    while offset < listed.size {
        let wanted = RANGE_BYTES.min(listed.size - offset);
        let Some(piece) = options
            .store
            .get_range(&listed.key, offset, wanted, listed.etag.as_deref())
            .await?
        else {
            return Ok(None);
        };
        if piece.is_empty() {
            return Err(read_error(
                "the object is shorter than its listed size".to_owned(),
            ));
        }
        let length = piece.len() as u64;
        offset += length;
        if pieces.send(piece).await.is_err() {
            break;
        }
        progress.bytes_done.fetch_add(length, Ordering::Relaxed);
    }
    drop(pieces);
    prover
        .await
        .map(Some)
        .map_err(|error| read_error(format!("the check was interrupted: {error}")))
}
