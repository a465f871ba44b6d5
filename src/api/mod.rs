//! The EventExport resource: spec, status, conditions, CEL rules. No I/O.
pub mod reason;
pub use reason::Reason;
