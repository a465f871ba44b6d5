//! Manifests: each states the content of a period with a digest of every receipt, and names its predecessor. No I/O.

pub mod document;

use std::collections::BTreeSet;

use super::layout::Key;

/// The manifests and signatures in a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainListing {
    /// Sequence numbers of the manifests.
    pub manifests: BTreeSet<u64>,
    /// Sequence numbers of the manifests with a signature.
    pub signatures: BTreeSet<u64>,
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
