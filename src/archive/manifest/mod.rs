//! Manifests: each states the content of a period with a digest of every receipt, and names its predecessor. No I/O.
//!
//! `document` is the format, `chain` the check of all manifests of a root, `consistency` that of one by itself.

pub mod chain;
mod consistency;
pub mod document;
pub mod signature;

use std::collections::{BTreeMap, BTreeSet};

use self::document::{Manifest, ManifestHeader};
use super::layout::Key;

/// The manifests and signatures in a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainListing {
    /// Sequence numbers of the manifests.
    pub manifests: BTreeSet<u64>,
    /// Sequence numbers of the manifests with a signature.
    pub signatures: BTreeSet<u64>,
    /// Manifests that were read.
    pub links: BTreeMap<u64, ManifestLink>,
}

/// Identification of a stored manifest, which never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestLink {
    /// Its statement, without windows.
    pub header: ManifestHeader,
    /// SHA-256 of its bytes, hexadecimal digits.
    pub sha256: String,
}

impl ManifestLink {
    /// Reduces a manifest.
    pub fn new(manifest: Manifest, sha256: String) -> Self {
        let Manifest {
            schema,
            sequence,
            space,
            scope,
            source,
            period,
            accepted_gaps,
            root,
            ..
        } = manifest;
        let header = ManifestHeader {
            schema,
            sequence,
            space,
            scope,
            source,
            period,
            accepted_gaps,
            root,
        };
        Self { header, sha256 }
    }
}

impl ChainListing {
    /// Adds a key if it belongs to the chain.
    pub fn insert(&mut self, key: &Key) {
        match key {
            Key::Manifest(number) => self.manifests.insert(*number),
            Key::Signature(number) => self.signatures.insert(*number),
            _ => false,
        };
    }
}
