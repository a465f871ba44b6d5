//! End to end: `eventexport operator` as a process with exactly the rights of deploy/operator.yaml, with a real API
//! server, a real S3 store and the simulator.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::RequestKind;
use serde_json::{Value, json};

use super::{apply, event_reasons, eventually, get, has_finalizer, kubectl};
use crate::bed::Cluster;
use crate::testkit::environment::{Environment, STOP_LIMIT};
use crate::testkit::operator::OperatorCommand;
use crate::testkit::process::Process;

/// Starts a service with these faults, an operator, and an export of five days.
pub(super) async fn start(name: &str, faults: &[&str]) -> Result<(Environment, Arc<Process>)> {
    let environment = Environment::builder(name).presets(faults).start().await?;
    let operator = operator(environment.cluster, &environment.namespace).await?;
    environment.apply(&environment.export("june")).await?;
    Ok((environment, operator))
}

fn downloads(environment: &Environment) -> u64 {
    environment.simulator.ledger().requests_of(RequestKind::Download)
}

/// Starts an operator with the rights of deploy/operator.yaml, which is generated from the chart.
pub(crate) async fn operator(cluster: &Cluster, namespace: &str) -> Result<Arc<Process>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/operator.yaml");
    kubectl(cluster, &["apply", "--server-side", "-f", manifest]).await?;
    let kubeconfig = cluster
        .kubeconfig_for_service_account("eventexport-system", "eventexport")
        .await?;
    // The rights name the lease, so each test's operator holds it in its own namespace.
    let rights = kubectl(
        cluster,
        &[
            "get",
            "role,rolebinding",
            "-n",
            "eventexport-system",
            "-o",
            "json",
        ],
    )
    .await?;
    let mut rights: Value = serde_json::from_str(&rights)?;
    for item in rights["items"].as_array_mut().into_iter().flatten() {
        item["metadata"] = json!({ "namespace": namespace, "name": item["metadata"]["name"] });
    }
    apply(cluster, &rights).await?;
    OperatorCommand::new(cluster)
        .kubeconfig(&kubeconfig)
        .namespace(namespace)
        .args(&["--lease-name", "eventexport-operator", "--session-quiet", "1s"])
        .start()
        .await
}

#[tokio::test]
async fn a_manifest_becomes_objects_and_a_ready_status_and_nothing_is_downloaded_twice() -> Result<()> {
    let (fixture, _operator) = start("whole", &[]).await?;
    let object = fixture.wait_complete("june").await?;
    ensure!(object["status"]["windows"]["stored"] == 5, "{}", object["status"]);
    ensure!(object["status"]["covered"] == json!([{ "start": "2018-06-03", "end": "2018-06-07" }]));
    fixture.wait_finalizer_removed("june").await?;
    ensure!(fixture.simulator.open_sessions().is_empty());
    ensure!(
        event_reasons(fixture.cluster, &fixture.namespace, "june")
            .await?
            .contains(&"Complete".to_owned())
    );

    let before = downloads(&fixture);
    fixture.delete("june").await?;
    fixture.apply(&fixture.export("june")).await?;
    let again = fixture.wait_complete("june").await?;
    ensure!(again["status"]["covered"] == object["status"]["covered"]);
    ensure!(again["status"]["events"] == object["status"]["events"]);
    ensure!(
        downloads(&fixture) == before,
        "what is stored is not downloaded again"
    );
    Ok(())
}

#[tokio::test]
async fn sigterm_deletes_the_sessions_and_a_restart_completes() -> Result<()> {
    let (fixture, operator) = start("sigterm", &["hang-download@2018-06-05x1"]).await?;
    fixture.wait_fault().await?;
    ensure!(!fixture.simulator.open_sessions().is_empty());
    ensure!(operator.stop(STOP_LIMIT).await?, "it did not stop well");
    ensure!(
        fixture.simulator.open_sessions().is_empty(),
        "no session outlives an orderly end"
    );
    let left = fixture.object("june").await?;
    ensure!(
        left["status"]["windows"]["active"] == 0 && left["status"]["sessions"].is_null(),
        "{}",
        left["status"]
    );
    ensure!(!has_finalizer(&left), "a stopped operator left its finalizer");
    let _operator = self::operator(fixture.cluster, &fixture.namespace).await?;
    fixture.wait_complete("june").await?;
    ensure!(fixture.simulator.open_sessions().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_vanished_bucket_does_not_block_deletion() -> Result<()> {
    let (fixture, _operator) = start("vanished", &["hang-download@2018-06-05x1"]).await?;
    eventually("the session is in the status", async || {
        let object = get(fixture.cluster, &fixture.namespace, "june")
            .await?
            .unwrap_or_default();
        let hangs = !fixture.simulator.ledger().faults.is_empty();
        Ok(hangs && object["status"]["sessions"][0]["window"] == "2018-06-05")
    })
    .await?;
    // In one step: the operator writes into the bucket until it is gone.
    let bucket = fixture.gateway.folder().join("objects").join(&fixture.namespace);
    let removed = bucket.with_extension("removed");
    std::fs::rename(&bucket, &removed).with_context(|| bucket.display().to_string())?;
    std::fs::remove_dir_all(&removed).with_context(|| removed.display().to_string())?;
    fixture.delete("june").await?;
    ensure!(
        fixture.simulator.open_sessions().is_empty(),
        "the service was there, so the session is not left"
    );
    Ok(())
}
