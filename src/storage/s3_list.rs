//! The requests about many keys of a bucket: `ListObjectsV2`, `ListMultipartUploads`, `ListParts`, `DeleteObjects`.
//! Does I/O.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use futures::stream::{self, StreamExt as _};

use super::s3::S3Store;
use super::s3_checksum;
use super::s3_errors::{S3ErrorResponse, S3Operation, error_from_response};
use super::s3_read::timestamp;
use super::s3_write::is_usable_id;
use super::{LIST_MAX, ObjectSummary, OpenUpload, StoreError, Upload, UploadedPart};

/// Bytes of a key at most, the limit of S3.
const KEY_MAX_BYTES: usize = 1024;
/// Keys in one `DeleteObjects`, the limit of S3.
const DELETE_BATCH_MAX: usize = 1000;
/// `DeleteObject` requests at once, where a store does not take batches.
const DELETE_CONCURRENCY: usize = 16;
/// Pages of one listing; a store that gives more gives them in circles.
const PAGES_MAX: usize = LIST_MAX / 100;

impl S3Store {
    pub(super) async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectSummary>, StoreError> {
        let context = self.context(S3Operation::List, prefix);
        let mut all: Vec<ObjectSummary> = Vec::new();
        let mut token = None;
        for _ in 0..PAGES_MAX {
            let page = self
                .call(context, |_| {
                    self.client
                        .list_objects_v2()
                        .bucket(&self.settings.bucket)
                        .prefix(prefix)
                        // A key may hold what XML cannot.
                        .encoding_type(EncodingType::Url)
                        .set_continuation_token(token.clone())
                        .send()
                })
                .await?;
            let encoded = page.encoding_type == Some(EncodingType::Url);
            for object in page.contents.unwrap_or_default() {
                let key = object.key.map(|key| decode_key(key, encoded));
                let key = key
                    .filter(|key| key.len() <= KEY_MAX_BYTES)
                    .ok_or_else(|| self.invalid_response(context, "a listed object without a usable key"))?;
                let size = object.size.unwrap_or(0);
                let size = u64::try_from(size)
                    .map_err(|_| self.invalid_response(context, "a listed object of less than no bytes"))?;
                all.push(ObjectSummary {
                    key,
                    size,
                    etag: object.e_tag.filter(|etag| is_usable_id(etag)),
                    last_modified: object.last_modified.and_then(timestamp),
                });
            }
            if all.len() > LIST_MAX {
                return Err(self.limit_exceeded(prefix, LIST_MAX, "keys"));
            }
            token = page.next_continuation_token;
            if !page.is_truncated.unwrap_or(false) || token.is_none() {
                // Not every store lists in order.
                all.sort_unstable_by(|one, other| one.key.cmp(&other.key));
                return Ok(all);
            }
        }
        Err(self.limit_exceeded(prefix, PAGES_MAX, "pages"))
    }

    pub(super) async fn list_multipart_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let context = self.context(S3Operation::ListUploads, prefix);
        let mut all: Vec<OpenUpload> = Vec::new();
        let (mut after_key, mut after_id) = (None, None);
        for _ in 0..PAGES_MAX {
            let page = self
                .call(context, |_| {
                    self.client
                        .list_multipart_uploads()
                        .bucket(&self.settings.bucket)
                        .prefix(prefix)
                        .encoding_type(EncodingType::Url)
                        .set_key_marker(after_key.clone())
                        .set_upload_id_marker(after_id.clone())
                        .send()
                })
                .await?;
            let encoded = page.encoding_type == Some(EncodingType::Url);
            for upload in page.uploads.unwrap_or_default() {
                let key = upload.key.map(|key| decode_key(key, encoded));
                let key = key.filter(|key| key.len() <= KEY_MAX_BYTES);
                let (Some(key), Some(id)) = (key, upload.upload_id.filter(|id| is_usable_id(id))) else {
                    return Err(self.invalid_response(context, "a listed upload without usable key and id"));
                };
                // MinIO takes a prefix for a whole key.
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
            if !page.is_truncated.unwrap_or(false) || page.next_key_marker.is_none() {
                return Ok(all);
            }
            after_key = page.next_key_marker.map(|key| decode_key(key, encoded));
            after_id = page.next_upload_id_marker;
        }
        Err(self.limit_exceeded(prefix, PAGES_MAX, "pages"))
    }

    /// The CRC-32C and size of each of these parts, as the store verified them.
    pub(super) async fn crc32c_of_parts(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
    ) -> Result<Vec<(u32, u64)>, StoreError> {
        let context = self.upload_context(S3Operation::ListParts, upload);
        let mut known = std::collections::HashMap::new();
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let page = self
                .call(context, |_| {
                    self.client
                        .list_parts()
                        .bucket(&self.settings.bucket)
                        .key(&upload.key)
                        .upload_id(&upload.id)
                        .set_part_number_marker(after.clone())
                        .send()
                })
                .await?;
            for part in page.parts.unwrap_or_default() {
                known.insert(part.part_number, part.checksum_crc32_c);
            }
            after = page.next_part_number_marker;
            if !page.is_truncated.unwrap_or(false) || after.is_none() {
                break;
            }
        }
        parts
            .iter()
            .map(|part| {
                known
                    .get(&Some(i32::from(part.number)))
                    .and_then(|text| s3_checksum::decode_crc32c(text.as_deref()?))
                    .map(|sum| (sum, part.size))
                    .ok_or_else(|| {
                        let what = format!("the store lists part {} without its CRC32C", part.number);
                        self.invalid_response(context, &what)
                    })
            })
            .collect()
    }

    pub(super) async fn delete_objects(
        &self,
        keys: &[String],
    ) -> Result<Vec<(String, StoreError)>, StoreError> {
        let mut failed = Vec::new();
        for batch in keys.chunks(DELETE_BATCH_MAX) {
            if !self.single_deletes.load(Ordering::Relaxed) {
                match self.delete_batch(batch).await {
                    Ok(rejected) => {
                        failed.extend(rejected);
                        continue;
                    }
                    // Some stores refuse the whole where others refuse each.
                    Err(StoreError::Forbidden { store, action, .. }) => {
                        failed.extend(batch.iter().map(|key| {
                            let (store, action) = (store.clone(), action.clone());
                            let key = key.clone();
                            (key.clone(), StoreError::Forbidden { store, action, key })
                        }));
                        continue;
                    }
                    Err(error) if is_batch_unsupported(&error) => {
                        tracing::debug!(store = %self.name, %error, "keys are deleted one by one");
                        self.single_deletes.store(true, Ordering::Relaxed);
                    }
                    Err(error) => return Err(error),
                }
            }
            failed.extend(self.delete_one_by_one(batch).await?);
        }
        Ok(failed)
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
            let why = error_from_response(self.context(S3Operation::Delete, &key), self.redactor(), response);
            Some((key, why))
        });
        Ok(rejected.collect())
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

    fn limit_exceeded(&self, prefix: &str, limit: usize, unit: &str) -> StoreError {
        StoreError::LimitExceeded {
            store: self.name.clone(),
            key: prefix.to_owned(),
            limit: format!("{limit} {unit}"),
        }
    }
}

/// Whether the refusal of a batch says nothing of what single deletes would meet: the operation is
/// missing, or wants a `Content-MD5`.
fn is_batch_unsupported(error: &StoreError) -> bool {
    match error {
        StoreError::Unsupported { .. } | StoreError::Corrupted { .. } => true,
        StoreError::Rejected { status, .. } => matches!(status, 400..=499),
        _ => false,
    }
}

/// Undoes `encoding-type=url`, in which a space is a `+`. A store that did not encode says so.
pub(super) fn decode_key(key: String, encoded: bool) -> String {
    if !encoded {
        return key;
    }
    let spaced = key.replace('+', " ");
    match percent_encoding::percent_decode_str(&spaced).decode_utf8() {
        Ok(Cow::Borrowed(_)) => spaced,
        Ok(Cow::Owned(decoded)) => decoded,
        // Such a key is nobody's of ours; it is shown as it came.
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
