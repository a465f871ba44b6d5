//! Finds out whether a store honours `If-None-Match`, for each of the two writes that use it. Does I/O, and
//! changes no content: all that it writes over a key is what is there already.

use super::{PutMode, PutOptions, PutResult, Segments, Store, StoreError};

/// Which conditional writes of a store can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionalSupport {
    /// `PutObject`.
    pub put: bool,
    /// `CompleteMultipartUpload`.
    pub complete: bool,
}

/// Asks the store to create `key` once more, both ways. The caller has just stored exactly `body` there,
/// with these `options`; a store that ignores the condition stores the same bytes again (one more
/// version, where the bucket keeps versions). What a store does not know counts as not supported.
pub async fn probe(
    store: &dyn Store,
    key: &str,
    body: Segments,
    options: &PutOptions,
) -> Result<ConditionalSupport, StoreError> {
    let options = PutOptions {
        mode: PutMode::Create,
        ..options.clone()
    };
    let put = honors_condition(store.put(key, body.clone(), &options).await)?;
    let complete = probe_complete(store, key, body, &options).await?;
    Ok(ConditionalSupport { put, complete })
}

async fn probe_complete(
    store: &dyn Store,
    key: &str,
    body: Segments,
    options: &PutOptions,
) -> Result<bool, StoreError> {
    let upload = store.begin_upload(key, options).await?;
    let outcome = match store.upload_part(&upload, 1, body, options.crc64).await {
        Ok(part) => store.complete_upload(&upload, &[part], options).await,
        Err(error) => Err(error),
    };
    // Nothing is left of the upload if it succeeded, and else it has to go.
    if outcome.is_err()
        && let Err(error) = store.abort_upload(&upload).await
    {
        tracing::warn!(%error, key, upload = %upload.id, "the upload of the probe stays until it is swept");
    }
    honors_condition(outcome)
}

fn honors_condition(outcome: Result<PutResult, StoreError>) -> Result<bool, StoreError> {
    match outcome {
        // A conflict with another writer is only seen by who looks at the condition.
        Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. }) => Ok(true),
        Ok(_) | Err(StoreError::Unsupported { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
