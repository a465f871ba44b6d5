//! The engine: windows → decide → transfer → receipt; the journal, the session budget, the proof.

pub mod events;
pub mod gzip;
pub mod keys;
pub mod pool;
pub mod proof;
pub mod queue;
pub mod record;
pub mod verdict;
pub mod window;
