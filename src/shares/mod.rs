//! Shares of what the exports of a process have in common: places for windows, memory, sessions, first listings.
//!
//! A queue serves the namespace that holds least, in it the space and then the export that holds least, and of one export
//! the oldest window. No I/O.

pub mod queue;
pub mod recall;
pub mod semaphore;
