//! Keeps Activity Tracker events: sessions are opened, downloads streamed to object storage, proved,
//! and the sessions deleted. One engine under an operator and a command line.
//!
//! Dependencies point down this list only:
//! `cli`, `controller` → `telemetry`, `verify` → `export` → `tracker`, `storage` → `egress`. `api` is known to all.

pub mod api;
pub mod cli;
pub mod controller;
pub mod egress;
pub mod export;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod simulator;
pub mod storage;
pub mod telemetry;
pub mod tracker;
pub mod verify;
