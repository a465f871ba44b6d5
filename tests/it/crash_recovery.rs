//! Kills and restarts the operator process, and compares the ways to run an export.

mod conditional_writes;
pub(crate) mod crash_points;
pub(crate) mod equivalence;
pub(crate) mod fixture;
mod full_space;
mod repeated_kills;
pub(crate) mod versioned_bucket;
