//! Where bytes go: one trait, an S3 bucket and a directory behind it.
//!
//! A store gives the engine five promises: a key is created once when asked so, bytes are checked by a
//! checksum on arrival, an upload is all or nothing, a listing shows every key, and time is the store's own.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
pub mod conditional;
mod crc64;
mod directory;
mod directory_errors;
mod directory_files;
mod directory_sidecar;
mod directory_upload;
mod error;
mod s3;
mod s3_body;
mod s3_checksum;
mod s3_client;
mod s3_errors;
mod s3_limited;
mod s3_list;
mod s3_metered;
mod s3_read;
mod s3_retry;
mod s3_settings;
mod s3_write;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

pub use self::conditional::{ConditionalSupport, probe};
pub use self::crc64::Crc64;
pub use self::directory::DirectoryStore;
pub use self::error::{StoreError, StoreErrorClass};
pub use self::s3::S3Store;
pub use self::s3_client::{AnyHost, HostCheck};
pub use self::s3_settings::{
    ChecksumMode, ObjectLockMode, ObjectRetention, S3Credentials, S3Settings, S3Timeouts, Sse, SseAlgorithm,
};

/// Bytes in pieces that are never joined: reference-counted, cheap to clone, sent again on a retry.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    pieces: Vec<Bytes>,
    len: u64,
}

/// What must hold for a key to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Create or replace.
    Overwrite,
    /// Create; fail with [`StoreError::AlreadyExists`] when the key is there (`If-None-Match: *`).
    Create,
}

/// How an object is to be stored.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// Whether the key may exist.
    pub mode: PutMode,
    /// The checksum of the whole body, verified by the store on arrival.
    pub crc64: Crc64,
    /// User metadata: lower-case names, ASCII values, at most 2 KiB in all (the limit of S3).
    pub metadata: Vec<(String, String)>,
    /// `Content-Type` of the object.
    pub content_type: &'static str,
    /// Whether object lock and storage class of the destination apply (events: yes; journal: no).
    pub class: ObjectClass,
}

/// What kind of object is written: only evidence is locked and put in the asked storage class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectClass {
    /// Events and receipts: object lock and storage class apply.
    Evidence,
    /// Journal entries that are deleted when spent: never locked.
    Journal,
}

/// What the store says of a stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutResult {
    /// The store's opaque entity tag, where it gives one.
    pub etag: Option<String>,
    /// The version, where the bucket keeps versions.
    pub version_id: Option<String>,
}

/// Facts of an object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// The store's opaque entity tag.
    pub etag: Option<String>,
    /// The version, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// The checksum over the whole object that the store holds, where it does.
    pub crc64: Option<Crc64>,
    /// SHA-256 over the whole object that the store holds, where it does: 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// When the store took it.
    pub last_modified: Option<Timestamp>,
    /// User metadata, names in lower case.
    pub metadata: Vec<(String, String)>,
}

/// One row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSummary {
    /// The full key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// The store's opaque entity tag.
    pub etag: Option<String>,
    /// When the store took it.
    pub last_modified: Option<Timestamp>,
}

/// An upload in parts that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The key it will become.
    pub key: String,
    /// The store's id of the upload.
    pub id: String,
    /// Whether it was asked for more than once: then another of its key may be open, whose id was lost with the reply.
    pub retried: bool,
}

/// An upload that the store lists as neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// The upload.
    pub upload: Upload,
    /// When it began, by the store's clock.
    pub initiated: Option<Timestamp>,
}

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    /// 1–10,000.
    pub number: u16,
    /// The store's entity tag of the part.
    pub etag: String,
    /// Its checksum, as verified by the store.
    pub crc64: Crc64,
    /// Bytes.
    pub size: u64,
}

/// An object store, as the engine sees it. Keys are full keys, below the bucket or directory.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The store as a person names it: `s3://bucket` or a directory.
    fn name(&self) -> &str;
    /// Stores a small object in one request.
    async fn put(&self, key: &str, body: Segments, options: &PutOptions) -> Result<PutResult, StoreError>;
    /// Reads a whole object of at most `limit` bytes; `None` when it is not there.
    async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError>;
    /// Facts of an object; `None` when it is not there.
    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError>;
    /// As [`head`](Store::head), but with such checksums only as are on record, so that no data is read.
    async fn head_recorded(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.head(key).await
    }
    /// Reads at most `limit` bytes of an object from `offset` on, which must lie within it; `None` when it is not
    /// there. With an entity tag, an object that is another by now is an error.
    async fn get_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError>;
    /// The plain file that holds an object, where there is one, to be read without detours.
    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
    /// Every key that begins with `prefix`, in order (at most [`LIST_MAX`]; more is an error).
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectSummary>, StoreError>;
    /// Deletes keys; one that is not there counts as deleted. Returns the keys that were not deleted, with why.
    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError>;
    /// Begins an upload in parts.
    async fn begin_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError>;
    /// Sends one part. All parts but the last are of one size, at least 5 MiB.
    async fn upload_part(
        &self,
        upload: &Upload,
        number: u16,
        body: Segments,
        crc64: Crc64,
    ) -> Result<UploadedPart, StoreError>;
    /// Makes the parts one object, all or nothing, under the condition and whole-object checksum of `options`.
    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError>;
    /// Throws an upload away; one that is gone is done.
    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError>;
    /// Uploads under `prefix` that are neither completed nor aborted.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError>;
    /// The time by the store's clock.
    async fn now(&self) -> Result<Timestamp, StoreError>;
}

/// The most keys that one listing returns: 2,000,000 (some 200 years of hours).
pub const LIST_MAX: usize = 2_000_000;

impl Segments {
    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        self.pieces.push(piece);
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }
}

impl From<Bytes> for Segments {
    fn from(piece: Bytes) -> Self {
        Self {
            len: piece.len() as u64,
            pieces: vec![piece],
        }
    }
}
