//! The operator, as the process that people run, killed and started again; and what must be the same whichever way an
//! export is run.

// A test that cannot be set up says why and ends.
#![allow(clippy::expect_used)]

mod bucket;
mod full;
mod moments;
mod same;
mod scene;
mod tripwire;
mod weak;
