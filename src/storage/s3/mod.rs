//! A bucket as a [`Store`]. Does I/O: each method sends one request, retried where that helps, or a few.
//!
//! Every request goes through [`S3Store::call`], except reads of objects, which retry together with their bodies.

mod aws_identity;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
mod body;
mod checksum;
mod client;
mod document;
mod errors;
mod limited;
mod metered;
mod paging;
mod retry;
mod settings;
mod temporary_credentials;
mod write_mode;

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode as SdkChecksumMode, ChecksumType, CompletedMultipartUpload,
    CompletedPart, Delete, EncodingType, MultipartUpload, Object, ObjectCannedAcl, ObjectIdentifier,
    ObjectLockMode as LockMode, ServerSideEncryption, StorageClass,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use jiff::{Span, Timestamp};
use tokio::time::{Instant, timeout_at};

use self::body::{TransferProgress, body_stream};
use self::checksum::BodyChecksums;
use self::client::{SignedBody, StoreClock};
use self::errors::{
    Redactor, RequestContext, S3ErrorResponse, S3Operation, error_from_response, error_from_sdk, idle_timeout,
};
use self::paging::AcceptedPages;
use self::retry::{RetryClassifier, classify, classify_put, retry};
use self::write_mode::WriteMode;
use super::{
    Crc64, LIST_MAX, ObjectClass, ObjectInfo, ObjectSummary, ObjectVersion, OpenUpload, PutMode, PutOptions,
    PutResult, Segments, Store, StoreError, StoreIdentity, Upload, UploadedPart,
};
use crate::api::is_printable;
use crate::egress::via_proxy;

pub use self::aws_identity::{AwsIdentities, WebIdentity};
pub use self::settings::{
    CannedAcl, ChecksumMode, ObjectLockMode, ObjectRetention, S3Credentials, S3Settings, S3Timeouts,
    SecretError, Sse, SseAlgorithm,
};
pub use self::temporary_credentials::TemporaryCredentials;

/// Initial buffer capacity for an object: 1 MiB at most.
const INITIAL_CAPACITY_MAX: u64 = 1 << 20;
/// Minimum average throughput of an object read: 16 KiB per second. The objects are small, and a process waits for them.
const MIN_BYTES_PER_SECOND: u64 = 16 << 10;
/// `If-None-Match: *`: the key must not exist.
const ANY_ETAG: &str = "*";
/// Size from which a body is hashed on a blocking thread, in the mode that hashes with SHA-256: 256 KiB.
const BLOCKING_HASH_MIN_BYTES: u64 = 256 << 10;
/// Maximum length of a version id, upload id or entity tag, in bytes. Those of S3 have at most 1024.
const ID_MAX_BYTES: usize = 1024;
/// Version id of what was written while the bucket kept no versions.
const NULL_VERSION: &str = "null";
/// Maximum length of a key in bytes, the limit of S3.
const KEY_MAX_BYTES: usize = 1024;
/// Maximum number of keys in one `DeleteObjects`, the limit of S3.
const DELETE_BATCH_MAX: usize = 1000;
/// Maximum concurrent `DeleteObject` requests, for stores without `DeleteObjects`.
const DELETE_CONCURRENCY: usize = 16;
/// Maximum number of pages in one listing. A store that returns more repeats pages.
const PAGES_MAX: usize = LIST_MAX / 100;

/// A client of one bucket, with its own connections. Share it: creating one is expensive.
#[derive(Debug)]
pub struct S3Store {
    /// `s3://bucket`
    location: String,
    identity: StoreIdentity,
    /// The identity, for messages.
    name: String,
    client: Client,
    settings: S3Settings,
    /// The proxy on the way to the store, as the end of a message.
    via_proxy: String,
    clock: Arc<StoreClock>,
    redactor: Redactor,
    /// True after the store refused `DeleteObjects`: keys are deleted one by one.
    single_deletes: AtomicBool,
    /// True after the store refused `ListMultipartUploads`.
    uploads_unlisted: AtomicBool,
    /// Method of writes, which adapts to the store.
    write_mode: Mutex<WriteMode>,
    /// True after a reply to `PutObject` stated the checksum that was sent.
    verifies_put: AtomicBool,
    /// True after a reply to `UploadPart` stated the checksum that was sent.
    verifies_part: AtomicBool,
}

/// Storage class, encryption and retention of an object, as types of the SDK.
#[derive(Clone, Debug, Default)]
struct WriteAttributes {
    storage_class: Option<StorageClass>,
    encryption: Option<ServerSideEncryption>,
    kms_key_id: Option<String>,
    lock_mode: Option<LockMode>,
    retain_until: Option<DateTime>,
}

impl S3Store {
    /// Builds the client; sends nothing. Fails if certificates cannot be parsed, the endpoint is not allowed, or the
    /// environment names an invalid address of STS.
    pub fn connect(settings: S3Settings) -> Result<Self, StoreError> {
        let clock = Arc::new(StoreClock::default());
        let identity = settings.identity();
        Ok(Self {
            location: format!("s3://{}", settings.bucket),
            name: identity.to_string(),
            identity,
            client: client::build(&settings, Arc::clone(&clock))?,
            redactor: Redactor::of(&settings.credentials),
            write_mode: Mutex::new(WriteMode::of(&settings)),
            via_proxy: client::endpoint_of(&settings).map_or_else(String::new, |url| via_proxy(&url)),
            settings,
            clock,
            single_deletes: AtomicBool::new(false),
            uploads_unlisted: AtomicBool::new(false),
            verifies_put: AtomicBool::new(false),
            verifies_part: AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl Store for S3Store {
    fn location(&self) -> &str {
        &self.location
    }

    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    async fn put(&self, key: &str, body: Segments, options: &PutOptions) -> Result<PutResult, StoreError> {
        let attributes = self.write_attributes(options.class).await?;
        self.adapt(|mode| self.try_put(key, &body, options, &attributes, mode))
            .await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        self.read_object(key, None, None, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
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

    async fn get_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let last = offset.saturating_add(limit).saturating_sub(1);
        let range = format!("bytes={offset}-{last}");
        // A store that ignores the range returns too much, which is an error.
        self.read_object(key, Some(&range), etag, limit).await
    }

    async fn list_pages(
        &self,
        prefix: &str,
        on_page: &mut (dyn FnMut(Vec<ObjectSummary>) + Send),
    ) -> Result<(), StoreError> {
        let context = self.context(S3Operation::List, prefix);
        let mut listed = 0;
        let mut pages = AcceptedPages::default();
        let mut token = None;
        for _ in 0..PAGES_MAX {
            let page = self
                .call_page(
                    context,
                    |_| {
                        self.client
                            .list_objects_v2()
                            .bucket(&self.settings.bucket)
                            .prefix(prefix)
                            // A key may contain characters that XML cannot.
                            .encoding_type(EncodingType::Url)
                            .set_continuation_token(token.clone())
                            .send()
                    },
                    |page: &ListObjectsV2Output| {
                        let next = page.next_continuation_token.clone();
                        let next = next.filter(|next| !next.is_empty());
                        let first_row = page.contents().first().and_then(Object::key);
                        pages.next(page.is_truncated, first_row, next)
                    },
                )
                .await;
            let (page, next) = match page {
                // Some stores answer so if no key begins with the prefix.
                Err(StoreError::Rejected {
                    status: 404,
                    ref code,
                    ..
                }) if code == "NoSuchKey" && token.is_none() => {
                    return self.check_bucket().await;
                }
                page => page?,
            };
            pages.accept(page.contents().first().and_then(Object::key), next.as_ref());
            let encoded = page.encoding_type == Some(EncodingType::Url);
            let contents = page.contents.unwrap_or_default();
            listed += contents.len();
            let mut rows = Vec::with_capacity(contents.len());
            for object in contents {
                let key = object.key.map(|key| decode_key(key, encoded));
                let key = key
                    .filter(|key| key.len() <= KEY_MAX_BYTES)
                    .ok_or_else(|| self.invalid_response(context, "listed object without a valid key"))?;
                let size = object.size.unwrap_or(0);
                let size = u64::try_from(size)
                    .map_err(|_| self.invalid_response(context, "listed object with a negative size"))?;
                rows.push(ObjectSummary {
                    key,
                    size,
                    etag: object.e_tag.filter(|etag| is_usable_id(etag)),
                    last_modified: object.last_modified.and_then(timestamp),
                });
            }
            if listed > LIST_MAX {
                return Err(self.limit_exceeded(prefix, LIST_MAX, "keys"));
            }
            on_page(rows);
            token = next;
            if token.is_none() {
                return Ok(());
            }
        }
        Err(self.limit_exceeded(prefix, PAGES_MAX, "pages"))
    }

    async fn list_versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        let context = self.context(S3Operation::ListVersions, prefix);
        let mut all = Vec::new();
        let mut pages = AcceptedPages::default();
        // A key, and a version of that key.
        let mut after: Option<(String, Option<String>)> = None;
        for _ in 0..PAGES_MAX {
            let (after_key, after_id) = after.clone().unzip();
            let (page, next) = self
                .call_page(
                    context,
                    |_| {
                        self.client
                            .list_object_versions()
                            .bucket(&self.settings.bucket)
                            .prefix(prefix)
                            .encoding_type(EncodingType::Url)
                            .set_key_marker(after_key.clone())
                            .set_version_id_marker(after_id.clone().flatten())
                            .send()
                    },
                    |page: &ListObjectVersionsOutput| {
                        let encoded = page.encoding_type == Some(EncodingType::Url);
                        let key = page.next_key_marker.clone().filter(|key| !key.is_empty());
                        let next =
                            key.map(|key| (decode_key(key, encoded), page.next_version_id_marker.clone()));
                        // The markers show a page that repeats: one of markers of deletions has no other first row.
                        pages.next(Some(page.is_truncated.unwrap_or(false)), None, next)
                    },
                )
                .await?;
            pages.accept(None, next.as_ref());
            let encoded = page.encoding_type == Some(EncodingType::Url);
            let versions = page.versions.unwrap_or_default().into_iter();
            let versions = versions
                .map(|one| (one.key, one.version_id, one.is_latest, false, one.last_modified))
                .chain(
                    page.delete_markers
                        .unwrap_or_default()
                        .into_iter()
                        .map(|one| (one.key, one.version_id, one.is_latest, true, one.last_modified)),
                );
            for (key, version_id, is_latest, is_delete_marker, last_modified) in versions {
                let key = key.map(|key| decode_key(key, encoded));
                let key = key
                    .filter(|key| key.len() <= KEY_MAX_BYTES)
                    .ok_or_else(|| self.invalid_response(context, "listed version without a valid key"))?;
                all.push(ObjectVersion {
                    key,
                    version_id: version_id.filter(|id| is_usable_id(id) && id != NULL_VERSION),
                    is_latest: is_latest.unwrap_or(false),
                    is_delete_marker,
                    last_modified: last_modified.and_then(timestamp),
                });
            }
            if all.len() > LIST_MAX {
                return Err(self.limit_exceeded(prefix, LIST_MAX, "versions"));
            }
            after = next;
            if after.is_none() {
                return Ok(all);
            }
        }
        Err(self.limit_exceeded(prefix, PAGES_MAX, "pages"))
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        let mut failed = Vec::new();
        for batch in keys.chunks(DELETE_BATCH_MAX) {
            if !self.single_deletes.load(Ordering::Relaxed) {
                match self.delete_batch(batch).await {
                    Ok(rejected) => {
                        failed.extend(rejected);
                        continue;
                    }
                    // A policy may allow DeleteObject only. One request shows it.
                    Err(StoreError::Forbidden { store, action, .. }) => {
                        let (one, others) = batch.split_at(1);
                        if self.delete_one_by_one(one).await?.is_empty() {
                            self.delete_singly_from_now(&action);
                            failed.extend(self.delete_one_by_one(others).await?);
                        } else {
                            failed.extend(batch.iter().map(|key| {
                                let (store, action) = (store.clone(), action.clone());
                                let key = key.clone();
                                (key.clone(), StoreError::Forbidden { store, action, key })
                            }));
                        }
                        continue;
                    }
                    Err(error) if is_batch_unsupported(&error) => {
                        self.delete_singly_from_now(&error.to_string());
                    }
                    Err(error) => return Err(error),
                }
            }
            failed.extend(self.delete_one_by_one(batch).await?);
        }
        Ok(failed)
    }

    async fn begin_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
        let attributes = self.write_attributes(options.class).await?;
        self.adapt(|mode| self.try_begin(key, options, &attributes, mode))
            .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: u16,
        body: Segments,
        crc64: Crc64,
    ) -> Result<UploadedPart, StoreError> {
        self.adapt(|mode| self.try_part(upload, number, &body, crc64, mode))
            .await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        self.adapt(|mode| self.try_complete(upload, parts, options, mode.checksum))
            .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
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

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let context = self.context(S3Operation::ListUploads, prefix);
        let mut all: Vec<OpenUpload> = Vec::new();
        let mut pages = AcceptedPages::default();
        // A key, and an upload of that key.
        let mut after: Option<(String, Option<String>)> = None;
        for _ in 0..PAGES_MAX {
            let (after_key, after_id) = after.clone().unzip();
            let page = self
                .call_page(
                    context,
                    |_| {
                        self.client
                            .list_multipart_uploads()
                            .bucket(&self.settings.bucket)
                            .prefix(prefix)
                            .encoding_type(EncodingType::Url)
                            .set_key_marker(after_key.clone())
                            .set_upload_id_marker(after_id.clone().flatten())
                            .send()
                    },
                    |page: &ListMultipartUploadsOutput| {
                        let encoded = page.encoding_type == Some(EncodingType::Url);
                        let key = page.next_key_marker.clone().filter(|key| !key.is_empty());
                        let next =
                            key.map(|key| (decode_key(key, encoded), page.next_upload_id_marker.clone()));
                        let first_row = page.uploads().first().and_then(MultipartUpload::upload_id);
                        // Some stores name a marker at the end of a complete listing.
                        pages.next(Some(page.is_truncated.unwrap_or(false)), first_row, next)
                    },
                )
                .await;
            let (page, next) = match page {
                Err(StoreError::Unsupported { .. }) => {
                    if !self.uploads_unlisted.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            store = %self.name,
                            "the store does not list unfinished uploads, so that those of interrupted attempts stay: let a lifecycle rule of the bucket abort them"
                        );
                    }
                    return Ok(all);
                }
                page => page?,
            };
            let first_row = page.uploads().first().and_then(MultipartUpload::upload_id);
            pages.accept(first_row, next.as_ref());
            let encoded = page.encoding_type == Some(EncodingType::Url);
            for upload in page.uploads.unwrap_or_default() {
                let key = upload.key.map(|key| decode_key(key, encoded));
                let key = key.filter(|key| key.len() <= KEY_MAX_BYTES);
                let (Some(key), Some(id)) = (key, upload.upload_id.filter(|id| is_usable_id(id))) else {
                    return Err(self.invalid_response(context, "listed upload without a valid key and id"));
                };
                // MinIO treats the prefix as a complete key.
                if key.starts_with(prefix) {
                    let initiated = upload.initiated.and_then(timestamp);
                    all.push(OpenUpload {
                        upload: Upload {
                            key,
                            id,
                            retried: false,
                        },
                        initiated,
                    });
                }
            }
            if all.len() > LIST_MAX {
                return Err(self.limit_exceeded(prefix, LIST_MAX, "uploads"));
            }
            after = next;
            if after.is_none() {
                return Ok(all);
            }
        }
        Err(self.limit_exceeded(prefix, PAGES_MAX, "pages"))
    }

    /// Returns the time of a recent reply, or of one requested now, which may be an error reply.
    async fn now(&self) -> Result<Timestamp, StoreError> {
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        let outcome = self.head_bucket().await;
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        outcome?;
        Err(self.unusable_reply(
            "without a Date header",
            "the time of the store is read from it; let the store, or the gateway before it, send one",
        ))
    }
}

impl S3Store {
    /// Sends a write in the current mode. If the store refuses it as it was sent, sends it in another one, and keeps the
    /// mode that the store understands.
    async fn adapt<T, F>(&self, attempt: impl Fn(WriteMode) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let first_mode = *self.write_mode.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut mode, mut first_error) = (first_mode, None);
        // Each step makes a mode that is refused less demanding, so this ends.
        loop {
            let error = match attempt(mode).await {
                Err(error) if write_mode::is_refusal(&error) => error,
                outcome => {
                    let executed = matches!(
                        outcome,
                        Ok(_) | Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. })
                    );
                    if let Some(cause) = first_error.filter(|_| executed) {
                        self.keep_mode(mode, &cause);
                    }
                    return outcome;
                }
            };
            let next = mode.after(&error);
            let error = first_error.get_or_insert(error);
            match next {
                Some(next) => mode = next,
                None => return Err(error.clone()),
            }
        }
    }

    fn keep_mode(&self, mode: WriteMode, cause: &StoreError) {
        let mut kept = self.write_mode.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *kept, mode) != mode {
            let setting = mode.setting();
            tracing::warn!(store = %self.name, error = %cause, "the store refuses writes as they were sent, now with {setting}");
        }
    }

    async fn try_put(
        &self,
        key: &str,
        body: &Segments,
        options: &PutOptions,
        attributes: &WriteAttributes,
        mode: WriteMode,
    ) -> Result<PutResult, StoreError> {
        let context = self.context(attributes.operation(), key);
        let checksums = self
            .body_checksums(context, mode, body, options.crc64, &self.verifies_put)
            .await?;
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
                    .set_acl(self.acl())
                    .set_content_md5(checksums.md5.clone())
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
        let stated = (reply.checksum_crc64_nvme(), reply.checksum_crc32_c());
        self.compare_checksum(context, &checksums, stated, &self.verifies_put)?;
        Ok(PutResult {
            etag: reply.e_tag,
            version_id: reply.version_id.filter(|id| is_usable_id(id)),
        })
    }

    async fn try_begin(
        &self,
        key: &str,
        options: &PutOptions,
        attributes: &WriteAttributes,
        mode: WriteMode,
    ) -> Result<Upload, StoreError> {
        let context = self.context(attributes.operation(), key);
        let algorithm = match mode.checksum {
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
                    .set_acl(self.acl())
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
            .ok_or_else(|| self.invalid_response(context, "upload without a valid id"))?;
        Ok(Upload {
            key: key.to_owned(),
            id,
            retried: tries.into_inner() > 1,
        })
    }

    async fn try_part(
        &self,
        upload: &Upload,
        number: u16,
        body: &Segments,
        crc64: Crc64,
        mode: WriteMode,
    ) -> Result<UploadedPart, StoreError> {
        let context = self.upload_context(S3Operation::Write, upload);
        let checksums = self
            .body_checksums(context, mode, body, crc64, &self.verifies_part)
            .await?;
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
                    .set_content_md5(checksums.md5.clone())
                    .set_checksum_crc64_nvme(checksums.crc64.clone())
                    .set_checksum_crc32_c(checksums.crc32c.clone())
                    .customize();
                if let Some(sha256) = &checksums.sha256 {
                    request = request.interceptor(SignedBody(sha256.clone()));
                }
                request.send()
            })
            .await?;
        let stated = (reply.checksum_crc64_nvme(), reply.checksum_crc32_c());
        self.compare_checksum(context, &checksums, stated, &self.verifies_part)?;
        let etag = reply.e_tag.filter(|etag| is_usable_id(etag)).ok_or_else(|| {
            self.unusable_reply(
                "a part without an ETag",
                "the upload cannot be completed without it; a gateway before the store may remove it",
            )
        })?;
        Ok(UploadedPart {
            number,
            etag,
            crc64,
            crc32c: checksums.crc32c.as_deref().and_then(checksum::decode_crc32c),
            size: body.len(),
        })
    }

    async fn try_complete(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
        mode: ChecksumMode,
    ) -> Result<PutResult, StoreError> {
        let context = self.upload_context(S3Operation::Write, upload);
        let size: u64 = parts.iter().map(|part| part.size).sum();
        if mode != ChecksumMode::Crc64Nvme && Crc64::of_parts(parts) != options.crc64 {
            return Err(self.corrupted(context));
        }
        let object_checksums = match mode {
            ChecksumMode::Crc64Nvme => BodyChecksums {
                crc64: Some(checksum::encode_crc64(options.crc64)),
                ..BodyChecksums::default()
            },
            ChecksumMode::Crc32c => {
                let parts: Option<Vec<_>> =
                    parts.iter().map(|part| Some((part.crc32c?, part.size))).collect();
                let parts = parts.ok_or_else(|| self.corrupted(context))?;
                BodyChecksums {
                    crc32c: Some(checksum::encode_crc32c(checksum::crc32c_of_parts(&parts))),
                    ..BodyChecksums::default()
                }
            }
            ChecksumMode::None => BodyChecksums::default(),
        };
        let completed = parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(i32::from(part.number))
                .e_tag(&part.etag)
                .set_checksum_crc64_nvme(
                    (mode == ChecksumMode::Crc64Nvme).then(|| checksum::encode_crc64(part.crc64)),
                )
                .set_checksum_crc32_c(part.crc32c.map(checksum::encode_crc32c))
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
                    .set_checksum_crc64_nvme(object_checksums.crc64.clone())
                    .set_checksum_crc32_c(object_checksums.crc32c.clone())
                    .set_mpu_object_size(checked.then(|| i64::try_from(size).unwrap_or(i64::MAX)))
                    .send()
            })
            .await?;
        let stated = (reply.checksum_crc64_nvme(), reply.checksum_crc32_c());
        // A checksum of checksums (`…-3`) says nothing about the complete object.
        let stated = (stated.0.filter(is_full_object), stated.1.filter(is_full_object));
        if !self.states_checksum(context, &object_checksums, stated)? {
            self.verify_object(&upload.key, size, options.crc64).await?;
        }
        Ok(PutResult {
            etag: reply.e_tag,
            version_id: reply.version_id.filter(|id| is_usable_id(id)),
        })
    }

    /// Sends a request, and retries it while its errors are retryable. `send` builds the request for each attempt.
    async fn call<T, E, F>(
        &self,
        context: RequestContext<'_>,
        send: impl Fn(Arc<TransferProgress>) -> F,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        self.call_with(context, self.settings.timeouts.idle, classify, send)
            .await
    }

    /// Requests a page of a listing, and returns it with the marker of the next one. A page that contradicts itself is
    /// requested again like a failed one.
    async fn call_page<T, E, F, M>(
        &self,
        context: RequestContext<'_>,
        send: impl Fn(Arc<TransferProgress>) -> F,
        next: impl Fn(&T) -> Result<Option<M>, &'static str>,
    ) -> Result<(T, Option<M>), StoreError>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        retry(classify, &self.settings.traffic, || async {
            let page = self.try_once(context, self.settings.timeouts.idle, &send).await?;
            match next(&page) {
                Ok(next) => Ok((page, next)),
                Err(problem) => Err(StoreError::IncompleteListing {
                    store: self.name.clone(),
                    prefix: context.key.to_owned(),
                    problem,
                }),
            }
        })
        .await
    }

    /// As [`call`](Self::call), with another idle timeout and classifier.
    async fn call_with<T, E, F>(
        &self,
        context: RequestContext<'_>,
        idle: Duration,
        classify: RetryClassifier,
        send: impl Fn(Arc<TransferProgress>) -> F,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        retry(classify, &self.settings.traffic, || {
            self.try_once(context, idle, &send)
        })
        .await
    }

    async fn try_once<T, E, F>(
        &self,
        context: RequestContext<'_>,
        idle: Duration,
        send: &impl Fn(Arc<TransferProgress>) -> F,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let progress = Arc::new(TransferProgress::default());
        // Futures of the SDK are large, and many are pending at once.
        let request = Box::pin(send(Arc::clone(&progress)));
        match progress.watch(idle, request).await {
            Ok(reply) => reply.map_err(|error| error_from_sdk(context, &self.redactor, &error)),
            Err(idle) => Err(idle_timeout(context, idle)),
        }
    }

    fn context<'a>(&'a self, operation: S3Operation, key: &'a str) -> RequestContext<'a> {
        RequestContext {
            store: &self.name,
            operation,
            key,
            upload: "",
            via_proxy: &self.via_proxy,
        }
    }

    fn upload_context<'a>(&'a self, operation: S3Operation, upload: &'a Upload) -> RequestContext<'a> {
        RequestContext {
            upload: &upload.id,
            ..self.context(operation, &upload.key)
        }
    }

    async fn check_bucket(&self) -> Result<(), StoreError> {
        match self.head_bucket().await {
            // A denied request proves that the bucket exists.
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

    /// Reads at most `limit` bytes of an object, or of a range of it. An interrupted reply is retried like a failed
    /// request.
    async fn read_object(
        &self,
        key: &str,
        range: Option<&str>,
        etag: Option<&str>,
        limit: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        retry(classify, &self.settings.traffic, || async {
            match self.try_get(key, range, etag).await {
                Ok(reply) => self.read_body(key, limit, reply).await.map(Some),
                Err(StoreError::Rejected { status: 404, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Sends one attempt, and returns when the headers of its reply have arrived.
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
            // A range of an object has no checksum.
            .set_checksum_mode(self.checksum_mode().filter(|_| range.is_none()))
            .send();
        let reply = TransferProgress::default()
            .watch(self.settings.timeouts.idle, Box::pin(request))
            .await
            .map_err(|idle| idle_timeout(context, idle))?;
        reply.map_err(|error| error_from_sdk(context, &self.redactor, &error))
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
        let slow = || self.invalid_response(context, "response slower than 16 KiB per second");
        let end = Instant::now().checked_add(timeout).ok_or_else(slow)?;
        loop {
            let progress = TransferProgress::default();
            let next = timeout_at(end, progress.watch(idle, body.next()))
                .await
                .map_err(|_| slow())?;
            let Some(piece) = next.map_err(|idle| idle_timeout(context, idle))? else {
                break;
            };
            let piece = piece.map_err(|error| {
                self.invalid_response(context, &format!("response interrupted ({error})"))
            })?;
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(limit_exceeded());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// Returns the checksum mode of a read; `None` for stores that reject checksum headers.
    fn checksum_mode(&self) -> Option<SdkChecksumMode> {
        let mode = *self.write_mode.lock().unwrap_or_else(PoisonError::into_inner);
        (mode.checksum != ChecksumMode::None).then_some(SdkChecksumMode::Enabled)
    }

    fn acl(&self) -> Option<ObjectCannedAcl> {
        self.settings.acl.map(|acl| match acl {
            CannedAcl::Private => ObjectCannedAcl::Private,
            CannedAcl::BucketOwnerRead => ObjectCannedAcl::BucketOwnerRead,
            CannedAcl::BucketOwnerFullControl => ObjectCannedAcl::BucketOwnerFullControl,
        })
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
        if class == ObjectClass::Events {
            attributes.storage_class = self.settings.storage_class.as_deref().map(StorageClass::from);
        }
        if matches!(class, ObjectClass::Events | ObjectClass::Proof)
            && let Some(lock) = self.settings.object_lock
        {
            attributes.lock_mode = Some(match lock.mode {
                ObjectLockMode::Governance => LockMode::Governance,
                ObjectLockMode::Compliance => LockMode::Compliance,
            });
            attributes.retain_until = Some(retain_until(self.now().await?, lock.retain_days));
        }
        Ok(attributes)
    }

    /// Returns the checksums of a body. It is also signed by its SHA-256, which every store that verifies signatures
    /// checks, until the store has shown that it verifies our checksums in this kind of request.
    async fn body_checksums(
        &self,
        context: RequestContext<'_>,
        mode: WriteMode,
        body: &Segments,
        crc64: Crc64,
        verifies: &AtomicBool,
    ) -> Result<BodyChecksums, StoreError> {
        let sign = mode.checksum == ChecksumMode::None || !verifies.load(Ordering::Relaxed);
        let checksums = if sign && body.len() >= BLOCKING_HASH_MIN_BYTES {
            let body = body.clone();
            tokio::task::spawn_blocking(move || checksum::body_checksums(mode, &body, crc64, sign))
                .await
                .map_err(|_| self.invalid_response(context, "hashing interrupted because the process ends"))?
        } else {
            checksum::body_checksums(mode, body, crc64, sign)
        };
        checksums.ok_or_else(|| self.corrupted(context))
    }

    /// Compares the checksums that a reply states, CRC-64/NVME and CRC-32C, with those that were sent. Remembers that
    /// the store verifies them.
    fn compare_checksum(
        &self,
        context: RequestContext<'_>,
        sent: &BodyChecksums,
        stated: (Option<&str>, Option<&str>),
        verifies: &AtomicBool,
    ) -> Result<(), StoreError> {
        if self.states_checksum(context, sent, stated)? {
            verifies.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Returns true if a reply states the checksum that was sent, false if it states none. Fails if it states another.
    fn states_checksum(
        &self,
        context: RequestContext<'_>,
        sent: &BodyChecksums,
        (crc64, crc32c): (Option<&str>, Option<&str>),
    ) -> Result<bool, StoreError> {
        let (sent, stated) = match (&sent.crc64, &sent.crc32c) {
            (Some(sent), _) => (sent, crc64),
            (None, Some(sent)) => (sent, crc32c),
            (None, None) => return Ok(false),
        };
        match stated {
            None => Ok(false),
            Some(stated) if stated == sent => Ok(true),
            Some(_) => Err(self.corrupted(context)),
        }
    }

    /// Checks a completed upload for which the reply stated no checksum: its size, and its checksum if the store keeps
    /// one. The store verified each part.
    async fn verify_object(&self, key: &str, size: u64, crc64: Crc64) -> Result<(), StoreError> {
        match self.head(key).await? {
            Some(info) if info.size == size && info.crc64.is_none_or(|stored| stored == crc64) => Ok(()),
            _ => Err(self.corrupted(self.context(S3Operation::Read, key))),
        }
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        let context = self.context(S3Operation::Delete, keys.first().map_or("", String::as_str));
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(key).build());
        let delete = objects
            .collect::<Result<Vec<_>, _>>()
            .and_then(|objects| Delete::builder().quiet(true).set_objects(Some(objects)).build())
            .map_err(|error| self.invalid_response(context, &error.to_string()))?;
        let reply = self
            .call(context, |_| {
                self.client
                    .delete_objects()
                    .bucket(&self.settings.bucket)
                    .delete(delete.clone())
                    .send()
            })
            .await?;
        let rejected = reply.errors.unwrap_or_default().into_iter().filter_map(|error| {
            let code = error.code.as_deref().unwrap_or_default();
            if code == "NoSuchKey" {
                return None;
            }
            let key = error.key.clone().unwrap_or_default();
            let status = if code == "AccessDenied" { 403 } else { 200 };
            let response = S3ErrorResponse {
                status,
                code,
                message: error.message.as_deref().unwrap_or_default(),
                ..S3ErrorResponse::default()
            };
            let error =
                error_from_response(self.context(S3Operation::Delete, &key), &self.redactor, response);
            Some((key, error))
        });
        Ok(rejected.collect())
    }

    fn delete_singly_from_now(&self, error: &str) {
        tracing::debug!(store = %self.name, error, "DeleteObjects is refused, deleting keys one by one");
        self.single_deletes.store(true, Ordering::Relaxed);
    }

    async fn delete_one_by_one(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        let mut failed = Vec::new();
        let mut outcomes = stream::iter(keys.iter().cloned())
            .map(|key| async move {
                let outcome = self
                    .call(self.context(S3Operation::Delete, &key), |_| {
                        self.client
                            .delete_object()
                            .bucket(&self.settings.bucket)
                            .key(&key)
                            .send()
                    })
                    .await;
                (key, outcome)
            })
            .buffer_unordered(DELETE_CONCURRENCY);
        while let Some((key, outcome)) = outcomes.next().await {
            match outcome {
                Ok(_) | Err(StoreError::Rejected { status: 404, .. }) => {}
                Err(error @ (StoreError::NoSuchBucket { .. } | StoreError::InvalidCredentials { .. })) => {
                    return Err(error);
                }
                Err(error) => failed.push((key, error)),
            }
        }
        Ok(failed)
    }

    fn corrupted(&self, context: RequestContext<'_>) -> StoreError {
        StoreError::Corrupted {
            store: self.name.clone(),
            key: context.key.to_owned(),
        }
    }

    /// Returns the error for a reply that violates the S3 API.
    fn invalid_response(&self, context: RequestContext<'_>, problem: &str) -> StoreError {
        StoreError::Network {
            store: self.name.clone(),
            message: format!("{problem}, for {}", context.key),
        }
    }

    /// Returns the error for replies that a repetition does not improve.
    fn unusable_reply(&self, problem: &str, message: &str) -> StoreError {
        StoreError::Rejected {
            store: self.name.clone(),
            status: 200,
            code: problem.to_owned(),
            message: message.to_owned(),
        }
    }

    fn limit_exceeded(&self, prefix: &str, limit: usize, unit: &str) -> StoreError {
        StoreError::ArchiveTooLarge {
            store: self.name.clone(),
            prefix: prefix.to_owned(),
            limit: format!("{limit} {unit}"),
        }
    }
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

/// Returns the end of a retention. Days have 24 hours. Saturates at the end of the calendar.
fn retain_until(now: Timestamp, days: u32) -> DateTime {
    let until = now
        .checked_add(Span::new().hours(i64::from(days) * 24))
        .unwrap_or(Timestamp::MAX);
    DateTime::from_secs(until.as_second())
}

/// Returns true if a text can be a version id, an upload id or an entity tag. The length is limited because it is kept
/// for each part, and written to records whose size is limited.
fn is_usable_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_MAX_BYTES && text.chars().all(is_printable)
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

/// Returns true for a checksum over the bytes of an object, false for one over the checksums of its parts.
fn is_full_object(checksum: &&str) -> bool {
    !checksum.contains('-')
}

fn timestamp(time: DateTime) -> Option<Timestamp> {
    let nanos = i32::try_from(time.subsec_nanos()).ok()?;
    Timestamp::new(time.secs(), nanos).ok()
}

/// Returns true if a failed batch does not predict the result of single deletes: the operation is not supported, or
/// requires `Content-MD5`.
fn is_batch_unsupported(error: &StoreError) -> bool {
    match error {
        StoreError::Unsupported { .. } | StoreError::Corrupted { .. } => true,
        StoreError::Rejected { status, .. } => matches!(status, 400..=499),
        _ => false,
    }
}

/// Decodes a key of a listing with `encoding-type=url`, in which a space is a `+`. A store may reply without it.
fn decode_key(key: String, encoded: bool) -> String {
    if !encoded {
        return key;
    }
    let spaced = key.replace('+', " ");
    match percent_encoding::percent_decode_str(&spaced).decode_utf8() {
        Ok(Cow::Borrowed(_)) => spaced,
        Ok(Cow::Owned(decoded)) => decoded,
        // No key of this program; returned unchanged.
        Err(_) => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_key_decodes_to_the_original() {
        let table = [
            (
                "a/date%3D2018-06-28/x+y%2Bz%01",
                true,
                "a/date=2018-06-28/x y+z\u{1}",
            ),
            ("a+b%20c", false, "a+b%20c"),
            ("%ff", true, "%ff"),
            ("plain", true, "plain"),
        ];
        for (key, encoded, wanted) in table {
            assert_eq!(decode_key(key.to_owned(), encoded), wanted);
        }
    }
}
