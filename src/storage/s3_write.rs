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
use super::s3_body::stream;
use super::s3_checksum::{self, Sums};
use super::s3_client::SignedBody;
use super::s3_errors::{Operation, Subject};
use super::s3_retry::{passing, passing_or_conflict};
use super::{
    ChecksumMode, Condition, Crc64, Encryption, ObjectClass, ObjectLockMode, Part, PutOptions, Segments,
    StoreError, Stored, Upload,
};

/// `If-None-Match: *`: only where nothing is.
const NOTHING_THERE: &str = "*";
/// A body from this size on is hashed on a thread of its own, where hashing is slow: 256 KiB.
const HASHED_ASIDE: u64 = 256 << 10;

/// How an object is kept, in the words of the SDK.
#[derive(Clone, Debug, Default)]
struct Keeping {
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
    ) -> Result<Stored, StoreError> {
        let keeping = self.keeping(options.class).await?;
        let subject = self.subject(keeping.operation(), key);
        let sums = self.sums(subject, body, options.crc64).await?;
        let reply = self
            .call_for(
                subject,
                self.settings.timeouts.idle,
                passing_or_conflict,
                |progress| {
                    let mut request = self
                        .client
                        .put_object()
                        .bucket(&self.settings.bucket)
                        .key(key)
                        .body(stream(body, &progress))
                        .content_type(options.content_type)
                        .set_metadata(metadata(options))
                        .set_if_none_match(condition(options))
                        .set_checksum_crc64_nvme(sums.crc64.clone())
                        .set_checksum_crc32_c(sums.crc32c.clone())
                        .set_storage_class(keeping.storage_class.clone())
                        .set_server_side_encryption(keeping.encryption.clone())
                        .set_ssekms_key_id(keeping.kms_key_id.clone())
                        .set_object_lock_mode(keeping.lock_mode.clone())
                        .set_object_lock_retain_until_date(keeping.retain_until)
                        .customize();
                    if let Some(sha256) = &sums.sha256 {
                        request = request.interceptor(SignedBody(sha256.clone()));
                    }
                    request.send()
                },
            )
            .await?;
        Ok(Stored {
            etag: reply.e_tag,
            version_id: reply.version_id,
        })
    }

    pub(super) async fn create_multipart_upload(
        &self,
        key: &str,
        options: &PutOptions,
    ) -> Result<Upload, StoreError> {
        let keeping = self.keeping(options.class).await?;
        let subject = self.subject(keeping.operation(), key);
        let algorithm = match self.settings.checksum {
            ChecksumMode::Crc64Nvme => Some(ChecksumAlgorithm::Crc64Nvme),
            ChecksumMode::Crc32c => Some(ChecksumAlgorithm::Crc32C),
            ChecksumMode::None => None,
        };
        let tries = AtomicU32::new(0);
        let reply = self
            .call(subject, |_| {
                tries.fetch_add(1, Ordering::Relaxed);
                self.client
                    .create_multipart_upload()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .content_type(options.content_type)
                    .set_metadata(metadata(options))
                    .set_checksum_type(algorithm.as_ref().map(|_| ChecksumType::FullObject))
                    .set_checksum_algorithm(algorithm.clone())
                    .set_storage_class(keeping.storage_class.clone())
                    .set_server_side_encryption(keeping.encryption.clone())
                    .set_ssekms_key_id(keeping.kms_key_id.clone())
                    .set_object_lock_mode(keeping.lock_mode.clone())
                    .set_object_lock_retain_until_date(keeping.retain_until)
                    .send()
            })
            .await?;
        let id = reply
            .upload_id
            .ok_or_else(|| self.senseless(subject, "an upload without an id"))?;
        Ok(Upload {
            key: key.to_owned(),
            id,
            repeated: tries.into_inner() > 1,
        })
    }

    pub(super) async fn send_part(
        &self,
        upload: &Upload,
        number: u16,
        body: &Segments,
        crc64: Crc64,
    ) -> Result<Part, StoreError> {
        let subject = self.subject_of(Operation::Write, upload);
        let sums = self.sums(subject, body, crc64).await?;
        let reply = self
            .call(subject, |progress| {
                let mut request = self
                    .client
                    .upload_part()
                    .bucket(&self.settings.bucket)
                    .key(&upload.key)
                    .upload_id(&upload.id)
                    .part_number(i32::from(number))
                    .body(stream(body, &progress))
                    .set_checksum_crc64_nvme(sums.crc64.clone())
                    .set_checksum_crc32_c(sums.crc32c.clone())
                    .customize();
                if let Some(sha256) = &sums.sha256 {
                    request = request.interceptor(SignedBody(sha256.clone()));
                }
                request.send()
            })
            .await?;
        let etag = reply
            .e_tag
            .ok_or_else(|| self.senseless(subject, "a part without an entity tag"))?;
        Ok(Part {
            number,
            etag,
            crc64,
            size: body.len(),
        })
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Stored, StoreError> {
        let subject = self.subject_of(Operation::Write, upload);
        let mode = self.settings.checksum;
        let size: u64 = parts.iter().map(|part| part.size).sum();
        if mode != ChecksumMode::Crc64Nvme && s3_checksum::crc64_of_parts(parts) != options.crc64 {
            return Err(self.corrupted(subject));
        }
        // Other parts' CRC-32C are known to the store alone: parts may come from another process.
        let crc32c = match mode {
            ChecksumMode::Crc32c => self.crc32c_of_parts(upload, parts).await?,
            ChecksumMode::Crc64Nvme | ChecksumMode::None => Vec::new(),
        };
        let whole = |sum: fn(Crc64) -> String| (mode == ChecksumMode::Crc64Nvme).then(|| sum(options.crc64));
        let completed = parts.iter().enumerate().map(|(index, part)| {
            CompletedPart::builder()
                .part_number(i32::from(part.number))
                .e_tag(&part.etag)
                .set_checksum_crc64_nvme(
                    (mode == ChecksumMode::Crc64Nvme).then(|| s3_checksum::crc64_text(part.crc64)),
                )
                .set_checksum_crc32_c(crc32c.get(index).map(|(sum, _)| s3_checksum::crc32c_text(*sum)))
                .build()
        });
        let completed = CompletedMultipartUpload::builder()
            .set_parts(Some(completed.collect()))
            .build();
        let checked = mode != ChecksumMode::None;
        let reply = self
            .call_for(subject, self.settings.timeouts.complete, passing, |_| {
                self.client
                    .complete_multipart_upload()
                    .bucket(&self.settings.bucket)
                    .key(&upload.key)
                    .upload_id(&upload.id)
                    .multipart_upload(completed.clone())
                    .set_if_none_match(condition(options))
                    .set_checksum_type(checked.then_some(ChecksumType::FullObject))
                    .set_checksum_crc64_nvme(whole(s3_checksum::crc64_text))
                    .set_checksum_crc32_c(
                        (mode == ChecksumMode::Crc32c)
                            .then(|| s3_checksum::crc32c_text(s3_checksum::crc32c_of_parts(&crc32c))),
                    )
                    .set_mpu_object_size(checked.then(|| i64::try_from(size).unwrap_or(i64::MAX)))
                    .send()
            })
            .await?;
        if !checked {
            self.compare_size(&upload.key, size).await?;
        }
        Ok(Stored {
            etag: reply.e_tag,
            version_id: reply.version_id,
        })
    }

    pub(super) async fn abort_multipart_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        let outcome = self
            .call(self.subject_of(Operation::Abort, upload), |_| {
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
    async fn compare_size(&self, key: &str, size: u64) -> Result<(), StoreError> {
        match self.head_object(key).await? {
            Some(facts) if facts.size == size => Ok(()),
            _ => Err(self.corrupted(self.subject(Operation::Read, key))),
        }
    }

    async fn sums(&self, subject: Subject<'_>, body: &Segments, crc64: Crc64) -> Result<Sums, StoreError> {
        let mode = self.settings.checksum;
        let sums = if mode == ChecksumMode::None && body.len() >= HASHED_ASIDE {
            let body = body.clone();
            tokio::task::spawn_blocking(move || s3_checksum::of_body(mode, &body, crc64))
                .await
                .map_err(|_| self.senseless(subject, "hashing was cut off: the process ends"))?
        } else {
            s3_checksum::of_body(mode, body, crc64)
        };
        sums.ok_or_else(|| self.corrupted(subject))
    }

    async fn keeping(&self, class: ObjectClass) -> Result<Keeping, StoreError> {
        let mut keeping = Keeping::default();
        if let Some(sse) = &self.settings.server_side_encryption {
            keeping.encryption = Some(match sse.kind {
                Encryption::Aes256 => ServerSideEncryption::Aes256,
                Encryption::AwsKms => ServerSideEncryption::AwsKms,
            });
            keeping.kms_key_id.clone_from(&sse.kms_key_id);
        }
        if class == ObjectClass::Evidence {
            keeping.storage_class = self.settings.storage_class.as_deref().map(StorageClass::from);
            if let Some(lock) = self.settings.object_lock {
                keeping.lock_mode = Some(match lock.mode {
                    ObjectLockMode::Governance => LockMode::Governance,
                    ObjectLockMode::Compliance => LockMode::Compliance,
                });
                keeping.retain_until = Some(retain_until(self.store_time().await?, lock.retain_days));
            }
        }
        Ok(keeping)
    }

    fn corrupted(&self, subject: Subject<'_>) -> StoreError {
        StoreError::Corrupted {
            store: self.name.clone(),
            key: subject.key.to_owned(),
        }
    }

    /// An answer that no S3 store should give.
    pub(super) fn senseless(&self, subject: Subject<'_>, what: &str) -> StoreError {
        StoreError::Network {
            store: self.name.clone(),
            message: format!("{what}, for {}", subject.key),
        }
    }
}

impl Keeping {
    fn operation(&self) -> Operation {
        match self.lock_mode {
            Some(_) => Operation::WriteLocked,
            None => Operation::Write,
        }
    }
}

fn metadata(options: &PutOptions) -> Option<HashMap<String, String>> {
    (!options.metadata.is_empty()).then(|| options.metadata.iter().cloned().collect())
}

fn condition(options: &PutOptions) -> Option<String> {
    match options.condition {
        Condition::Overwrite => None,
        Condition::IfAbsent => Some(NOTHING_THERE.to_owned()),
    }
}

/// Days are of 24 hours. Saturates at the end of the calendar.
fn retain_until(now: Timestamp, days: u32) -> DateTime {
    let until = now
        .checked_add(Span::new().hours(i64::from(days) * 24))
        .unwrap_or(Timestamp::MAX);
    DateTime::from_secs(until.as_second())
}
