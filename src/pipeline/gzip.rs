//! Verifies that a byte stream is complete gzip: header, CRC-32 and length of every member, and no bytes after the
//! last (RFC 1952). Push parser, bounded memory, no I/O.

use flate2::{Decompress, FlushDecompress, Status};

/// Bytes inflated at a time: 256 KiB. Less makes the library copy its window more often, more exceeds the cache.
const INFLATE_BYTES: usize = 256 * 1024;

/// Error of a stream that is not complete gzip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GzipError {
    /// The first bytes are not `1f 8b 08`.
    #[error("the body does not start with a gzip header")]
    NotGzip,
    /// The compressed data is invalid.
    #[error("the compressed data of gzip member {member} is invalid")]
    Broken {
        /// Number of the member, from 1.
        member: u64,
    },
    /// The CRC-32 or length of a member differs from its trailer, or its header from the CRC-16.
    #[error("checksum or length mismatch in gzip member {member}")]
    Checksum {
        /// Number of the member, from 1.
        member: u64,
    },
    /// The stream ends inside a member.
    #[error("the gzip stream ends inside member {member}")]
    Truncated {
        /// Number of the member, from 1.
        member: u64,
    },
    /// The stream has bytes after the last member that are no member.
    #[error("unexpected bytes after the last gzip member ({members} members)")]
    Trailing {
        /// Complete members before them.
        members: u64,
    },
    /// The stream inflates to more than it may.
    #[error("the gzip inflates to more than the stated {limit} bytes")]
    TooLarge {
        /// Maximum size after decompression in bytes.
        limit: u64,
    },
}

/// Gzip of no data (RFC 1952), for a body without a byte: gzip readers reject an empty input.
pub const EMPTY_GZIP: [u8; 20] = [
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GzipState {
    /// Fixed part of the header, with the number of its 10 bytes read.
    Header(usize),
    /// Length of the extra field, with the number of its 2 bytes read.
    ExtraLength(usize),
    /// Extra field, with the number of bytes left.
    Extra(usize),
    /// A zero-terminated name or comment.
    Text,
    /// CRC-16 of the header, with the number of bytes left.
    HeaderCrc(usize),
    Body,
    /// Trailer, with the number of its 8 bytes read.
    Trailer(usize),
}

const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// Incremental verifier of a gzip stream.
pub struct GzipVerifier {
    state: GzipState,
    flags: u8,
    extra_length: usize,
    inflater: Decompress,
    out: Box<[u8]>,
    crc: crc32fast::Hasher,
    /// Checksum of the header, for its CRC-16.
    header_crc: crc32fast::Hasher,
    header_stated: u16,
    member_bytes: u64,
    trailer: [u8; 8],
    members: u64,
    inflated: u64,
    /// Maximum of `inflated`.
    limit: u64,
}

impl std::fmt::Debug for GzipVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipVerifier")
            .field("state", &self.state)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl Default for GzipVerifier {
    fn default() -> Self {
        Self {
            state: GzipState::Header(0),
            flags: 0,
            extra_length: 0,
            inflater: Decompress::new(false),
            out: vec![0; INFLATE_BYTES].into_boxed_slice(),
            crc: crc32fast::Hasher::new(),
            header_crc: crc32fast::Hasher::new(),
            header_stated: 0,
            member_bytes: 0,
            trailer: [0; 8],
            members: 0,
            inflated: 0,
            limit: u64::MAX,
        }
    }
}

impl GzipVerifier {
    /// Creates a verifier that stops once the stream has inflated to more than `limit` bytes.
    pub fn with_limit(limit: u64) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Verifies the next bytes, and passes the decompressed data to `sink` in chunks.
    pub fn push(&mut self, mut input: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<(), GzipError> {
        while !input.is_empty() {
            if self.state == GzipState::Body {
                let consumed = self.inflate(input, sink)?;
                input = input.get(consumed..).unwrap_or_default();
            } else if let [byte, rest @ ..] = input {
                self.parse_framing(*byte)?;
                input = rest;
            }
        }
        Ok(())
    }

    /// Ends the stream; returns the number of members and of decompressed bytes.
    pub fn finish(&self) -> Result<(u64, u64), GzipError> {
        match self.state {
            GzipState::Header(0) if self.members > 0 => Ok((self.members, self.inflated)),
            GzipState::Header(0) => Err(GzipError::NotGzip),
            GzipState::Header(_) if self.members > 0 => Err(GzipError::Trailing {
                members: self.members,
            }),
            _ => Err(GzipError::Truncated {
                member: self.members + 1,
            }),
        }
    }

    fn inflate(&mut self, input: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, GzipError> {
        let broken = GzipError::Broken {
            member: self.members + 1,
        };
        let (before_in, before_out) = (self.inflater.total_in(), self.inflater.total_out());
        let status = self
            .inflater
            .decompress(input, &mut self.out, FlushDecompress::None)
            .map_err(|_| broken.clone())?;
        // Both differences are of one call and fit the slices.
        let consumed = usize::try_from(self.inflater.total_in() - before_in).unwrap_or(0);
        let produced = usize::try_from(self.inflater.total_out() - before_out).unwrap_or(0);
        let chunk = self.out.get(..produced).unwrap_or_default();
        self.crc.update(chunk);
        self.member_bytes += produced as u64;
        self.inflated += produced as u64;
        sink(chunk);
        if self.inflated > self.limit {
            return Err(GzipError::TooLarge { limit: self.limit });
        }
        match status {
            Status::StreamEnd => self.state = GzipState::Trailer(0),
            Status::BufError if consumed == 0 && produced == 0 => return Err(broken),
            Status::Ok | Status::BufError => {}
        }
        Ok(consumed)
    }

    fn parse_framing(&mut self, byte: u8) -> Result<(), GzipError> {
        // The flags, which say if the header has a CRC, are not known before the fourth byte.
        let in_header_crc = match self.state {
            GzipState::Header(at) => at < 4 || self.flags & FHCRC != 0,
            GzipState::ExtraLength(_) | GzipState::Extra(_) | GzipState::Text => self.flags & FHCRC != 0,
            GzipState::HeaderCrc(_) | GzipState::Body | GzipState::Trailer(_) => false,
        };
        if in_header_crc {
            self.header_crc.update(&[byte]);
        }
        self.state = match self.state {
            GzipState::Header(at) => {
                let valid = match at {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8,
                    3 => {
                        self.flags = byte;
                        byte & RESERVED == 0
                    }
                    _ => true,
                };
                if !valid {
                    return Err(match self.members {
                        0 => GzipError::NotGzip,
                        members => GzipError::Trailing { members },
                    });
                }
                if at < 9 {
                    GzipState::Header(at + 1)
                } else {
                    self.after_header()
                }
            }
            GzipState::ExtraLength(0) => {
                self.extra_length = usize::from(byte);
                GzipState::ExtraLength(1)
            }
            GzipState::ExtraLength(_) => match self.extra_length + (usize::from(byte) << 8) {
                0 => self.after_flag(FEXTRA),
                length => GzipState::Extra(length),
            },
            GzipState::Extra(1) => self.after_flag(FEXTRA),
            GzipState::Extra(left) => GzipState::Extra(left - 1),
            GzipState::Text if byte != 0 => GzipState::Text,
            GzipState::Text => self.after_text(),
            GzipState::HeaderCrc(2) => {
                self.header_stated = u16::from(byte);
                GzipState::HeaderCrc(1)
            }
            GzipState::HeaderCrc(_) => {
                let expected = self.header_stated | u16::from(byte) << 8;
                let crc = std::mem::take(&mut self.header_crc).finalize();
                if crc & u32::from(u16::MAX) != u32::from(expected) {
                    return Err(GzipError::Checksum {
                        member: self.members + 1,
                    });
                }
                self.after_flag(FHCRC)
            }
            GzipState::Trailer(at) => {
                if let Some(slot) = self.trailer.get_mut(at) {
                    *slot = byte;
                }
                if at < 7 {
                    GzipState::Trailer(at + 1)
                } else {
                    self.end_member()?
                }
            }
            GzipState::Body => GzipState::Body,
        };
        Ok(())
    }

    fn after_header(&self) -> GzipState {
        if self.flags & FEXTRA != 0 {
            GzipState::ExtraLength(0)
        } else {
            self.after_flag(FEXTRA)
        }
    }

    /// Returns the state after the header field of `flag`; name and comment follow in this order.
    fn after_flag(&self, flag: u8) -> GzipState {
        if flag == FEXTRA && self.flags & (FNAME | FCOMMENT) != 0 {
            GzipState::Text
        } else if flag != FHCRC && self.flags & FHCRC != 0 {
            GzipState::HeaderCrc(2)
        } else {
            GzipState::Body
        }
    }

    fn after_text(&mut self) -> GzipState {
        if self.flags & FNAME != 0 && self.flags & FCOMMENT != 0 {
            self.flags &= !FNAME;
            GzipState::Text
        } else {
            self.after_flag(FCOMMENT)
        }
    }

    fn end_member(&mut self) -> Result<GzipState, GzipError> {
        let crc = std::mem::take(&mut self.crc).finalize();
        // The trailer holds the length modulo 2^32.
        let length = u32::try_from(self.member_bytes & u64::from(u32::MAX)).unwrap_or(0);
        let expected = u64::from_le_bytes(self.trailer);
        if u64::from(crc) | u64::from(length) << 32 != expected {
            return Err(GzipError::Checksum {
                member: self.members + 1,
            });
        }
        self.members += 1;
        self.member_bytes = 0;
        self.header_crc.reset();
        self.inflater.reset(false);
        Ok(GzipState::Header(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn rich_member(text: &[u8]) -> Vec<u8> {
        let builder = flate2::GzBuilder::new()
            .filename("a.json")
            .comment("c")
            .extra(vec![7; 300]);
        let mut encoder = builder.write(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn verify(bytes: &[u8], step: usize) -> Result<(Vec<u8>, u64), GzipError> {
        let mut gzip = GzipVerifier::default();
        let mut out = Vec::new();
        for chunk in bytes.chunks(step) {
            gzip.push(chunk, &mut |data| out.extend_from_slice(data))?;
        }
        let (members, inflated) = gzip.finish()?;
        assert_eq!(inflated, out.len() as u64);
        Ok((out, members))
    }

    #[test]
    fn complete_members_pass_in_chunks_of_any_size() {
        let text: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        let bytes = [member(b""), rich_member(&text), member(b"end")].concat();
        for step in [1, 7, 4096, usize::MAX] {
            let (out, members) = verify(&bytes, step).unwrap();
            assert_eq!(members, 3);
            assert_eq!(out.len(), text.len() + 3);
        }
    }

    #[test]
    fn truncated_or_corrupted_streams_fail() {
        let one = member(b"hello hello hello");
        let two = [one.clone(), one.clone()].concat();
        for cut in 0..two.len() {
            if cut != one.len() {
                assert!(verify(&two[..cut], 5).is_err(), "cut at {cut}");
            }
        }
        for at in 10..one.len() {
            let mut flipped = one.clone();
            flipped[at] ^= 0x10;
            assert!(verify(&flipped, 5).is_err(), "flipped at {at}");
        }
        assert_eq!(
            verify(&[&two[..], b"\0"].concat(), 5),
            Err(GzipError::Trailing { members: 2 })
        );
        assert_eq!(
            verify(&[&two[..], b"\x1f"].concat(), 5),
            Err(GzipError::Trailing { members: 2 })
        );
        assert_eq!(verify(b"<html>", 5), Err(GzipError::NotGzip));
        assert_eq!(verify(b"", 5), Err(GzipError::NotGzip));
        assert_eq!(verify(&EMPTY_GZIP, 5), Ok((Vec::new(), 1)));
    }
}
