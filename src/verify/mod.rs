//! Proof of an archive from itself: every object against its receipt, every receipt against the manifests, the
//! manifests against each other, without the service and without what wrote the archive.
//!
//! Reading and judging are apart. `archive` reads (a listing, documents, objects) and is the entrance; `contents`
//! sorts keys, `chain` and `consistency` judge manifests, `receipts` says what to expect of each object, `object` proves bytes,
//! `observation` compares, `coverage` looks for gaps, `build_report` sums up: all pure. What is wrong is a [`finding::Finding`].

pub mod archive;
pub mod build_report;
pub mod chain;
mod consistency;
pub mod contents;
pub mod coverage;
pub mod finding;
pub mod inspect;
pub mod object;
pub mod observation;
pub mod receipts;
pub mod report;
pub mod signature;
