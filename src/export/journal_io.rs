//! Reads and writes the journal: listings, records, keys. I/O with the store only.

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::failure::Failure;
use crate::archive::layout::{ArchiveRoot, AttemptId, Key};
use crate::archive::listing::{ExpiredFacts, Journal, ReceiptFacts, overlap};
use crate::archive::records::{
    self, ArchiveRecord, AttemptRecord, ExpiredRecord, RECORD_MAX_BYTES, Receipt, RecordError, SplitRecord,
};
use crate::archive::window::Window;
use crate::storage::{Crc64, ObjectClass, PutMode, PutOptions, PutResult, Segments, Store, StoreError};

/// Maximum concurrent reads of records.
const READ_CONCURRENCY: usize = 16;

/// Error of reading a document of the journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordReadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The document exists but is invalid.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<RecordReadError> for Failure {
    fn from(error: RecordReadError) -> Self {
        match error {
            RecordReadError::Store(error) => Self::from(&error),
            RecordReadError::Record(error) => Self::from(&error).export_wide(),
        }
    }
}

/// Lists all keys of a space and scope, and reads the records that decisions need.
pub(super) async fn load_journal(store: &dyn Store, root: &ArchiveRoot) -> Result<Journal, Failure> {
    let rows = store
        .list(root.as_str())
        .await
        .map_err(|error| Failure::from(&error))?;
    let mut journal = Journal::from_listing(root, &rows);
    read_records(store, root, &mut journal).await?;
    Ok(journal)
}

/// Lists the keys of one day, and reads its records.
pub(super) async fn load_day(
    store: &dyn Store,
    root: &ArchiveRoot,
    window: Window,
) -> Result<Journal, Failure> {
    let fail = |error: StoreError| Failure::from(&error);
    let mut rows = store.list(&root.day_journal_prefix(window)).await.map_err(fail)?;
    rows.extend(store.list(&root.day_objects_prefix(window)).await.map_err(fail)?);
    let mut journal = Journal::from_listing(root, &rows);
    read_records(store, root, &mut journal).await?;
    Ok(journal)
}

/// Loads what conflicts with a session for a window: the keys of its day, and the records of other attempts at it.
/// Lists both prefixes at once: an attempt is deleted only after its receipt exists, so the journal shows one of them.
pub(super) async fn load_conflicts(
    store: &dyn Store,
    root: &ArchiveRoot,
    own: AttemptId,
) -> Result<Journal, Failure> {
    let window = own.window;
    let (journal, objects) = (root.day_journal_prefix(window), root.day_objects_prefix(window));
    let rows = tokio::try_join!(store.list(&journal), store.list(&objects));
    let (mut rows, objects) = rows.map_err(|error| Failure::from(&error))?;
    rows.extend(objects);
    let mut journal = Journal::from_listing(root, &rows);
    read_attempts(store, root, &mut journal, |id| {
        id != own && overlap(id.window, window)
    })
    .await?;
    Ok(journal)
}

/// Lists the attempts and sessions in the journal, of all windows and holders, without reading them.
pub(super) async fn list_attempts(store: &dyn Store, root: &ArchiveRoot) -> Result<Journal, Failure> {
    let rows = store
        .list(&root.journal_prefix())
        .await
        .map_err(|error| Failure::from(&error))?;
    Ok(Journal::from_listing(root, &rows))
}

/// Reads the records that are not read yet.
pub(super) async fn read_records(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
) -> Result<(), Failure> {
    let read = async {
        read_receipts(store, root, journal, |_| true).await?;
        read_negative_records(store, root, journal, |_| true).await
    };
    read.await.map_err(|error| Failure::from(&error))?;
    read_attempts(store, root, journal, |_| true).await
}

/// Reads the wanted attempts that are not read yet.
pub(super) async fn read_attempts(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    wanted: impl Fn(AttemptId) -> bool,
) -> Result<(), Failure> {
    let attempts = journal.unread_attempts().into_iter().filter(|id| wanted(*id));
    let reads = stream::iter(attempts.collect::<Vec<_>>().into_iter().map(|id| async move {
        let read = get_with_bytes::<AttemptRecord>(store, root, &Key::Attempt(id)).await;
        let record = read.map(|read| read.map(|(record, _)| record));
        Ok::<_, StoreError>((id, per_document(record)?))
    }));
    let found: Vec<_> = reads
        .buffer_unordered(READ_CONCURRENCY)
        .try_collect()
        .await
        .map_err(|error: StoreError| Failure::from(&error))?;
    for (id, record) in found {
        let Some(facts) = journal.attempts.get_mut(&id) else {
            continue;
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
    }
    Ok(())
}

/// Separates a document that cannot be read, which concerns its window only, from a failure of the store.
fn per_document<T>(read: Result<T, RecordReadError>) -> Result<Result<T, RecordError>, StoreError> {
    match read {
        Ok(document) => Ok(Ok(document)),
        Err(RecordReadError::Record(error)) => Ok(Err(error)),
        Err(RecordReadError::Store(error)) => Err(error),
    }
}

/// Reads the receipts of the wanted windows that are not read yet. One that cannot be read is marked as such.
pub(crate) async fn read_receipts(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    wanted: impl Fn(Window) -> bool,
) -> Result<(), StoreError> {
    let windows = journal
        .unread_receipts()
        .into_iter()
        .filter(|window| wanted(*window));
    let reads = windows.map(|window| async move {
        let read = get_with_bytes::<Receipt>(store, root, &Key::Receipt(window)).await;
        // Only the facts are kept: an archive of years has more receipts than fit into memory.
        let facts = read.map(|read| read.map(|(receipt, bytes)| ReceiptFacts::new(&receipt, &bytes)));
        Ok::<_, StoreError>((window, per_document(facts)?))
    });
    let found: Vec<_> = stream::iter(reads.collect::<Vec<_>>())
        .buffer_unordered(READ_CONCURRENCY)
        .try_collect()
        .await?;
    for (window, receipt) in found {
        match receipt {
            Ok(Some(facts)) => {
                journal.receipts.insert(window, Some(facts));
            }
            // Deleted since the listing.
            Ok(None) => {
                journal.receipts.remove(&window);
            }
            Err(error) => {
                tracing::warn!(%window, %error, "cannot read receipt");
                journal.unreadable.insert(window, error);
            }
        }
    }
    Ok(())
}

/// Reads the records of the wanted windows that state why a window is not stored as a whole: expired, split. A record
/// that cannot be read is removed from the journal: its key alone proves nothing.
pub(crate) async fn read_negative_records(
    store: &dyn Store,
    root: &ArchiveRoot,
    journal: &mut Journal,
    wanted: impl Fn(Window) -> bool,
) -> Result<(), StoreError> {
    let unread = journal.expired.iter().filter(|(_, facts)| facts.is_none());
    let windows = unread.map(|(window, _)| *window).filter(|window| wanted(*window));
    let reads = windows.map(|window| async move {
        let record = read_negative::<ExpiredRecord>(store, root, &Key::Expired(window)).await?;
        Ok::<_, StoreError>((window, record))
    });
    let found: Vec<_> = stream::iter(reads.collect::<Vec<_>>())
        .buffer_unordered(READ_CONCURRENCY)
        .try_collect()
        .await?;
    for (window, record) in found {
        match record {
            Some(record) => journal.expired.insert(window, Some(ExpiredFacts::new(record))),
            None => journal.expired.remove(&window),
        };
    }
    let days = journal.splits.iter().copied().filter(|day| wanted(*day));
    let reads = days.map(|day| async move {
        let record = read_negative::<SplitRecord>(store, root, &Key::Split(day)).await?;
        Ok::<_, StoreError>((day, record))
    });
    let found: Vec<_> = stream::iter(reads.collect::<Vec<_>>())
        .buffer_unordered(READ_CONCURRENCY)
        .try_collect()
        .await?;
    for (day, _) in found.into_iter().filter(|(_, record)| record.is_none()) {
        journal.splits.remove(&day);
    }
    Ok(())
}

/// Reads a record; `None`, with a warning, if it is not valid.
async fn read_negative<R: ArchiveRecord>(
    store: &dyn Store,
    root: &ArchiveRoot,
    key: &Key,
) -> Result<Option<R>, StoreError> {
    match get_with_bytes(store, root, key).await {
        Ok(read) => Ok(read.map(|(record, _)| record)),
        Err(RecordReadError::Record(error)) => {
            tracing::warn!(%error, "ignoring journal entry");
            Ok(None)
        }
        Err(RecordReadError::Store(error)) => Err(error),
    }
}

/// Reads one record; `None` if it does not exist.
pub(super) async fn get_record<R: ArchiveRecord>(
    store: &dyn Store,
    root: &ArchiveRoot,
    key: &Key,
) -> Result<Option<R>, Failure> {
    let read = get_with_bytes(store, root, key).await?;
    Ok(read.map(|(record, _)| record))
}

async fn get_with_bytes<R: ArchiveRecord>(
    store: &dyn Store,
    root: &ArchiveRoot,
    key: &Key,
) -> Result<Option<(R, Bytes)>, RecordReadError> {
    let Some(key) = root.key(key) else { return Ok(None) };
    match store.get(&key, RECORD_MAX_BYTES).await {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => Ok(Some((records::decode(&key, &bytes)?, bytes))),
        // A document of this size is none of ours.
        Err(StoreError::LimitExceeded { key, limit, .. }) => Err(RecordError::Unreadable {
            key,
            schema: R::SCHEMA,
            message: format!("it is larger than {limit}"),
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}

/// Writes one record.
pub(super) async fn put_record<R: ArchiveRecord>(
    store: &dyn Store,
    root: &ArchiveRoot,
    key: &Key,
    record: &R,
    mode: PutMode,
) -> Result<PutResult, StoreError> {
    let key = root.key(key).unwrap_or_default();
    let body = Segments::from(Bytes::from(records::encode(record)));
    store
        .put(
            &key,
            body.clone(),
            &record_options(mode, &body, object_class::<R>()),
        )
        .await
}

/// Returns the options to write a record with.
pub(super) fn record_options(mode: PutMode, body: &Segments, class: ObjectClass) -> PutOptions {
    let crc64 = Crc64::of_segments(body);
    PutOptions {
        mode,
        crc64,
        metadata: Vec::new(),
        content_type: "application/json",
        class,
    }
}

/// Returns the object class: receipts are evidence, other records are deleted when obsolete.
fn object_class<R: ArchiveRecord>() -> ObjectClass {
    if R::SCHEMA == Receipt::SCHEMA {
        ObjectClass::Evidence
    } else {
        ObjectClass::Journal
    }
}

/// Deletes obsolete keys. If the store forbids deletion, they stay without effect.
pub(super) async fn delete_keys(store: &dyn Store, root: &ArchiveRoot, keys: &[Key]) -> Result<(), Failure> {
    let keys: Vec<String> = keys.iter().filter_map(|key| root.key(key)).collect();
    let kept = match store.delete(&keys).await {
        Ok(kept) => kept,
        Err(error) => keys.into_iter().map(|key| (key, error.clone())).collect(),
    };
    for (key, error) in kept {
        if matches!(error, StoreError::Forbidden { .. }) {
            tracing::info!(key, %error, "cannot delete obsolete journal key, ignoring");
        } else {
            return Err(Failure::from(&error));
        }
    }
    Ok(())
}
