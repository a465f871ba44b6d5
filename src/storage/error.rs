//! What can go wrong at a store, and what is to be done about it. No I/O.

use std::time::Duration;

/// What went wrong at the store, worded for whoever must act.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key is there and `IfAbsent` was asked.
    #[error("{key} already exists in {store}")]
    AlreadyExists {
        /** store */
        store: String,
        /** key */
        key: String,
    },
    /// A conditional completion met a concurrent writer (409): all parts have to be uploaded again.
    #[error("another writer is completing {key} in {store} at the same time")]
    Conflict {
        /** store */
        store: String,
        /** key */
        key: String,
    },
    /// The store does not know the operation or the condition (501, or 400 naming it).
    #[error("{store} does not support {what}")]
    Unsupported {
        /** store */
        store: String,
        /** what */
        what: String,
    },
    /// The bucket or directory is not there.
    #[error("{store} does not exist: create it, or correct spec.destination")]
    NoSuchBucket {
        /** store */
        store: String,
    },
    /// The bucket is there, but not where it is asked for.
    #[error("{store} is in the region {region}: correct spec.destination.s3.region")]
    WrongRegion {
        /** store */
        store: String,
        /** its region */
        region: String,
    },
    /// The bucket does not take objects on these terms.
    #[error(
        "{store} does not take objects as spec.destination.s3 asks (objectLock, serverSideEncryption or storageClass; \
         {code}): {message}: make the bucket with object lock, or correct the spec"
    )]
    AttributesRejected {
        /** store */
        store: String,
        /** S3 code */
        code: String,
        /** its words */
        message: String,
    },
    /// The upload is not there any more (aborted or completed by somebody).
    #[error("the upload {id} of {key} in {store} is gone")]
    NoSuchUpload {
        /** store */
        store: String,
        /** key */
        key: String,
        /** id */
        id: String,
    },
    /// The keys are wrong or unknown.
    #[error(
        "{store} refused the credentials ({code}): check the Secret of spec.destination.s3.credentialsSecretRef"
    )]
    InvalidCredentials {
        /** store */
        store: String,
        /** S3 code */
        code: String,
    },
    /// The credentials are right but may not do this.
    #[error(
        "{store} does not allow {action} on {key}: grant it in the bucket's policy (of a directory: its permissions)"
    )]
    Forbidden {
        /** store */
        store: String,
        /** IAM action */
        action: String,
        /** key */
        key: String,
    },
    /// The bytes that arrived are not the bytes that were sent.
    #[error("{store} found a wrong checksum for {key}: the bytes changed on the way")]
    Corrupted {
        /** store */
        store: String,
        /** key */
        key: String,
    },
    /// No room.
    #[error("{store} is full: {message}")]
    Full {
        /** store */
        store: String,
        /** its words */
        message: String,
    },
    /// Ask again later; `after` when the store said when.
    #[error("{store} asks to slow down")]
    Throttled {
        /** store */
        store: String,
        /** wait */
        after: Option<Duration>,
    },
    /// No connection, a time-out, or a reply that broke off.
    #[error("{store} could not be reached: {message}")]
    Network {
        /** store */
        store: String,
        /** cause */
        message: String,
    },
    /// The host is outside the allow-list.
    #[error("{0}")]
    Egress(#[from] crate::egress::HostDenied),
    /// The file system failed.
    #[error("{store} failed for {key}: {message}")]
    Io {
        /** store */
        store: String,
        /** key or path */
        key: String,
        /** its words */
        message: String,
    },
    /// A key that the store cannot hold.
    #[error("{key:?} cannot be a key in {store}: {reason}")]
    InvalidKey {
        /** store */
        store: String,
        /** key */
        key: String,
        /** why, and what would do */
        reason: &'static str,
    },
    /// More than the caller is ready to take.
    #[error("{store} has more at {key} than can be taken: at most {limit}")]
    LimitExceeded {
        /** store */
        store: String,
        /** key or prefix */
        key: String,
        /** limit with its unit */
        limit: String,
    },
    /// What was asked for can never work.
    #[error("{store} cannot be used: {message}")]
    InvalidSettings {
        /** store */
        store: String,
        /** the field at fault and what to do */
        message: String,
    },
    /// Any other refusal by the store.
    #[error("{store} answered {status} {code}: {message}")]
    Rejected {
        /** store */
        store: String,
        /** HTTP status */
        status: u16,
        /** S3 code */
        code: String,
        /** its words, shortened */
        message: String,
    },
}

/// What to do about a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorClass {
    /// Try again after a while.
    Retry(Option<Duration>),
    /// A person or another system has to change something; look again now and then.
    ActionRequired,
    /// Not an error of the store but an answer: the caller decides (exists, conflict, gone, unsupported).
    CallerDecides,
}

impl StoreError {
    /// What to do about it.
    pub fn class(&self) -> StoreErrorClass {
        match self {
            Self::AlreadyExists { .. }
            | Self::Conflict { .. }
            | Self::Unsupported { .. }
            | Self::NoSuchUpload { .. } => StoreErrorClass::CallerDecides,
            Self::Corrupted { .. } | Self::Network { .. } | Self::Io { .. } => StoreErrorClass::Retry(None),
            Self::Throttled { after, .. } => StoreErrorClass::Retry(*after),
            Self::Rejected { status, code, .. } if is_transient(*status, code) => {
                StoreErrorClass::Retry(None)
            }
            Self::Rejected { .. }
            | Self::NoSuchBucket { .. }
            | Self::WrongRegion { .. }
            | Self::AttributesRejected { .. }
            | Self::InvalidCredentials { .. }
            | Self::Forbidden { .. }
            | Self::Full { .. }
            | Self::Egress(_)
            | Self::InvalidKey { .. }
            | Self::LimitExceeded { .. }
            | Self::InvalidSettings { .. } => StoreErrorClass::ActionRequired,
        }
    }
}

/// Refusals that pass by themselves. S3 also words a slow client (`RequestTimeout`) as 400, and an
/// internal error as 200.
fn is_transient(status: u16, code: &str) -> bool {
    matches!(status, 408 | 429 | 500..=599)
        || matches!(code, "RequestTimeout" | "InternalError" | "InvalidPart")
}
