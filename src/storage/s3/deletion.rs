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

/// Deletes keys. Returns those that the store refuses to delete.
pub(super) async fn delete_keys(
    store: &S3Store,
    keys: &[String],
) -> Result<Vec<(String, StoreError)>, StoreError> {
    let mut failed = Vec::new();
    for batch in keys.chunks(DELETE_BATCH_MAX) {
        if !store.single_deletes.load(Ordering::Relaxed) {
            match delete_batch(store, batch).await {
                Ok(rejected) => {
                    failed.extend(rejected);
                    continue;
                }
                // A policy may allow DeleteObject only. One request shows it.
                Err(StoreError::Forbidden {
                    store: name, action, ..
                }) => {
                    let (one, others) = batch.split_at(1);
                    if delete_one_by_one(store, one).await?.is_empty() {
                        delete_singly_from_now(store, &action);
                        failed.extend(delete_one_by_one(store, others).await?);
                    } else {
                        failed.extend(batch.iter().map(|key| {
                            let (store, action) = (name.clone(), action.clone());
                            let key = key.clone();
                            (key.clone(), StoreError::Forbidden { store, action, key })
                        }));
                    }
                    continue;
                }
                Err(error) if is_batch_unsupported(&error) => {
                    delete_singly_from_now(store, &error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        failed.extend(delete_one_by_one(store, batch).await?);
    }
    Ok(failed)
}

async fn delete_batch(store: &S3Store, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
    let context = store.context(S3Operation::Delete, keys.first().map_or("", String::as_str));
    let objects = keys
        .iter()
        .map(|key| ObjectIdentifier::builder().key(key).build());
    let delete = objects
        .collect::<Result<Vec<_>, _>>()
        .and_then(|objects| Delete::builder().quiet(true).set_objects(Some(objects)).build())
        .map_err(|error| store.invalid_response(context, &error.to_string()))?;
    let reply = store
        .call(context, |_| {
            store
                .client
                .delete_objects()
                .bucket(&store.settings.bucket)
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
        let error = error_from_response(
            store.context(S3Operation::Delete, &key),
            &store.redactor,
            response,
        );
        Some((key, error))
    });
    Ok(rejected.collect())
}

fn delete_singly_from_now(store: &S3Store, error: &str) {
    tracing::debug!(store = %store.name, error, "DeleteObjects is refused, deleting keys one by one");
    store.single_deletes.store(true, Ordering::Relaxed);
}

async fn delete_one_by_one(
    store: &S3Store,
    keys: &[String],
) -> Result<Vec<(String, StoreError)>, StoreError> {
    let mut failed = Vec::new();
    let mut outcomes = stream::iter(keys.iter().cloned())
        .map(|key| async move {
            let outcome = store
                .call(store.context(S3Operation::Delete, &key), |_| {
                    store
                        .client
                        .delete_object()
                        .bucket(&store.settings.bucket)
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

/// Returns true if a failed batch does not predict the result of single deletes: the operation is not supported, or
/// requires `Content-MD5`.
fn is_batch_unsupported(error: &StoreError) -> bool {
    match error {
        StoreError::Unsupported { .. } | StoreError::Corrupted { .. } => true,
        StoreError::Rejected { status, .. } => matches!(status, 400..=499),
        _ => false,
    }
}
