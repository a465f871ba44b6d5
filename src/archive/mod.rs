//! The archive: the content of a bucket or directory, and what it proves. Uses a [`Store`](crate::storage::Store) and
//! nothing else: no service, no engine.
//!
//! Reading order: `window`, `layout` (keys), `records` (documents), `listing` (the only classifier of keys), `counts`
//! (comparison with the reports of the service), `coverage` (the state of each window), `manifest`, `verify`.

pub mod counts;
pub mod coverage;
pub mod layout;
pub mod listing;
pub mod manifest;
pub mod records;
pub mod verify;
pub mod window;
