//! The manifest of an archive: what a period holds, in one document with a digest of every receipt, and a
//! chain of them.
//!
//! Read it in this order: `document` (the format), `periods` (what there is one of), `statement` (what it
//! says), all without I/O; `chain` (once into the chain), `sign` (by a key from a Secret).

pub(super) mod chain;
pub mod document;
pub mod periods;
pub mod sign;
pub mod statement;

pub use chain::ChainListing;

#[cfg(test)]
mod tests;
