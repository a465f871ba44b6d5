//! What S3 answers, in the words of [`StoreError`]. No I/O.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use secrecy::{ExposeSecret as _, SecretString};

use super::s3_body::Stalled;
use super::{S3Credentials, StoreError};
use crate::egress::{Denied, without_tokens};

/// The most of a store's own words that is passed on, in characters.
const WORDS_MAX: usize = 300;
/// The longest chain of causes that is followed.
const CAUSES_MAX: usize = 16;

/// Codes of keys that are wrong, unknown or spent. Some come as 400.
const BAD_CREDENTIALS: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "InvalidSecurity",
    "NotSignedUp",
    "XAmzSecurityTokenInvalid",
];
/// Codes of bytes that changed on the way.
const BAD_CHECKSUM: &[&str] = &[
    "BadDigest",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
];
/// Codes of a store that is asked too much.
const THROTTLED: &[&str] = &[
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
];
/// Codes of a store without room.
const FULL: &[&str] = &[
    "QuotaExceeded",
    "QuotaExceededException",
    "InsufficientStorage",
    "InsufficientCapacity",
    "XMinioStorageFull",
];

/// Codes of an encryption or storage class that the bucket does not take; those of the key management service begin
/// with [`KMS`].
const NOT_TAKEN: &[&str] = &[
    "InvalidStorageClass",
    "InvalidEncryptionAlgorithmError",
    "InvalidBucketState",
    "MissingObjectLockConfiguration",
    "ObjectLockConfigurationNotFoundError",
];
/// How the codes of a key management service begin.
const KMS: &str = "KMS.";

/// One kind of request, for its IAM action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// `PutObject`, `UploadPart`, `CompleteMultipartUpload`
    Write,
    /// `PutObject` and `CreateMultipartUpload` with retention
    WriteLocked,
    /// `GetObject`, `HeadObject`
    Read,
    /// `ListObjectsV2`, `HeadBucket`
    List,
    /// `DeleteObject`, `DeleteObjects`
    Delete,
    /// `AbortMultipartUpload`
    Abort,
    /// `ListMultipartUploads`
    ListUploads,
    /// `ListParts`
    ListParts,
}

impl Operation {
    fn action(self) -> &'static str {
        match self {
            Self::Write => "s3:PutObject",
            Self::WriteLocked => "s3:PutObject with s3:PutObjectRetention",
            Self::Read => "s3:GetObject",
            Self::List => "s3:ListBucket",
            Self::Delete => "s3:DeleteObject",
            Self::Abort => "s3:AbortMultipartUpload",
            Self::ListUploads => "s3:ListBucketMultipartUploads",
            Self::ListParts => "s3:ListMultipartUploadParts",
        }
    }
}

/// What a request was about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) store: &'a str,
    pub(super) operation: Operation,
    /// A key, or a prefix.
    pub(super) key: &'a str,
    /// Of the upload that it belongs to; empty outside of one.
    pub(super) upload: &'a str,
}

/// Texts that no error may carry, whatever a store echoes.
#[derive(Clone, Debug, Default)]
pub(super) struct Unspeakable(Vec<SecretString>);

impl Unspeakable {
    pub(super) fn of(credentials: &S3Credentials) -> Self {
        Self(match credentials {
            S3Credentials::PodIdentity => Vec::new(),
            S3Credentials::Static {
                access_key_id,
                secret_access_key,
                session_token,
            } => [
                Some(access_key_id.clone().into()),
                Some(secret_access_key.clone()),
                session_token.clone(),
            ]
            .into_iter()
            .flatten()
            .collect(),
        })
    }

    /// On one line, shortened, without secrets.
    fn clean(&self, words: &str) -> String {
        let mut words = words.to_owned();
        for secret in &self.0 {
            words = words.replace(secret.expose_secret(), "…");
        }
        let line = without_tokens(&words);
        match line.char_indices().nth(WORDS_MAX) {
            Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
            None => line,
        }
    }
}

/// A reply that says no.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refusal<'a> {
    /// HTTP status; 200 too, as S3 may find out late that a completion fails.
    pub(super) status: u16,
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    pub(super) retry_after: Option<Duration>,
    /// Where the bucket is, when it is elsewhere.
    pub(super) bucket_region: Option<&'a str>,
}

/// An error of the SDK.
pub(super) fn translate<E>(
    subject: Subject<'_>,
    unspeakable: &Unspeakable,
    error: &SdkError<E, HttpResponse>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let SdkError::ServiceError(refusal) = error {
        let raw = refusal.raw();
        let header = |name: &str| raw.headers().get(name);
        return refused(
            subject,
            unspeakable,
            Refusal {
                status: raw.status().as_u16(),
                code: refusal.err().code().unwrap_or_default(),
                message: refusal.err().message().unwrap_or_default(),
                retry_after: header("retry-after")
                    .and_then(|text| text.parse().ok())
                    .map(Duration::from_secs),
                bucket_region: header("x-amz-bucket-region"),
            },
        );
    }
    let store = subject.store.to_owned();
    if let Some(denied) = cause::<Denied>(error) {
        return StoreError::Egress(denied.clone());
    }
    if let Some(missing) = cause::<CredentialsError>(error) {
        let code = unspeakable.clean(&causes(missing));
        return StoreError::Credentials { store, code };
    }
    match error {
        // The SDK could not word the request: it would be the same the next time.
        SdkError::ConstructionFailure(_) => StoreError::Settings {
            store,
            message: unspeakable.clean(&causes(error)),
        },
        _ => StoreError::Network {
            store,
            message: unspeakable.clean(&causes(error)),
        },
    }
}

/// A refusal in S3's own words.
pub(super) fn refused(subject: Subject<'_>, unspeakable: &Unspeakable, refusal: Refusal<'_>) -> StoreError {
    let Refusal {
        status,
        code,
        message,
        retry_after,
        bucket_region,
    } = refusal;
    let store = subject.store.to_owned();
    let key = subject.key.to_owned();
    // Codes are the store's words too.
    let code = &*unspeakable.clean(code);
    let is = |codes: &[&str]| codes.contains(&code);
    if is(&["NoSuchBucket"]) {
        return StoreError::NoSuchBucket { store };
    }
    if is(&["NoSuchUpload"]) || (status == 404 && !subject.upload.is_empty()) {
        let id = subject.upload.to_owned();
        return StoreError::NoSuchUpload { store, key, id };
    }
    if is(BAD_CREDENTIALS) {
        let code = code.to_owned();
        return StoreError::Credentials { store, code };
    }
    if is(BAD_CHECKSUM) {
        return StoreError::Corrupted { store, key };
    }
    if is(&["PreconditionFailed"]) || status == 412 {
        return StoreError::AlreadyExists { store, key };
    }
    let writes = matches!(subject.operation, Operation::Write | Operation::WriteLocked);
    if not_taken(subject.operation, status, code, message) {
        let message = unspeakable.clean(message);
        let code = code.to_owned();
        return StoreError::NotTaken { store, code, message };
    }
    if is(&["ConditionalRequestConflict"]) || (status == 409 && writes) {
        return StoreError::Conflict { store, key };
    }
    if is(FULL) || status == 507 {
        let message = unspeakable.clean(message);
        return StoreError::Full { store, message };
    }
    if is(THROTTLED) || matches!(status, 429 | 503) || (status >= 500 && retry_after.is_some()) {
        let after = retry_after;
        return StoreError::Throttled { store, after };
    }
    if unsupported(status, code, message) {
        let what = format!(
            "{} as asked ({}): {}",
            subject.operation.action(),
            code.to_owned(),
            unspeakable.clean(message)
        );
        return StoreError::Unsupported { store, what };
    }
    // A clock that is wrong comes as 403 as well, and is no matter of permission.
    if status == 403 && code != "RequestTimeTooSkewed" {
        let code = if code.is_empty() {
            "403".to_owned()
        } else {
            code.to_owned()
        };
        let action = format!("{} ({code})", subject.operation.action());
        return StoreError::Forbidden { store, action, key };
    }
    let elsewhere = bucket_region.filter(|_| matches!(status, 301 | 307 | 400));
    if let Some(region) = elsewhere.or_else(|| expected_region(code, message)) {
        let region = unspeakable.clean(region);
        return StoreError::Elsewhere { store, region };
    }
    StoreError::Refused {
        store,
        status,
        code: if code.is_empty() {
            "no code".into()
        } else {
            code.to_owned()
        },
        message: unspeakable.clean(message),
    }
}

/// The region that a request has to be signed for, as S3 words it where the bucket's is no header: "the region 'a' is
/// wrong; expecting 'b'".
fn expected_region<'a>(code: &str, message: &'a str) -> Option<&'a str> {
    if code != "AuthorizationHeaderMalformed" {
        return None;
    }
    let (_, expected) = message.split_once("expecting ")?;
    expected.split(['\'', '"']).find(|word| !word.is_empty())
}

/// Whether the bucket does not take the lock, encryption or storage class that was asked for. A bucket without object
/// lock has no code of its own.
fn not_taken(operation: Operation, status: u16, code: &str, message: &str) -> bool {
    let lock = operation == Operation::WriteLocked
        && status == 400
        && code == "InvalidRequest"
        && message.to_ascii_lowercase().contains("lock");
    lock || NOT_TAKEN.contains(&code) || code.starts_with(KMS)
}

/// Whether the store does not know what it was asked for: an operation, or a condition.
fn unsupported(status: u16, code: &str, message: &str) -> bool {
    status == 501
        || matches!(
            code,
            "NotImplemented" | "UnsupportedOperation" | "MethodNotAllowed"
        )
        || (status == 400 && message.to_ascii_lowercase().contains("if-none-match"))
}

/// Nothing moved.
pub(super) fn stalled(subject: Subject<'_>, Stalled(idle): Stalled) -> StoreError {
    StoreError::Network {
        store: subject.store.to_owned(),
        message: format!(
            "nothing moved for {} s during {}",
            idle.as_secs(),
            subject.operation.action()
        ),
    }
}

fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

/// All causes in a row; what an outer one repeats of its cause is said once.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in chain(error) {
        let text = cause.to_string();
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source()).take(CAUSES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'static> = Subject {
        store: "s3://audit",
        operation: Operation::Write,
        key: "k",
        upload: "",
    };

    fn said(status: u16, code: &str, message: &str) -> StoreError {
        let refusal = Refusal {
            status,
            code,
            message,
            ..Refusal::default()
        };
        refused(SUBJECT, &Unspeakable::default(), refusal)
    }

    #[test]
    fn each_refusal_is_what_the_engine_has_to_do_about_it() {
        let table: &[(u16, &str, &str, &str)] = &[
            (404, "NoSuchBucket", "", "NoSuchBucket"),
            (404, "NoSuchUpload", "", "NoSuchUpload"),
            (403, "SignatureDoesNotMatch", "", "Credentials"),
            (400, "ExpiredToken", "", "Credentials"),
            (403, "AccessDenied", "", "Forbidden"),
            (403, "", "", "Forbidden"),
            (403, "RequestTimeTooSkewed", "", "Refused"),
            (400, "BadDigest", "", "Corrupted"),
            (412, "PreconditionFailed", "", "AlreadyExists"),
            (409, "ConditionalRequestConflict", "", "Conflict"),
            (501, "NotImplemented", "", "Unsupported"),
            (
                400,
                "InvalidArgument",
                "header If-None-Match is not allowed",
                "Unsupported",
            ),
            (400, "InvalidArgument", "no", "Refused"),
            (400, "InvalidStorageClass", "", "NotTaken"),
            (400, "KMS.NotFoundException", "", "NotTaken"),
            (
                400,
                "InvalidRequest",
                "Bucket is missing Object Lock Configuration",
                "Refused",
            ),
            (503, "SlowDown", "", "Throttled"),
            (200, "SlowDown", "", "Throttled"),
            (500, "InternalError", "", "Refused"),
            (507, "", "", "Full"),
        ];
        for (status, code, message, wanted) in table {
            let error = said(*status, code, message);
            assert!(
                format!("{error:?}").starts_with(wanted),
                "{status} {code}: {error:?}"
            );
        }
    }

    #[test]
    fn a_bucket_without_lock_is_told_by_a_write_that_asks_for_one() {
        let subject = Subject {
            operation: Operation::WriteLocked,
            ..SUBJECT
        };
        let refusal = Refusal {
            status: 400,
            code: "InvalidRequest",
            message: "Bucket is missing Object Lock Configuration",
            ..Refusal::default()
        };
        let error = refused(subject, &Unspeakable::default(), refusal);
        assert!(matches!(error, StoreError::NotTaken { .. }), "{error:?}");
        assert!(error.to_string().contains("objectLock"), "{error}");
    }

    #[test]
    fn an_error_names_bucket_code_and_action_and_no_secret() {
        let text = said(403, "AccessDenied", "").to_string();
        for word in ["s3://audit", "AccessDenied", "s3:PutObject"] {
            assert!(text.contains(word), "{text}");
        }
        let unspeakable = Unspeakable(vec!["hush".into()]);
        assert_eq!(unspeakable.clean("token\n  hush  here"), "token … here");
        assert_eq!(unspeakable.clean(&"é".repeat(999)).chars().count(), WORDS_MAX + 1);
    }

    #[test]
    fn a_bucket_elsewhere_is_told_with_its_region() {
        let refusal = Refusal {
            status: 301,
            code: "PermanentRedirect",
            bucket_region: Some("eu-west-1"),
            ..Refusal::default()
        };
        let text = refused(SUBJECT, &Unspeakable::default(), refusal).to_string();
        assert!(
            text.contains("eu-west-1") && text.contains("spec.destination.s3.region"),
            "{text}"
        );
        // Some say it in words only.
        for quote in ['\'', '"'] {
            let message =
                format!("the region {quote}us-east-1{quote} is wrong; expecting {quote}eu-west-1{quote}");
            let refusal = Refusal {
                status: 400,
                code: "AuthorizationHeaderMalformed",
                message: &message,
                ..Refusal::default()
            };
            let told = refused(SUBJECT, &Unspeakable::default(), refusal).to_string();
            assert_eq!(told, text);
        }
    }
}
