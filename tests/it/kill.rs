//! The operator, as the process that people run, killed and started again; and what must be the same whichever way an
//! export is run.

mod again;
pub(crate) mod bucket;
mod full;
pub(crate) mod moments;
pub(crate) mod same;
pub(crate) mod scene;
mod weak;
