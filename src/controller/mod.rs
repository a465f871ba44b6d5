//! EventExport ⇄ engine: observe, decide, act, status, finalizer, leader lease.
