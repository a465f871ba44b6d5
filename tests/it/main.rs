//! Integration tests against real components: API server, controllers, S3 store, simulator.

// Needed outside of `#[test]` functions: fixtures panic, too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
// Short pairs such as `state` and `stage` are clear in tests.
#![allow(clippy::similar_names)]

mod api;
mod auditor;
mod bed;
mod browser;
mod cli;
mod crash_recovery;
mod day_two;
mod docs;
mod docs_site;
mod download;
mod embed;
mod example;
mod export;
mod faults;
mod fixture_archive;
mod gitops;
mod layers;
mod malicious_peers;
mod node;
mod operator;
mod packages;
mod release_files;
mod scale;
mod security;
mod spec_changes;
mod split_brain;
mod storage;
#[path = "../testkit/mod.rs"]
mod testkit;
mod timestamps;
mod verify;
mod windows;
