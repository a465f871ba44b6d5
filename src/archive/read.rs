//! Reads the journal of a root: its listing, and the records that decisions need. Reads the store.
//!
//! Windows of sealed periods are read from their manifests, one request for each period instead of one for each window.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::layout::{ArchiveRoot, AttemptId, Key};
use super::listing::{ExpiredFacts, Journal, LateFacts};
use super::manifest::chain::{ChainWalk, SealedPeriods};
use super::manifest::document::{self, MANIFEST_MAX_BYTES, Manifest, SIGNATURE_BYTES};
use super::manifest::signature::{PublicKey, SignatureStatus, signer};
use super::manifest::{LinkSignature, ManifestLink};
use super::memory::{JournalMemory, JournalShare, ShareExceeded, reserve_read};
use super::presence::find_unlisted;
use super::receipt::{ReceiptFacts, Sha256Digest, read_receipt, receipt_key};
use super::records::{
    self, ArchiveRecord, AttemptRecord, ExpiredRecord, LateRecord, RECORD_MAX_BYTES, Receipt, RecordError,
    SplitRecord,
};
use super::window::Window;
use crate::archive::stored_document::{Document, Receipts, SignedDocument};
use crate::shares::semaphore::FairPermit;
use crate::storage::{ObjectSummary, Store, StoreError};

/// Maximum concurrent reads of records.
const READ_CONCURRENCY: usize = 16;

/// Maximum concurrent reads of manifests, which are larger.
const MANIFEST_CONCURRENCY: usize = 2;

/// Precision of the times in a listing: 1 s.
const LISTED_TIME_PRECISION: SignedDuration = SignedDuration::from_secs(1);

/// Minimum size of a receipt in bytes: a smaller one is not taken from a manifest.
const RECEIPT_MIN_BYTES: u64 = 200;

/// Error of reading a document of the journal.
#[derive(Debug, thiserror::Error)]
pub enum RecordReadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The document exists but cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Windows to read.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Days whose records are read; `None`: all.
    pub days: Option<RangeInclusive<Date>>,
    /// True: read every manifest. False: only those that save requests for receipts.
    pub all_manifests: bool,
    /// Keys of which one must have signed a manifest that is read instead of receipts; `None`: signatures are not read.
    pub trusted: Option<Vec<PublicKey>>,
    /// Memory for the journal, or for those of all roots.
    pub memory: Arc<JournalShare>,
}

/// Document that is being read. Its memory is returned when it is dropped.
#[derive(Debug)]
pub struct ReadDocument {
    bytes: Bytes,
    _memory: Option<FairPermit>,
}

impl ReadDocument {
    /// Returns the bytes of a small document, and its memory.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl std::ops::Deref for ReadDocument {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the error of an archive whose journal exceeds its share of the memory.
fn too_large(store: &dyn Store, prefix: &str) -> impl Fn(ShareExceeded) -> StoreError {
    let (store, prefix) = (store.identity().to_string(), prefix.to_owned());
    move |ShareExceeded| StoreError::ArchiveTooLarge {
        store: store.clone(),
        prefix: prefix.clone(),
        limit: JournalMemory::limit(),
    }
}

/// Times at which the store accepted receipts and manifests, and the sizes of manifests, by its listing.
#[derive(Debug, Default)]
struct ListedTimes {
    receipts: BTreeMap<Window, Timestamp>,
    manifests: BTreeMap<u64, Timestamp>,
    manifest_sizes: BTreeMap<u64, u64>,
}

/// Listing of a root.
#[derive(Debug, Default)]
struct ListedRoot {
    journal: Journal,
    times: ListedTimes,
}

impl ListedRoot {
    fn add(
        &mut self,
        root: &ArchiveRoot,
        row: &ObjectSummary,
        memory: &JournalShare,
    ) -> Result<(), ShareExceeded> {
        let key = root.parse(&row.key);
        memory.add_key(&key)?;
        self.times.add(&key, row);
        self.journal.insert(key, row.size);
        Ok(())
    }
}

impl ReadOptions {
    fn includes(&self, window: Window) -> bool {
        self.days
            .as_ref()
            .is_none_or(|days| days.contains(&window.date()))
    }
}

/// Lists all keys of a root, and reads its records except those of attempts. Returns the journal and the statements of
/// the manifests that were read.
pub async fn read_journal(
    store: &dyn Store,
    root: &ArchiveRoot,
    options: &ReadOptions,
) -> Result<(Journal, SealedPeriods), StoreError> {
    let mut listed = Ok(ListedRoot::default());
    store
        .list_pages(root.as_str(), &mut |page| {
            for row in page {
                if let Ok(found) = &mut listed
                    && let Err(exceeded) = found.add(root, &row, &options.memory)
                {
                    // What follows is only counted, by the store.
                    listed = Err(exceeded);
                }
            }
        })
        .await?;
    let listed = listed.map_err(too_large(store, root.as_str()))?;
    read_listed(store, root, listed, options).await
}

/// Lists all keys below a prefix, and reads the records of each root as [`read_journal`] does.
pub async fn read_roots(
    store: &dyn Store,
    prefix: &str,
    options: &ReadOptions,
) -> Result<Vec<(ArchiveRoot, Journal, SealedPeriods)>, StoreError> {
    let mut roots: BTreeMap<String, (ArchiveRoot, ListedRoot)> = BTreeMap::new();
    let mut exceeded = Ok(());
    store
        .list_pages(prefix, &mut |page| {
            for row in page {
                if exceeded.is_err() {
                    return;
                }
                let root = ArchiveRoot::of(prefix, &row.key);
                let Some(root) = root.filter(|_| !ArchiveRoot::is_internal(&row.key)) else {
                    continue;
                };
                let name = root.as_str().to_owned();
                let (root, listed) = roots.entry(name).or_insert_with(|| (root, ListedRoot::default()));
                exceeded = listed.add(root, &row, &options.memory);
                if exceeded.is_err() {
                    roots.clear();
                }
            }
        })
        .await?;
    exceeded.map_err(too_large(store, prefix))?;
    let mut read = Vec::with_capacity(roots.len());
    for (root, listed) in roots.into_values() {
        let (journal, sealed) = read_listed(store, &root, listed, options).await?;
        read.push((root, journal, sealed));
    }
    Ok(read)
}

async fn read_listed(
    store: &dyn Store,
    root: &ArchiveRoot,
    listed: ListedRoot,
    options: &ReadOptions,
) -> Result<(Journal, SealedPeriods), StoreError> {
    let ListedRoot { mut journal, times } = listed;
    journal.memory = Some(Arc::clone(&options.memory));
    let wanted = |window| options.includes(window);
    let sealed = read_manifests(store, root, &mut journal, &times, options).await?;
    drop(times);
    read_receipts(store, root, &mut journal, wanted).await?;
    read_unlisted_receipts(store, root, &mut journal, wanted).await?;
    read_negative_records(store, root, &mut journal, wanted).await?;
    Ok((journal, sealed))
}

/// Lists the keys of one day, and reads its records except those of attempts.
pub async fn read_day(
    store: &dyn Store,
    root: &ArchiveRoot,
    window: Window,
    memory: JournalShare,
) -> Result<Journal, StoreError> {
    let mut journal = list_keys(store, root, &root.day_journal_prefix(window), memory).await?;
    list_more_keys(store, root, &root.day_objects_prefix(window), &mut journal).await?;
    // Few days have later revisions.
    if journal.revisions.values().any(|files| files.has_receipt) {
        list_more_keys(store, root, &root.day_revisions_prefix(window), &mut journal).await?;
    }
    read_receipts(store, root, &mut journal, |_| true).await?;
    read_unlisted_receipts(store, root, &mut journal, |_| true).await?;
    read_negative_records(store, root, &mut journal, |_| true).await?;
    Ok(journal)
}

/// Lists the keys of a root below a prefix, without reading any. Foreign keys are not kept.
pub async fn list_keys(
    store: &dyn Store,
    root: &ArchiveRoot,
    prefix: &str,
    memory: JournalShare,
) -> Result<Journal, StoreError> {
    let mut journal = Journal {
        memory: Some(Arc::new(memory)),
        ..Journal::default()
    };
    list_more_keys(store, root, prefix, &mut journal).await?;
    Ok(journal)
}

/// Adds the keys of a root below a prefix to a journal.
async fn list_more_keys(
    store: &dyn Store,
    root: &ArchiveRoot,
    prefix: &str,
    journal: &mut Journal,
) -> Result<(), StoreError> {
    let memory = journal.memory.clone().unwrap_or_default();
    let mut exceeded = Ok(());
    store
        .list_pages(prefix, &mut |page| {
            for row in page {
                let key = root.parse(&row.key);
                exceeded = exceeded.and_then(|()| memory.add_key(&key));
                if exceeded.is_ok() {
                    journal.insert(key, row.size);
                }
            }
        })
        .await?;
    exceeded.map_err(too_large(store, prefix))
}

impl ListedTimes {
    /// Returns true if the store accepted the receipt of a window before a time, and not in the same second.
    fn is_older(&self, window: Window, time: Timestamp) -> bool {
        let stored_at = self.receipts.get(&window);
        stored_at.is_some_and(|stored_at| time.duration_since(*stored_at) >= LISTED_TIME_PRECISION)
    }

    fn add(&mut self, key: &Key, row: &ObjectSummary) {
        if let Key::Manifest(number) = key {
            self.manifest_sizes.insert(*number, row.size);
        }
        let Some(time) = row.last_modified else { return };
        match key {
            // A receipt of this size is damaged.
            Key::Receipt(window) if row.size >= RECEIPT_MIN_BYTES => {
                self.receipts.insert(*window, time);
            }
            Key::Manifest(number) => {
                self.manifests.insert(*number, time);
            }
            _ => {}
        }
    }
}

/// Reads manifests, the newest first, and takes from the valid ones the facts of receipts that are older than the
/// manifest. Without [`ReadOptions::all_manifests`], reads no more manifests than there are unread receipts.
async fn read_manifests(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    times: &ListedTimes,
    options: &ReadOptions,
) -> Result<SealedPeriods, StoreError> {
    let unread = |journal: &Journal, before: Timestamp| {
        let windows = journal.unread_receipts().into_iter();
        let older = |window: &Window| times.is_older(*window, before);
        windows
            .filter(|window| options.includes(*window))
            .filter(older)
            .count()
    };
    let mut useful = unread(journal, Timestamp::MAX);
    let limit = if options.all_manifests { usize::MAX } else { useful };
    let manifests = journal.chain.manifests.iter().rev().copied();
    let mut numbers: VecDeque<u64> = manifests.take(limit).collect();
    let mut walk = ChainWalk::new(root, false);
    let mut last = None;
    while !numbers.is_empty() && (options.all_manifests || useful > 0) {
        // The newest may be enough.
        let at_once = if last.is_none() { 1 } else { MANIFEST_CONCURRENCY };
        let next: Vec<u64> = numbers.drain(..at_once.min(numbers.len())).collect();
        let reads = next.into_iter().map(async |number| {
            let listed = times.manifest_sizes.get(&number).copied();
            let limit = listed.map_or(MANIFEST_MAX_BYTES, |size| size.min(MANIFEST_MAX_BYTES));
            let found = get_manifest(store, root, number, limit, options.trusted.as_deref()).await?;
            // Its bytes are returned to the budget before another manifest is awaited.
            let parse = |(bytes, signature)| (parse_manifest(root, number, bytes, &signature), signature);
            Ok::<_, StoreError>((number, found.map(parse)))
        });
        for (number, found) in try_join_all(reads).await? {
            if last.is_some_and(|last| last != number + 1) {
                walk.step(number + 1, None, &Receipts::new());
            }
            last = Some(number);
            let signature = found
                .as_ref()
                .map(|(_, signature)| signature.clone())
                .unwrap_or_default();
            let found = found.map(|(document, _)| document);
            // The digests in later manifests protect the earlier ones; the newest is compared with a receipt.
            let receipts = match &found {
                Some((document, _)) if journal.chain.links.is_empty() => {
                    read_sample(store, root, journal, document).await?
                }
                _ => Receipts::new(),
            };
            let valid = walk.step(number, found.as_ref(), &receipts);
            let Some((document, _)) = found else { continue };
            let Ok(manifest) = document.parsed else { continue };
            let trusted = match signature {
                LinkSignature::Unread => options.trusted.is_none(),
                LinkSignature::SignedBy(_) => true,
                LinkSignature::Absent | LinkSignature::Invalid => false,
            };
            if valid && trusted {
                let listed = times.manifests.get(&number).copied();
                let written = listed.map_or(manifest.written_at, |listed| listed.min(manifest.written_at));
                take_sealed(journal, &manifest, written, times, options);
                // Earlier manifests know only earlier receipts.
                useful = unread(journal, written);
            }
            let gaps = manifest.accepted_gaps.iter();
            let gaps = gaps.map(|gap| (size_of_val(gap) + gap.reason.len()) as u64);
            let taken = journal.take_memory(size_of::<ManifestLink>() as u64 + gaps.sum::<u64>());
            taken.map_err(too_large(store, root.as_str()))?;
            let link = ManifestLink::new(manifest, document.sha256, signature);
            journal.chain.links.insert(number, link);
        }
    }
    Ok(walk.finish().sealed)
}

/// Reads the bytes of a manifest, or the reason that it cannot be read, and its signature; `None` if the manifest does
/// not exist.
async fn get_manifest(
    store: &dyn Store,
    root: &ArchiveRoot,
    number: u64,
    limit: u64,
    trusted: Option<&[PublicKey]>,
) -> Result<Option<(Result<ReadDocument, RecordError>, LinkSignature)>, StoreError> {
    let key = root.key(&Key::Manifest(number)).unwrap_or_default();
    let read = get_document(store, &key, limit, Manifest::SCHEMA).await;
    let Some(bytes) = per_document(read)?.transpose() else {
        return Ok(None);
    };
    let signature = match (&bytes, trusted) {
        (Ok(bytes), Some(trusted)) => {
            let key = root.key(&Key::Signature(number)).unwrap_or_default();
            let signature = get_document(store, &key, SIGNATURE_BYTES as u64, Manifest::SCHEMA).await;
            match per_document(signature)? {
                Ok(None) => LinkSignature::Absent,
                Ok(Some(signature)) => signer(bytes, &signature, trusted)
                    .map_or(LinkSignature::Invalid, |key| LinkSignature::SignedBy(key.id())),
                // Larger than a signature.
                Err(RecordError::Unreadable { .. }) => LinkSignature::Invalid,
                // Not to be read now, which says nothing about it.
                Err(_) => LinkSignature::Unread,
            }
        }
        _ => LinkSignature::Unread,
    };
    Ok(Some((bytes, signature)))
}

fn parse_manifest(
    root: &ArchiveRoot,
    number: u64,
    bytes: Result<ReadDocument, RecordError>,
    signature: &LinkSignature,
) -> SignedDocument {
    let key = root.key(&Key::Manifest(number)).unwrap_or_default();
    let document = match bytes {
        Ok(bytes) => Document::new(&bytes, |bytes| document::parse_manifest(&key, number, bytes)),
        Err(error) => Document::unreadable(error),
    };
    (document, SignatureStatus::from(signature))
}

/// Reads one receipt that a manifest lists.
async fn read_sample(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &Journal,
    document: &Document<Manifest>,
) -> Result<Receipts, StoreError> {
    let entries = document.parsed.iter().flat_map(|manifest| &manifest.windows);
    let mut windows = entries.filter_map(|entry| entry.window.parse::<Window>().ok());
    let Some(window) = windows.find(|window| journal.receipts.contains_key(window)) else {
        return Ok(Receipts::new());
    };
    let key = root.key(&Key::Receipt(window)).unwrap_or_default();
    let read = get_document(store, &key, RECORD_MAX_BYTES, Receipt::SCHEMA).await;
    let Ok(Some(bytes)) = per_document(read)? else {
        return Ok(Receipts::new());
    };
    let receipt = Document::new(&bytes, |bytes| read_receipt(root, window, 0, bytes));
    Ok(Receipts::from([(window, receipt)]))
}

/// Takes the facts of unread receipts from a valid manifest. A receipt that the store accepted after the manifest was
/// written, or in the same second, is read itself.
fn take_sealed(
    journal: &mut Journal,
    manifest: &Manifest,
    written: Timestamp,
    times: &ListedTimes,
    options: &ReadOptions,
) {
    let source: Arc<str> = manifest.source.as_str().into();
    let days: BTreeMap<Date, _> = manifest.days.iter().map(|day| (day.date, day)).collect();
    for entry in &manifest.windows {
        let Ok(window) = entry.window.parse::<Window>() else {
            continue;
        };
        // Few windows have later revisions: their receipts are read.
        if journal.highest_revision_receipt(window) > 0 || !entry.revisions.is_empty() {
            continue;
        }
        let Some(unread @ None) = journal.receipts.get_mut(&window) else {
            continue;
        };
        let Some(stored_at) = times.receipts.get(&window) else {
            continue;
        };
        if !times.is_older(window, written) || !options.includes(window) {
            continue;
        }
        let Some(day) = days.get(&window.date()) else {
            continue;
        };
        let split = manifest.period.hour.is_none() && window.hour_of_day().is_some();
        let day_reported = day.reported.filter(|_| split);
        if let Some(facts) = ReceiptFacts::from_manifest(&source, entry, day_reported, *stored_at) {
            *unread = Some(Box::new(facts));
        }
    }
}

/// Reads the wanted attempts that are not read yet.
pub async fn read_attempts(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    wanted: impl Fn(AttemptId) -> bool,
) -> Result<(), StoreError> {
    let attempts = journal.unread_attempts().into_iter().filter(|id| wanted(*id));
    let reads = stream::iter(attempts.collect::<Vec<_>>().into_iter().map(|id| async move {
        let record = get_record::<AttemptRecord>(store, root, &Key::Attempt(id)).await;
        Ok::<_, StoreError>((id, per_document(record)?))
    }));
    let found: Vec<_> = reads.buffer_unordered(READ_CONCURRENCY).try_collect().await?;
    for (id, record) in found {
        let Some(facts) = journal.attempts.get_mut(&id) else {
            continue;
        };
        let taken: u64 = match &record {
            Ok(Some(record)) => {
                let texts = [&record.process, &record.tracker_user].into_iter().flatten();
                let texts = texts
                    .chain([&record.holder, &record.source])
                    .chain(&record.open_before);
                texts.map(|text| (size_of::<String>() + text.len()) as u64).sum()
            }
            Ok(None) | Err(_) => 0,
        };
        match record {
            Ok(Some(record)) => facts.record = Some(record),
            // Deleted by its writer since the listing.
            Ok(None) => {
                journal.attempts.remove(&id);
            }
            Err(error) => {
                tracing::warn!(attempt = %id, %error, "cannot read attempt");
                facts.unreadable = Some(error);
            }
        }
        journal
            .take_memory(taken)
            .map_err(too_large(store, root.as_str()))?;
    }
    Ok(())
}

/// Reads the receipts of the wanted windows that are not read yet. One that cannot be used is marked as such.
pub async fn read_receipts(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    wanted: impl Fn(Window) -> bool,
) -> Result<(), StoreError> {
    let mut windows = journal.unread_receipts();
    windows.retain(|window| wanted(*window));
    let all = windows.clone();
    let windows: Vec<(Window, u32)> = windows
        .into_iter()
        .map(|window| (window, journal.highest_revision_receipt(window)))
        .collect();
    let reads = stream::iter(windows).map(async |(window, highest)| {
        let facts = read_facts(store, root, window, highest).await;
        Ok::<_, StoreError>((window, per_document(facts)?))
    });
    let mut reads = reads.buffer_unordered(READ_CONCURRENCY);
    let mut sources = BTreeSet::new();
    while let Some((window, facts)) = reads.try_next().await? {
        match facts {
            Ok(Some(mut facts)) => {
                let known = sources.len();
                facts.source = shared(&mut sources, facts.source);
                let source = if sources.len() > known {
                    facts.source.len() as u64
                } else {
                    0
                };
                let taken = journal.take_memory(facts.extra_bytes() + source);
                taken.map_err(too_large(store, root.as_str()))?;
                journal.receipts.insert(window, Some(Box::new(facts)));
            }
            // Deleted since the listing.
            Ok(None) => {
                journal.receipts.remove(&window);
            }
            Err(error) => {
                tracing::warn!(%window, %error, "cannot use receipt");
                journal.unreadable.insert(window, error);
            }
        }
    }
    // If the store refuses all of them, the permission is missing, and no window is damaged.
    let refused =
        |window: &Window| matches!(journal.unreadable.get(window), Some(RecordError::Refused { .. }));
    if let [first, _, ..] = all[..]
        && all.iter().all(refused)
    {
        let key = root.key(&Key::Receipt(first)).unwrap_or_default();
        store.get(&key, RECORD_MAX_BYTES).await?;
    }
    add_unlisted_objects(store, root, journal, &wanted).await
}

/// Reads the receipts of a window up to the highest revision; `None` if the first one does not exist. Only the facts are
/// kept: an archive of years has more receipts than fit into memory.
async fn read_facts(
    store: &dyn Store,
    root: &ArchiveRoot,
    window: Window,
    highest: u32,
) -> Result<Option<ReceiptFacts>, RecordReadError> {
    let mut facts: Option<ReceiptFacts> = None;
    for revision in 0..=highest {
        let key = root.key(&receipt_key(window, revision)).unwrap_or_default();
        let bytes = get_document(store, &key, RECORD_MAX_BYTES, Receipt::SCHEMA).await?;
        let Some(bytes) = bytes else {
            return match highest {
                0 => Ok(None),
                _ => Err(RecordError::Missing { key }.into()),
            };
        };
        let receipt = read_receipt(root, window, revision, &bytes)?;
        let sha256 = Sha256Digest::of(&bytes);
        match &mut facts {
            None => facts = Some(ReceiptFacts::new(&receipt, sha256)),
            Some(facts) => {
                let added = facts.add_revision(window, &receipt, sha256);
                added.map_err(|(expected, found)| RecordError::Inconsistent { key, expected, found })?;
            }
        }
    }
    Ok(facts)
}

/// Adds and reads the receipts of objects without one that exist although the listing leaves them out.
async fn read_unlisted_receipts(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    wanted: impl Fn(Window) -> bool,
) -> Result<(), StoreError> {
    let orphaned = journal.orphaned_objects().filter(|window| wanted(*window));
    let keys = orphaned.filter_map(|window| root.key(&Key::Receipt(window)));
    let found = find_unlisted(store, keys.collect::<Vec<_>>()).await?;
    if found.is_empty() {
        return Ok(());
    }
    for row in found {
        journal.add(root, &row);
    }
    read_receipts(store, root, journal, wanted).await
}

/// Returns the text that is equal and in use already, so that it is in memory once.
fn shared(known: &mut BTreeSet<Arc<str>>, text: Arc<str>) -> Arc<str> {
    if let Some(known) = known.get(&text) {
        return Arc::clone(known);
    }
    known.insert(Arc::clone(&text));
    text
}

/// Adds the objects that receipts of the wanted windows name and that exist although the listing leaves them out.
async fn add_unlisted_objects(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    wanted: impl Fn(Window) -> bool,
) -> Result<(), StoreError> {
    let absent = journal
        .absent_objects()
        .filter(|(window, _)| wanted(*window))
        .filter_map(|(_, key)| root.key(&key));
    let found = find_unlisted(store, absent.collect::<Vec<_>>()).await?;
    for row in found {
        journal.add(root, &row);
    }
    Ok(())
}

/// Reads the records of the wanted windows that state why a window is not stored as a whole: late, expired, split. A record
/// that cannot be read is removed from the journal: its key alone proves nothing.
pub async fn read_negative_records(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    wanted: impl Fn(Window) -> bool,
) -> Result<(), StoreError> {
    let unread = journal.expired.iter().filter(|(_, facts)| facts.is_none());
    let windows = unread.map(|(window, _)| *window).filter(|window| wanted(*window));
    for (window, record) in read_all_negative::<ExpiredRecord>(store, root, windows, Key::Expired).await? {
        let taken = record.as_ref().map_or(0, |record| record.source.len() as u64);
        journal
            .take_memory(taken)
            .map_err(too_large(store, root.as_str()))?;
        match record {
            Some(record) => journal.expired.insert(window, Some(ExpiredFacts::new(record))),
            None => journal.expired.remove(&window),
        };
    }
    let unread = journal.late.iter().filter(|(_, facts)| facts.is_none());
    let windows = unread.map(|(window, _)| *window).filter(|window| wanted(*window));
    for (window, record) in read_all_negative::<LateRecord>(store, root, windows, Key::Late).await? {
        let taken = record.as_ref().map_or(0, |record| record.source.len() as u64);
        journal
            .take_memory(taken)
            .map_err(too_large(store, root.as_str()))?;
        match record {
            Some(record) => journal.late.insert(window, Some(LateFacts::new(record))),
            None => journal.late.remove(&window),
        };
    }
    let days = journal.splits.iter().copied().filter(|day| wanted(*day));
    let found = read_all_negative::<SplitRecord>(store, root, days, Key::Split).await?;
    for (day, _) in found.into_iter().filter(|(_, record)| record.is_none()) {
        journal.splits.remove(&day);
    }
    Ok(())
}

/// Reads the records of windows, several concurrently.
async fn read_all_negative<R: ArchiveRecord>(
    store: &dyn Store,
    root: &ArchiveRoot,
    windows: impl Iterator<Item = Window>,
    key: fn(Window) -> Key,
) -> Result<Vec<(Window, Option<R>)>, StoreError> {
    let reads = windows.map(|window| async move {
        let record = read_negative::<R>(store, root, &key(window)).await?;
        Ok::<_, StoreError>((window, record))
    });
    stream::iter(reads.collect::<Vec<_>>())
        .buffer_unordered(READ_CONCURRENCY)
        .try_collect()
        .await
}

/// Reads a record; `None`, with a warning, if it is not valid.
async fn read_negative<R: ArchiveRecord>(
    store: &dyn Store,
    root: &ArchiveRoot,
    key: &Key,
) -> Result<Option<R>, StoreError> {
    match per_document(get_record(store, root, key).await)? {
        Ok(record) => Ok(record),
        Err(error) => {
            tracing::warn!(%error, "ignoring journal entry");
            Ok(None)
        }
    }
}

/// Separates a document that cannot be read, which concerns its window only, from a failure of the store.
pub(super) fn per_document<T>(
    read: Result<T, RecordReadError>,
) -> Result<Result<T, RecordError>, StoreError> {
    match read {
        Ok(document) => Ok(Ok(document)),
        Err(RecordReadError::Record(error)) => Ok(Err(error)),
        // It concerns this document, for example by its encryption key.
        Err(RecordReadError::Store(StoreError::Forbidden { store, action, key })) => {
            let message = format!("{store} refuses {action}");
            Ok(Err(RecordError::Refused { key, message }))
        }
        Err(RecordReadError::Store(error)) => Err(error),
    }
}

/// Reads one record; `None` if it does not exist.
pub async fn get_record<R: ArchiveRecord>(
    store: &dyn Store,
    root: &ArchiveRoot,
    key: &Key,
) -> Result<Option<R>, RecordReadError> {
    let Some(key) = root.key(key) else { return Ok(None) };
    let bytes = get_document(store, &key, RECORD_MAX_BYTES, R::SCHEMA).await?;
    Ok(bytes.map(|bytes| records::decode(&key, &bytes)).transpose()?)
}

/// Reads the bytes of a document, when the memory for it is free; `None` if it does not exist.
pub(super) async fn get_document(
    store: &dyn Store,
    key: &str,
    limit: u64,
    schema: &'static str,
) -> Result<Option<ReadDocument>, RecordReadError> {
    let memory = reserve_read(&store.identity().to_string(), limit).await;
    let document = |bytes| ReadDocument {
        bytes,
        _memory: memory,
    };
    match store.get(key, limit).await.map(|found| found.map(document)) {
        // It concerns this document, not the store.
        Err(StoreError::Archived { key, .. }) => Err(RecordError::Archived { key }.into()),
        // A document of this size is none of ours.
        Err(StoreError::LimitExceeded { key, limit, .. }) => Err(RecordError::Unreadable {
            key,
            schema,
            message: format!("it is larger than {limit}"),
        }
        .into()),
        other => Ok(other?),
    }
}
