//! Contents of `FILE.part.json`: the download that `FILE.part` belongs to, and what is needed to resume it. The bytes are
//! proved again, so nothing that the proof shows is recorded. No I/O.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::request::DownloadRequest;
use crate::archive::counts::days::DayCounts;
use crate::tracker::TransferEnd;

/// Maximum size of `FILE.part.json`: 1 MiB.
pub const PART_STATE_MAX_BYTES: u64 = 1024 * 1024;

/// Download that a partial file belongs to. Only the same download resumes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadIdentity {
    /// URL of the service, as in receipts.
    pub endpoint: String,
    /// Space ID.
    pub space: String,
    /// Requested session or days.
    pub asked: DownloadRequest,
}

/// State of a partial file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartState {
    /// [`PartState::SCHEMA`].
    pub schema: String,
    /// Download that the file belongs to.
    pub identity: DownloadIdentity,
    /// Complete sessions, in order.
    pub sections: Vec<CompletedSession>,
    /// Session in transfer; its bytes follow those of the complete sessions.
    pub current: Option<CurrentSession>,
    /// Event counts that the service reported for each day before the first byte.
    pub before: DayCounts,
}

/// Completely downloaded session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletedSession {
    /// Session ID.
    pub session: String,
    /// First and last day, if the service reports them.
    pub range: Option<(Date, Date)>,
    /// Hour of each day, if the session is limited to one.
    pub hour: Option<u8>,
    /// Compressed bytes.
    pub bytes: u64,
    /// End of the transfer.
    pub end: TransferEnd,
    /// Number of times the transfer was cut and resumed, in the process that completed it.
    pub resumes: u32,
    /// True if the session was still readable after an empty answer.
    pub readable: bool,
}

/// Session in transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CurrentSession {
    /// Session ID.
    pub session: String,
    /// First and last day, if the service reports them.
    pub range: Option<(Date, Date)>,
    /// Hour of each day, if the session is limited to one.
    pub hour: Option<u8>,
    /// True if this download opened the session and deletes it.
    pub ours: bool,
    /// Total compressed bytes, once announced.
    pub total: Option<u64>,
}

impl PartState {
    /// Schema version of the document.
    pub const SCHEMA: &'static str = "eventexport.io/part/v1";

    /// Creates the state of a download without bytes.
    pub fn new(identity: DownloadIdentity) -> Self {
        Self {
            schema: Self::SCHEMA.to_owned(),
            identity,
            sections: Vec::new(),
            current: None,
            before: DayCounts::new(),
        }
    }

    /// Parses a document; `None` if it is not valid for this version.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let state: Self = serde_json::from_slice(bytes).ok()?;
        (state.schema == Self::SCHEMA).then_some(state)
    }

    /// Returns the offset at which the bytes of the current session start.
    pub fn boundary(&self) -> u64 {
        let bytes = self.sections.iter().map(|section| section.bytes);
        bytes.fold(0, u64::saturating_add)
    }
}
