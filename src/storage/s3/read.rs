//! Reads of objects: their bytes, bounded in size and time, and their attributes. I/O.

use std::sync::PoisonError;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ChecksumMode as SdkChecksumMode;
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::body::TransferProgress;
use super::errors::{S3Operation, error_from_sdk, idle_timeout};
use super::retry::{classify, retry};
use super::{ChecksumMode, S3Store, checksum, is_usable_id, timestamp};
use crate::storage::{ObjectInfo, StoreError};

/// Initial buffer capacity for an object: 1 MiB at most.
const INITIAL_CAPACITY_MAX: u64 = 1 << 20;
/// Minimum average throughput of an object read: 16 KiB per second. The objects are small, and a process waits for them.
const MIN_BYTES_PER_SECOND: u64 = 16 << 10;

/// Returns the attributes of an object. A refusal without a body is explained by the reply to a read of one byte.
pub(super) async fn read_attributes(store: &S3Store, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
    let outcome = store
        .call(store.context(S3Operation::Read, key), |_| {
            store
                .client
                .head_object()
                .bucket(&store.settings.bucket)
                .key(key)
                .set_checksum_mode(checksum_mode(store))
                .send()
        })
        .await;
    match outcome {
        Ok(reply) => Ok(Some(object_info(reply))),
        Err(StoreError::Rejected { status: 404, .. }) => store.check_bucket().await.map(|()| None),
        Err(
            error @ (StoreError::Forbidden { .. }
            | StoreError::Rejected {
                status: 300..=499, ..
            }),
        ) => match try_get(store, key, Some("bytes=0-0"), None).await {
            Err(cause) => Err(cause),
            Ok(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Reads at most `limit` bytes of an object, or of a range of it. An interrupted reply is retried like a failed
/// request.
pub(super) async fn read_object(
    store: &S3Store,
    key: &str,
    range: Option<&str>,
    etag: Option<&str>,
    limit: u64,
) -> Result<Option<Bytes>, StoreError> {
    retry(classify, &store.settings.traffic, || async {
        match try_get(store, key, range, etag).await {
            Ok(reply) => read_body(store, key, limit, reply).await.map(Some),
            Err(StoreError::Rejected { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

/// Sends one attempt, and returns when the headers of its reply have arrived.
async fn try_get(
    store: &S3Store,
    key: &str,
    range: Option<&str>,
    etag: Option<&str>,
) -> Result<GetObjectOutput, StoreError> {
    let context = store.context(S3Operation::Read, key);
    let request = store
        .client
        .get_object()
        .bucket(&store.settings.bucket)
        .key(key)
        .set_range(range.map(Into::into))
        .set_if_match(etag.map(Into::into))
        // A range of an object has no checksum.
        .set_checksum_mode(checksum_mode(store).filter(|_| range.is_none()))
        .send();
    let reply = TransferProgress::default()
        .watch(store.settings.timeouts.idle, Box::pin(request))
        .await
        .map_err(|idle| idle_timeout(context, idle))?;
    reply.map_err(|error| error_from_sdk(context, &store.redactor, &error))
}

async fn read_body(
    store: &S3Store,
    key: &str,
    limit: u64,
    reply: GetObjectOutput,
) -> Result<Bytes, StoreError> {
    let context = store.context(S3Operation::Read, key);
    let limit_exceeded = || StoreError::LimitExceeded {
        store: store.name.clone(),
        key: key.to_owned(),
        limit: format!("{limit} bytes"),
    };
    let content_length = reply.content_length.and_then(|length| u64::try_from(length).ok());
    if content_length.is_some_and(|length| length > limit) {
        return Err(limit_exceeded());
    }
    let capacity = usize::try_from(content_length.unwrap_or(0).min(INITIAL_CAPACITY_MAX)).unwrap_or(0);
    let mut bytes = BytesMut::with_capacity(capacity);
    let mut body = reply.body;
    let idle = store.settings.timeouts.idle;
    let timeout = idle
        .saturating_mul(2)
        .saturating_add(Duration::from_secs(limit / MIN_BYTES_PER_SECOND));
    let slow = || store.invalid_response(context, "response slower than 16 KiB per second");
    let end = Instant::now().checked_add(timeout).ok_or_else(slow)?;
    loop {
        let progress = TransferProgress::default();
        let next = timeout_at(end, progress.watch(idle, body.next()))
            .await
            .map_err(|_| slow())?;
        let Some(piece) = next.map_err(|idle| idle_timeout(context, idle))? else {
            break;
        };
        let piece = piece
            .map_err(|error| store.invalid_response(context, &format!("response interrupted ({error})")))?;
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(limit_exceeded());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// Returns the checksum mode of a read; `None` for stores that reject checksum headers.
fn checksum_mode(store: &S3Store) -> Option<SdkChecksumMode> {
    let mode = *store.write_mode.lock().unwrap_or_else(PoisonError::into_inner);
    (mode.checksum != ChecksumMode::None).then_some(SdkChecksumMode::Enabled)
}

fn object_info(reply: HeadObjectOutput) -> ObjectInfo {
    let mut metadata: Vec<(String, String)> = reply
        .metadata
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    metadata.sort();
    ObjectInfo {
        size: reply
            .content_length
            .and_then(|length| u64::try_from(length).ok())
            .unwrap_or(0),
        etag: reply.e_tag,
        version_id: reply.version_id.filter(|id| is_usable_id(id)),
        crc64: reply
            .checksum_crc64_nvme
            .as_deref()
            .and_then(checksum::decode_crc64),
        sha256: reply.checksum_sha256.as_deref().and_then(checksum::decode_sha256),
        last_modified: reply.last_modified.and_then(timestamp),
        metadata,
    }
}
