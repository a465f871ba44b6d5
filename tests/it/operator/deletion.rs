//! Deletion: no session stays open, and a resource or its namespace is always deleted in the end.

use anyhow::{Result, ensure};

use super::{
    Operator, apply, event_reasons, eventually, get, has_finalizer, kubectl, manifest, secret,
    start_deletion, wait_conditions, wait_gone,
};
use crate::bed::Cluster;

async fn start_busy(cluster: &Cluster, namespace: &str, space: &str) -> Result<Operator> {
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "june", space)).await?;
    let operator = Operator::start(cluster, namespace).await?;
    let object = wait_conditions(cluster, namespace, "june", ["True/Exporting", "", "", ""]).await?;
    ensure!(has_finalizer(&object));
    Ok(operator)
}

#[tokio::test]
async fn a_deleted_export_stops_and_is_removed() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("delete").await;
    let operator = start_busy(cluster, namespace, "busy").await?;
    start_deletion(cluster, namespace, "june").await?;
    wait_gone(cluster, namespace, "june").await?;
    let seen = operator.exporter.activity("june");
    ensure!((seen.stopped, seen.running) == (1, 0), "{seen:?}");
    operator.stop().await
}

#[tokio::test]
async fn a_namespace_deleted_with_its_secret_leaves_no_session() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("terminating").await;
    let operator = start_busy(cluster, namespace, "leaves").await?;
    // Worst order: the credentials are deleted first.
    kubectl(cluster, &["delete", "secret", "tracker", "-n", namespace]).await?;
    kubectl(cluster, &["delete", "namespace", namespace, "--timeout=60s"]).await?;
    let seen = operator.exporter.activity("june");
    ensure!(seen.running == 0 && seen.released >= 1, "{seen:?}");
    ensure!(operator.metrics.deletions_abandoned.get() == 0);
    operator.stop().await
}

#[tokio::test]
async fn a_deleted_export_without_credentials_is_removed_and_names_its_sessions() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("orphan").await;
    let operator = start_busy(cluster, namespace, "busy").await?;
    eventually("the session is in the status", async || {
        let object = get(cluster, namespace, "june").await?.unwrap_or_default();
        Ok(object["status"]["sessions"][0]["id"] == "session-7")
    })
    .await?;
    operator.kill();
    kubectl(cluster, &["delete", "secret", "tracker", "-n", namespace]).await?;
    start_deletion(cluster, namespace, "june").await?;
    ensure!(
        get(cluster, namespace, "june").await?.is_some(),
        "no operator, and sessions may be open"
    );

    let operator = Operator::start(cluster, namespace).await?;
    wait_gone(cluster, namespace, "june").await?;
    ensure!(operator.metrics.sessions_left.get() == 1 && operator.metrics.deletions_abandoned.get() == 1);
    ensure!(
        event_reasons(cluster, namespace, "june")
            .await?
            .contains(&"SessionsLeft".to_owned())
    );
    operator.stop().await
}

#[tokio::test]
async fn a_deleted_export_without_a_bucket_is_removed_at_once() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("hopeless").await;
    let operator = start_busy(cluster, namespace, "hopeless").await?;
    start_deletion(cluster, namespace, "june").await?;
    wait_gone(cluster, namespace, "june").await?;
    ensure!(operator.metrics.deletions_abandoned.get() == 1);
    ensure!(
        operator.exporter.activity("june").released == 2,
        "once with what was in memory, once with the Secrets"
    );
    operator.stop().await
}

#[tokio::test]
async fn a_deleted_export_is_kept_while_cleanup_may_succeed() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("hope").await;
    let operator = start_busy(cluster, namespace, "unreleasable").await?;
    start_deletion(cluster, namespace, "june").await?;
    eventually("it is tried again", async || {
        Ok(operator.exporter.activity("june").released >= 2)
    })
    .await?;
    ensure!(get(cluster, namespace, "june").await?.is_some());
    // A user removes the finalizer.
    super::patch(
        cluster,
        namespace,
        "june",
        &serde_json::json!({ "metadata": { "finalizers": null } }),
    )
    .await?;
    wait_gone(cluster, namespace, "june").await?;
    operator.stop().await
}
