//! Runs `eventexport download` against the simulator and checks the files after every kind of failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod consumers;
mod days;
mod file;
mod fixture;
mod pipe;
mod resume;
mod volume;
