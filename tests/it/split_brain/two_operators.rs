//! Two operators of one cluster that do not know of each other: each leads by its own Lease.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::Settings;
use jiff::civil::date;
use serde_json::Value;

use super::fixture::{ResourceParams, SplitBrainFixture, eventually, kill, requests_since, wait_receipts};
use crate::bed::Cluster;
use crate::operator::process::OperatorProcess;
use crate::operator::{condition, events, get, kubectl};

const DAYS: [&str; 2] = ["2018-06-01", "2018-06-20"];

/// Settings of a slow service, so that both always have work.
fn settings() -> Settings {
    Settings {
        today: Some(date(2018, 8, 1)),
        latency: Duration::from_millis(150),
        ..Settings::default()
    }
}

/// Lease times, shorter than elsewhere: a claim is awaited for four Leases, and repeated after eight.
const LEASE_FLAGS: [&str; 6] = [
    "--lease-duration",
    "8s",
    "--lease-deadline",
    "7s",
    "--lease-renew",
    "1s",
];

async fn wait_leading(process: &OperatorProcess) -> Result<()> {
    eventually("it leads", async || Ok(process.leads().await)).await
}

async fn annotation(cluster: &Cluster, namespace: &str, name: &str) -> Result<String> {
    let object = get(cluster, namespace, "june").await?.context("it is gone")?;
    let value = object["metadata"]["annotations"][format!("eventexport.io/{name}")].as_str();
    Ok(value.unwrap_or_default().to_owned())
}

/// Returns the notes of the Events with that reason.
async fn event_notes(cluster: &Cluster, namespace: &str, reason: &str) -> Result<Vec<String>> {
    let selector = format!("regarding.name=june,reason={reason}");
    let found = events(cluster, namespace, &selector).await?;
    Ok(found
        .iter()
        .map(|event| event["note"].as_str().unwrap_or_default().to_owned())
        .collect())
}

/// One operator serves the cluster, the other one the namespace. The first one serves the export; the other one
/// reports that and does nothing until the first is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_claimed_by_two_operators_is_served_by_one_and_reported() -> Result<()> {
    let cluster = &Cluster::start().await?;
    for name in ["system", "tenant"] {
        kubectl(cluster, &["create", "namespace", name]).await?;
    }
    let fixture =
        SplitBrainFixture::start(&format!("operators-{:08x}", rand::random::<u32>()), settings()).await?;
    let params = ResourceParams {
        namespace: "tenant",
        name: "june",
        days: DAYS,
        prefix: "tracker",
        parallelism: 3,
    };
    let cluster_operator = fixture.operator_in(cluster, "system", &LEASE_FLAGS).await?;
    wait_leading(&cluster_operator).await?;
    fixture.apply(cluster, &params).await?;
    wait_receipts(&fixture, 1).await?;
    let begun = Instant::now();
    let namespace_operator = fixture.operator(cluster, "tenant", &LEASE_FLAGS).await?;
    wait_leading(&namespace_operator).await?;

    // The serving operator reports the conflict and continues; the other one reports it and waits.
    let mut contended = Value::Null;
    eventually("the conflict is reported", async || {
        contended = get(cluster, "tenant", "june").await?.context("it is gone")?;
        Ok(condition(&contended, "Contended") == "True/OperatorConflict")
    })
    .await
    .with_context(|| format!("{}", contended["metadata"]["annotations"]))?;
    let conditions = contended["status"]["conditions"].to_string();
    for lease in [
        "system/eventexport-operator",
        "tenant/eventexport-operator-tenant",
    ] {
        ensure!(conditions.contains(lease), "{conditions}");
    }
    eventually("the other tells, too", async || {
        let notes = event_notes(cluster, "tenant", "OperatorConflict").await?;
        Ok(notes
            .iter()
            .any(|note| note.contains("system/eventexport-operator serves")))
    })
    .await?;
    ensure!(
        condition(&contended, "Ready").starts_with("True/"),
        "{conditions}"
    );
    let requests = requests_since(&fixture, namespace_operator.id, begun);
    ensure!(requests.is_empty(), "both export: {requests:#?}");

    // It crashes during the export. The other one takes over and cleans up at once: the holder in the journal is the
    // same.
    let stored = fixture.store.requests();
    let stored = stored
        .iter()
        .filter(|seen| seen.contains(&["PUT ", ".receipt.json"]))
        .count();
    ensure!(stored < 18, "it was too fast: {stored}");
    kill(cluster_operator).await?;
    eventually("it is taken over", async || {
        Ok(annotation(cluster, "tenant", "operator").await? == "tenant/eventexport-operator-tenant")
    })
    .await?;
    fixture.wait_complete(cluster, &params).await?;
    fixture.check_archive("tracker", DAYS).await?;
    fixture.source.no_session_left()?;

    // After its restart it finds another holder, and leaves the export alone although nothing is active.
    let begun = Instant::now();
    let back = fixture.operator_in(cluster, "system", &LEASE_FLAGS).await?;
    wait_leading(&back).await?;
    eventually("the conflict is reported at rest, too", async || {
        let object = get(cluster, "tenant", "june").await?.context("it is gone")?;
        Ok(condition(&object, "Contended") == "True/OperatorConflict")
    })
    .await?;
    fixture.wait_complete(cluster, &params).await?;
    let requests = requests_since(&fixture, back.id, begun);
    ensure!(requests.is_empty(), "{requests:#?}");
    ensure!(annotation(cluster, "tenant", "contender").await?.is_empty());
    Ok(())
}

/// A frozen operator does not answer, and the export is taken over. When it resumes it still has its own Lease. Both
/// may briefly consider themselves the holder.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_leaves_an_export_alone_after_a_takeover() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("usurped").await;
    let fixture = SplitBrainFixture::start(&namespace, settings()).await?;
    let params = ResourceParams {
        namespace: &namespace,
        name: "june",
        days: DAYS,
        prefix: "tracker",
        parallelism: 3,
    };
    let first = fixture
        .operator(cluster, &namespace, &["--lease-name", "first"])
        .await?;
    wait_leading(&first).await?;
    fixture.apply(cluster, &params).await?;
    wait_receipts(&fixture, 1).await?;
    // As after a claim without an answer.
    let second = format!("{namespace}/second");
    let taken = format!("eventexport.io/operator={second}");
    kubectl(
        cluster,
        &[
            "annotate",
            "eventexport",
            "june",
            "-n",
            &namespace,
            "--overwrite",
            &taken,
        ],
    )
    .await?;
    let other = fixture
        .operator(cluster, &namespace, &["--lease-name", "second"])
        .await?;
    fixture.wait_complete(cluster, &params).await?;
    ensure!(annotation(cluster, &namespace, "operator").await? == second);
    eventually("the takeover is reported", async || {
        let object = get(cluster, &namespace, "june").await?.context("it is gone")?;
        Ok(condition(&object, "Contended") == "True/OperatorConflict")
    })
    .await?;
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = requests_since(&fixture, first.id, since);
    ensure!(requests.is_empty() && other.leads().await, "{requests:#?}");
    fixture.check_archive("tracker", DAYS).await?;
    fixture.source.no_session_left()
}
