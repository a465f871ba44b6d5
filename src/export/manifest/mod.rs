//! The manifest of an archive: what a period holds, in one document with a digest of every receipt, and a
//! chain of them. `document` is the format.

pub mod document;
