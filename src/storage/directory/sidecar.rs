//! Checksum and metadata of an object, in a file of their own: the sidecar. No I/O but the metadata of a file.
//!
//! A sidecar is written before the object appears, so a crash never leaves an object without it. It belongs to a file
//! with the same size and modification time; if a copy has lost that time, to one with the same size and checksum. For an
//! object without a sidecar the checksum is computed from its bytes, and it has no metadata.

use std::fs::{File, Metadata};
use std::io;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::storage::Crc64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sidecar {
    /// Bytes.
    pub(super) size: u64,
    /// CRC-64/NVME, 16 hexadecimal digits.
    crc64: String,
    /// Modification time of the file, nanoseconds since 1970.
    pub(super) modified: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) metadata: Vec<(String, String)>,
}

impl Sidecar {
    /// Describes a file that is written and will not change.
    pub(super) fn of(file: &File, crc64: Crc64, mut metadata: Vec<(String, String)>) -> io::Result<Self> {
        metadata.sort();
        Ok(Self::from_metadata(&file.metadata()?, crc64, metadata))
    }

    pub(super) fn from_metadata(file: &Metadata, crc64: Crc64, metadata: Vec<(String, String)>) -> Self {
        Self {
            size: file.len(),
            crc64: crc64.to_string(),
            modified: mtime_nanos(file),
            metadata,
        }
    }

    pub(super) fn crc64(&self) -> Crc64 {
        Crc64(u64::from_str_radix(&self.crc64, 16).unwrap_or_default())
    }

    pub(super) fn etag(&self) -> String {
        etag(self.modified, self.size)
    }

    /// As [`etag`](Self::etag), without a sidecar.
    pub(super) fn etag_of(file: &Metadata) -> String {
        etag(mtime_nanos(file), file.len())
    }
}

fn etag(modified: u64, size: u64) -> String {
    format!("{modified:x}-{size:x}")
}

pub(super) fn mtime_nanos(file: &Metadata) -> u64 {
    file.modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}
