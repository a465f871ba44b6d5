//! Sink of a copy in a file. Writes.

use std::fs::File;
use std::io::{self, Read, Write};

use bytes::Bytes;

use super::blocking_writer::BlockingWriter;
use super::copy::{CopyError, Sink};
use super::gzip::GzipVerifier;
use crate::storage::Crc64;

/// Size of a read: 256 KiB.
const READ_BYTES: usize = 256 * 1024;

/// Sink in a file. After a failure it still writes what it took, so that a later copy resumes after these bytes.
#[derive(Debug)]
pub struct FileSink {
    writer: BlockingWriter,
}

impl FileSink {
    /// Creates a sink that writes from the position of the file.
    pub fn new(file: File) -> Self {
        Self {
            writer: BlockingWriter::new(file),
        }
    }
}

impl Sink for FileSink {
    type Body = ();
    type Error = io::Error;

    async fn push(&mut self, chunk: Bytes, _: Crc64) -> Result<(), CopyError<io::Error>> {
        self.writer.push(chunk).await.map_err(CopyError::Sink)
    }

    async fn finish(&mut self, _: Crc64) -> Result<(), CopyError<io::Error>> {
        self.writer.finish().await.map_err(CopyError::Sink)
    }

    async fn abort(&mut self) {
        // The copy has failed already.
        let _ = self.writer.finish().await;
    }
}

/// Decompresses all gzip members of a file that a copy has proved.
pub fn inflate(mut gzip: impl Read, out: &mut impl Write) -> io::Result<()> {
    let mut verifier = GzipVerifier::default();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let read = gzip.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        let mut written = Ok(());
        let pushed = verifier.push(chunk.get(..read).unwrap_or_default(), &mut |data| {
            if written.is_ok() {
                written = out.write_all(data);
            }
        });
        pushed.map_err(io::Error::other)?;
        written?;
    }
}
