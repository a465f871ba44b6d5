//! Sources, and the addresses of all peers.

use serde_json::json;

use super::{ADDRESS, endpoint, invalid_value, rejected_case};
use crate::api::table::SpecEdit::{Remove, Set};
use crate::api::table::ValidationCase;

pub(super) fn source() -> Vec<ValidationCase> {
    const ONE: &str = "needs exactly one of region and endpoint";
    vec![
        invalid_value(
            "region and endpoint",
            "/source/endpoint",
            "https://activity-tracker.example.com",
            ("spec.source", ONE),
        ),
        rejected_case(
            "neither region nor endpoint",
            vec![Remove("/source/region")],
            ("spec.source", ONE),
        ),
        invalid_value(
            "an unknown region",
            "/source/region",
            "us-east",
            ("spec.source.region", "supported values: \"ng\", \"us-south\""),
        ),
        invalid_value(
            "an empty region",
            "/source/region",
            "",
            ("spec.source.region", "supported values"),
        ),
        invalid_value(
            "a Secret with capitals",
            "/source/credentialsSecretRef/name",
            "Tracker",
            (
                "spec.source.credentialsSecretRef.name",
                "must be the name of a Secret",
            ),
        ),
        invalid_value(
            "a Secret of another namespace",
            "/source/credentialsSecretRef/name",
            "other/tracker",
            ("spec.source.credentialsSecretRef.name", "in the same namespace"),
        ),
        invalid_value(
            "a Secret without a name",
            "/source/credentialsSecretRef",
            json!({}),
            ("spec.source.credentialsSecretRef.name", "Required value"),
        ),
        invalid_value(
            "a Secret with an empty name",
            "/source/credentialsSecretRef/name",
            "",
            ("spec.source.credentialsSecretRef.name", "at least 1 chars long"),
        ),
        invalid_value(
            "a key that no Secret has",
            "/source/caSecretRef",
            json!({ "name": "ca", "key": "a/b" }),
            ("spec.source.caSecretRef.key", "must be a key of the Secret"),
        ),
        invalid_value(
            "a key that no ConfigMap has",
            "/source/caConfigMapRef",
            json!({ "name": "ca", "key": "a/b" }),
            ("spec.source.caConfigMapRef.key", "must be a key of the ConfigMap"),
        ),
        invalid_value(
            "a ConfigMap with an invalid name",
            "/destination/s3/caConfigMapRef",
            json!({ "name": "Trust" }),
            (
                "spec.destination.s3.caConfigMapRef.name",
                "must be the name of a ConfigMap",
            ),
        ),
        rejected_case(
            "keys of the bucket and a ServiceAccount",
            vec![
                Set(
                    "/destination/s3/credentialsSecretRef",
                    json!({ "name": "bucket" }),
                ),
                Set("/destination/s3/serviceAccountName", json!("audit-archive")),
            ],
            (
                "spec.destination.s3.serviceAccountName",
                "excludes credentialsSecretRef",
            ),
        ),
        rejected_case(
            "a ServiceAccount of another namespace",
            vec![
                Remove("/destination/s3/credentialsSecretRef"),
                Set("/destination/s3/serviceAccountName", json!("other/audit-archive")),
            ],
            (
                "spec.destination.s3.serviceAccountName",
                "must be the name of a ServiceAccount",
            ),
        ),
        rejected_case(
            "authorities of the service in a Secret and a ConfigMap",
            vec![
                Set("/source/caSecretRef", json!({ "name": "ca" })),
                Set("/source/caConfigMapRef", json!({ "name": "ca" })),
            ],
            ("spec.source.caConfigMapRef", "is not allowed beside caSecretRef"),
        ),
        rejected_case(
            "authorities of the store in a Secret and a ConfigMap",
            vec![
                Set("/destination/s3/caSecretRef", json!({ "name": "ca" })),
                Set("/destination/s3/caConfigMapRef", json!({ "name": "ca" })),
            ],
            (
                "spec.destination.s3.caConfigMapRef",
                "is not allowed beside caSecretRef",
            ),
        ),
    ]
}

pub(super) fn addresses() -> Vec<ValidationCase> {
    let source =
        |name, address: &str| rejected_case(name, endpoint(address), ("spec.source.endpoint", ADDRESS));
    vec![
        source("plain http", "http://activity-tracker.example.com"),
        source(
            "plain http to a host that begins like this machine",
            "http://127.0.0.1.example.com",
        ),
        source(
            "plain http to a host that ends like this machine",
            "http://example.localhost",
        ),
        source(
            "plain http with this machine as user",
            "http://127.0.0.1@example.com",
        ),
        source(
            "plain http with this machine as user and port",
            "http://localhost:80@example.com",
        ),
        source(
            "plain http to another address of this machine",
            "http://127.0.0.2",
        ),
        source("an address with a user", "https://user:password@example.com"),
        source("an address with a query", "https://example.com/?a=b"),
        source("an address with a fragment", "https://example.com/#a"),
        source(
            "an address with a backslash",
            "https://example.com\\@evil.example.com",
        ),
        source("an address with a blank", "https://example.com/a b"),
        source("an address with a line break", "https://example.com\n"),
        source("an address without a scheme", "activity-tracker.example.com"),
        source("another scheme", "ftp://example.com"),
        source("an address without a host", "https://"),
        source("an address with an empty port", "https://example.com:"),
        source("port 65536", "https://example.com:65536"),
        source("port 0", "https://example.com:0"),
        source("a number that is no address", "https://256.1.1.1"),
        source("an address in hexadecimal", "https://0x7f000001"),
        source("an address as one number", "https://2130706433"),
        source("an address of three numbers", "https://127.0.1"),
        source("an address with leading zeros", "https://127.0.0.01"),
        source("a bad IPv6 address", "https://[2001:db8::1::2]"),
        source(
            "an IPv4 address inside an IPv6 address",
            "https://[::ffff:127.0.0.1]",
        ),
        source("a host with an empty label", "https://a..example.com"),
        source("a host that ends with a dot", "https://example.com."),
        source("a host with a hyphen at its end", "https://example-.com"),
        source("a host with an underscore", "https://a_b.example.com"),
        rejected_case(
            "an empty address",
            endpoint(""),
            ("spec.source.endpoint", "at least 1 chars long"),
        ),
        rejected_case(
            "an address of 513 characters",
            endpoint(&format!("https://{}", "a".repeat(505))),
            ("spec.source.endpoint", "may not be more than 512"),
        ),
        invalid_value(
            "a UAA by plain http",
            "/source/uaaEndpoint",
            "http://uaa.example.com",
            ("spec.source.uaaEndpoint", ADDRESS),
        ),
        invalid_value(
            "a store by plain http",
            "/destination/s3/endpoint",
            "http://s3.example.com",
            ("spec.destination.s3.endpoint", ADDRESS),
        ),
        invalid_value(
            "a store with a user",
            "/destination/s3/endpoint",
            "https://a@s3.example.com",
            ("spec.destination.s3.endpoint", ADDRESS),
        ),
    ]
}
