//! Attestation of receipts: evidence that the holder of a given key wrote them. No I/O.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde_json::{Value, json};

use crate::archive::manifest::chain::ChainAudit;
use crate::archive::manifest::signature::SignatureStatus;
use crate::archive::stored_document::Receipts;
use crate::archive::window::Window;

/// Receipts that need no signature although a key is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsigned {
    /// None.
    #[default]
    Refused,
    /// Those of windows from this day on.
    Since(Date),
    /// All, and manifests too.
    Allowed,
}

/// Best evidence that the holder of a key wrote a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attestation {
    /// A signed manifest has the digest of the receipt.
    SignedManifest,
    /// The receipt is signed.
    SignedReceipt,
    /// None: anyone who can write to the archive can have written the receipt.
    ReceiptAlone,
}

/// Windows by attestation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttestationTotals {
    /// Windows of signed manifests.
    pub signed_manifests: u64,
    /// Windows of no signed manifest, with a signed receipt.
    pub signed_receipts: u64,
    /// Windows of no signed manifest, with a receipt without a valid signature.
    pub receipts_alone: u64,
}

/// Status of the signature of each receipt.
pub type ReceiptSignatures = BTreeMap<Window, SignatureStatus>;

impl AttestationTotals {
    /// Returns the JSON object.
    pub fn json(self) -> Value {
        json!({
            "signedManifests": self.signed_manifests,
            "signedReceipts": self.signed_receipts,
            "receiptsAlone": self.receipts_alone,
        })
    }

    /// Counts a window.
    pub const fn add(&mut self, attestation: Attestation) {
        match attestation {
            Attestation::SignedManifest => self.signed_manifests += 1,
            Attestation::SignedReceipt => self.signed_receipts += 1,
            Attestation::ReceiptAlone => self.receipts_alone += 1,
        }
    }
}

/// Returns the attestation of each receipt.
pub fn attest(
    receipts: &Receipts,
    chain: &ChainAudit,
    signatures: &ReceiptSignatures,
) -> BTreeMap<Window, Attestation> {
    let attestation = |window: &Window| {
        if chain.attested.contains(window) {
            Attestation::SignedManifest
        } else if signatures.get(window) == Some(&SignatureStatus::Valid) {
            Attestation::SignedReceipt
        } else {
            Attestation::ReceiptAlone
        }
    };
    receipts
        .keys()
        .map(|window| (*window, attestation(window)))
        .collect()
}
