//! Documents of an archive as they are stored: the digest of the bytes, and what they say. No I/O.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::manifest::document::Manifest;
use super::manifest::signature::SignatureStatus;
use super::records::{Receipt, RecordError};
use super::window::Window;
use crate::pipeline::prover::hex;

/// A stored document.
#[derive(Clone, Debug)]
pub struct Document<T> {
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Its contents, or the reason that it cannot be used.
    pub parsed: Result<T, RecordError>,
}

impl<T> Document<T> {
    /// Reads a document from its bytes.
    pub fn new(bytes: &[u8], read: impl FnOnce(&[u8]) -> Result<T, RecordError>) -> Self {
        Self {
            sha256: hex(&Sha256::digest(bytes)),
            parsed: read(bytes),
        }
    }

    /// Returns the document of a file that cannot be read.
    pub const fn unreadable(error: RecordError) -> Self {
        Self {
            sha256: String::new(),
            parsed: Err(error),
        }
    }
}

/// Receipts by window.
pub type Receipts = BTreeMap<Window, Document<Receipt>>;

/// A manifest, with the status of its signature.
pub type SignedDocument = (Document<Manifest>, SignatureStatus);
