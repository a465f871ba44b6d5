//! Checkpoint of a continuous export: a daily statement of the head of its chain, and of the receipts that no manifest
//! states yet. What disappears from the end of an archive is missed by it. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::finding::{Finding, FindingKind};
use super::layout::{ArchiveRoot, Key};
use super::manifest::document::{FileDigest, ROOT_ALGORITHM, RootDigest, root_digest};
use super::manifest::signature::SignatureStatus;
use super::records::{self, ArchiveRecord, RecordError};
use super::window::{HourSet, Window};
use crate::archive::stored_document::{Document, Receipts, SignedDocument};

/// Maximum number of windows in a checkpoint: the newest. 10,000 of at most 16 bytes each stay below the limit of a record.
pub const WINDOWS_MAX: usize = 10_000;

/// Maximum number of reported receipts that a checkpoint counts and that do not exist; of each checkpoint.
const MISSING_MAX: usize = 20;

/// Statement of a continuous export about its archive on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// `eventexport.io/checkpoint/v1`.
    pub schema: String,
    /// The space id.
    pub space: String,
    /// `Space` or `Account`.
    pub scope: String,
    /// The source endpoint.
    pub source: String,
    /// The UTC day on which it was written, as in the key.
    pub day: Date,
    /// The newest manifest; null if there is none.
    pub head: Option<CheckpointHead>,
    /// Windows with a receipt that no manifest states yet, in time order; at most the newest [`WINDOWS_MAX`].
    pub windows: Vec<String>,
    /// Events of these receipts.
    pub events: u64,
    /// Digest of these receipts, in the order of `windows`, as in a manifest.
    pub root: RootDigest,
    /// The checkpoint before; null for the first.
    pub previous: Option<FileDigest>,
    /// Id of the key that signs the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The bucket that it was written to; absent for a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The prefix in that bucket; absent for a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Time immediately before it was written, by the store's clock.
    pub written_at: Timestamp,
    /// Name and version of the software that wrote it.
    pub software: String,
}

/// The newest manifest, in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointHead {
    /// Number of the manifest.
    pub sequence: u64,
    /// SHA-256 of its bytes: 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl ArchiveRecord for Checkpoint {
    const SCHEMA: &'static str = "eventexport.io/checkpoint/v1";
    fn schema(&self) -> &str {
        &self.schema
    }
}

/// Parses the checkpoint of a day. Rejects another schema, and one of another day.
pub fn parse_checkpoint(key: &str, day: Date, bytes: &[u8]) -> Result<Checkpoint, RecordError> {
    let unreadable = |message: String| RecordError::Unreadable {
        key: key.to_owned(),
        schema: Checkpoint::SCHEMA,
        message,
    };
    let checkpoint: Checkpoint = records::decode(key, bytes)?;
    if checkpoint.day != day {
        return Err(unreadable(format!(
            "its day is {}, expected {day}",
            checkpoint.day
        )));
    }
    if checkpoint.root.algorithm != ROOT_ALGORITHM {
        return Err(unreadable("unknown algorithm of the root digest".to_owned()));
    }
    if checkpoint.windows.len() > WINDOWS_MAX {
        return Err(unreadable(format!("it has more than {WINDOWS_MAX} windows")));
    }
    Ok(checkpoint)
}

/// Returns the root digest of the receipts of windows, in time order.
pub fn receipts_root<'a>(receipts: impl IntoIterator<Item = (Window, &'a str)>) -> RootDigest {
    let receipts: Vec<FileDigest> = receipts
        .into_iter()
        .map(|(window, sha256)| FileDigest {
            key: Key::Receipt(window).relative().unwrap_or_default(),
            sha256: sha256.to_owned(),
        })
        .collect();
    root_digest(&receipts)
}

/// A checkpoint, with the status of its signature.
pub type SignedCheckpoint = (Document<Checkpoint>, SignatureStatus);

/// Documents that checkpoints refer to.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointEvidence<'a> {
    /// Manifests, by number.
    pub manifests: &'a BTreeMap<u64, SignedDocument>,
    /// Receipts, by window.
    pub receipts: &'a Receipts,
    /// Hours of the periods of valid manifests: these state the receipts, and supersede checkpoints.
    pub sealed: &'a HourSet,
    /// True if every checkpoint must be signed.
    pub require_signature: bool,
}

/// Result of the check of the checkpoints of a root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointAudit {
    /// Errors.
    pub findings: Vec<Finding>,
    /// Days without a checkpoint between two, and other remarks.
    pub remarks: Vec<Finding>,
    /// Existing checkpoints.
    pub checkpoints: u64,
    /// Checkpoints without an error.
    pub valid: u64,
    /// Day of the newest.
    pub newest: Option<Date>,
}

/// Checks all checkpoints of a root, from the newest to the oldest: a valid one proves the digest of the one before it.
pub fn validate(
    root: &ArchiveRoot,
    checkpoints: &BTreeMap<Date, SignedCheckpoint>,
    evidence: &CheckpointEvidence<'_>,
) -> CheckpointAudit {
    let mut audit = CheckpointAudit {
        checkpoints: checkpoints.len() as u64,
        newest: checkpoints.keys().next_back().copied(),
        ..CheckpointAudit::default()
    };
    let mut stated: Option<(Date, FileDigest)> = None;
    // Each missing file is reported once, by the newest checkpoint that refers to it.
    let mut reported = BTreeSet::new();
    for (day, (document, signature)) in checkpoints.iter().rev() {
        let key = full_key(root, &Key::Checkpoint(*day));
        let (mut findings, mut genuine) = (Vec::new(), *signature != SignatureStatus::Invalid);
        if let Some((later, expected)) = stated.take() {
            if relative_key(*day) != expected.key {
                findings.push(missing(root, &expected));
            } else if expected.sha256 != document.sha256 {
                genuine = false;
                findings.push(
                    Finding::new(FindingKind::CheckpointChanged, key.clone())
                        .expected(format!(
                            "sha256 {}, by the checkpoint of {later}",
                            expected.sha256
                        ))
                        .found(format!("sha256 {}", document.sha256)),
                );
            }
        }
        findings.extend(signature_finding(
            root,
            *day,
            *signature,
            evidence.require_signature,
        ));
        match &document.parsed {
            Err(error) => findings
                .push(Finding::new(FindingKind::CheckpointUnreadable, key.clone()).found(error.to_string())),
            Ok(checkpoint) => {
                findings.extend(checkpoint_findings(root, *day, checkpoint, evidence));
                audit.valid += u64::from(findings.is_empty());
                if genuine {
                    audit.remarks.extend(gap(root, *day, checkpoint));
                    stated = checkpoint.previous.clone().map(|previous| (*day, previous));
                }
            }
        }
        let of_checkpoint = |finding: &Finding| finding.key.starts_with(&key);
        findings.retain(|finding| of_checkpoint(finding) || reported.insert(finding.key.clone()));
        audit.findings.extend(findings);
    }
    audit
        .findings
        .extend(stated.map(|(_, expected)| missing(root, &expected)));
    audit
}

fn full_key(root: &ArchiveRoot, key: &Key) -> String {
    root.key(key).unwrap_or_default()
}

fn relative_key(day: Date) -> String {
    Key::Checkpoint(day).relative().unwrap_or_default()
}

fn missing(root: &ArchiveRoot, expected: &FileDigest) -> Finding {
    let key = format!("{}{}", root.as_str(), expected.key);
    Finding::new(FindingKind::CheckpointMissing, key).expected(format!("sha256 {}", expected.sha256))
}

fn signature_finding(
    root: &ArchiveRoot,
    day: Date,
    signature: SignatureStatus,
    required: bool,
) -> Option<Finding> {
    let key = full_key(root, &Key::CheckpointSignature(day));
    match signature {
        SignatureStatus::Absent if required => Some(
            Finding::new(
                FindingKind::SignatureMissing,
                full_key(root, &Key::Checkpoint(day)),
            )
            .expected("a signature of the checkpoint"),
        ),
        SignatureStatus::Invalid => Some(
            Finding::new(FindingKind::SignatureInvalid, key)
                .expected("a signature of the checkpoint by one of the given keys"),
        ),
        SignatureStatus::Absent | SignatureStatus::Unchecked | SignatureStatus::Valid => None,
    }
}

/// Checks what a checkpoint says about the archive: its head exists, and so do its receipts, as they were.
fn checkpoint_findings(
    root: &ArchiveRoot,
    day: Date,
    checkpoint: &Checkpoint,
    evidence: &CheckpointEvidence<'_>,
) -> Vec<Finding> {
    let key = full_key(root, &Key::Checkpoint(day));
    let mut findings = Vec::new();
    if let Some((space, scope)) = root.space_and_scope()
        && (checkpoint.space != space || !checkpoint.scope.eq_ignore_ascii_case(&scope))
    {
        findings.push(
            Finding::new(FindingKind::CheckpointInconsistent, key.clone())
                .expected(format!("{scope} {space}"))
                .found(format!("{} {}", checkpoint.scope, checkpoint.space)),
        );
    }
    if let Some(CheckpointHead { sequence, sha256 }) = &checkpoint.head {
        let manifest = full_key(root, &Key::Manifest(*sequence));
        let expected = format!("sha256 {sha256}, by the checkpoint of {day}");
        match evidence.manifests.get(sequence) {
            None => findings.push(Finding::new(FindingKind::ManifestMissing, manifest).expected(expected)),
            Some((document, _)) if document.sha256 != *sha256 => findings.push(
                Finding::new(FindingKind::ManifestChanged, manifest)
                    .expected(expected)
                    .found(format!("sha256 {}", document.sha256)),
            ),
            Some(_) => {}
        }
    }
    let windows: Option<Vec<Window>> = checkpoint.windows.iter().map(|text| text.parse().ok()).collect();
    let Some(windows) = windows.filter(|windows| windows.is_sorted_by(|one, two| one < two)) else {
        findings.push(
            Finding::new(FindingKind::CheckpointInconsistent, key)
                .found("windows that are not in time order"),
        );
        return findings;
    };
    // A manifest states the receipts of its period, and supersedes the checkpoint.
    if windows.iter().any(|window| evidence.sealed.intersects(*window)) {
        return findings;
    }
    let absent = windows
        .iter()
        .filter(|window| !evidence.receipts.contains_key(*window));
    let absent: Vec<Window> = absent.copied().collect();
    findings.extend(absent.iter().take(MISSING_MAX).map(|window| {
        Finding::new(
            FindingKind::ReceiptMissing,
            full_key(root, &Key::Receipt(*window)),
        )
        .with_window(*window)
        .expected(format!("a receipt, counted by the checkpoint of {day}"))
    }));
    if absent.is_empty() {
        let digests = windows
            .iter()
            .filter_map(|window| Some((*window, evidence.receipts.get(window)?.sha256.as_str())));
        let found = receipts_root(digests);
        if found != checkpoint.root {
            findings.push(
                Finding::new(FindingKind::CheckpointInconsistent, key)
                    .expected(format!(
                        "receipts with the root digest {}",
                        checkpoint.root.digest
                    ))
                    .found(format!("root digest {}", found.digest)),
            );
        }
    }
    findings
}

/// Returns a remark if days between a checkpoint and the one before it have none.
fn gap(root: &ArchiveRoot, day: Date, checkpoint: &Checkpoint) -> Option<Finding> {
    let previous = checkpoint.previous.as_ref()?;
    let Key::Checkpoint(before) = root.parse(&format!("{}{}", root.as_str(), previous.key)) else {
        return None;
    };
    let (first, last) = (before.tomorrow().ok()?, day.yesterday().ok()?);
    (first <= last).then(|| {
        Finding::new(FindingKind::CheckpointGap, full_key(root, &Key::Checkpoint(day)))
            .found(format!("no checkpoint from {first} to {last}"))
    })
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::records::encode;
    use crate::archive::stored_document::Receipts;

    fn root() -> ArchiveRoot {
        ArchiveRoot::new("p", "s", "space")
    }

    fn window(day: i8) -> Window {
        Window::day(date(2018, 6, day))
    }

    /// Receipt of a day, as far as checkpoints need it.
    fn receipt(day: i8) -> Document<crate::archive::records::Receipt> {
        Document {
            sha256: format!("{day:064}"),
            parsed: Err(RecordError::Archived { key: String::new() }),
        }
    }

    fn receipts(days: impl IntoIterator<Item = i8>) -> Receipts {
        days.into_iter().map(|day| (window(day), receipt(day))).collect()
    }

    /// Checkpoints of some days, each with the receipts up to the day before.
    fn checkpoints(days: &[i8], change: impl Fn(i8, &mut Checkpoint)) -> BTreeMap<Date, SignedCheckpoint> {
        let mut previous = None;
        let mut all = BTreeMap::new();
        for day in days {
            let known = receipts(1..*day);
            let digests = known
                .iter()
                .map(|(window, document)| (*window, document.sha256.as_str()));
            let mut checkpoint = Checkpoint {
                schema: Checkpoint::SCHEMA.to_owned(),
                space: "s".to_owned(),
                scope: "Space".to_owned(),
                source: "https://a".to_owned(),
                day: date(2018, 6, *day),
                head: None,
                windows: known.keys().map(ToString::to_string).collect(),
                events: 1,
                root: receipts_root(digests),
                previous: previous.take(),
                key_id: None,
                bucket: None,
                prefix: None,
                written_at: Timestamp::UNIX_EPOCH,
                software: "x".to_owned(),
            };
            change(*day, &mut checkpoint);
            let key = relative_key(checkpoint.day);
            let document = Document::new(&encode(&checkpoint), |bytes| {
                parse_checkpoint(&key, date(2018, 6, *day), bytes)
            });
            previous = Some(FileDigest {
                key,
                sha256: document.sha256.clone(),
            });
            all.insert(date(2018, 6, *day), (document, SignatureStatus::Valid));
        }
        all
    }

    fn kinds(
        checkpoints: &BTreeMap<Date, SignedCheckpoint>,
        receipts: &Receipts,
        sealed: &HourSet,
    ) -> (Vec<FindingKind>, Vec<FindingKind>) {
        let evidence = CheckpointEvidence {
            manifests: &BTreeMap::new(),
            receipts,
            sealed,
            require_signature: true,
        };
        let audit = validate(&root(), checkpoints, &evidence);
        let kinds = |findings: &[Finding]| findings.iter().map(|finding| finding.kind).collect();
        (kinds(&audit.findings), kinds(&audit.remarks))
    }

    #[test]
    fn what_disappears_is_missed_by_the_newest_checkpoint() {
        use FindingKind::{
            CheckpointChanged, CheckpointGap, CheckpointInconsistent, CheckpointMissing, ManifestMissing,
            ReceiptMissing, SignatureInvalid, SignatureMissing,
        };
        let none = HourSet::default();
        let all = checkpoints(&[4, 5, 6], |_, _| {});
        assert_eq!(kinds(&all, &receipts(1..9), &none), (vec![], vec![]));
        // The last receipt is gone: only the last checkpoint counted it.
        assert_eq!(kinds(&all, &receipts(1..5), &none).0, [ReceiptMissing]);
        // A manifest of the period supersedes checkpoints.
        let sealed: HourSet = [window(1)].into_iter().collect();
        assert_eq!(kinds(&all, &receipts(1..5), &sealed).0, []);
        // A receipt is another one: every checkpoint that counted it says so.
        let mut changed = receipts(1..9);
        changed.insert(window(5), receipt(7));
        assert_eq!(kinds(&all, &changed, &none).0, [CheckpointInconsistent]);
        // A checkpoint is gone, or another one.
        let mut fewer = all.clone();
        fewer.remove(&date(2018, 6, 5));
        assert_eq!(kinds(&fewer, &receipts(1..9), &none).0, [CheckpointMissing]);
        fewer.remove(&date(2018, 6, 4));
        assert_eq!(kinds(&fewer, &receipts(1..9), &none).0, [CheckpointMissing]);
        let mut other = all.clone();
        let edited = checkpoints(&[5], |_, checkpoint| checkpoint.events = 2);
        other.extend(edited);
        assert_eq!(kinds(&other, &receipts(1..9), &none).0, [CheckpointChanged]);
        // Its head.
        let head = checkpoints(&[5, 6], |_, checkpoint| {
            checkpoint.head = Some(CheckpointHead {
                sequence: 1,
                sha256: "0".repeat(64),
            });
        });
        assert_eq!(kinds(&head, &receipts(1..9), &none).0, [ManifestMissing]);
        // Days without one are a remark: the exporter may have been off.
        let gap = checkpoints(&[4, 7, 8], |_, _| {});
        assert_eq!(kinds(&gap, &receipts(1..9), &none), (vec![], vec![CheckpointGap]));
        for (status, kind) in [
            (SignatureStatus::Absent, SignatureMissing),
            (SignatureStatus::Invalid, SignatureInvalid),
        ] {
            let mut unsigned = all.clone();
            unsigned.get_mut(&date(2018, 6, 6)).unwrap().1 = status;
            assert_eq!(kinds(&unsigned, &receipts(1..9), &none).0, [kind]);
        }
    }

    #[test]
    fn a_checkpoint_of_another_day_or_place_is_rejected() {
        use FindingKind::{CheckpointInconsistent, CheckpointUnreadable};
        let none = HourSet::default();
        let moved = checkpoints(&[6], |_, checkpoint| checkpoint.day = date(2018, 6, 7));
        assert_eq!(kinds(&moved, &receipts(1..9), &none).0, [CheckpointUnreadable]);
        let foreign = checkpoints(&[6], |_, checkpoint| "t".clone_into(&mut checkpoint.space));
        assert_eq!(
            kinds(&foreign, &receipts(1..9), &none).0,
            [CheckpointInconsistent]
        );
        let unordered = checkpoints(&[6], |_, checkpoint| checkpoint.windows.reverse());
        assert_eq!(
            kinds(&unordered, &receipts(1..9), &none).0,
            [CheckpointInconsistent]
        );
    }
}
