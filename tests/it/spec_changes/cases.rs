//! Spec change cases: each field changed, and events other than spec changes.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use eventexport::simulator::DEFAULT_PERSON;
use serde_json::{Value, json};

use super::phases::{LifecyclePhase, RelativeDays};

/// Values that cases depend on.
pub(super) struct CaseContext<'a> {
    pub(super) days: RelativeDays,
    pub(super) phase: LifecyclePhase,
    pub(super) namespace: &'a str,
    /// Another address of the resource's service.
    pub(super) other_endpoint: &'a str,
}

type PatchFn = fn(&CaseContext<'_>) -> Value;

/// One line of the table.
pub(super) struct ChangeCase {
    /// Field as in the schema, or event.
    pub(super) subject: &'static str,
    /// Kind of change, for readers.
    pub(super) variant: &'static str,
    /// Merge patch of the spec that the case needs beforehand.
    pub(super) setup: PatchFn,
    pub(super) change: ResourceChange,
    pub(super) expected: Expectation,
}

/// Change of a resource.
#[derive(Clone, Copy)]
pub(super) enum ResourceChange {
    /// Changes the spec by this merge patch.
    Spec(PatchFn),
    /// Runs `kubectl delete`.
    Delete,
    /// Deletes without waiting, as `--cascade=orphan` and a manually removed finalizer do, and applies again.
    ForceReplace,
    /// Deletes, and then applies another resource of that name with another prefix.
    Recreate,
    /// Removes our finalizer manually.
    RemoveFinalizer,
    /// Removes the status.
    ClearStatus,
    /// Removes parts of the status.
    ClearConditions,
    /// Writes a nonsensical status.
    InvalidStatus,
    /// Writes a status that the schema allows, with values larger than ours ever are.
    HugeStatus,
    /// Suspends, and resumes immediately.
    SuspendAndResume,
    /// Changes the spec, and reverts it after the operator saw the change and before the old work ends.
    ChangeAndRevert,
    /// Changes labels and annotations at a high rate.
    LabelChurn,
    /// Replaces the credentials in the Secret.
    ReplaceSecret,
    /// Deletes the Secret and creates it again.
    RecreateSecret,
}

/// Evidence that a change took effect.
#[derive(Clone, Copy)]
pub(super) enum Expectation {
    /// The generation is observed, and the requested data exist.
    Applied,
    /// The API server refuses it and names this field.
    Rejected(&'static str),
    /// The export stalls with this reason and a message with this text, until this merge patch fixes it.
    Blocks(&'static str, &'static str, PatchFn),
    /// A request to the store contains this text.
    Store(&'static str),
    /// A receipt has this value at this pointer.
    Receipt(&'static str, &'static str),
    /// A token is requested at the other endpoint.
    LoginAtOtherEndpoint,
    /// A manifest is signed.
    Signed,
    /// A manifest contains this text.
    Manifest(&'static str),
    /// This many windows are transferred concurrently.
    AtOnce(u64),
}

fn no_patch(_: &CaseContext<'_>) -> Value {
    json!({})
}

const fn field(
    subject: &'static str,
    variant: &'static str,
    setup: PatchFn,
    after: PatchFn,
    expected: Expectation,
) -> ChangeCase {
    ChangeCase {
        subject,
        variant,
        setup,
        change: ResourceChange::Spec(after),
        expected,
    }
}

const fn event(subject: &'static str, change: ResourceChange) -> ChangeCase {
    ChangeCase {
        subject,
        variant: "",
        setup: no_patch,
        change,
        expected: Expectation::Applied,
    }
}

fn locked(context: &CaseContext<'_>) -> Value {
    let bucket = format!("{}-lock", context.namespace);
    json!({ "destination": { "s3": { "bucket": bucket, "objectLock": { "mode": "Governance", "retainDays": 1 } } } })
}

fn gap(context: &CaseContext<'_>) -> Value {
    let days = context.days.exported_in(&range(context));
    let day = days.first().unwrap().to_string();
    json!({ "acceptedGaps": [{ "start": day, "end": day, "reason": "known to be lost" }] })
}

/// Initial range of a resource.
fn range(context: &CaseContext<'_>) -> Value {
    let mut spec = base(context.days);
    super::merge(&mut spec, &context.phase.spec(context.days));
    spec
}

pub(super) fn base(days: RelativeDays) -> Value {
    json!({ "dateRange": { "start": days.ago(6), "end": days.ago(5) }, "settleAfter": "0s", "parallelism": 1 })
}

fn gap_with(context: &CaseContext<'_>, field: &str, value: &Value) -> Value {
    let mut gaps = gap(context);
    gaps["acceptedGaps"][0][field] = value.clone();
    gaps
}

/// The day before the first one.
fn earlier(context: &CaseContext<'_>) -> String {
    let first = *context.days.exported_in(&range(context)).first().unwrap();
    first.yesterday().unwrap().to_string()
}

const CA: PatchFn = |_| json!({ "source": { "caSecretRef": { "name": "ca" } } });
const CA_CONFIG_MAP: PatchFn = |_| json!({ "source": { "caConfigMapRef": { "name": "ca" } } });
const STORE_CA_CONFIG_MAP: PatchFn =
    |_| json!({ "destination": { "s3": { "caConfigMapRef": { "name": "ca" } } } });
const STORE_CA: PatchFn = |_| json!({ "destination": { "s3": { "caSecretRef": { "name": "ca" } } } });
const ENCRYPTED: PatchFn = |_| json!({ "destination": { "s3": { "serverSideEncryption": { "type": "aws:kms", "kmsKeyId": "one" } } } });

/// Returns a case for each leaf of the spec.
#[allow(clippy::too_many_lines)] // a table
pub(super) fn fields() -> Vec<ChangeCase> {
    use Expectation::{
        Applied, AtOnce, Blocks, LoginAtOtherEndpoint, Manifest, Receipt, Rejected, Signed, Store,
    };
    vec![
        field(
            "spec.space",
            "another",
            no_patch,
            |_| json!({ "space": "other" }),
            Rejected("spec.space"),
        ),
        field(
            "spec.scope",
            "Account",
            no_patch,
            |_| json!({ "scope": "Account" }),
            Rejected("spec.scope"),
        ),
        field(
            "spec.dateRange.start",
            "a day earlier",
            no_patch,
            |context| json!({ "dateRange": { "start": earlier(context) } }),
            Applied,
        ),
        field(
            "spec.dateRange.end",
            "another day",
            no_patch,
            |context| {
                let end = if context.phase == LifecyclePhase::CaughtUp {
                    1
                } else {
                    4
                };
                let end = if context.phase == LifecyclePhase::Settling {
                    context.days.ago(2)
                } else {
                    context.days.ago(end)
                };
                json!({ "dateRange": { "end": end } })
            },
            Applied,
        ),
        field(
            "spec.dateRange.hour",
            "one hour of each day",
            no_patch,
            |_| json!({ "dateRange": { "hour": 7 } }),
            Applied,
        ),
        field(
            "spec.source.region",
            "instead of the endpoint",
            no_patch,
            |_| json!({ "source": { "region": "us-south", "endpoint": null } }),
            Rejected("spec.source.region"),
        ),
        field(
            "spec.source.endpoint",
            "another",
            no_patch,
            |_| json!({ "source": { "endpoint": "http://127.0.0.1:1" } }),
            Rejected("spec.source.endpoint"),
        ),
        field(
            "spec.source.uaaEndpoint",
            "another",
            no_patch,
            |context| json!({ "source": { "uaaEndpoint": context.other_endpoint } }),
            LoginAtOtherEndpoint,
        ),
        field(
            "spec.source.credentialsSecretRef.name",
            "another user's",
            no_patch,
            |_| json!({ "source": { "credentialsSecretRef": { "name": "person" } } }),
            Receipt("/trackerUser", DEFAULT_PERSON),
        ),
        field("spec.source.caSecretRef.name", "added", no_patch, CA, Applied),
        field(
            "spec.source.caSecretRef.key",
            "a missing one",
            CA,
            |_| json!({ "source": { "caSecretRef": { "key": "none.pem" } } }),
            Blocks(
                "CredentialsMissing",
                "none.pem",
                |_| json!({ "source": { "caSecretRef": { "key": "other.pem" } } }),
            ),
        ),
        field(
            "spec.source.caConfigMapRef.name",
            "added",
            no_patch,
            CA_CONFIG_MAP,
            Applied,
        ),
        field(
            "spec.source.caConfigMapRef.key",
            "a missing one",
            CA_CONFIG_MAP,
            |_| json!({ "source": { "caConfigMapRef": { "key": "none.pem" } } }),
            Blocks(
                "CredentialsMissing",
                "none.pem",
                |_| json!({ "source": { "caConfigMapRef": { "key": "other.pem" } } }),
            ),
        ),
        field(
            "spec.source.retentionDays",
            "added",
            no_patch,
            |_| json!({ "source": { "retentionDays": 30 } }),
            Applied,
        ),
        field(
            "spec.destination.s3.bucket",
            "another",
            no_patch,
            |_| json!({ "destination": { "s3": { "bucket": "another" } } }),
            Rejected("spec.destination.s3.bucket"),
        ),
        field(
            "spec.destination.s3.prefix",
            "another",
            no_patch,
            |_| json!({ "destination": { "s3": { "prefix": "another" } } }),
            Rejected("spec.destination.s3.prefix"),
        ),
        field(
            "spec.destination.s3.endpoint",
            "another",
            no_patch,
            |_| json!({ "destination": { "s3": { "endpoint": "http://127.0.0.1:1" } } }),
            Rejected("spec.destination.s3.endpoint"),
        ),
        field(
            "spec.destination.s3.region",
            "a wrong one",
            no_patch,
            |_| json!({ "destination": { "s3": { "region": "eu-west-1" } } }),
            Blocks(
                "BucketInOtherRegion",
                "is in region us-east-1; correct spec.destination.s3.region",
                |_| json!({ "destination": { "s3": { "region": "us-east-1" } } }),
            ),
        ),
        field(
            "spec.destination.s3.forcePathStyle",
            "false",
            no_patch,
            |_| json!({ "destination": { "s3": { "forcePathStyle": false } } }),
            // An address has no subdomains, so path-style addressing is used anyway.
            Applied,
        ),
        field(
            "spec.destination.s3.credentialsSecretRef.name",
            "another account's",
            no_patch,
            |_| json!({ "destination": { "s3": { "credentialsSecretRef": { "name": "bucket-2" } } } }),
            Store("Credential=second-"),
        ),
        field(
            "spec.destination.s3.serviceAccountName",
            "a missing one",
            no_patch,
            |_| json!({ "destination": { "s3": { "serviceAccountName": "none", "credentialsSecretRef": null } } }),
            Blocks(
                "CredentialsMissing",
                "ServiceAccount none",
                |_| json!({ "destination": { "s3": { "serviceAccountName": null, "credentialsSecretRef": { "name": "bucket" } } } }),
            ),
        ),
        field(
            "spec.destination.s3.caSecretRef.name",
            "added",
            no_patch,
            STORE_CA,
            Applied,
        ),
        field(
            "spec.destination.s3.caSecretRef.key",
            "a missing one",
            STORE_CA,
            |_| json!({ "destination": { "s3": { "caSecretRef": { "key": "none.pem" } } } }),
            Blocks(
                "CredentialsMissing",
                "none.pem",
                |_| json!({ "destination": { "s3": { "caSecretRef": { "key": "other.pem" } } } }),
            ),
        ),
        field(
            "spec.destination.s3.caConfigMapRef.name",
            "added",
            no_patch,
            STORE_CA_CONFIG_MAP,
            Applied,
        ),
        field(
            "spec.destination.s3.caConfigMapRef.key",
            "a missing one",
            STORE_CA_CONFIG_MAP,
            |_| json!({ "destination": { "s3": { "caConfigMapRef": { "key": "none.pem" } } } }),
            Blocks(
                "CredentialsMissing",
                "none.pem",
                |_| json!({ "destination": { "s3": { "caConfigMapRef": { "key": "other.pem" } } } }),
            ),
        ),
        field(
            "spec.destination.s3.storageClass",
            "added",
            no_patch,
            |_| json!({ "destination": { "s3": { "storageClass": "STANDARD" } } }),
            Store("x-amz-storage-class: STANDARD"),
        ),
        field(
            "spec.destination.s3.serverSideEncryption.type",
            "added",
            no_patch,
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
            "spec.destination.s3.acl",
            "added",
            no_patch,
            |_| json!({ "destination": { "s3": { "acl": "private" } } }),
            Store("x-amz-acl: private"),
        ),
        field(
            "spec.destination.s3.requestPayer",
            "added",
            no_patch,
            |_| json!({ "destination": { "s3": { "requestPayer": "requester" } } }),
            Store("x-amz-request-payer: requester"),
        ),
        field(
            "spec.destination.s3.checksum",
            "CRC32C",
            no_patch,
            |_| json!({ "destination": { "s3": { "checksum": "CRC32C" } } }),
            Store("x-amz-checksum-crc32c:"),
        ),
        field(
            "spec.manifest.signingKeySecretRef.name",
            "added",
            no_patch,
            |_| json!({ "manifest": { "signingKeySecretRef": { "name": "signing" } } }),
            Signed,
        ),
        field(
            "spec.manifest.abandonedHead",
            "added",
            no_patch,
            |_| json!({ "manifest": { "abandonedHead": format!("1:{}", "0".repeat(64)) } }),
            Applied,
        ),
        field(
            "spec.manifest.unsignedReceiptsBefore",
            "added",
            no_patch,
            |_| json!({ "manifest": { "unsignedReceiptsBefore": "2018-06-02" } }),
            Applied,
        ),
        field(
            "spec.manifest.timestampAuthority",
            "added",
            no_patch,
            |_| json!({ "manifest": { "timestampAuthority": "http://127.0.0.1:9/tsr" } }),
            Applied,
        ),
        field(
            "spec.verification.every",
            "added",
            no_patch,
            |_| json!({ "verification": { "every": "1h" } }),
            Applied,
        ),
        field(
            "spec.verification.bytesPerSecond",
            "added",
            no_patch,
            |_| json!({ "verification": { "bytesPerSecond": 1_048_576 } }),
            Applied,
        ),
        field(
            "spec.report",
            "on",
            no_patch,
            |_| json!({ "report": true }),
            Applied,
        ),
        field(
            "spec.parallelism",
            "2",
            no_patch,
            |_| json!({ "parallelism": 2 }),
            AtOnce(2),
        ),
        field(
            "spec.settleAfter",
            "another",
            no_patch,
            |context| json!({ "settleAfter": if context.phase == LifecyclePhase::Settling { "1s" } else { "1h" } }),
            Applied,
        ),
        field(
            "spec.recheck.enabled",
            "off",
            no_patch,
            |_| json!({ "recheck": { "enabled": false } }),
            Applied,
        ),
        field(
            "spec.recheck.days",
            "a week",
            no_patch,
            |_| json!({ "recheck": { "days": 7 } }),
            Applied,
        ),
        field(
            "spec.suspend",
            "toggled",
            no_patch,
            |context| json!({ "suspend": context.phase != LifecyclePhase::Suspended }),
            Applied,
        ),
        field(
            "spec.acceptedGaps[].start",
            "a day earlier",
            gap,
            |context| gap_with(context, "start", &json!(earlier(context))),
            Applied,
        ),
        field(
            "spec.acceptedGaps[].end",
            "a day later",
            gap,
            |context| {
                let second = context.days.exported_in(&range(context))[1];
                gap_with(context, "end", &json!(second.to_string()))
            },
            Applied,
        ),
        field(
            "spec.acceptedGaps[].reason",
            "another",
            gap,
            |context| gap_with(context, "reason", &json!("the service had an outage")),
            Manifest("the service had an outage"),
        ),
    ]
}

/// Returns the events other than spec changes.
pub(super) fn events() -> Vec<ChangeCase> {
    vec![
        event("deleted", ResourceChange::Delete),
        event("force replaced", ResourceChange::ForceReplace),
        event("deleted and recreated", ResourceChange::Recreate),
        event("finalizer removed", ResourceChange::RemoveFinalizer),
        event("status cleared", ResourceChange::ClearStatus),
        event("status partly cleared", ResourceChange::ClearConditions),
        event("status overwritten with nonsense", ResourceChange::InvalidStatus),
        event("status overwritten with huge numbers", ResourceChange::HugeStatus),
        event("suspended and resumed at once", ResourceChange::SuspendAndResume),
        event("changed and reverted", ResourceChange::ChangeAndRevert),
        event("labels changed quickly", ResourceChange::LabelChurn),
        ChangeCase {
            expected: Expectation::Receipt("/trackerUser", DEFAULT_PERSON),
            ..event("Secret replaced", ResourceChange::ReplaceSecret)
        },
        event("Secret deleted and made again", ResourceChange::RecreateSecret),
    ]
}

pub(super) fn all() -> Vec<ChangeCase> {
    fields().into_iter().chain(events()).collect()
}

impl ChangeCase {
    /// Title in the table.
    pub(super) fn title(&self) -> String {
        match self.change {
            ResourceChange::Spec(_) => format!("`{}`: {}", self.subject, self.variant),
            _ => self.subject.to_owned(),
        }
    }
}

/// Fails if a field of the schema has no case, or a case has no field.
#[test]
fn every_spec_field_has_a_change_case() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/eventexports.yaml");
    let definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut leaves = BTreeSet::new();
    walk(schema, "spec", &mut leaves);
    let cases: BTreeSet<String> = fields().iter().map(|case| case.subject.to_owned()).collect();
    ensure!(
        leaves == cases,
        "fields without a row, or rows without a field: {:?}",
        leaves.symmetric_difference(&cases).collect::<Vec<_>>()
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
