//! Installations of one cluster: each serves the exports of its scope, and one of them what several select.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use eventexport::simulator::Settings;
use jiff::civil::date;

use super::fixture::{ResourceParams, SplitBrainFixture, eventually, kill, requests_since, wait_receipts};
use crate::bed::Cluster;
use crate::operator::process::OperatorProcess;
use crate::operator::{condition, events, get, has_finalizer, kubectl};

const DAYS: [&str; 2] = ["2018-06-01", "2018-06-12"];

/// Lease times, shorter than elsewhere: the Leases are listed once in a duration, and an installation is gone after four.
const LEASE_FLAGS: [&str; 6] = [
    "--lease-duration",
    "4s",
    "--lease-deadline",
    "3s",
    "--lease-renew",
    "1s",
];

fn settings(latency: u64) -> Settings {
    Settings {
        today: Some(date(2018, 8, 1)),
        latency: Duration::from_millis(latency),
        ..Settings::default()
    }
}

fn params<'a>(namespace: &'a str, name: &'a str, prefix: &'a str) -> ResourceParams<'a> {
    ResourceParams {
        namespace,
        name,
        days: DAYS,
        prefix,
        parallelism: 2,
    }
}

async fn wait_leading(process: &OperatorProcess) -> Result<()> {
    eventually("it leads", async || Ok(process.leads().await)).await
}

async fn wait_contended(cluster: &Cluster, namespace: &str, state: &str) -> Result<String> {
    let mut conditions = String::new();
    eventually("the overlap is reported or not", async || {
        let object = get(cluster, namespace, "june").await?.context("it is gone")?;
        conditions = object["status"]["conditions"].to_string();
        Ok(condition(&object, "Contended") == state)
    })
    .await
    .with_context(|| conditions.clone())?;
    Ok(conditions)
}

/// Two installations with Leases in one namespace select one export. The older one serves it and says so; the other one
/// sends nothing and takes over when the first one is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_two_installations_select_is_served_by_the_older_one() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("beside").await;
    let fixture = SplitBrainFixture::start(&namespace, settings(150)).await?;
    let june = params(&namespace, "june", "tracker");
    let start = async |name: &str| {
        let args = [&LEASE_FLAGS[..], &["--lease-name", name]].concat();
        let operator = fixture.operator(cluster, &namespace, &args).await?;
        wait_leading(&operator).await?;
        Ok::<_, anyhow::Error>(operator)
    };
    // By their names alone, the second one would come first. The API server records whole seconds.
    let first = start("second").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.apply(cluster, &june).await?;
    wait_receipts(&fixture, 1).await?;
    let begun = Instant::now();
    let second = start("first").await?;
    let conditions = wait_contended(cluster, &namespace, "True/OperatorConflict").await?;
    let (serving, ignoring) = (
        format!("{namespace}/second serves"),
        format!("{namespace}/first selects"),
    );
    ensure!(
        conditions.contains(&serving) && conditions.contains(&ignoring),
        "{conditions}"
    );
    let requests = requests_since(&fixture, second.id, begun);
    ensure!(requests.is_empty(), "both export: {requests:#?}");
    let selector = "regarding.name=june,reason=OperatorConflict";
    // The serving one writes the condition, and the other one the Event.
    eventually("an Event says so", async || {
        Ok(!events(cluster, &namespace, selector).await?.is_empty())
    })
    .await?;

    kill(first).await?;
    fixture.wait_complete(cluster, &june).await?;
    wait_contended(cluster, &namespace, "-/-").await?;
    fixture.check_archive("tracker", DAYS).await?;
    fixture.source.no_session_left()?;

    // At rest, nothing is written although both watch.
    let again = start("second").await?;
    wait_contended(cluster, &namespace, "True/OperatorConflict").await?;
    let version = async || {
        let object = get(cluster, &namespace, "june").await?.context("it is gone")?;
        Ok::<_, anyhow::Error>(object["metadata"]["resourceVersion"].clone())
    };
    // What is still to be written after the change is written before long; what is written periodically has no end.
    let mut before = version().await?;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let now = version().await?;
        if now == before {
            drop((second, again));
            return Ok(());
        }
        before = now;
    }
    bail!("something is written periodically")
}

/// An operator in the namespace of an export precedes one elsewhere, which takes over when the local one is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_in_the_namespace_of_an_export_precedes_others() -> Result<()> {
    let cluster = Cluster::shared().await;
    let (system, tenant) = (
        cluster.namespace("system").await,
        cluster.namespace("tenant").await,
    );
    let fixture = SplitBrainFixture::start(&tenant, settings(150)).await?;
    let june = params(&tenant, "june", "tracker");
    let selector = format!("test={tenant}");
    let own = ["--selector", &selector, "--lease-name", "all-of-one-test"];
    let central = [&LEASE_FLAGS[..], &own].concat();
    let central = fixture.operator_in(cluster, &system, &central).await?;
    wait_leading(&central).await?;
    fixture.apply(cluster, &june).await?;
    kubectl(
        cluster,
        &["label", "eventexport", "june", "-n", &tenant, &selector],
    )
    .await?;
    wait_receipts(&fixture, 1).await?;
    let local = fixture.operator(cluster, &tenant, &LEASE_FLAGS).await?;
    wait_leading(&local).await?;
    fixture.wait_complete(cluster, &june).await?;
    fixture.check_archive("tracker", DAYS).await?;
    fixture.source.no_session_left()?;
    eventually("the central one says who serves it", async || {
        let selector = "regarding.name=june,reason=OperatorConflict";
        let found = events(cluster, &tenant, selector).await?;
        Ok(found.iter().any(|event| {
            let note = event["note"].as_str().unwrap_or_default();
            note.contains(&format!("{tenant}/eventexport-operator-{tenant} serves"))
        }))
    })
    .await?;
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = requests_since(&fixture, central.id, since);
    ensure!(requests.is_empty(), "{requests:#?}");

    // It leaves; the central one serves a new generation.
    kill(local).await?;
    let longer = r#"{"spec":{"dateRange":{"end":"2018-06-14"}}}"#;
    let patch = [
        "patch",
        "eventexport",
        "june",
        "-n",
        &tenant,
        "--type=merge",
        "-p",
        longer,
    ];
    kubectl(cluster, &patch).await?;
    eventually("the central one completes it", async || {
        let object = get(cluster, &tenant, "june").await?.context("it is gone")?;
        Ok(object["status"]["observedGeneration"] == 2 && condition(&object, "Complete") == "True/Complete")
    })
    .await?;
    fixture
        .check_archive("tracker", ["2018-06-01", "2018-06-14"])
        .await
}

/// An operator serves only the namespaces and labels of its scope, also when labels change.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_namespaces_and_labels() -> Result<()> {
    let cluster = Cluster::shared().await;
    let system = cluster.namespace("scoped").await;
    let (gold, silver, other) = (
        cluster.namespace("gold").await,
        cluster.namespace("silver").await,
        cluster.namespace("other").await,
    );
    let fixture = SplitBrainFixture::start(&gold, settings(20)).await?;
    let exports = [
        (params(&gold, "june", "a"), "tier=gold", true),
        (params(&silver, "june", "b"), "tier=gold", true),
        (params(&silver, "july", "c"), "tier=silver", false),
        (params(&other, "june", "d"), "tier=gold", false),
    ];
    for (export, label, _) in &exports {
        fixture.apply(cluster, export).await?;
        let label = ["label", "eventexport", export.name, "-n", export.namespace, label];
        kubectl(cluster, &label).await?;
    }
    let scope = [
        "--namespace",
        &gold,
        "--namespace",
        &silver,
        "--selector",
        "tier in (gold)",
    ];
    let args = [&LEASE_FLAGS[..], &scope, &["--lease-name", "scoped"]].concat();
    let operator = fixture.operator_in(cluster, &system, &args).await?;
    wait_leading(&operator).await?;
    for (export, _, served) in &exports {
        if *served {
            fixture.wait_complete(cluster, export).await?;
        }
    }
    for (export, _, served) in &exports {
        let object = get(cluster, export.namespace, export.name)
            .await?
            .context("it is gone")?;
        let observed = object["status"]["observedGeneration"] == 1;
        ensure!(
            observed == *served,
            "{}/{}: {}",
            export.namespace,
            export.name,
            object["status"]
        );
    }

    let (july, june) = (exports[2].0, exports[1].0);
    let label = [
        "label",
        "eventexport",
        "july",
        "-n",
        &silver,
        "tier=gold",
        "--overwrite",
    ];
    kubectl(cluster, &label).await?;
    fixture.wait_complete(cluster, &july).await?;

    // Secrets of each namespace are watched: a changed one restarts nothing, and a deletion ends in both.
    let label = ["label", "eventexport", "july", "-n", &silver, "tier-"];
    kubectl(cluster, &label).await?;
    for (namespace, name) in [(june.namespace, june.name), (gold.as_str(), "june")] {
        let delete = ["delete", "eventexport", name, "-n", namespace, "--timeout=60s"];
        kubectl(cluster, &delete).await?;
    }
    let object = get(cluster, &silver, "july").await?.context("it is gone")?;
    ensure!(
        !has_finalizer(&object),
        "an export that left the scope keeps a finalizer"
    );
    fixture.source.no_session_left()
}
