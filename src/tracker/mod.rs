//! The Activity Tracker v3 client: tokens, sessions, the daily listing, and downloads that resume.
//! Knows nothing of S3 or Kubernetes.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
mod client;
mod config;
mod credentials;
mod days;
mod download;
mod error;
mod error_reply;
mod error_text;
mod http;
mod reply;
mod resume;
mod resume_point;
mod resume_request;
mod retry;
mod sessions;
mod token_cache;
mod uaa;

#[cfg(test)]
mod tests;

pub use client::Tracker;
pub use config::{Timeouts, TrackerConfig, UaaSource, endpoint_of_region};
pub use credentials::{Credentials, CredentialsError, CredentialsKey};
pub use download::{Download, DownloadResponse};
pub use error::{StreamError, TrackerError, TrackerErrorClass};
pub use resume_point::ResumePoint;
pub use retry::RetryConfig;
pub use token_cache::TokenCache;

use jiff::{Timestamp, civil::Date};

/// What a session is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// First UTC day.
    pub start: Date,
    /// Last UTC day, inclusive.
    pub end: Date,
    /// One hour of the day, 0–23; `None`: whole days.
    pub hour: Option<u8>,
    /// Events of the account instead of the space.
    pub account: bool,
}

/// A session as the service describes it; whatever it left out or sent as null is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The id to download with and to delete.
    pub id: String,
    /// The space it belongs to.
    pub space: Option<String>,
    /// The user who opened it.
    pub username: Option<String>,
    /// When it was opened.
    pub created: Option<Timestamp>,
    /// When it was last used.
    pub accessed: Option<Timestamp>,
    /// The range that the service answered, which may differ from what was asked.
    pub range: Option<(Date, Date)>,
    /// The scope that the service answered.
    pub account: Option<bool>,
    /// The hour that the service answered: `Some(None)` is the whole day, `None` unknown.
    pub hour: Option<Option<u8>>,
}

/// One row of the daily listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Day {
    /// The UTC day.
    pub date: Date,
    /// Events, where the service gives a number.
    pub count: Option<u64>,
    /// The service's SIZE, a hint of unknown unit.
    pub size: Option<u64>,
    /// TYPES as given, for people.
    pub types: Option<String>,
    /// SEARCHABLE as given, for people.
    pub searchable: Option<String>,
}

/// How a transfer ended, as HTTP says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEnd {
    /// As many bytes as `Content-Length` announced.
    Length,
    /// The final chunk came.
    Chunked,
    /// The connection closed, and a further request confirmed that nothing follows.
    CloseConfirmed,
    /// The connection closed, and nobody could confirm that it was the end.
    CloseUnconfirmed,
}
