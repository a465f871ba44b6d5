//! Sink of copies to standard output, as they come or decompressed. Writes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::blocking_writer::BlockingWriter;
use super::copy::{CopyError, Sink};
use super::gzip::EMPTY_GZIP;
use super::prover_pool::{ProverPool, StreamProver};
use crate::storage::Crc64;

/// Standard output, which takes one copy after the other.
#[derive(Debug)]
pub struct StdoutSink {
    writer: BlockingWriter,
    /// True if the prover sends the decompressed bytes to the writer.
    decompress: bool,
    stop: CancellationToken,
}

impl StdoutSink {
    /// Opens standard output, for the received or the decompressed bytes. `stop` ends the wait for a slow reader.
    pub fn open(decompress: bool, stop: CancellationToken) -> io::Result<Self> {
        // A separate handle: the standard output of Rust is line-buffered.
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self {
            writer: BlockingWriter::new(File::from(out)),
            decompress,
            stop,
        })
    }

    /// Starts the prover for all copies. If the decompressed bytes are written, it sends them to the writer.
    pub fn begin_proof(&self, pool: &ProverPool) -> StreamProver {
        pool.begin_into(self.writer.sender().filter(|_| self.decompress))
    }

    /// Returns the error that ended the writer. Call it only after its prover found it closed.
    pub async fn failure(&mut self) -> io::Error {
        self.writer.failure().await
    }

    /// Waits until all bytes are written; the prover must be dropped. If there was no byte, writes an empty gzip.
    pub async fn close(&mut self, no_bytes: bool) -> io::Result<()> {
        if no_bytes && !self.decompress {
            self.writer.push(EMPTY_GZIP.as_slice().into()).await?;
        }
        self.writer.finish().await
    }
}

impl Sink for StdoutSink {
    type Body = ();
    type Error = io::Error;

    async fn push(&mut self, chunk: Bytes, _: Crc64) -> Result<(), CopyError<io::Error>> {
        if self.decompress {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(CopyError::Stopped),
            pushed = self.writer.push(chunk) => pushed.map_err(CopyError::Sink),
        }
    }

    async fn finish(&mut self, _: Crc64) -> Result<(), CopyError<io::Error>> {
        Ok(())
    }

    async fn abort(&mut self) {}
}
