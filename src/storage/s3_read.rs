//! The requests that read one thing from a bucket: `GetObject`, `HeadObject`, `HeadBucket`. Does I/O.
//!
//! A reply to HEAD has no body and hence no S3 code, so what its status alone cannot tell is asked again.

use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::ChecksumMode as SdkChecksumMode;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::s3::S3Store;
use super::s3_body::TransferProgress;
use super::s3_checksum;
use super::s3_errors::{S3Operation, idle_timeout};
use super::s3_retry::{classify, retry};
use super::s3_write::is_usable_id;
use super::{ChecksumMode, ObjectInfo, StoreError};

/// Room that is made for an object before its bytes come: 1 MiB at most.
const INITIAL_CAPACITY_MAX: u64 = 1 << 20;
/// Bytes a second that the body of an object has to come at, on the whole: 16 KiB. Each is small, and a process waits
/// for it.
const MIN_BYTES_PER_SECOND: u64 = 16 << 10;

impl S3Store {
    /// A reply that breaks off begins anew, within the one boundary for repetitions.
    pub(super) async fn get_object(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        retry(classify, &self.settings.traffic, || async {
            match self.try_get(key, None, None).await {
                Ok(reply) => self.read_body(key, limit, reply).await.map(Some),
                Err(StoreError::Rejected { status: 404, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// A piece of an object. A store that ignores the range gives too much, which is an error.
    pub(super) async fn get_object_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let last = offset.saturating_add(limit).saturating_sub(1);
        let range = format!("bytes={offset}-{last}");
        retry(classify, &self.settings.traffic, || async {
            match self.try_get(key, Some(&range), etag).await {
                Ok(reply) => self.read_body(key, limit, reply).await.map(Some),
                Err(StoreError::Rejected { status: 404, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    pub(super) async fn head_object(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let outcome = self
            .call(self.context(S3Operation::Read, key), |_| {
                self.client
                    .head_object()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .set_checksum_mode(self.checksum_mode())
                    .send()
            })
            .await;
        match outcome {
            Ok(reply) => Ok(Some(object_info(reply))),
            Err(StoreError::Rejected { status: 404, .. }) => self.check_bucket().await.map(|()| None),
            Err(
                error @ (StoreError::Forbidden { .. }
                | StoreError::Rejected {
                    status: 300..=499, ..
                }),
            ) => match self.try_get(key, Some("bytes=0-0"), None).await {
                Err(cause) => Err(cause),
                Ok(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The time by the latest replies, or by one asked for now; a refusal tells it as well.
    pub(super) async fn store_time(&self) -> Result<Timestamp, StoreError> {
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        let outcome = self.head_bucket().await;
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        outcome?;
        Err(self.invalid_response(
            self.context(S3Operation::List, ""),
            "replies do not tell the time (no Date header)",
        ))
    }

    async fn check_bucket(&self) -> Result<(), StoreError> {
        match self.head_bucket().await {
            // Who may not ask has been let in to the bucket all the same.
            Ok(()) | Err(StoreError::Forbidden { .. }) => Ok(()),
            Err(StoreError::Rejected { status: 404, .. }) => Err(StoreError::NoSuchBucket {
                store: self.name.clone(),
            }),
            Err(error) => Err(error),
        }
    }

    async fn head_bucket(&self) -> Result<(), StoreError> {
        self.call(self.context(S3Operation::List, ""), |_| {
            self.client.head_bucket().bucket(&self.settings.bucket).send()
        })
        .await
        .map(|_| ())
    }

    /// One try, whose reply has come as far as its headers.
    async fn try_get(
        &self,
        key: &str,
        range: Option<&str>,
        etag: Option<&str>,
    ) -> Result<GetObjectOutput, StoreError> {
        let context = self.context(S3Operation::Read, key);
        let request = self
            .client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .set_range(range.map(Into::into))
            .set_if_match(etag.map(Into::into))
            // A part of an object has no checksum.
            .set_checksum_mode(self.checksum_mode().filter(|_| range.is_none()))
            .send();
        let reply = TransferProgress::default()
            .watch(self.settings.timeouts.idle, Box::pin(request))
            .await
            .map_err(|idle| idle_timeout(context, idle))?;
        reply.map_err(|error| super::s3_errors::error_from_sdk(context, self.redactor(), &error))
    }

    async fn read_body(&self, key: &str, limit: u64, reply: GetObjectOutput) -> Result<Bytes, StoreError> {
        let context = self.context(S3Operation::Read, key);
        let limit_exceeded = || StoreError::LimitExceeded {
            store: self.name.clone(),
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
        let idle = self.settings.timeouts.idle;
        let timeout = idle
            .saturating_mul(2)
            .saturating_add(Duration::from_secs(limit / MIN_BYTES_PER_SECOND));
        let slow = || self.invalid_response(context, "the reply came slower than 16 KiB a second");
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
                .map_err(|error| self.invalid_response(context, &format!("the reply broke off ({error})")))?;
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(limit_exceeded());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// Stores that reject checksums are not asked for them.
    fn checksum_mode(&self) -> Option<SdkChecksumMode> {
        (self.settings.checksum != ChecksumMode::None).then_some(SdkChecksumMode::Enabled)
    }
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
            .and_then(s3_checksum::decode_crc64),
        sha256: reply
            .checksum_sha256
            .as_deref()
            .and_then(s3_checksum::decode_sha256),
        last_modified: reply.last_modified.and_then(timestamp),
        metadata,
    }
}

pub(super) fn timestamp(time: DateTime) -> Option<Timestamp> {
    let nanos = i32::try_from(time.subsec_nanos()).ok()?;
    Timestamp::new(time.secs(), nanos).ok()
}
