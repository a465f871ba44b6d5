//! The requests that read one thing from a bucket: `GetObject`, `HeadObject`, `HeadBucket`. Does I/O.
//!
//! A reply to HEAD has no body and hence no S3 code, so what its status alone cannot tell is asked again.

use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::ChecksumMode as Ask;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::s3::S3Store;
use super::s3_body::Progress;
use super::s3_checksum;
use super::s3_errors::{Operation, stalled};
use super::s3_retry::{passing, retry};
use super::s3_write::is_name;
use super::{ChecksumMode, ObjectFacts, StoreError};

/// Room that is made for an object before its bytes come: 1 MiB at most.
const FIRST_ROOM: u64 = 1 << 20;
/// Bytes a second that the body of an object has to come at, on the whole: 16 KiB. Each is small, and a process waits
/// for it.
const SLOWEST: u64 = 16 << 10;

impl S3Store {
    /// A reply that breaks off begins anew, within the one boundary for repetitions.
    pub(super) async fn get_object(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        retry(passing, &self.settings.traffic, || async {
            match self.get_once(key, None, None).await {
                Ok(reply) => self.read_body(key, limit, reply).await.map(Some),
                Err(StoreError::Refused { status: 404, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// A piece of an object. A store that ignores the range gives too much, which is an error.
    pub(super) async fn get_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let last = offset.saturating_add(limit).saturating_sub(1);
        let range = format!("bytes={offset}-{last}");
        retry(passing, &self.settings.traffic, || async {
            match self.get_once(key, Some(&range), etag).await {
                Ok(reply) => self.read_body(key, limit, reply).await.map(Some),
                Err(StoreError::Refused { status: 404, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    pub(super) async fn head_object(&self, key: &str) -> Result<Option<ObjectFacts>, StoreError> {
        let outcome = self
            .call(self.subject(Operation::Read, key), |_| {
                self.client
                    .head_object()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .set_checksum_mode(self.ask())
                    .send()
            })
            .await;
        match outcome {
            Ok(reply) => Ok(Some(facts(reply))),
            Err(StoreError::Refused { status: 404, .. }) => self.bucket_is_there().await.map(|()| None),
            Err(
                error @ (StoreError::Forbidden { .. }
                | StoreError::Refused {
                    status: 300..=499, ..
                }),
            ) => match self.get_once(key, Some("bytes=0-0"), None).await {
                Err(told) => Err(told),
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
        Err(self.senseless(
            self.subject(Operation::List, ""),
            "replies do not tell the time (no Date header)",
        ))
    }

    async fn bucket_is_there(&self) -> Result<(), StoreError> {
        match self.head_bucket().await {
            // Who may not ask has been let in to the bucket all the same.
            Ok(()) | Err(StoreError::Forbidden { .. }) => Ok(()),
            Err(StoreError::Refused { status: 404, .. }) => Err(StoreError::NoSuchBucket {
                store: self.name.clone(),
            }),
            Err(error) => Err(error),
        }
    }

    async fn head_bucket(&self) -> Result<(), StoreError> {
        self.call(self.subject(Operation::List, ""), |_| {
            self.client.head_bucket().bucket(&self.settings.bucket).send()
        })
        .await
        .map(|_| ())
    }

    /// One try, whose reply has come as far as its headers.
    async fn get_once(
        &self,
        key: &str,
        range: Option<&str>,
        etag: Option<&str>,
    ) -> Result<GetObjectOutput, StoreError> {
        let subject = self.subject(Operation::Read, key);
        let request = self
            .client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .set_range(range.map(Into::into))
            .set_if_match(etag.map(Into::into))
            // A part of an object has no checksum.
            .set_checksum_mode(self.ask().filter(|_| range.is_none()))
            .send();
        let reply = Progress::default()
            .watch(self.settings.timeouts.idle, Box::pin(request))
            .await
            .map_err(|idle| stalled(subject, idle))?;
        reply.map_err(|error| super::s3_errors::translate(subject, self.unspeakable(), &error))
    }

    async fn read_body(&self, key: &str, limit: u64, reply: GetObjectOutput) -> Result<Bytes, StoreError> {
        let subject = self.subject(Operation::Read, key);
        let too_much = || StoreError::TooMuch {
            store: self.name.clone(),
            key: key.to_owned(),
            limit: format!("{limit} bytes"),
        };
        let told = reply.content_length.and_then(|length| u64::try_from(length).ok());
        if told.is_some_and(|length| length > limit) {
            return Err(too_much());
        }
        let room = usize::try_from(told.unwrap_or(0).min(FIRST_ROOM)).unwrap_or(0);
        let mut bytes = BytesMut::with_capacity(room);
        let mut body = reply.body;
        let idle = self.settings.timeouts.idle;
        let longest = idle
            .saturating_mul(2)
            .saturating_add(Duration::from_secs(limit / SLOWEST));
        let slow = || self.senseless(subject, "the reply came slower than 16 KiB a second");
        let end = Instant::now().checked_add(longest).ok_or_else(slow)?;
        loop {
            let progress = Progress::default();
            let next = timeout_at(end, progress.watch(idle, body.next()))
                .await
                .map_err(|_| slow())?;
            let Some(piece) = next.map_err(|idle| stalled(subject, idle))? else {
                break;
            };
            let piece =
                piece.map_err(|error| self.senseless(subject, &format!("the reply broke off ({error})")))?;
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(too_much());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// Stores that reject checksums are not asked for them.
    fn ask(&self) -> Option<Ask> {
        (self.settings.checksum != ChecksumMode::None).then_some(Ask::Enabled)
    }
}

fn facts(reply: HeadObjectOutput) -> ObjectFacts {
    let mut metadata: Vec<(String, String)> = reply
        .metadata
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    metadata.sort();
    ObjectFacts {
        size: reply
            .content_length
            .and_then(|length| u64::try_from(length).ok())
            .unwrap_or(0),
        etag: reply.e_tag,
        version_id: reply.version_id.filter(|id| is_name(id)),
        crc64: reply
            .checksum_crc64_nvme
            .as_deref()
            .and_then(s3_checksum::read_crc64),
        sha256: reply
            .checksum_sha256
            .as_deref()
            .and_then(s3_checksum::read_sha256),
        last_modified: reply.last_modified.and_then(timestamp),
        metadata,
    }
}

pub(super) fn timestamp(time: DateTime) -> Option<Timestamp> {
    let nanos = i32::try_from(time.subsec_nanos()).ok()?;
    Timestamp::new(time.secs(), nanos).ok()
}
