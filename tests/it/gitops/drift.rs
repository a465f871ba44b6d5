//! No field drifts: applied values stay as they are, with any client, before and after the operator acts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{file, tool};
use crate::bed::{Cluster, KubectlOutput};
use crate::operator::scripted_exporter::ScriptedExporter;
use crate::operator::{Operator, apply, eventually, get, has_finalizer, manifest, secret, wait_conditions};

/// Returns a spec with all fields, with values that a normalizing server would rewrite.
fn full(namespace: &str, name: &str, by_region: bool) -> Value {
    let mut made = manifest(namespace, name, "complete");
    let at = if by_region {
        json!({ "region": "us-south" })
    } else {
        json!({ "endpoint": "https://127.0.0.1:1/" })
    };
    made["spec"] = json!({
        "space": "complete",
        "scope": "Space",
        "dateRange": { "start": "2018-06-01", "end": "2018-06-30", "hour": 7 },
        "source": {
            "uaaEndpoint": "https://UAA.example.com:443/",
            "credentialsSecretRef": { "name": "tracker" },
            "caSecretRef": { "name": "tracker", "key": "ca.crt" },
            "retentionDays": 30,
        },
        "destination": { "s3": {
            "bucket": "audit",
            "prefix": "tracker/production",
            "region": "eu-central-1",
            "endpoint": "https://S3.example.com:443",
            "forcePathStyle": true,
            "credentialsSecretRef": { "name": "tracker" },
            "caSecretRef": { "name": "tracker", "key": "store.pem" },
            "storageClass": "STANDARD_IA",
            "serverSideEncryption": { "type": "aws:kms", "kmsKeyId": "alias/audit" },
            "objectLock": { "mode": "Compliance", "retainDays": 2555 },
            "checksum": "CRC64NVME",
            "acl": "bucket-owner-full-control",
            "requestPayer": "requester",
        }},
        "manifest": {
            "signingKeySecretRef": { "name": "tracker" },
            "abandonedHead": format!("7:{}", "0a".repeat(32)),
            "timestampAuthority": "https://TSA.example.com:443/",
            "unsignedReceiptsBefore": "2018-06-02",
        },
        "recheck": { "enabled": true, "days": 14 },
        "verification": { "every": "0h720m0s", "bytesPerSecond": 1_048_576 },
        "report": true,
        "parallelism": 4,
        "settleAfter": "0h90m0s",
        "suspend": false,
        "acceptedGaps": [
            { "start": "2018-06-03", "end": "2018-06-04", "reason": "source expired before we began" },
            { "start": "2018-06-01", "end": "2018-06-01", "reason": "  as  it was  " },
        ],
    });
    for (key, value) in at.as_object().into_iter().flatten() {
        made["spec"]["source"][key] = value.clone();
    }
    // Not beside each other.
    let peers = ["/spec/source", "/spec/destination/s3"];
    for peer in peers.into_iter().filter(|_| by_region) {
        if let Some(peer) = made.pointer_mut(peer).and_then(Value::as_object_mut) {
            peer.remove("caSecretRef");
            let config_map = json!({ "name": "authorities", "key": "ca.crt" });
            peer.insert("caConfigMapRef".to_owned(), config_map);
        }
    }
    // The identity of an account, instead of keys.
    if by_region
        && let Some(store) = made
            .pointer_mut("/spec/destination/s3")
            .and_then(Value::as_object_mut)
    {
        store.remove("credentialsSecretRef");
        store.insert("serviceAccountName".to_owned(), json!("archiver"));
    }
    made
}

/// Client-side apply of kubectl, or server-side apply as Flux and Argo CD use it.
#[derive(Clone, Copy)]
enum ApplyMode {
    Client,
    Server(&'static str),
}

impl ApplyMode {
    fn arguments(self, verb: &'static str) -> Vec<&'static str> {
        match self {
            Self::Client => vec![verb, "-f", "-"],
            Self::Server(manager) => vec![verb, "--server-side", "--field-manager", manager, "-f", "-"],
        }
    }

    async fn run(self, cluster: &Cluster, verb: &'static str, manifest: &Value) -> KubectlOutput {
        cluster
            .kubectl(&self.arguments(verb), Some(&manifest.to_string()))
            .await
    }
}

#[tokio::test]
async fn an_applied_manifest_does_not_drift() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("drift").await;
    apply(cluster, &secret(namespace, "one")).await?;
    let authorities = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": namespace, "name": "authorities" },
        "data": { "ca.crt": "" },
    });
    apply(cluster, &authorities).await?;
    let operator = Operator::start_with(cluster, namespace, Arc::new(ScriptedExporter::default())).await?;

    let ways = [
        ("client", ApplyMode::Client),
        ("flux", ApplyMode::Server("kustomize-controller")),
        ("argo", ApplyMode::Server("argocd-controller")),
    ];
    for (name, mode) in ways {
        let minimal = manifest(namespace, &format!("{name}-minimal"), "complete");
        for manifest in [
            minimal,
            full(namespace, &format!("{name}-region"), true),
            full(namespace, &format!("{name}-endpoint"), false),
        ] {
            ensure_no_drift(cluster, mode, &manifest).await?;
        }
    }
    operator.stop().await
}

/// Applies a manifest, lets the operator act, and applies it again.
async fn ensure_no_drift(cluster: &Cluster, mode: ApplyMode, manifest: &Value) -> Result<()> {
    let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    mode.run(cluster, "apply", manifest).await.success()?;
    let states = ["True/Complete", "True/Complete", "False/Accepted", "False"];
    wait_conditions(cluster, namespace, name, states).await?;
    let mut before = Value::Null;
    eventually("the operator has done all it does", async || {
        let earlier = before["metadata"]["resourceVersion"].clone();
        tokio::time::sleep(Duration::from_secs(2)).await;
        before = get(cluster, namespace, name).await?.context("it is gone")?;
        Ok(!has_finalizer(&before) && before["metadata"]["resourceVersion"] == earlier)
    })
    .await?;
    ensure!(
        before["metadata"]["generation"] == 1,
        "the operator changed the spec"
    );
    ensure_contains_all(&manifest["spec"], &before["spec"], "spec")?;

    // Same manifest: no difference and no write. kubectl diff exits with 1 on a difference.
    let both = [
        mode,
        ApplyMode::Client,
        ApplyMode::Server("kustomize-controller"),
        ApplyMode::Server("another"),
    ];
    mode.run(cluster, "diff", manifest)
        .await
        .success()
        .with_context(|| name.to_owned())?;
    mode.run(cluster, "apply", manifest).await.success()?;
    let after = get(cluster, namespace, name).await?.context("it is gone")?;
    ensure!(
        before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"],
        "{name}: applying it again wrote"
    );
    owners(cluster, namespace, name).await?;
    not_out_of_sync(manifest, &after).await?;

    // Another manager with the same manifest has no conflict and changes nothing.
    for other in both {
        let applied = other.run(cluster, "apply", manifest).await;
        let warned = applied.stderr.clone();
        applied.success().with_context(|| name.to_owned())?;
        ensure!(!warned.contains("conflict"), "{name}: {warned}");
    }
    let last = get(cluster, namespace, name).await?.context("it is gone")?;
    ensure!(
        last["metadata"]["generation"] == 1 && last["spec"] == before["spec"],
        "{last}"
    );
    not_out_of_sync(manifest, &last).await
}

/// Checks that all written values are unchanged; additional fields are defaults.
fn ensure_contains_all(written: &Value, there: &Value, path: &str) -> Result<()> {
    match (written, there) {
        (Value::Object(written), Value::Object(there)) => {
            for (key, value) in written {
                let found = there.get(key).with_context(|| format!("{path}.{key} is gone"))?;
                ensure_contains_all(value, found, &format!("{path}.{key}"))?;
            }
        }
        _ => ensure!(written == there, "{path}: {written} became {there}"),
    }
    Ok(())
}

/// Checks field ownership: the applier owns the spec, the operator the status, and neither more.
async fn owners(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let args = [
        "get",
        "eventexport",
        name,
        "-n",
        namespace,
        "-o",
        "json",
        "--show-managed-fields",
    ];
    let object: Value = serde_json::from_str(&cluster.kubectl(&args, None).await.success()?)?;
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .context("no field owners")?;
    ensure!(
        entries
            .iter()
            .any(|entry| entry["manager"] == eventexport::controller::FIELD_MANAGER)
    );
    for entry in entries {
        let fields = entry["fieldsV1"].as_object().context("no fields")?;
        let of_operator = entry["manager"] == eventexport::controller::FIELD_MANAGER;
        let part = |field| fields.contains_key(field);
        ensure!(
            !of_operator || !part("f:spec"),
            "the operator owns fields of the spec: {entry}"
        );
        ensure!(
            of_operator || !part("f:status"),
            "another manager owns the status: {entry}"
        );
    }
    Ok(())
}

#[derive(Deserialize)]
struct Difference {
    modified: bool,
    live: Value,
    predicted: Value,
}

/// Compares as Argo CD does, Git with live state.
async fn not_out_of_sync(manifest: &Value, live: &Value) -> Result<()> {
    let pair = json!({ "git": manifest, "live": live });
    let differences: Vec<Difference> = tool("argocd", &["diff"], &[pair]).await?;
    for Difference {
        modified,
        live,
        predicted,
    } in differences
    {
        ensure!(!modified, "Argo CD says OutOfSync:\n{live}\n{predicted}");
    }
    Ok(())
}

/// Proves that the comparison detects a difference.
#[tokio::test]
async fn argo_cd_comparison_detects_a_difference() -> Result<()> {
    let git = manifest("audit", "june", "complete");
    let mut live = git.clone();
    live["spec"]["parallelism"] = json!(9);
    let pair = json!({ "git": { "spec": { "parallelism": 4 }, "apiVersion": git["apiVersion"], "kind": git["kind"],
        "metadata": git["metadata"] }, "live": live });
    let differences: Vec<Difference> = tool("argocd", &["diff"], &[pair]).await?;
    ensure!(differences.iter().all(|one| one.modified));
    Ok(())
}

/// The full manifests set each field of the CRD, so that new fields are covered.
#[test]
fn the_full_manifests_set_every_field() -> Result<()> {
    let definition: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(file("crds/eventexports.yaml"))?)?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut wanted = BTreeSet::new();
    described(schema, "spec", &mut wanted);
    let mut written = BTreeSet::new();
    for by_region in [true, false] {
        named(&full("audit", "full", by_region)["spec"], "spec", &mut written);
    }
    ensure!(
        wanted == written,
        "{:?}",
        wanted.symmetric_difference(&written).collect::<Vec<_>>()
    );
    Ok(())
}

fn described(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    into.insert(path.to_owned());
    for (key, field) in schema["properties"].as_object().into_iter().flatten() {
        described(field, &format!("{path}.{key}"), into);
    }
    if schema["items"].is_object() {
        described(&schema["items"], &format!("{path}[]"), into);
    }
}

fn named(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    into.insert(path.to_owned());
    for (key, field) in value.as_object().into_iter().flatten() {
        named(field, &format!("{path}.{key}"), into);
    }
    for item in value.as_array().into_iter().flatten() {
        named(item, &format!("{path}[]"), into);
    }
}
