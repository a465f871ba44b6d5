//! Changes of an existing resource.

use serde_json::{Value, json};

use super::{IMMUTABLE, endpoint};
use crate::api::table::SpecEdit::{self, Remove, Set};
use crate::api::table::ValidationCase;

pub(super) fn changes() -> Vec<ValidationCase> {
    let change = |name, before: Vec<SpecEdit>, edits: Vec<SpecEdit>, rejection| ValidationCase {
        name,
        before: Some(before),
        edits,
        rejection,
    };
    let elsewhere = || endpoint("https://a.example.com");
    let store = || vec![Set("/destination/s3/endpoint", "https://a.example.com".into())];
    let no_prefix = || vec![Remove("/destination/s3/prefix")];
    let fixed = |path| Some((path, IMMUTABLE));
    vec![
        change(
            "what may change",
            vec![],
            vec![
                Set("/dateRange", json!({ "start": "2017-01-01", "hour": 3 })),
                Set("/parallelism", 1.into()),
                Set("/settleAfter", "1h".into()),
                Set("/suspend", true.into()),
                Set("/verification", json!({ "every": "24h" })),
                Set(
                    "/manifest",
                    json!({ "signingKeySecretRef": { "name": "signing" } }),
                ),
                Set("/source/credentialsSecretRef/name", "other".into()),
                Set("/source/uaaEndpoint", "https://uaa.example.com".into()),
                Set("/destination/s3/region", "eu-west-1".into()),
                Set("/destination/s3/forcePathStyle", true.into()),
                Set("/destination/s3/storageClass", "STANDARD".into()),
            ],
            None,
        ),
        change(
            "the scope, by its default",
            vec![Set("/scope", "Space".into())],
            vec![],
            None,
        ),
        change(
            "another space",
            vec![],
            vec![Set("/space", "other".into())],
            fixed("spec.space"),
        ),
        change(
            "another scope",
            vec![],
            vec![Set("/scope", "Account".into())],
            fixed("spec.scope"),
        ),
        change(
            "the scope removed",
            vec![Set("/scope", "Account".into())],
            vec![],
            fixed("spec.scope"),
        ),
        change(
            "another region",
            vec![],
            vec![Set("/source/region", "eu-de".into())],
            fixed("spec.source.region"),
        ),
        change(
            "the region by another name",
            vec![],
            vec![Set("/source/region", "ng".into())],
            fixed("spec.source.region"),
        ),
        change(
            "a region replaced by an endpoint",
            vec![],
            elsewhere(),
            fixed("spec.source.endpoint"),
        ),
        change(
            "an endpoint replaced by a region",
            elsewhere(),
            vec![],
            fixed("spec.source.region"),
        ),
        change(
            "another endpoint",
            elsewhere(),
            endpoint("https://b.example.com"),
            fixed("spec.source.endpoint"),
        ),
        change(
            "another bucket",
            vec![],
            vec![Set("/destination/s3/bucket", "other".into())],
            fixed("spec.destination.s3.bucket"),
        ),
        change(
            "another prefix",
            vec![],
            vec![Set("/destination/s3/prefix", "other".into())],
            fixed("spec.destination.s3.prefix"),
        ),
        change(
            "the prefix removed",
            vec![],
            no_prefix(),
            fixed("spec.destination.s3.prefix"),
        ),
        change(
            "the prefix by null",
            vec![],
            vec![Set("/destination/s3/prefix", Value::Null)],
            fixed("spec.destination.s3.prefix"),
        ),
        change(
            "a prefix added",
            no_prefix(),
            vec![],
            fixed("spec.destination.s3.prefix"),
        ),
        change(
            "another store",
            store(),
            vec![Set("/destination/s3/endpoint", "https://b.example.com".into())],
            fixed("spec.destination.s3.endpoint"),
        ),
        change(
            "the store's endpoint removed",
            store(),
            vec![],
            fixed("spec.destination.s3.endpoint"),
        ),
        change(
            "a store's endpoint added",
            vec![],
            store(),
            fixed("spec.destination.s3.endpoint"),
        ),
        change(
            "the source removed",
            vec![],
            vec![Remove("/source")],
            Some(("spec.source", "Required value")),
        ),
        change(
            "the destination removed",
            vec![],
            vec![Remove("/destination")],
            Some(("spec.destination", "Required value")),
        ),
        change(
            "the store removed",
            vec![],
            vec![Remove("/destination/s3")],
            Some(("spec.destination.s3", "Required value")),
        ),
    ]
}
