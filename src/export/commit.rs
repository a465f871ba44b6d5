//! The commit: the object becomes visible, then its receipt is written, both once. I/O with the store.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use tracing::Instrument as _;

use super::failure::Failure;
use super::ground::Ground;
use super::journal_io::put;
use super::keys::{AttemptId, Key};
use super::open::Opened;
use super::proof::ProofFacts;
use super::record::{ObjectRecord, PreparedRecord, RangeRecord, Receipt, Record, SOFTWARE};
use super::transfer::{Body, Sent};
use super::verdict::{EmptyAnswer, Verdict};
use crate::api::Reason;
use crate::storage::{Condition, Crc64, ObjectClass, ObjectFacts, PutOptions, Store, StoreError, Stored};
use crate::tracker::TransferEnd;

/// The user metadata of a small object that carries its receipt, so that it can be adopted after a crash.
pub(super) const RECEIPT_METADATA: &str = "eventexport-receipt";

/// The user metadata that names the attempt which wrote an object: for stores that keep no CRC-64/NVME.
pub(super) const ATTEMPT_METADATA: &str = "eventexport-attempt";

/// The most that is put in metadata: S3 takes 2 KiB with names.
const METADATA_MAX: usize = 1_900;

/// Whose receipt it is.
pub(super) enum Committed {
    /// This attempt's.
    Ours(Box<Receipt>),
    /// Somebody else's, who was faster.
    Others,
}

/// What the service reports, and how the count compares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub(super) before: Option<u64>,
    pub(super) after: Option<u64>,
    /// Of an hour: the report of its day, the higher one.
    pub(super) of_day: Option<u64>,
    pub(super) verdict: Verdict,
}

/// Commits a window with events.
pub(super) async fn commit_object(
    ground: &Ground,
    opened: &Opened<'_>,
    sent: Sent,
    proof: ProofFacts,
    judged: Judged,
) -> Result<Committed, Failure> {
    let store = &*ground.peers.store;
    let export = &ground.export;
    let window = opened.id.window;
    let Some(key) = export.root.key(&Key::Events(window)) else {
        return Ok(Committed::Others);
    };
    let object = ObjectRecord {
        key: key.strip_prefix(export.root.as_str()).unwrap_or(&key).to_owned(),
        version_id: None,
        bytes: sent.bytes,
        sha256: proof.sha256,
        crc64nvme: sent.crc64.to_string(),
        gzip_members: proof.members,
        decompressed_bytes: proof.decompressed,
    };
    let stored_at = store.now().await.map_err(|error| Failure::from(&error))?;
    let mut receipt = Receipt {
        object: Some(object),
        events: proof.events,
        resumes: sent.resumes,
        stored_at,
        ..blank(ground, opened, Some(sent.end), judged)
    };
    let upload_id = match &sent.body {
        Body::Small(_) => None,
        Body::Parts(upload, _) => Some(upload.id.clone()),
    };
    let mut metadata = metadata_of(&receipt);
    if upload_id.is_some() || metadata.is_empty() {
        let prepared = PreparedRecord {
            schema: PreparedRecord::SCHEMA.to_owned(),
            upload_id: upload_id.unwrap_or_default(),
            receipt: receipt.clone(),
        };
        put(
            store,
            &export.root,
            &Key::Prepared(opened.id),
            &prepared,
            Condition::Overwrite,
        )
        .await
        .map_err(|error| Failure::from(&error))?;
    }
    metadata.push((ATTEMPT_METADATA.to_owned(), opened.id.to_string()));
    let stored = make_visible(store, &key, sent, metadata, opened).await?;
    if let Some(object) = &mut receipt.object {
        object.version_id = stored.version_id;
    }
    let written = put_receipt(store, ground, opened, receipt).await?;
    if !(opened.support.put && opened.support.complete) {
        still_ours(store, &key, &written).await?;
    }
    Ok(written)
}

/// Commits a window that is proved to have no events.
pub(super) async fn commit_empty(
    ground: &Ground,
    opened: &Opened<'_>,
    answer: EmptyAnswer,
    end: Option<TransferEnd>,
    judged: Judged,
) -> Result<Committed, Failure> {
    let store = &*ground.peers.store;
    let stored_at = store.now().await.map_err(|error| Failure::from(&error))?;
    let receipt = Receipt {
        empty_answer: Some(answer),
        stored_at,
        ..blank(ground, opened, end, judged)
    };
    put_receipt(store, ground, opened, receipt).await
}

fn blank(ground: &Ground, opened: &Opened<'_>, end: Option<TransferEnd>, judged: Judged) -> Receipt {
    let Judged {
        before,
        after,
        of_day,
        verdict,
    } = judged;
    let window = opened.id.window;
    let session = &opened.session;
    let asked = RangeRecord {
        start: window.date(),
        end: window.date(),
        hour: window.hour_of_day(),
    };
    Receipt {
        schema: Receipt::SCHEMA.to_owned(),
        window: window.to_string(),
        scope: ground.export.scope.as_str().to_owned(),
        space: ground.export.space.clone(),
        source: ground.export.source.clone(),
        tracker_user: session.username.clone(),
        session_id: session.id.clone(),
        asked,
        answered: session.range.map(|(start, end)| RangeRecord {
            start,
            end,
            hour: session.hour.flatten(),
        }),
        object: None,
        empty_answer: None,
        events: 0,
        reported_before: before,
        reported_after: after,
        reported_of_day: of_day,
        verdict,
        transfer_end: end.map(|end| format!("{end:?}")),
        resumes: 0,
        revision: 0,
        started_at: opened.started_at,
        stored_at: opened.started_at,
        software: SOFTWARE.to_owned(),
    }
}

/// The receipt as metadata: ASCII JSON; nothing when it is too long.
fn metadata_of(receipt: &Receipt) -> Vec<(String, String)> {
    let json = serde_json::to_string(receipt).unwrap_or_default();
    let mut ascii = String::with_capacity(json.len());
    for unit in json.chars() {
        if unit.is_ascii() {
            ascii.push(unit);
        } else {
            let mut units = [0u16; 2];
            for unit in unit.encode_utf16(&mut units) {
                // Writing to a String cannot fail.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    if ascii.is_empty() || ascii.len() > METADATA_MAX {
        Vec::new()
    } else {
        vec![(RECEIPT_METADATA.to_owned(), ascii)]
    }
}

async fn make_visible(
    store: &dyn Store,
    key: &str,
    sent: Sent,
    metadata: Vec<(String, String)>,
    opened: &Opened<'_>,
) -> Result<Stored, Failure> {
    let crc64 = sent.crc64;
    let small = matches!(sent.body, Body::Small(_));
    let honoured = if small {
        opened.support.put
    } else {
        opened.support.complete
    };
    let condition = if honoured {
        Condition::IfAbsent
    } else {
        Condition::Overwrite
    };
    let options = PutOptions {
        condition,
        crc64,
        metadata,
        content_type: "application/gzip",
        class: ObjectClass::Evidence,
    };
    let size = sent.bytes;
    if !honoured && let Some(found) = store.head(key).await.map_err(|error| Failure::from(&error))? {
        return same(&found, size, crc64, opened.id, key);
    }
    let committed = match &sent.body {
        Body::Small(body) => {
            let span = tracing::info_span!("upload", bytes = size);
            store.put(key, body.clone(), &options).instrument(span).await
        }
        Body::Parts(upload, parts) => store.complete_upload(upload, parts, &options).await,
    };
    let error = match committed {
        Ok(stored) => return Ok(stored),
        Err(error) => error,
    };
    // The reply may have been lost after the store did as it was asked.
    let found = match &error {
        StoreError::AlreadyExists { .. }
        | StoreError::NoSuchUpload { .. }
        | StoreError::Network { .. }
        | StoreError::Conflict { .. } => store.head(key).await.map_err(|error| Failure::from(&error))?,
        _ => None,
    };
    if let Some(found) = found {
        abandon(store, opened, &sent.body).await;
        return same(&found, size, crc64, opened.id, key);
    }
    abandon(store, opened, &sent.body).await;
    Err(Failure::from(&error))
}

async fn abandon(store: &dyn Store, opened: &Opened<'_>, body: &Body) {
    if let Body::Parts(upload, _) = body
        && let Err(error) = store.abort_upload(upload).await
    {
        opened.loose.store(true, Ordering::Relaxed);
        tracing::warn!(key = upload.key, %error, "an upload could not be aborted: it is swept later");
    }
}

/// What is there is what was sent, or somebody else's.
fn same(found: &ObjectFacts, size: u64, crc64: Crc64, id: AttemptId, key: &str) -> Result<Stored, Failure> {
    if is_same(found, size, crc64, id) {
        return Ok(Stored {
            etag: found.etag.clone(),
            version_id: found.version_id.clone(),
        });
    }
    let window = id.window;
    let message = format!(
        "{key} is there already, with other bytes than the service gives for {window}: nothing was overwritten"
    );
    Err(Failure::person(Reason::ForeignObject, message))
}

/// Whether an object is the one that an attempt sent: by its checksum, or, where the store keeps none, by
/// the attempt that it names.
pub(super) fn is_same(found: &ObjectFacts, size: u64, crc64: Crc64, id: AttemptId) -> bool {
    let named = || {
        found
            .metadata
            .iter()
            .any(|(name, value)| name == ATTEMPT_METADATA && *value == id.to_string())
    };
    found.size == size && found.crc64.map_or_else(named, |found| found == crc64)
}

async fn put_receipt(
    store: &dyn Store,
    ground: &Ground,
    opened: &Opened<'_>,
    receipt: Receipt,
) -> Result<Committed, Failure> {
    let key = Key::Receipt(opened.id.window);
    let condition = if opened.support.put {
        Condition::IfAbsent
    } else {
        Condition::Overwrite
    };
    write_receipt(store, &ground.export.root, &key, receipt, condition).await
}

/// Writes a receipt once. One that says the same is ours: its reply was lost.
pub(super) async fn write_receipt(
    store: &dyn Store,
    root: &super::keys::Root,
    key: &Key,
    receipt: Receipt,
    condition: Condition,
) -> Result<Committed, Failure> {
    if condition == Condition::Overwrite
        && let Some(there) = super::journal_io::get::<Receipt>(store, root, key).await?
    {
        return Ok(whose(&there, receipt));
    }
    match put(store, root, key, &receipt, condition).await {
        Ok(_) => Ok(Committed::Ours(Box::new(receipt))),
        Err(StoreError::AlreadyExists { .. }) => {
            let there = super::journal_io::get::<Receipt>(store, root, key).await?;
            Ok(there.map_or(Committed::Others, |there| whose(&there, receipt)))
        }
        Err(error) => Err(Failure::from(&error)),
    }
}

fn whose(there: &Receipt, ours: Receipt) -> Committed {
    if *there == ours {
        Committed::Ours(Box::new(ours))
    } else {
        Committed::Others
    }
}

/// On a store that keeps no writers apart: what is there after the receipt is what the receipt states.
async fn still_ours(store: &dyn Store, key: &str, written: &Committed) -> Result<(), Failure> {
    let Committed::Ours(receipt) = written else {
        return Ok(());
    };
    let Some(object) = &receipt.object else {
        return Ok(());
    };
    let found = store.head(key).await.map_err(|error| Failure::from(&error))?;
    if found.is_some_and(|found| {
        found.size == object.bytes
            && found
                .crc64
                .is_none_or(|crc64| crc64.to_string() == object.crc64nvme)
    }) {
        return Ok(());
    }
    Err(Failure::person(
        Reason::ForeignObject,
        format!("{key} was overwritten by another writer after it was stored"),
    ))
}
