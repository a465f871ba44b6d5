//! The manifest as a document: what an archive says that it holds of a period, with digests of every receipt.
//! No I/O.
//!
//! Field order is part of the format only so far as people read it; unknown fields are ignored, another
//! schema is refused. `docs/archive.md` describes it for readers of the archive.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::api::sanitize;
use crate::export::proof::hex;
use crate::export::record::{self, ArchiveRecord, RangeRecord, RecordError};
use crate::export::verdict::Verdict;

/// The largest manifest that is written or read: 16 MiB. A period has at most 366 days, so at most 8,784
/// windows of some 500 bytes each, 2 KiB where the bucket's version ids are as long as S3 allows.
pub const MANIFEST_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The length of a signature in bytes (Ed25519, RFC 8032).
pub const SIGNATURE_BYTES: usize = 64;

/// The one algorithm of [`RootDigest`].
pub const ROOT_ALGORITHM: &str = "sha256";

/// What an archive holds of a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// `eventexport.io/manifest/v1`.
    pub schema: String,
    /// Its number, as in its key.
    pub sequence: u64,
    /// The space id.
    pub space: String,
    /// `Space` or `Account`.
    pub scope: String,
    /// The source endpoint.
    pub source: String,
    /// The days it is about, both included, and the hour where only one is asked for.
    pub period: RangeRecord,
    /// The receipts that cover the period, in time order: a day sorts before its hours.
    pub windows: Vec<WindowEntry>,
    /// One for each day of the period: the statement of completeness.
    pub days: Vec<DayEntry>,
    /// The gaps that a person accepted and that touch the period, in time order, each once.
    pub accepted_gaps: Vec<GapEntry>,
    /// Sums.
    pub totals: PeriodTotals,
    /// One digest for all receipts.
    pub root: RootDigest,
    /// The manifest numbered one below; null for the first.
    pub previous: Option<FileDigest>,
    /// When it was about to be written, by the store's clock.
    pub written_at: Timestamp,
    /// The software that wrote this.
    pub software: String,
}

/// A file of the archive and its bytes' digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Its key below the root of the space and scope.
    pub key: String,
    /// SHA-256 of its bytes as stored, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// A receipt, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowEntry {
    /// `2018-06-28` or `2018-06-28T07`.
    pub window: String,
    /// The receipt.
    pub receipt: FileDigest,
    /// The object; null when the window was proved empty.
    pub object: Option<ObjectEntry>,
    /// Events counted in the object.
    pub events: u64,
    /// Bytes after decompression; 0 without an object.
    pub decompressed_bytes: u64,
    /// Events that the service reported before the download.
    pub reported_before: Option<u64>,
    /// Events that the service reported after it.
    pub reported_after: Option<u64>,
    /// How the count compares.
    pub verdict: Verdict,
}

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectEntry {
    /// Its key below the root of the space and scope.
    pub key: String,
    /// Bytes as stored.
    pub bytes: u64,
    /// SHA-256 of them, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// The version, where the bucket keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

/// What is stated of one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayEntry {
    /// The UTC day.
    pub date: Date,
    /// How many of the wanted hours are covered.
    pub hours: u8,
    /// How many are wanted: 24, or 1 where one hour of each day is asked for.
    pub wanted: u8,
    /// Events of the day's windows.
    pub events: u64,
    /// Events that the service reported of the day (of the hour, where one is asked for); null where it
    /// reported none.
    pub reported: Option<u64>,
    /// How the two compare.
    pub statement: DayStatement,
}

/// How a day stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DayStatement {
    /// As many events as the service reported.
    Matched,
    /// More: its listing lagged, or the day grew.
    Over,
    /// Fewer: only where the receipt itself says so, which this software never writes.
    Short,
    /// The service gave no count: transfer and gzip are the proof.
    Unknown,
    /// No events, and that was proved.
    Empty,
    /// A gap that a person accepted: what is stored of it is not all, or not known to be.
    AcceptedGap,
}

/// A gap that a person accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GapEntry {
    /// First UTC day.
    pub start: Date,
    /// Last UTC day, included.
    pub end: Date,
    /// Why.
    pub reason: String,
}

impl GapEntry {
    /// From the first to the last day, both included.
    pub fn new(start: Date, end: Date, reason: impl Into<String>) -> Self {
        Self {
            start,
            end,
            reason: reason.into(),
        }
    }
}

/// Sums over the period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeriodTotals {
    /// Receipts.
    pub windows: u64,
    /// Objects.
    pub objects: u64,
    /// Events.
    pub events: u64,
    /// Events that the service reported, over the days with a count.
    pub reported: u64,
    /// Days without a count.
    pub days_without_count: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Bytes after decompression.
    pub decompressed_bytes: u64,
}

/// One digest for all receipts of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDigest {
    /// `sha256`.
    pub algorithm: String,
    /// Of the lines that `sha256sum` prints for the receipts, in the order of `windows`: 64 lower-case
    /// hexadecimal digits.
    pub digest: String,
}

/// What tells a manifest's statement from others, read without its windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestHeader {
    /// As [`Manifest::schema`].
    pub schema: String,
    /// As [`Manifest::sequence`].
    pub sequence: u64,
    /// As [`Manifest::space`].
    pub space: String,
    /// As [`Manifest::scope`].
    pub scope: String,
    /// As [`Manifest::source`].
    pub source: String,
    /// As [`Manifest::period`].
    pub period: RangeRecord,
    /// As [`Manifest::accepted_gaps`].
    pub accepted_gaps: Vec<GapEntry>,
    /// As [`Manifest::root`].
    pub root: RootDigest,
}

impl ArchiveRecord for Manifest {
    const SCHEMA: &'static str = "eventexport.io/manifest/v1";
    fn schema(&self) -> &str {
        &self.schema
    }
}

impl ArchiveRecord for ManifestHeader {
    const SCHEMA: &'static str = Manifest::SCHEMA;
    fn schema(&self) -> &str {
        &self.schema
    }
}

/// Reads a manifest (or its head) that was found at `key`. Another schema is refused, and so is a number
/// other than the one in its key.
pub fn parse_manifest<M: ArchiveRecord + ChainDocument>(
    key: &str,
    sequence: u64,
    bytes: &[u8],
) -> Result<M, RecordError> {
    let unreadable = |message: String| RecordError::Unreadable {
        key: key.to_owned(),
        schema: M::SCHEMA,
        message,
    };
    if bytes.len() as u64 > MANIFEST_MAX_BYTES {
        return Err(unreadable(format!(
            "it is larger than {MANIFEST_MAX_BYTES} bytes"
        )));
    }
    let manifest: M = record::decode(key, bytes)?;
    if manifest.sequence() != sequence {
        let found = manifest.sequence();
        return Err(unreadable(format!(
            "it says of itself that its number is {found}"
        )));
    }
    if manifest.algorithm() != ROOT_ALGORITHM {
        let found = sanitize(manifest.algorithm());
        return Err(unreadable(format!(
            "its root digest is of the unknown algorithm \"{found}\""
        )));
    }
    Ok(manifest)
}

/// What knows its place in the chain.
pub trait ChainDocument {
    /// The number in the chain.
    fn sequence(&self) -> u64;
    /// How the root digest was made.
    fn algorithm(&self) -> &str;
}

impl ChainDocument for Manifest {
    fn sequence(&self) -> u64 {
        self.sequence
    }
    fn algorithm(&self) -> &str {
        &self.root.algorithm
    }
}

impl ChainDocument for ManifestHeader {
    fn sequence(&self) -> u64 {
        self.sequence
    }
    fn algorithm(&self) -> &str {
        &self.root.algorithm
    }
}

/// The root digest of receipts in the order given: of the text that `sha256sum` prints for them.
pub fn root_digest<'a>(receipts: impl IntoIterator<Item = &'a FileDigest>) -> RootDigest {
    let mut sha = Sha256::new();
    let mut line = String::new();
    for FileDigest { key, sha256 } in receipts {
        line.clear();
        // Writing to a String cannot fail.
        let _ = writeln!(line, "{sha256}  {key}");
        sha.update(line.as_bytes());
    }
    RootDigest {
        algorithm: ROOT_ALGORITHM.to_owned(),
        digest: hex(&sha.finalize()),
    }
}

impl Manifest {
    /// The root digest that its windows give: equal to [`Manifest::root`] in a manifest that nobody edited.
    pub fn computed_root(&self) -> RootDigest {
        root_digest(self.windows.iter().map(|window| &window.receipt))
    }

    /// The sums that its windows and days give: equal to [`Manifest::totals`] in a manifest that nobody edited.
    pub fn computed_totals(&self) -> PeriodTotals {
        PeriodTotals::of(&self.windows, &self.days)
    }
}

impl PeriodTotals {
    /// The sums of some windows and days; a sum that does not fit stays at the most that does.
    pub fn of(windows: &[WindowEntry], days: &[DayEntry]) -> Self {
        let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0u64, u64::saturating_add);
        let objects = || windows.iter().filter_map(|window| window.object.as_ref());
        Self {
            windows: windows.len() as u64,
            objects: objects().count() as u64,
            events: sum(&mut windows.iter().map(|window| window.events)),
            reported: sum(&mut days.iter().filter_map(|day| day.reported)),
            days_without_count: days.iter().filter(|day| day.reported.is_none()).count() as u64,
            bytes: sum(&mut objects().map(|object| object.bytes)),
            decompressed_bytes: sum(&mut windows.iter().map(|window| window.decompressed_bytes)),
        }
    }
}
