//! The operator, as the process that people run, killed and started again; and what must be the same whichever way an
//! export is run.

mod again;
pub(crate) mod bucket;
mod full;
mod moments;
pub(crate) mod same;
mod scene;
mod weak;
