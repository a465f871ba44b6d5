//! What befalls resources: each field of the spec changed, and events that are no change of the spec.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use eventexport::simulator::DEFAULT_PERSON;
use serde_json::{Value, json};

use super::phases::{Days, Phase};

/// What a row's parts may depend on.
pub(super) struct Place<'a> {
    pub(super) days: Days,
    pub(super) phase: Phase,
    pub(super) namespace: &'a str,
    /// Another way to the service of the resource.
    pub(super) elsewhere: &'a str,
}

type Part = fn(&Place<'_>) -> Value;

/// One line of the table.
pub(super) struct Row {
    /// The field, as the schema has it, or what happens.
    pub(super) what: &'static str,
    /// How it is changed, for people.
    pub(super) how: &'static str,
    /// What of the spec it needs beforehand, as a merge patch.
    pub(super) before: Part,
    pub(super) deed: Deed,
    pub(super) proof: Proof,
}

/// What is done.
#[derive(Clone, Copy)]
pub(super) enum Deed {
    /// The spec changes, by this merge patch.
    Spec(Part),
    /// `kubectl delete`.
    Delete,
    /// Deleted without a wait, as `--cascade=orphan` and a finalizer taken away by hand do, and applied again.
    ReplaceByForce,
    /// Deleted, and another of that name is applied when it is gone: with another prefix.
    Another,
    /// Our finalizer taken away by hand.
    Unfinalize,
    /// The status taken away.
    Wipe,
    /// Parts of the status taken away.
    WipePart,
    /// A status that is nonsense.
    Nonsense,
    /// A status that is allowed by the schema, and larger than any number of ours.
    Huge,
    /// Suspended, and resumed at once.
    Blink,
    /// A change of the spec, seen by the operator, and taken back before the old work has ended.
    BackAndForth,
    /// Labels and annotations that change at a high rate.
    Churn,
    /// The Secret gets other credentials.
    SecretReplaced,
    /// The Secret deleted, and made again.
    SecretAgain,
}

/// What shows that a change took effect.
#[derive(Clone, Copy)]
pub(super) enum Proof {
    /// That the generation was acted upon, and what was asked for is there.
    Acted,
    /// The API server refuses it, naming this field.
    Refused(&'static str),
    /// It cannot go on, for this reason, which names this; until it is mended by this merge patch.
    Blocks(&'static str, &'static str, Part),
    /// A request to the store that holds this text.
    Store(&'static str),
    /// A receipt has this value at this pointer.
    Receipt(&'static str, &'static str),
    /// A token is asked for elsewhere.
    LogsInElsewhere,
    /// A manifest is signed.
    Signed,
    /// A manifest holds this text.
    Manifest(&'static str),
    /// So many windows are transferred at once.
    AtOnce(u64),
}

fn nothing(_: &Place<'_>) -> Value {
    json!({})
}

const fn field(what: &'static str, how: &'static str, before: Part, after: Part, proof: Proof) -> Row {
    Row {
        what,
        how,
        before,
        deed: Deed::Spec(after),
        proof,
    }
}

const fn event(what: &'static str, deed: Deed) -> Row {
    Row {
        what,
        how: "",
        before: nothing,
        deed,
        proof: Proof::Acted,
    }
}

fn locked(place: &Place<'_>) -> Value {
    let bucket = format!("{}-lock", place.namespace);
    json!({ "destination": { "s3": { "bucket": bucket, "objectLock": { "mode": "Governance", "retainDays": 1 } } } })
}

fn gap(place: &Place<'_>) -> Value {
    let days = place.days.of(&range(place));
    let day = days.first().unwrap().to_string();
    json!({ "acceptedGaps": [{ "start": day, "end": day, "reason": "known to be lost" }] })
}

/// The range that a resource has at first.
fn range(place: &Place<'_>) -> Value {
    let mut spec = base(place.days);
    super::merge(&mut spec, &place.phase.spec(place.days));
    spec
}

pub(super) fn base(days: Days) -> Value {
    json!({ "dateRange": { "start": days.ago(6), "end": days.ago(5) }, "settleAfter": "0s", "parallelism": 1 })
}

fn gap_with(place: &Place<'_>, field: &str, value: &Value) -> Value {
    let mut gaps = gap(place);
    gaps["acceptedGaps"][0][field] = value.clone();
    gaps
}

/// The first day less one.
fn earlier(place: &Place<'_>) -> String {
    let first = *place.days.of(&range(place)).first().unwrap();
    first.yesterday().unwrap().to_string()
}

const CA: Part = |_| json!({ "source": { "caSecretRef": { "name": "ca" } } });
const STORE_CA: Part = |_| json!({ "destination": { "s3": { "caSecretRef": { "name": "ca" } } } });
const ENCRYPTED: Part = |_| json!({ "destination": { "s3": { "serverSideEncryption": { "type": "aws:kms", "kmsKeyId": "one" } } } });

/// Every leaf of the spec.
#[allow(clippy::too_many_lines)] // a table
pub(super) fn fields() -> Vec<Row> {
    use Proof::{Acted, AtOnce, Blocks, LogsInElsewhere, Manifest, Receipt, Refused, Signed, Store};
    vec![
        field(
            "spec.space",
            "another",
            nothing,
            |_| json!({ "space": "other" }),
            Refused("spec.space"),
        ),
        field(
            "spec.scope",
            "Account",
            nothing,
            |_| json!({ "scope": "Account" }),
            Refused("spec.scope"),
        ),
        field(
            "spec.dateRange.start",
            "a day earlier",
            nothing,
            |place| json!({ "dateRange": { "start": earlier(place) } }),
            Acted,
        ),
        field(
            "spec.dateRange.end",
            "another day",
            nothing,
            |place| {
                let end = if place.phase == Phase::CaughtUp { 1 } else { 4 };
                let end = if place.phase == Phase::Settling {
                    place.days.ago(2)
                } else {
                    place.days.ago(end)
                };
                json!({ "dateRange": { "end": end } })
            },
            Acted,
        ),
        field(
            "spec.dateRange.hour",
            "one hour of each day",
            nothing,
            |_| json!({ "dateRange": { "hour": 7 } }),
            Acted,
        ),
        field(
            "spec.source.region",
            "instead of the endpoint",
            nothing,
            |_| json!({ "source": { "region": "us-south", "endpoint": null } }),
            Refused("spec.source.region"),
        ),
        field(
            "spec.source.endpoint",
            "another",
            nothing,
            |_| json!({ "source": { "endpoint": "http://127.0.0.1:1" } }),
            Refused("spec.source.endpoint"),
        ),
        field(
            "spec.source.uaaEndpoint",
            "another",
            nothing,
            |place| json!({ "source": { "uaaEndpoint": place.elsewhere } }),
            LogsInElsewhere,
        ),
        field(
            "spec.source.credentialsSecretRef.name",
            "another user's",
            nothing,
            |_| json!({ "source": { "credentialsSecretRef": { "name": "person" } } }),
            Receipt("/trackerUser", DEFAULT_PERSON),
        ),
        field("spec.source.caSecretRef.name", "added", nothing, CA, Acted),
        field(
            "spec.source.caSecretRef.key",
            "one that is not there",
            CA,
            |_| json!({ "source": { "caSecretRef": { "key": "none.pem" } } }),
            Blocks(
                "CredentialsMissing",
                "none.pem",
                |_| json!({ "source": { "caSecretRef": { "key": "other.pem" } } }),
            ),
        ),
        field(
            "spec.destination.s3.bucket",
            "another",
            nothing,
            |_| json!({ "destination": { "s3": { "bucket": "another" } } }),
            Refused("spec.destination.s3.bucket"),
        ),
        field(
            "spec.destination.s3.prefix",
            "another",
            nothing,
            |_| json!({ "destination": { "s3": { "prefix": "another" } } }),
            Refused("spec.destination.s3.prefix"),
        ),
        field(
            "spec.destination.s3.endpoint",
            "another",
            nothing,
            |_| json!({ "destination": { "s3": { "endpoint": "http://127.0.0.1:1" } } }),
            Refused("spec.destination.s3.endpoint"),
        ),
        field(
            "spec.destination.s3.region",
            "a wrong one",
            nothing,
            |_| json!({ "destination": { "s3": { "region": "eu-west-1" } } }),
            Blocks(
                "BucketMissing",
                "is in the region us-east-1: correct spec.destination.s3.region",
                |_| json!({ "destination": { "s3": { "region": "us-east-1" } } }),
            ),
        ),
        field(
            "spec.destination.s3.forcePathStyle",
            "false",
            nothing,
            |_| json!({ "destination": { "s3": { "forcePathStyle": false } } }),
            // An address has no names below it, so its path is used all the same.
            Acted,
        ),
        field(
            "spec.destination.s3.credentialsSecretRef.name",
            "another account's",
            nothing,
            |_| json!({ "destination": { "s3": { "credentialsSecretRef": { "name": "bucket-2" } } } }),
            Store("Credential=second-"),
        ),
        field(
            "spec.destination.s3.caSecretRef.name",
            "added",
            nothing,
            STORE_CA,
            Acted,
        ),
        field(
            "spec.destination.s3.caSecretRef.key",
            "one that is not there",
            STORE_CA,
            |_| json!({ "destination": { "s3": { "caSecretRef": { "key": "none.pem" } } } }),
            Blocks(
                "CredentialsMissing",
                "none.pem",
                |_| json!({ "destination": { "s3": { "caSecretRef": { "key": "other.pem" } } } }),
            ),
        ),
        field(
            "spec.destination.s3.storageClass",
            "added",
            nothing,
            |_| json!({ "destination": { "s3": { "storageClass": "STANDARD" } } }),
            Store("x-amz-storage-class: STANDARD"),
        ),
        field(
            "spec.destination.s3.serverSideEncryption.type",
            "added",
            nothing,
            |_| json!({ "destination": { "s3": { "serverSideEncryption": { "type": "AES256" } } } }),
            Store("x-amz-server-side-encryption: AES256"),
        ),
        field(
            "spec.destination.s3.serverSideEncryption.kmsKeyId",
            "another",
            ENCRYPTED,
            |_| json!({ "destination": { "s3": { "serverSideEncryption": { "kmsKeyId": "two" } } } }),
            Store("x-amz-server-side-encryption-aws-kms-key-id: two"),
        ),
        field(
            "spec.destination.s3.objectLock.mode",
            "Compliance",
            locked,
            |_| json!({ "destination": { "s3": { "objectLock": { "mode": "Compliance" } } } }),
            Store("x-amz-object-lock-mode: COMPLIANCE"),
        ),
        field(
            "spec.destination.s3.objectLock.retainDays",
            "longer",
            locked,
            |_| json!({ "destination": { "s3": { "objectLock": { "retainDays": 2 } } } }),
            Store("x-amz-object-lock-mode: GOVERNANCE"),
        ),
        field(
            "spec.destination.s3.checksum",
            "CRC32C",
            nothing,
            |_| json!({ "destination": { "s3": { "checksum": "CRC32C" } } }),
            Store("x-amz-checksum-crc32c:"),
        ),
        field(
            "spec.manifest.signingKeySecretRef.name",
            "added",
            nothing,
            |_| json!({ "manifest": { "signingKeySecretRef": { "name": "signing" } } }),
            Signed,
        ),
        field(
            "spec.parallelism",
            "2",
            nothing,
            |_| json!({ "parallelism": 2 }),
            AtOnce(2),
        ),
        field(
            "spec.settleAfter",
            "another",
            nothing,
            |place| json!({ "settleAfter": if place.phase == Phase::Settling { "1s" } else { "1h" } }),
            Acted,
        ),
        field(
            "spec.suspend",
            "the other",
            nothing,
            |place| json!({ "suspend": place.phase != Phase::Suspended }),
            Acted,
        ),
        field(
            "spec.acceptedGaps[].start",
            "a day earlier",
            gap,
            |place| gap_with(place, "start", &json!(earlier(place))),
            Acted,
        ),
        field(
            "spec.acceptedGaps[].end",
            "a day later",
            gap,
            |place| {
                let second = place.days.of(&range(place))[1];
                gap_with(place, "end", &json!(second.to_string()))
            },
            Acted,
        ),
        field(
            "spec.acceptedGaps[].reason",
            "another",
            gap,
            |place| gap_with(place, "reason", &json!("the service had an outage")),
            Manifest("the service had an outage"),
        ),
    ]
}

/// What else befalls resources.
pub(super) fn events() -> Vec<Row> {
    vec![
        event("deleted", Deed::Delete),
        event("replaced by force", Deed::ReplaceByForce),
        event("deleted, another of its name", Deed::Another),
        event("finalizer taken away", Deed::Unfinalize),
        event("status taken away", Deed::Wipe),
        event("status taken away in part", Deed::WipePart),
        event("status overwritten with nonsense", Deed::Nonsense),
        event("status overwritten with huge numbers", Deed::Huge),
        event("suspended and resumed at once", Deed::Blink),
        event("changed and changed back", Deed::BackAndForth),
        event("labels change quickly", Deed::Churn),
        Row {
            proof: Proof::Receipt("/trackerUser", DEFAULT_PERSON),
            ..event("Secret replaced", Deed::SecretReplaced)
        },
        event("Secret deleted and made again", Deed::SecretAgain),
    ]
}

pub(super) fn all() -> Vec<Row> {
    fields().into_iter().chain(events()).collect()
}

impl Row {
    /// As the table names it.
    pub(super) fn title(&self) -> String {
        match self.deed {
            Deed::Spec(_) => format!("`{}`: {}", self.what, self.how),
            _ => self.what.to_owned(),
        }
    }
}

/// A field of the schema that no row changes makes this fail, and a row of a field that is gone too.
#[test]
fn every_field_of_the_schema_is_changed_by_a_row() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/eventexports.yaml");
    let definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut leaves = BTreeSet::new();
    walk(schema, "spec", &mut leaves);
    let rows: BTreeSet<String> = fields().iter().map(|row| row.what.to_owned()).collect();
    ensure!(
        leaves == rows,
        "fields without a row, or rows without a field: {:?}",
        leaves.symmetric_difference(&rows).collect::<Vec<_>>()
    );
    Ok(())
}

fn walk(schema: &Value, path: &str, leaves: &mut BTreeSet<String>) {
    let fields = schema["properties"].as_object();
    for (name, field) in fields.into_iter().flatten() {
        walk(field, &format!("{path}.{name}"), leaves);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), leaves);
    } else if fields.is_none() {
        leaves.insert(path.to_owned());
    }
}
