//! Exports Activity Tracker events: opens sessions, streams downloads to object storage, proves them,
//! and deletes the sessions. The operator and the command line share one engine.
//!
//! # Use as a library
//!
//! `examples/embed.rs` exports a week to a directory. Parts of such a program:
//!
//! | item | use |
//! |---|---|
//! | [`api::EventExport`] | the resource: what to export, from where, to where |
//! | [`export::connect`] | a validated spec, and the clients of its service and store, from the resource and its Secrets |
//! | [`export::engine::Engine`] | runs exports; one in a process, which shares memory, processors and sessions among them |
//! | [`export::snapshot::Snapshot`] | state of an export: stored, missing and failed windows |
//! | [`storage::Store`] | place of an archive: [`storage::S3Store`], [`storage::DirectoryStore`] or another implementation |
//! | [`archive::verify`], [`archive::report`] | proof of an archive, and a report on it |
//! | [`simulator::Simulator`] | a fake service, for tests |
//!
//! # Stability
//!
//! | what | promise |
//! |---|---|
//! | the resource of [`api`], `eventexport.io/v1alpha1` | fields are added; a change of meaning gets another version |
//! | the documents in a bucket ([`archive::records`], [`archive::manifest::document`]) | fields are added; a change of meaning gets another version of the schema; archives of every version stay readable |
//! | the items of the table above | change in minor versions before 1.0, and each change is in the changelog |
//! | every other public item | serves the program and its tests, and may change in any version |
//!
//! # Modules
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
