//! What was found out of an archive, for people's and programs' words. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::coverage::RangeBasis;
use super::finding::Finding;
use super::observation::CheckMethod;
use crate::export::window::Window;

/// What was found out of an archive.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// By space and scope.
    pub roots: Vec<RootReport>,
    /// What concerns no root.
    pub findings: Vec<Finding>,
}

/// What was found out of one space and scope.
#[derive(Clone, Debug)]
pub struct RootReport {
    /// The prefix of its keys.
    pub root: String,
    /// The space id, where the root's name tells it.
    pub space: Option<String>,
    /// `space` or `account`, where the root's name tells it.
    pub scope: Option<String>,
    /// Endpoints that receipts name.
    pub sources: BTreeSet<String>,
    /// What is wrong, and remarks.
    pub findings: Vec<Finding>,
    /// Where the range comes from.
    pub basis: RangeBasis,
    /// What should be covered, merged.
    pub wanted: Vec<String>,
    /// What of it is not, merged.
    pub missing: Vec<String>,
    /// What a person accepted as missing, merged.
    pub accepted: Vec<String>,
    /// Sums.
    pub totals: RootTotals,
    /// The chain of manifests.
    pub manifests: ManifestTotals,
    /// Each object that was looked at.
    pub objects: Vec<CheckedObject>,
}

/// An object that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedObject {
    /// The full key.
    pub key: String,
    /// Whose events.
    pub window: Window,
    /// By which means.
    pub method: CheckMethod,
    /// Bytes.
    pub bytes: u64,
    /// Whether nothing is wrong with it.
    pub good: bool,
}

/// Sums over a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootTotals {
    /// Receipts that are as they should be.
    pub windows: u64,
    /// Of these, windows that were proved empty.
    pub empty: u64,
    /// Objects that must be there.
    pub objects: u64,
    /// Of these, objects that nothing is wrong with.
    pub good: u64,
    /// Events that the receipts name.
    pub events: u64,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Bytes after decompression that the receipts name.
    pub decompressed: u64,
}

/// The chain of manifests in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManifestTotals {
    /// That are there.
    pub manifests: u64,
    /// That nothing is wrong with.
    pub valid: u64,
    /// Signatures that are there.
    pub signatures: u64,
    /// Signatures that one of the given keys verifies.
    pub verified: u64,
    /// Receipts that no manifest names.
    pub receipts_not_in_manifest: u64,
}

impl VerifyReport {
    /// Everything that was found, what is wrong before remarks, else in the order of keys.
    pub fn all(&self) -> Vec<&Finding> {
        let roots = self.roots.iter().flat_map(|root| &root.findings);
        let mut all: Vec<&Finding> = self.findings.iter().chain(roots).collect();
        all.sort_by_key(|finding| !finding.kind.is_error());
        all
    }

    /// Whether nothing is wrong.
    pub fn is_proved(&self) -> bool {
        self.all().iter().all(|finding| !finding.kind.is_error())
    }

    /// As programs read it, without what the command adds.
    pub fn json(&self) -> Value {
        let (wrong, remarks): (Vec<&Finding>, Vec<&Finding>) = self
            .all()
            .into_iter()
            .partition(|finding| finding.kind.is_error());
        json!({
            "proved": wrong.is_empty(),
            "findings": wrong.iter().map(|finding| finding.json()).collect::<Vec<_>>(),
            "remarks": remarks.iter().map(|finding| finding.json()).collect::<Vec<_>>(),
            "roots": self.roots.iter().map(RootReport::json).collect::<Vec<_>>(),
        })
    }
}

impl RootReport {
    /// Objects by the means by which they were checked.
    pub fn check_methods(&self) -> BTreeMap<CheckMethod, u64> {
        let mut methods = BTreeMap::new();
        for object in &self.objects {
            *methods.entry(object.method).or_default() += 1;
        }
        methods
    }

    fn json(&self) -> Value {
        let methods: serde_json::Map<String, Value> = self
            .check_methods()
            .into_iter()
            .map(|(method, count)| (method.as_str().to_owned(), count.into()))
            .collect();
        let objects: Vec<Value> = self
            .objects
            .iter()
            .map(|object| {
                json!({
                    "key": object.key,
                    "window": object.window.to_string(),
                    "bytes": object.bytes,
                    "checkedBy": object.method.as_str(),
                    "good": object.good,
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
            "totals": {
                "windows": self.totals.windows,
                "empty": self.totals.empty,
                "objects": self.totals.objects,
                "good": self.totals.good,
                "events": self.totals.events,
                "bytes": self.totals.bytes,
                "decompressedBytes": self.totals.decompressed,
            },
            "manifests": {
                "manifests": self.manifests.manifests,
                "sound": self.manifests.valid,
                "signatures": self.manifests.signatures,
                "verified": self.manifests.verified,
                "receiptsNotInOne": self.manifests.receipts_not_in_manifest,
            },
            "checkedBy": methods,
            "objects": objects,
        })
    }
}
