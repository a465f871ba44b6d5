//! What holds of whatever a store says. For tests and fuzzing. No I/O.

// To panic where a property does not hold is what these are for.
#![allow(clippy::missing_panics_doc, clippy::needless_for_each)]

use std::time::Duration;

use super::s3_errors::{Operation, Refusal, Subject, Unspeakable, refused};
use super::s3_list::decode;
use super::{S3Credentials, StoreErrorClass};
use crate::fuzzing::{SECRET, tells_no_secret, with_secret};

/// A key that is encoded as a listing has it decodes to itself; any other decodes to something.
pub(crate) fn listed_key(key: &str) {
    let encoded: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
    assert_eq!(decode(encoded, true), key);
    assert_eq!(decode(key.to_owned(), false), key);
    let _ = decode(key.to_owned(), true);
}

/// A refusal with these words as code and message: short, without secrets, classified.
pub(crate) fn refusals(data: &[u8]) {
    let said = with_secret(data);
    let said = String::from_utf8_lossy(&said);
    let (code, message) = said.split_once('\n').unwrap_or((&said, &said));
    let credentials = S3Credentials::Static {
        access_key_id: "AKID".to_owned(),
        secret_access_key: SECRET.to_owned().into(),
        session_token: None,
    };
    let unspeakable = Unspeakable::of(&credentials);
    let first = data.first().copied().unwrap_or(0);
    let statuses = [200, 301, 400, 403, 404, 409, 412, 429, 500, 501, 503, 507];
    let status = statuses
        .get(usize::from(first) % statuses.len())
        .copied()
        .unwrap_or(400);
    for operation in [
        Operation::Write,
        Operation::WriteLocked,
        Operation::List,
        Operation::Delete,
    ] {
        let subject = Subject {
            store: "s3://audit",
            operation,
            key: "tracker/k",
            upload: "",
        };
        let error = refused(
            subject,
            &unspeakable,
            Refusal {
                status,
                code,
                message,
                retry_after: (first & 1 == 1).then(|| Duration::from_secs(u64::MAX)),
                bucket_region: (first & 2 == 2).then_some(message),
            },
        );
        tells_no_secret(&error.to_string());
        if let StoreErrorClass::Retry(Some(asked)) = error.class() {
            // Whatever was asked for, the sum with a pause of our own exists.
            let _ = asked.saturating_add(Duration::from_secs(1));
        }
    }
}
