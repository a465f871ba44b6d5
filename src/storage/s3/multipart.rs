//! Uploads in parts. I/O.

use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};

use super::body::body_stream;
use super::checksum::BodyChecksums;
use super::client::SignedBody;
use super::errors::S3Operation;
use super::retry::classify;
use super::write::{WriteAttributes, if_none_match, metadata};
use super::write_mode::WriteMode;
use super::{ChecksumMode, S3Store, checksum, is_usable_id};
use super::{read, write};
use crate::storage::{Crc64, PutOptions, PutResult, Segments, StoreError, Upload, UploadedPart};

pub(super) async fn try_begin(
    store: &S3Store,
    key: &str,
    options: &PutOptions,
    attributes: &WriteAttributes,
    mode: WriteMode,
) -> Result<Upload, StoreError> {
    let context = store.context(attributes.operation(), key);
    let algorithm = match mode.checksum {
        ChecksumMode::Crc64Nvme => Some(ChecksumAlgorithm::Crc64Nvme),
        ChecksumMode::Crc32c => Some(ChecksumAlgorithm::Crc32C),
        ChecksumMode::None => None,
    };
    let tries = AtomicU32::new(0);
    let reply = store
        .call(context, |_| {
            tries.fetch_add(1, Ordering::Relaxed);
            store
                .client
                .create_multipart_upload()
                .bucket(&store.settings.bucket)
                .key(key)
                .content_type(options.content_type)
                .set_metadata(metadata(options))
                .set_acl(write::acl(store))
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
        .ok_or_else(|| store.invalid_response(context, "upload without a valid id"))?;
    Ok(Upload {
        key: key.to_owned(),
        id,
        retried: tries.into_inner() > 1,
    })
}

pub(super) async fn try_part(
    store: &S3Store,
    upload: &Upload,
    number: u16,
    body: &Segments,
    crc64: Crc64,
    mode: WriteMode,
) -> Result<UploadedPart, StoreError> {
    let context = store.upload_context(S3Operation::Write, upload);
    let checksums = write::body_checksums(store, context, mode, body, crc64, &store.verifies_part).await?;
    let reply = store
        .call(context, |progress| {
            let mut request = store
                .client
                .upload_part()
                .bucket(&store.settings.bucket)
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
    write::compare_checksum(store, context, &checksums, stated, &store.verifies_part)?;
    let etag = reply.e_tag.filter(|etag| is_usable_id(etag)).ok_or_else(|| {
        store.unusable_reply(
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

pub(super) async fn try_complete(
    store: &S3Store,
    upload: &Upload,
    parts: &[UploadedPart],
    options: &PutOptions,
    mode: ChecksumMode,
) -> Result<PutResult, StoreError> {
    let context = store.upload_context(S3Operation::Write, upload);
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if mode != ChecksumMode::Crc64Nvme && Crc64::of_parts(parts) != options.crc64 {
        return Err(store.corrupted(context));
    }
    let object_checksums = match mode {
        ChecksumMode::Crc64Nvme => BodyChecksums {
            crc64: Some(checksum::encode_crc64(options.crc64)),
            ..BodyChecksums::default()
        },
        ChecksumMode::Crc32c => {
            let parts: Option<Vec<_>> = parts.iter().map(|part| Some((part.crc32c?, part.size))).collect();
            let parts = parts.ok_or_else(|| store.corrupted(context))?;
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
    let reply = store
        .call_with(context, store.settings.timeouts.complete, classify, |_| {
            store
                .client
                .complete_multipart_upload()
                .bucket(&store.settings.bucket)
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
    if !write::states_checksum(store, context, &object_checksums, stated)? {
        verify_object(store, &upload.key, size, options.crc64).await?;
    }
    Ok(PutResult {
        etag: reply.e_tag,
        version_id: reply.version_id.filter(|id| is_usable_id(id)),
    })
}

pub(super) async fn try_abort(store: &S3Store, upload: &Upload) -> Result<(), StoreError> {
    let outcome = store
        .call(store.upload_context(S3Operation::Abort, upload), |_| {
            store
                .client
                .abort_multipart_upload()
                .bucket(&store.settings.bucket)
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

/// Checks a completed upload for which the reply stated no checksum: its size, and its checksum if the store keeps
/// one. The store verified each part.
async fn verify_object(store: &S3Store, key: &str, size: u64, crc64: Crc64) -> Result<(), StoreError> {
    match read::read_attributes(store, key).await? {
        Some(info) if info.size == size && info.crc64.is_none_or(|stored| stored == crc64) => Ok(()),
        _ => Err(store.corrupted(store.context(S3Operation::Read, key))),
    }
}

/// Returns true for a checksum over the bytes of an object, false for one over the checksums of its parts.
fn is_full_object(checksum: &&str) -> bool {
    !checksum.contains('-')
}
