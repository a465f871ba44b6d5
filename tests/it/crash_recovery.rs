//! The operator, as the process that people run, killed and started again; and what must be the same whichever way an
//! export is run.

mod conditional_writes;
pub(crate) mod crash_points;
pub(crate) mod equivalence;
pub(crate) mod fixture;
mod full_space;
mod repeated_kills;
pub(crate) mod versioned_bucket;
