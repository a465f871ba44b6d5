//! The integration tests: each promise against real parts (API server, controllers, S3, the simulator).

mod api;
mod auditor;
mod bed;
mod cli;
mod docs;
mod download;
// Also outside of the functions that clippy takes for tests: a test that cannot go on must stop.
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
mod export;
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
mod gitops;
mod kill;
mod node;
mod operator;
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
mod second_day;
mod storage;
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
mod twice;
// As above.
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
mod verify;
