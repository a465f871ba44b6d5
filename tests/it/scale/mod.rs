//! Scale: cost of the operator with thousands of resources, and completion despite faults of all peers. Both run the
//! release build against a real API server and a real S3 store. `bench/control-plane` and `make soak` start them;
//! `bench/control-plane.md` explains the numbers.

// Needed outside of `#[test]` functions: fixtures panic, too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss
)]

mod control_plane;
mod dead;
mod fixture;
mod flux;
mod look;
mod operator;
mod results;
mod soak;
