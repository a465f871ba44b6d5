//! Facts of a receipt, as decisions, reports and manifests need them, and the check that it describes its window. No I/O.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::counts::{Verdict, compare_counts, latest_count};
use super::layout::{ArchiveRoot, Key};
use super::manifest::document::WindowEntry;
use super::records::{self, RangeRecord, Receipt, RecordError, UncountedRecord};
use super::window::Window;
use crate::api::sanitize;
use crate::pipeline::prover::hex;

/// A SHA-256 digest. Displays as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

/// A stored window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowFacts {
    /// Bytes as stored.
    pub bytes: u64,
    /// Events counted.
    pub events: u64,
    /// Events that the service reported; the later report takes precedence.
    pub reported: Option<u64>,
    /// Comparison of the counts.
    pub verdict: Verdict,
    /// End of the count, if the content could be counted only in part.
    pub uncounted: Option<Box<UncountedRecord>>,
    /// SHA-256 of the object; absent when the window was proved empty.
    pub sha256: Option<Sha256Digest>,
    /// True if this process stored the window, false if it found it.
    pub stored_now: bool,
}

/// Facts of a receipt that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptFacts {
    /// The source endpoint.
    pub source: Arc<str>,
    /// For an hour: events that the service reported for its day.
    pub day_reported: Option<u64>,
    /// Time at which the object was stored, by the store's clock.
    pub stored_at: Timestamp,
    /// Facts for status and reports.
    pub summary: WindowFacts,
    /// Facts for the manifest.
    pub proof: ReceiptProof,
}

/// Facts of a receipt that only a manifest needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiptProof {
    /// SHA-256 of the receipt's bytes.
    pub sha256: Sha256Digest,
    /// Events that the service reported before the download.
    pub reported_before: Option<u64>,
    /// Events that the service reported after the download.
    pub reported_after: Option<u64>,
    /// Bytes after decompression.
    pub decompressed_bytes: u64,
    /// Version of the object, if the bucket keeps versions.
    pub version_id: Option<Box<str>>,
}

impl Sha256Digest {
    /// Computes the digest of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for Sha256Digest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.as_bytes();
        let mut digest = [0; 32];
        if digits.len() != 64 {
            return Err(());
        }
        for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ())?;
            // `from_str_radix` accepts a sign.
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        Ok(Self(digest))
    }
}

/// Reads the bytes of a receipt. Rejects one that does not describe the window of its key, or that contradicts itself.
pub fn read_receipt(root: &ArchiveRoot, window: Window, bytes: &[u8]) -> Result<Receipt, RecordError> {
    let key = root.key(&Key::Receipt(window)).unwrap_or_default();
    let receipt: Receipt = records::decode(&key, bytes)?;
    let clean = |text: String| sanitize(&text).into_owned();
    if let Some((expected, found)) = misplaced(root, window, &receipt) {
        return Err(RecordError::Misplaced {
            key,
            expected,
            found: clean(found),
        });
    }
    if let Some((expected, found)) = contradiction(window, &receipt) {
        return Err(RecordError::Inconsistent {
            key,
            expected,
            found: clean(found),
        });
    }
    Ok(receipt)
}

impl ReceiptFacts {
    /// Extracts the facts of a receipt. `sha256`: digest of its stored bytes.
    pub fn new(receipt: &Receipt, sha256: Sha256Digest) -> Self {
        let object = receipt.object.as_ref();
        let proof = ReceiptProof {
            sha256,
            reported_before: receipt.reported_before,
            reported_after: receipt.reported_after,
            decompressed_bytes: object.map_or(0, |object| object.decompressed_bytes),
            version_id: object.and_then(|object| object.version_id.as_deref().map(Into::into)),
        };
        let summary = WindowFacts {
            bytes: object.map_or(0, |object| object.bytes),
            events: receipt.events,
            reported: latest_count(receipt.reported_before, receipt.reported_after),
            verdict: match &receipt.uncounted {
                Some(_) => Verdict::Uncounted,
                None => receipt.verdict,
            },
            uncounted: receipt.uncounted.clone().map(Box::new),
            sha256: object.and_then(|object| object.sha256.parse().ok()),
            stored_now: false,
        };
        Self {
            source: receipt.source.as_str().into(),
            day_reported: receipt.reported_of_day,
            stored_at: receipt.stored_at,
            summary,
            proof,
        }
    }

    /// Extracts the facts of a receipt from an entry of a manifest. `day_reported`: for an hour of a split day, the report
    /// for the day. `stored_at`: time at which the store accepted the receipt. Returns `None` if a digest is invalid.
    pub fn from_manifest(
        source: &Arc<str>,
        entry: &WindowEntry,
        day_reported: Option<u64>,
        stored_at: Timestamp,
    ) -> Option<Self> {
        let object = entry.object.as_ref();
        let sha256 = match object {
            None => None,
            Some(object) => Some(object.sha256.parse().ok()?),
        };
        Some(Self {
            source: Arc::clone(source),
            day_reported,
            stored_at,
            summary: WindowFacts {
                bytes: object.map_or(0, |object| object.bytes),
                events: entry.events,
                reported: latest_count(entry.reported_before, entry.reported_after),
                verdict: match &entry.uncounted {
                    Some(_) => Verdict::Uncounted,
                    None => entry.verdict,
                },
                uncounted: entry.uncounted.clone().map(Box::new),
                sha256,
                stored_now: false,
            },
            proof: ReceiptProof {
                sha256: entry.receipt.sha256.parse().ok()?,
                reported_before: entry.reported_before,
                reported_after: entry.reported_after,
                decompressed_bytes: entry.decompressed_bytes,
                version_id: object.and_then(|object| object.version_id.as_deref().map(Into::into)),
            },
        })
    }
}

/// Compares a receipt with its key. Returns the expected and the actual value if they differ.
fn misplaced(root: &ArchiveRoot, window: Window, receipt: &Receipt) -> Option<(String, String)> {
    if receipt.window != window.to_string() {
        return Some((format!("window {window}"), format!("window {}", receipt.window)));
    }
    let range = RangeRecord {
        start: window.date(),
        end: window.date(),
        hour: window.hour_of_day(),
    };
    // A service may leave the hour out of its answer.
    let answered = receipt.answered.map(|answered| RangeRecord {
        hour: answered.hour.or(range.hour),
        ..answered
    });
    for (name, found) in [("asked", Some(receipt.asked)), ("answered", answered)] {
        if let Some(found) = found.filter(|found| *found != range) {
            return Some((
                format!("{name} {window}"),
                format!("{name} {}", format_range(found)),
            ));
        }
    }
    let (space, scope) = root.space_and_scope()?;
    if receipt.space != space {
        return Some((format!("space {space}"), format!("space {}", receipt.space)));
    }
    if receipt.scope.to_lowercase() != scope {
        return Some((format!("scope {scope}"), format!("scope {}", receipt.scope)));
    }
    None
}

fn format_range(range: RangeRecord) -> String {
    let RangeRecord { start, end, hour } = range;
    let hour = hour.map_or_else(String::new, |hour| format!(", hour {hour}"));
    format!("{start} to {end}{hour}")
}

/// Checks a receipt for values that an export never writes. Returns the expected and the actual value.
fn contradiction(window: Window, receipt: &Receipt) -> Option<(String, String)> {
    let differs = |expected: &str, found: String| Some((expected.to_owned(), found));
    match &receipt.object {
        None if receipt.uncounted.is_some() => differs(
            "no field uncounted without an object",
            "a field uncounted".to_owned(),
        ),
        None if receipt.events > 0 => {
            differs("0 events without an object", format!("{} events", receipt.events))
        }
        None if receipt.verdict != Verdict::Empty => differs(
            "verdict Empty without an object",
            format!("verdict {:?}", receipt.verdict),
        ),
        None => None,
        Some(object) if object.key != Key::Events(window).relative().unwrap_or_default() => Some((
            format!("object {}", Key::Events(window).relative().unwrap_or_default()),
            format!("object {}", object.key),
        )),
        Some(object) if object.sha256.parse::<Sha256Digest>().is_err() => differs(
            "64 hexadecimal digits of SHA-256",
            format!("\"{}\"", object.sha256),
        ),
        Some(_) => {
            if receipt.uncounted.is_some() {
                return (receipt.verdict != Verdict::Unknown).then(|| {
                    let found = format!("verdict {:?}", receipt.verdict);
                    (
                        "verdict Unknown of events that could not be counted".to_owned(),
                        found,
                    )
                });
            }
            let (before, after) = (receipt.reported_before, receipt.reported_after);
            let verdict = compare_counts(receipt.events, before, after);
            let fits = match (receipt.verdict, verdict) {
                // Fewer events than reported: `coverage` reports it.
                (_, Verdict::Short) => true,
                // Earlier versions wrote this for a count between the two reports.
                (Verdict::Matched, Verdict::Over) => before.is_some_and(|before| receipt.events <= before),
                (Verdict::Empty, _) => receipt.events == 0,
                (stated, verdict) => stated == verdict,
            };
            if fits {
                return None;
            }
            Some((
                format!("verdict {verdict:?} for these counts"),
                format!(
                    "verdict {:?} for {} events, reported {before:?} before and {after:?} after",
                    receipt.verdict, receipt.events
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        let digest = Sha256Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
        for text in ["", "ab", &"+f".repeat(32), &"ab".repeat(33)] {
            assert_eq!(text.parse::<Sha256Digest>(), Err(()), "{text}");
        }
    }
}
