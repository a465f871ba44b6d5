//! A bucket as a [`Store`]. Does I/O: each method sends one request, retried where that helps, or a few.
//!
//! `read`, `write`, `multipart`, `listing` and `deletion` have the requests. All go through `call`, except reads of objects,
//! which retry together with their bodies.

mod aws_identity;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
mod body;
mod checksum;
mod client;
mod deletion;
mod document;
mod errors;
mod limited;
mod listing;
mod metered;
mod multipart;
mod paging;
mod read;
mod retry;
mod settings;
mod temporary_credentials;
mod write;
mod write_mode;

use std::error::Error;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::DateTime;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use jiff::Timestamp;

use self::body::TransferProgress;
use self::client::StoreClock;
use self::errors::{Redactor, RequestContext, S3Operation, error_from_sdk, idle_timeout};
use self::retry::{RetryClassifier, classify, retry};
use self::write_mode::WriteMode;
use super::{
    Crc64, ObjectInfo, ObjectSummary, ObjectVersion, OpenUpload, PutOptions, PutResult, Segments, Store,
    StoreError, StoreIdentity, Upload, UploadedPart,
};
use crate::api::is_printable;
use crate::egress::via_proxy;

pub use self::aws_identity::{AwsIdentities, WebIdentity};
pub use self::client::bucket_address;
pub use self::settings::{
    CannedAcl, ChecksumMode, ObjectLockMode, ObjectRetention, S3Credentials, S3Settings, S3Timeouts,
    SecretError, Sse, SseAlgorithm,
};
pub use self::temporary_credentials::{TemporaryCredentials, UsePermission};

/// Maximum length of a version id, upload id or entity tag, in bytes. Those of S3 have at most 1024.
const ID_MAX_BYTES: usize = 1024;

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

#[async_trait]
impl Store for S3Store {
    fn location(&self) -> &str {
        &self.location
    }

    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    async fn put(&self, key: &str, body: Segments, options: &PutOptions) -> Result<PutResult, StoreError> {
        let attributes = write::write_attributes(self, options.class).await?;
        write::adapt(self, |mode| {
            write::try_put(self, key, &body, options, &attributes, mode)
        })
        .await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        read::read_object(self, key, None, None, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        read::read_attributes(self, key).await
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
        read::read_object(self, key, Some(&range), etag, limit).await
    }

    async fn list_pages(
        &self,
        prefix: &str,
        on_page: &mut (dyn FnMut(Vec<ObjectSummary>) + Send),
    ) -> Result<(), StoreError> {
        listing::list_objects(self, prefix, on_page).await
    }

    async fn list_versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        listing::list_object_versions(self, prefix).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        deletion::delete_keys(self, keys).await
    }

    async fn begin_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
        let attributes = write::write_attributes(self, options.class).await?;
        write::adapt(self, |mode| {
            multipart::try_begin(self, key, options, &attributes, mode)
        })
        .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: u16,
        body: Segments,
        crc64: Crc64,
    ) -> Result<UploadedPart, StoreError> {
        write::adapt(self, |mode| {
            multipart::try_part(self, upload, number, &body, crc64, mode)
        })
        .await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        write::adapt(self, |mode| {
            multipart::try_complete(self, upload, parts, options, mode.checksum)
        })
        .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        multipart::try_abort(self, upload).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        listing::list_open_uploads(self, prefix).await
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

/// Returns true if a text can be a version id, an upload id or an entity tag. The length is limited because it is kept
/// for each part, and written to records whose size is limited.
fn is_usable_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_MAX_BYTES && text.chars().all(is_printable)
}

fn timestamp(time: DateTime) -> Option<Timestamp> {
    let nanos = i32::try_from(time.subsec_nanos()).ok()?;
    Timestamp::new(time.secs(), nanos).ok()
}
