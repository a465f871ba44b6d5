//! What a file cannot hold of an object: its checksum and metadata, in a file of their own. Does blocking I/O.
//!
//! They are written before the object appears, so a crash never leaves an object without them. They
//! belong to a file of their size and time of change; where a copy has lost that time, to one of their
//! size and checksum. An object without facts has the checksum of its bytes, and no metadata.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ulid::Ulid;

use super::Crc64;
use super::directory_files::{ObjectFiles, file_crc64, sync_dir};
use super::s3_checksum::hex_encode;

/// An object up to this size that has no metadata needs no facts, as its checksum is soon computed: 1 MiB.
const SIDECAR_MIN_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sidecar {
    /// Bytes.
    pub(super) size: u64,
    /// Sixteen hexadecimal digits.
    crc64: String,
    /// Nanoseconds since 1970, when the file was written.
    modified: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) metadata: Vec<(String, String)>,
}

impl Sidecar {
    /// Of a file that is written and will not change.
    pub(super) fn of(file: &File, crc64: Crc64, mut metadata: Vec<(String, String)>) -> io::Result<Self> {
        metadata.sort();
        Ok(Self::from_metadata(&file.metadata()?, crc64, metadata))
    }

    fn from_metadata(file: &Metadata, crc64: Crc64, metadata: Vec<(String, String)>) -> Self {
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

    /// As [`etag`](Self::etag), from the file alone.
    pub(super) fn etag_of(file: &Metadata) -> String {
        etag(mtime_nanos(file), file.len())
    }
}

impl ObjectFiles {
    /// Writes what the file will not hold; returns where, if there was anything to write.
    pub(super) fn write_sidecar(&self, key: &str, sidecar: &Sidecar) -> io::Result<Option<PathBuf>> {
        if sidecar.metadata.is_empty() && sidecar.size <= SIDECAR_MIN_BYTES {
            return Ok(None);
        }
        let folder = self.sidecar_dir(key);
        self.create_dirs(&folder)?;
        let name = Ulid::generate();
        let part = folder.join(format!("{name}.part"));
        let whole = folder.join(format!("{name}.json"));
        let mut file = File::create_new(&part)?;
        file.write_all(&serde_json::to_vec(sidecar)?)?;
        file.sync_all()?;
        fs::rename(&part, &whole)?;
        sync_dir(&folder)?;
        Ok(Some(whole))
    }

    /// Of an object that is open.
    pub(super) fn read_sidecar(&self, key: &str, file: &File, metadata: &Metadata) -> io::Result<Sidecar> {
        let mut sidecars: Vec<Sidecar> = self
            .sidecar_paths(key)
            .iter()
            .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
            .filter(|sidecar: &Sidecar| sidecar.size == metadata.len())
            .collect();
        if let Some(own) = sidecars
            .iter()
            .position(|sidecar| sidecar.modified == mtime_nanos(metadata))
        {
            return Ok(sidecars.swap_remove(own));
        }
        let crc64 = file_crc64(file)?;
        let sidecar = sidecars.into_iter().find(|sidecar| sidecar.crc64() == crc64);
        Ok(Sidecar::from_metadata(
            metadata,
            crc64,
            sidecar.map(|sidecar| sidecar.metadata).unwrap_or_default(),
        ))
    }

    /// What was kept when this very file was written.
    pub(super) fn matching_sidecar(&self, key: &str, metadata: &Metadata) -> Option<Sidecar> {
        let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        let own =
            |sidecar: &Sidecar| sidecar.size == metadata.len() && sidecar.modified == mtime_nanos(metadata);
        self.sidecar_paths(key).iter().filter_map(read).find(own)
    }

    /// Removes facts of a key; what cannot be removed does no harm, as it fits no object.
    pub(super) fn remove_sidecars(&self, key: &str, which: impl Fn(&Path) -> bool) {
        for path in self.sidecar_paths(key).into_iter().filter(|path| which(path)) {
            let _ = fs::remove_file(path);
        }
        // Only an empty folder goes.
        let _ = fs::remove_dir(self.sidecar_dir(key));
    }

    /// The oldest first.
    fn sidecar_paths(&self, key: &str) -> Vec<PathBuf> {
        let entries = match fs::read_dir(self.sidecar_dir(key)) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(store = self.name(), key, %error, "the metadata of the object cannot be read");
                }
                return Vec::new();
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        paths
    }

    /// Named by a hash, so that no key meets another's folder or is too long.
    fn sidecar_dir(&self, key: &str) -> PathBuf {
        let name = hex_encode(&Sha256::digest(key));
        self.internal_path("facts").join(name)
    }
}

fn etag(modified: u64, size: u64) -> String {
    format!("{modified:x}-{size:x}")
}

fn mtime_nanos(file: &Metadata) -> u64 {
    file.modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}
