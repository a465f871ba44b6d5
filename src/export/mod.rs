//! The engine: windows → decide → transfer → receipt; the journal, the session budget, the proof.
//!
//! Reading order: `window`, `keys`, `record` (data), `verdict`, `journal`, `retry_state`, `decide` (decisions, no
//! I/O), `run` (the loop), `attempt` with `open`, `transfer`, `commit` (one window), `recovery` (after a crash),
//! `manifest` (the statement of a period), `engine` (the public entrance).

mod attempt;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
pub mod budget;
mod commit;
pub mod connect;
pub mod decide;
pub mod engine;
pub mod events;
pub mod failure;
pub mod gzip;
pub mod journal;
pub(crate) mod journal_io;
pub mod keys;
mod listing_cache;
pub mod manifest;
pub mod observer;
mod open;
pub mod pool;
pub mod proof;
pub mod record;
mod recovery;
mod release;
pub mod retry_state;
mod run;
mod run_context;
pub mod semaphore;
pub mod shard;
pub mod snapshot;
pub mod spec;
mod transfer;
pub mod verdict;
pub mod window;
