//! The engine: windows → decide → transfer → receipt; the journal, the session budget, the proof.

pub mod budget;
pub mod decide;
pub mod events;
pub mod failure;
pub mod gzip;
pub mod journal;
pub mod keys;
pub mod memory;
pub mod pool;
pub mod proof;
pub mod queue;
pub mod record;
pub mod reports;
pub mod snapshot;
pub mod transfer;
pub mod verdict;
pub mod window;
pub mod wish;
