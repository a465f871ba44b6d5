//! Client of the Activity Tracker v3: tokens, sessions, the daily listing, and downloads that resume; and of time-stamp
//! authorities, by the same transport. Knows nothing about S3 or Kubernetes.

mod answer;
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
mod timestamp;
mod token_cache;
mod uaa;

#[cfg(test)]
mod tests;

pub use client::Tracker;
pub use config::{Timeouts, TrackerConfig, UaaSource};
pub use credentials::{Credentials, CredentialsError, CredentialsKey};
pub use days::LISTING_DAYS_MAX;
pub use download::{Download, DownloadResponse};
pub use error::{StreamError, TrackerError, TrackerErrorClass};
pub use resume_point::ResumePoint;
pub use retry::RetryConfig;
pub use timestamp::TimestampAuthority;
pub use token_cache::TokenCache;

use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};

/// Parameters of a session to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// First UTC day.
    pub start: Date,
    /// Last UTC day, inclusive.
    pub end: Date,
    /// One hour of the day, 0–23. `None`: complete days.
    pub hour: Option<u8>,
    /// True for the events of the account instead of the space.
    pub account: bool,
}

/// Session as the service describes it. Fields that the service omits or sends as null are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Id for downloading and deleting.
    pub id: String,
    /// Space that the session belongs to.
    pub space: Option<String>,
    /// User who opened the session.
    pub username: Option<String>,
    /// Time at which the session was opened.
    pub created: Option<Timestamp>,
    /// Time at which the session was last used.
    pub accessed: Option<Timestamp>,
    /// Range in the reply of the service, which may differ from the request.
    pub range: Option<(Date, Date)>,
    /// Scope in the reply of the service: true for the account.
    pub account: Option<bool>,
    /// Hour in the reply of the service. `Some(None)`: the complete day. `None`: unknown.
    pub hour: Option<Option<u8>>,
}

/// Open sessions, with the time of the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionListing {
    /// Sessions that the service shows.
    pub sessions: Vec<Session>,
    /// Time of the reply by the clock of the service, from its `Date` header; `None` without a valid one.
    pub service_time: Option<Timestamp>,
}

/// Row of the daily listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Day {
    /// UTC day.
    pub date: Date,
    /// Number of events, if the service states one.
    pub count: Option<u64>,
    /// SIZE as the service states it, a hint in an unknown unit.
    pub size: Option<u64>,
    /// TYPES as the service states it, for display.
    pub types: Option<String>,
    /// SEARCHABLE as the service states it, for display.
    pub searchable: Option<String>,
}

/// End of a transfer, by the means of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferEnd {
    /// All bytes that `Content-Length` announced were received.
    Length,
    /// The final chunk was received.
    Chunked,
    /// The connection closed, and a further request confirmed that nothing follows.
    CloseConfirmed,
    /// The connection closed, and no request could confirm the end.
    CloseUnconfirmed,
}
