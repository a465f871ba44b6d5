//! Deletion: no session stays open, and nothing can keep a resource or its namespace from going.

use anyhow::{Result, ensure};

use super::{Operator, apply, becomes, eventually, get, has_finalizer, kubectl, manifest, secret, told};
use crate::bed::Cluster;

async fn busy(cluster: &Cluster, namespace: &str, space: &str) -> Result<Operator> {
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "june", space)).await?;
    let operator = Operator::start(cluster, namespace).await?;
    let object = becomes(cluster, namespace, "june", ["True/Exporting", "", "", ""]).await?;
    ensure!(has_finalizer(&object));
    Ok(operator)
}

async fn delete(cluster: &Cluster, namespace: &str) -> Result<()> {
    let delete = ["delete", "eventexport", "june", "-n", namespace, "--wait=false"];
    kubectl(cluster, &delete).await.map(drop)
}

async fn gone(cluster: &Cluster, namespace: &str) -> Result<()> {
    eventually("it is gone", async || {
        Ok(get(cluster, namespace, "june").await?.is_none())
    })
    .await
}

#[tokio::test]
async fn a_deleted_export_stops_and_goes() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("delete").await;
    let operator = busy(cluster, namespace, "busy").await?;
    delete(cluster, namespace).await?;
    gone(cluster, namespace).await?;
    let seen = operator.script.seen("june");
    ensure!((seen.stopped, seen.running) == (1, 0), "{seen:?}");
    operator.stop().await
}

#[tokio::test]
async fn a_namespace_goes_with_its_secret_and_its_sessions_are_released_from_memory() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("terminating").await;
    let operator = busy(cluster, namespace, "leaves").await?;
    // The worst order: the credentials first.
    kubectl(cluster, &["delete", "secret", "tracker", "-n", namespace]).await?;
    kubectl(cluster, &["delete", "namespace", namespace, "--timeout=60s"]).await?;
    let seen = operator.script.seen("june");
    ensure!(seen.running == 0 && seen.released >= 1, "{seen:?}");
    ensure!(operator.metrics.releases_given_up.get() == 0);
    operator.stop().await
}

#[tokio::test]
async fn without_credentials_a_deleted_export_goes_at_once_and_names_its_sessions() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("orphan").await;
    let operator = busy(cluster, namespace, "busy").await?;
    eventually("the session is in the status", async || {
        let object = get(cluster, namespace, "june").await?.unwrap_or_default();
        Ok(object["status"]["sessions"][0]["id"] == "session-7")
    })
    .await?;
    operator.kill();
    kubectl(cluster, &["delete", "secret", "tracker", "-n", namespace]).await?;
    delete(cluster, namespace).await?;
    ensure!(
        get(cluster, namespace, "june").await?.is_some(),
        "no operator, and sessions may be open"
    );

    let operator = Operator::start(cluster, namespace).await?;
    gone(cluster, namespace).await?;
    ensure!(operator.metrics.sessions_left.get() == 1 && operator.metrics.releases_given_up.get() == 1);
    ensure!(
        told(cluster, namespace, "june")
            .await?
            .contains(&"SessionsLeft".to_owned())
    );
    operator.stop().await
}

#[tokio::test]
async fn without_a_bucket_a_deleted_export_goes_at_once() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("hopeless").await;
    let operator = busy(cluster, namespace, "hopeless").await?;
    delete(cluster, namespace).await?;
    gone(cluster, namespace).await?;
    ensure!(operator.metrics.releases_given_up.get() == 1);
    ensure!(
        operator.script.seen("june").released == 2,
        "once with what was in memory, once with the Secrets"
    );
    operator.stop().await
}

#[tokio::test]
async fn while_there_is_hope_a_deleted_export_is_kept() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("hope").await;
    let operator = busy(cluster, namespace, "unreleasable").await?;
    delete(cluster, namespace).await?;
    eventually("it is tried again", async || {
        Ok(operator.script.seen("june").released >= 2)
    })
    .await?;
    ensure!(get(cluster, namespace, "june").await?.is_some());
    // A person lets it go.
    super::patch(
        cluster,
        namespace,
        "june",
        &serde_json::json!({ "metadata": { "finalizers": null } }),
    )
    .await?;
    gone(cluster, namespace).await?;
    operator.stop().await
}
