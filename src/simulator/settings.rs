//! What a simulated Activity Tracker is: its users, its events, and the shape of its answers. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::civil::{Date, Weekday};
use serde::{Deserialize, Serialize};

/// The user of the defaults.
pub const DEFAULT_USER: &str = "operator@example.com";
/// A second user, for sessions that are a person's own.
pub const DEFAULT_PERSON: &str = "person@example.com";
/// The API key of [`DEFAULT_USER`].
pub const DEFAULT_API_KEY: &str = "simulated-api-key";
/// The password of every default user.
pub const DEFAULT_PASSWORD: &str = "simulated-password";
/// An access token of [`DEFAULT_USER`] that never expires: the token that a user brings ready-made.
pub const READY_TOKEN: &str = "simulated-token";
/// A refresh token of [`DEFAULT_USER`].
pub const READY_REFRESH_TOKEN: &str = "simulated-refresh-token";

/// Open sessions that a space may hold, of all users together (protocol: "Rules of the service").
pub const SESSION_LIMIT: usize = 30;

/// How the simulated service is set up. Everything has a default: see [`Settings::default`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// What events, ids and tokens are derived from.
    pub seed: u64,
    /// The spaces that exist; empty: every space id exists.
    pub spaces: Vec<String>,
    /// Who may log in.
    pub users: Vec<User>,
    /// The service's own UTC day, at noon; `None`: the real clock. Decides which days and hours have
    /// events, never the times in a session, which are always real.
    pub today: Option<Date>,
    /// Days that are kept, today included; older ones are gone. At least 1.
    pub retention_days: u16,
    /// How many events there are.
    pub volume: Volume,
    /// How long an access token is good for.
    pub token_lifetime: Duration,
    /// Open sessions per space, of all users together.
    pub session_limit: usize,
    /// Waited before every answer.
    pub latency: Duration,
    /// How bodies are compressed.
    pub gzip: GzipSettings,
    /// How the end of a download is told.
    pub framing: Framing,
    /// How events are put together.
    pub json: JsonShape,
    /// Bytes per second of each download; `None`: as fast as it goes.
    pub bandwidth: Option<u64>,
}

impl Default for Settings {
    /// Any space, two users, 90 days of 240 events each, none at week-ends, one gzip member of lines with a
    /// `Content-Length`, no latency.
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

/// Somebody who may log in. `Debug` leaves key and password out.
#[derive(Clone)]
pub struct User {
    /// The IBM id.
    pub name: String,
    /// The API key that stands for the user.
    pub api_key: Option<String>,
    /// The password.
    pub password: String,
    /// Has the developer role in the space; without it every request is a 403.
    pub developer: bool,
    /// May ask for the account scope; without it that is a 403.
    pub account: bool,
}

impl User {
    /// A developer who may also read the account scope.
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

/// How many events a day has, and how large they are.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Events of a day in the space scope; the account scope has [`Volume::ACCOUNT_FACTOR`] times as many.
    pub events_per_day: u64,
    /// Decompressed bytes of an event, about; below 900 has no effect.
    pub bytes_per_event: usize,
    /// Days with another number of events, in the space scope.
    pub days: BTreeMap<Date, u64>,
    /// Days of the week without events.
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

/// How bodies are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GzipSettings {
    /// Where one gzip member ends and the next begins.
    pub members: Members,
    /// 0 (stored) to 9.
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

/// Where one gzip member ends and the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Members {
    /// One member, of any size.
    One,
    /// One for each hour that has events.
    Hours,
    /// One for each block of about 1 MiB or less: the most there are.
    Blocks,
}

/// How the end of a download is told.
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

/// How events are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JsonShape {
    /// One object per line.
    Lines,
    /// One array.
    Array,
}
