//! Writes of objects, in the mode that the store understands, with its check of our checksums. I/O.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectCannedAcl, ObjectLockMode as LockMode, ServerSideEncryption, StorageClass};
use jiff::{Span, Timestamp};

use super::body::body_stream;
use super::checksum::BodyChecksums;
use super::client::SignedBody;
use super::errors::{RequestContext, S3Operation};
use super::retry::classify_put;
use super::write_mode::{self, WriteMode};
use super::{CannedAcl, ChecksumMode, ObjectLockMode, S3Store, SseAlgorithm, checksum, is_usable_id};
use crate::storage::{Crc64, ObjectClass, PutMode, PutOptions, PutResult, Segments, Store as _, StoreError};

/// `If-None-Match: *`: the key must not exist.
const ANY_ETAG: &str = "*";
/// Size from which a body is hashed on a blocking thread, in the mode that hashes with SHA-256: 256 KiB.
const BLOCKING_HASH_MIN_BYTES: u64 = 256 << 10;

/// Storage class, encryption and retention of an object, as types of the SDK.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteAttributes {
    pub(super) storage_class: Option<StorageClass>,
    pub(super) encryption: Option<ServerSideEncryption>,
    pub(super) kms_key_id: Option<String>,
    pub(super) lock_mode: Option<LockMode>,
    pub(super) retain_until: Option<DateTime>,
}

/// Sends a write in the current mode. If the store refuses it as it was sent, sends it in another one, and keeps the
/// mode that the store understands.
pub(super) async fn adapt<T, F>(store: &S3Store, attempt: impl Fn(WriteMode) -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let first_mode = *store.write_mode.lock().unwrap_or_else(PoisonError::into_inner);
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
                    keep_mode(store, mode, &cause);
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

fn keep_mode(store: &S3Store, mode: WriteMode, cause: &StoreError) {
    let mut kept = store.write_mode.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::replace(&mut *kept, mode) != mode {
        let setting = mode.setting();
        tracing::warn!(store = %store.name, error = %cause, "the store refuses writes as they were sent, now with {setting}");
    }
}

pub(super) async fn try_put(
    store: &S3Store,
    key: &str,
    body: &Segments,
    options: &PutOptions,
    attributes: &WriteAttributes,
    mode: WriteMode,
) -> Result<PutResult, StoreError> {
    let context = store.context(attributes.operation(), key);
    let checksums = body_checksums(store, context, mode, body, options.crc64, &store.verifies_put).await?;
    let reply = store
        .call_with(context, store.settings.timeouts.idle, classify_put, |progress| {
            let mut request = store
                .client
                .put_object()
                .bucket(&store.settings.bucket)
                .key(key)
                .body(body_stream(body, &progress))
                .content_type(options.content_type)
                .set_metadata(metadata(options))
                .set_if_none_match(if_none_match(options))
                .set_acl(acl(store))
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
    compare_checksum(store, context, &checksums, stated, &store.verifies_put)?;
    Ok(PutResult {
        etag: reply.e_tag,
        version_id: reply.version_id.filter(|id| is_usable_id(id)),
    })
}

pub(super) fn acl(store: &S3Store) -> Option<ObjectCannedAcl> {
    store.settings.acl.map(|acl| match acl {
        CannedAcl::Private => ObjectCannedAcl::Private,
        CannedAcl::BucketOwnerRead => ObjectCannedAcl::BucketOwnerRead,
        CannedAcl::BucketOwnerFullControl => ObjectCannedAcl::BucketOwnerFullControl,
    })
}

pub(super) async fn write_attributes(
    store: &S3Store,
    class: ObjectClass,
) -> Result<WriteAttributes, StoreError> {
    let mut attributes = WriteAttributes::default();
    if let Some(sse) = &store.settings.server_side_encryption {
        attributes.encryption = Some(match sse.algorithm {
            SseAlgorithm::Aes256 => ServerSideEncryption::Aes256,
            SseAlgorithm::AwsKms => ServerSideEncryption::AwsKms,
        });
        attributes.kms_key_id.clone_from(&sse.kms_key_id);
    }
    if class == ObjectClass::Events {
        attributes.storage_class = store.settings.storage_class.as_deref().map(StorageClass::from);
    }
    if matches!(class, ObjectClass::Events | ObjectClass::Proof)
        && let Some(lock) = store.settings.object_lock
    {
        attributes.lock_mode = Some(match lock.mode {
            ObjectLockMode::Governance => LockMode::Governance,
            ObjectLockMode::Compliance => LockMode::Compliance,
        });
        attributes.retain_until = Some(retain_until(store.now().await?, lock.retain_days));
    }
    Ok(attributes)
}

/// Returns the checksums of a body. It is also signed by its SHA-256, which every store that verifies signatures
/// checks, until the store has shown that it verifies our checksums in this kind of request.
pub(super) async fn body_checksums(
    store: &S3Store,
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
            .map_err(|_| store.invalid_response(context, "hashing interrupted because the process ends"))?
    } else {
        checksum::body_checksums(mode, body, crc64, sign)
    };
    checksums.ok_or_else(|| store.corrupted(context))
}

/// Compares the checksums that a reply states, CRC-64/NVME and CRC-32C, with those that were sent. Remembers that
/// the store verifies them.
pub(super) fn compare_checksum(
    store: &S3Store,
    context: RequestContext<'_>,
    sent: &BodyChecksums,
    stated: (Option<&str>, Option<&str>),
    verifies: &AtomicBool,
) -> Result<(), StoreError> {
    if states_checksum(store, context, sent, stated)? {
        verifies.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Returns true if a reply states the checksum that was sent, false if it states none. Fails if it states another.
pub(super) fn states_checksum(
    store: &S3Store,
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
        Some(_) => Err(store.corrupted(context)),
    }
}

impl WriteAttributes {
    pub(super) fn operation(&self) -> S3Operation {
        match self.lock_mode {
            Some(_) => S3Operation::WriteLocked,
            None => S3Operation::Write,
        }
    }
}

pub(super) fn metadata(options: &PutOptions) -> Option<HashMap<String, String>> {
    (!options.metadata.is_empty()).then(|| options.metadata.iter().cloned().collect())
}

pub(super) fn if_none_match(options: &PutOptions) -> Option<String> {
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
