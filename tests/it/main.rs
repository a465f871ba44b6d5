//! The integration tests: each promise against real parts (API server, controllers, S3, the simulator).

// Also outside of the functions that clippy takes for tests: a test that cannot go on must stop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
// `state` and `stage` are two things to a reader.
#![allow(clippy::similar_names)]

mod api;
mod auditor;
mod bed;
mod cli;
mod crash_recovery;
mod day_two;
mod docs;
mod download;
mod export;
mod faults;
mod fixture_archive;
mod gitops;
mod malicious_peers;
mod node;
mod operator;
mod scale;
mod security;
mod spec_changes;
mod split_brain;
mod storage;
mod verify;
mod windows;
