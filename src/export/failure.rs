//! Why a window, or the whole export, does not go on: in words for a person, classified for the decision.
//! No I/O.

use std::time::Duration;

use jiff::Timestamp;

use super::gzip::GzipError;
use super::proof::ProofError;
use super::window::Window;
use crate::api::Reason;
use crate::storage::{StoreError, StoreErrorClass};
use crate::tracker::{StreamError, TrackerError, TrackerErrorClass};

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Try again by itself, not before so long.
    Retry(Option<Duration>),
    /// Something outside has to change; look again now and then. Not a failure of ours.
    Wait(Option<Timestamp>),
    /// A person is needed; tried again rarely.
    Manual,
}

/// What a failure concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureScope {
    /// One window; others may go on.
    Window,
    /// Every window: the credentials, the bucket, the space.
    Export,
}

/// A failure of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, as conditions name it.
    pub reason: Reason,
    /// For a person: what is at fault, and what to do.
    pub message: String,
    /// What is to be done.
    pub remedy: Remedy,
    /// What it concerns.
    pub scope: FailureScope,
    /// Whether the service was too slow with a download: repeated, the day is split into hours.
    pub timed_out: bool,
}

/// A failure as a snapshot shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The reason, as conditions name it.
    pub reason: Reason,
    /// For a person: what is at fault, and what to do.
    pub message: String,
    /// The window, when it concerns one.
    pub window: Option<Window>,
    /// What is to be done.
    pub remedy: Remedy,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
}

impl Failure {
    /// A failure of one window that is tried again.
    pub fn retry(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            remedy: Remedy::Retry(None),
            scope: FailureScope::Window,
            timed_out: false,
        }
    }

    /// A failure of one window that a person must look at.
    pub fn manual(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            remedy: Remedy::Manual,
            ..Self::retry(reason, message)
        }
    }

    /// Something to wait for.
    pub fn wait(reason: Reason, message: impl Into<String>, until: Option<Timestamp>) -> Self {
        Self {
            remedy: Remedy::Wait(until),
            ..Self::retry(reason, message)
        }
    }

    /// The same failure, concerning every window.
    #[must_use]
    pub fn export_wide(self) -> Self {
        Self {
            scope: FailureScope::Export,
            ..self
        }
    }
}

/// What a failure of the tracker means for an export.
impl From<&TrackerError> for Failure {
    fn from(error: &TrackerError) -> Self {
        let reason = match error {
            TrackerError::Unauthorized { .. } | TrackerError::CredentialsRefused { .. } => {
                Reason::CredentialsRefused
            }
            TrackerError::Forbidden { .. } => Reason::RoleMissing,
            TrackerError::Capacity { .. } => Reason::SpaceFull,
            TrackerError::Throttled { .. } => Reason::Throttled,
            TrackerError::Egress(_) => Reason::HostNotAllowed,
            TrackerError::NoToken(cause) => {
                return Self {
                    message: error.to_string(),
                    ..Self::from(&**cause)
                };
            }
            TrackerError::Config { .. } | TrackerError::Ca(_) => Reason::InvalidSpec,
            TrackerError::ListingRefused { .. }
            | TrackerError::NotFound { .. }
            | TrackerError::Refused { .. } => Reason::SourceRefused,
            TrackerError::Server { .. }
            | TrackerError::Network { .. }
            | TrackerError::Timeout { .. }
            | TrackerError::Redirected { .. }
            | TrackerError::BadReply { .. }
            | TrackerError::Tls { .. } => Reason::SourceUnreachable,
        };
        let remedy = match error.class() {
            TrackerErrorClass::Retry { after } => Remedy::Retry(after),
            TrackerErrorClass::Wait => Remedy::Wait(None),
            TrackerErrorClass::Terminal => Remedy::Manual,
        };
        // What is wrong with one request of one window passes with it; the rest concerns all.
        let scope = if matches!(remedy, Remedy::Retry(_)) {
            FailureScope::Window
        } else {
            FailureScope::Export
        };
        Self {
            reason,
            message: error.to_string(),
            remedy,
            scope,
            timed_out: false,
        }
    }
}

/// What a failure of the store means for an export.
impl From<&StoreError> for Failure {
    fn from(error: &StoreError) -> Self {
        let reason = match error {
            StoreError::NoSuchBucket { .. } | StoreError::WrongRegion { .. } => Reason::BucketMissing,
            StoreError::AttributesRejected { .. } => Reason::ObjectAttributesRejected,
            StoreError::InvalidCredentials { .. } => Reason::CredentialsRefused,
            StoreError::Forbidden { .. } => Reason::BucketForbidden,
            StoreError::Full { .. } => Reason::BucketFull,
            StoreError::Throttled { .. } => Reason::Throttled,
            StoreError::Egress(_) => Reason::HostNotAllowed,
            StoreError::Unsupported { .. } => Reason::ConditionalWritesUnsupported,
            StoreError::InvalidSettings { .. } => Reason::InvalidSpec,
            StoreError::AlreadyExists { .. } => Reason::ForeignObject,
            StoreError::Rejected { .. } if error.class() == StoreErrorClass::ActionRequired => {
                Reason::DestinationRefused
            }
            StoreError::InvalidKey { .. } | StoreError::LimitExceeded { .. } => Reason::DestinationRefused,
            StoreError::Conflict { .. }
            | StoreError::NoSuchUpload { .. }
            | StoreError::Corrupted { .. }
            | StoreError::Network { .. }
            | StoreError::Io { .. }
            | StoreError::Rejected { .. } => Reason::DestinationUnreachable,
        };
        let (remedy, scope) = match error.class() {
            StoreErrorClass::Retry(after) => (Remedy::Retry(after), FailureScope::Window),
            StoreErrorClass::ActionRequired => (Remedy::Wait(None), FailureScope::Export),
            StoreErrorClass::CallerDecides => (Remedy::Retry(None), FailureScope::Window),
        };
        Self {
            reason,
            message: error.to_string(),
            remedy,
            scope,
            timed_out: false,
        }
    }
}

impl Failure {
    /// A download that did not begin. Only downloads count as too slow: hours are no faster to list.
    pub fn from_download_start(error: &TrackerError) -> Self {
        Self {
            timed_out: matches!(error, TrackerError::Timeout { .. }),
            ..Self::from(error)
        }
    }

    /// A download that ended early.
    pub fn from_download(window: Window, error: &StreamError) -> Self {
        let (reason, timed_out) = match error {
            StreamError::NotGzip { .. } => (Reason::NotGzip, false),
            StreamError::CannotResume { .. } | StreamError::SessionGone { .. } => {
                (Reason::DownloadIncomplete, false)
            }
            StreamError::Cut { timed_out, .. } => (Reason::DownloadIncomplete, *timed_out),
            StreamError::Tracker(error) => return Self::from(error),
        };
        Self {
            timed_out,
            ..Self::retry(reason, format!("{window}: {error}"))
        }
    }

    /// A download that is no proof: it is tried again, since damage on the way looks the same.
    pub fn from_proof(window: Window, error: &ProofError) -> Self {
        let reason = match error {
            ProofError::Gzip(GzipError::NotGzip) => Reason::NotGzip,
            ProofError::Gzip(_) => Reason::DownloadIncomplete,
            ProofError::Events(_) => Reason::InvalidEvents,
            ProofError::Interrupted | ProofError::ReaderClosed => Reason::Failed,
        };
        Self::retry(reason, format!("{window}: {error}; nothing was stored"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_is_not_reported_as_unreachable() {
        let refused = TrackerError::Refused {
            host: "t.example".to_owned(),
            what: "the end of a session",
            status: 422,
            message: String::new(),
        };
        let failure = Failure::from(&refused);
        assert_eq!(
            (failure.reason, failure.remedy),
            (Reason::SourceRefused, Remedy::Wait(None))
        );

        let answered = |status: u16| {
            Failure::from(&StoreError::Rejected {
                store: "s3://b".to_owned(),
                status,
                code: "X".to_owned(),
                message: String::new(),
            })
            .reason
        };
        assert_eq!(answered(400), Reason::DestinationRefused);
        assert_eq!(answered(500), Reason::DestinationUnreachable);
    }
}
