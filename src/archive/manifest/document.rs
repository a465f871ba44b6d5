//! Format of the manifest: the content of the archive for a period, with digests of every receipt. No I/O.
//!
//! Readers ignore the order of fields and unknown fields, and reject another schema. `docs/archive.md` documents the
//! format.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::api::sanitize;
use crate::archive::counts::{SplitDay, Verdict, evaluate_day};
use crate::archive::records::{self, ArchiveRecord, RangeRecord, RecordError, UncountedRecord};
use crate::archive::window::Window;
use crate::pipeline::prover::hex;

/// Maximum size of a manifest: 16 MiB. A period has at most 366 days, so at most 8,784 windows of some 500 bytes each,
/// 2 KiB if the version ids of the bucket have the maximum length of S3.
pub const MANIFEST_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Length of a signature in bytes (Ed25519, RFC 8032).
pub const SIGNATURE_BYTES: usize = 64;

/// The only algorithm of [`RootDigest`].
pub const ROOT_ALGORITHM: &str = "sha256";

/// Statement of the content of the archive for a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// `eventexport.io/manifest/v1`; with later revisions `eventexport.io/manifest/v2`.
    pub schema: String,
    /// Sequence number, as in the key.
    pub sequence: u64,
    /// The space id.
    pub space: String,
    /// `Space` or `Account`.
    pub scope: String,
    /// The source endpoint.
    pub source: String,
    /// First and last day, inclusive, and the hour if the export is limited to one.
    pub period: RangeRecord,
    /// The receipts that cover the period, in time order: a day sorts before its hours.
    pub windows: Vec<WindowEntry>,
    /// One entry per day of the period: the statement of completeness.
    pub days: Vec<DayEntry>,
    /// Accepted gaps that overlap the period, in time order, without duplicates.
    pub accepted_gaps: Vec<GapEntry>,
    /// Sums over the period.
    pub totals: PeriodTotals,
    /// Digest of all receipts.
    pub root: RootDigest,
    /// The manifest with the preceding number; null for the first.
    pub previous: Option<FileDigest>,
    /// Id of the key that signs the manifest: SHA-256 of its DER `SubjectPublicKeyInfo`. Absent without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The bucket that the manifest was written to; absent for a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The prefix in that bucket, without slashes at its ends; absent for a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Time immediately before the manifest was written, by the store's clock.
    pub written_at: Timestamp,
    /// Name and version of the software that wrote the manifest.
    pub software: String,
}

/// A file of the archive with its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Key relative to the root of the space and scope.
    pub key: String,
    /// SHA-256 of the stored bytes, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// A receipt with a summary of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowEntry {
    /// `2018-06-28` or `2018-06-28T07`.
    pub window: String,
    /// The receipt.
    pub receipt: FileDigest,
    /// The object; null if the window was proved empty.
    pub object: Option<ObjectEntry>,
    /// Events counted in the object.
    pub events: u64,
    /// Bytes after decompression; 0 without an object.
    pub decompressed_bytes: u64,
    /// Events that the service reported before the download.
    pub reported_before: Option<u64>,
    /// Events that the service reported after the download.
    pub reported_after: Option<u64>,
    /// Comparison of the counts.
    pub verdict: Verdict,
    /// End of the count, if the content could be counted only in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<UncountedRecord>,
    /// Later revisions, oldest first; the last one without `missingEvents` counts. A manifest that has some is of `manifest/v2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<RevisionEntry>,
}

/// The receipt of a later revision of a window with a summary of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionEntry {
    /// Number of the revision, from 1.
    pub revision: u32,
    /// The receipt.
    pub receipt: FileDigest,
    /// The full body: of this revision, or of an earlier one if only the service's count is new.
    pub object: ObjectEntry,
    /// The events that no earlier revision has; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supplement: Option<ObjectEntry>,
    /// Events counted in the full body.
    pub events: u64,
    /// Number of stored events that the full body lacks; absent if it lacks none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_events: Option<u64>,
    /// Bytes of the full body after decompression.
    pub decompressed_bytes: u64,
    /// Events that the service reported before the download.
    pub reported_before: Option<u64>,
    /// Events that the service reported after the download.
    pub reported_after: Option<u64>,
    /// Comparison of the counts.
    pub verdict: Verdict,
}

impl WindowEntry {
    /// Returns all receipts of the window in the order of their revisions.
    pub fn receipts(&self) -> impl Iterator<Item = &FileDigest> {
        let later = self.revisions.iter().map(|later| &later.receipt);
        std::iter::once(&self.receipt).chain(later)
    }

    /// Returns the later revision that counts; `None` if the first receipt does.
    fn current_revision(&self) -> Option<&RevisionEntry> {
        self.revisions
            .iter()
            .rfind(|later| later.missing_events.is_none())
    }

    /// Returns the events of the revision that counts.
    pub fn current_events(&self) -> u64 {
        self.current_revision()
            .map_or(self.events, |current| current.events)
    }

    /// Returns the newest count of the service.
    pub fn current_reported(&self) -> Option<u64> {
        match self.current_revision() {
            Some(current) => current.reported_after.or(current.reported_before),
            None => self.reported_after.or(self.reported_before),
        }
    }

    /// Returns the verdict of the revision that counts.
    pub fn current_verdict(&self) -> Verdict {
        self.current_revision()
            .map_or(self.verdict, |current| current.verdict)
    }
}

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectEntry {
    /// Key relative to the root of the space and scope.
    pub key: String,
    /// Size in bytes, as stored.
    pub bytes: u64,
    /// SHA-256 of the stored bytes, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Version id, if the bucket is versioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

/// Statement about one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayEntry {
    /// The UTC day.
    pub date: Date,
    /// Number of wanted hours that are covered.
    pub hours: u8,
    /// Number of wanted hours: 24, or 1 if the export is limited to one hour of each day.
    pub wanted: u8,
    /// Events of the day's windows.
    pub events: u64,
    /// Events that the service reported for the day (or the hour, if the export is limited to one); null if it reported
    /// no count.
    pub reported: Option<u64>,
    /// Comparison of the two counts.
    pub statement: DayStatement,
}

/// Facts that determine the entry of a day.
#[derive(Clone, Copy, Debug)]
pub struct DayEvidence<'a> {
    /// The day, or its hour if the export is limited to one.
    pub wanted: Window,
    /// Entries of the windows that cover it, in time order.
    pub windows: &'a [(Window, &'a WindowEntry)],
    /// Highest report for the day in the receipts of its hours.
    pub reported_of_day: Option<u64>,
    /// True if the archive has all hours of the day, with fewer events than the service reported.
    pub short: bool,
    /// True if the day is in an accepted gap.
    pub accepted: bool,
}

impl DayEntry {
    /// Derives the entry of a day: the rule for those who write manifests and those who check them. Returns `None` if
    /// the day is neither covered nor in an accepted gap.
    pub fn derive(evidence: &DayEvidence<'_>) -> Option<Self> {
        let DayEvidence {
            wanted,
            windows,
            reported_of_day,
            short,
            accepted,
        } = *evidence;
        let entries = || windows.iter().map(|(_, entry)| *entry);
        let covered = windows
            .iter()
            .fold(0, |hours, (window, _)| hours | window.hours());
        let hours = covered & wanted.hours();
        let events = entries().fold(0u64, |sum, entry| sum.saturating_add(entry.current_events()));
        // For a day in hours, only the sum can be compared, with the report of the day.
        let split = wanted.hour_of_day().is_none()
            && windows.iter().any(|(window, _)| window.hour_of_day().is_some());
        let reported = if split {
            reported_of_day
        } else {
            entries().find_map(WindowEntry::current_reported)
        };
        let sum = SplitDay { events, reported };
        let verdicts = entries().map(|entry| match entry.uncounted {
            Some(_) if split => Verdict::Uncounted,
            _ => entry.current_verdict(),
        });
        let verdict = evaluate_day(verdicts, split.then_some(sum));
        let short = short || split && sum.verdict() == Verdict::Short;
        let statement = match verdict {
            Some(verdict) if hours == wanted.hours() && !short => DayStatement::from(verdict),
            _ if accepted => DayStatement::AcceptedGap,
            _ => return None,
        };
        let count = |hours: u32| u8::try_from(hours.count_ones()).unwrap_or(u8::MAX);
        Some(Self {
            date: wanted.date(),
            hours: count(hours),
            wanted: count(wanted.hours()),
            events,
            reported,
            statement,
        })
    }
}

impl From<Verdict> for DayStatement {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Matched => Self::Matched,
            Verdict::Over => Self::Over,
            Verdict::Short => Self::Short,
            Verdict::Unknown | Verdict::Uncounted => Self::Unknown,
            Verdict::Empty => Self::Empty,
        }
    }
}

/// Result for a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DayStatement {
    /// As many events as the service reported.
    Matched,
    /// More events than reported: the listing lagged, or the day grew.
    Over,
    /// Fewer events than reported: only if a receipt states it, which this software never writes.
    Short,
    /// The service reported no count: transfer and gzip are the proof.
    Unknown,
    /// Proved to have no events.
    Empty,
    /// In an accepted gap: the stored events are incomplete, or not known to be complete.
    AcceptedGap,
}

/// A gap that the user accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GapEntry {
    /// First UTC day.
    pub start: Date,
    /// Last UTC day, inclusive.
    pub end: Date,
    /// Reason for the acceptance.
    pub reason: String,
}

impl GapEntry {
    /// Returns the first gap that contains a day.
    pub fn find(gaps: &[Self], day: Date) -> Option<&Self> {
        gaps.iter().find(|gap| (gap.start..=gap.end).contains(&day))
    }

    /// Creates a gap from the first to the last day, inclusive.
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
    /// Number of receipts.
    pub windows: u64,
    /// Number of objects.
    pub objects: u64,
    /// Number of events.
    pub events: u64,
    /// Events that the service reported, summed over the days with a count.
    pub reported: u64,
    /// Number of days without a count.
    pub days_without_count: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Bytes after decompression.
    pub decompressed_bytes: u64,
}

/// Digest of all receipts of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDigest {
    /// `sha256`.
    pub algorithm: String,
    /// Digest of the lines that `sha256sum` prints for the receipts, in the order of `windows`: 64 lower-case
    /// hexadecimal digits.
    pub digest: String,
}

/// The part of a manifest that identifies its statement, read without its windows.
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
    /// As [`Manifest::totals`].
    pub totals: PeriodTotals,
    /// As [`Manifest::root`].
    pub root: RootDigest,
    /// As [`Manifest::written_at`].
    pub written_at: Timestamp,
}

/// Schema of a manifest with later revisions.
pub const REVISED_SCHEMA: &str = "eventexport.io/manifest/v2";

impl ArchiveRecord for Manifest {
    const SCHEMA: &'static str = "eventexport.io/manifest/v1";
    fn schema(&self) -> &str {
        &self.schema
    }
    fn reads(schema: &str) -> bool {
        [Self::SCHEMA, REVISED_SCHEMA].contains(&schema)
    }
}

impl ArchiveRecord for ManifestHeader {
    const SCHEMA: &'static str = Manifest::SCHEMA;
    fn schema(&self) -> &str {
        &self.schema
    }
    fn reads(schema: &str) -> bool {
        Manifest::reads(schema)
    }
}

/// Parses a manifest, or its header, that was read from `key`. Rejects another schema and a sequence number that is not
/// the one in the key.
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
        return Err(unreadable(format!("larger than {MANIFEST_MAX_BYTES} bytes")));
    }
    let manifest: M = records::decode(key, bytes)?;
    if manifest.sequence() != sequence {
        let found = manifest.sequence();
        return Err(unreadable(format!(
            "its sequence number is {found}, expected {sequence}"
        )));
    }
    if manifest.algorithm() != ROOT_ALGORITHM {
        let found = sanitize(manifest.algorithm());
        return Err(unreadable(format!(
            "unknown algorithm of the root digest \"{found}\""
        )));
    }
    Ok(manifest)
}

/// A document of the chain of manifests.
pub trait ChainDocument {
    /// Returns the sequence number.
    fn sequence(&self) -> u64;
    /// Returns the algorithm of the root digest.
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

/// Returns the root digest of receipts in the given order: the digest of the text that `sha256sum` prints for them.
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
    /// Computes the root digest from the windows. It equals [`Manifest::root`] unless the manifest was edited.
    pub fn computed_root(&self) -> RootDigest {
        root_digest(self.windows.iter().flat_map(WindowEntry::receipts))
    }

    /// Computes the sums from the windows and days. They equal [`Manifest::totals`] unless the manifest was edited.
    pub fn computed_totals(&self) -> PeriodTotals {
        PeriodTotals::of(&self.windows, &self.days)
    }
}

impl PeriodTotals {
    /// Computes the sums of windows and days, saturating.
    pub fn of(windows: &[WindowEntry], days: &[DayEntry]) -> Self {
        let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0u64, u64::saturating_add);
        let objects = || windows.iter().filter_map(|window| window.object.as_ref());
        Self {
            windows: windows.len() as u64,
            objects: objects().count() as u64,
            events: sum(&mut windows.iter().map(WindowEntry::current_events)),
            reported: sum(&mut days.iter().filter_map(|day| day.reported)),
            days_without_count: days.iter().filter(|day| day.reported.is_none()).count() as u64,
            bytes: sum(&mut objects().map(|object| object.bytes)),
            decompressed_bytes: sum(&mut windows.iter().map(|window| window.decompressed_bytes)),
        }
    }
}
