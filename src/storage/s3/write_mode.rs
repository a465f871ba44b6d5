//! Method of writes: the checksum headers that a store understands. No I/O.

use super::{ChecksumMode, S3Settings};
use crate::storage::StoreError;

/// Checksum headers of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteMode {
    /// The checksum in a header of its own. Without one, bodies are signed by their SHA-256.
    pub(super) checksum: ChecksumMode,
    /// True if bodies are sent with `Content-MD5`.
    pub(super) content_md5: bool,
}

impl WriteMode {
    /// Returns the mode of the settings. S3 requires `Content-MD5` or a checksum header for writes with object lock.
    pub(super) fn of(settings: &S3Settings) -> Self {
        Self {
            checksum: settings.checksum,
            content_md5: settings.checksum == ChecksumMode::None && settings.object_lock.is_some(),
        }
    }

    /// Returns the mode to try after a refusal, `None` if another mode does not help.
    pub(super) fn after(self, error: &StoreError) -> Option<Self> {
        let text = error.to_string().to_ascii_lowercase();
        let names = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if names(&["content-md5"]) {
            return (!self.content_md5).then_some(Self {
                content_md5: true,
                ..self
            });
        }
        let checksum = names(&["checksum", "crc64", "crc32"])
            // "A header you provided implies functionality that is not implemented."
            || (matches!(error, StoreError::Unsupported { .. }) && !names(&["if-none-match"]));
        // Safe: the store compares the SHA-256 that the signature covers.
        (checksum && self.checksum != ChecksumMode::None).then_some(Self {
            checksum: ChecksumMode::None,
            ..self
        })
    }

    /// Returns the settings that avoid the refused request from the start.
    pub(super) fn setting(self) -> &'static str {
        match (self.checksum, self.content_md5) {
            (ChecksumMode::None, false) => "bodies signed by SHA-256 (set checksum: SHA256)",
            (ChecksumMode::None, true) => "bodies signed by SHA-256 and Content-MD5 (set checksum: SHA256)",
            (ChecksumMode::Crc64Nvme | ChecksumMode::Crc32c, _) => "Content-MD5",
        }
    }
}

/// Returns true if a store refuses a write as such: a repetition, another key or another time would not help.
pub(super) fn is_refusal(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unsupported { .. }
            | StoreError::AttributesRejected { .. }
            | StoreError::Rejected {
                status: 400..=499 | 501,
                ..
            }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(message: &str) -> StoreError {
        StoreError::Rejected {
            store: "s3://b".into(),
            status: 400,
            code: "InvalidRequest".into(),
            message: message.into(),
        }
    }

    #[test]
    fn a_refused_checksum_falls_back_to_signed_bodies_and_md5() {
        let mode = |checksum, content_md5| WriteMode {
            checksum,
            content_md5,
        };
        let crc64 = mode(ChecksumMode::Crc64Nvme, false);
        let unsupported = |what: &str| StoreError::Unsupported {
            store: "s3://b".into(),
            what: what.into(),
        };
        for (error, from, to) in [
            (
                rejected("Value for x-amz-checksum-algorithm header is invalid."),
                crc64,
                Some(mode(ChecksumMode::None, false)),
            ),
            (
                unsupported("A header you provided implies functionality that is not implemented"),
                crc64,
                Some(mode(ChecksumMode::None, false)),
            ),
            (
                rejected("Content-MD5 HTTP header is required"),
                crc64,
                Some(mode(ChecksumMode::Crc64Nvme, true)),
            ),
            (
                rejected("Content-MD5 OR x-amz-checksum- HTTP header is required"),
                mode(ChecksumMode::None, true),
                None,
            ),
            (unsupported("If-None-Match"), crc64, None),
            (rejected("no"), crc64, None),
            (rejected("checksum"), mode(ChecksumMode::None, false), None),
        ] {
            assert_eq!(from.after(&error), to, "{error}");
        }
    }
}
