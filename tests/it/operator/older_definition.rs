//! An installation whose definition is upgraded: resources of the older one, with gaps as one value and ranges as texts in the
//! status, stay valid, are read, and their status is written in the new form.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Operator, eventually, get, manifest};
use crate::bed::Cluster;

/// Definition of this version.
const DEFINITION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/eventexports.yaml");

/// Returns the definition in the form before ranges were objects, and gaps and sessions maps.
fn older_definition() -> Result<Value> {
    let mut definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(DEFINITION)?)?;
    let fields = definition
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties")
        .context("no schema")?;
    for list in ["spec/properties/acceptedGaps", "status/properties/sessions"] {
        let list = fields.pointer_mut(&format!("/{list}")).context("no list")?;
        let list = list.as_object_mut().context("no schema of the list")?;
        ensure!(list.remove("x-kubernetes-list-type") == Some(json!("map")));
        list.remove("x-kubernetes-list-map-keys");
    }
    for ranges in ["covered", "missing", "expired"] {
        fields["status"]["properties"][ranges]["items"] = json!({ "type": "string", "maxLength": 64 });
    }
    Ok(definition)
}

/// Applies as this field manager. Returns the gaps of the resource then.
async fn apply_gaps(cluster: &Cluster, manager: &str, manifest: &Value) -> Result<Value> {
    let applied = cluster
        .kubectl(
            &[
                "apply",
                "--server-side",
                "--field-manager",
                manager,
                "-o",
                "json",
                "-f",
                "-",
            ],
            Some(&manifest.to_string()),
        )
        .await
        .success()?;
    let applied: Value = serde_json::from_str(&applied)?;
    let gaps = applied["spec"]["acceptedGaps"].as_array().cloned();
    Ok(gaps
        .into_iter()
        .flatten()
        .map(|gap| gap["start"].clone())
        .collect())
}

fn gap(day: &str) -> Value {
    json!([{ "start": day, "end": day, "reason": "lost" }])
}

#[tokio::test]
async fn an_upgraded_definition_keeps_gaps_and_ranges_of_the_older_one() -> Result<()> {
    let cluster = &Cluster::start().await?;
    let namespace = &cluster.namespace("upgrade").await;
    let older = older_definition()?.to_string();
    let apply = ["apply", "--server-side", "-f", "-"];
    cluster.kubectl(&apply, Some(&older)).await.success()?;

    let mut june = manifest(namespace, "june", "done");
    june["spec"]["suspend"] = true.into();
    june["spec"]["acceptedGaps"] = gap("2018-06-03");
    // Two gaps with the same first day were valid.
    let mut twice = manifest(namespace, "twice", "done");
    twice["spec"]["suspend"] = true.into();
    twice["spec"]["acceptedGaps"] = [gap("2018-06-03"), gap("2018-06-03")]
        .iter()
        .flat_map(|gaps| gaps.as_array().cloned().unwrap_or_default())
        .collect();
    let mut status = json!({
        "apiVersion": june["apiVersion"], "kind": june["kind"],
        "metadata": { "name": "june", "namespace": namespace },
        "status": {
            "observedGeneration": 1,
            "covered": ["2018-06-01/2018-06-02", "2018-06-04T07/2018-06-04T09", "and 3 more"],
            "missing": ["2018-06-03"],
            "expired": ["2018-06-03"],
            "sessions": [{ "id": "a", "window": "2018-06-05" }],
        },
    });
    let apply_status = [
        &apply[..],
        &["--subresource=status", "--field-manager=eventexport.io/operator"],
    ]
    .concat();
    // The API server takes a moment to use the other definition.
    eventually("the older definition is in use", async || {
        apply_gaps(cluster, "git", &june).await?;
        Ok(cluster
            .kubectl(&apply_status, Some(&status.to_string()))
            .await
            .success()
            .is_ok())
    })
    .await?;
    apply_gaps(cluster, "git", &twice).await?;
    status["metadata"]["name"] = "twice".into();
    cluster
        .kubectl(&apply_status, Some(&status.to_string()))
        .await
        .success()?;

    cluster.apply_crd(Path::new(DEFINITION)).await?;
    let exports = async |name: &str| get(cluster, namespace, name).await?.context("it is gone");
    ensure!(exports("june").await?["status"]["missing"] == json!(["2018-06-03"]));
    // Applying over them is refused, so that the operator has to replace them first.
    status["status"] = json!({ "missing": [{ "start": "2018-06-03", "end": "2018-06-03" }] });
    let applied = cluster.kubectl(&apply_status, Some(&status.to_string())).await;
    let refusal = applied
        .success()
        .err()
        .context("it is applied over the texts")?
        .to_string();
    ensure!(refusal.contains("missing"), "{refusal}");

    let operator = Operator::start(cluster, namespace).await?;
    for name in ["june", "twice"] {
        let range = |start: &str, end: &str| json!({ "start": start, "end": end });
        eventually("the status is written in the new form", async || {
            let status = exports(name).await?["status"].take();
            let expected = [
                (
                    "covered",
                    json!([
                        range("2018-06-01", "2018-06-02"),
                        range("2018-06-04T07", "2018-06-04T09")
                    ]),
                ),
                ("missing", json!([range("2018-06-03", "2018-06-03")])),
                ("expired", json!([range("2018-06-03", "2018-06-03")])),
            ];
            let differing = expected.iter().find(|(field, value)| status[field] != *value);
            ensure!(differing.is_none(), "{differing:?}: {status}");
            Ok(!status["conditions"].is_null())
        })
        .await?;
    }
    operator.stop().await?;

    // Each manager has its gap, also over resources that one of them applied under the older definition.
    let mut other = json!({
        "apiVersion": june["apiVersion"], "kind": june["kind"],
        "metadata": { "name": "june", "namespace": namespace },
        "spec": { "acceptedGaps": gap("2018-06-04") },
    });
    ensure!(apply_gaps(cluster, "auditor", &other).await? == json!(["2018-06-03", "2018-06-04"]));
    ensure!(apply_gaps(cluster, "git", &june).await? == json!(["2018-06-03", "2018-06-04"]));
    let spec = june["spec"].as_object_mut().context("no spec")?;
    spec.remove("acceptedGaps");
    ensure!(apply_gaps(cluster, "git", &june).await? == json!(["2018-06-04"]));

    // What is stored with a day twice can be changed elsewhere, and corrected.
    let patch = ["patch", "ee", "twice", "-n", namespace, "--type=merge", "-p"];
    cluster
        .kubectl(&[&patch[..], &[r#"{"spec":{"parallelism":5}}"#]].concat(), None)
        .await
        .success()?;
    other["metadata"]["name"] = "twice".into();
    let corrected = json!({ "spec": { "acceptedGaps": gap("2018-06-03") } }).to_string();
    cluster
        .kubectl(&[&patch[..], &[&corrected]].concat(), None)
        .await
        .success()?;
    ensure!(apply_gaps(cluster, "auditor", &other).await? == json!(["2018-06-03", "2018-06-04"]));
    Ok(())
}
