//! Checks the manifest chain of an archive from its files alone, for tests of the engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use eventexport::archive::manifest::document::{FileDigest, Manifest, parse_manifest};
use eventexport::export::manifest::sign::{Signing, SigningKey, SigningKeys};
use sha2::{Digest as _, Sha256};

/// Signs with a throwaway key.
pub(crate) fn signing() -> Signing {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let key = SigningKey::from_pem(pair.serialize_pem().as_bytes()).expect("it is one of ours");
    Signing::With(Arc::new(SigningKeys::new(key, Vec::new())))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Returns the manifests below a root, by number.
pub(crate) fn manifests(root: &Path) -> Vec<Manifest> {
    let mut all = Vec::new();
    for number in 1.. {
        let key = format!("_manifests/{number:08}.json");
        let Ok(bytes) = std::fs::read(root.join(&key)) else {
            break;
        };
        all.push(parse_manifest(&key, number, &bytes).expect("a manifest reads back"));
    }
    all
}

/// Lists errors of the chain; none is expected.
pub(crate) fn chain_violations(root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let all = manifests(root);
    let there = std::fs::read_dir(root.join("_manifests")).map_or(0, |entries| {
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter(|name| name.to_string_lossy().ends_with(".json"))
            .count()
    });
    if there != all.len() {
        faults.push(format!(
            "{there} manifests, numbered without a gap up to {}",
            all.len()
        ));
    }
    let mut previous = None;
    let mut statements = BTreeMap::new();
    for manifest in &all {
        let key = format!("_manifests/{:08}.json", manifest.sequence);
        if manifest.previous != previous {
            faults.push(format!(
                "{key} says that {:?} is before it, not {previous:?}",
                manifest.previous
            ));
        }
        let sha256 = sha256(&std::fs::read(root.join(&key)).unwrap_or_default());
        if manifest.root != manifest.computed_root() || manifest.totals != manifest.computed_totals() {
            faults.push(format!("{key} does not add up"));
        }
        // Of several manifests of a period, the newest counts: an earlier statement may return.
        let statement = (manifest.root.digest.clone(), manifest.accepted_gaps.clone());
        if statements.insert(manifest.period, statement.clone()) == Some(statement) {
            faults.push(format!("{key} repeats the newest manifest of its period"));
        }
        previous = Some(FileDigest { key, sha256 });
    }
    faults
}

/// Lists differences from the newest manifest of each period.
pub(crate) fn statement_violations(root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let all = manifests(root);
    let newest: BTreeMap<_, _> = all.iter().map(|manifest| (manifest.period, manifest)).collect();
    for manifest in newest.values() {
        for window in &manifest.windows {
            let receipt = std::fs::read(root.join(&window.receipt.key)).unwrap_or_default();
            let object = window.object.as_ref();
            let bytes = object.map(|object| std::fs::read(root.join(&object.key)).unwrap_or_default());
            let whole = object.zip(bytes).is_none_or(|(object, bytes)| {
                object.bytes == bytes.len() as u64 && object.sha256 == self::sha256(&bytes)
            });
            if window.receipt.sha256 != self::sha256(&receipt) || !whole {
                faults.push(format!("{} of {} is another", window.window, manifest.sequence));
            }
        }
    }
    faults
}
