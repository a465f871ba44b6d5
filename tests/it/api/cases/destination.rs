//! Destinations.

use serde_json::json;

use super::invalid_value;
use crate::api::table::ValidationCase;

const SLASHES: &str = "must not begin or end with a slash";
const FOLDERS: &str = "must be folders of letters, digits";
const RESERVED: &str = "the export creates these";

pub(super) fn s3() -> Vec<ValidationCase> {
    let bucket = |name, value: &str| {
        invalid_value(
            name,
            "/destination/s3/bucket",
            value,
            ("spec.destination.s3.bucket", "must be a valid bucket name"),
        )
    };
    let prefix = |name, value: &str, words| {
        invalid_value(
            name,
            "/destination/s3/prefix",
            value,
            ("spec.destination.s3.prefix", words),
        )
    };
    vec![
        invalid_value(
            "a bucket of two letters",
            "/destination/s3/bucket",
            "ab",
            ("spec.destination.s3.bucket", "at least 3 chars long"),
        ),
        invalid_value(
            "a bucket of 64 letters",
            "/destination/s3/bucket",
            "a".repeat(64),
            ("spec.destination.s3.bucket", "more than 63"),
        ),
        bucket("a bucket with capitals", "Audit"),
        bucket("a bucket with an underscore", "audit_logs"),
        bucket("a bucket that begins with a hyphen", "-audit"),
        bucket("a bucket that ends with a dot", "audit."),
        bucket("a bucket with two dots", "audit..logs"),
        bucket("a bucket with a dot beside a hyphen", "audit.-logs"),
        bucket("a bucket that is an IP address", "192.168.5.4"),
        bucket("a bucket with a slash", "audit/logs"),
        bucket("a bucket with a line break", "audit\n"),
        prefix("an empty prefix", "", "at least 1 chars long"),
        prefix("a prefix with a leading slash", "/tracker", SLASHES),
        prefix("a prefix with a trailing slash", "tracker/", SLASHES),
        prefix("a prefix with two slashes", "tracker//production", SLASHES),
        prefix("a prefix with ..", "tracker/../other", FOLDERS),
        prefix("a prefix with .", "./tracker", FOLDERS),
        prefix("a prefix with a control character", "tracker\u{7}", FOLDERS),
        prefix("a prefix with a blank", "my tracker", FOLDERS),
        prefix("a prefix with a per cent sign", "tracker%2f..", FOLDERS),
        prefix("a prefix with a backslash", "tracker\\..\\other", FOLDERS),
        prefix("a prefix beyond ASCII", "prüfung", FOLDERS),
        prefix("a prefix that query engines skip", "tracker/_logs", FOLDERS),
        prefix(
            "a prefix within another export",
            "tracker/space=a/scope=space",
            RESERVED,
        ),
        prefix("a prefix that looks like a day", "date=2018-06-01", RESERVED),
        invalid_value(
            "a prefix of 513 characters",
            "/destination/s3/prefix",
            "a".repeat(513),
            ("spec.destination.s3.prefix", "may not be more than 512"),
        ),
        invalid_value(
            "a region with a dot",
            "/destination/s3/region",
            "us.east",
            ("spec.destination.s3.region", "such as us-east-1"),
        ),
        invalid_value(
            "an empty region of the bucket",
            "/destination/s3/region",
            "",
            ("spec.destination.s3.region", "at least 1 chars long"),
        ),
        invalid_value(
            "a storage class with a blank",
            "/destination/s3/storageClass",
            "STANDARD IA",
            ("spec.destination.s3.storageClass", "must be a storage class"),
        ),
        invalid_value(
            "a key without a key service",
            "/destination/s3/serverSideEncryption",
            json!({ "type": "AES256", "kmsKeyId": "alias/audit" }),
            (
                "spec.destination.s3.serverSideEncryption.kmsKeyId",
                "is allowed only with type aws:kms",
            ),
        ),
        invalid_value(
            "a key with a line break",
            "/destination/s3/serverSideEncryption",
            json!({ "type": "aws:kms", "kmsKeyId": "a\nb" }),
            (
                "spec.destination.s3.serverSideEncryption.kmsKeyId",
                "must be the id, alias or ARN",
            ),
        ),
        invalid_value(
            "an unknown encryption",
            "/destination/s3/serverSideEncryption",
            json!({ "type": "ROT13" }),
            (
                "spec.destination.s3.serverSideEncryption.type",
                "supported values: \"AES256\", \"aws:kms\"",
            ),
        ),
        invalid_value(
            "an unknown lock",
            "/destination/s3/objectLock",
            json!({ "mode": "COMPLIANCE", "retainDays": 1 }),
            (
                "spec.destination.s3.objectLock.mode",
                "supported values: \"Governance\", \"Compliance\"",
            ),
        ),
        invalid_value(
            "a lock of no days",
            "/destination/s3/objectLock",
            json!({ "mode": "Compliance", "retainDays": 0 }),
            (
                "spec.destination.s3.objectLock.retainDays",
                "greater than or equal to 1",
            ),
        ),
        invalid_value(
            "a lock of more than a hundred years",
            "/destination/s3/objectLock",
            json!({ "mode": "Compliance", "retainDays": 36501 }),
            (
                "spec.destination.s3.objectLock.retainDays",
                "less than or equal to 36500",
            ),
        ),
        invalid_value(
            "a lock without a time",
            "/destination/s3/objectLock",
            json!({ "mode": "Compliance" }),
            ("spec.destination.s3.objectLock.retainDays", "Required value"),
        ),
        invalid_value(
            "an unknown checksum",
            "/destination/s3/checksum",
            "MD5",
            ("spec.destination.s3.checksum", "supported values"),
        ),
        invalid_value(
            "an ACL that makes events public",
            "/destination/s3/acl",
            "public-read",
            ("spec.destination.s3.acl", "supported values"),
        ),
        invalid_value(
            "a payer other than the requester",
            "/destination/s3/requestPayer",
            "owner",
            ("spec.destination.s3.requestPayer", "supported values"),
        ),
    ]
}
