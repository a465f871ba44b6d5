//! Destination of a download: a partial file, which can be resumed, or standard output, which cannot. Writes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use super::blocking_writer::BlockingWriter;
use super::part::PartFile;
use crate::pipeline::prover_pool::{ProverPool, StreamProver};

/// Gzip of no data (RFC 1952), written if the service sent no byte and the range is proved to have no events: gzip
/// readers reject an empty input.
pub const EMPTY_GZIP: [u8; 20] = [
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Destination of a download.
#[derive(Debug)]
pub enum DownloadSink {
    /// Partial file, renamed to FILE when it is complete.
    File(Box<PartFile>),
    /// Standard output.
    Stdout(StdoutSink),
}

/// Standard output.
#[derive(Debug)]
pub struct StdoutSink {
    /// Writer on its own thread.
    pub writer: BlockingWriter,
    /// True if the decompressed bytes are written.
    pub decompress: bool,
}

impl DownloadSink {
    /// Opens standard output, for the received or the decompressed bytes.
    pub fn stdout(decompress: bool) -> io::Result<Self> {
        // A separate handle: the standard output of Rust is line-buffered.
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::Stdout(StdoutSink {
            writer: BlockingWriter::new(File::from(out)),
            decompress,
        }))
    }

    /// Starts a prover, which sends the decompressed bytes to standard output if these are written.
    pub fn proof(&self, pool: &ProverPool) -> StreamProver {
        match self {
            Self::Stdout(stdout) if stdout.decompress => pool.begin_into(stdout.writer.sender()),
            Self::File(_) | Self::Stdout(_) => pool.begin(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::gzip::GzipVerifier;

    #[test]
    fn the_empty_gzip_is_complete() {
        let mut gzip = GzipVerifier::default();
        gzip.push(&EMPTY_GZIP, &mut |data| assert!(data.is_empty()))
            .unwrap();
        assert_eq!(gzip.finish(), Ok((1, 0)));
    }
}
