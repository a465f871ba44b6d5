//! Checksums of request bodies, encoded for S3. No I/O.

use aws_smithy_types::base64;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use md5::Md5;
use sha2::Sha256;

use super::ChecksumMode;
use super::write_mode::WriteMode;
use crate::storage::{Crc64, Segments, hex_encode};

/// Checksum headers of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BodyChecksums {
    /// `x-amz-checksum-crc64nvme`
    pub(super) crc64: Option<String>,
    /// `x-amz-checksum-crc32c`
    pub(super) crc32c: Option<String>,
    /// `x-amz-content-sha256`, in hexadecimal
    pub(super) sha256: Option<String>,
    /// `Content-MD5`
    pub(super) md5: Option<String>,
}

/// Returns the checksum headers for a body, with its SHA-256 if that is signed. `None` if `crc64` is wrong and the
/// store might not check it.
pub(super) fn body_checksums(
    WriteMode {
        checksum: mode,
        content_md5,
    }: WriteMode,
    body: &Segments,
    crc64: Crc64,
    sign: bool,
) -> Option<BodyChecksums> {
    let compare = sign || mode != ChecksumMode::Crc64Nvme;
    if compare && Crc64::of_segments(body) != crc64 {
        return None;
    }
    Some(BodyChecksums {
        crc64: (mode == ChecksumMode::Crc64Nvme).then(|| encode_crc64(crc64)),
        crc32c: (mode == ChecksumMode::Crc32c).then(|| encode_crc32c(crc32c(body))),
        sha256: sign.then(|| hex_encode(&digest::<Sha256>(body))),
        md5: content_md5.then(|| base64::encode(digest::<Md5>(body))),
    })
}

/// Combines the CRC-32C of parts, given with their sizes in bytes, to that of the object.
pub(super) fn crc32c_of_parts(parts: &[(u32, u64)]) -> u32 {
    let sum = parts.iter().fold(0, |sum, (part, size)| {
        crc_fast::checksum_combine(Crc32Iscsi, sum, u64::from(*part), *size)
    });
    low_half(sum)
}

pub(super) fn encode_crc64(sum: Crc64) -> String {
    base64::encode(sum.0.to_be_bytes())
}

pub(super) fn encode_crc32c(sum: u32) -> String {
    base64::encode(sum.to_be_bytes())
}

/// Parses a checksum from a reply; `None` for a composite checksum (`…-12`).
pub(super) fn decode_crc64(text: &str) -> Option<Crc64> {
    let bytes = base64::decode(text).ok()?;
    Some(Crc64(u64::from_be_bytes(bytes.try_into().ok()?)))
}

/// Parses a SHA-256 from a reply, as hexadecimal digits; `None` for a composite checksum.
pub(super) fn decode_sha256(text: &str) -> Option<String> {
    let bytes = base64::decode(text).ok()?;
    (bytes.len() == 32).then(|| hex_encode(&bytes))
}

pub(super) fn decode_crc32c(text: &str) -> Option<u32> {
    let bytes = base64::decode(text).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn crc32c(body: &Segments) -> u32 {
    let mut digest = crc_fast::Digest::new(Crc32Iscsi);
    for piece in body.pieces() {
        digest.update(piece);
    }
    low_half(digest.finalize())
}

/// Returns a 32-bit checksum, which the library puts in the low half of 64 bits.
#[allow(clippy::cast_possible_truncation)]
const fn low_half(sum: u64) -> u32 {
    sum as u32
}

fn digest<D: sha2::Digest>(body: &Segments) -> Vec<u8> {
    let mut digest = D::new();
    for piece in body.pieces() {
        digest.update(piece);
    }
    digest.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::UploadedPart;
    use bytes::Bytes;

    #[test]
    fn checksums_are_encoded_as_s3_documents_them() {
        // The check values of the two algorithms for "123456789", and the SHA-256 of the same.
        let body = Segments::from(Bytes::from_static(b"123456789"));
        let crc64 = Crc64(0xae8b_1486_0a79_9888);
        assert_eq!(Crc64::of_segments(&body), crc64);
        let with = |checksum| WriteMode {
            checksum,
            content_md5: checksum == ChecksumMode::None,
        };
        let of = |mode| body_checksums(with(mode), &body, crc64, mode == ChecksumMode::None).unwrap();
        assert_eq!(of(ChecksumMode::Crc64Nvme).crc64.as_deref(), Some("rosUhgp5mIg="));
        assert_eq!(decode_crc64("rosUhgp5mIg="), Some(crc64));
        assert_eq!(decode_crc64("rosUhgp5mIg=-2"), None);
        assert_eq!(of(ChecksumMode::Crc32c).crc32c.as_deref(), Some("4waSgw=="));
        assert_eq!(decode_crc32c("4waSgw=="), Some(0xe306_9283));
        assert_eq!(
            of(ChecksumMode::None).sha256.as_deref(),
            Some("15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225")
        );
        // `printf 123456789 | openssl md5 -binary | base64`
        assert_eq!(
            of(ChecksumMode::None).md5.as_deref(),
            Some("JfnnlDI7RTiF9RgfG2JNCw==")
        );
        let unsigned = of(ChecksumMode::Crc64Nvme);
        assert_eq!((unsigned.sha256, unsigned.md5), (None, None));
        for mode in [ChecksumMode::None, ChecksumMode::Crc64Nvme] {
            assert_eq!(body_checksums(with(mode), &body, Crc64(1), true), None);
        }
    }

    #[test]
    fn part_checksums_combine_to_the_object_checksum() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let pieces = [&bytes[..300], &bytes[300..300], &bytes[300..]];
        let parts: Vec<UploadedPart> = (1..)
            .zip(pieces)
            .map(|(number, piece)| UploadedPart {
                number,
                etag: String::new(),
                crc64: Crc64::of(piece),
                crc32c: None,
                size: piece.len() as u64,
            })
            .collect();
        assert_eq!(Crc64::of_parts(&parts), Crc64::of(&bytes));
        let of = |piece: &[u8]| crc32c(&Segments::from(Bytes::copy_from_slice(piece)));
        let sums = pieces.map(|piece| (of(piece), piece.len() as u64));
        assert_eq!(crc32c_of_parts(&sums), of(&bytes));
    }
}
