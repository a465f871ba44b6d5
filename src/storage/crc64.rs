//! CRC-64/NVME of bytes, and its combination for concatenated bytes. No I/O.

use std::fmt;

use crc_fast::CrcAlgorithm::Crc64Nvme;

use super::{Segments, UploadedPart};

/// CRC-64/NVME, as S3 computes it (`x-amz-checksum-crc64nvme`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crc64(pub u64);

/// The polynomial, in the bit order of the checksum: the highest bit is x⁰
/// (<https://reveng.sourceforge.io/crc-catalogue/17plus.htm#crc.cat.crc-64-nvme>).
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// x⁸: a byte of zeros.
const X_POW_8: u64 = 1 << (63 - 8);

impl Crc64 {
    /// Computes the checksum of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc_fast::checksum(Crc64Nvme, bytes))
    }

    /// Computes the checksum of all segments.
    pub fn of_segments(body: &Segments) -> Self {
        let mut digest = crc_fast::Digest::new(Crc64Nvme);
        for piece in body.pieces() {
            digest.update(piece);
        }
        Self(digest.finalize())
    }

    /// Combines the checksums of the parts of an object, in order.
    pub fn of_parts(parts: &[UploadedPart]) -> Self {
        parts
            .iter()
            .fold(Self::of(b""), |sum, part| sum.concat(part.crc64, part.size))
    }

    /// Returns the checksum of these bytes followed by `bytes` more with the checksum `next`. Takes a few
    /// microseconds; the library's function takes a hundred.
    #[must_use]
    pub fn concat(self, next: Self, bytes: u64) -> Self {
        Self(multiply(self.0, pow(X_POW_8, bytes)) ^ next.0)
    }

    /// Returns the checksum of the last `bytes` bytes alone; `before` is the checksum of all bytes before them.
    #[must_use]
    pub fn suffix(self, before: Self, bytes: u64) -> Self {
        // Addition has no carry here, so it is its own inverse.
        before.concat(self, bytes)
    }
}

/// Multiplies two polynomials over GF(2), modulo [`POLYNOMIAL`].
fn multiply(mut left: u64, mut right: u64) -> u64 {
    let mut product = 0;
    while left != 0 {
        if left >> 63 == 1 {
            product ^= right;
        }
        left <<= 1;
        right = (right >> 1) ^ if right & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    product
}

fn pow(mut base: u64, mut exponent: u64) -> u64 {
    // x⁰, which is one.
    let mut result = 1 << 63;
    while exponent != 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

impl fmt::Display for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crc64({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn concatenation_and_suffix_agree_with_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            at in any::<proptest::sample::Index>(),
        ) {
            let at = at.index(bytes.len() + 1);
            let (start, end) = bytes.split_at(at);
            let (before, after, whole) = (Crc64::of(start), Crc64::of(end), Crc64::of(&bytes));
            let length = end.len() as u64;
            prop_assert_eq!(before.concat(after, length), whole);
            prop_assert_eq!(whole.suffix(before, length), after);
        }

        /// Covers lengths that no test can allocate; the library uses another algorithm.
        #[test]
        fn concatenation_agrees_with_crc_fast(start in any::<u64>(), end in any::<u64>(), bytes in any::<u64>()) {
            let expected = crc_fast::checksum_combine(Crc64Nvme, start, end, bytes);
            prop_assert_eq!(Crc64(start).concat(Crc64(end), bytes), Crc64(expected));
        }
    }
}
