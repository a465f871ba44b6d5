//! A bucket as a [`Store`]. Does I/O: each method sends one request, retried where that helps, or a few.
//!
//! `read`, `write`, `multipart`, `listing` and `deletion` have the requests. All go through `call`, except reads of objects,
//! which retry together with their bodies.

mod aws_identity;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
mod body;
mod call;
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

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use bytes::Bytes;
use jiff::Timestamp;

use self::client::StoreClock;
use self::errors::Redactor;
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
        self.read_attributes(key).await
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
        self.list_objects(prefix, on_page).await
    }

    async fn list_versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        self.list_object_versions(prefix).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        self.delete_keys(keys).await
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
        self.try_abort(upload).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.list_open_uploads(prefix).await
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
