//! Manifests: each states the content of a period with a digest of every receipt, and names its predecessor.
//!
//! Reading order: `document` (the format), `periods` (one manifest each), `statement` (the content), all without I/O;
//! `sign` (signatures with a key from a Secret); `chain` (writing and finding manifests in the store), `head` (the newest
//! manifest, as remembered outside of it), `attest` (the receipts that may be signed for).

pub(super) mod attest;
pub(super) mod chain;
pub mod head;
pub(super) mod link;
pub mod periods;
pub mod sign;
pub mod statement;

#[cfg(test)]
pub(super) mod tests;
