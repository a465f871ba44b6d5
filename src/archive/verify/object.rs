//! Check of one object's bytes: SHA-256, CRC-64/NVME, complete gzip, events. Memory is bounded for any size, and so is
//! the work on a gzip that inflates to far more than stated. Reads files, no other I/O.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::pipeline::events::{EventCount, EventCounter};
use crate::pipeline::gzip::GzipVerifier;
use crate::pipeline::proof::hex;
use crate::storage::Crc64;

/// Compressed bytes between two checks of the output limit: 64 KiB, which inflate to 66 MiB at most.
const INFLATE_CHUNK_BYTES: usize = 64 * 1024;

/// Size of the read buffer: 256 KiB, which fit the processor's cache.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Contents of a complete gzip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GzipStats {
    /// Members of the gzip.
    pub members: u64,
    /// Size after decompression in bytes.
    pub decompressed: u64,
    /// Events.
    pub events: EventCount,
}

/// Result of reading an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectProof {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// CRC-64/NVME.
    pub crc64: Crc64,
    /// Contents of the gzip, or the reason that it is no complete gzip.
    pub stats: Result<GzipStats, String>,
}

/// A check of an object in progress.
pub struct ObjectProver {
    sha: Sha256,
    crc: crc_fast::Digest,
    bytes: u64,
    gzip: GzipVerifier,
    events: EventCounter,
    /// Maximum size after decompression.
    limit: u64,
    out: u64,
    fault: Option<String>,
}

impl ObjectProver {
    /// Starts the check of an object that should inflate to at most `limit` bytes. Beyond that, decompression stops.
    pub fn new(limit: u64) -> Self {
        Self {
            sha: Sha256::new(),
            crc: crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme),
            bytes: 0,
            gzip: GzipVerifier::default(),
            events: EventCounter::default(),
            limit,
            out: 0,
            fault: None,
        }
    }

    /// Adds the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sha.update(bytes);
        self.crc.update(bytes);
        for step in bytes.chunks(INFLATE_CHUNK_BYTES) {
            if self.fault.is_some() {
                return;
            }
            self.inflate(step);
        }
    }

    fn inflate(&mut self, bytes: &[u8]) {
        let Self {
            gzip, events, out, ..
        } = self;
        let inflated = gzip.push(bytes, &mut |data| {
            *out += data.len() as u64;
            events.push(data);
        });
        if let Err(error) = inflated {
            self.fault = Some(error.to_string());
        } else if self.out > self.limit {
            self.fault = Some(format!(
                "the gzip inflates to more than the stated {} bytes",
                self.limit
            ));
        }
    }

    /// Returns the result after the last bytes.
    pub fn finish(self) -> ObjectProof {
        let stats = match self.fault {
            Some(fault) => Err(fault),
            None => self
                .gzip
                .finish()
                .map_err(|error| error.to_string())
                .map(|(members, decompressed)| GzipStats {
                    members,
                    decompressed,
                    events: self.events.finish(),
                }),
        };
        ObjectProof {
            bytes: self.bytes,
            sha256: hex(&self.sha.finalize()),
            crc64: Crc64(self.crc.finalize()),
            stats,
        }
    }
}

/// Reads and checks a file. Calls `on_read` with the number of bytes of each read.
pub fn prove_file(path: &Path, limit: u64, on_read: &mut dyn FnMut(u64)) -> io::Result<ObjectProof> {
    let mut file = File::open(path)?;
    let mut prover = ObjectProver::new(limit);
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(prover.finish()),
            Ok(read) => {
                prover.push(buffer.get(..read).unwrap_or_default());
                on_read(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl std::fmt::Debug for ObjectProver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectProver")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_decompression_bomb_is_rejected_and_still_digested() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..64 {
            encoder.write_all(&vec![b'\n'; 1 << 20]).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        let mut prover = ObjectProver::new(1000);
        prover.push(&bomb);
        let found = prover.finish();
        let why = found.stats.unwrap_err();
        assert!(why.contains("more than the stated 1000 bytes"), "{why}");
        assert_eq!(found.sha256, hex(&Sha256::digest(&bomb)));
        assert_eq!((found.bytes, found.crc64), (bomb.len() as u64, Crc64::of(&bomb)));
    }
}
