//! Many resources: what the operator costs beside thousands of them, and whether it gets through when everything
//! around it fails. Both run the released program against a real API server and a real S3 store; `bench/control-plane`
//! and `make soak` start them, and `bench/control-plane.md` says what the numbers mean.

// Also outside of the functions that clippy takes for tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss
)]

mod bucket;
mod control_plane;
mod fixture;
mod flaky_store;
mod flux;
mod operator;
mod results;
mod soak;
