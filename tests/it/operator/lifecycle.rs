//! From `kubectl apply` to a status, and later changes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use serde_json::json;

use super::scripted_exporter::ScriptedRun;
use super::{
    Operator, annotate, apply, condition, ensure_contains, event_reasons, eventually, get, has_finalizer,
    kubectl, manifest, patch, patch_status, secret, wait_conditions,
};
use crate::bed::Cluster;

#[tokio::test]
async fn a_complete_export_is_ready_and_idle() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("complete").await;
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "june", "complete")).await?;
    let operator = Operator::start(cluster, namespace).await?;

    let states = [
        "True/Complete",
        "True/Complete",
        "False/Accepted",
        "False/Complete",
    ];
    let object = wait_conditions(cluster, namespace, "june", states).await?;
    ensure!(object["status"]["observedGeneration"] == object["metadata"]["generation"]);
    ensure!(object["status"]["completionTime"].is_string());
    eventually("the finalizer goes when no session is left", async || {
        Ok(!has_finalizer(
            &get(cluster, namespace, "june").await?.unwrap_or_default(),
        ))
    })
    .await?;
    let wait = [
        "wait",
        "eventexport/june",
        "-n",
        namespace,
        "--for=condition=Ready",
        "--timeout=1s",
    ];
    kubectl(cluster, &wait).await?;
    ensure!(event_reasons(cluster, namespace, "june").await? == ["Accepted", "Complete"]);

    // Idle: no write, run or reconcile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let numbers = || {
        let text = operator.metrics.text();
        let own = text.lines().filter(|line| line.starts_with("eventexport_"));
        own.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = (numbers(), get(cluster, namespace, "june").await?);
    tokio::time::sleep(Duration::from_secs(8)).await;
    ensure!(before == (numbers(), get(cluster, namespace, "june").await?));
    ensure!(operator.exporter.activity("june").started_with.len() == 1);

    // The status is cleared: the bucket is listed again.
    patch_status(cluster, namespace, "june", &json!({ "status": null })).await?;
    wait_conditions(cluster, namespace, "june", states).await?;
    ensure!(operator.exporter.activity("june").started_with.len() == 2);
    operator.stop().await
}

#[tokio::test]
async fn an_export_that_was_complete_has_its_finalizer_before_it_opens_a_session() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("permission").await;
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "june", "complete")).await?;
    let operator = Operator::start(cluster, namespace).await?;
    eventually("it is complete, and has no finalizer any more", async || {
        let object = get(cluster, namespace, "june").await?.unwrap_or_default();
        Ok(condition(&object, "Complete") == "True/Complete" && !has_finalizer(&object))
    })
    .await?;
    let look = |value: &str| {
        let annotation = format!("eventexport.io/requestedAt={value}");
        async move { annotate(cluster, namespace, "june", &annotation).await }
    };

    // A run that finds everything stored needs no permission.
    look("first").await?;
    let mut object = json!(null);
    eventually("the look is answered", async || {
        object = get(cluster, namespace, "june").await?.unwrap_or_default();
        Ok(object["status"]["lastHandledReconcileAt"] == "first")
    })
    .await?;
    ensure!(!has_finalizer(&object));

    let read = {
        let namespace = namespace.clone();
        move || {
            let namespace = namespace.clone();
            let read = async move {
                let object = get(cluster, &namespace, "june").await.ok().flatten();
                object.as_ref().is_some_and(has_finalizer)
            };
            read.boxed()
        }
    };
    operator
        .exporter
        .set_run("june", ScriptedRun::AsksForSessions(Arc::new(read)));
    // Looks have a least interval.
    tokio::time::sleep(Duration::from_secs(20)).await;
    look("second").await?;
    eventually("sessions are permitted", async || {
        Ok(!operator.exporter.activity("june").permitted.is_empty())
    })
    .await?;
    ensure!(operator.exporter.activity("june").permitted == [true]);
    operator.stop().await
}

#[tokio::test]
async fn a_missing_secret_is_named_and_its_creation_and_rotation_trigger_a_reconcile() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("secret").await;
    let operator = Operator::start(cluster, namespace).await?;
    apply(cluster, &manifest(namespace, "june", "busy")).await?;
    let missing = [
        "False/CredentialsMissing",
        "False/CredentialsMissing",
        "False",
        "True/CredentialsMissing",
    ];
    let object = wait_conditions(cluster, namespace, "june", missing).await?;
    let message = object["status"]["lastError"]["message"]
        .as_str()
        .unwrap_or_default();
    ensure_contains(
        message,
        &["tracker", namespace, "spec.source.credentialsSecretRef"],
    )?;
    ensure!(event_reasons(cluster, namespace, "june").await? == ["CredentialsMissing"]);
    ensure!(!has_finalizer(&object));

    apply(
        cluster,
        &json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": namespace, "name": "tracker" },
        }),
    )
    .await?;
    eventually("a key is missing, and named", async || {
        let object = get(cluster, namespace, "june").await?.unwrap_or_default();
        Ok(object["status"]["lastError"]["message"]
            .as_str()
            .is_some_and(|why| why.contains("apiKey")))
    })
    .await?;

    apply(cluster, &secret(namespace, "one")).await?;
    let object = wait_conditions(
        cluster,
        namespace,
        "june",
        ["True/Exporting", "False/Exporting", "False", "False"],
    )
    .await?;
    ensure!(has_finalizer(&object), "a session may be open");
    ensure!(object["status"]["sessions"] == json!([{ "id": "session-7", "window": "2018-06-28" }]));
    ensure!(object["status"]["lastError"].is_null());

    // A new version with the same contents does not restart the export; new contents do.
    kubectl(
        cluster,
        &["label", "secret", "tracker", "-n", namespace, "rotated=no"],
    )
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(operator.exporter.activity("june").started_with == ["one"]);
    apply(cluster, &secret(namespace, "two")).await?;
    eventually("the export begins again with the new key", async || {
        Ok(operator.exporter.activity("june").started_with == ["one", "two"])
    })
    .await?;
    ensure!(operator.exporter.activity("june").stopped == 1);

    // The Secret is deleted: the export stops.
    kubectl(cluster, &["delete", "secret", "tracker", "-n", namespace]).await?;
    wait_conditions(cluster, namespace, "june", missing).await?;
    ensure!(operator.exporter.activity("june").running == 0);
    operator.stop().await
}

#[tokio::test]
async fn a_spec_change_restarts_the_export_and_suspend_stops_it() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("suspend").await;
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "june", "busy")).await?;
    let operator = Operator::start(cluster, namespace).await?;
    wait_conditions(
        cluster,
        namespace,
        "june",
        ["True/Exporting", "", "False", "False"],
    )
    .await?;

    patch(
        cluster,
        namespace,
        "june",
        &json!({ "spec": { "parallelism": 2 } }),
    )
    .await?;
    eventually("it begins again", async || {
        Ok(operator.exporter.activity("june").started_with.len() == 2)
    })
    .await?;
    ensure!(operator.exporter.activity("june").running == 1);
    let object = wait_conditions(
        cluster,
        namespace,
        "june",
        ["True/Exporting", "", "False", "False"],
    )
    .await?;
    ensure!(object["status"]["observedGeneration"] == 2);

    patch(
        cluster,
        namespace,
        "june",
        &json!({ "spec": { "suspend": true } }),
    )
    .await?;
    wait_conditions(
        cluster,
        namespace,
        "june",
        ["False/Suspended", "", "False/Suspended", "False"],
    )
    .await?;
    eventually("it stops, and the finalizer goes", async || {
        let object = get(cluster, namespace, "june").await?.unwrap_or_default();
        Ok(operator.exporter.activity("june").running == 0 && !has_finalizer(&object))
    })
    .await?;

    patch(
        cluster,
        namespace,
        "june",
        &json!({ "spec": { "suspend": false } }),
    )
    .await?;
    let object = wait_conditions(
        cluster,
        namespace,
        "june",
        ["True/Exporting", "", "False", "False"],
    )
    .await?;
    ensure!(has_finalizer(&object) && operator.exporter.activity("june").running == 1);
    operator.stop().await
}

#[tokio::test]
async fn a_panic_fails_only_its_own_run() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("panic").await;
    apply(cluster, &secret(namespace, "one")).await?;
    apply(cluster, &manifest(namespace, "bad", "panics")).await?;
    apply(cluster, &manifest(namespace, "good", "busy")).await?;
    let operator = Operator::start(cluster, namespace).await?;
    let object = wait_conditions(
        cluster,
        namespace,
        "bad",
        ["False/Failed", "False", "False", "False"],
    )
    .await?;
    ensure!(has_finalizer(&object), "sessions may still be open");
    wait_conditions(cluster, namespace, "good", ["True/Exporting", "", "", ""]).await?;
    eventually("it is tried again", async || {
        Ok(operator.exporter.activity("bad").started_with.len() >= 2)
    })
    .await?;
    ensure!(operator.exporter.activity("good").started_with.len() == 1);
    ensure!(operator.metrics.run_panics.get() >= 1);
    ensure!(condition(&object, "Ready") == "False/Failed");
    operator.stop().await
}

#[tokio::test]
async fn a_config_map_with_authorities_is_read_and_watched_as_a_secret() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("config-map").await;
    apply(cluster, &secret(namespace, "one")).await?;
    let mut export = manifest(namespace, "june", "busy");
    export["spec"]["source"]["caConfigMapRef"] = json!({ "name": "trust-bundle", "key": "trust-bundle.pem" });
    apply(cluster, &export).await?;
    let operator = Operator::start(cluster, namespace).await?;
    let missing = [
        "False/CredentialsMissing",
        "False/CredentialsMissing",
        "False",
        "True/CredentialsMissing",
    ];
    let object = wait_conditions(cluster, namespace, "june", missing).await?;
    let message = object["status"]["lastError"]["message"]
        .as_str()
        .unwrap_or_default();
    let words = [
        "ConfigMap trust-bundle does not exist",
        "create the ConfigMap of spec.source.caConfigMapRef",
    ];
    ensure_contains(message, &words)?;

    let bundle = |text: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": namespace, "name": "trust-bundle" },
            "data": { "trust-bundle.pem": text },
        })
    };
    // A Secret of the same name is another object.
    let namesake = crate::testkit::manifest::secret(namespace, "trust-bundle", &json!({ "apiKey": "x" }));
    apply(cluster, &namesake).await?;
    apply(cluster, &bundle("first")).await?;
    let exporting = ["True/Exporting", "False/Exporting", "False", "False"];
    wait_conditions(cluster, namespace, "june", exporting).await?;
    ensure!(operator.exporter.activity("june").started_with == ["one"]);
    let label = [
        "label",
        "configmap",
        "trust-bundle",
        "-n",
        namespace,
        "same=contents",
    ];
    kubectl(cluster, &label).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(operator.exporter.activity("june").started_with == ["one"]);
    apply(cluster, &bundle("second")).await?;
    eventually("the export begins again with the new bundle", async || {
        Ok(operator.exporter.activity("june").started_with == ["one", "one"])
    })
    .await?;
    kubectl(cluster, &["delete", "configmap", "trust-bundle", "-n", namespace]).await?;
    wait_conditions(cluster, namespace, "june", missing).await?;
    operator.stop().await
}
