//! The head of a chain: its newest manifest, to be remembered outside the bucket. No I/O.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Largest sequence number of a manifest: its key has eight digits.
pub const SEQUENCE_MAX: u64 = 99_999_999;

/// Number of hexadecimal digits of a SHA-256.
const DIGEST_DIGITS: usize = 64;

/// The newest manifest of a chain, written `SEQ:SHA256`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Sequence number, 1 to [`SEQUENCE_MAX`].
    pub sequence: u64,
    /// SHA-256 of the bytes of the manifest: 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Id of the key that signed the manifest; `None`: it is not signed, or the key is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

/// The newest manifest, and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadRecord {
    /// The manifest.
    pub head: Head,
    /// Time at which it was written, by the store's clock; `None`: not known.
    pub written_at: Option<Timestamp>,
}

impl From<Head> for HeadRecord {
    fn from(head: Head) -> Self {
        Self {
            head,
            written_at: None,
        }
    }
}

/// Text that is not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a head: expected SEQ:SHA256, the number of a manifest and its digest, for example 14: and the 64 digits that `sha256sum _manifests/00000014.json` prints"
)]
pub struct InvalidHead;

impl Head {
    /// Creates a head without the id of a key. Error: the number or the digest is not valid.
    pub fn new(sequence: u64, sha256: &str) -> Result<Self, InvalidHead> {
        let digits = sha256.len() == DIGEST_DIGITS && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits || !(1..=SEQUENCE_MAX).contains(&sequence) {
            return Err(InvalidHead);
        }
        Ok(Self {
            sequence,
            sha256: sha256.to_ascii_lowercase(),
            key_id: None,
        })
    }

    /// Returns true if both name the same manifest with the same content.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.sequence, &self.sha256) == (other.sequence, &other.sha256)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.sha256)
    }
}

impl FromStr for Head {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let (sequence, sha256) = text.trim().split_once(':').ok_or(InvalidHead)?;
        let decimal = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
        let sequence = sequence.parse().ok().filter(|_| decimal).ok_or(InvalidHead)?;
        Self::new(sequence, sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_round_trips_as_text_and_refuses_anything_else() {
        let sha256 = "9f".repeat(32);
        let head: Head = format!("14:{sha256}").parse().unwrap();
        assert_eq!((head.sequence, &head.sha256, &head.key_id), (14, &sha256, &None));
        assert_eq!(head.to_string().parse(), Ok(head.clone()));
        assert_eq!(
            format!("00000014:{}", sha256.to_uppercase()).parse(),
            Ok(head.clone())
        );
        let signed = Head {
            key_id: Some("1f".repeat(32)),
            ..head.clone()
        };
        assert!(signed.is_same(&head) && signed != head);
        for text in [
            String::new(),
            sha256.clone(),
            format!("0:{sha256}"),
            format!("+1:{sha256}"),
            format!("100000000:{sha256}"),
            format!("1:{}", &sha256[1..]),
            format!("1:{}g", &sha256[1..]),
            format!("1:{sha256}:2"),
        ] {
            assert_eq!(text.parse::<Head>(), Err(InvalidHead), "{text}");
        }
    }
}
