//! Manifests: each states the content of a period with a digest of every receipt, and names its predecessor. No I/O.
//!
//! `document` is the format, `chain` the check of all manifests of a root, `consistency` that of one by itself.

pub mod chain;
mod consistency;
pub mod document;
mod head;
pub mod signature;

use std::collections::{BTreeMap, BTreeSet};

use self::document::{Manifest, ManifestHeader};
pub use self::head::{Head, HeadRecord, InvalidHead, SEQUENCE_MAX};
use self::signature::SignatureStatus;
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
    /// Its signature when it was read.
    pub signature: LinkSignature,
}

/// Signature of a stored manifest, as far as it was checked with the trusted keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkSignature {
    /// Not read: no key is trusted.
    #[default]
    Unread,
    /// There was none.
    Absent,
    /// The trusted key with this id verifies it.
    SignedBy(String),
    /// No trusted key verifies it.
    Invalid,
}

impl From<&LinkSignature> for SignatureStatus {
    fn from(signature: &LinkSignature) -> Self {
        match signature {
            LinkSignature::Unread | LinkSignature::Absent => Self::Absent,
            LinkSignature::SignedBy(_) => Self::Valid,
            LinkSignature::Invalid => Self::Invalid,
        }
    }
}

impl ManifestLink {
    /// Reduces a manifest.
    pub fn new(manifest: Manifest, sha256: String, signature: LinkSignature) -> Self {
        let Manifest {
            schema,
            sequence,
            space,
            scope,
            source,
            period,
            accepted_gaps,
            totals,
            root,
            written_at,
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
            totals,
            root,
            written_at,
        };
        Self {
            header,
            sha256,
            signature,
        }
    }
}

impl ChainListing {
    /// Returns the newest manifest, if it was read.
    pub fn head(&self) -> Option<Head> {
        let number = self.manifests.last()?;
        Head::new(*number, &self.links.get(number)?.sha256).ok()
    }

    /// Adds a key if it belongs to the chain.
    pub fn insert(&mut self, key: &Key) {
        match key {
            Key::Manifest(number) => self.manifests.insert(*number),
            Key::Signature(number) => self.signatures.insert(*number),
            _ => false,
        };
    }
}
