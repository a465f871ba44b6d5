//! Deletion of objects: in batches, or one by one if the store refuses batches. I/O.

use std::sync::atomic::Ordering;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::stream::{self, StreamExt as _};

use super::S3Store;
use super::errors::{S3ErrorResponse, S3Operation, error_from_response};
use crate::storage::StoreError;

/// Maximum number of keys in one `DeleteObjects`, the limit of S3.
const DELETE_BATCH_MAX: usize = 1000;
/// Maximum concurrent `DeleteObject` requests, for stores without `DeleteObjects`.
const DELETE_CONCURRENCY: usize = 16;

impl S3Store {
    /// Deletes keys. Returns those that the store refuses to delete.
    pub(super) async fn delete_keys(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
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
