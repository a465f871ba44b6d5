//! Comparison of an object with its receipt or manifest. No I/O.

use std::collections::BTreeMap;

use super::receipts::ExpectedObject;
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::records::UncountedRecord;
use crate::archive::window::Window;
use crate::pipeline::prover::{GzipStats, Proof};
use crate::storage::{Crc64, ObjectInfo};

/// Method by which an object was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckMethod {
    /// Every byte was read.
    Data,
    /// The SHA-256 of the store was compared.
    StoredSha256,
    /// The CRC-64/NVME of the store was compared.
    StoredCrc64,
    /// Only the size was compared: the store has no checksum.
    Size,
    /// The object was not checked.
    Nothing,
}

/// Observed properties of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectObservation {
    /// Method of the check.
    pub method: CheckMethod,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal digits.
    pub sha256: Option<String>,
    /// CRC-64/NVME.
    pub crc64: Option<Crc64>,
    /// Contents of the gzip, or the reason that it is not complete.
    pub stats: Option<Result<GzipStats, String>>,
}

/// Index of windows by the stated digests of their objects, to recognize swapped objects.
#[derive(Clone, Debug, Default)]
pub struct DigestIndex {
    by_sha256: BTreeMap<String, Window>,
    by_crc64: BTreeMap<(u64, String), Window>,
}

impl CheckMethod {
    /// Returns the name in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "Data",
            Self::StoredSha256 => "StoredSha256",
            Self::StoredCrc64 => "StoredCrc64Nvme",
            Self::Size => "Size",
            Self::Nothing => "Nothing",
        }
    }

    /// Returns the description in text output.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Data => "by reading every byte",
            Self::StoredSha256 => "by size and the SHA-256 that the store holds",
            Self::StoredCrc64 => "by size and the CRC-64/NVME that the store holds",
            Self::Size => "by size alone",
            Self::Nothing => "not checked",
        }
    }
}

impl ObjectObservation {
    /// Returns the observation of an object that was not read.
    pub const fn of_size(bytes: u64) -> Self {
        Self {
            method: CheckMethod::Size,
            bytes,
            sha256: None,
            crc64: None,
            stats: None,
        }
    }

    /// Describes the content of an object that has other bytes than stated.
    fn describe_content(&self) -> Option<String> {
        let events = |events| format!("{events} {}", if events == 1 { "event" } else { "events" });
        Some(match self.stats.as_ref()? {
            Ok(stats) => {
                let known = match stats.events.uncounted {
                    None => events(stats.events.events),
                    Some(_) => format!("at least {}", events(stats.events.events)),
                };
                format!("whole gzip, {known}: other content")
            }
            Err(why) => why.clone(),
        })
    }
}

impl From<Proof> for ObjectObservation {
    fn from(proved: Proof) -> Self {
        Self {
            method: CheckMethod::Data,
            bytes: proved.bytes,
            sha256: Some(proved.sha256),
            crc64: Some(proved.crc64),
            stats: Some(proved.stats.map_err(|error| error.to_string())),
        }
    }
}

impl From<ObjectInfo> for ObjectObservation {
    fn from(info: ObjectInfo) -> Self {
        let method = match (&info.sha256, &info.crc64) {
            (Some(_), _) => CheckMethod::StoredSha256,
            (None, Some(_)) => CheckMethod::StoredCrc64,
            (None, None) => CheckMethod::Size,
        };
        Self {
            method,
            bytes: info.size,
            sha256: info.sha256,
            crc64: info.crc64,
            stats: None,
        }
    }
}

impl DigestIndex {
    /// Indexes the expected objects of a root.
    pub fn new(expected: &[ExpectedObject]) -> Self {
        let mut index = Self::default();
        for one in expected {
            index.by_sha256.insert(one.sha256.clone(), one.window);
            if let Some(crc64) = &one.crc64 {
                index.by_crc64.insert((one.bytes, crc64.clone()), one.window);
            }
        }
        index
    }

    fn find(&self, seen: &ObjectObservation) -> Option<Window> {
        match (&seen.sha256, seen.crc64) {
            (Some(sha256), _) => self.by_sha256.get(sha256).copied(),
            (None, Some(crc64)) => self.by_crc64.get(&(seen.bytes, crc64.to_string())).copied(),
            (None, None) => None,
        }
    }
}

/// Compares an object with its expected properties, and returns the errors.
pub fn evaluate(expected: &ExpectedObject, seen: &ObjectObservation, index: &DigestIndex) -> Vec<Finding> {
    let object = |kind| Finding::new(kind, expected.key.clone()).with_window(expected.window);
    let crc64 = seen.crc64.map(|crc64| crc64.to_string());
    let crc64_fits = expected
        .crc64
        .as_ref()
        .zip(crc64.as_ref())
        .map(|(one, other)| one == other);
    let same = match &seen.sha256 {
        Some(sha256) => *sha256 == expected.sha256,
        None => crc64_fits.unwrap_or(true) && seen.bytes == expected.bytes,
    };
    if same {
        return compare_counts(expected, seen, crc64_fits);
    }
    if let Some(other) = index.find(seen).filter(|other| *other != expected.window) {
        let finding =
            object(FindingKind::ObjectSwapped).expected(format!("the events of {}", expected.window));
        return vec![finding.found(format!("the events of {other}"))];
    }
    if seen.bytes != expected.bytes {
        let finding = object(FindingKind::ObjectSize)
            .expected(format!("{} bytes, by {}", expected.bytes, expected.stated_by));
        let difference = match seen.describe_content() {
            Some(content) => content,
            None if seen.bytes < expected.bytes => "shorter, not read".to_owned(),
            None => "longer, not read".to_owned(),
        };
        return vec![finding.found(format!("{} bytes: {difference}", seen.bytes))];
    }
    if let (Some(sha256), Some(true)) = (&seen.sha256, crc64_fits) {
        // The object is unchanged: it matches the other checksum of the receipt.
        return vec![
            Finding::new(FindingKind::ReceiptInconsistent, expected.stated_by.clone())
                .with_window(expected.window)
                .expected(format!("sha256 {sha256}, which matches the stated CRC-64"))
                .found(format!("sha256 {}", expected.sha256)),
        ];
    }
    let (stated, found) = match (&seen.sha256, &crc64) {
        (Some(sha256), _) => (format!("sha256 {}", expected.sha256), format!("sha256 {sha256}")),
        (None, crc64) => (
            format!("crc64nvme {}", expected.crc64.as_deref().unwrap_or("?")),
            format!("crc64nvme {}", crc64.as_deref().unwrap_or("?")),
        ),
    };
    let found = match seen.describe_content() {
        Some(content) => format!("{found}: {content}"),
        None => found,
    };
    vec![
        object(FindingKind::ObjectChanged)
            .expected(format!("{stated}, by {}", expected.stated_by))
            .found(found),
    ]
}

/// Compares the other stated properties of an object that has the stated bytes.
fn compare_counts(
    expected: &ExpectedObject,
    seen: &ObjectObservation,
    crc64_fits: Option<bool>,
) -> Vec<Finding> {
    let kind = if expected.from_receipt {
        FindingKind::ReceiptInconsistent
    } else {
        FindingKind::ManifestInconsistent
    };
    let mut findings = Vec::new();
    let mut compare = |name: &str, object: u64, stated: u64| {
        if object != stated {
            findings.push(
                Finding::new(kind, expected.stated_by.clone())
                    .with_window(expected.window)
                    .expected(format!("{name} {object}, by its object"))
                    .found(format!("{name} {stated}")),
            );
        }
    };
    compare("bytes", seen.bytes, expected.bytes);
    match &seen.stats {
        None => {}
        Some(Ok(stats)) => {
            compare("events", stats.events.events, expected.events);
            compare("decompressedBytes", stats.decompressed, expected.decompressed);
            if let Some(members) = expected.members {
                compare("gzipMembers", stats.members, members);
            }
        }
        Some(Err(why)) => findings.push(
            Finding::new(FindingKind::ObjectNotWhole, expected.key.clone())
                .with_window(expected.window)
                .expected("a complete gzip")
                .found(why.clone()),
        ),
    }
    if let (Some(Ok(stats)), Some(stated)) = (&seen.stats, &expected.uncounted) {
        let counted = stats.events.uncounted.map(UncountedRecord::from);
        if counted != *stated {
            let describe = |uncounted: &Option<UncountedRecord>| match uncounted {
                None => "counted completely".to_owned(),
                Some(uncounted) => format!("counted up to {uncounted}"),
            };
            findings.push(
                Finding::new(kind, expected.stated_by.clone())
                    .with_window(expected.window)
                    .expected(format!("{}, by its object", describe(&counted)))
                    .found(describe(stated)),
            );
        }
    }
    if crc64_fits == Some(false) {
        findings.push(
            Finding::new(kind, expected.stated_by.clone())
                .with_window(expected.window)
                .expected(format!(
                    "crc64nvme {}, by its object",
                    seen.crc64.map(|crc64| crc64.to_string()).unwrap_or_default()
                ))
                .found(format!(
                    "crc64nvme {}",
                    expected.crc64.as_deref().unwrap_or_default()
                )),
        );
    }
    findings
}
