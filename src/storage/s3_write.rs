//! The requests that write to a bucket: `PutObject`, and uploads in parts. Does I/O.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, ObjectLockMode as LockMode,
    ServerSideEncryption, StorageClass,
};
use jiff::{Span, Timestamp};

use super::s3::S3Store;
use super::s3_body::body_stream;
use super::s3_checksum::{self, BodyChecksums};
use super::s3_client::SignedBody;
use super::s3_errors::{RequestContext, S3Operation};
use super::s3_retry::{classify, classify_put};
use super::{
    ChecksumMode, Crc64, ObjectClass, ObjectLockMode, PutMode, PutOptions, PutResult, Segments, SseAlgorithm,
    StoreError, Upload, UploadedPart,
};
use crate::api::is_printable;

/// `If-None-Match: *`: only where nothing is.
const ANY_ETAG: &str = "*";
/// A body from this size on is hashed on a thread of its own, where hashing is slow: 256 KiB.
const BLOCKING_HASH_MIN_BYTES: u64 = 256 << 10;
/// Bytes of what a store calls a version, an upload or a part's state at most: S3's own are at most 1024.
const ID_MAX_BYTES: usize = 1024;

/// How an object is kept, in the words of the SDK.
#[derive(Clone, Debug, Default)]
struct WriteAttributes {
    storage_class: Option<StorageClass>,
    encryption: Option<ServerSideEncryption>,
    kms_key_id: Option<String>,
    lock_mode: Option<LockMode>,
    retain_until: Option<DateTime>,
}

impl S3Store {
    pub(super) async fn put_object(
        &self,
        key: &str,
        body: &Segments,
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        let attributes = self.write_attributes(options.class).await?;
        let context = self.context(attributes.operation(), key);
        let checksums = self.body_checksums(context, body, options.crc64).await?;
        let reply = self
            .call_with(context, self.settings.timeouts.idle, classify_put, |progress| {
                let mut request = self
                    .client
                    .put_object()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .body(body_stream(body, &progress))
                    .content_type(options.content_type)
                    .set_metadata(metadata(options))
                    .set_if_none_match(if_none_match(options))
                    .set_checksum_crc64_nvme(checksums.crc64.clone())
                    .set_checksum_crc32_c(checksums.crc32c.clone())
                    .set_storage_class(attributes.storage_class.clone())
                    .set_server_side_encryption(attributes.encryption.clone())
                    .set_ssekms_key_id(attributes.kms_key_id.clone())
                    .set_object_lock_mode(attributes.lock_mode.clone())
                    .set_object_lock_retain_until_date(attributes.retain_until)
                    .customize();
                if let Some(sha256) = &checksums.sha256 {
                    request = request.interceptor(SignedBody(sha256.clone()));
                }
                request.send()
            })
            .await?;
        Ok(PutResult {
            etag: reply.e_tag,
            version_id: reply.version_id.filter(|id| is_usable_id(id)),
        })
    }

    pub(super) async fn create_multipart_upload(
        &self,
        key: &str,
        options: &PutOptions,
    ) -> Result<Upload, StoreError> {
        let attributes = self.write_attributes(options.class).await?;
        let context = self.context(attributes.operation(), key);
        let algorithm = match self.settings.checksum {
            ChecksumMode::Crc64Nvme => Some(ChecksumAlgorithm::Crc64Nvme),
            ChecksumMode::Crc32c => Some(ChecksumAlgorithm::Crc32C),
            ChecksumMode::None => None,
        };
        let tries = AtomicU32::new(0);
        let reply = self
            .call(context, |_| {
                tries.fetch_add(1, Ordering::Relaxed);
                self.client
                    .create_multipart_upload()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .content_type(options.content_type)
                    .set_metadata(metadata(options))
                    .set_checksum_type(algorithm.as_ref().map(|_| ChecksumType::FullObject))
                    .set_checksum_algorithm(algorithm.clone())
                    .set_storage_class(attributes.storage_class.clone())
                    .set_server_side_encryption(attributes.encryption.clone())
                    .set_ssekms_key_id(attributes.kms_key_id.clone())
                    .set_object_lock_mode(attributes.lock_mode.clone())
                    .set_object_lock_retain_until_date(attributes.retain_until)
                    .send()
            })
            .await?;
        let id = reply
            .upload_id
            .filter(|id| is_usable_id(id))
            .ok_or_else(|| self.invalid_response(context, "an upload without a usable id"))?;
        Ok(Upload {
            key: key.to_owned(),
            id,
            retried: tries.into_inner() > 1,
        })
    }

    pub(super) async fn send_part(
        &self,
        upload: &Upload,
        number: u16,
        body: &Segments,
        crc64: Crc64,
    ) -> Result<UploadedPart, StoreError> {
        let context = self.upload_context(S3Operation::Write, upload);
        let checksums = self.body_checksums(context, body, crc64).await?;
        let reply = self
            .call(context, |progress| {
                let mut request = self
                    .client
                    .upload_part()
                    .bucket(&self.settings.bucket)
                    .key(&upload.key)
                    .upload_id(&upload.id)
                    .part_number(i32::from(number))
                    .body(body_stream(body, &progress))
                    .set_checksum_crc64_nvme(checksums.crc64.clone())
                    .set_checksum_crc32_c(checksums.crc32c.clone())
                    .customize();
                if let Some(sha256) = &checksums.sha256 {
                    request = request.interceptor(SignedBody(sha256.clone()));
                }
                request.send()
            })
            .await?;
        let etag = reply
            .e_tag
            .filter(|etag| is_usable_id(etag))
            .ok_or_else(|| self.invalid_response(context, "a part without a usable entity tag"))?;
        Ok(UploadedPart {
            number,
            etag,
            crc64,
            size: body.len(),
        })
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        let context = self.upload_context(S3Operation::Write, upload);
        let mode = self.settings.checksum;
        let size: u64 = parts.iter().map(|part| part.size).sum();
        if mode != ChecksumMode::Crc64Nvme && s3_checksum::crc64_of_parts(parts) != options.crc64 {
            return Err(self.corrupted(context));
        }
        // Other parts' CRC-32C are known to the store alone: parts may come from another process.
        let crc32c = match mode {
            ChecksumMode::Crc32c => self.crc32c_of_parts(upload, parts).await?,
            ChecksumMode::Crc64Nvme | ChecksumMode::None => Vec::new(),
        };
        let object_checksum =
            |sum: fn(Crc64) -> String| (mode == ChecksumMode::Crc64Nvme).then(|| sum(options.crc64));
        let completed = parts.iter().enumerate().map(|(index, part)| {
            CompletedPart::builder()
                .part_number(i32::from(part.number))
                .e_tag(&part.etag)
                .set_checksum_crc64_nvme(
                    (mode == ChecksumMode::Crc64Nvme).then(|| s3_checksum::encode_crc64(part.crc64)),
                )
                .set_checksum_crc32_c(crc32c.get(index).map(|(sum, _)| s3_checksum::encode_crc32c(*sum)))
                .build()
        });
        let completed = CompletedMultipartUpload::builder()
            .set_parts(Some(completed.collect()))
            .build();
        let checked = mode != ChecksumMode::None;
        let reply = self
            .call_with(context, self.settings.timeouts.complete, classify, |_| {
                self.client
                    .complete_multipart_upload()
                    .bucket(&self.settings.bucket)
                    .key(&upload.key)
                    .upload_id(&upload.id)
                    .multipart_upload(completed.clone())
                    .set_if_none_match(if_none_match(options))
                    .set_checksum_type(checked.then_some(ChecksumType::FullObject))
                    .set_checksum_crc64_nvme(object_checksum(s3_checksum::encode_crc64))
                    .set_checksum_crc32_c(
                        (mode == ChecksumMode::Crc32c)
                            .then(|| s3_checksum::encode_crc32c(s3_checksum::crc32c_of_parts(&crc32c))),
                    )
                    .set_mpu_object_size(checked.then(|| i64::try_from(size).unwrap_or(i64::MAX)))
                    .send()
            })
            .await?;
        if !checked {
            self.verify_size(&upload.key, size).await?;
        }
        Ok(PutResult {
            etag: reply.e_tag,
            version_id: reply.version_id.filter(|id| is_usable_id(id)),
        })
    }

    pub(super) async fn abort_multipart_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        let outcome = self
            .call(self.upload_context(S3Operation::Abort, upload), |_| {
                self.client
                    .abort_multipart_upload()
                    .bucket(&self.settings.bucket)
                    .key(&upload.key)
                    .upload_id(&upload.id)
                    .send()
            })
            .await;
        match outcome {
            Ok(_) | Err(StoreError::NoSuchUpload { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where no checksum covers a completed upload, its size has to.
    async fn verify_size(&self, key: &str, size: u64) -> Result<(), StoreError> {
        match self.head_object(key).await? {
            Some(info) if info.size == size => Ok(()),
            _ => Err(self.corrupted(self.context(S3Operation::Read, key))),
        }
    }

    async fn body_checksums(
        &self,
        context: RequestContext<'_>,
        body: &Segments,
        crc64: Crc64,
    ) -> Result<BodyChecksums, StoreError> {
        let mode = self.settings.checksum;
        let checksums = if mode == ChecksumMode::None && body.len() >= BLOCKING_HASH_MIN_BYTES {
            let body = body.clone();
            tokio::task::spawn_blocking(move || s3_checksum::body_checksums(mode, &body, crc64))
                .await
                .map_err(|_| self.invalid_response(context, "hashing was cut off: the process ends"))?
        } else {
            s3_checksum::body_checksums(mode, body, crc64)
        };
        checksums.ok_or_else(|| self.corrupted(context))
    }

    async fn write_attributes(&self, class: ObjectClass) -> Result<WriteAttributes, StoreError> {
        let mut attributes = WriteAttributes::default();
        if let Some(sse) = &self.settings.server_side_encryption {
            attributes.encryption = Some(match sse.algorithm {
                SseAlgorithm::Aes256 => ServerSideEncryption::Aes256,
                SseAlgorithm::AwsKms => ServerSideEncryption::AwsKms,
            });
            attributes.kms_key_id.clone_from(&sse.kms_key_id);
        }
        if class == ObjectClass::Evidence {
            attributes.storage_class = self.settings.storage_class.as_deref().map(StorageClass::from);
            if let Some(lock) = self.settings.object_lock {
                attributes.lock_mode = Some(match lock.mode {
                    ObjectLockMode::Governance => LockMode::Governance,
                    ObjectLockMode::Compliance => LockMode::Compliance,
                });
                attributes.retain_until = Some(retain_until(self.store_time().await?, lock.retain_days));
            }
        }
        Ok(attributes)
    }

    fn corrupted(&self, context: RequestContext<'_>) -> StoreError {
        StoreError::Corrupted {
            store: self.name.clone(),
            key: context.key.to_owned(),
        }
    }

    /// An answer that no S3 store should give.
    pub(super) fn invalid_response(&self, context: RequestContext<'_>, what: &str) -> StoreError {
        StoreError::Network {
            store: self.name.clone(),
            message: format!("{what}, for {}", context.key),
        }
    }
}

/// Whether this can be what a store calls a version, an upload or the state of a part: it is kept for each part, and
/// written into records that are read back up to a size.
pub(super) fn is_usable_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_MAX_BYTES && text.chars().all(is_printable)
}

impl WriteAttributes {
    fn operation(&self) -> S3Operation {
        match self.lock_mode {
            Some(_) => S3Operation::WriteLocked,
            None => S3Operation::Write,
        }
    }
}

fn metadata(options: &PutOptions) -> Option<HashMap<String, String>> {
    (!options.metadata.is_empty()).then(|| options.metadata.iter().cloned().collect())
}

fn if_none_match(options: &PutOptions) -> Option<String> {
    match options.mode {
        PutMode::Overwrite => None,
        PutMode::Create => Some(ANY_ETAG.to_owned()),
    }
}

/// Days are of 24 hours. Saturates at the end of the calendar.
fn retain_until(now: Timestamp, days: u32) -> DateTime {
    let until = now
        .checked_add(Span::new().hours(i64::from(days) * 24))
        .unwrap_or(Timestamp::MAX);
    DateTime::from_secs(until.as_second())
}
