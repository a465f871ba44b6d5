//! Errors of a store: message, class, and the setting to correct. No I/O.

use std::time::Duration;

use super::identity_error::{CredentialsOrigin, IdentityError};
use crate::api::{Remedy, Setting, SettingNames};

/// An error of a store. `Display` states what failed; [`StoreError::remedy`] is the setting to correct.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key exists and the write was conditional.
    #[error("{key} already exists in {store}")]
    AlreadyExists {
        /// Name of the store.
        store: String,
        /// The key.
        key: String,
    },
    /// A conditional completion met a concurrent writer (409): all parts must be uploaded again.
    #[error("another writer completes {key} in {store} at the same time")]
    Conflict {
        /// Name of the store.
        store: String,
        /// The key.
        key: String,
    },
    /// The store does not support the operation or the condition (501, or 400 naming it).
    #[error("{store} does not support {what}")]
    Unsupported {
        /// Name of the store.
        store: String,
        /// The operation or condition.
        what: String,
    },
    /// The bucket or directory does not exist.
    #[error("{store} does not exist")]
    NoSuchBucket {
        /// Name of the store.
        store: String,
    },
    /// The bucket is in another region.
    #[error("{store} is in region {region}")]
    WrongRegion {
        /// Name of the store.
        store: String,
        /// Region of the bucket.
        region: String,
    },
    /// The bucket rejects the object lock, encryption, storage class or access control list.
    #[error(
        "{store} rejects the object lock, encryption, storage class or ACL of objects ({code}): {message}"
    )]
    AttributesRejected {
        /// Name of the store.
        store: String,
        /// Error code of S3.
        code: String,
        /// Text of the reply.
        message: String,
    },
    /// The upload no longer exists: it was aborted or completed.
    #[error("upload {id} of {key} in {store} no longer exists")]
    NoSuchUpload {
        /// Name of the store.
        store: String,
        /// The key.
        key: String,
        /// The upload.
        id: String,
    },
    /// The access key is wrong or unknown.
    #[error("{store} rejects the credentials ({code})")]
    InvalidCredentials {
        /// Name of the store.
        store: String,
        /// Error code of S3.
        code: String,
        /// Where the credentials come from.
        origin: CredentialsOrigin,
    },
    /// There are no temporary credentials for the store.
    #[error("no credentials for {store}: {error}")]
    Identity {
        /// Name of the store.
        store: String,
        /// The cause.
        error: IdentityError,
    },
    /// The credentials lack a permission.
    #[error(
        "{store} denies {action} on {key}: grant it in the bucket policy (for a directory: its permissions)"
    )]
    Forbidden {
        /// Name of the store.
        store: String,
        /// The IAM action.
        action: String,
        /// The key.
        key: String,
    },
    /// The object is in an archive tier and cannot be read (`InvalidObjectState`).
    #[error("{key} in {store} is in an archive tier: restore the object, then it can be read")]
    Archived {
        /// Name of the store.
        store: String,
        /// The key.
        key: String,
    },
    /// A listing contradicts itself: it is truncated and does not say where to continue, or continues in a circle.
    #[error("the listing of {prefix:?} in {store} is incomplete: {problem}")]
    IncompleteListing {
        /// Name of the store.
        store: String,
        /// Prefix of the listing.
        prefix: String,
        /// The contradiction.
        problem: &'static str,
    },
    /// The store received other bytes than were sent.
    #[error("{store} received {key} with a wrong checksum: the bytes changed in transit")]
    Corrupted {
        /// Name of the store.
        store: String,
        /// The key.
        key: String,
    },
    /// No space.
    #[error("{store} is full{}", after_colon(message))]
    Full {
        /// Name of the store.
        store: String,
        /// Text of the reply.
        message: String,
    },
    /// Throttled; `after` where the store states it.
    #[error("{store} throttles requests{}", after_colon(message))]
    Throttled {
        /// Name of the store.
        store: String,
        /// Code and text of the reply, shortened.
        message: String,
        /// Wait that the store asks for.
        after: Option<Duration>,
    },
    /// No connection, a timeout, or a reply that broke off.
    #[error("cannot reach {store}: {message}")]
    Network {
        /// Name of the store.
        store: String,
        /// The cause.
        message: String,
    },
    /// The allow-list does not contain the host.
    #[error("{0}")]
    Egress(#[from] crate::egress::HostDenied),
    /// The file system failed.
    #[error("{store} failed{}: {message}", for_key(key))]
    Io {
        /// Name of the store.
        store: String,
        /// The key or path.
        key: String,
        /// Text of the reply.
        message: String,
    },
    /// A key that the store cannot hold.
    #[error("{key:?} cannot be a key in {store}: {reason}")]
    InvalidKey {
        /// Name of the store.
        store: String,
        /// The key.
        key: String,
        /// Why the store cannot hold it.
        reason: &'static str,
    },
    /// More data than the limit of the caller.
    #[error("{key} in {store} exceeds the limit of {limit}")]
    LimitExceeded {
        /// Name of the store.
        store: String,
        /// The key or prefix.
        key: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// An archive that needs more than the limit of the caller.
    #[error("the archive below {prefix:?} in {store} needs more than {limit}")]
    ArchiveTooLarge {
        /// Name of the store.
        store: String,
        /// The prefix.
        prefix: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// The settings cannot work.
    #[error("{store} cannot be used: {message}")]
    InvalidSettings {
        /// Name of the store.
        store: String,
        /// The defect of the settings.
        message: String,
        /// The setting to correct.
        remedy: Option<Remedy>,
    },
    /// Any other rejection by the store.
    #[error("{store} answered {status} {code}{}", after_colon(message))]
    Rejected {
        /// Name of the store.
        store: String,
        /// HTTP status.
        status: u16,
        /// Error code of S3.
        code: String,
        /// Text of the reply, shortened.
        message: String,
    },
}

/// Response of the caller to a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorClass {
    /// Try again, after the wait if the store states one.
    Retry(Option<Duration>),
    /// A user or another system must change something; try again from time to time.
    ActionRequired,
    /// An answer rather than an error: the caller decides (exists, conflict, gone, unsupported).
    CallerDecides,
}

impl StoreError {
    /// The setting to correct, if one is at fault.
    pub fn remedy(&self) -> Option<Remedy> {
        let (setting, action) = match self {
            Self::NoSuchBucket { .. } => (Setting::Bucket, "create it, or correct {}"),
            Self::WrongRegion { .. } => (Setting::BucketRegion, "correct {}"),
            Self::AttributesRejected { .. } => (
                Setting::ObjectAttributes,
                "create the bucket with object lock, or correct {}",
            ),
            Self::InvalidCredentials { origin, .. } => return Some(origin.remedy()),
            Self::Identity { error, .. } => return error.remedy(),
            Self::InvalidSettings { remedy, .. } => return remedy.clone(),
            Self::AlreadyExists { .. }
            | Self::Conflict { .. }
            | Self::Unsupported { .. }
            | Self::NoSuchUpload { .. }
            | Self::Forbidden { .. }
            | Self::Archived { .. }
            | Self::IncompleteListing { .. }
            | Self::Corrupted { .. }
            | Self::Full { .. }
            | Self::Throttled { .. }
            | Self::Network { .. }
            | Self::Egress(_)
            | Self::Io { .. }
            | Self::InvalidKey { .. }
            | Self::LimitExceeded { .. }
            | Self::ArchiveTooLarge { .. }
            | Self::Rejected { .. } => return None,
        };
        Some(Remedy::new(setting, action))
    }

    /// True if the store answers a delete with a refusal, such as that of a retention policy: the key stays, whatever is
    /// tried.
    pub fn refuses_deletion(&self) -> bool {
        match self {
            Self::Forbidden { .. }
            | Self::Unsupported { .. }
            | Self::Conflict { .. }
            | Self::AlreadyExists { .. }
            | Self::Archived { .. }
            | Self::AttributesRejected { .. } => true,
            // The status of a single key in the reply to DeleteObjects is 200.
            Self::Rejected { status, .. } => {
                self.class() == StoreErrorClass::ActionRequired
                    && (*status == 200 || (400..=499).contains(status))
            }
            _ => false,
        }
    }

    /// The error and its remedy, in the names of a front end.
    pub fn describe(&self, names: &SettingNames) -> String {
        names.describe(&self.to_string(), self.remedy().as_ref())
    }

    /// Response of the caller.
    pub fn class(&self) -> StoreErrorClass {
        match self {
            Self::AlreadyExists { .. }
            | Self::Conflict { .. }
            | Self::Unsupported { .. }
            | Self::NoSuchUpload { .. } => StoreErrorClass::CallerDecides,
            Self::IncompleteListing { .. }
            | Self::Corrupted { .. }
            | Self::Network { .. }
            | Self::Io { .. } => StoreErrorClass::Retry(None),
            Self::Throttled { after, .. } => StoreErrorClass::Retry(*after),
            Self::Identity { error, .. } if error.is_transient() => StoreErrorClass::Retry(None),
            Self::Rejected { status, code, .. } if is_transient(*status, code) => {
                StoreErrorClass::Retry(None)
            }
            Self::Rejected { .. }
            | Self::NoSuchBucket { .. }
            | Self::WrongRegion { .. }
            | Self::AttributesRejected { .. }
            | Self::InvalidCredentials { .. }
            | Self::Identity { .. }
            | Self::Forbidden { .. }
            | Self::Archived { .. }
            | Self::Full { .. }
            | Self::Egress(_)
            | Self::InvalidKey { .. }
            | Self::LimitExceeded { .. }
            | Self::ArchiveTooLarge { .. }
            | Self::InvalidSettings { .. } => StoreErrorClass::ActionRequired,
        }
    }
}

/// Returns the key of a failed operation; empty for one on the store as a whole.
fn for_key(key: &str) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!(" for {key}")
    }
}

/// Returns a text of the store as the end of a message. Not every reply has one.
fn after_colon(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// True for rejections that pass by themselves. S3 reports a slow client (`RequestTimeout`) as 400, and an
/// internal error as 200.
fn is_transient(status: u16, code: &str) -> bool {
    matches!(status, 408 | 429 | 500..=599)
        || matches!(code, "RequestTimeout" | "InternalError" | "InvalidPart")
}
