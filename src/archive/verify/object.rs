//! Check of one file's bytes by the prover of downloads. Reads files, no other I/O.

use std::fs::File;
use std::io::{self, Read as _};

use crate::pipeline::prover::{Proof, Prover};

/// Size of the read buffer: 256 KiB, which fit the processor's cache.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Reads and checks a file of `size` bytes that should inflate to at most `limit` bytes. Reads one byte more at most: a file
/// may grow meanwhile. Calls `on_read` with the number of bytes of each read.
pub fn prove_file(file: File, size: u64, limit: u64, on_read: &mut dyn FnMut(u64)) -> io::Result<Proof> {
    let mut file = file.take(size.saturating_add(1));
    let mut prover = Prover::with_limit(limit);
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
