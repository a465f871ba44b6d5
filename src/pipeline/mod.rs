//! Proof of a body while its bytes pass: SHA-256, CRC-64, gzip members, count of events. No I/O.

pub mod events;
pub mod gzip;
pub mod proof;
