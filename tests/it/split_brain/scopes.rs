//! Installations of one cluster: each serves the exports of its scope, and one of them what several select.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use eventexport::simulator::Settings;
use jiff::civil::date;
use serde_json::json;

use super::fixture::{
    check_archive, environment, eventually, export, operator, requests_since, wait_complete, wait_receipts,
};
use crate::bed::Cluster;
use crate::operator::{condition, events, existing, has_finalizer, kubectl};
use crate::testkit::environment::{Environment, no_session_left};
use crate::testkit::manifest::Manifest;
use crate::testkit::operator::{LeaseTimes, OperatorCommand};
use crate::testkit::process::Process;

const DAYS: [&str; 2] = ["2018-06-01", "2018-06-12"];

/// Lease times, shorter than elsewhere: the Leases are listed once in a duration, and an installation is gone after four.
const LEASE: LeaseTimes = ["4s", "3s", "1s"];

fn settings(latency: u64) -> Settings {
    Settings {
        today: Some(date(2018, 8, 1)),
        latency: Duration::from_millis(latency),
        ..Settings::default()
    }
}

fn june(env: &Environment) -> Manifest {
    export(env, DAYS).set("parallelism", 2)
}

/// Starts an operator that leads.
async fn start(operator: OperatorCommand) -> Result<Arc<Process>> {
    let operator = operator.lease(LEASE).start().await?;
    eventually("it leads", async || Ok(operator.leads().await)).await?;
    Ok(operator)
}

/// Sets or removes a label of an export.
async fn label(env: &Environment, export: &Manifest, label: &str) -> Result<()> {
    let [namespace, name] = export.key();
    let label = [
        "label",
        "eventexport",
        name,
        "-n",
        namespace,
        label,
        "--overwrite",
    ];
    kubectl(env.cluster, &label).await.map(drop)
}

async fn wait_contended(env: &Environment, state: &str) -> Result<String> {
    let mut conditions = String::new();
    eventually("the overlap is reported or not", async || {
        let object = env.object("june").await?;
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
    let env = environment("beside", settings(150)).await?;
    let (cluster, namespace, june) = (env.cluster, &env.namespace, june(&env));
    let start = async |name: &str| start(operator(&env).args(&["--lease-name", name])).await;
    // By their names alone, the second one would come first. The API server records whole seconds.
    let first = start("second").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    env.apply(&june).await?;
    wait_receipts(&env, 1).await?;
    let begun = Instant::now();
    let second = start("first").await?;
    let conditions = wait_contended(&env, "True/OperatorConflict").await?;
    let (serving, ignoring) = (
        format!("{namespace}/second serves"),
        format!("{namespace}/first selects"),
    );
    ensure!(
        conditions.contains(&serving) && conditions.contains(&ignoring),
        "{conditions}"
    );
    let requests = requests_since(&env, second.id, begun);
    ensure!(requests.is_empty(), "both export: {requests:#?}");
    let selector = "regarding.name=june,reason=OperatorConflict";
    // The serving one writes the condition, and the other one the Event.
    eventually("an Event says so", async || {
        Ok(!events(cluster, namespace, selector).await?.is_empty())
    })
    .await?;

    first.kill().await?;
    wait_complete(cluster, &june).await?;
    wait_contended(&env, "-/-").await?;
    check_archive(&env, "tracker", DAYS).await?;
    no_session_left(&env.simulator)?;

    // At rest, nothing is written although both watch.
    let again = start("second").await?;
    wait_contended(&env, "True/OperatorConflict").await?;
    let version =
        async || Ok::<_, anyhow::Error>(env.object("june").await?["metadata"]["resourceVersion"].take());
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
    let env = environment("tenant", settings(150)).await?;
    let (cluster, tenant, june) = (env.cluster, &env.namespace, june(&env));
    let system = cluster.namespace("system").await;
    let selector = format!("test={tenant}");
    let own = ["--selector", &selector, "--lease-name", "all-of-one-test"];
    let central = env.operator_of(cluster).lease_namespace(&system).args(&own);
    let central = start(central).await?;
    env.apply(&june).await?;
    label(&env, &june, &selector).await?;
    wait_receipts(&env, 1).await?;
    let local = start(operator(&env)).await?;
    wait_complete(cluster, &june).await?;
    check_archive(&env, "tracker", DAYS).await?;
    no_session_left(&env.simulator)?;
    eventually("the central one says who serves it", async || {
        let selector = "regarding.name=june,reason=OperatorConflict";
        let found = events(cluster, tenant, selector).await?;
        Ok(found.iter().any(|event| {
            let note = event["note"].as_str().unwrap_or_default();
            note.contains(&format!("{tenant}/eventexport-operator-{tenant} serves"))
        }))
    })
    .await?;
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = requests_since(&env, central.id, since);
    ensure!(requests.is_empty(), "{requests:#?}");

    // It leaves; the central one serves a new generation.
    local.kill().await?;
    let longer = json!({ "spec": { "dateRange": { "end": "2018-06-14" } } });
    env.patch("june", &longer).await?;
    eventually("the central one completes it", async || {
        let object = env.object("june").await?;
        Ok(object["status"]["observedGeneration"] == 2 && condition(&object, "Complete") == "True/Complete")
    })
    .await?;
    check_archive(&env, "tracker", ["2018-06-01", "2018-06-14"]).await
}

/// An operator serves only the namespaces and labels of its scope, also when labels change.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_namespaces_and_labels() -> Result<()> {
    let cluster = Cluster::shared().await;
    let system = cluster.namespace("scoped").await;
    let (silver, other) = (
        cluster.namespace("silver").await,
        cluster.namespace("other").await,
    );
    let env = environment("gold", settings(20)).await?;
    let gold = &env.namespace;
    let export = |namespace: &str, name: &str, prefix: &str| {
        let export = june(&env).namespace(namespace).name(name);
        export.set("destination.s3.prefix", prefix)
    };
    let exports = [
        (export(gold, "june", "a"), "tier=gold", true),
        (export(&silver, "june", "b"), "tier=gold", true),
        (export(&silver, "july", "c"), "tier=silver", false),
        (export(&other, "june", "d"), "tier=gold", false),
    ];
    for (export, tier, _) in &exports {
        env.apply(export).await?;
        label(&env, export, tier).await?;
    }
    let scope = [
        "--namespace",
        gold,
        "--namespace",
        &silver,
        "--selector",
        "tier in (gold)",
    ];
    let operator = env.operator_of(cluster).lease_namespace(&system).args(&scope);
    let _operator = start(operator.args(&["--lease-name", "scoped"])).await?;
    for (export, _, served) in &exports {
        if *served {
            wait_complete(cluster, export).await?;
        }
    }
    for (export, _, served) in &exports {
        let [namespace, name] = export.key();
        let object = existing(cluster, namespace, name).await?;
        let observed = object["status"]["observedGeneration"] == 1;
        ensure!(observed == *served, "{namespace}/{name}: {}", object["status"]);
    }

    let july = &exports[2].0;
    label(&env, july, "tier=gold").await?;
    wait_complete(cluster, july).await?;

    // Secrets of each namespace are watched: a changed one restarts nothing, and a deletion ends in both.
    label(&env, july, "tier-").await?;
    for namespace in [&silver, gold] {
        let delete = ["delete", "eventexport", "june", "-n", namespace, "--timeout=60s"];
        kubectl(cluster, &delete).await?;
    }
    let object = existing(cluster, &silver, "july").await?;
    ensure!(
        !has_finalizer(&object),
        "an export that left the scope keeps a finalizer"
    );
    no_session_left(&env.simulator)
}
