//! Sending of requests, with their retries, and the errors for unusable replies. I/O.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::S3Store;
use super::body::TransferProgress;
use super::errors::{RequestContext, S3Operation, error_from_sdk, idle_timeout};
use super::retry::{RetryClassifier, classify, retry};
use crate::storage::{StoreError, Upload};

impl S3Store {
    /// Sends a request, and retries it while its errors are retryable. `send` builds the request for each attempt.
    pub(super) async fn call<T, E, F>(
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
    pub(super) async fn call_page<T, E, F, M>(
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
    pub(super) async fn call_with<T, E, F>(
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

    pub(super) fn context<'a>(&'a self, operation: S3Operation, key: &'a str) -> RequestContext<'a> {
        RequestContext {
            store: &self.name,
            operation,
            key,
            upload: "",
            via_proxy: &self.via_proxy,
        }
    }

    pub(super) fn upload_context<'a>(
        &'a self,
        operation: S3Operation,
        upload: &'a Upload,
    ) -> RequestContext<'a> {
        RequestContext {
            upload: &upload.id,
            ..self.context(operation, &upload.key)
        }
    }

    pub(super) async fn check_bucket(&self) -> Result<(), StoreError> {
        match self.head_bucket().await {
            // A denied request proves that the bucket exists.
            Ok(()) | Err(StoreError::Forbidden { .. }) => Ok(()),
            Err(StoreError::Rejected { status: 404, .. }) => Err(StoreError::NoSuchBucket {
                store: self.name.clone(),
            }),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn head_bucket(&self) -> Result<(), StoreError> {
        self.call(self.context(S3Operation::List, ""), |_| {
            self.client.head_bucket().bucket(&self.settings.bucket).send()
        })
        .await
        .map(|_| ())
    }

    pub(super) fn corrupted(&self, context: RequestContext<'_>) -> StoreError {
        StoreError::Corrupted {
            store: self.name.clone(),
            key: context.key.to_owned(),
        }
    }

    /// Returns the error for a reply that violates the S3 API.
    pub(super) fn invalid_response(&self, context: RequestContext<'_>, problem: &str) -> StoreError {
        StoreError::Network {
            store: self.name.clone(),
            message: format!("{problem}, for {}", context.key),
        }
    }

    /// Returns the error for replies that a repetition does not improve.
    pub(super) fn unusable_reply(&self, problem: &str, message: &str) -> StoreError {
        StoreError::Rejected {
            store: self.name.clone(),
            status: 200,
            code: problem.to_owned(),
            message: message.to_owned(),
        }
    }

    pub(super) fn limit_exceeded(&self, prefix: &str, limit: usize, unit: &str) -> StoreError {
        StoreError::ArchiveTooLarge {
            store: self.name.clone(),
            prefix: prefix.to_owned(),
            limit: format!("{limit} {unit}"),
        }
    }
}
