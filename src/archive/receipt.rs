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
    /// Number of the highest revision; 0: the first receipt.
    pub revision: u32,
    /// Events that came after the first receipt.
    pub late_events: u64,
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
    /// Later revisions, oldest first, numbered from 1. The last one that lacks no stored events counts.
    pub revisions: Vec<RevisionFacts>,
}

/// Facts of the receipt of a later revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionFacts {
    /// Number of the revision.
    pub revision: u32,
    /// Number of the revision that stored the object of the receipt: the same, or an earlier one if only the service's
    /// count is new.
    pub object: u32,
    /// For an hour: events that the service reported for its day.
    pub day_reported: Option<u64>,
    /// Time at which the object was stored, by the store's clock.
    pub stored_at: Timestamp,
    /// Facts of the full body.
    pub summary: WindowFacts,
    /// Facts for the manifest.
    pub proof: ReceiptProof,
    /// Events that no earlier revision has.
    pub supplement: Option<SupplementFacts>,
    /// Number of stored events that the body lacks. Unless it is 0, the revision does not count.
    pub missing_events: u64,
}

/// A stored supplement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupplementFacts {
    /// Bytes as stored.
    pub bytes: u64,
    /// Number of its events.
    pub events: u64,
    /// SHA-256 of the bytes.
    pub sha256: Sha256Digest,
    /// Version of the object, if the bucket keeps versions.
    pub version_id: Option<Box<str>>,
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

/// Returns the key of the receipt of a revision; 0: the first receipt.
pub const fn receipt_key(window: Window, revision: u32) -> Key {
    match revision {
        0 => Key::Receipt(window),
        revision => Key::RevisionReceipt(window, revision),
    }
}

/// Returns the key of the full body of a revision; 0: the first object.
pub const fn body_key(window: Window, revision: u32) -> Key {
    match revision {
        0 => Key::Events(window),
        revision => Key::Revision(window, revision),
    }
}

/// Reads the bytes of the receipt of a revision; 0: the first receipt. Rejects one that does not describe the window of
/// its key, or that contradicts itself.
pub fn read_receipt(
    root: &ArchiveRoot,
    window: Window,
    revision: u32,
    bytes: &[u8],
) -> Result<Receipt, RecordError> {
    let key = root.key(&receipt_key(window, revision)).unwrap_or_default();
    let receipt: Receipt = records::decode(&key, bytes)?;
    let clean = |text: String| sanitize(&text).into_owned();
    if let Some((expected, found)) = misplaced(root, window, revision, &receipt) {
        return Err(RecordError::Misplaced {
            key,
            expected,
            found: clean(found),
        });
    }
    if let Some((expected, found)) = contradiction(window, revision, &receipt) {
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
            revision: receipt.revision,
            late_events: 0,
        };
        Self {
            source: receipt.source.as_str().into(),
            day_reported: receipt.reported_of_day,
            stored_at: receipt.stored_at,
            summary,
            proof,
            revisions: Vec::new(),
        }
    }

    /// Returns the bytes that the facts have beyond those of a receipt without version and later revisions.
    pub(super) fn extra_bytes(&self) -> u64 {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len() as u64);
        let reason = |facts: &WindowFacts| {
            facts
                .uncounted
                .as_ref()
                .map_or(0, |record| record.reason.len() as u64)
        };
        let later = self.revisions.iter().map(|later| {
            let supplement = later.supplement.as_ref();
            size_of::<RevisionFacts>() as u64
                + text(&later.proof.version_id)
                + reason(&later.summary)
                + supplement.map_or(0, |supplement| text(&supplement.version_id))
        });
        text(&self.proof.version_id) + reason(&self.summary) + later.sum::<u64>()
    }

    /// Returns the later revision that counts; `None` if the first receipt does.
    pub fn current_revision(&self) -> Option<&RevisionFacts> {
        self.revisions.iter().rfind(|later| later.missing_events == 0)
    }

    /// Returns the facts of the revision that counts.
    pub fn current(&self) -> &WindowFacts {
        self.current_revision()
            .map_or(&self.summary, |current| &current.summary)
    }

    /// Returns the facts for the manifest of the revision that counts.
    pub fn current_proof(&self) -> &ReceiptProof {
        self.current_revision()
            .map_or(&self.proof, |current| &current.proof)
    }

    /// Returns the number of the highest revision, whether it counts or not.
    pub fn highest_revision(&self) -> u32 {
        self.revisions.last().map_or(0, |last| last.revision)
    }

    /// Returns the number of the revision that stored the object of the revision that counts.
    pub fn current_object(&self) -> u32 {
        self.current_revision().map_or(0, |current| current.object)
    }

    /// Returns the time at which the revision that counts was stored, by the store's clock.
    pub fn current_stored_at(&self) -> Timestamp {
        self.current_revision()
            .map_or(self.stored_at, |current| current.stored_at)
    }

    /// Returns the last revision if it does not count: its body lacks stored events.
    pub fn changed_revision(&self) -> Option<&RevisionFacts> {
        self.revisions.last().filter(|last| last.missing_events > 0)
    }

    /// For an hour: returns the highest count of its day that any revision states.
    pub fn current_day_reported(&self) -> Option<u64> {
        let later = self.revisions.iter().map(|later| later.day_reported);
        later.fold(self.day_reported, Option::max)
    }

    /// Returns the events that came after the first receipt.
    pub fn late_events(&self) -> u64 {
        let supplements = self
            .revisions
            .iter()
            .filter_map(|later| later.supplement.as_ref());
        supplements.fold(0, |sum, supplement| sum.saturating_add(supplement.events))
    }

    /// Returns the size of all objects with events that readers see: the first one and the supplements.
    pub fn stored_bytes(&self) -> u64 {
        let supplements = self
            .revisions
            .iter()
            .filter_map(|later| later.supplement.as_ref());
        supplements.fold(self.summary.bytes, |sum, supplement| {
            sum.saturating_add(supplement.bytes)
        })
    }

    /// Returns the facts for status and reports: those of the revision that counts, with the size of all objects that readers
    /// see.
    pub fn reported_facts(&self) -> WindowFacts {
        WindowFacts {
            bytes: self.stored_bytes(),
            late_events: self.late_events(),
            ..self.current().clone()
        }
    }

    /// Adds the receipt of the next revision. `sha256`: digest of its stored bytes. Returns the expected and the actual
    /// value if it does not continue the earlier ones.
    pub fn add_revision(
        &mut self,
        window: Window,
        receipt: &Receipt,
        sha256: Sha256Digest,
    ) -> Result<(), (String, String)> {
        let next = self.highest_revision() + 1;
        if receipt.revision != next {
            return Err((
                format!("revision {next}"),
                format!("revision {}", receipt.revision),
            ));
        }
        if *self.source != *receipt.source {
            return Err((
                format!("source {}", self.source),
                format!("source {}", receipt.source),
            ));
        }
        let late = receipt.supplement_events.unwrap_or(0);
        let stored = self.current().events;
        match receipt.missing_events {
            Some(missing) if missing > stored => {
                return Err((
                    format!("at most {stored} missingEvents: those that are stored"),
                    format!("{missing} missingEvents"),
                ));
            }
            None if receipt.events != stored.saturating_add(late) => {
                return Err((
                    format!(
                        "{} events: those that are stored and the supplement",
                        stored.saturating_add(late)
                    ),
                    format!("{} events", receipt.events),
                ));
            }
            Some(_) | None => {}
        }
        let key = receipt.object.as_ref().map(|object| object.key.as_str());
        let own = Key::Revision(window, next).relative();
        let object = if key == own.as_deref() {
            next
        } else {
            self.current_object()
        };
        let facts = Self::new(receipt, sha256);
        if object != next && (late > 0 || facts.summary.sha256 != self.current().sha256) {
            return Err((
                format!("the object of revision {next} or {object}"),
                format!("object {}", key.unwrap_or_default()),
            ));
        }
        let supplement = receipt.supplement.as_ref().map(|supplement| SupplementFacts {
            bytes: supplement.bytes,
            events: late,
            sha256: supplement.sha256.parse().unwrap_or_default(),
            version_id: supplement.version_id.as_deref().map(Into::into),
        });
        self.revisions.push(RevisionFacts {
            revision: next,
            object,
            day_reported: facts.day_reported,
            stored_at: facts.stored_at,
            summary: facts.summary,
            proof: facts.proof,
            supplement,
            missing_events: receipt.missing_events.unwrap_or(0),
        });
        Ok(())
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
                revision: 0,
                late_events: 0,
            },
            proof: ReceiptProof {
                sha256: entry.receipt.sha256.parse().ok()?,
                reported_before: entry.reported_before,
                reported_after: entry.reported_after,
                decompressed_bytes: entry.decompressed_bytes,
                version_id: object.and_then(|object| object.version_id.as_deref().map(Into::into)),
            },
            revisions: Vec::new(),
        })
    }
}

/// Compares a receipt with its key. Returns the expected and the actual value if they differ.
fn misplaced(
    root: &ArchiveRoot,
    window: Window,
    revision: u32,
    receipt: &Receipt,
) -> Option<(String, String)> {
    if revision > 0 && receipt.revision != revision {
        return Some((
            format!("revision {revision}"),
            format!("revision {}", receipt.revision),
        ));
    }
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
fn contradiction(window: Window, revision: u32, receipt: &Receipt) -> Option<(String, String)> {
    let differs = |expected: &str, found: String| Some((expected.to_owned(), found));
    if let Some((expected, found)) = missing_contradiction(window, revision, receipt) {
        return Some((expected, found));
    }
    if let Some((expected, found)) = supplement_contradiction(window, revision, receipt) {
        return Some((expected, found));
    }
    match &receipt.object {
        None if revision > 0 => differs("an object in the receipt of a later revision", "none".to_owned()),
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
        Some(object) if !is_body_key(window, revision, &object.key) => {
            let own = body_key(window, revision).relative().unwrap_or_default();
            Some((format!("object {own}"), format!("object {}", object.key)))
        }
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
                    "verdict {:?} for {} events, reported {} before and {} after",
                    receipt.verdict,
                    receipt.events,
                    format_count(before),
                    format_count(after)
                ),
            ))
        }
    }
}

fn format_count(count: Option<u64>) -> String {
    count.map_or_else(|| "none".to_owned(), |count| count.to_string())
}

/// Returns true if a key is that of the body of a revision, or of an earlier one: a revision may only state a new count.
fn is_body_key(window: Window, revision: u32, key: &str) -> bool {
    match ArchiveRoot::from_prefix("").parse(key) {
        Key::Events(other) => other == window,
        Key::Revision(other, earlier) => other == window && earlier <= revision,
        _ => false,
    }
}

/// Checks the receipt of a body that lacks stored events. Returns the expected and the actual value.
fn missing_contradiction(window: Window, revision: u32, receipt: &Receipt) -> Option<(String, String)> {
    let missing = receipt.missing_events?;
    let own = Key::Revision(window, revision).relative();
    let key = receipt.object.as_ref().map(|object| &object.key);
    let fits = revision > 0 && missing > 0 && receipt.supplement.is_none() && key == own.as_ref();
    (!fits).then(|| {
        (
            "missingEvents only with the body of a later revision, without a supplement".to_owned(),
            format!("{missing} missingEvents"),
        )
    })
}

/// Checks the supplement of a receipt. Returns the expected and the actual value.
fn supplement_contradiction(window: Window, revision: u32, receipt: &Receipt) -> Option<(String, String)> {
    let events = receipt.supplement_events.unwrap_or(0);
    let Some(supplement) = &receipt.supplement else {
        return (events > 0).then(|| {
            (
                "0 supplementEvents without a supplement".to_owned(),
                format!("{events} supplementEvents"),
            )
        });
    };
    let key = Key::Supplement(window, revision).relative();
    let key = key
        .filter(|_| revision > 0)
        .unwrap_or_else(|| "nothing".to_owned());
    if supplement.key != key {
        return Some((
            format!("supplement {key}"),
            format!("supplement {}", supplement.key),
        ));
    }
    if supplement.sha256.parse::<Sha256Digest>().is_err() {
        return Some((
            "64 hexadecimal digits of SHA-256".to_owned(),
            format!("\"{}\"", supplement.sha256),
        ));
    }
    (events == 0).then(|| {
        (
            "supplementEvents with a supplement".to_owned(),
            "0 supplementEvents".to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::records::ObjectRecord;

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        let digest = Sha256Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
        for text in ["", "ab", &"+f".repeat(32), &"ab".repeat(33)] {
            assert_eq!(text.parse::<Sha256Digest>(), Err(()), "{text}");
        }
    }

    /// The receipt of a revision of 15 June: 240 events and 7 more in each revision.
    fn revision(number: u32) -> Receipt {
        let day = jiff::civil::date(2018, 6, 15);
        let window = Window::day(day);
        let object = |key: Key| ObjectRecord {
            key: key.relative().unwrap(),
            version_id: None,
            bytes: 50,
            sha256: Sha256Digest::of(&number.to_be_bytes()).to_string(),
            crc64nvme: "0".repeat(16),
            gzip_members: 1,
            decompressed_bytes: 500,
        };
        let range = RangeRecord {
            start: day,
            end: day,
            hour: None,
        };
        let events = 240 + 7 * u64::from(number);
        Receipt {
            schema: "eventexport.io/receipt/v1".to_owned(),
            window: window.to_string(),
            scope: "Space".to_owned(),
            space: "s".to_owned(),
            source: "https://a".to_owned(),
            tracker_user: None,
            session_id: "id".to_owned(),
            asked: range,
            answered: Some(range),
            object: Some(object(body_key(window, number))),
            empty_answer: None,
            events,
            uncounted: None,
            reported_before: None,
            reported_after: Some(events),
            reported_of_day: None,
            verdict: Verdict::Matched,
            transfer_end: None,
            resumes: 0,
            revision: number,
            supplement: (number > 0).then(|| object(Key::Supplement(window, number))),
            supplement_events: (number > 0).then_some(7),
            missing_events: None,
            started_at: Timestamp::UNIX_EPOCH,
            stored_at: Timestamp::UNIX_EPOCH,
            software: "test".to_owned(),
        }
    }

    #[test]
    fn a_receipt_of_a_revision_describes_its_key_and_continues_those_before() {
        type Edit = fn(&mut Receipt);
        let root = ArchiveRoot::new("", "s", "space");
        let window = Window::day(jiff::civil::date(2018, 6, 15));
        let read = |receipt: &Receipt, number| {
            read_receipt(&root, window, number, &records::encode(receipt)).map(drop)
        };
        assert_eq!(read(&revision(0), 0), Ok(()));
        assert_eq!(read(&revision(2), 2), Ok(()));
        assert!(read(&revision(2), 1).is_err(), "copied from another key");
        assert!(
            read(&revision(0), 1).is_err(),
            "the first receipt under a later key"
        );
        let wrong: [(&str, Edit); 8] = [
            ("no object", |r| r.object = None),
            ("stored events that are missing, and late ones", |r| {
                r.missing_events = Some(1);
            }),
            ("no missing events", |r| {
                (r.supplement, r.supplement_events, r.missing_events) = (None, None, Some(0));
            }),
            ("the body of a later revision", |r| {
                r.object.as_mut().unwrap().key = "_revisions/2018-06-15/3/events.json.gz".to_owned();
            }),
            ("the body of another day", |r| {
                r.object.as_mut().unwrap().key = "_revisions/2018-06-16/2/events.json.gz".to_owned();
            }),
            ("the supplement of another revision", |r| {
                r.supplement.as_mut().unwrap().key = "date=2018-06-15/events-r1.json.gz".to_owned();
            }),
            ("events without a supplement", |r| r.supplement = None),
            ("a supplement without events", |r| r.supplement_events = None),
        ];
        for (name, edit) in wrong {
            let mut receipt = revision(2);
            edit(&mut receipt);
            assert!(read(&receipt, 2).is_err(), "{name}");
        }

        let facts = || ReceiptFacts::new(&revision(0), Sha256Digest::default());
        let mut both = facts();
        for number in [1, 2] {
            assert_eq!(
                both.add_revision(window, &revision(number), Sha256Digest::default()),
                Ok(())
            );
        }
        assert_eq!((both.current().events, both.late_events()), (254, 14));
        assert_eq!((both.highest_revision(), both.stored_bytes()), (2, 150));

        // A body that lacks stored events is kept and does not count; the next one follows on the one before it.
        let mut changed = revision(1);
        (changed.supplement, changed.supplement_events) = (None, None);
        (changed.missing_events, changed.events) = (Some(3), 299);
        (changed.reported_after, changed.verdict) = (Some(299), Verdict::Matched);
        assert_eq!(read(&changed, 1), Ok(()));
        let mut with_changed = facts();
        let digest = Sha256Digest::default();
        assert_eq!(with_changed.add_revision(window, &changed, digest), Ok(()));
        let kept = |facts: &ReceiptFacts| facts.changed_revision().map(|last| last.missing_events);
        assert_eq!(kept(&with_changed), Some(3));
        assert_eq!(
            (with_changed.current().events, with_changed.current_object()),
            (240, 0)
        );
        assert_eq!(
            (with_changed.highest_revision(), with_changed.stored_bytes()),
            (1, 50)
        );
        let mut next = revision(2);
        (next.events, next.reported_after) = (247, Some(247));
        assert_eq!(with_changed.add_revision(window, &next, digest), Ok(()));
        assert_eq!(
            (with_changed.current().events, with_changed.current_object()),
            (247, 2)
        );
        assert_eq!(kept(&with_changed), None);

        let broken: [(&str, u32, Edit); 5] = [
            ("more missing events than are stored", 1, |r| {
                (r.supplement, r.supplement_events, r.missing_events) = (None, None, Some(241));
            }),
            ("a hole", 2, |_| {}),
            ("another source", 1, |r| r.source = "https://b".to_owned()),
            ("events that do not add up", 1, |r| r.events = 248),
            ("an earlier body of other bytes", 1, |r| {
                r.object.as_mut().unwrap().key = "date=2018-06-15/events.json.gz".to_owned();
            }),
        ];
        for (name, number, edit) in broken {
            let mut receipt = revision(number);
            edit(&mut receipt);
            let mut facts = facts();
            let added = facts.add_revision(window, &receipt, Sha256Digest::default());
            assert!(added.is_err() && facts.revisions.is_empty(), "{name}");
        }
    }
}
