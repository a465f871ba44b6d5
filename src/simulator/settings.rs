//! Settings of a simulated Activity Tracker: users, events, and the format of responses. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::civil::{Date, Weekday};
use serde::{Deserialize, Serialize};

/// The default user.
pub const DEFAULT_USER: &str = "operator@example.com";
/// A second user, for sessions that the exporter must not touch.
pub const DEFAULT_PERSON: &str = "person@example.com";
/// The API key of [`DEFAULT_USER`].
pub const DEFAULT_API_KEY: &str = "simulated-api-key";
/// The password of every default user.
pub const DEFAULT_PASSWORD: &str = "simulated-password";
/// An access token of [`DEFAULT_USER`] that never expires.
pub const READY_TOKEN: &str = "simulated-token";
/// A refresh token of [`DEFAULT_USER`].
pub const READY_REFRESH_TOKEN: &str = "simulated-refresh-token";

/// Maximum open sessions in a space, of all users together (protocol: "Rules of the service").
pub const SESSION_LIMIT: usize = 30;

/// Settings of the simulated service. Defaults: see [`Settings::default`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seed of events, ids and tokens.
    pub seed: u64,
    /// Ids of the existing spaces; empty: every space exists.
    pub spaces: Vec<String>,
    /// Users that can log in.
    pub users: Vec<User>,
    /// Current UTC day of the service, at noon; `None`: the real clock. Determines the days and hours with events, but
    /// not the times of sessions, which are always real.
    pub today: Option<Date>,
    /// Retention in days, including today. At least 1.
    pub retention_days: u16,
    /// Number and size of events.
    pub volume: Volume,
    /// Lifetime of access tokens.
    pub token_lifetime: Duration,
    /// Maximum open sessions in a space, of all users together.
    pub session_limit: usize,
    /// Delay of every response.
    pub latency: Duration,
    /// Compression of bodies.
    pub gzip: GzipSettings,
    /// HTTP framing of downloads.
    pub framing: Framing,
    /// JSON format of events.
    pub json: JsonShape,
    /// Speed of each download in bytes per second; `None`: unlimited.
    pub bandwidth: Option<u64>,
}

impl Default for Settings {
    /// Returns settings with any space, two users, 90 days of 240 events, none on weekends, one gzip member of lines with
    /// a `Content-Length`, and no latency.
    fn default() -> Self {
        Self {
            seed: 1,
            spaces: Vec::new(),
            users: vec![
                User::new(DEFAULT_USER, Some(DEFAULT_API_KEY), DEFAULT_PASSWORD),
                User::new(DEFAULT_PERSON, None, DEFAULT_PASSWORD),
            ],
            today: None,
            retention_days: 90,
            volume: Volume::default(),
            token_lifetime: Duration::from_hours(1),
            session_limit: SESSION_LIMIT,
            latency: Duration::ZERO,
            gzip: GzipSettings::default(),
            framing: Framing::Length,
            json: JsonShape::Lines,
            bandwidth: None,
        }
    }
}

/// A user that can log in. `Debug` omits key and password.
#[derive(Clone)]
pub struct User {
    /// The IBM id.
    pub name: String,
    /// The user's API key.
    pub api_key: Option<String>,
    /// The password.
    pub password: String,
    /// True if the user has the developer role in the space; otherwise every request gets 403.
    pub developer: bool,
    /// True if the user can read the account scope; otherwise that gets 403.
    pub account: bool,
}

impl User {
    /// Creates a developer that can also read the account scope.
    pub fn new(name: &str, api_key: Option<&str>, password: &str) -> Self {
        Self {
            name: name.to_owned(),
            api_key: api_key.map(str::to_owned),
            password: password.to_owned(),
            developer: true,
            account: true,
        }
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Number and size of events.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Events per day in the space scope; the account scope has [`Volume::ACCOUNT_FACTOR`] times as many.
    pub events_per_day: u64,
    /// Approximate decompressed size of an event in bytes; values below 900 have no effect.
    pub bytes_per_event: usize,
    /// Days with another number of events, in the space scope.
    pub days: BTreeMap<Date, u64>,
    /// Weekdays without events.
    pub quiet: Vec<Weekday>,
}

impl Volume {
    /// Events of the account for each event of the space.
    pub const ACCOUNT_FACTOR: u64 = 2;
}

impl Default for Volume {
    fn default() -> Self {
        Self {
            events_per_day: 240,
            bytes_per_event: 900,
            days: BTreeMap::new(),
            quiet: vec![Weekday::Saturday, Weekday::Sunday],
        }
    }
}

/// Compression of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GzipSettings {
    /// Boundaries of gzip members.
    pub members: Members,
    /// Compression level, 0 (stored) to 9.
    pub level: u8,
}

impl Default for GzipSettings {
    fn default() -> Self {
        Self {
            members: Members::One,
            level: 6,
        }
    }
}

/// Boundaries of gzip members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Members {
    /// One member, of any size.
    One,
    /// One for each hour with events.
    Hours,
    /// One for each block of about 1 MiB or less, the maximum number.
    Blocks,
}

/// HTTP framing of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// `Content-Length`.
    Length,
    /// Chunks and a final one.
    Chunked,
    /// Neither: the connection closes.
    Close,
}

/// JSON format of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JsonShape {
    /// One object per line.
    Lines,
    /// One array.
    Array,
    /// One array per hour.
    ArrayPerHour,
    /// One object per line, after a byte order mark.
    ByteOrderMark,
    /// Objects without a separator.
    Joined,
    /// One object per line, and a line `null` after each hour.
    NullLines,
    /// One object per line, each after a record separator (RFC 7464).
    RecordSeparators,
    /// One object per line, and 512 NUL bytes after the last.
    NulPadding,
    /// One object per line, and a line after each hour that is not JSON.
    BrokenLine,
    /// One object with all events in a list.
    Envelope,
}

impl JsonShape {
    /// Every shape.
    pub const ALL: [Self; 10] = [
        Self::Lines,
        Self::Array,
        Self::ArrayPerHour,
        Self::ByteOrderMark,
        Self::Joined,
        Self::NullLines,
        Self::RecordSeparators,
        Self::NulPadding,
        Self::BrokenLine,
        Self::Envelope,
    ];

    /// Returns the text before the first hour and after the last.
    pub(super) fn around_body(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Array => (b"[", b"\n]\n"),
            Self::Envelope => (b"{\"events\":[", b"\n]}\n"),
            Self::ByteOrderMark => (b"\xef\xbb\xbf", b""),
            Self::NulPadding => (b"", &[0; 512]),
            Self::Lines
            | Self::ArrayPerHour
            | Self::Joined
            | Self::NullLines
            | Self::RecordSeparators
            | Self::BrokenLine => (b"", b""),
        }
    }

    /// Returns the text before and after each hour.
    pub(super) fn around_hour(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::ArrayPerHour => (b"[", b"\n]\n"),
            Self::NullLines => (b"", b"null\n"),
            Self::BrokenLine => (b"", b"an event was lost here\n"),
            Self::Lines
            | Self::Array
            | Self::ByteOrderMark
            | Self::Joined
            | Self::RecordSeparators
            | Self::NulPadding
            | Self::Envelope => (b"", b""),
        }
    }

    /// Returns the text before and after an event. `first`: it is the first of its list.
    pub(super) fn around_event(self, first: bool) -> (&'static str, &'static str) {
        match self {
            Self::Array | Self::ArrayPerHour | Self::Envelope => (if first { "\n" } else { ",\n" }, ""),
            Self::Joined => ("", ""),
            Self::RecordSeparators => ("\x1e", "\n"),
            Self::Lines | Self::ByteOrderMark | Self::NullLines | Self::NulPadding | Self::BrokenLine => {
                ("", "\n")
            }
        }
    }
}
