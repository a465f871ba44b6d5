//! Leader election by a Lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{HEARTBEAT_TIMEOUT, Operator, apply, eventually, kubectl, manifest, secret, wait_conditions};
use crate::bed::Cluster;

async fn pair(cluster: &Cluster, namespace: &str) -> Result<(Operator, Operator)> {
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "june", "busy")).await?;
    let first = Operator::start(cluster, namespace).await?;
    eventually("the first leads", async || Ok(first.leads())).await?;
    let second = Operator::start(cluster, namespace).await?;
    wait_conditions(cluster, namespace, "june", ["True/Exporting", "", "", ""]).await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    ensure!(
        first.leads() && !second.leads(),
        "a lease that is renewed is not taken"
    );
    ensure!(
        second.exporter.activity("june").started_with.is_empty(),
        "who does not lead does nothing"
    );
    Ok((first, second))
}

#[tokio::test]
async fn a_stopping_leader_hands_over_at_once() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("handover").await;
    let (first, second) = pair(cluster, namespace).await?;
    let script = Arc::clone(&first.exporter);
    first.stop().await?;
    let stopped = Instant::now();
    ensure!((script.activity("june").stopped, script.activity("june").running) == (1, 0));
    eventually("the second leads", async || Ok(second.leads())).await?;
    ensure!(
        stopped.elapsed() < Duration::from_secs(4),
        "it waited for the lease to run out: {:?}",
        stopped.elapsed()
    );
    eventually("the second exports", async || {
        Ok(second.exporter.activity("june").running == 1)
    })
    .await?;
    second.stop().await
}

#[tokio::test]
async fn a_crashed_leader_is_replaced_when_its_lease_expires() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("crash").await;
    let (first, second) = pair(cluster, namespace).await?;
    // It no longer renews its lease and has ended.
    first.kill();
    eventually("the second leads", async || Ok(second.leads())).await?;
    eventually("the second exports", async || {
        Ok(second.exporter.activity("june").running == 1)
    })
    .await?;
    second.stop().await
}

#[tokio::test]
async fn a_leader_that_loses_its_lease_stops_and_exits() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("lost").await;
    let (first, second) = pair(cluster, namespace).await?;
    second.stop().await?;
    let lease = format!("lease-{namespace}");
    let stolen = r#"{"spec":{"holderIdentity":"a thief"}}"#;
    kubectl(
        cluster,
        &[
            "patch",
            "lease",
            &lease,
            "-n",
            "default",
            "--type=merge",
            "-p",
            stolen,
        ],
    )
    .await?;
    let script = Arc::clone(&first.exporter);
    ensure!(
        first.wait_exit().await.is_err(),
        "the process ends with an error, to be started again"
    );
    eventually("nothing runs", async || Ok(script.activity("june").running == 0)).await
}

/// The API server does not answer anyone, as behind a broken network: others may lead after the lease expires, and by
/// then everything here must have stopped, even a run that ignores the request to stop.
#[tokio::test]
async fn a_leader_that_cannot_renew_stops_before_another_leads() -> Result<()> {
    let cluster = &Cluster::start().await?;
    let namespace = &cluster.namespace("unreachable").await;
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "june", "busy")).await?;
    apply(cluster, &manifest(namespace, "july", "deaf")).await?;
    let operator = Operator::start(cluster, namespace).await?;
    eventually("it leads", async || Ok(operator.leads())).await?;
    let waiting = Operator::start(cluster, namespace).await?;
    eventually("the other stands by", async || Ok(waiting.health.ready())).await?;
    for name in ["june", "july"] {
        wait_conditions(cluster, namespace, name, ["True/Exporting", "", "", ""]).await?;
    }
    let [_, api_server, ..] = cluster.process_ids() else {
        anyhow::bail!("there is no API server");
    };
    let signal = async |signal: &str| {
        let kill = tokio::process::Command::new("kill")
            .args([signal, &api_server.to_string()])
            .status()
            .await?;
        ensure!(kill.success());
        anyhow::Ok(())
    };
    signal("-STOP").await?;
    let silent = Instant::now();
    let script = Arc::clone(&operator.exporter);
    let ended = operator.wait_exit().await;
    let took = silent.elapsed();
    // A restart of a standby process would not help.
    while silent.elapsed() < 2 * HEARTBEAT_TIMEOUT {
        ensure!(waiting.health.alive() == Ok(()), "{:?}", waiting.health.alive());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    signal("-CONT").await?;
    ensure!(ended.is_err());
    // The lease lasts 5 s from its last renewal, which was before the silence.
    ensure!(took < Duration::from_secs(5), "{took:?}");
    ensure!((script.activity("june").stopped, script.activity("june").running) == (1, 0));
    ensure!(script.activity("july").running == 0, "it was cut off");
    Ok(())
}

#[tokio::test]
async fn a_stalled_process_fails_its_liveness_check() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("wedged").await;
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "june", "busy")).await?;
    let operator = Operator::start(cluster, namespace).await?;
    wait_conditions(cluster, namespace, "june", ["True/Exporting", "", "", ""]).await?;
    ensure!(operator.health.alive() == Ok(()));
    ensure!(operator.health.ready());
    apply(cluster, &manifest(namespace, "july", "wedges")).await?;
    eventually("the liveness check fails", async || {
        Ok(operator.health.alive().is_err())
    })
    .await
}
