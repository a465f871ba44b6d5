//! Reads an archive and runs the checks: one listing, every receipt and manifest, then every object, several
//! concurrently. Does I/O, reading only. Memory is bounded by the documents and a few pieces of each object in flight.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use jiff::civil::Date;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::build_report::build_report;
use super::chain::{self, Document, Manifests, Receipts};
use super::contents::{self, RootContents};
use super::finding::{Finding, FindingKind};
use super::object::{ObjectProof, ObjectProver};
use super::observation::ObjectObservation;
use super::receipts::{self, ExpectedObject};
use super::report::VerifyReport;
use super::signature::{self, PublicKey};
use crate::archive::layout::ArchiveRoot;
use crate::archive::manifest::document::{self, MANIFEST_MAX_BYTES, Manifest};
use crate::archive::records::{self, RECORD_MAX_BYTES, Receipt};
use crate::export::spec::ExportSpec;
use crate::pipeline::proof::hex;
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
    /// Export that writes the archive; the prefix is then its root.
    pub export: Option<ExportSpec>,
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
    /// Current time.
    pub now: Timestamp,
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
    /// Every manifest.
    pub manifests: Manifests,
}

/// Verifies an archive. Fails only on errors of the store.
pub async fn verify(
    options: &VerifyOptions,
    progress: &Arc<VerifyProgress>,
) -> Result<VerifyReport, StoreError> {
    let (roots, findings) = list_roots(options).await?;
    let mut report = VerifyReport {
        roots: Vec::new(),
        findings,
    };
    let mut work = Vec::new();
    for contents in roots {
        let documents = read_documents(options, &contents).await?;
        let chain = chain::validate(
            &contents,
            &documents.manifests,
            &documents.receipts,
            options.require_signature,
        );
        let RootDocuments { mut receipts, .. } = documents;
        receipts.retain(|window, _| options.includes(window.date()));
        let mut chain = chain;
        chain.ledger.retain(|window, _| options.includes(window.date()));
        let expectations = receipts::expected_objects(&contents, &receipts, &chain, options.source());
        let present = expectations
            .objects
            .iter()
            .filter_map(|expected| contents.objects.get(&expected.window));
        for listed in present {
            progress.objects.fetch_add(1, Ordering::Relaxed);
            progress.bytes.fetch_add(listed.size, Ordering::Relaxed);
        }
        work.push((contents, chain, expectations));
    }
    for (contents, chain, expectations) in work {
        let seen = check_objects(options, &contents, &expectations.objects, progress).await;
        report
            .roots
            .push(build_report(options, &contents, &chain, expectations, &seen));
    }
    Ok(report.conclude(&options.prefix))
}

/// Lists the roots below the prefix, and a finding for each file outside of them.
pub async fn list_roots(options: &VerifyOptions) -> Result<(Vec<RootContents>, Vec<Finding>), StoreError> {
    let listing = contents::group_by_root(&options.prefix, options.store.list(&options.prefix).await?);
    let mut roots = listing.roots;
    if roots.is_empty() && options.export.is_some() {
        roots.push(RootContents::new(ArchiveRoot::from_prefix(&options.prefix)));
    }
    for contents in &mut roots {
        contents
            .objects
            .retain(|window, _| options.includes(window.date()));
    }
    let foreign = listing
        .outside
        .into_iter()
        .map(|key| Finding::new(FindingKind::ForeignFile, key))
        .collect();
    Ok((roots, foreign))
}

impl VerifyOptions {
    /// Returns the source of the export, if one is given. Receipts of other sources cover nothing then.
    pub fn source(&self) -> Option<&str> {
        self.export.as_ref().map(|export| export.source.as_str())
    }

    fn includes(&self, day: Date) -> bool {
        self.since.is_none_or(|since| day >= since) && self.until.is_none_or(|until| day <= until)
    }
}

/// Reads every receipt, manifest and signature of a root. Ignores files that are deleted after the listing.
pub async fn read_documents(
    options: &VerifyOptions,
    contents: &RootContents,
) -> Result<RootDocuments, StoreError> {
    let get = async |listed: &ObjectSummary, limit: u64| match options.store.get(&listed.key, limit).await {
        Err(error @ StoreError::LimitExceeded { .. }) => Ok(Some(Err(error.to_string()))),
        other => other.map(|bytes| bytes.map(Ok)),
    };
    let receipts: Vec<_> = stream::iter(&contents.receipts)
        .map(async |(window, listed)| {
            let bytes = get(listed, RECORD_MAX_BYTES).await?;
            Ok::<_, StoreError>(bytes.map(|bytes| {
                let document = parse_document(bytes, |bytes| records::decode::<Receipt>(&listed.key, bytes));
                (*window, document)
            }))
        })
        .buffer_unordered(DOCUMENT_CONCURRENCY)
        .try_collect()
        .await?;
    let mut manifests = Manifests::new();
    for (number, listed) in &contents.manifests {
        let Some(bytes) = get(listed, MANIFEST_MAX_BYTES).await? else {
            continue;
        };
        let signature = match contents.signatures.get(number) {
            Some(listed) => get(listed, SIGNATURE_MAX_BYTES).await?,
            None => None,
        };
        let signature = signature.map(Result::unwrap_or_default);
        let signature = match &bytes {
            Ok(bytes) => signature::check(bytes, signature.as_deref(), &options.keys),
            Err(_) => signature::SignatureStatus::Absent,
        };
        let document = parse_document(bytes, |bytes| {
            document::parse_manifest::<Manifest>(&listed.key, *number, bytes)
        });
        manifests.insert(*number, (document, signature));
    }
    Ok(RootDocuments {
        receipts: receipts.into_iter().flatten().collect(),
        manifests,
    })
}

fn parse_document<T, E: ToString>(
    bytes: Result<bytes::Bytes, String>,
    read: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Document<T> {
    match bytes {
        Ok(bytes) => Document {
            sha256: hex(&Sha256::digest(&bytes)),
            parsed: read(&bytes).map_err(|error| error.to_string()),
        },
        Err(why) => Document {
            sha256: String::new(),
            parsed: Err(why),
        },
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
) -> Result<Option<ObjectProof>, StoreError> {
    let read_error = |message: String| StoreError::Io {
        store: options.store.name().to_owned(),
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
        let mut prover = ObjectProver::new(limit);
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
