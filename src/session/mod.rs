//! Sessions of a space: who may open one, one life for each from listing to deletion, and the words for a full space.
//!
//! Reading order: `occupancy` (who holds the open sessions; no I/O), `budget` (how many this process may hold, and whose
//! turn it is; no I/O), `orphan` (which sessions interrupted attempts opened; no I/O), `guard` (list → capacity → create → compare → delete; network I/O).

pub mod budget;
pub mod guard;
pub mod occupancy;
pub mod orphan;

/// Open sessions that a space allows (the service's rule: 30 per space, shared by all its users).
pub const SESSIONS_PER_SPACE: usize = 30;
