//! Object stores: one trait, implemented by an S3 bucket and a directory.
//!
//! A store guarantees five things: a key can be created exactly once, bytes are verified by a checksum on arrival, an
//! upload is all or nothing, a listing shows every key, and the time is that of the store.

pub mod conditional;
mod crc64;
mod directory;
mod error;
mod identity;
mod identity_error;
mod s3;

use std::fmt;
use std::fs::File;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

pub use self::conditional::{ConditionalSupport, probe};
pub use self::crc64::Crc64;
pub use self::directory::DirectoryStore;
pub(crate) use self::directory::publish_file;
pub use self::error::{StoreError, StoreErrorClass};
pub use self::identity::StoreIdentity;
pub use self::identity_error::{AccountName, CredentialsOrigin, IdentityError, ROLE_ANNOTATION};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::s3::bad_input;
pub use self::s3::{
    AwsIdentities, CannedAcl, ChecksumMode, ObjectLockMode, ObjectRetention, S3Credentials, S3Settings,
    S3Store, S3Timeouts, SecretError, Sse, SseAlgorithm, TemporaryCredentials, UsePermission, WebIdentity,
    bucket_address,
};

/// Bytes in segments that are never joined: reference-counted, cheap to clone, sent again on a retry.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    pieces: Vec<Bytes>,
    len: u64,
}

/// Condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Create or replace.
    Overwrite,
    /// Create; fail with [`StoreError::AlreadyExists`] if the key exists (`If-None-Match: *`).
    Create,
}

/// Options of a write.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// Condition on the key.
    pub mode: PutMode,
    /// The checksum of the complete body, verified by the store on arrival.
    pub crc64: Crc64,
    /// User metadata: lower-case names, ASCII values, at most 2 KiB in all (the limit of S3).
    pub metadata: Vec<(String, String)>,
    /// `Content-Type` of the object.
    pub content_type: &'static str,
    /// Determines whether object lock and storage class of the destination apply.
    pub class: ObjectClass,
}

/// Kind of object, which determines the attributes of the destination that apply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectClass {
    /// Events: object lock and storage class apply.
    Events,
    /// Receipts, manifests and signatures: object lock applies. They are read by every later run, so they stay in the
    /// default storage class of the bucket.
    Proof,
    /// Journal entries that are deleted after use: never locked.
    Journal,
}

/// Reply of the store to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutResult {
    /// The store's opaque entity tag, if it returns one.
    pub etag: Option<String>,
    /// The version, if the bucket is versioned.
    pub version_id: Option<String>,
}

/// Metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// The store's opaque entity tag.
    pub etag: Option<String>,
    /// The version, if the bucket is versioned.
    pub version_id: Option<String>,
    /// The checksum over the complete object, if the store has it.
    pub crc64: Option<Crc64>,
    /// SHA-256 over the complete object, if the store has it: 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// Time at which the store accepted it.
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
    /// Time at which the store accepted it.
    pub last_modified: Option<Timestamp>,
}

/// Entry of a directory that is no object. It is neither followed nor read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IrregularEntry {
    /// The full key that it would have.
    pub key: String,
    /// Kind.
    pub kind: IrregularKind,
}

/// Kind of an entry that is no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrregularKind {
    /// A symbolic link to a folder.
    FolderLink,
    /// A symbolic link to nothing.
    BrokenLink,
    /// A pipe, socket or device.
    Device,
    /// A name that is not UTF-8.
    Name,
    /// A folder below the maximum depth.
    TooDeep,
}

/// A version of an object, or the marker of its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// The full key.
    pub key: String,
    /// Id of the version; `None`: it was written while the bucket kept no versions.
    pub version_id: Option<String>,
    /// True for the version that a read without a version id returns.
    pub is_latest: bool,
    /// True for the marker of a deletion.
    pub is_delete_marker: bool,
    /// Time at which the store accepted it.
    pub last_modified: Option<Timestamp>,
}

/// A multipart upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Key of the object after completion.
    pub key: String,
    /// The store's id of the upload.
    pub id: String,
    /// True if the request was retried. Another upload of the key may then be open; its id was lost with the reply.
    pub retried: bool,
}

/// An upload in a listing, neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// The upload.
    pub upload: Upload,
    /// Start of the upload, by the store's clock.
    pub initiated: Option<Timestamp>,
}

/// A part in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    /// 1–10,000.
    pub number: u16,
    /// The store's entity tag of the part.
    pub etag: String,
    /// Its checksum.
    pub crc64: Crc64,
    /// Its CRC-32C, if that is the checksum which the store verified.
    pub crc32c: Option<u32>,
    /// Bytes.
    pub size: u64,
}

/// An object store. Keys are full keys, relative to the bucket or directory.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Returns the location as users write it: `s3://bucket`, or a directory. Not unique: see
    /// [`identity`](Store::identity).
    fn location(&self) -> &str;
    /// Returns the identity of the store, the key of everything that is remembered about it.
    fn identity(&self) -> &StoreIdentity;
    /// Stores a small object in one request.
    async fn put(&self, key: &str, body: Segments, options: &PutOptions) -> Result<PutResult, StoreError>;
    /// Reads an object of at most `limit` bytes; `None` if it does not exist.
    async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError>;
    /// Reads the metadata of an object; `None` if it does not exist.
    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError>;
    /// As [`head`](Store::head), but only with recorded checksums, so that no data is read.
    async fn head_recorded(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.head(key).await
    }
    /// Reads at most `limit` bytes from `offset` on, which must lie within the object; `None` if the object does not
    /// exist. Fails if an entity tag is given and the object has another one.
    async fn get_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError>;
    /// Returns true if objects are local files, which [`open_local`](Store::open_local) opens.
    fn is_local(&self) -> bool {
        false
    }
    /// Opens the regular file that holds an object; `None` if it does not exist. Blocking; for local stores only.
    fn open_local(&self, _key: &str) -> Result<Option<File>, StoreError> {
        Ok(None)
    }
    /// Lists what is below a prefix and is no object, in order: at most [`IRREGULAR_MAX`] entries. Buckets have none.
    async fn list_irregular(&self, _prefix: &str) -> Result<Vec<IrregularEntry>, StoreError> {
        Ok(Vec::new())
    }
    /// Lists every key that begins with `prefix`, a page at a time. More than [`LIST_MAX`] keys are an error.
    async fn list_pages(
        &self,
        prefix: &str,
        on_page: &mut (dyn FnMut(Vec<ObjectSummary>) + Send),
    ) -> Result<(), StoreError>;
    /// Lists every key that begins with `prefix`, in order.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectSummary>, StoreError> {
        let mut all = Vec::new();
        self.list_pages(prefix, &mut |page| all.extend(page)).await?;
        // Not every store lists in order.
        all.sort_unstable_by(|one: &ObjectSummary, other| one.key.cmp(&other.key));
        Ok(all)
    }
    /// Lists every version of the keys that begin with `prefix`, in no order. More than [`LIST_MAX`] are an error, as are
    /// stores without versions, such as directories.
    async fn list_versions(&self, _prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        Err(StoreError::Unsupported {
            store: self.identity().to_string(),
            what: "versions of objects".to_owned(),
        })
    }
    /// Deletes keys; a missing key counts as deleted. Returns the keys that were not deleted, with the error of each.
    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError>;
    /// Starts a multipart upload.
    async fn begin_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError>;
    /// Sends one part. All parts but the last have the same size, at least 5 MiB.
    async fn upload_part(
        &self,
        upload: &Upload,
        number: u16,
        body: Segments,
        crc64: Crc64,
    ) -> Result<UploadedPart, StoreError>;
    /// Creates the object from its parts, all or nothing, with the condition and object checksum of `options`.
    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError>;
    /// Aborts an upload. An upload that does not exist counts as aborted.
    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError>;
    /// Lists uploads under `prefix` that are neither completed nor aborted.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError>;
    /// Returns the time by the store's clock.
    async fn now(&self) -> Result<Timestamp, StoreError>;
}

/// Maximum number of keys in one listing: 2,000,000 (some 200 years of hours).
pub const LIST_MAX: usize = 2_000_000;

/// Maximum number of entries that are no objects, in one listing: 1,000. Further ones are left out.
pub const IRREGULAR_MAX: usize = 1000;

impl IrregularKind {
    /// Describes the kind.
    pub const fn description(self) -> &'static str {
        match self {
            Self::FolderLink => "a symbolic link to a folder, which is not followed",
            Self::BrokenLink => "a symbolic link to nothing",
            Self::Device => "a pipe, socket or device, which is not read",
            Self::Name => "a name that is not UTF-8, which no key is",
            Self::TooDeep => "a folder in more than 64 others, which is not listed",
        }
    }
}

impl Segments {
    /// Appends a segment.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        self.pieces.push(piece);
    }

    /// Returns the total number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns true if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the segments, in order.
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

/// Returns lower-case hexadecimal digits.
fn hex_encode(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
