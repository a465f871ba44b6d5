//! Proof of a body: SHA-256, CRC-64/NVME, complete gzip, events. The one prover of downloads (through
//! [`ProverPool`](super::prover_pool::ProverPool)), of their partial files, and of the objects of an archive. Bounded
//! memory for any size, no I/O.

use sha2::{Digest as _, Sha256};

use super::events::{EventCount, EventCounter};
use super::gzip::{GzipError, GzipVerifier};
use crate::storage::Crc64;

/// Contents of a complete gzip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GzipStats {
    /// Members of the gzip.
    pub members: u64,
    /// Size after decompression in bytes.
    pub decompressed: u64,
    /// Events.
    pub events: EventCount,
}

/// Facts that are proved about a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// CRC-64/NVME.
    pub crc64: Crc64,
    /// Contents of the gzip, or the reason that it is no complete gzip.
    pub stats: Result<GzipStats, GzipError>,
}

/// Incremental proof of a body.
#[derive(Debug, Default)]
pub struct Prover {
    /// Digests of the bytes, which need no order with the contents.
    pub digests: BodyDigests,
    /// Contents of the bytes.
    pub contents: ContentProver,
}

/// Incremental digests of a body.
#[derive(Clone)]
pub struct BodyDigests {
    sha: Sha256,
    crc: crc_fast::Digest,
    bytes: u64,
}

/// Incremental check of the contents of a body: gzip and events.
#[derive(Debug, Default)]
pub struct ContentProver {
    gzip: GzipVerifier,
    events: EventCounter,
    /// First error; nothing is inflated after it.
    fault: Option<GzipError>,
}

impl Prover {
    /// Creates a prover of a body that should inflate to at most `limit` bytes. Beyond that, decompression stops.
    pub fn with_limit(limit: u64) -> Self {
        let contents = ContentProver {
            gzip: GzipVerifier::with_limit(limit),
            ..ContentProver::default()
        };
        Self {
            contents,
            ..Self::default()
        }
    }

    /// Adds the next bytes. After an error of the contents, only the digests go on.
    pub fn push(&mut self, bytes: &[u8]) {
        self.push_into(bytes, &mut |_| {});
    }

    /// Adds the next bytes as [`push`](Self::push) does, and passes the decompressed data to `inflated` in chunks.
    pub fn push_into(&mut self, bytes: &[u8], inflated: &mut impl FnMut(&[u8])) {
        self.digests.push(bytes);
        // The error is part of the proof.
        let _ = self.contents.push(bytes, inflated);
    }

    /// Returns the proof of the bytes so far. The contents are those since the last call, the digests those of all
    /// bytes.
    pub fn finish(&mut self) -> Proof {
        let stats = self.contents.finish();
        let BodyDigests { sha, crc, bytes } = &self.digests;
        Proof {
            bytes: *bytes,
            sha256: hex(&sha.clone().finalize()),
            crc64: Crc64(crc.finalize()),
            stats,
        }
    }
}

impl BodyDigests {
    /// Adds the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.sha.update(bytes);
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl ContentProver {
    /// Adds the next bytes, and passes the decompressed data to `inflated` in chunks. After an error, it returns the
    /// same error again.
    pub fn push(&mut self, bytes: &[u8], inflated: &mut impl FnMut(&[u8])) -> Result<(), GzipError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let Self { gzip, events, .. } = self;
        let pushed = gzip.push(bytes, &mut |data| {
            events.push(data);
            inflated(data);
        });
        self.fault = pushed.clone().err();
        pushed
    }

    /// Returns the contents, and starts over.
    fn finish(&mut self) -> Result<GzipStats, GzipError> {
        let Self { gzip, events, fault } = std::mem::take(self);
        if let Some(fault) = fault {
            return Err(fault);
        }
        let (members, decompressed) = gzip.finish()?;
        Ok(GzipStats {
            members,
            decompressed,
            events: events.finish(),
        })
    }
}

impl Default for BodyDigests {
    fn default() -> Self {
        Self {
            sha: Sha256::new(),
            crc: crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme),
            bytes: 0,
        }
    }
}

impl std::fmt::Debug for BodyDigests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyDigests")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
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
        let mut prover = Prover::with_limit(1000);
        prover.push(&bomb);
        let found = prover.finish();
        assert_eq!(found.stats, Err(GzipError::TooLarge { limit: 1000 }));
        assert_eq!(found.sha256, hex(&Sha256::digest(&bomb)));
        assert_eq!((found.bytes, found.crc64), (bomb.len() as u64, Crc64::of(&bomb)));
    }
}
