//! Reads an archive and runs the checks: listing, receipts and manifests (see `recheck`), then every object, several
//! concurrently. Does I/O, reading only. Memory is bounded by the documents and a few pieces of each object in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZero, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use jiff::civil::Date;

use super::attestation::{ReceiptSignatures, Unsigned};
use super::build_report::build_report;
use super::contents::{ArchiveListing, RootContents};
use super::heads;
use super::object::ObjectReader;
use super::observation::ObjectObservation;
use super::pace::Pace;
use super::receipts::ExpectedObject;
use super::recheck::{self, ArchiveReading, Recheck};
use super::report::{ManifestRow, ManifestStatement, VerifyReport};
use super::revisions::RevisionReceipts;
use super::timestamps::{Timestamps, read_timestamps};
use super::versions;
use crate::archive::checkpoint::{SignedCheckpoint, parse_checkpoint};
use crate::archive::coverage::Expectation;
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::ArchiveRoot;
use crate::archive::manifest::Head;
use crate::archive::manifest::chain::{ChainAudit, Document, Receipts, SignedDocument};
use crate::archive::manifest::document::{self, MANIFEST_MAX_BYTES, Manifest};
use crate::archive::manifest::signature::{self, PublicKey, SignatureStatus};
use crate::archive::memory::{JournalMemory, JournalShare, ShareExceeded};
use crate::archive::read::{ReadDocument, get_document, per_document};
use crate::archive::receipt::read_receipt;
use crate::archive::records::{ArchiveRecord, RECORD_MAX_BYTES, Receipt, RecordError};
use crate::archive::window::Window;
use crate::storage::{IrregularKind, ObjectSummary, Store, StoreError};

/// Maximum concurrent reads of documents.
pub(super) const DOCUMENT_CONCURRENCY: usize = 32;
/// Concurrent reads of objects from a bucket, for each processor.
const OBJECTS_PER_CPU: usize = 4;
/// Maximum concurrent reads of objects from a bucket.
const OBJECT_CONCURRENCY_MAX: usize = 16;
/// Size up to which an object is read whatever its receipt states: 16 MiB.
const READ_ANYWAY_BYTES: u64 = 16 << 20;
/// Size up to which a gzip is decompressed whatever its receipt states: 64 MiB.
const DESCRIBED_MAX_BYTES: u64 = 64 << 20;
/// Maximum total size of the receipts and manifests of a root in bytes: 512 MiB.
const DOCUMENTS_MAX_BYTES: u64 = 512 << 20;
/// Memory for the listing of a complete archive, in KiB: 1 GiB.
const LISTING_KIB: u64 = 1 << 20;
/// Memory for the listing of a part of an archive, in KiB: 64 MiB.
const PARTIAL_LISTING_KIB: u64 = 64 << 10;
/// Memory that a document and the conclusions from it take, as a multiple of its size: 4.6 MB of documents, of ten years in
/// days, were seen to take 46 MiB.
const DOCUMENT_MEMORY_FACTOR: u64 = 10;
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
    /// Public keys. One of them must verify each signature. If there is one, everything that is covered must be signed.
    pub keys: Vec<PublicKey>,
    /// Exceptions from that.
    pub unsigned: Unsigned,
    /// Manifests that were noted, each of which must be in a chain of the archive.
    pub heads: Vec<Head>,
    /// True: each object must have one version, the one that its receipt states.
    pub versions: bool,
    /// First day to verify.
    pub since: Option<Date>,
    /// Last day to verify.
    pub until: Option<Date>,
    /// True for a part of a longer verification: only the keys of the given days and the manifests are read, the days
    /// are not asserted, and one object is read at a time. Checkpoints are left out.
    pub partial: bool,
    /// Maximum bytes of objects that are read per second, on average. `None`: no limit.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Further listings before a file is reported missing.
    pub recheck: Recheck,
    /// Memory for listings and documents, shared with others; `None`: the limits of a process of its own.
    pub memory: Option<Arc<JournalShare>>,
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

/// Receipts, manifests and checkpoints of a root.
#[derive(Debug, Default)]
pub struct RootDocuments {
    /// Every receipt.
    pub receipts: Receipts,
    /// Status of the signatures of receipts that have one.
    pub receipt_signatures: ReceiptSignatures,
    /// Receipts of later revisions.
    pub revisions: RevisionReceipts,
    /// Every manifest, by number.
    pub manifests: BTreeMap<u64, SignedDocument>,
    /// Every checkpoint, by day.
    pub checkpoints: BTreeMap<Date, SignedCheckpoint>,
    /// Every time stamp.
    pub timestamps: Timestamps,
}

/// Verifies an archive. Fails only on errors of the store.
pub async fn verify(
    options: &VerifyOptions,
    progress: &Arc<VerifyProgress>,
) -> Result<VerifyReport, StoreError> {
    let ArchiveReading {
        mut roots,
        mut findings,
    } = recheck::read_archive(options).await?;
    if options.versions {
        let versions = options.store.list_versions(&options.prefix).await?;
        for root in &mut roots {
            let superseded = versions::superseded(options, root, &versions);
            root.expectations.findings.extend(superseded);
        }
    }
    findings.extend(heads::missing(&options.prefix, &options.heads, &roots));
    let mut report = VerifyReport {
        roots: Vec::new(),
        findings,
    };
    for root in &roots {
        let present = root
            .expectations
            .objects
            .iter()
            .filter_map(|expected| root.contents.object(&expected.key));
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
    let ArchiveListing { roots, outside } = list_keys(options).await?;
    let mut roots: Vec<RootContents> = roots.into_values().collect();
    if roots.is_empty() && options.expectation.is_some() {
        roots.push(RootContents::new(ArchiveRoot::from_prefix(&options.prefix)));
    }
    for contents in &mut roots {
        contents.retain_objects(|_, window| options.includes(window.date()));
        contents
            .revisions
            .retain(|(window, _), _| options.includes(window.date()));
    }
    let mut findings: Vec<Finding> = outside.findings(&options.prefix, |_| true).collect();
    let irregular = options.store.list_irregular(&options.prefix).await?;
    findings.extend(irregular.into_iter().map(|entry| {
        let root = ArchiveRoot::of(&options.prefix, &entry.key);
        let prefix = root.as_ref().map_or(&*options.prefix, ArchiveRoot::as_str);
        let below = entry.key.strip_prefix(prefix).unwrap_or(&entry.key);
        let kind = if ArchiveRoot::is_skipped(below, 1) && entry.kind != IrregularKind::FolderLink {
            FindingKind::SkippedFile
        } else {
            FindingKind::IrregularFile
        };
        Finding::new(kind, entry.key).found(entry.kind.description())
    }));
    Ok((roots, findings))
}

/// Lists the keys below the prefix; of a partial verification, those of its days and the manifests. A checkpoint states
/// receipts of many days, so that it needs a complete verification.
async fn list_keys(options: &VerifyOptions) -> Result<ArchiveListing, StoreError> {
    let root = ArchiveRoot::from_prefix(&options.prefix);
    let (prefixes, limit) = match (options.partial, options.since, options.until) {
        (true, Some(since), Some(until)) => {
            let prefixes = root.prefixes_of_days(since, until);
            (prefixes.into_iter().collect(), PARTIAL_LISTING_KIB)
        }
        _ => (vec![options.prefix.clone()], LISTING_KIB),
    };
    let wanted = |key: &str| !options.partial || root.day_of(key).is_none_or(|day| options.includes(day));
    let memory = match &options.memory {
        Some(shared) => Arc::clone(shared),
        None => Arc::new(JournalMemory::new(limit).alone()),
    };
    let (mut listing, mut exceeded) = (ArchiveListing::default(), Ok(()));
    for prefix in prefixes {
        let mut add_page = |page: Vec<ObjectSummary>| {
            for row in page.into_iter().filter(|row| wanted(&row.key)) {
                if exceeded.is_ok() {
                    exceeded = listing.add(&options.prefix, row, &memory);
                }
            }
        };
        options.store.list_pages(&prefix, &mut add_page).await?;
    }
    match exceeded {
        Ok(()) => Ok(listing),
        Err(_) if options.memory.is_some() => Err(options.share_exceeded()),
        Err(_) => Err(StoreError::ArchiveTooLarge {
            store: options.store.identity().to_string(),
            prefix: options.prefix.clone(),
            limit: format!("{} MiB of memory", limit / 1024),
        }),
    }
}

impl VerifyOptions {
    /// Returns the options of a complete verification of the archives below a prefix by what their manifests state, without
    /// keys: every object is read.
    pub fn new(store: Arc<dyn Store>, prefix: &str) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            expectation: None,
            hour: None,
            quick: false,
            keys: Vec::new(),
            unsigned: Unsigned::Refused,
            heads: Vec::new(),
            versions: false,
            since: None,
            until: None,
            partial: false,
            bytes_per_second: None,
            recheck: Recheck::default(),
            memory: None,
        }
    }

    /// Returns the expected source, if one is given. Receipts of other sources cover nothing then.
    pub fn source(&self) -> Option<&str> {
        self.expectation.as_ref()?.source.as_deref()
    }

    /// Takes shared memory for documents of a total size in bytes.
    fn take_memory(&self, bytes: u64) -> Result<(), StoreError> {
        let taken: Result<(), ShareExceeded> = match &self.memory {
            Some(shared) => shared.add(bytes.saturating_mul(DOCUMENT_MEMORY_FACTOR)),
            None => Ok(()),
        };
        taken.map_err(|ShareExceeded| self.share_exceeded())
    }

    fn share_exceeded(&self) -> StoreError {
        StoreError::ArchiveTooLarge {
            store: self.store.identity().to_string(),
            prefix: self.prefix.clone(),
            limit: JournalMemory::limit(),
        }
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
    let later = contents
        .revisions
        .values()
        .filter_map(|rows| rows.receipt.as_ref());
    let rows = contents.receipts.values().chain(contents.manifests.values());
    let rows = rows.chain(later);
    let rows = rows.chain(contents.checkpoints.values());
    let total = rows.fold(0_u64, |total, row| total.saturating_add(row.size));
    if total > DOCUMENTS_MAX_BYTES {
        return Err(StoreError::ArchiveTooLarge {
            store: store.identity().to_string(),
            prefix: contents.root.as_str().to_owned(),
            limit: format!("{DOCUMENTS_MAX_BYTES} bytes of receipts, manifests and checkpoints"),
        });
    }
    if known.is_none() {
        options.take_memory(total)?;
    }
    let mut out = known.map_or_else(RootDocuments::default, |(old, documents)| {
        documents.retain_unchanged(&old, contents)
    });
    let unread = contents
        .receipts
        .iter()
        .filter(|(window, _)| !out.receipts.contains_key(window))
        .map(|(window, listed)| (*window, listed.key.clone()));
    // Of owned items: a stream of references is not `Send`.
    let receipts: Vec<Option<_>> = stream::iter(unread.collect::<Vec<_>>())
        .map(|(window, key)| async move {
            let bytes = get_document(store, &key, RECORD_MAX_BYTES, Receipt::SCHEMA).await;
            let (document, status) = match per_document(bytes)? {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => {
                    let listed = contents.receipt_signatures.get(&window);
                    let status = check_receipt_signature(options, listed, &bytes).await?;
                    let document =
                        Document::new(&bytes, |bytes| read_receipt(&contents.root, window, 0, bytes));
                    (document, status)
                }
                Err(error) => (Document::unreadable(error), SignatureStatus::Absent),
            };
            Ok::<_, StoreError>(Some((window, document, status)))
        })
        .buffer_unordered(DOCUMENT_CONCURRENCY)
        .try_collect()
        .await?;
    for (window, document, status) in receipts.into_iter().flatten() {
        out.receipts.insert(window, document);
        if status != SignatureStatus::Absent {
            out.receipt_signatures.insert(window, status);
        }
    }
    let unread = contents.revisions.iter().filter_map(|(revision, rows)| {
        let listed = rows.receipt.as_ref()?;
        (!out.revisions.contains_key(revision)).then(|| (*revision, listed.key.clone()))
    });
    let revisions: Vec<Option<_>> = stream::iter(unread.collect::<Vec<_>>())
        .map(|((window, number), key)| async move {
            let bytes = get_document(store, &key, RECORD_MAX_BYTES, Receipt::SCHEMA).await;
            let read = match per_document(bytes)? {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => {
                    let rows = contents.revisions.get(&(window, number));
                    let signature = rows.and_then(|rows| rows.signature.as_ref());
                    let status = check_receipt_signature(options, signature, &bytes).await?;
                    let read = |bytes: &[u8]| read_receipt(&contents.root, window, number, bytes);
                    (Document::new(&bytes, read), status)
                }
                Err(error) => (Document::unreadable(error), SignatureStatus::Absent),
            };
            Ok::<_, StoreError>(Some(((window, number), read)))
        })
        .buffer_unordered(DOCUMENT_CONCURRENCY)
        .try_collect()
        .await?;
    out.revisions.extend(revisions.into_iter().flatten());
    for (number, listed) in &contents.manifests {
        if out.manifests.contains_key(number) {
            continue;
        }
        let signature = contents.signatures.get(number);
        let parse = |bytes: &[u8]| document::parse_manifest::<Manifest>(&listed.key, *number, bytes);
        if let Some(document) = read_signed(options, (listed, MANIFEST_MAX_BYTES), signature, parse).await? {
            out.manifests.insert(*number, document);
        }
    }
    let unread = contents
        .checkpoints
        .iter()
        .filter(|(day, _)| !out.checkpoints.contains_key(*day))
        .map(|(day, listed)| (*day, listed.clone()));
    let checkpoints: Vec<Option<_>> = stream::iter(unread.collect::<Vec<_>>())
        .map(|(day, listed)| async move {
            let signature = contents.checkpoint_signatures.get(&day);
            let parse = |bytes: &[u8]| parse_checkpoint(&listed.key, day, bytes);
            let read = read_signed(options, (&listed, RECORD_MAX_BYTES), signature, parse).await?;
            Ok::<_, StoreError>(read.map(|document| (day, document)))
        })
        .buffer_unordered(DOCUMENT_CONCURRENCY)
        .try_collect()
        .await?;
    out.checkpoints.extend(checkpoints.into_iter().flatten());
    out.timestamps = read_timestamps(options, contents).await?;
    Ok(out)
}

/// Reads a document and its signature; `None` if the document does not exist.
async fn read_signed<R>(
    options: &VerifyOptions,
    (listed, max_bytes): (&ObjectSummary, u64),
    signature: Option<&ObjectSummary>,
    parse: impl FnOnce(&[u8]) -> Result<R, RecordError>,
) -> Result<Option<(Document<R>, SignatureStatus)>, StoreError>
where
    R: ArchiveRecord,
{
    let store = &*options.store;
    let unreadable = |error| Ok(Some((Document::unreadable(error), SignatureStatus::Absent)));
    let bytes = get_document(store, &listed.key, max_bytes, R::SCHEMA).await;
    let bytes = match per_document(bytes)? {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => bytes,
        Err(error) => return unreadable(error),
    };
    let signature = match signature {
        None => None,
        Some(listed) => match read_signature(store, &listed.key).await? {
            Ok(signature) => signature,
            Err(error) => return unreadable(error),
        },
    };
    let status = signature::check(&bytes, signature.as_deref(), &options.keys);
    Ok(Some((Document::new(&bytes, parse), status)))
}

/// Reads a signature; `None` if it does not exist, empty if the file is too long for one. Fails if the store has archived it.
async fn read_signature(
    store: &dyn Store,
    key: &str,
) -> Result<Result<Option<bytes::Bytes>, RecordError>, StoreError> {
    let read = get_document(store, key, SIGNATURE_MAX_BYTES, Manifest::SCHEMA).await;
    Ok(match per_document(read)? {
        Err(error) if !matches!(error, RecordError::Archived { .. }) => Ok(Some(bytes::Bytes::new())),
        read => read.map(|found| found.map(ReadDocument::into_bytes)),
    })
}

/// Reads and checks the signature of a receipt, if there is a key.
async fn check_receipt_signature(
    options: &VerifyOptions,
    listed: Option<&ObjectSummary>,
    receipt: &[u8],
) -> Result<SignatureStatus, StoreError> {
    let Some(listed) = listed else {
        return Ok(SignatureStatus::Absent);
    };
    if options.keys.is_empty() {
        return Ok(SignatureStatus::Unchecked);
    }
    let signature = read_signature(&*options.store, &listed.key).await?;
    let signature = signature.unwrap_or_default();
    Ok(signature::check(receipt, signature.as_deref(), &options.keys))
}

impl RootDocuments {
    /// Returns the times at which the readable manifests were written.
    pub fn written_at(&self) -> impl Iterator<Item = Timestamp> {
        let readable = self.manifests.values();
        readable.filter_map(|(document, _)| Some(document.parsed.as_ref().ok()?.written_at))
    }

    /// Returns the manifests in brief.
    pub fn manifest_rows(&self, chain: &ChainAudit) -> Vec<ManifestRow> {
        let rows = self
            .manifests
            .iter()
            .map(|(number, (document, signature))| ManifestRow {
                sequence: *number,
                sha256: document.sha256.clone(),
                valid: chain.valid.contains(number),
                signature: *signature,
                statement: document.parsed.as_ref().ok().map(|manifest| ManifestStatement {
                    period: manifest.period,
                    events: manifest.totals.events,
                    written_at: manifest.written_at,
                    key_id: manifest.key_id.clone(),
                }),
            });
        rows.collect()
    }

    /// Returns the documents whose rows are the same in both listings.
    fn retain_unchanged(mut self, old: &RootContents, new: &RootContents) -> Self {
        let unchanged = |window: &Window| {
            old.receipts.get(window) == new.receipts.get(window)
                && old.receipt_signatures.get(window) == new.receipt_signatures.get(window)
        };
        self.receipts.retain(|window, _| unchanged(window));
        self.receipt_signatures.retain(|window, _| unchanged(window));
        self.revisions
            .retain(|revision, _| old.revisions.get(revision) == new.revisions.get(revision));
        self.manifests.retain(|number, _| {
            old.manifests.get(number) == new.manifests.get(number)
                && old.signatures.get(number) == new.signatures.get(number)
        });
        self.checkpoints.retain(|day, _| {
            old.checkpoints.get(day) == new.checkpoints.get(day)
                && old.checkpoint_signatures.get(day) == new.checkpoint_signatures.get(day)
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
    let at_once = match (options.quick, options.store.is_local()) {
        (true, _) => DOCUMENT_CONCURRENCY,
        (false, _) if options.partial => 1,
        (false, true) => processors,
        (false, false) => (processors * OBJECTS_PER_CPU).min(OBJECT_CONCURRENCY_MAX),
    };
    let sizes: BTreeSet<u64> = expected.iter().map(|expected| expected.bytes).collect();
    let sizes = &sizes;
    let reader = &ObjectReader {
        store: Arc::clone(&options.store),
        pace: options.bytes_per_second.map(Pace::new),
        progress: Arc::clone(progress),
    };
    // Of numbers: a stream of references is not `Send`.
    stream::iter(0..expected.len())
        .map(|index| async move {
            let expected = expected.get(index)?;
            let listed = contents.object(&expected.key)?;
            let seen = if options.quick {
                match options.store.head_recorded(&listed.key).await {
                    Ok(None) => return None,
                    // Anyone who can write to a directory can write its side files too.
                    Ok(Some(info)) if options.store.is_local() => Ok(ObjectObservation::of_size(info.size)),
                    Ok(Some(info)) => Ok(ObjectObservation::from(info)),
                    Err(error) => Err(error),
                }
            } else {
                if !is_readable(listed.size, expected, sizes) {
                    progress.bytes_done.fetch_add(listed.size, Ordering::Relaxed);
                    progress.objects_done.fetch_add(1, Ordering::Relaxed);
                    return Some(Ok(ObjectObservation::of_size(listed.size)));
                }
                let limit = expected.decompressed.max(DESCRIBED_MAX_BYTES);
                match reader.prove(listed, limit, ()).await {
                    Ok(None) => return None,
                    Ok(Some((proved, ()))) => Ok(ObjectObservation::from(proved)),
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

/// Returns true if an object is read although its size may differ from the stated one: it is small, not longer than
/// stated, or as long as another object, whose bytes it may have. Nothing bounds the size of others.
fn is_readable(size: u64, expected: &ExpectedObject, sizes: &BTreeSet<u64>) -> bool {
    size <= expected.bytes.max(READ_ANYWAY_BYTES) || sizes.contains(&size)
}
