//! The documents of the journal: attempt, session, prepared, receipt, expired, split. No I/O.
//!
//! Each carries the name and version of its schema; a reader refuses a version that it does not know.
//! Unknown fields are ignored, so that a later version may add some.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::verdict::{EmptyAnswer, Verdict};
use crate::api::sanitize;

/// The software that writes, for receipts: `eventexport/0.1.0`.
pub const SOFTWARE: &str = concat!("eventexport/", env!("CARGO_PKG_VERSION"));

/// The largest journal document that is read: 256 KiB (an attempt that lists a thousand sessions has 50 KiB).
pub const RECORD_MAX_BYTES: u64 = 256 * 1024;

/// A document of the journal.
pub trait ArchiveRecord: Serialize + DeserializeOwned {
    /// Name and version of the schema.
    const SCHEMA: &'static str;
    /// What the document says of itself.
    fn schema(&self) -> &str;
}

/// A document that cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or fields missing.
    #[error("{key} is not a readable {schema}: {message}")]
    Unreadable {
        /// The key.
        key: String,
        /// The schema expected.
        schema: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Of another schema or version.
    #[error("{key} is a {found}, and this software reads {schema}: upgrade eventexport")]
    UnsupportedSchema {
        /// The key.
        key: String,
        /// The schema expected.
        schema: &'static str,
        /// The schema found.
        found: String,
    },
}

/// The bytes of a document: one line of JSON.
pub fn encode<R: ArchiveRecord>(record: &R) -> Vec<u8> {
    // Records are plain data with string keys: serialising them to memory has no way to fail.
    let mut bytes = serde_json::to_vec(record).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Reads a document and checks its schema.
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
    let header: SchemaHeader = serde_json::from_slice(bytes).map_err(unreadable)?;
    if header.schema != R::SCHEMA {
        return Err(RecordError::UnsupportedSchema {
            key: key.to_owned(),
            schema: R::SCHEMA,
            found: sanitize(&header.schema).into_owned(),
        });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Written before a session is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// `eventexport.io/attempt/v1`.
    pub schema: String,
    /// Who tries: stable over restarts of the same holder.
    pub holder: String,
    /// Which process of that holder: another one after each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The source endpoint.
    pub source: String,
    /// When it began, by the store's clock.
    pub started_at: Timestamp,
    /// Until when the holder alone may work on the window, by the store's clock.
    pub deadline: Timestamp,
    /// The tracker user, as far as known from the sessions that were open.
    pub tracker_user: Option<String>,
    /// The sessions that were open before.
    pub open_before: Vec<String>,
}

/// Written right after the service's reply: this session is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// `eventexport.io/session/v1`.
    pub schema: String,
    /// The id.
    pub session_id: String,
    /// Who opened it.
    pub tracker_user: Option<String>,
    /// When, by the service's clock, where it says so.
    pub created_at: Option<Timestamp>,
}

/// A range as asked or answered; what a manifest is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RangeRecord {
    /// First UTC day.
    pub start: Date,
    /// Last UTC day, inclusive.
    pub end: Date,
    /// One hour, 0–23, or absent for whole days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hour: Option<u8>,
}

/// The stored object of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRecord {
    /// Its key below the root of the space and scope.
    pub key: String,
    /// The version, where the bucket keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Bytes as stored, which are the bytes as sent.
    pub bytes: u64,
    /// SHA-256 of them, hexadecimal.
    pub sha256: String,
    /// CRC-64/NVME of them, 16 hexadecimal digits.
    pub crc64nvme: String,
    /// Members of the gzip.
    pub gzip_members: u64,
    /// Bytes after decompression.
    pub decompressed_bytes: u64,
}

/// Stored and proved, or proved empty: the commit record, written once and last.
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
    /// Who downloaded.
    pub tracker_user: Option<String>,
    /// The session of the download.
    pub session_id: String,
    /// What was asked for.
    pub asked: RangeRecord,
    /// What the service answered, where it said so.
    pub answered: Option<RangeRecord>,
    /// The object; absent when the window was proved empty.
    pub object: Option<ObjectRecord>,
    /// How the service said that there is nothing, when it was proved empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_answer: Option<EmptyAnswer>,
    /// Events counted in the object.
    pub events: u64,
    /// Events that the service reported before the download.
    pub reported_before: Option<u64>,
    /// Events that the service reported after it.
    pub reported_after: Option<u64>,
    /// Of an hour: events that the service reported of its whole day, which the hours are summed up against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_of_day: Option<u64>,
    /// How the count compares.
    pub verdict: Verdict,
    /// How the transfer ended: `Length`, `Chunked`, `CloseConfirmed`, `CloseUnconfirmed`.
    pub transfer_end: Option<String>,
    /// How often the transfer was cut and went on.
    pub resumes: u32,
    /// 0; later supersets of a day have higher numbers.
    pub revision: u32,
    /// When the session was asked for, by the store's clock.
    pub started_at: Timestamp,
    /// When the object was stored, by the store's clock.
    pub stored_at: Timestamp,
    /// The software that wrote this.
    pub software: String,
}

/// Written before an upload is completed: all that its receipt will say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreparedRecord {
    /// `eventexport.io/prepared/v1`.
    pub schema: String,
    /// The upload that is about to be completed.
    pub upload_id: String,
    /// The receipt, but for the object's version.
    pub receipt: Receipt,
}

/// The service no longer had the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpiredRecord {
    /// `eventexport.io/expired/v1`.
    pub schema: String,
    /// The source endpoint.
    pub source: String,
    /// The oldest day that the service still listed.
    pub oldest_listed: Date,
    /// How it answered the download.
    pub answer: EmptyAnswer,
    /// When, by the store's clock.
    pub seen_at: Timestamp,
    /// The software that wrote this.
    pub software: String,
}

/// The day is exported by the hour, since it kept timing out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitRecord {
    /// `eventexport.io/split/v1`.
    pub schema: String,
    /// Why.
    pub why: String,
    /// When, by the store's clock.
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
}
