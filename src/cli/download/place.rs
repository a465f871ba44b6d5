//! Where a download goes: a file that is gone on with, or standard output, which has seen what it has seen. Writes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use super::part::Part;
use super::pour::Pour;
use crate::export::proof::{Proof, ProofPool};

/// A gzip of nothing (RFC 1952), for a range that is proved to have no events where the service sent no byte: what
/// reads gzip takes an empty input for a broken one.
pub const EMPTY_GZIP: [u8; 20] = [
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Where the bytes go.
#[derive(Debug)]
pub enum Place {
    /// A file, partial until it is whole.
    File(Box<Part>),
    /// Standard output.
    Pipe(Pipe),
}

/// Standard output.
#[derive(Debug)]
pub struct Pipe {
    /// The writer.
    pub pour: Pour,
    /// Whether what was inflated goes there.
    pub decompress: bool,
}

impl Place {
    /// Standard output, as bytes came or decompressed.
    pub fn standard_output(decompress: bool) -> io::Result<Self> {
        // The handle of its own: Rust's standard output looks for line ends.
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::Pipe(Pipe {
            pour: Pour::into(File::from(out)),
            decompress,
        }))
    }

    /// A proof that feeds standard output where that wants the decompressed bytes.
    pub fn proof(&self, pool: &ProofPool) -> Proof {
        match self {
            Self::Pipe(pipe) if pipe.decompress => pool.begin_into(pipe.pour.sender()),
            Self::File(_) | Self::Pipe(_) => pool.begin(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::gzip::Gzip;

    #[test]
    fn the_gzip_of_nothing_is_whole() {
        let mut gzip = Gzip::default();
        gzip.push(&EMPTY_GZIP, &mut |data| assert!(data.is_empty()))
            .unwrap();
        assert_eq!(gzip.finish(), Ok((1, 0)));
    }
}
