//! The archive: the content of a bucket or directory, and what it proves. Uses a [`Store`](crate::storage::Store) and
//! nothing else: no service, no engine.
//!
//! Reading order: `window`, `layout` (keys), `records` (documents), `receipt`, `listing` (the only classifier of keys),
//! `checkpoint`, `counts` (comparison with the reports of the service), `coverage` (the state of each window), `manifest`, `read` (the
//! journal of a root), `calendar` (one state for each day), `inspect`, `verify`, `report`.

pub mod calendar;
pub mod checkpoint;
pub mod counts;
pub mod coverage;
pub mod finding;
pub mod inspect;
pub mod layout;
pub mod listing;
pub mod manifest;
pub mod memory;
pub mod presence;
pub mod range;
pub mod read;
pub mod receipt;
pub mod records;
pub mod report;
pub mod stored_document;
pub mod timestamp;
pub mod verify;
pub mod window;
