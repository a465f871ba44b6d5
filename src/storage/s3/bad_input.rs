//! Properties of the readers of S3 replies, for tests and fuzzing. No I/O.

// A panic reports the violated property.
#![allow(clippy::missing_panics_doc, clippy::needless_for_each)]

use std::time::Duration;

use super::S3Credentials;
use super::errors::{Redactor, RequestContext, S3ErrorResponse, S3Operation, error_from_response};
use super::listing::decode_key;
use crate::fuzzing::{SECRET, assert_no_secret, insert_secret};
use crate::storage::StoreErrorClass;

/// Checks that a key survives the encoding of a listing, and that any other text decodes without a panic.
pub(crate) fn check_listed_key(key: &str) {
    let encoded: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
    assert_eq!(decode_key(encoded, true), key);
    assert_eq!(decode_key(key.to_owned(), false), key);
    let _ = decode_key(key.to_owned(), true);
}

/// Checks that an error reply with this code and message gives a short, classified error without secrets.
pub(crate) fn check_error_responses(data: &[u8]) {
    let text = insert_secret(data);
    let text = String::from_utf8_lossy(&text);
    let (code, message) = text.split_once('\n').unwrap_or((&text, &text));
    let credentials = S3Credentials::Static {
        access_key_id: "AKID".to_owned(),
        secret_access_key: SECRET.to_owned().into(),
        session_token: None,
    };
    let redactor = Redactor::of(&credentials);
    let first = data.first().copied().unwrap_or(0);
    let statuses = [200, 301, 400, 403, 404, 409, 412, 429, 500, 501, 503, 507];
    let status = statuses
        .get(usize::from(first) % statuses.len())
        .copied()
        .unwrap_or(400);
    for operation in [
        S3Operation::Write,
        S3Operation::WriteLocked,
        S3Operation::List,
        S3Operation::Delete,
    ] {
        let context = RequestContext {
            store: "s3://audit",
            operation,
            key: "tracker/k",
            upload: "",
            via_proxy: "",
        };
        let error = error_from_response(
            context,
            &redactor,
            S3ErrorResponse {
                status,
                code,
                message,
                retry_after: (first & 1 == 1).then(|| Duration::from_secs(u64::MAX)),
                bucket_region: (first & 2 == 2).then_some(message),
                endpoint: (first & 4 == 4).then_some(message),
            },
        );
        assert_no_secret(&error.to_string());
        if let StoreErrorClass::Retry(Some(retry_after)) = error.class() {
            // The sum with a pause of our own must not overflow.
            let _ = retry_after.saturating_add(Duration::from_secs(1));
        }
    }
}
