//! Why a window, or the whole export, does not go on: in words for a person, classified for the decision.
//! No I/O.

use std::time::Duration;

use jiff::Timestamp;

use super::gzip::GzipError;
use super::proof::ProofError;
use super::window::Window;
use crate::api::Reason;
use crate::storage::{StoreError, StoreErrorClass};
use crate::tracker::{Class, DownloadError, TrackerError};

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Try again by itself, not before so long.
    Retry(Option<Duration>),
    /// Something outside has to change; look again now and then. Not a failure of ours.
    Wait(Option<Timestamp>),
    /// A person is needed; tried again rarely.
    Person,
}

/// What a failure concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
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
    pub reach: Reach,
    /// Whether the service was too slow with a download: repeated, the day is split into hours.
    pub timed_out: bool,
}

/// A failure as a snapshot shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The reason, as conditions name it.
    pub reason: Reason,
    /// For a person: what is at fault, and what to do.
    pub message: String,
    /// The window, when it concerns one.
    pub window: Option<Window>,
    /// What is to be done.
    pub remedy: Remedy,
    /// When it is tried again.
    pub again: Option<Timestamp>,
}

impl Failure {
    /// A failure of one window that is tried again.
    pub fn retry(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            remedy: Remedy::Retry(None),
            reach: Reach::Window,
            timed_out: false,
        }
    }

    /// A failure of one window that a person must look at.
    pub fn person(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            remedy: Remedy::Person,
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
    pub fn of_export(self) -> Self {
        Self {
            reach: Reach::Export,
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
            Class::Retry { after } => Remedy::Retry(after),
            Class::Wait => Remedy::Wait(None),
            Class::Terminal => Remedy::Person,
        };
        // What is wrong with one request of one window passes with it; the rest concerns all.
        let reach = if matches!(remedy, Remedy::Retry(_)) {
            Reach::Window
        } else {
            Reach::Export
        };
        Self {
            reason,
            message: error.to_string(),
            remedy,
            reach,
            timed_out: false,
        }
    }
}

/// What a failure of the store means for an export.
impl From<&StoreError> for Failure {
    fn from(error: &StoreError) -> Self {
        let reason = match error {
            StoreError::NoSuchBucket { .. } | StoreError::Elsewhere { .. } => Reason::BucketMissing,
            StoreError::NotTaken { .. } => Reason::LockRefused,
            StoreError::Credentials { .. } => Reason::CredentialsRefused,
            StoreError::Forbidden { .. } => Reason::BucketForbidden,
            StoreError::Full { .. } => Reason::BucketFull,
            StoreError::Throttled { .. } => Reason::Throttled,
            StoreError::Egress(_) => Reason::HostNotAllowed,
            StoreError::Unsupported { .. } => Reason::DestinationWeak,
            StoreError::Settings { .. } => Reason::InvalidSpec,
            StoreError::AlreadyExists { .. } => Reason::ForeignObject,
            StoreError::Refused { .. } if error.class() == StoreErrorClass::Wait => {
                Reason::DestinationRefused
            }
            StoreError::InvalidKey { .. } | StoreError::TooMuch { .. } => Reason::DestinationRefused,
            StoreError::Conflict { .. }
            | StoreError::NoSuchUpload { .. }
            | StoreError::Corrupted { .. }
            | StoreError::Network { .. }
            | StoreError::Io { .. }
            | StoreError::Refused { .. } => Reason::DestinationUnreachable,
        };
        let (remedy, reach) = match error.class() {
            StoreErrorClass::Retry(after) => (Remedy::Retry(after), Reach::Window),
            StoreErrorClass::Wait => (Remedy::Wait(None), Reach::Export),
            StoreErrorClass::Answer => (Remedy::Retry(None), Reach::Window),
        };
        Self {
            reason,
            message: error.to_string(),
            remedy,
            reach,
            timed_out: false,
        }
    }
}

impl Failure {
    /// A download that did not begin. Only downloads count as too slow: hours are no faster to list.
    pub fn from_begin(error: &TrackerError) -> Self {
        Self {
            timed_out: matches!(error, TrackerError::Timeout { .. }),
            ..Self::from(error)
        }
    }

    /// A download that ended early.
    pub fn from_download(window: Window, error: &DownloadError) -> Self {
        let (reason, timed_out) = match error {
            DownloadError::NotGzip { .. } => (Reason::NotGzip, false),
            DownloadError::CannotResume { .. } | DownloadError::SessionGone { .. } => {
                (Reason::NotWhole, false)
            }
            DownloadError::Cut { timed_out, .. } => (Reason::NotWhole, *timed_out),
            DownloadError::Tracker(error) => return Self::from(error),
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
            ProofError::Gzip(_) => Reason::NotWhole,
            ProofError::Events(_) => Reason::NotEvents,
            ProofError::Interrupted | ProofError::Unread => Reason::Failed,
        };
        Self::retry(reason, format!("{window}: {error}; nothing was stored"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_not_said_to_be_silence() {
        let refused = TrackerError::Refused {
            host: "t.example".to_owned(),
            what: "the end of a session",
            status: 422,
            said: String::new(),
        };
        let failure = Failure::from(&refused);
        assert_eq!(
            (failure.reason, failure.remedy),
            (Reason::SourceRefused, Remedy::Wait(None))
        );

        let answered = |status: u16| {
            Failure::from(&StoreError::Refused {
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
