//! Exports Activity Tracker events: opens sessions, streams downloads to object storage, proves them,
//! and deletes the sessions. The operator and the command line share one engine.
//!
//! Modules depend only on those to their right; every module may use `api` and `shares`:
//! `cli`, `controller` → `telemetry` → `export` → `session` → `archive` → `pipeline` → `tracker`, `storage` → `egress`.
//! `archive::verify` still reads `export::spec`.

pub mod api;
pub mod archive;
pub mod cli;
pub mod controller;
pub mod egress;
pub mod export;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod pipeline;
pub mod session;
pub mod shares;
pub mod simulator;
pub mod storage;
pub mod telemetry;
pub mod tracker;
