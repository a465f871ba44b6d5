//! The engine: windows → decide → transfer → receipt; recovery, manifests.
//!
//! Reading order: `spec`, `retry_state`, `decide` (decisions, no I/O), `run` (the loop, with `run_journal`, `run_tasks`,
//! `active_work`, `task_events` and `day_schedule`), `attempt` with `attempt_state`, `open`, `evaluate`, `later_body`, `commit`,
//! `publish`, `revision` (one window), `recovery` (after a crash), `documents` (manifests, checkpoints, time stamps, the
//! report), `engine` (the public entrance).

mod active_work;
mod attempt;
mod attempt_state;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
mod checkpoint;
mod commit;
pub mod connect;
mod day_schedule;
pub mod decide;
pub mod document_task;
mod documents;
pub mod engine;
mod evaluate;
pub mod failure;
pub(crate) mod journal_io;
mod later_body;
mod least_speed;
mod limits;
mod listing_cache;
pub mod manifest;
pub mod observer;
mod open;
mod publish;
mod recovery;
mod release;
pub mod report;
mod report_state;
pub mod retry_state;
mod revision;
mod run;
mod run_context;
mod run_control;
mod run_journal;
mod run_snapshot;
mod run_state;
mod run_tasks;
pub mod session_permission;
pub mod shard;
mod signature_io;
pub mod snapshot;
pub mod spec;
mod task_events;
mod timestamp;
