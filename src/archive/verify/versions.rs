//! Versions of the evidence in a bucket that keeps them: each key must have one, the one that its receipt states. No I/O.
//!
//! Object lock keeps versions, not what a read returns: anyone who may write can put another version over a locked one, or
//! a marker of its deletion.

use std::collections::BTreeMap;

use super::contents::RootContents;
use super::options::VerifyOptions;
use super::recheck::RootReading;
use crate::archive::finding::{Finding, FindingKind};
use crate::storage::ObjectVersion;

/// Returns a finding for each key of a root that was overwritten or deleted, and one if the bucket kept no versions.
pub fn superseded(options: &VerifyOptions, root: &RootReading, versions: &[ObjectVersion]) -> Vec<Finding> {
    let contents = &root.contents;
    let mut by_key: BTreeMap<&str, Vec<&ObjectVersion>> = BTreeMap::new();
    for version in versions {
        let key = contents.root.parse(&version.key);
        let included = key.window().is_none_or(|window| options.includes(window.date()));
        if key.is_evidence() && included {
            by_key.entry(&version.key).or_default().push(version);
        }
    }
    let stated = stated_versions(root);
    let mut findings = Vec::new();
    let mut unversioned = 0_u64;
    for (key, versions) in by_key {
        let Some(kept) = versions.iter().find(|version| version.is_latest) else {
            continue;
        };
        let older = versions.iter().filter(|version| !version.is_latest).count();
        let found = match (kept.is_delete_marker, &kept.version_id) {
            (true, _) if older == 0 => continue,
            (true, _) => Some(format!("deleted; earlier versions: {older}")),
            (false, id) => {
                unversioned += u64::from(id.is_none());
                let other = stated
                    .get(key)
                    .is_some_and(|stated| Some(*stated) != id.as_deref());
                let id = id.as_deref().unwrap_or("null");
                match (older, other) {
                    (0, false) => None,
                    (0, true) => Some(format!("version {id}, the only one")),
                    (older, _) => Some(format!("version {id}, written over earlier versions: {older}")),
                }
            }
        };
        if let Some(found) = found {
            let expected = stated.get(key).map_or_else(
                || "the only version".to_owned(),
                |stated| format!("version {stated}, and no other"),
            );
            let finding = Finding::new(FindingKind::ObjectSuperseded, key)
                .expected(expected)
                .found(match kept.last_modified {
                    Some(time) => format!("{found} (since {time})"),
                    None => found,
                });
            findings.push(match contents.root.parse(key).window() {
                Some(window) => finding.with_window(window),
                None => finding,
            });
        }
    }
    if unversioned > 0 {
        findings.push(
            Finding::new(FindingKind::Unversioned, contents.root.as_str())
                .expected("a version id of each object")
                .found(format!("objects without one: {unversioned}")),
        );
    }
    findings
}

/// Returns the version of each object that a receipt states, by key.
fn stated_versions(root: &RootReading) -> BTreeMap<String, &str> {
    let RootContents { root: prefix, .. } = &root.contents;
    let first = root.documents.receipts.values();
    let later = root.documents.revisions.values().map(|(document, _)| document);
    let read = first
        .chain(later)
        .filter_map(|document| document.parsed.as_ref().ok());
    read.flat_map(|receipt| [&receipt.object, &receipt.supplement])
        .flatten()
        .filter_map(|object| {
            Some((
                format!("{}{}", prefix.as_str(), object.key),
                object.version_id.as_deref()?,
            ))
        })
        .collect()
}
