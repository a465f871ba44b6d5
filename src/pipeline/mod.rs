//! Copies a download to a sink and proves it while the bytes pass: SHA-256, CRC-64, gzip members, count of events.
//!
//! The prover does no I/O; verification of an archive uses it too. Sinks: an object store, a file, standard
//! output.

pub mod blocking_writer;
pub mod copy;
pub mod difference;
pub mod event_lines;
pub mod events;
pub mod file_sink;
pub mod gzip;
pub mod part_pool;
pub mod prover;
pub mod prover_pool;
pub mod stdout_sink;
pub mod store_sink;
pub mod supplement;
