//! The documents of the journal: attempt, session, prepared, receipt, late, expired, split. No I/O.
//!
//! Each document states the name and version of its schema; a reader rejects an unknown version. Unknown fields are
//! ignored, so that a later version can add some.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::counts::{EmptyAnswer, Verdict};
use super::window::Window;
use crate::api::{Reason, sanitize};
use crate::pipeline::events::Uncounted;

/// Name and version of this software, as receipts state it: `eventexport/0.1.0`.
pub const SOFTWARE: &str = concat!("eventexport/", env!("CARGO_PKG_VERSION"));

/// Maximum size of a journal document: 256 KiB (an attempt that lists a thousand sessions has 50 KiB).
pub const RECORD_MAX_BYTES: u64 = 256 * 1024;

/// Maximum size of a text in a journal document, as JSON: 16 KiB. A longer one is not of this software.
const TEXT_MAX_BYTES: usize = 16 * 1024;

/// A document of the journal.
pub trait ArchiveRecord: Serialize + DeserializeOwned {
    /// Name and version of the schema.
    const SCHEMA: &'static str;
    /// Returns the schema that the document states.
    fn schema(&self) -> &str;
    /// Returns true if documents of a schema can be read.
    fn reads(schema: &str) -> bool {
        schema == Self::SCHEMA
    }
}

/// A document that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The document is not JSON, or a field is missing or invalid.
    #[error("cannot read {key} as {schema}: {message}")]
    Unreadable {
        /// The object key.
        key: String,
        /// The expected schema.
        schema: &'static str,
        /// Cause of the failure.
        message: String,
    },
    /// The document has another schema or version.
    #[error("{key} has schema {found}, this version reads {schema}: upgrade eventexport")]
    UnsupportedSchema {
        /// The object key.
        key: String,
        /// The expected schema.
        schema: &'static str,
        /// The schema in the document.
        found: String,
    },
    /// The document is about another window, space or scope than its key.
    #[error("{key} states {found}, expected {expected}: it was copied from another key")]
    Misplaced {
        /// The object key.
        key: String,
        /// Value that the key implies.
        expected: String,
        /// Value in the document.
        found: String,
    },
    /// The values of the document contradict each other.
    #[error("{key} states {found}, expected {expected}: it was edited")]
    Inconsistent {
        /// The object key.
        key: String,
        /// Value that follows from the others.
        expected: String,
        /// Value in the document.
        found: String,
    },
    /// A receipt is missing between others.
    #[error("{key} is missing, but a later revision has a receipt")]
    Missing {
        /// The object key.
        key: String,
    },
    /// The store refuses to return the document.
    #[error("cannot read {key}: {message}")]
    Refused {
        /// The object key.
        key: String,
        /// Answer of the store.
        message: String,
    },
    /// The store keeps the document in an archive tier.
    #[error("{key} is in an archive tier of the store: restore it, then it can be read")]
    Archived {
        /// The object key.
        key: String,
    },
}

impl RecordError {
    /// The reason, as conditions name it.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Unreadable { .. }
            | Self::Misplaced { .. }
            | Self::Inconsistent { .. }
            | Self::Missing { .. }
            | Self::Refused { .. } => Reason::ReceiptUnreadable,
            Self::UnsupportedSchema { .. } => Reason::UnsupportedSchema,
            Self::Archived { .. } => Reason::ObjectArchived,
        }
    }

    /// The name of the state of its window in JSON output.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::Refused { .. } => "Unreadable",
            Self::Misplaced { .. } => "Misplaced",
            Self::Inconsistent { .. } => "Inconsistent",
            Self::Missing { .. } => "RevisionMissing",
            Self::UnsupportedSchema { .. } => "UnsupportedSchema",
            Self::Archived { .. } => "ObjectArchived",
        }
    }
}

/// Encodes a document as one line of JSON.
pub fn encode<R: ArchiveRecord>(record: &R) -> Vec<u8> {
    // Records are plain data with string keys: serializing them to memory cannot fail.
    let mut bytes = serde_json::to_vec(record).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Decodes a document and checks its schema.
pub fn decode<R: ArchiveRecord>(key: &str, bytes: &[u8]) -> Result<R, RecordError> {
    #[derive(Deserialize)]
    struct SchemaHeader {
        schema: String,
    }
    let unreadable = |error: serde_json::Error| RecordError::Unreadable {
        key: key.to_owned(),
        schema: R::SCHEMA,
        message: sanitize(&error.to_string()).into_owned(),
    };
    if has_long_text(bytes) {
        return Err(RecordError::Unreadable {
            key: key.to_owned(),
            schema: R::SCHEMA,
            message: format!("a text is longer than {TEXT_MAX_BYTES} bytes"),
        });
    }
    let header: SchemaHeader = serde_json::from_slice(bytes).map_err(unreadable)?;
    if !R::reads(&header.schema) {
        return Err(RecordError::UnsupportedSchema {
            key: key.to_owned(),
            schema: R::SCHEMA,
            found: sanitize(&header.schema).into_owned(),
        });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Returns true if a JSON text has a string of more than [`TEXT_MAX_BYTES`], between its quotes.
fn has_long_text(json: &[u8]) -> bool {
    let (mut start, mut escaped) = (None, false);
    for (at, byte) in json.iter().enumerate() {
        match start {
            Some(_) if escaped => escaped = false,
            Some(_) if *byte == b'\\' => escaped = true,
            Some(first) if *byte == b'"' => {
                if at - first > TEXT_MAX_BYTES {
                    return true;
                }
                start = None;
            }
            None if *byte == b'"' => start = Some(at + 1),
            Some(_) | None => {}
        }
    }
    false
}

/// An attempt at a window; written before a session is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// `eventexport.io/attempt/v1`.
    pub schema: String,
    /// Holder of the attempt: stable over restarts.
    pub holder: String,
    /// Process of the holder: different after each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The source endpoint.
    pub source: String,
    /// Start of the attempt, by the store's clock.
    pub started_at: Timestamp,
    /// Time until which only the holder may work on the window, by the store's clock.
    pub deadline: Timestamp,
    /// The tracker user, if known from open sessions.
    pub tracker_user: Option<String>,
    /// Sessions that were open before the attempt.
    pub open_before: Vec<String>,
}

/// A session of an attempt; written immediately after the service's response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// `eventexport.io/session/v1`.
    pub schema: String,
    /// The session id.
    pub session_id: String,
    /// The tracker user that opened the session.
    pub tracker_user: Option<String>,
    /// Creation time by the service's clock, if the service states it.
    pub created_at: Option<Timestamp>,
}

/// A range of days or hours: requested, answered, or the period of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RangeRecord {
    /// First UTC day.
    pub start: Date,
    /// Last UTC day, inclusive.
    pub end: Date,
    /// One hour of each day, 0–23; absent for complete days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hour: Option<u8>,
}

impl RangeRecord {
    /// Returns the days of the range.
    pub fn days(self) -> impl Iterator<Item = Date> {
        let mut next = Some(self.start);
        std::iter::from_fn(move || {
            let day = next.filter(|day| *day <= self.end)?;
            next = day.tomorrow().ok();
            Some(day)
        })
    }

    /// Returns true if the day of a window lies in the range.
    pub fn contains(self, window: Window) -> bool {
        (self.start..=self.end).contains(&window.date())
    }
}

/// The stored object of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRecord {
    /// Key relative to the root of the space and scope.
    pub key: String,
    /// Version id, if the bucket is versioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Size in bytes, as stored and as sent.
    pub bytes: u64,
    /// SHA-256 of the bytes, hexadecimal.
    pub sha256: String,
    /// CRC-64/NVME of the bytes, 16 hexadecimal digits.
    pub crc64nvme: String,
    /// Number of gzip members.
    pub gzip_members: u64,
    /// Bytes after decompression.
    pub decompressed_bytes: u64,
}

/// Place and reason of the end of the count, for content that could be counted only in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UncountedRecord {
    /// `NotAnObject`, `Unfinished`, `Envelope`; later versions may add some.
    pub reason: String,
    /// Offset in the decompressed data.
    pub at_byte: u64,
}

impl From<Uncounted> for UncountedRecord {
    fn from(uncounted: Uncounted) -> Self {
        Self {
            reason: uncounted.reason.as_str().to_owned(),
            at_byte: uncounted.at_byte,
        }
    }
}

impl std::fmt::Display for UncountedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", sanitize(&self.reason), self.at_byte)
    }
}

/// Commit record of a window that is stored and proved, or proved empty; written once, as the last step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// `eventexport.io/receipt/v1`.
    pub schema: String,
    /// `2018-06-28` or `2018-06-28T07`.
    pub window: String,
    /// `Space` or `Account`.
    pub scope: String,
    /// The space id.
    pub space: String,
    /// The source endpoint.
    pub source: String,
    /// The tracker user of the download.
    pub tracker_user: Option<String>,
    /// The session of the download.
    pub session_id: String,
    /// The requested range.
    pub asked: RangeRecord,
    /// The range that the service answered, if it stated one.
    pub answered: Option<RangeRecord>,
    /// The object; absent if the window was proved empty.
    pub object: Option<ObjectRecord>,
    /// Form of the empty answer, if the window was proved empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_answer: Option<EmptyAnswer>,
    /// Events counted in the object.
    pub events: u64,
    /// End of the count, if the content could be counted only in part: `events` are those before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<UncountedRecord>,
    /// Events that the service reported before the download.
    pub reported_before: Option<u64>,
    /// Events that the service reported after the download.
    pub reported_after: Option<u64>,
    /// For an hour: events that the service reported for its day, to compare with the sum of the hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_of_day: Option<u64>,
    /// Comparison of the counts.
    pub verdict: Verdict,
    /// End of the transfer: `Length`, `Chunked`, `CloseConfirmed`, `CloseUnconfirmed`.
    pub transfer_end: Option<String>,
    /// Number of times that the transfer was interrupted and resumed.
    pub resumes: u32,
    /// Revision: 0; later supersets of a window have higher numbers.
    pub revision: u32,
    /// Of a later revision: the events that no earlier revision has; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supplement: Option<ObjectRecord>,
    /// Of a later revision: number of events in the supplement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supplement_events: Option<u64>,
    /// Of a later revision: number of stored events that its body lacks; absent if it lacks none. Such a body is kept, and
    /// the revision does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_events: Option<u64>,
    /// Time of the session request, by the store's clock.
    pub started_at: Timestamp,
    /// Time at which the object was stored, by the store's clock.
    pub stored_at: Timestamp,
    /// Name and version of the software that wrote this document.
    pub software: String,
}

/// Content of a future receipt; written before an upload is completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreparedRecord {
    /// `eventexport.io/prepared/v1`.
    pub schema: String,
    /// Id of the upload that is completed next.
    pub upload_id: String,
    /// The receipt without the version of the object.
    pub receipt: Receipt,
    /// Ed25519 signature over the bytes that a receipt document without the version would have, hexadecimal; absent
    /// without a signing key. It lets recovery sign the receipt of this attempt and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Record of a window that the service no longer had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpiredRecord {
    /// `eventexport.io/expired/v1`.
    pub schema: String,
    /// The source endpoint.
    pub source: String,
    /// The oldest day that the service listed.
    pub oldest_listed: Date,
    /// Answer to the download request.
    pub answer: EmptyAnswer,
    /// Time of the answer, by the store's clock.
    pub seen_at: Timestamp,
    /// Name and version of the software that wrote this document.
    pub software: String,
}

/// Record of late events of a stored window that the service reported and that could not be stored. A later receipt of the
/// window supersedes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LateRecord {
    /// `eventexport.io/late/v1`.
    pub schema: String,
    /// The source endpoint.
    pub source: String,
    /// Events that the archive has of the window.
    pub stored: u64,
    /// Events that the service reported last.
    pub reported: u64,
    /// Set if the service gave a later body that lacks stored events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<ChangedRecord>,
    /// Time of the observation, by the store's clock.
    pub seen_at: Timestamp,
    /// Name and version of the software that wrote this document.
    pub software: String,
}

/// A later body of a window that lacks stored events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedRecord {
    /// Events of the later body.
    pub events: u64,
    /// Stored events that it lacks.
    pub missing: u64,
}

/// Record of a day that is exported by the hour because it timed out repeatedly or is too large.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitRecord {
    /// `eventexport.io/split/v1`.
    pub schema: String,
    /// Last failure of the day.
    pub why: String,
    /// Time of the decision, by the store's clock.
    pub at: Timestamp,
}

macro_rules! record {
    ($($type:ty = $schema:literal),* $(,)?) => {$(
        impl ArchiveRecord for $type {
            const SCHEMA: &'static str = $schema;
            fn schema(&self) -> &str {
                &self.schema
            }
        }
    )*};
}

record!(
    AttemptRecord = "eventexport.io/attempt/v1",
    SessionRecord = "eventexport.io/session/v1",
    Receipt = "eventexport.io/receipt/v1",
    PreparedRecord = "eventexport.io/prepared/v1",
    ExpiredRecord = "eventexport.io/expired/v1",
    LateRecord = "eventexport.io/late/v1",
    SplitRecord = "eventexport.io/split/v1",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_schema_version_is_rejected_by_key_and_schema() {
        let split = SplitRecord {
            schema: SplitRecord::SCHEMA.to_owned(),
            why: "w".to_owned(),
            at: Timestamp::UNIX_EPOCH,
        };
        let bytes = encode(&split);
        assert_eq!(decode::<SplitRecord>("k", &bytes).unwrap(), split);
        let newer = String::from_utf8(bytes).unwrap().replace("split/v1", "split/v2");
        let error = decode::<SplitRecord>("the/key", newer.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains("the/key") && error.contains("split/v2"), "{error}");
        assert!(decode::<SplitRecord>("k", b"{}").is_err());
    }

    #[test]
    fn a_long_text_makes_a_document_unreadable() {
        let split = |why: String| {
            let schema = SplitRecord::SCHEMA.to_owned();
            let at = Timestamp::UNIX_EPOCH;
            encode(&SplitRecord { schema, why, at })
        };
        for (why, readable) in [
            ("w".repeat(TEXT_MAX_BYTES), true),
            ("w".repeat(TEXT_MAX_BYTES + 1), false),
            (format!("\"{}", "w".repeat(TEXT_MAX_BYTES - 2)), true),
            (format!("\"{}", "w".repeat(TEXT_MAX_BYTES - 1)), false),
        ] {
            let decoded = decode::<SplitRecord>("k", &split(why.clone()));
            assert_eq!(decoded.is_ok(), readable, "{} bytes", why.len());
        }
    }
}
