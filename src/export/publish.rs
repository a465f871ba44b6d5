//! Publishes a transferred object: makes it visible once, and replaces nothing. I/O with the store.

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Instrument as _;

use super::failure::Failure;
use crate::api::Reason;
use crate::archive::layout::AttemptId;
use crate::pipeline::copy::Copied;
use crate::pipeline::store_sink::StagedBody;
use crate::storage::{
    ConditionalSupport, Crc64, ObjectClass, ObjectInfo, PutMode, PutOptions, PutResult, Store, StoreError,
};

/// User metadata that names the attempt that wrote an object, for stores without CRC-64/NVME.
pub(super) const ATTEMPT_METADATA: &str = "eventexport-attempt";

/// Transferred object that is not visible in the store yet.
pub(super) type StagedObject = Copied<StagedBody>;

/// Attempt that publishes objects.
pub(super) struct Publisher<'a> {
    /// The attempt.
    pub(super) id: AttemptId,
    /// Conditional writes that the store supports.
    pub(super) support: ConditionalSupport,
    /// Set if an upload may be left that could not be aborted.
    pub(super) needs_recovery: &'a AtomicBool,
}

impl Publisher<'_> {
    /// Returns the options to begin an upload with.
    pub(super) fn options(&self) -> PutOptions {
        let mode = if self.support.complete {
            PutMode::Create
        } else {
            PutMode::Overwrite
        };
        PutOptions {
            mode,
            crc64: Crc64::of(b""),
            metadata: vec![(ATTEMPT_METADATA.to_owned(), self.id.to_string())],
            content_type: "application/gzip",
            class: ObjectClass::Events,
        }
    }
}

/// Makes a staged object visible, if its key is absent. An equal object counts as published.
pub(super) async fn publish_object(
    store: &dyn Store,
    key: &str,
    staged: StagedObject,
    metadata: Vec<(String, String)>,
    publisher: &Publisher<'_>,
) -> Result<PutResult, Failure> {
    let crc64 = staged.crc64;
    let small = matches!(staged.body, StagedBody::InMemory(..));
    let conditional = if small {
        publisher.support.put
    } else {
        publisher.support.complete
    };
    let mode = if conditional {
        PutMode::Create
    } else {
        PutMode::Overwrite
    };
    let options = PutOptions {
        mode,
        crc64,
        metadata,
        content_type: "application/gzip",
        class: ObjectClass::Events,
    };
    let size = staged.bytes;
    if !conditional && let Some(found) = store.head(key).await.map_err(|error| Failure::from(&error))? {
        abort_multipart(store, publisher, &staged.body).await;
        return check_same_object(&found, size, crc64, publisher.id, key);
    }
    let committed = match &staged.body {
        StagedBody::InMemory(body, _) => {
            let span = tracing::info_span!("upload", bytes = size);
            store.put(key, body.clone(), &options).instrument(span).await
        }
        StagedBody::Multipart(upload, parts) => store.complete_upload(upload, parts, &options).await,
    };
    let error = match committed {
        Ok(stored) => return Ok(stored),
        Err(error) => error,
    };
    // The store may have executed the request although the reply was lost.
    let found = match &error {
        StoreError::AlreadyExists { .. }
        | StoreError::NoSuchUpload { .. }
        | StoreError::Network { .. }
        | StoreError::Conflict { .. } => store.head(key).await.map_err(|error| Failure::from(&error))?,
        _ => None,
    };
    if let Some(found) = found {
        abort_multipart(store, publisher, &staged.body).await;
        return check_same_object(&found, size, crc64, publisher.id, key);
    }
    abort_multipart(store, publisher, &staged.body).await;
    Err(Failure::from(&error))
}

async fn abort_multipart(store: &dyn Store, publisher: &Publisher<'_>, body: &StagedBody) {
    if let StagedBody::Multipart(upload, _) = body
        && let Err(error) = store.abort_upload(upload).await
    {
        publisher.needs_recovery.store(true, Ordering::Relaxed);
        tracing::warn!(key = upload.key, %error, "cannot abort upload, recovery will retry");
    }
}

/// Returns the existing object if it is the one this attempt sent. Error: `ForeignObject`.
fn check_same_object(
    found: &ObjectInfo,
    size: u64,
    crc64: Crc64,
    id: AttemptId,
    key: &str,
) -> Result<PutResult, Failure> {
    if is_same_object(found, size, crc64, id) {
        return Ok(PutResult {
            etag: found.etag.clone(),
            version_id: found.version_id.clone(),
        });
    }
    let window = id.window;
    let message = format!(
        "{key} already exists, with other content than the service returns for {window}; nothing was overwritten"
    );
    Err(Failure::manual(Reason::ForeignObject, message))
}

/// True if an object is the one that an attempt sent: by its checksum or, if the store keeps none, by the
/// attempt named in its metadata.
pub(super) fn is_same_object(found: &ObjectInfo, size: u64, crc64: Crc64, id: AttemptId) -> bool {
    let names_attempt = || {
        found
            .metadata
            .iter()
            .any(|(name, value)| name == ATTEMPT_METADATA && *value == id.to_string())
    };
    found.size == size && found.crc64.map_or_else(names_attempt, |found| found == crc64)
}
