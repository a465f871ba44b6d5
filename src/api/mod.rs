//! The EventExport resource: spec, status, conditions, CEL rules. No I/O.
