//! Manifests that someone noted, and that must be in a chain of the archive. No I/O.

use super::recheck::RootReading;
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::Key;
use crate::archive::manifest::Head;

/// Returns a finding for each noted manifest that no root has with the noted digest.
pub fn missing(prefix: &str, heads: &[Head], roots: &[RootReading]) -> Vec<Finding> {
    let found = |root: &RootReading, head: &Head| {
        let document = root.documents.manifests.get(&head.sequence);
        document.map(|(document, _)| document.sha256.clone())
    };
    let is_there = |head: &Head| {
        roots
            .iter()
            .any(|root| found(root, head).is_some_and(|sha256| sha256 == head.sha256))
    };
    let finding = |head: &Head| {
        let missing = |key: String| {
            Finding::new(FindingKind::HeadMissing, key).expected(format!("sha256 {}", head.sha256))
        };
        let [root] = roots else {
            return missing(prefix.to_owned()).found(format!(
                "{} chains, none of which has this manifest with number {}",
                roots.len(),
                head.sequence
            ));
        };
        let last = root.documents.manifests.keys().next_back();
        missing(root.contents.key(&Key::Manifest(head.sequence))).found(match (found(root, head), last) {
            (Some(sha256), _) => format!("sha256 {sha256}"),
            (None, Some(last)) => format!("no such manifest, the last one is {last}"),
            (None, None) => "no manifest".to_owned(),
        })
    };
    heads.iter().filter(|head| !is_there(head)).map(finding).collect()
}
