//! An object against what a receipt or manifest says of it. No I/O.

use std::collections::BTreeMap;

use super::finding::{Finding, Kind};
use super::object::{Counted, Proved};
use super::receipts::Expected;
use crate::export::window::Window;
use crate::storage::{Crc64, ObjectFacts};

/// By which means an object was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
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
pub struct Observation {
    /// By which means.
    pub means: Means,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of them.
    pub sha256: Option<String>,
    /// CRC-64/NVME of them.
    pub crc64: Option<Crc64>,
    /// What it inflates to.
    pub counted: Option<Result<Counted, String>>,
}

/// Windows by what is stated of their objects: to find out whose bytes lie in a wrong place.
#[derive(Clone, Debug, Default)]
pub struct Book {
    by_sha256: BTreeMap<String, Window>,
    by_crc64: BTreeMap<(u64, String), Window>,
}

impl Means {
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

impl From<Proved> for Observation {
    fn from(proved: Proved) -> Self {
        Self {
            means: Means::Data,
            bytes: proved.bytes,
            sha256: Some(proved.sha256),
            crc64: Some(proved.crc64),
            counted: Some(proved.counted),
        }
    }
}

impl From<ObjectFacts> for Observation {
    fn from(facts: ObjectFacts) -> Self {
        let means = match (&facts.sha256, &facts.crc64) {
            (Some(_), _) => Means::StoredSha256,
            (None, Some(_)) => Means::StoredCrc64,
            (None, None) => Means::Size,
        };
        Self {
            means,
            bytes: facts.size,
            sha256: facts.sha256,
            crc64: facts.crc64,
            counted: None,
        }
    }
}

impl Book {
    /// Of all objects that a root must hold.
    pub fn of(expected: &[Expected]) -> Self {
        let mut book = Self::default();
        for one in expected {
            book.by_sha256.insert(one.sha256.clone(), one.window);
            if let Some(crc64) = &one.crc64 {
                book.by_crc64.insert((one.bytes, crc64.clone()), one.window);
            }
        }
        book
    }

    fn whose(&self, seen: &Observation) -> Option<Window> {
        match (&seen.sha256, seen.crc64) {
            (Some(sha256), _) => self.by_sha256.get(sha256).copied(),
            (None, Some(crc64)) => self.by_crc64.get(&(seen.bytes, crc64.to_string())).copied(),
            (None, None) => None,
        }
    }
}

/// What is wrong with an object that was looked at, if anything.
pub fn judge(expected: &Expected, seen: &Observation, book: &Book) -> Vec<Finding> {
    let object = |kind| Finding::new(kind, expected.key.clone()).of(expected.window);
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
        return numbers(expected, seen, crc64_fits);
    }
    if let Some(other) = book.whose(seen).filter(|other| *other != expected.window) {
        let finding = object(Kind::ObjectSwapped).expected(format!("the events of {}", expected.window));
        return vec![finding.found(format!("the events of {other}"))];
    }
    if seen.bytes != expected.bytes {
        let finding =
            object(Kind::ObjectSize).expected(format!("{} bytes, as {} says", expected.bytes, expected.by));
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
            Finding::new(Kind::ReceiptInconsistent, expected.by.clone())
                .of(expected.window)
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
    let broken = match &seen.counted {
        Some(Err(why)) => format!("{found}; {why}"),
        _ => found,
    };
    vec![
        object(Kind::ObjectChanged)
            .expected(format!("{stated}, as {} says", expected.by))
            .found(broken),
    ]
}

/// The bytes are those that are named: what else is said of them must be true.
fn numbers(expected: &Expected, seen: &Observation, crc64_fits: Option<bool>) -> Vec<Finding> {
    let kind = if expected.by_receipt {
        Kind::ReceiptInconsistent
    } else {
        Kind::ManifestInconsistent
    };
    let mut wrong = Vec::new();
    let mut differ = |what: &str, object: u64, stated: u64| {
        if object != stated {
            wrong.push(
                Finding::new(kind, expected.by.clone())
                    .of(expected.window)
                    .expected(format!("{what} {object}, which its object has"))
                    .found(format!("{what} {stated}")),
            );
        }
    };
    differ("bytes", seen.bytes, expected.bytes);
    match &seen.counted {
        None => {}
        Some(Ok(counted)) => {
            differ("events", counted.events, expected.events);
            differ("decompressedBytes", counted.decompressed, expected.decompressed);
            if let Some(members) = expected.members {
                differ("gzipMembers", counted.members, members);
            }
        }
        Some(Err(why)) => wrong.push(
            Finding::new(Kind::ObjectNotWhole, expected.key.clone())
                .of(expected.window)
                .expected("a whole gzip of events")
                .found(why.clone()),
        ),
    }
    if crc64_fits == Some(false) {
        wrong.push(
            Finding::new(kind, expected.by.clone())
                .of(expected.window)
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
