//! Accepted manifests.

use serde_json::{Value, json};

use super::{accepted_case, endpoint, gap};
use crate::api::table::SpecEdit::{Remove, Set};
use crate::api::table::ValidationCase;

pub(super) fn accepted() -> Vec<ValidationCase> {
    vec![
        accepted_case("the least that is needed", vec![]),
        accepted_case(
            "everything",
            vec![
                Set("/scope", "Account".into()),
                Set("/dateRange/hour", 23.into()),
                Set("/source/caSecretRef", json!({ "name": "ca" })),
                Set("/source/retentionDays", 3650.into()),
                Set("/source/uaaEndpoint", "https://uaa.example.com:8443/uaa".into()),
                Set(
                    "/destination/s3",
                    json!({
                        "bucket": "audit.example-1", "prefix": "tracker/production=1", "region": "eu-central-1",
                        "endpoint": "https://[2001:db8::1]:9000", "forcePathStyle": false,
                        "credentialsSecretRef": { "name": "bucket" }, "caSecretRef": { "name": "ca.example", "key": "store_ca.pem" },
                        "storageClass": "STANDARD_IA", "checksum": "SHA256",
                        "acl": "bucket-owner-full-control", "requestPayer": "requester",
                        "serverSideEncryption": { "type": "aws:kms", "kmsKeyId": "arn:aws:kms:eu-central-1:1:key/a-b" },
                        "objectLock": { "mode": "Governance", "retainDays": 36500 },
                    }),
                ),
                Set("/parallelism", 30.into()),
                Set("/settleAfter", "720h".into()),
                Set("/suspend", true.into()),
                Set(
                    "/manifest",
                    json!({
                        "signingKeySecretRef": { "name": "signing.2018" },
                        "abandonedHead": format!("14:{}", "9f".repeat(32)),
                        "unsignedReceiptsBefore": "2018-07-01",
                        "timestampAuthority": "https://tsa.example.com/tsr",
                    }),
                ),
                Set(
                    "/acceptedGaps",
                    gap("2018-06-03", "2018-06-04", "source expired before we began — ä"),
                ),
            ],
        ),
        accepted_case(
            "authorities in ConfigMaps",
            vec![
                Set(
                    "/source/caConfigMapRef",
                    json!({ "name": "trust-bundle", "key": "trust-bundle.pem" }),
                ),
                Set(
                    "/destination/s3/caConfigMapRef",
                    json!({ "name": "trust-bundle" }),
                ),
            ],
        ),
        accepted_case("no end: a continuous export", vec![Remove("/dateRange/end")]),
        accepted_case("one day", vec![Set("/dateRange/end", "2018-06-01".into())]),
        accepted_case(
            "a space that is not hexadecimal, as the CLI page has it",
            vec![Set("/space", "66fe4565-abab-46c9-cdcd-qf4565342345".into())],
        ),
        accepted_case(
            "a space of 200 unusual signs",
            vec![Set("/space", "~!$&'()*+,;=:@-._".repeat(12)[..200].into())],
        ),
        accepted_case("a leap day", vec![Set("/dateRange/start", "2000-02-29".into())]),
        accepted_case(
            "first and last day that can be asked for",
            vec![Set(
                "/dateRange",
                json!({ "start": "1970-01-01", "end": "2099-12-31", "hour": 0 }),
            )],
        ),
        accepted_case("no prefix", vec![Remove("/destination/s3/prefix")]),
        accepted_case("plain http to 127.0.0.1", endpoint("http://127.0.0.1:8080")),
        accepted_case("plain http to ::1", endpoint("http://[::1]:8080/base")),
        accepted_case("plain http to localhost", endpoint("http://localhost")),
        accepted_case("an address by number", endpoint("https://192.0.2.255:65535/")),
        accepted_case(
            "region US South by its old name, with a UAA of its own",
            vec![
                Set("/source/region", "ng".into()),
                Set("/source/uaaEndpoint", "http://localhost:1".into()),
            ],
        ),
        accepted_case("manifests that are not signed", vec![Set("/manifest", json!({}))]),
        accepted_case(
            "a verification by its defaults",
            vec![Set("/verification", json!({}))],
        ),
        accepted_case(
            "a verification each hour, at the highest rate",
            vec![Set(
                "/verification",
                json!({ "every": "60m", "bytesPerSecond": 10_737_418_240_u64 }),
            )],
        ),
        accepted_case(
            "a verification each year, at the lowest rate",
            vec![Set(
                "/verification",
                json!({ "every": "8760h", "bytesPerSecond": 65_536 }),
            )],
        ),
        accepted_case(
            "late events for two weeks",
            vec![Set("/recheck", json!({ "days": 14 }))],
        ),
        accepted_case(
            "no late events",
            vec![Set("/recheck", json!({ "enabled": false }))],
        ),
        accepted_case("settled at once", vec![Set("/settleAfter", "0s".into())]),
        accepted_case(
            "a duration of several numbers",
            vec![Set("/settleAfter", "1h30m5s10ms".into())],
        ),
        accepted_case(
            "a duration in minutes",
            vec![Set("/settleAfter", "43200m".into())],
        ),
        accepted_case(
            "null, which is left out",
            vec![
                Set("/scope", Value::Null),
                Set("/parallelism", Value::Null),
                Set("/dateRange/hour", Value::Null),
                Set("/source/endpoint", Value::Null),
                Set("/destination/s3/checksum", Value::Null),
            ],
        ),
        accepted_case(
            "encryption by the store's own keys",
            vec![Set(
                "/destination/s3/serverSideEncryption",
                json!({ "type": "AES256" }),
            )],
        ),
        accepted_case(
            "a thousand gaps with the longest reasons",
            vec![Set(
                "/acceptedGaps",
                (0..1000)
                    .map(|number| {
                        let (year, month, day) = (1990 + number / 336, 1 + number / 28 % 12, 1 + number % 28);
                        let date = format!("{year}-{month:02}-{day:02}");
                        json!({ "start": date, "end": date, "reason": "ö".repeat(512) })
                    })
                    .collect(),
            )],
        ),
    ]
}
