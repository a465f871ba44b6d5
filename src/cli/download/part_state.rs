//! What `FILE.part.json` says of `FILE.part`: whose bytes they are, and how to go on. No I/O.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::request::DownloadRequest;
use crate::export::verdict::EmptyAnswer;
use crate::tracker::TransferEnd;

/// Bytes of a note at most: 1 MiB.
pub const PART_STATE_MAX_BYTES: u64 = 1024 * 1024;

/// Which download a partial file belongs to: only the same one may go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadIdentity {
    /// The service, as receipts name it.
    pub endpoint: String,
    /// The space.
    pub space: String,
    /// What is asked for.
    pub asked: DownloadRequest,
}

/// The note beside a partial file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartState {
    /// [`PartState::SCHEMA`].
    pub schema: String,
    /// Whose bytes.
    pub identity: DownloadIdentity,
    /// Sessions whose bytes are there, whole and proved, in order.
    pub sections: Vec<CompletedSession>,
    /// The session whose bytes stand behind those.
    pub current: Option<CurrentSession>,
    /// What the service reported of each day before the first byte came.
    pub before: BTreeMap<Date, u64>,
}

/// A session that is there whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletedSession {
    /// Its id.
    pub session: String,
    /// First and last day, where the service said so.
    pub range: Option<(Date, Date)>,
    /// The hour of each day, where only one was asked for.
    pub hour: Option<u8>,
    /// Its bytes.
    pub bytes: u64,
    /// Its events.
    pub events: u64,
    /// Its gzip members.
    pub members: u64,
    /// Its bytes after decompression.
    pub decompressed: u64,
    /// How the transfer ended.
    pub end: RecordedEnd,
    /// How often it was cut and went on, in the process that ended it.
    pub resumes: u32,
    /// How the service answered, where there was no event.
    pub empty: Option<EmptyAnswer>,
    /// Whether the session could still be read after an empty answer.
    pub readable: bool,
}

/// The session in transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CurrentSession {
    /// Its id.
    pub session: String,
    /// First and last day, where the service said so.
    pub range: Option<(Date, Date)>,
    /// The hour of each day, where it is of only one.
    pub hour: Option<u8>,
    /// Whether it was opened for this download, and is to be deleted with it.
    pub ours: bool,
    /// Bytes of the whole, once announced.
    pub total: Option<u64>,
}

/// How a transfer ended, as receipts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordedEnd {
    /// As many bytes as `Content-Length` announced.
    Length,
    /// The final chunk came.
    Chunked,
    /// The connection closed, and a further request confirmed that nothing follows.
    CloseConfirmed,
    /// The connection closed, and nobody could confirm that it was the end.
    CloseUnconfirmed,
}

impl From<TransferEnd> for RecordedEnd {
    fn from(end: TransferEnd) -> Self {
        match end {
            TransferEnd::Length => Self::Length,
            TransferEnd::Chunked => Self::Chunked,
            TransferEnd::CloseConfirmed => Self::CloseConfirmed,
            TransferEnd::CloseUnconfirmed => Self::CloseUnconfirmed,
        }
    }
}

impl PartState {
    /// The version of its shape.
    pub const SCHEMA: &'static str = "eventexport.io/part/v1";

    /// Of a download of which nothing is there yet.
    pub fn new(identity: DownloadIdentity) -> Self {
        Self {
            schema: Self::SCHEMA.to_owned(),
            identity,
            sections: Vec::new(),
            current: None,
            before: BTreeMap::new(),
        }
    }

    /// Reads a note; `None` where the bytes are none of this version.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let state: Self = serde_json::from_slice(bytes).ok()?;
        (state.schema == Self::SCHEMA).then_some(state)
    }

    /// Where the bytes of the session in transfer begin.
    pub fn boundary(&self) -> u64 {
        let bytes = self.sections.iter().map(|section| section.bytes);
        bytes.fold(0, u64::saturating_add)
    }
}
