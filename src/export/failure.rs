//! Why a window, or the whole export, does not go on: in words for a person, classified for the decision.
//! No I/O.

use std::time::Duration;

use jiff::Timestamp;

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
    /// Whether the service was too slow: repeated, the day is split into hours.
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
