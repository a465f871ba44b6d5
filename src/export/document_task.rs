//! Documents that a run writes beside the receipts: each kind by one task at a time. No I/O: `documents` writes them.

use jiff::civil::Date;

use crate::archive::layout::StampedDocument;
use crate::archive::receipt::Sha256Digest;
use crate::archive::records::RangeRecord;

/// Kind of a document, in the order of writing: each waits for those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocumentKind {
    /// Manifest of a closed period, and the check of the remembered head before it.
    Manifest,
    /// Checkpoint of a day.
    Checkpoint,
    /// Time stamp of a manifest or a checkpoint.
    Timestamp,
    /// Report for readers.
    Report,
}

/// Task that writes a document, or finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentTask {
    /// Checks that the remembered head is in the chain. Until then, nothing is added to it.
    CheckHead,
    /// Adds the manifest of a period to the chain.
    Manifest(RangeRecord),
    /// Writes the checkpoint of a day.
    Checkpoint(Date),
    /// Gets the time stamp of a document.
    Timestamp(StampedDocument),
    /// Writes the report on the archive with this digest.
    Report(Sha256Digest),
}

impl DocumentTask {
    /// Returns the kind of the document.
    pub const fn kind(self) -> DocumentKind {
        match self {
            Self::CheckHead | Self::Manifest(_) => DocumentKind::Manifest,
            Self::Checkpoint(_) => DocumentKind::Checkpoint,
            Self::Timestamp(_) => DocumentKind::Timestamp,
            Self::Report(_) => DocumentKind::Report,
        }
    }
}
