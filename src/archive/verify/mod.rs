//! Verification of an archive by its own contents: every object against its receipt, every receipt against the
//! manifests, and the manifests against each other. It needs neither the service nor the exporter.
//!
//! I/O and checks are separate. `archive` is the entry point and reads the objects; `recheck` reads `listing` and
//! `documents`, and looks again before a file is reported missing. The rest is pure: `contents` groups keys by root,
//! `receipts` derives the expected objects, `attestation` asks who wrote them, `object` checks bytes, `observation`
//! compares, and `build_report` combines the results with the coverage of the archive. Each problem is a [`Finding`](super::finding::Finding).

pub mod archive;
pub mod attestation;
pub mod build_report;
pub mod contents;
pub mod documents;
pub mod heads;
pub mod listing;
pub mod object;
pub mod observation;
pub mod options;
pub mod pace;
pub mod receipts;
pub mod recheck;
pub mod report;
pub mod revisions;
pub mod selection;
pub mod timestamps;
pub mod versions;
