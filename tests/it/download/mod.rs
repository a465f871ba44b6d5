//! `eventexport download` as a person starts it, against the simulator: what is there at the end of it, whatever happens
//! in the middle.

// A test that cannot go on must stop.
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
mod proxy;
mod resume;
mod volume;
