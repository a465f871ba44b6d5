//! Loads the journal for the engine, and writes its records. I/O with the store only.

use bytes::Bytes;

use super::failure::Failure;
use super::manifest::sign::Signing;
use crate::archive::layout::{ArchiveRoot, AttemptId, Key};
use crate::archive::listing::{Journal, overlap};
use crate::archive::memory::JournalShare;
use crate::archive::read::{ReadOptions, RecordReadError, list_keys, read_attempts, read_day, read_journal};
use crate::archive::records::{self, ArchiveRecord, Receipt};
use crate::archive::window::Window;
use crate::storage::{Crc64, ObjectClass, PutMode, PutOptions, PutResult, Segments, Store, StoreError};

impl From<RecordReadError> for Failure {
    fn from(error: RecordReadError) -> Self {
        match error {
            RecordReadError::Store(error) => Self::from(&error),
            RecordReadError::Record(error) => Self::from(&error).export_wide(),
        }
    }
}

/// Lists all keys of a space and scope, and reads the records that decisions need. With trusted keys, manifests stand
/// for receipts only if one of the keys signed them.
pub(super) async fn load_journal(
    store: &dyn Store,
    root: &ArchiveRoot,
    signing: &Signing,
    memory: JournalShare,
) -> Result<Journal, Failure> {
    let options = ReadOptions {
        memory: memory.into(),
        trusted: signing.available().map(|keys| keys.trusted().to_vec()),
        ..ReadOptions::default()
    };
    let load = async {
        let (mut journal, _) = read_journal(store, root, &options).await?;
        read_attempts(store, root, &mut journal, |_| true).await?;
        Ok(journal)
    };
    load.await.map_err(|error: StoreError| Failure::from(&error))
}

/// Lists the keys of one day, and reads its records.
pub(super) async fn load_day(
    store: &dyn Store,
    root: &ArchiveRoot,
    window: Window,
    memory: JournalShare,
) -> Result<Journal, Failure> {
    let load = async {
        let mut journal = read_day(store, root, window, memory).await?;
        read_attempts(store, root, &mut journal, |_| true).await?;
        Ok(journal)
    };
    load.await.map_err(|error: StoreError| Failure::from(&error))
}

/// Loads what conflicts with a session for a window: the keys of its day, and the records of other attempts at it.
/// Lists both prefixes at once: an attempt is deleted only after its receipt exists, so the journal shows one of them.
pub(super) async fn load_conflicts(
    store: &dyn Store,
    root: &ArchiveRoot,
    own: AttemptId,
    [memory, of_objects]: [JournalShare; 2],
) -> Result<Journal, Failure> {
    let window = own.window;
    let (journal, objects) = (root.day_journal_prefix(window), root.day_objects_prefix(window));
    let listed = tokio::try_join!(
        list_keys(store, root, &journal, memory),
        list_keys(store, root, &objects, of_objects)
    );
    let (mut journal, objects) = listed.map_err(|error| Failure::from(&error))?;
    journal.objects.extend(objects.objects);
    read_attempts(store, root, &mut journal, |id| {
        id != own && overlap(id.window, window)
    })
    .await
    .map_err(|error| Failure::from(&error))?;
    Ok(journal)
}

/// Lists the attempts and sessions in the journal, of all windows and holders, without reading them.
pub(super) async fn list_attempts(
    store: &dyn Store,
    root: &ArchiveRoot,
    memory: JournalShare,
) -> Result<Journal, Failure> {
    let listed = list_keys(store, root, &root.journal_prefix(), memory).await;
    listed.map_err(|error| Failure::from(&error))
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

/// Returns the object class: receipts stay, other records are deleted when obsolete.
fn object_class<R: ArchiveRecord>() -> ObjectClass {
    if R::SCHEMA == Receipt::SCHEMA {
        ObjectClass::Proof
    } else {
        ObjectClass::Journal
    }
}

/// Deletes obsolete keys. Returns false if the store refuses to delete some, which stay without effect.
pub(super) async fn delete_keys(
    store: &dyn Store,
    root: &ArchiveRoot,
    keys: &[Key],
) -> Result<bool, Failure> {
    let keys: Vec<String> = keys.iter().filter_map(|key| root.key(key)).collect();
    let kept = match store.delete(&keys).await {
        Ok(kept) => kept,
        Err(error) => keys.into_iter().map(|key| (key, error.clone())).collect(),
    };
    for (key, error) in &kept {
        if !error.refuses_deletion() {
            return Err(Failure::from(error));
        }
        tracing::info!(key, %error, "cannot delete obsolete journal key, ignoring");
    }
    Ok(kept.is_empty())
}
