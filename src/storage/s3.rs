//! A bucket as a [`Store`]. Does I/O: each method is one request, repeated where that helps, or a few.
//!
//! Who reads first: [`S3Store::call`], through which every request goes; then the requests, in
//! `s3_write`, `s3_read` and `s3_list`.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use jiff::Timestamp;

use super::s3_body::TransferProgress;
use super::s3_client::{self, StoreClock};
use super::s3_errors::{Redactor, RequestContext, S3Operation, error_from_sdk, idle_timeout};
use super::s3_retry::{RetryClassifier, classify, retry};
use super::{
    Crc64, ObjectInfo, ObjectSummary, OpenUpload, PutOptions, PutResult, S3Settings, Segments, Store,
    StoreError, Upload, UploadedPart,
};

/// A bucket. Cheap to share, not to make: it has its own connections.
#[derive(Debug)]
pub struct S3Store {
    /// `s3://bucket`
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) settings: S3Settings,
    pub(super) clock: Arc<StoreClock>,
    redactor: Redactor,
    /// The store has refused `DeleteObjects`: keys are deleted one by one.
    pub(super) single_deletes: AtomicBool,
}

impl S3Store {
    /// Makes the client; asks the store nothing. Fails on certificates that cannot be read, an endpoint
    /// that is not allowed, or a pod without identity where that was asked for.
    pub async fn connect(settings: S3Settings) -> Result<Self, StoreError> {
        let clock = Arc::new(StoreClock::default());
        Ok(Self {
            name: format!("s3://{}", settings.bucket),
            client: s3_client::build(&settings, Arc::clone(&clock)).await?,
            redactor: Redactor::of(&settings.credentials),
            settings,
            clock,
            single_deletes: AtomicBool::new(false),
        })
    }

    pub(super) fn context<'a>(&'a self, operation: S3Operation, key: &'a str) -> RequestContext<'a> {
        RequestContext {
            store: &self.name,
            operation,
            key,
            upload: "",
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

    pub(super) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// One request, repeated while that may help. `send` makes it anew for each try.
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

    /// As [`call`](Self::call), with its own patience and its own idea of what to repeat.
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
        retry(classify, &self.settings.traffic, || async {
            let progress = Arc::new(TransferProgress::default());
            // Requests of the SDK are large, and many wait at once.
            let request = Box::pin(send(Arc::clone(&progress)));
            match progress.watch(idle, request).await {
                Ok(reply) => reply.map_err(|error| error_from_sdk(context, &self.redactor, &error)),
                Err(idle) => Err(idle_timeout(context, idle)),
            }
        })
        .await
    }
}

#[async_trait]
impl Store for S3Store {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put(&self, key: &str, body: Segments, options: &PutOptions) -> Result<PutResult, StoreError> {
        self.put_object(key, &body, options).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        self.get_object(key, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.head_object(key).await
    }

    async fn get_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        self.get_object_range(key, offset, limit, etag).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectSummary>, StoreError> {
        self.list_objects(prefix).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        self.delete_objects(keys).await
    }

    async fn begin_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
        self.create_multipart_upload(key, options).await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: u16,
        body: Segments,
        crc64: Crc64,
    ) -> Result<UploadedPart, StoreError> {
        self.send_part(upload, number, &body, crc64).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        self.complete_multipart_upload(upload, parts, options).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.abort_multipart_upload(upload).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.list_multipart_uploads(prefix).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.store_time().await
    }
}
