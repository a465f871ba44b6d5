//! An object against what a receipt or manifest says of it. No I/O.

use std::collections::BTreeMap;

use super::finding::{Finding, FindingKind};
use super::object::{GzipStats, ObjectProof};
use super::receipts::ExpectedObject;
use crate::export::window::Window;
use crate::storage::{Crc64, ObjectInfo};

/// By which means an object was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckMethod {
    /// Every byte was read.
    Data,
    /// The SHA-256 that the store holds.
    StoredSha256,
    /// The CRC-64/NVME that the store holds.
    StoredCrc64,
    /// Its size alone: the store holds no checksum of it.
    Size,
    /// Not at all.
    Nothing,
}

/// What was found out of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectObservation {
    /// By which means.
    pub method: CheckMethod,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of them.
    pub sha256: Option<String>,
    /// CRC-64/NVME of them.
    pub crc64: Option<Crc64>,
    /// What it inflates to.
    pub stats: Option<Result<GzipStats, String>>,
}

/// Windows by what is stated of their objects: to find out whose bytes lie in a wrong place.
#[derive(Clone, Debug, Default)]
pub struct DigestIndex {
    by_sha256: BTreeMap<String, Window>,
    by_crc64: BTreeMap<(u64, String), Window>,
}

impl CheckMethod {
    /// As programs read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "Data",
            Self::StoredSha256 => "StoredSha256",
            Self::StoredCrc64 => "StoredCrc64Nvme",
            Self::Size => "Size",
            Self::Nothing => "Nothing",
        }
    }
}

impl From<ObjectProof> for ObjectObservation {
    fn from(proved: ObjectProof) -> Self {
        Self {
            method: CheckMethod::Data,
            bytes: proved.bytes,
            sha256: Some(proved.sha256),
            crc64: Some(proved.crc64),
            stats: Some(proved.stats),
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
    /// Of all objects that a root must hold.
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

/// What is wrong with an object that was looked at, if anything.
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
        let finding = object(FindingKind::ObjectSize).expected(format!(
            "{} bytes, as {} says",
            expected.bytes, expected.stated_by
        ));
        let how = if seen.bytes < expected.bytes {
            "cut off"
        } else {
            "longer"
        };
        return vec![finding.found(format!("{} bytes ({how})", seen.bytes))];
    }
    if let (Some(sha256), Some(true)) = (&seen.sha256, crc64_fits) {
        // The object is what it was: the receipt's other checksum says so.
        return vec![
            Finding::new(FindingKind::ReceiptInconsistent, expected.stated_by.clone())
                .with_window(expected.window)
                .expected(format!(
                    "sha256 {sha256}, which belongs to the CRC-64 that it states"
                ))
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
    let broken = match &seen.stats {
        Some(Err(why)) => format!("{found}; {why}"),
        _ => found,
    };
    vec![
        object(FindingKind::ObjectChanged)
            .expected(format!("{stated}, as {} says", expected.stated_by))
            .found(broken),
    ]
}

/// The bytes are those that are named: what else is said of them must be true.
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
    let mut wrong = Vec::new();
    let mut differ = |what: &str, object: u64, stated: u64| {
        if object != stated {
            wrong.push(
                Finding::new(kind, expected.stated_by.clone())
                    .with_window(expected.window)
                    .expected(format!("{what} {object}, which its object has"))
                    .found(format!("{what} {stated}")),
            );
        }
    };
    differ("bytes", seen.bytes, expected.bytes);
    match &seen.stats {
        None => {}
        Some(Ok(stats)) => {
            differ("events", stats.events, expected.events);
            differ("decompressedBytes", stats.decompressed, expected.decompressed);
            if let Some(members) = expected.members {
                differ("gzipMembers", stats.members, members);
            }
        }
        Some(Err(why)) => wrong.push(
            Finding::new(FindingKind::ObjectNotWhole, expected.key.clone())
                .with_window(expected.window)
                .expected("a whole gzip of events")
                .found(why.clone()),
        ),
    }
    if crc64_fits == Some(false) {
        wrong.push(
            Finding::new(kind, expected.stated_by.clone())
                .with_window(expected.window)
                .expected(format!(
                    "crc64nvme {}, which its object has",
                    seen.crc64.map(|crc64| crc64.to_string()).unwrap_or_default()
                ))
                .found(format!(
                    "crc64nvme {}",
                    expected.crc64.as_deref().unwrap_or_default()
                )),
        );
    }
    wrong
}
