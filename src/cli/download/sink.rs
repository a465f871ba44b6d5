//! Where a download goes: a file that is gone on with, or standard output, which has seen what it has seen. Writes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use super::blocking_writer::BlockingWriter;
use super::part::PartFile;
use crate::export::proof::{ProverPool, StreamProver};

/// A gzip of nothing (RFC 1952), for a range that is proved to have no events where the service sent no byte: what
/// reads gzip takes an empty input for a broken one.
pub const EMPTY_GZIP: [u8; 20] = [
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Where the bytes go.
#[derive(Debug)]
pub enum DownloadSink {
    /// A file, partial until it is whole.
    File(Box<PartFile>),
    /// Standard output.
    Stdout(StdoutSink),
}

/// Standard output.
#[derive(Debug)]
pub struct StdoutSink {
    /// The writer.
    pub writer: BlockingWriter,
    /// Whether what was inflated goes there.
    pub decompress: bool,
}

impl DownloadSink {
    /// Standard output, as bytes came or decompressed.
    pub fn stdout(decompress: bool) -> io::Result<Self> {
        // The handle of its own: Rust's standard output looks for line ends.
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::Stdout(StdoutSink {
            writer: BlockingWriter::new(File::from(out)),
            decompress,
        }))
    }

    /// A proof that feeds standard output where that wants the decompressed bytes.
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
    use crate::export::gzip::GzipVerifier;

    #[test]
    fn the_empty_gzip_is_complete() {
        let mut gzip = GzipVerifier::default();
        gzip.push(&EMPTY_GZIP, &mut |data| assert!(data.is_empty()))
            .unwrap();
        assert_eq!(gzip.finish(), Ok((1, 0)));
    }
}
