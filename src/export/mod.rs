//! The engine: windows → decide → transfer → receipt; the journal, the session budget, the proof.
//!
//! Read it in this order: `window`, `keys`, `record` (what there is), `verdict`, `journal`, `memory`,
//! `decide` (what is concluded, without I/O), `run` (the loop), `attempt` with `open`, `transfer`, `commit`
//! (one window), `settle` (after a crash), `manifest` (what it all adds up to), `engine` (the entrance).

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
mod ground;
pub mod gzip;
pub mod journal;
pub(crate) mod journal_io;
pub mod keys;
pub mod manifest;
pub mod memory;
pub mod observer;
mod open;
pub mod pool;
pub mod proof;
pub mod queue;
pub mod record;
mod release;
mod reports;
mod run;
mod settle;
pub mod shard;
pub mod snapshot;
mod transfer;
pub mod verdict;
pub mod window;
pub mod wish;
