//! Conversion of S3 error replies and SDK errors to [`StoreError`]. No I/O.

use std::error::Error;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use secrecy::{ExposeSecret as _, SecretString};

use super::S3Credentials;
use super::body::IdleTimeout;
use super::document::BadDocument;
use super::temporary_credentials::TemporaryCredentials;
use crate::api::{MAX_REDACTED_CHARS, Remedy, Setting, find_cause, redact, redact_error};
use crate::egress::{HostDenied, reply_text};
use crate::storage::{CredentialsOrigin, IdentityError, StoreError};

/// Error codes for wrong, unknown or expired credentials. Some have status 400.
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
/// Error codes for bytes that changed in transit.
const BAD_CHECKSUM: &[&str] = &[
    "BadDigest",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
];
/// Error codes for throttling.
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
/// Error codes for a full store.
const FULL: &[&str] = &[
    "QuotaExceeded",
    "QuotaExceededException",
    "InsufficientStorage",
    "InsufficientCapacity",
    "XMinioStorageFull",
];

/// Error codes for a rejected encryption, storage class or access control list; those of the key management service begin with
/// [`KMS_PREFIX`].
const UNSUPPORTED_ATTRIBUTES: &[&str] = &[
    "InvalidStorageClass",
    "InvalidEncryptionAlgorithmError",
    "InvalidBucketState",
    "MissingObjectLockConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "AccessControlListNotSupported",
];
/// Prefix of error codes of a key management service.
const KMS_PREFIX: &str = "KMS.";

/// Kind of a request, which determines its IAM action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum S3Operation {
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
    /// `ListObjectVersions`
    ListVersions,
}

impl S3Operation {
    fn iam_action(self) -> &'static str {
        match self {
            Self::Write => "s3:PutObject",
            Self::WriteLocked => "s3:PutObject with s3:PutObjectRetention",
            Self::Read => "s3:GetObject",
            Self::List => "s3:ListBucket",
            Self::Delete => "s3:DeleteObject",
            Self::Abort => "s3:AbortMultipartUpload",
            Self::ListUploads => "s3:ListBucketMultipartUploads",
            Self::ListVersions => "s3:ListBucketVersions",
        }
    }
}

/// Store, operation and key of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestContext<'a> {
    pub(super) store: &'a str,
    pub(super) operation: S3Operation,
    /// A key, or a prefix.
    pub(super) key: &'a str,
    /// Upload id; empty if the request belongs to no upload.
    pub(super) upload: &'a str,
    /// The proxy on the way to the store, as the end of a message; empty without proxy.
    pub(super) via_proxy: &'a str,
}

/// Removes secrets from texts of a store, which may echo them.
#[derive(Clone, Debug, Default)]
pub(super) struct Redactor {
    keys: Vec<SecretString>,
    temporary: Option<TemporaryCredentials>,
}

impl Redactor {
    pub(super) fn of(credentials: &S3Credentials) -> Self {
        match credentials {
            S3Credentials::Temporary(credentials) => Self {
                keys: Vec::new(),
                temporary: Some(credentials.clone()),
            },
            S3Credentials::Static {
                access_key_id,
                secret_access_key,
                session_token,
            } => Self {
                keys: [
                    Some(access_key_id.clone().into()),
                    Some(secret_access_key.clone()),
                    session_token.clone(),
                ]
                .into_iter()
                .flatten()
                .collect(),
                temporary: None,
            },
        }
    }

    /// Returns where the credentials come from.
    fn origin(&self) -> CredentialsOrigin {
        let temporary = self.temporary.as_ref();
        temporary.map_or(CredentialsOrigin::Keys, TemporaryCredentials::origin)
    }

    /// Returns the error for credentials that the store rejects, and forgets them if they are temporary.
    fn rejected(&self, store: String, code: String) -> StoreError {
        if let Some(temporary) = &self.temporary {
            temporary.discard();
        }
        let origin = self.origin();
        StoreError::InvalidCredentials { store, code, origin }
    }

    /// Returns a code with the message of the store, if that says more.
    fn quote(&self, code: &str, message: &str) -> String {
        let letters = |text: &str| text.to_ascii_lowercase().replace([' ', '.'], "");
        let message = self.redact(message);
        if code.is_empty() {
            return message;
        }
        if message.is_empty() || letters(&message) == letters(code) {
            return code.to_owned();
        }
        format!("{code}: {message}")
    }

    /// Returns a text on one line, shortened, without secrets.
    fn redact(&self, text: &str) -> String {
        let secrets = self.secrets();
        redact(text, &exposed(&secrets), MAX_REDACTED_CHARS)
    }

    /// Returns an error and its causes, by the same rules.
    fn redact_error(&self, error: &(dyn Error + 'static)) -> String {
        let secrets = self.secrets();
        redact_error(error, &exposed(&secrets))
    }

    fn secrets(&self) -> Vec<SecretString> {
        let temporary = self.temporary.iter().flat_map(TemporaryCredentials::secrets);
        self.keys.iter().cloned().chain(temporary).collect()
    }
}

fn exposed(secrets: &[SecretString]) -> Vec<&str> {
    secrets.iter().map(SecretString::expose_secret).collect()
}

/// An error reply.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct S3ErrorResponse<'a> {
    /// HTTP status. It may be 200: a completion can fail after S3 has sent the headers.
    pub(super) status: u16,
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    pub(super) retry_after: Option<Duration>,
    /// Region of the bucket, if it is not the configured one.
    pub(super) bucket_region: Option<&'a str>,
    /// Address of the bucket, if it is not the configured one.
    pub(super) endpoint: Option<&'a str>,
}

/// Converts an error of the SDK.
pub(super) fn error_from_sdk<E>(
    context: RequestContext<'_>,
    redactor: &Redactor,
    error: &SdkError<E, HttpResponse>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(bad) = find_cause::<BadDocument>(error) {
        return error_from_document(context, *bad);
    }
    if let SdkError::ServiceError(response) = error {
        let raw = response.raw();
        let header = |name: &str| raw.headers().get(name);
        let body = reply_text(raw.body().bytes().unwrap_or_default());
        let message = match (response.err().message(), response.err().code()) {
            (None | Some(""), None) => page_text(&body),
            // The parser of the SDK skips CDATA.
            (None | Some(""), _) => element(&body, "Message").map_or_else(String::new, page_text),
            (Some(message), _) => message.to_owned(),
        };
        return error_from_response(
            context,
            redactor,
            S3ErrorResponse {
                status: raw.status().as_u16(),
                code: response.err().code().unwrap_or_default(),
                message: &message,
                retry_after: header("retry-after")
                    .and_then(|text| text.parse().ok())
                    .map(Duration::from_secs),
                bucket_region: header("x-amz-bucket-region"),
                // The query of a login page may hold a token.
                endpoint: element(&body, "Endpoint")
                    .or_else(|| header("location").and_then(|url| url.split(['?', '#']).next())),
            },
        );
    }
    let store = context.store.to_owned();
    if let Some(denied) = find_cause::<HostDenied>(error) {
        return StoreError::Egress(denied.clone());
    }
    if let Some(error) = find_cause::<IdentityError>(error) {
        let error = error.clone();
        return StoreError::Identity { store, error };
    }
    match error {
        // The SDK could not build the request, so a retry would fail too.
        SdkError::ConstructionFailure(_) => StoreError::InvalidSettings {
            store,
            message: redactor.redact_error(error),
            remedy: None,
        },
        _ => StoreError::Network {
            store,
            message: redactor.redact_error(error) + context.via_proxy,
        },
    }
}

/// Converts a successful reply with a bad document. One that is cut is as a reply that broke off: its request may have
/// had its effect.
fn error_from_document(context: RequestContext<'_>, bad: BadDocument) -> StoreError {
    let store = context.store.to_owned();
    match bad {
        BadDocument::WebPage => StoreError::Rejected {
            store,
            status: 200,
            code: "with a web page".to_owned(),
            message: "the endpoint is not an S3 store, or a proxy or login page answers for it".to_owned(),
        },
        BadDocument::Cut => StoreError::Network {
            store,
            message: format!("{bad}{}", context.via_proxy),
        },
    }
}

/// Converts an error reply.
pub(super) fn error_from_response(
    context: RequestContext<'_>,
    redactor: &Redactor,
    response: S3ErrorResponse<'_>,
) -> StoreError {
    let S3ErrorResponse {
        status,
        code,
        message,
        retry_after,
        bucket_region,
        endpoint,
    } = response;
    let store = context.store.to_owned();
    let key = context.key.to_owned();
    // A code is a text of the store too.
    let code = &*redactor.redact(code);
    let is = |codes: &[&str]| codes.contains(&code);
    if is(&["NoSuchBucket"]) {
        return StoreError::NoSuchBucket { store };
    }
    if is(&["NoSuchUpload"]) || (status == 404 && !context.upload.is_empty()) {
        let id = context.upload.to_owned();
        return StoreError::NoSuchUpload { store, key, id };
    }
    if is(BAD_CREDENTIALS) {
        return redactor.rejected(store, redactor.quote(code, message));
    }
    // Status 403, but no permission is missing.
    if is(&["InvalidObjectState"]) {
        return StoreError::Archived { store, key };
    }
    if is(BAD_CHECKSUM) {
        return StoreError::Corrupted { store, key };
    }
    if is(&["PreconditionFailed"]) || status == 412 {
        return StoreError::AlreadyExists { store, key };
    }
    let writes = matches!(context.operation, S3Operation::Write | S3Operation::WriteLocked);
    if rejects_attributes(context.operation, status, code, message) {
        let message = redactor.redact(message);
        let code = code.to_owned();
        return StoreError::AttributesRejected { store, code, message };
    }
    if is(&["ConditionalRequestConflict"]) || (status == 409 && writes) {
        return StoreError::Conflict { store, key };
    }
    if is(FULL) || status == 507 || (status == 403 && names_quota(message)) {
        let message = redactor.redact(message);
        return StoreError::Full { store, message };
    }
    if is(THROTTLED) || matches!(status, 429 | 503) || (status >= 500 && retry_after.is_some()) {
        let message = redactor.quote(code, message);
        return StoreError::Throttled {
            store,
            message,
            after: retry_after,
        };
    }
    if is_unsupported(status, code, message) {
        let what = format!(
            "{} with these parameters ({}): {}",
            context.operation.iam_action(),
            code.to_owned(),
            redactor.redact(message)
        );
        return StoreError::Unsupported { store, what };
    }
    // A wrong clock has status 403 too, but is not a missing permission.
    if status == 403 && code != "RequestTimeTooSkewed" {
        let code = redactor.quote(if code.is_empty() { "403" } else { code }, message);
        let action = format!("{} ({code})", context.operation.iam_action());
        return StoreError::Forbidden { store, action, key };
    }
    let redirect_region = bucket_region.filter(|_| matches!(status, 301 | 307 | 400));
    if let Some(region) = redirect_region.or_else(|| expected_region(code, message)) {
        let region = redactor.redact(region);
        return StoreError::WrongRegion { store, region };
    }
    if let Some(endpoint) = endpoint.filter(|_| matches!(status, 300..=399)) {
        let message = format!("it redirects to {}", redactor.redact(endpoint));
        let remedy = Some(Remedy::new(Setting::BucketEndpoint, "correct {}"));
        return StoreError::InvalidSettings {
            store,
            message,
            remedy,
        };
    }
    StoreError::Rejected {
        store,
        status,
        code: match code {
            "" if status < 300 => "with a body that S3 does not send".to_owned(),
            "" => "no code".to_owned(),
            code => code.to_owned(),
        },
        message: redactor.redact(message),
    }
}

/// Returns the region from the message of S3, for replies without a region header: "the region 'a' is wrong; expecting
/// 'b'".
fn expected_region<'a>(code: &str, message: &'a str) -> Option<&'a str> {
    if code != "AuthorizationHeaderMalformed" {
        return None;
    }
    let (_, expected) = message.split_once("expecting ")?;
    expected.split(['\'', '"']).find(|word| !word.is_empty())
}

/// Returns true if the message of a refusal names a quota, which has no code of its own in S3.
fn names_quota(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "cap exceeded",
        "quota exceeded",
        "exceeds the quota",
        "exceeded the quota",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// Returns the text of an element of an error document.
fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    (!text.is_empty()).then_some(text)
}

/// Returns the text of an error page that is no document of S3: its title, or all of it without tags.
fn page_text(page: &str) -> String {
    let page = page.replace("<![CDATA[", "").replace("]]>", "");
    let text = element(&page, "title").unwrap_or(&page);
    let pieces = text.split('<').enumerate();
    let outside = pieces.map(|(number, piece)| match piece.split_once('>') {
        Some((_, after)) if number > 0 => after,
        _ => piece,
    });
    outside.collect::<Vec<_>>().join(" ")
}

/// Returns true if the bucket rejects the object lock, encryption or storage class. S3 has no error code for a bucket
/// without object lock.
fn rejects_attributes(operation: S3Operation, status: u16, code: &str, message: &str) -> bool {
    let lock = operation == S3Operation::WriteLocked
        && status == 400
        && code == "InvalidRequest"
        && message.to_ascii_lowercase().contains("lock");
    lock || UNSUPPORTED_ATTRIBUTES.contains(&code) || code.starts_with(KMS_PREFIX)
}

/// Returns true if the store does not support the operation or the condition.
fn is_unsupported(status: u16, code: &str, message: &str) -> bool {
    status == 501
        || matches!(
            code,
            "NotImplemented" | "UnsupportedOperation" | "MethodNotAllowed"
        )
        || (status == 400 && message.to_ascii_lowercase().contains("if-none-match"))
}

/// Converts an idle timeout.
pub(super) fn idle_timeout(context: RequestContext<'_>, IdleTimeout(idle): IdleTimeout) -> StoreError {
    StoreError::Network {
        store: context.store.to_owned(),
        message: format!(
            "no data for {} s during {}{}",
            idle.as_secs(),
            context.operation.iam_action(),
            context.via_proxy
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SettingNames;

    const CONTEXT: RequestContext<'static> = RequestContext {
        store: "s3://audit",
        operation: S3Operation::Write,
        key: "k",
        upload: "",
        via_proxy: "",
    };

    fn error_of(status: u16, code: &str, message: &str) -> StoreError {
        let response = S3ErrorResponse {
            status,
            code,
            message,
            ..S3ErrorResponse::default()
        };
        error_from_response(CONTEXT, &Redactor::default(), response)
    }

    #[test]
    fn each_error_code_maps_to_its_store_error() {
        let table: &[(u16, &str, &str, &str)] = &[
            (404, "NoSuchBucket", "", "NoSuchBucket"),
            (404, "NoSuchUpload", "", "NoSuchUpload"),
            (403, "SignatureDoesNotMatch", "", "InvalidCredentials"),
            (400, "ExpiredToken", "", "InvalidCredentials"),
            (403, "AccessDenied", "", "Forbidden"),
            (403, "", "", "Forbidden"),
            (403, "RequestTimeTooSkewed", "", "Rejected"),
            (403, "InvalidObjectState", "", "Archived"),
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
            (400, "InvalidArgument", "no", "Rejected"),
            (400, "InvalidStorageClass", "", "AttributesRejected"),
            (400, "KMS.NotFoundException", "", "AttributesRejected"),
            (
                400,
                "InvalidRequest",
                "Bucket is missing Object Lock Configuration",
                "Rejected",
            ),
            (503, "SlowDown", "", "Throttled"),
            (200, "SlowDown", "", "Throttled"),
            (500, "InternalError", "", "Rejected"),
            (507, "", "", "Full"),
        ];
        for (status, code, message, wanted) in table {
            let error = error_of(*status, code, message);
            assert!(
                format!("{error:?}").starts_with(wanted),
                "{status} {code}: {error:?}"
            );
        }
    }

    #[test]
    fn a_locked_write_to_a_bucket_without_object_lock_is_rejected() {
        let context = RequestContext {
            operation: S3Operation::WriteLocked,
            ..CONTEXT
        };
        let response = S3ErrorResponse {
            status: 400,
            code: "InvalidRequest",
            message: "Bucket is missing Object Lock Configuration",
            ..S3ErrorResponse::default()
        };
        let error = error_from_response(context, &Redactor::default(), response);
        assert!(
            matches!(error, StoreError::AttributesRejected { .. }),
            "{error:?}"
        );
        let text = error.describe(&SettingNames::default());
        assert!(text.contains("objectLock"), "{text}");
    }

    #[test]
    fn an_error_names_bucket_code_and_action_and_no_secret() {
        let text = error_of(403, "AccessDenied", "").to_string();
        for word in ["s3://audit", "AccessDenied", "s3:PutObject"] {
            assert!(text.contains(word), "{text}");
        }
        let redactor = Redactor {
            keys: vec!["hush".into()],
            temporary: None,
        };
        assert_eq!(redactor.redact("token\n  hush  here"), "token [redacted] here");
        assert_eq!(
            redactor.redact(&"é".repeat(999)).chars().count(),
            MAX_REDACTED_CHARS
        );
    }

    #[test]
    fn a_page_that_is_no_document_of_s3_is_quoted() {
        assert_eq!(
            page_text("<html><head><title>Blocked by ACME</title></head></html>"),
            "Blocked by ACME"
        );
        assert_eq!(
            page_text("upstream <b>down</b> now")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            "upstream down now"
        );
    }

    #[test]
    fn a_reply_without_text_has_no_colon_at_its_end() {
        for (status, code, shown) in [
            (507, "", "s3://audit is full"),
            (503, "", "s3://audit throttles requests"),
            (404, "", "s3://audit answered 404 no code"),
            (
                200,
                "",
                "s3://audit answered 200 with a body that S3 does not send",
            ),
        ] {
            assert_eq!(error_of(status, code, "").to_string(), shown);
        }
        let shown = error_of(503, "SlowDown", "in maintenance").to_string();
        assert_eq!(shown, "s3://audit throttles requests: SlowDown: in maintenance");
    }

    #[test]
    fn an_error_names_the_region_of_a_bucket_elsewhere() {
        let response = S3ErrorResponse {
            status: 301,
            code: "PermanentRedirect",
            bucket_region: Some("eu-west-1"),
            ..S3ErrorResponse::default()
        };
        let names = SettingNames::default();
        let text = error_from_response(CONTEXT, &Redactor::default(), response).describe(&names);
        assert!(
            text.contains("eu-west-1") && text.contains("spec.destination.s3.region"),
            "{text}"
        );
        // Some stores name it only in the message.
        for quote in ['\'', '"'] {
            let message =
                format!("the region {quote}us-east-1{quote} is wrong; expecting {quote}eu-west-1{quote}");
            let response = S3ErrorResponse {
                status: 400,
                code: "AuthorizationHeaderMalformed",
                message: &message,
                ..S3ErrorResponse::default()
            };
            let error = error_from_response(CONTEXT, &Redactor::default(), response);
            assert_eq!(error.describe(&names), text);
        }
    }
}
