//! Fields that are missing, have the wrong type, or are out of bounds.

use serde_json::{Value, json};

use super::{DAY, EVERY, SETTLE, gap, invalid_value, rejected_case};
use crate::api::table::SpecEdit::Remove;
use crate::api::table::ValidationCase;

const SPACE_FORMAT: &str = "must be the id of the space";

pub(super) fn shape() -> Vec<ValidationCase> {
    vec![
        rejected_case(
            "no space",
            vec![Remove("/space")],
            ("spec.space", "Required value"),
        ),
        rejected_case(
            "no date range",
            vec![Remove("/dateRange")],
            ("spec.dateRange", "Required value"),
        ),
        rejected_case(
            "no first day",
            vec![Remove("/dateRange/start")],
            ("spec.dateRange.start", "Required value"),
        ),
        rejected_case(
            "no source",
            vec![Remove("/source")],
            ("spec.source", "Required value"),
        ),
        rejected_case(
            "no credentials for the source",
            vec![Remove("/source/credentialsSecretRef")],
            ("spec.source.credentialsSecretRef", "Required value"),
        ),
        rejected_case(
            "no destination",
            vec![Remove("/destination")],
            ("spec.destination", "Required value"),
        ),
        rejected_case(
            "a destination without a bucket",
            vec![Remove("/destination/s3/bucket")],
            ("spec.destination.s3.bucket", "Required value"),
        ),
        invalid_value(
            "null where something is needed",
            "/space",
            Value::Null,
            ("spec.space", "Required value"),
        ),
        invalid_value(
            "a slip of the pen",
            "/setleAfter",
            "6h",
            ("spec.setleAfter", "unknown field"),
        ),
        invalid_value(
            "a slip of the pen within",
            "/dateRange/stop",
            "2018-06-30",
            ("spec.dateRange.stop", "unknown field"),
        ),
        invalid_value(
            "a number where a text is needed",
            "/space",
            7,
            ("spec.space", "must be of type string"),
        ),
        invalid_value(
            "a text where a number is needed",
            "/dateRange/hour",
            "7",
            ("spec.dateRange.hour", "must be of type integer"),
        ),
        invalid_value(
            "a fraction",
            "/parallelism",
            1.5,
            ("spec.parallelism", "must be of type integer"),
        ),
        invalid_value(
            "yes",
            "/suspend",
            "yes",
            ("spec.suspend", "must be of type boolean"),
        ),
        invalid_value(
            "a list where an object is needed",
            "/source",
            json!([]),
            ("spec.source", "must be of type object"),
        ),
    ]
}

pub(super) fn space() -> Vec<ValidationCase> {
    let at = |words| ("spec.space", words);
    vec![
        invalid_value(
            "an empty space",
            "/space",
            "",
            at("should be at least 1 chars long"),
        ),
        invalid_value(
            "a space of 201 characters",
            "/space",
            "a".repeat(201),
            at("may not be more than 200"),
        ),
        invalid_value("a space with a slash", "/space", "a/b", at(SPACE_FORMAT)),
        invalid_value("a space with a blank", "/space", "my space", at(SPACE_FORMAT)),
        invalid_value("a space with a line break", "/space", "a\n", at(SPACE_FORMAT)),
        invalid_value("a space beyond ASCII", "/space", "räume", at(SPACE_FORMAT)),
        invalid_value(
            "a space that is a folder's parent",
            "/space",
            "..",
            at(SPACE_FORMAT),
        ),
        invalid_value("a space that is a folder itself", "/space", ".", at(SPACE_FORMAT)),
        invalid_value(
            "another scope",
            "/scope",
            "Organization",
            ("spec.scope", "supported values: \"Space\", \"Account\""),
        ),
    ]
}

pub(super) fn rest() -> Vec<ValidationCase> {
    let settle = |name, value: &str| invalid_value(name, "/settleAfter", value, ("spec.settleAfter", SETTLE));
    let every = |name, value: &str| {
        let rejection = ("spec.verification.every", EVERY);
        invalid_value(name, "/verification", json!({ "every": value }), rejection)
    };
    vec![
        invalid_value(
            "parallelism 0",
            "/parallelism",
            0,
            ("spec.parallelism", "greater than or equal to 1"),
        ),
        invalid_value(
            "parallelism 31",
            "/parallelism",
            31,
            ("spec.parallelism", "less than or equal to 30"),
        ),
        invalid_value(
            "parallelism 1000",
            "/parallelism",
            1000,
            ("spec.parallelism", "less than or equal to 30"),
        ),
        invalid_value(
            "late events of no day",
            "/recheck",
            json!({ "days": 0 }),
            ("spec.recheck.days", "greater than or equal to 1"),
        ),
        invalid_value(
            "late events of more than ten years",
            "/recheck",
            json!({ "days": 3651 }),
            ("spec.recheck.days", "less than or equal to 3650"),
        ),
        invalid_value(
            "a signing key without a name",
            "/manifest",
            json!({ "signingKeySecretRef": {} }),
            ("spec.manifest.signingKeySecretRef.name", "Required value"),
        ),
        invalid_value(
            "a signing key of another namespace",
            "/manifest",
            json!({ "signingKeySecretRef": { "name": "other/signing" } }),
            (
                "spec.manifest.signingKeySecretRef.name",
                "must be the name of a Secret",
            ),
        ),
        invalid_value(
            "a signing key in the manifest",
            "/manifest",
            json!({ "signingKey": "-" }),
            ("spec.manifest.signingKey", "unknown field"),
        ),
        invalid_value(
            "a head without its number",
            "/manifest",
            json!({ "abandonedHead": "9f".repeat(32) }),
            (
                "spec.manifest.abandonedHead",
                "must be the number and the SHA-256 of a manifest",
            ),
        ),
        invalid_value(
            "a head that is too long",
            "/manifest",
            json!({ "abandonedHead": format!("123456789:{}", "9f".repeat(32)) }),
            ("spec.manifest.abandonedHead", "Too long"),
        ),
        invalid_value(
            "unsigned receipts before no day",
            "/manifest",
            json!({ "unsignedReceiptsBefore": "2018-02-30" }),
            ("spec.manifest.unsignedReceiptsBefore", super::DAY),
        ),
        invalid_value(
            "a time-stamp authority without encryption",
            "/manifest",
            json!({ "timestampAuthority": "http://tsa.example.com" }),
            ("spec.manifest.timestampAuthority", "must be https://HOST"),
        ),
        every("a verification every minute", "1m"),
        every("a verification after an hour but a millisecond", "59m59s999ms"),
        every("a verification after more than a year", "8760h1s"),
        every("a verification every week in days", "7d"),
        invalid_value(
            "a verification at 65535 bytes per second",
            "/verification",
            json!({ "bytesPerSecond": 65_535 }),
            (
                "spec.verification.bytesPerSecond",
                "greater than or equal to 65536",
            ),
        ),
        invalid_value(
            "a verification at more than 10 GiB per second",
            "/verification",
            json!({ "bytesPerSecond": 10_737_418_241_u64 }),
            ("spec.verification.bytesPerSecond", "less than or equal to 1"),
        ),
        settle("a duration without a unit", "6"),
        settle("a duration in days", "2d"),
        settle("a negative duration", "-6h"),
        settle("a fraction of an hour", "1.5h"),
        settle("a duration in words", "six hours"),
        settle("more than 30 days", "720h0m1s"),
        settle("more than 30 days in minutes", "43201m"),
        settle("a duration with a line break", "6h\n"),
        invalid_value(
            "an empty duration",
            "/settleAfter",
            "",
            ("spec.settleAfter", "at least 1 chars long"),
        ),
        invalid_value(
            "an inverted gap",
            "/acceptedGaps",
            gap("2018-06-04", "2018-06-03", "r"),
            ("spec.acceptedGaps[0].end", "is before the start of the gap"),
        ),
        invalid_value(
            "an impossible day in a gap",
            "/acceptedGaps",
            gap("2018-06-31", "2018-07-01", "r"),
            ("spec.acceptedGaps[0].start", DAY),
        ),
        invalid_value(
            "an impossible last day of a gap",
            "/acceptedGaps",
            gap("2018-06-30", "2018-06-31", "r"),
            ("spec.acceptedGaps[0].end", DAY),
        ),
        invalid_value(
            "a gap without an end",
            "/acceptedGaps",
            json!([{ "start": "2018-06-30", "reason": "r" }]),
            ("spec.acceptedGaps[0].end", "Required value"),
        ),
        invalid_value(
            "a gap without a reason",
            "/acceptedGaps",
            gap("2018-06-03", "2018-06-04", ""),
            ("spec.acceptedGaps[0].reason", "at least 1 chars long"),
        ),
        invalid_value(
            "a gap with a blank reason",
            "/acceptedGaps",
            gap("2018-06-03", "2018-06-04", " \u{b}"),
            ("spec.acceptedGaps[0].reason", "must explain on one line why"),
        ),
        invalid_value(
            "a reason of several lines",
            "/acceptedGaps",
            gap("2018-06-03", "2018-06-04", "a\nb"),
            ("spec.acceptedGaps[0].reason", "must explain on one line why"),
        ),
        invalid_value(
            "a reason of 513 characters",
            "/acceptedGaps",
            gap("2018-06-03", "2018-06-04", &"a".repeat(513)),
            ("spec.acceptedGaps[0].reason", "may not be more than 512"),
        ),
        invalid_value(
            "two gaps with the same first day",
            "/acceptedGaps",
            json!([
                { "start": "2018-06-03", "end": "2018-06-03", "reason": "r" },
                { "start": "2018-06-04", "end": "2018-06-04", "reason": "r" },
                { "start": "2018-06-03", "end": "2018-06-05", "reason": "other" },
            ]),
            ("spec.acceptedGaps[2]", "Duplicate value"),
        ),
        invalid_value(
            "more than a thousand gaps",
            "/acceptedGaps",
            Value::Array(vec![
                json!({ "start": "2018-06-03", "end": "2018-06-04", "reason": "r" });
                1001
            ]),
            ("spec.acceptedGaps", "must have at most 1000 items"),
        ),
    ]
}
