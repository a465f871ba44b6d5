//! Manifests: each states the content of a period with a digest of every receipt, and names its predecessor.
//!
//! Reading order: `document` (the format), `periods` (one manifest each), `statement` (the content), all without I/O;
//! `chain` (writing and finding manifests in the store), `sign` (signatures with a key from a Secret).

pub(super) mod chain;
pub mod periods;
pub mod sign;
pub mod statement;

#[cfg(test)]
mod tests;
