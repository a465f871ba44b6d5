//! Probe for conditional writes: tests whether a store honors `If-None-Match` in each of the two writes that use it.
//! Does I/O, and changes no content: it writes to a key only the bytes that are already there.

use super::{PutMode, PutOptions, PutResult, Segments, Store, StoreError};

/// Conditional writes that a store honors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionalSupport {
    /// True if `PutObject` does.
    pub put: bool,
    /// True if `CompleteMultipartUpload` does.
    pub complete: bool,
}

/// Creates `key` again, by both writes. The caller has just stored exactly `body` there, with these `options`. A store
/// that ignores the condition stores the same bytes again (one more version in a versioned bucket). An operation that
/// the store does not know counts as not supported.
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
    // A completed upload leaves nothing to abort.
    if outcome.is_err()
        && let Err(error) = store.abort_upload(&upload).await
    {
        tracing::warn!(%error, key, upload = %upload.id, "cannot abort probe upload, a later run aborts it");
    }
    honors_condition(outcome)
}

fn honors_condition(outcome: Result<PutResult, StoreError>) -> Result<bool, StoreError> {
    match outcome {
        // Only a store that evaluates the condition reports a conflict.
        Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. }) => Ok(true),
        Ok(_) | Err(StoreError::Unsupported { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
