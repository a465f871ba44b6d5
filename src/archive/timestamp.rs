//! Time-stamp requests and replies (RFC 3161, DER). No I/O.
//!
//! A reply is checked for what it says: the digest and the nonce. The signature of the authority is not checked here:
//! `openssl ts -verify` does that with the certificate of the authority (docs/auditor.md).

use der::asn1::{AnyRef, OctetStringRef};
use der::{Decode as _, Reader as _, SliceReader, Tag};
use jiff::Timestamp;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};

use crate::api::sanitize;
use crate::pipeline::prover::hex;

/// Maximum size of a reply: 64 KiB. One with the certificates of its authority has 3 to 8 KiB.
pub const REPLY_MAX_BYTES: u64 = 64 * 1024;

/// Number of bytes of a nonce.
const NONCE_BYTES: usize = 8;

/// Maximum length of the text of an authority in an error.
const STATUS_TEXT_CHARS: usize = 200;

/// A request without digest and nonce: version 1, the algorithm SHA-256, and the request for the authority's certificate.
const REQUEST: [&[u8]; 3] = [
    &[
        0x30, 0x43, 0x02, 0x01, 0x01, 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03,
        0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
    ],
    &[0x02, 0x08],
    &[0x01, 0x01, 0xff],
];

/// Object identifier of the algorithm SHA-256.
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// Request for a time stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampRequest {
    digest: [u8; 32],
    nonce: [u8; NONCE_BYTES],
}

/// Time stamp of a document, as its authority states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampReply {
    /// Time of the stamp, to the second.
    pub time: Timestamp,
    /// SHA-256 of the document, in hexadecimal digits.
    digest: String,
    nonce: Option<Vec<u8>>,
}

/// Defect of a reply. The message continues a sentence that names the reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// The bytes are no reply of a time-stamp authority.
    #[error("is not a time-stamp reply (RFC 3161)")]
    Malformed,
    /// The authority did not grant the request.
    #[error("refuses the request: {0}")]
    Refused(String),
    /// The stamp is about another document.
    #[error("is a time stamp of another document")]
    OtherDigest,
    /// The stamp answers another request.
    #[error("answers another request")]
    OtherNonce,
}

impl From<der::Error> for TimestampError {
    fn from(_: der::Error) -> Self {
        Self::Malformed
    }
}

impl TimestampRequest {
    /// Creates the request for a document. The nonce is random; its sign bit is dropped, so that it has one form.
    pub fn new(document: &[u8], nonce: u64) -> Self {
        // An INTEGER of eight bytes: not negative, and the first byte not zero.
        let nonce = nonce & (u64::MAX >> 1) | 1 << 62;
        Self {
            digest: Sha256::digest(document).into(),
            nonce: nonce.to_be_bytes(),
        }
    }

    /// Returns the DER encoding.
    pub fn encode(&self) -> Vec<u8> {
        let [head, nonce, certificates] = REQUEST;
        [head, &self.digest, nonce, &self.nonce, certificates].concat()
    }

    /// Checks that a reply answers this request.
    pub fn check(&self, reply: &TimestampReply) -> Result<(), TimestampError> {
        reply.check_digest(&hex(&self.digest))?;
        match &reply.nonce {
            Some(nonce) if *nonce == self.nonce => Ok(()),
            Some(_) | None => Err(TimestampError::OtherNonce),
        }
    }
}

impl TimestampReply {
    /// Parses a reply that grants a time stamp.
    pub fn parse(bytes: &[u8]) -> Result<Self, TimestampError> {
        let reply = children(AnyRef::from_der(bytes)?, Tag::Sequence)?;
        let status = children(part(&reply, 0)?, Tag::Sequence)?;
        // 0: granted; 1: granted with modifications.
        if !matches!(part(&status, 0)?.value(), [0 | 1]) {
            return Err(TimestampError::Refused(status_text(&status)));
        }
        let signed = children(content(part(&reply, 1)?, 1)?, Tag::Sequence)?;
        let info = content(part(&signed, 2)?, 1)?.decode_as::<&OctetStringRef>()?;
        let info = children(AnyRef::from_der(info.as_bytes())?, Tag::Sequence)?;
        let imprint = children(part(&info, 2)?, Tag::Sequence)?;
        let algorithm = children(part(&imprint, 0)?, Tag::Sequence)?;
        if part(&algorithm, 0)?.value() != SHA256_OID {
            return Err(TimestampError::OtherDigest);
        }
        let mut optional = info.iter().skip(5);
        Ok(Self {
            time: parse_time(part(&info, 4)?.value()).ok_or(TimestampError::Malformed)?,
            digest: hex(part(&imprint, 1)?.value()),
            nonce: optional
                .find(|part| part.header().tag() == Tag::Integer)
                .map(|nonce| nonce.value().to_vec()),
        })
    }

    /// Checks that the stamp is about a document with this SHA-256, in hexadecimal digits.
    pub fn check_digest(&self, digest: &str) -> Result<(), TimestampError> {
        if self.digest == digest {
            Ok(())
        } else {
            Err(TimestampError::OtherDigest)
        }
    }
}

/// Returns the elements of a constructed value.
fn children(of: AnyRef<'_>, tag: Tag) -> Result<Vec<AnyRef<'_>>, TimestampError> {
    of.header().tag().assert_eq(tag)?;
    let mut reader = SliceReader::new(of.value())?;
    let mut children = Vec::new();
    while !reader.is_finished() {
        children.push(AnyRef::decode(&mut reader)?);
    }
    Ok(children)
}

fn part<'a>(of: &[AnyRef<'a>], index: usize) -> Result<AnyRef<'a>, TimestampError> {
    of.get(index).copied().ok_or(TimestampError::Malformed)
}

/// Returns the value inside the explicit tag of an element.
fn content(of: AnyRef<'_>, index: usize) -> Result<AnyRef<'_>, TimestampError> {
    let tagged = part(&children(of, Tag::Sequence)?, index)?;
    Ok(AnyRef::from_der(tagged.value())?)
}

/// Returns the text of a refusal.
fn status_text(status: &[AnyRef<'_>]) -> String {
    let texts = status.iter().filter(|part| part.header().tag() == Tag::Sequence);
    let texts = texts
        .filter_map(|texts| children(*texts, Tag::Sequence).ok())
        .flatten();
    let texts: Vec<String> = texts
        .map(|text| {
            String::from_utf8_lossy(text.value())
                .chars()
                .take(STATUS_TEXT_CHARS)
                .collect()
        })
        .collect();
    match &*texts.join("; ") {
        "" => "it gives no reason".to_owned(),
        text => sanitize(text).into_owned(),
    }
}

/// Parses a `GeneralizedTime` in UTC, to the second.
fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let seconds = text.split('.').next()?;
    let time = BrokenDownTime::parse("%Y%m%d%H%M%S", seconds).ok()?;
    let time = time.to_datetime().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(time.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reply of `openssl ts` to the request for `text` with [`NONCE`].
    const REPLY: &[u8] = include_bytes!("../../tests/fixtures/timestamp/text.tsr");
    /// Reply of `openssl ts` that refuses a digest of another algorithm.
    const REFUSAL: &[u8] = include_bytes!("../../tests/fixtures/timestamp/refused.tsr");
    const NONCE: u64 = 0x0102_0304_0506_0708;

    #[test]
    fn a_reply_counts_for_its_document_and_its_request() {
        let request = TimestampRequest::new(b"text", NONCE);
        let reply = TimestampReply::parse(REPLY).unwrap();
        assert_eq!(request.check(&reply), Ok(()));
        assert_eq!(reply.check_digest(&hex(&Sha256::digest(b"text"))), Ok(()));
        let other = TimestampRequest::new(b"test", NONCE);
        assert_eq!(other.check(&reply), Err(TimestampError::OtherDigest));
        let other = TimestampRequest::new(b"text", NONCE + 1);
        assert_eq!(other.check(&reply), Err(TimestampError::OtherNonce));
        assert_eq!(reply.time.to_string(), "2026-11-30T14:05:45Z");
    }

    #[test]
    fn a_refusal_says_why_and_damage_is_an_error() {
        let refused = TimestampReply::parse(REFUSAL).unwrap_err();
        assert!(
            matches!(&refused, TimestampError::Refused(why) if why.contains("algorithm")),
            "{refused}"
        );
        for end in 0..REPLY.len() {
            assert_eq!(
                TimestampReply::parse(&REPLY[..end]),
                Err(TimestampError::Malformed),
                "{end}"
            );
        }
        for bytes in [
            &b"<html>"[..],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0x80],
        ] {
            assert_eq!(TimestampReply::parse(bytes), Err(TimestampError::Malformed));
        }
    }

    #[test]
    fn a_time_may_have_a_fraction() {
        let time = |text: &str| parse_time(text.as_bytes()).map(|time| time.to_string());
        assert_eq!(
            time("20261130140500.25Z").as_deref(),
            Some("2026-11-30T14:05:00Z")
        );
        assert_eq!(time("20261130140500Z").as_deref(), Some("2026-11-30T14:05:00Z"));
        assert_eq!(time("20261130140500"), None);
        assert_eq!(time("20261330140500Z"), None);
    }
}
