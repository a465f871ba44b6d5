//! Failures of a window or an export, classified for the decision to retry. No I/O.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::{Reason, Remedy, SettingNames};
use crate::archive::records::RecordError;
use crate::archive::window::Window;
use crate::pipeline::gzip::GzipError;
use crate::pipeline::prover_pool::ProofError;
use crate::session::guard::{AnswerMismatch, CloseError, OpenError};
use crate::storage::{IdentityError, StoreError, StoreErrorClass, StoreIdentity};
use crate::tracker::{StreamError, TrackerError, TrackerErrorClass};

/// How a failure is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// Transient: retried with backoff, not before this time if there is one.
    Retry(Option<Duration>),
    /// Something outside must change: checked again every few minutes, or at this time.
    Wait(Option<Timestamp>),
    /// Needs manual action; retried rarely.
    Manual,
}

/// Windows that a failure affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureScope {
    /// One window; others continue.
    Window,
    /// Every window: the credentials, the bucket, the space.
    Export,
}

/// A failure of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, as conditions name it.
    pub reason: Reason,
    /// The object at fault and the cause.
    pub message: String,
    /// The setting to correct, if one is at fault.
    pub remedy: Option<Remedy>,
    /// How it is retried.
    pub class: RetryClass,
    /// The windows that it affects.
    pub scope: FailureScope,
    /// True if a download timed out: the day is split into hours when it happens again.
    pub timed_out: bool,
    /// Observation of the attempt that the next one is compared with.
    pub observed: Option<Observed>,
}

/// Observation of a failed attempt that gains its meaning by the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Latest count of the service. A day with a rising count is not complete yet.
    Count(u64),
    /// The answer was empty, the session readable, and the window before the oldest listed day.
    BeforeOldest,
}

/// A failure in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The reason, as conditions name it.
    pub reason: Reason,
    /// The object at fault, the cause and the remedy, in the names of the front end.
    pub message: String,
    /// The window, if it affects one only.
    pub window: Option<Window>,
    /// How it is retried.
    pub class: RetryClass,
    /// Number of the next try, and the number of tries before the run gives up; `None`: not counted, or no next try.
    pub next_try: Option<(u32, u32)>,
    /// Time of the next try.
    pub retry_at: Option<Timestamp>,
}

impl Failure {
    /// A transient failure of one window.
    pub fn retry(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            remedy: None,
            class: RetryClass::Retry(None),
            scope: FailureScope::Window,
            timed_out: false,
            observed: None,
        }
    }

    /// A failure of one window that needs manual action.
    pub fn manual(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            class: RetryClass::Manual,
            ..Self::retry(reason, message)
        }
    }

    /// A condition to wait for.
    pub fn wait(reason: Reason, message: impl Into<String>, until: Option<Timestamp>) -> Self {
        Self {
            class: RetryClass::Wait(until),
            ..Self::retry(reason, message)
        }
    }

    /// The same failure with the setting to correct.
    #[must_use]
    pub fn with_remedy(self, remedy: Remedy) -> Self {
        Self {
            remedy: Some(remedy),
            ..self
        }
    }

    /// The same failure with an observation for the next attempt.
    #[must_use]
    pub fn with_observed(self, observed: Observed) -> Self {
        Self {
            observed: Some(observed),
            ..self
        }
    }

    /// Message and remedy in the names of a front end.
    pub fn describe(&self, names: &SettingNames) -> String {
        names.describe(&self.message, self.remedy.as_ref())
    }

    /// The same failure, affecting every window.
    #[must_use]
    pub fn export_wide(self) -> Self {
        Self {
            scope: FailureScope::Export,
            ..self
        }
    }
}

/// Classifies an unreadable document.
/// Returns the failure of work that a run stopped.
pub(super) fn stopped() -> Failure {
    Failure::retry(Reason::Failed, "stopped before completion")
}

/// Returns the failure of a store without conditional writes.
pub(super) fn conditional_writes_unsupported(store: &StoreIdentity) -> Failure {
    let message = format!(
        "{store} ignores If-None-Match, so that two writers could overwrite each other: use a store that honors it, or make sure that nothing else writes to the prefix (run --single-writer)"
    );
    Failure::wait(Reason::ConditionalWritesUnsupported, message, None).export_wide()
}

impl From<&RecordError> for Failure {
    fn from(error: &RecordError) -> Self {
        Self::manual(error.reason(), error.to_string())
    }
}

/// Classifies an error of the tracker.
impl From<&TrackerError> for Failure {
    fn from(error: &TrackerError) -> Self {
        let reason = match error {
            TrackerError::Unauthorized { .. } | TrackerError::CredentialsRefused { .. } => {
                Reason::CredentialsRefused
            }
            TrackerError::Forbidden { .. } => Reason::RoleMissing,
            TrackerError::Capacity { .. } => Reason::SpaceFull,
            TrackerError::Throttled { .. } => Reason::Throttled,
            TrackerError::Egress(_) | TrackerError::ForeignUaa { .. } => Reason::HostNotAllowed,
            TrackerError::NoToken(cause) => {
                return Self {
                    message: error.to_string(),
                    ..Self::from(&**cause)
                };
            }
            TrackerError::Config { .. } | TrackerError::Ca(_) | TrackerError::InvalidSessionId { .. } => {
                Reason::InvalidSpec
            }
            TrackerError::ListingRefused { .. }
            | TrackerError::NotFound { .. }
            | TrackerError::Refused { .. } => Reason::SourceRefused,
            TrackerError::Server { .. }
            | TrackerError::Network { .. }
            | TrackerError::Timeout { .. }
            | TrackerError::Redirected { .. }
            | TrackerError::BadReply { .. }
            | TrackerError::UaaUnknown { .. }
            | TrackerError::Tls { .. } => Reason::SourceUnreachable,
        };
        let class = match error.class() {
            TrackerErrorClass::Retry { after } => RetryClass::Retry(after),
            TrackerErrorClass::Wait => RetryClass::Wait(None),
            TrackerErrorClass::Terminal => RetryClass::Manual,
        };
        // Transient errors concern the request of one window; the others concern all windows.
        let scope = if matches!(class, RetryClass::Retry(_)) {
            FailureScope::Window
        } else {
            FailureScope::Export
        };
        Self {
            reason,
            message: error.to_string(),
            remedy: error.remedy(),
            class,
            scope,
            timed_out: false,
            observed: None,
        }
    }
}

/// Classifies the failure to open a session.
impl From<&OpenError> for Failure {
    fn from(error: &OpenError) -> Self {
        let reason = match error {
            OpenError::Full(_) | OpenError::OwnLimit { .. } => Reason::SpaceFull,
            OpenError::Refused { .. } => Reason::SessionRefused,
            OpenError::Failed(error) | OpenError::PossiblyOpen(error) => return Self::from(error),
        };
        Self::wait(reason, error.to_string(), None).export_wide()
    }
}

/// Classifies the failure to delete a session.
impl From<&CloseError> for Failure {
    fn from(error: &CloseError) -> Self {
        match error {
            CloseError::Service(error) => Self::from(error),
            CloseError::Timeout(_) => Self::retry(Reason::SourceUnreachable, error.to_string()),
        }
    }
}

/// Classifies a session for something else than requested.
impl From<&AnswerMismatch> for Failure {
    fn from(mismatch: &AnswerMismatch) -> Self {
        Self::manual(Reason::RangeMismatch, format!("{mismatch}; nothing was stored"))
    }
}

/// Classifies a failure to get temporary credentials. It concerns all windows.
impl From<&IdentityError> for Failure {
    fn from(error: &IdentityError) -> Self {
        let (reason, message) = match error {
            IdentityError::Unreachable { .. } => (Reason::DestinationUnreachable, "cannot get credentials: "),
            IdentityError::InvalidEnvironment { .. } => (Reason::InvalidSpec, ""),
            IdentityError::ProcessRefused { .. }
            | IdentityError::AccountRefused { .. }
            | IdentityError::TokenRefused { .. } => (Reason::CredentialsRefused, ""),
            IdentityError::NotGranted { .. } | IdentityError::TermMissing { .. } => {
                (Reason::IdentityNotGranted, "")
            }
            IdentityError::NoProcessIdentity { .. }
            | IdentityError::AccountMissing(_)
            | IdentityError::RoleMissing(_)
            | IdentityError::AccountForbidden { .. } => (Reason::CredentialsMissing, ""),
        };
        let class = if error.is_transient() {
            RetryClass::Retry(None)
        } else {
            RetryClass::Wait(None)
        };
        let failure = Self {
            remedy: error.remedy(),
            class,
            ..Self::retry(reason, format!("{message}{error}"))
        };
        failure.export_wide()
    }
}

/// Classifies an error of the store.
impl From<&StoreError> for Failure {
    fn from(error: &StoreError) -> Self {
        let reason = match error {
            StoreError::NoSuchBucket { .. } => Reason::BucketMissing,
            StoreError::WrongRegion { .. } => Reason::BucketInOtherRegion,
            StoreError::AttributesRejected { .. } => Reason::ObjectAttributesRejected,
            StoreError::InvalidCredentials { .. } => Reason::CredentialsRefused,
            StoreError::Identity { error, .. } => return Self::from(error),
            StoreError::Forbidden { .. } => Reason::BucketForbidden,
            StoreError::Archived { .. } => Reason::ObjectArchived,
            StoreError::Full { .. } => Reason::BucketFull,
            StoreError::Throttled { .. } => Reason::Throttled,
            StoreError::ArchiveTooLarge { .. } => Reason::ArchiveTooLarge,
            StoreError::Egress(_) => Reason::HostNotAllowed,
            StoreError::Unsupported { what, .. } if what.to_ascii_lowercase().contains("if-none-match") => {
                Reason::ConditionalWritesUnsupported
            }
            StoreError::InvalidSettings { .. } => Reason::InvalidSpec,
            StoreError::AlreadyExists { .. } => Reason::ForeignObject,
            StoreError::Rejected { .. } if error.class() == StoreErrorClass::ActionRequired => {
                Reason::DestinationRefused
            }
            StoreError::Unsupported { .. }
            | StoreError::InvalidKey { .. }
            | StoreError::LimitExceeded { .. } => Reason::DestinationRefused,
            StoreError::IncompleteListing { .. } => Reason::ListingIncomplete,
            StoreError::Conflict { .. }
            | StoreError::NoSuchUpload { .. }
            | StoreError::Corrupted { .. }
            | StoreError::Network { .. }
            | StoreError::Io { .. }
            | StoreError::Rejected { .. } => Reason::DestinationUnreachable,
        };
        let (class, scope) = match error.class() {
            StoreErrorClass::Retry(after) => (RetryClass::Retry(after), FailureScope::Window),
            // One object is archived, not the bucket.
            StoreErrorClass::ActionRequired if reason == Reason::ObjectArchived => {
                (RetryClass::Wait(None), FailureScope::Window)
            }
            StoreErrorClass::ActionRequired => (RetryClass::Wait(None), FailureScope::Export),
            StoreErrorClass::CallerDecides => (RetryClass::Retry(None), FailureScope::Window),
        };
        Self {
            reason,
            message: error.to_string(),
            remedy: error.remedy(),
            class,
            scope,
            timed_out: false,
            observed: None,
        }
    }
}

impl Failure {
    /// A download that did not start. Timeouts of other requests do not count: hours are no faster to list.
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

    /// A download that proves nothing: it is retried, because damage in transit looks the same.
    pub fn from_proof(window: Window, error: &ProofError) -> Self {
        let reason = match error {
            ProofError::Gzip(GzipError::NotGzip) => Reason::NotGzip,
            ProofError::Gzip(_) => Reason::DownloadIncomplete,
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
            (failure.reason, failure.class),
            (Reason::SourceRefused, RetryClass::Wait(None))
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
        let unsupported = |what: &str| {
            Failure::from(&StoreError::Unsupported {
                store: "s3://b".to_owned(),
                what: what.to_owned(),
            })
            .reason
        };
        assert_eq!(
            unsupported("the header If-None-Match"),
            Reason::ConditionalWritesUnsupported
        );
        assert_eq!(
            unsupported("s3:PutObject (NotImplemented)"),
            Reason::DestinationRefused
        );
    }
}
