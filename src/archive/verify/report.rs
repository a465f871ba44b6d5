//! Result of a verification, for text and JSON output. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::attestation::AttestationTotals;
use super::observation::CheckMethod;
use crate::api::human;
use crate::archive::calendar::Calendar;
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::manifest::Head;
use crate::archive::manifest::signature::SignatureStatus;
use crate::archive::range::RangeBasis;
use crate::archive::records::RangeRecord;
use crate::archive::window::Window;

/// Result of the verification of an archive.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// One report for each space and scope.
    pub roots: Vec<RootReport>,
    /// Findings outside of all roots.
    pub findings: Vec<Finding>,
}

/// Result for one space and scope.
#[derive(Clone, Debug)]
pub struct RootReport {
    /// The prefix of its keys.
    pub root: String,
    /// The space id, if the root's name contains it.
    pub space: Option<String>,
    /// `space` or `account`, if the root's name contains it.
    pub scope: Option<String>,
    /// Endpoints in the receipts.
    pub sources: BTreeSet<String>,
    /// Errors and remarks.
    pub findings: Vec<Finding>,
    /// Origin of the expected range.
    pub basis: RangeBasis,
    /// Expected windows, merged.
    pub wanted: Vec<String>,
    /// Expected windows that are not covered, merged.
    pub missing: Vec<String>,
    /// Accepted gaps, merged.
    pub accepted: Vec<String>,
    /// Windows, expected or with data, that are not proved.
    pub uncovered: Vec<UncoveredWindow>,
    /// Sums.
    pub totals: RootTotals,
    /// The chain of manifests.
    pub manifests: ManifestTotals,
    /// Windows by their attestation; `None`: no key was given.
    pub attested: Option<AttestationTotals>,
    /// Checked objects.
    pub objects: Vec<CheckedObject>,
    /// Expected days, with the events of receipts without an error.
    pub calendar: Calendar,
    /// Reason of each accepted day that a manifest states.
    pub gap_reasons: BTreeMap<Date, String>,
    /// Manifests, by number.
    pub chain: Vec<ManifestRow>,
    /// Time at which the newest receipt or manifest was stored, by the store's clock.
    pub newest: Option<Timestamp>,
}

/// A manifest of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRow {
    /// Its number.
    pub sequence: u64,
    /// SHA-256 of its bytes, hexadecimal digits.
    pub sha256: String,
    /// True if it has no error.
    pub valid: bool,
    /// Its signature, as far as it was checked.
    pub signature: SignatureStatus,
    /// Its statement; `None`: it cannot be read.
    pub statement: Option<ManifestStatement>,
}

/// Statement of a manifest in brief.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestStatement {
    /// The period.
    pub period: RangeRecord,
    /// Events of the period.
    pub events: u64,
    /// Time of writing, by the store's clock.
    pub written_at: Timestamp,
    /// Id of the key that signs it, as it states.
    pub key_id: Option<String>,
}

/// A window that is not proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncoveredWindow {
    /// The window.
    pub window: Window,
    /// The state that every command shows or, if only the bytes or the manifests contradict it, the kind of a finding.
    pub state: String,
    /// Explanation of damage.
    pub message: Option<String>,
}

/// A checked object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedObject {
    /// The full key.
    pub key: String,
    /// Window of its events.
    pub window: Window,
    /// Method of the check.
    pub method: CheckMethod,
    /// Size in bytes.
    pub bytes: u64,
    /// True if it has no error.
    pub proved: bool,
}

/// Sums over a root. Only what was proved is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootTotals {
    /// Windows with a valid receipt and, unless they are empty, an object without an error.
    pub windows: u64,
    /// Empty windows among them.
    pub empty: u64,
    /// Expected objects, whether they are there or not.
    pub objects: u64,
    /// Objects without an error.
    pub proved: u64,
    /// Events of the windows.
    pub events: u64,
    /// Those that came after the first receipts.
    pub late: u64,
    /// Size of the objects without an error, in bytes.
    pub bytes: u64,
    /// Their size after decompression, in bytes.
    pub decompressed: u64,
}

/// The chain of manifests in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestTotals {
    /// Existing manifests.
    pub manifests: u64,
    /// Manifests without an error.
    pub valid: u64,
    /// Existing signatures.
    pub signatures: u64,
    /// Signatures that one of the given keys verifies.
    pub verified: u64,
    /// The newest manifest, if it is valid.
    pub head: Option<Head>,
    /// Receipts that no manifest lists.
    pub receipts_not_in_manifest: u64,
}

impl VerifyReport {
    /// Adds a finding if there is no error, but nothing to prove either: no archive, or no receipt in the range.
    #[must_use]
    pub fn conclude(mut self, prefix: &str) -> Self {
        let windows: u64 = self.roots.iter().map(|root| root.totals.windows).sum();
        if windows == 0 && self.is_proved() {
            let found = if self.roots.is_empty() {
                "no archive found: no receipts, objects or manifests"
            } else {
                "no receipt in the range"
            };
            let nothing = Finding::new(FindingKind::NothingToProve, prefix);
            self.findings.push(nothing.expected("a receipt").found(found));
        }
        self
    }

    /// Returns true if the only errors are objects that could not be read: neither proved nor refuted.
    pub fn is_unchecked(&self) -> bool {
        let mut errors = self
            .all()
            .into_iter()
            .filter(|finding| finding.kind.is_error())
            .peekable();
        let unread = |kind| matches!(kind, FindingKind::ObjectUnreadable | FindingKind::ObjectArchived);
        errors.peek().is_some() && errors.all(|finding| unread(finding.kind))
    }

    /// Returns all findings: errors before remarks, then in the order of keys.
    pub fn all(&self) -> Vec<&Finding> {
        let roots = self.roots.iter().flat_map(|root| &root.findings);
        let mut all: Vec<&Finding> = self.findings.iter().chain(roots).collect();
        all.sort_by_key(|finding| !finding.kind.is_error());
        all
    }

    /// Returns true if there is no error.
    pub fn is_proved(&self) -> bool {
        self.all().iter().all(|finding| !finding.kind.is_error())
    }

    /// Returns the JSON output, without the fields that the command adds. `quick`: the objects were not read, which proves
    /// nothing.
    pub fn json(&self, quick: bool) -> Value {
        let (errors, remarks): (Vec<&Finding>, Vec<&Finding>) = self
            .all()
            .into_iter()
            .partition(|finding| finding.kind.is_error());
        json!({
            "passed": errors.is_empty(),
            "proved": errors.is_empty() && !quick,
            "findings": errors.iter().map(|finding| finding.json()).collect::<Vec<_>>(),
            "remarks": remarks.iter().map(|finding| finding.json()).collect::<Vec<_>>(),
            "roots": self.roots.iter().map(RootReport::json).collect::<Vec<_>>(),
        })
    }
}

impl ManifestTotals {
    /// Describes the chain.
    pub fn describe(&self) -> String {
        if self.manifests == 0 {
            return "none".to_owned();
        }
        let verified = match (self.signatures, self.verified) {
            (0, _) => "not signed".to_owned(),
            (all, 0) => format!("{}, not verified", human::plural(all, "signature")),
            (all, verified) => format!(
                "{} of {} verified",
                human::count(verified),
                human::plural(all, "signature")
            ),
        };
        format!(
            "{} of {} valid, {verified}",
            human::count(self.valid),
            human::count(self.manifests)
        )
    }
}

/// Describes numbers of objects by method of the check.
pub fn describe_checks(methods: &BTreeMap<CheckMethod, u64>) -> String {
    if methods.is_empty() {
        return "none".to_owned();
    }
    let methods = methods
        .iter()
        .map(|(method, count)| format!("{} {}", human::count(*count), method.description()));
    methods.collect::<Vec<_>>().join(", ")
}

impl RootReport {
    /// Counts objects by method of the check.
    pub fn check_methods(&self) -> BTreeMap<CheckMethod, u64> {
        let mut methods = BTreeMap::new();
        for object in &self.objects {
            *methods.entry(object.method).or_default() += 1;
        }
        methods
    }

    /// Returns the numbers of objects by method of the check, as JSON output has them.
    pub fn check_methods_json(&self) -> Value {
        let methods = self.check_methods().into_iter();
        methods
            .map(|(method, count)| (method.as_str().to_owned(), count.into()))
            .collect::<serde_json::Map<String, Value>>()
            .into()
    }

    /// Describes the numbers of objects by method of the check.
    pub fn describe_checks(&self) -> String {
        describe_checks(&self.check_methods())
    }

    /// Describes the attestation of the windows.
    pub fn describe_attestation(&self) -> String {
        self.attested.map_or_else(
            || "not checked: whoever can write there can have written it; pass --public-key FILE".to_owned(),
            |attested| {
                format!(
                    "by signed manifests: {}; by signed receipts: {}; by receipts alone: {}",
                    human::plural(attested.signed_manifests, "window"),
                    human::count(attested.signed_receipts),
                    human::count(attested.receipts_alone)
                )
            },
        )
    }

    fn json(&self) -> Value {
        let objects: Vec<Value> = self
            .objects
            .iter()
            .map(|object| {
                json!({
                    "key": object.key,
                    "window": object.window.to_string(),
                    "bytes": object.bytes,
                    "checkedBy": object.method.as_str(),
                    "proved": object.proved,
                })
            })
            .collect();
        json!({
            "root": self.root,
            "space": self.space,
            "scope": self.scope,
            "sources": self.sources,
            "range": {
                "from": self.basis.as_str(),
                "wanted": self.wanted,
                "missing": self.missing,
                "acceptedGaps": self.accepted,
            },
            "uncovered": self.uncovered.iter().map(|one| json!({
                "window": one.window.to_string(), "state": one.state, "message": one.message,
            })).collect::<Vec<_>>(),
            "totals": {
                "windows": self.totals.windows,
                "empty": self.totals.empty,
                "objects": self.totals.objects,
                "proved": self.totals.proved,
                "events": self.totals.events,
                "lateEvents": self.totals.late,
                "bytes": self.totals.bytes,
                "decompressedBytes": self.totals.decompressed,
            },
            "manifests": {
                "manifests": self.manifests.manifests,
                "valid": self.manifests.valid,
                "signatures": self.manifests.signatures,
                "verified": self.manifests.verified,
                "head": self.manifests.head.as_ref().map(Head::to_string),
                "receiptsOutsideManifests": self.manifests.receipts_not_in_manifest,
            },
            "attested": self.attested.map(AttestationTotals::json),
            "checkedBy": self.check_methods_json(),
            "objects": objects,
        })
    }
}
