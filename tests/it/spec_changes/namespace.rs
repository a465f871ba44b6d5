//! Deletion after the loss of something else: the namespace with its Secrets, or the bucket.

use anyhow::{Result, ensure};
use eventexport::simulator::{RequestKind, Simulator};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::fixture::{ChangeFixture, service_settings};
use super::phases::LifecyclePhase;
use crate::operator::{eventually, kubectl, wait_gone};
use crate::testkit::environment::no_session_left;
use crate::testkit::service::{delay, refuse};

/// Delay of a download, so that it is always in progress.
const DOWNLOAD_DELAY_MS: u64 = 50_000;

/// Starts a service with slow downloads.
async fn slow_service() -> Result<Simulator> {
    let simulator = Simulator::start(service_settings()).await?;
    simulator.add_fault(delay(DOWNLOAD_DELAY_MS, &[RequestKind::Download]));
    Ok(simulator)
}

fn spec(fixture: &ChangeFixture, name: &str, bucket: &str, simulator: &Simulator) -> Value {
    let bucket = json!({ "destination": { "s3": { "bucket": bucket } } });
    fixture.spec(name, simulator, &bucket)
}

async fn wait_transferring(fixture: &ChangeFixture, name: &str) -> Result<()> {
    let moving = |live: Option<&Value>| live.is_some_and(|live| LifecyclePhase::Transferring.is(live));
    fixture
        .history
        .wait_until(name, "a session is open", moving)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_deleted_during_exports_leaves_no_session() -> Result<()> {
    let fixture = ChangeFixture::start("leaving").await?;
    let (moving, resting) = (slow_service().await?, Simulator::start(service_settings()).await?);
    let bucket = fixture.namespace().to_owned();
    for (name, simulator) in [("moving", &moving), ("resting", &resting)] {
        fixture
            .create(name, &spec(&fixture, name, &bucket, simulator))
            .await?;
    }
    let operator = fixture.operator().lease_namespace("default").start().await?;
    wait_transferring(&fixture, "moving").await?;
    let complete = |live: Option<&Value>| live.is_some_and(|live| LifecyclePhase::Complete.is(live));
    fixture
        .history
        .wait_until("resting", "it is complete", complete)
        .await?;

    // The service refuses to delete the session at first, so that the retry happens when nothing new can be created
    // in the namespace and the Secrets are gone.
    moving.add_fault(refuse(500, "not now", &[RequestKind::Delete]));
    for name in ["tracker", "bucket"] {
        fixture.secrets.delete(name, &DeleteParams::default()).await?;
    }
    let namespace = fixture.namespace().to_owned();
    let delete = ["delete", "namespace", &namespace, "--wait=false"];
    kubectl(fixture.env.cluster, &delete).await?;
    let releasing = || {
        operator
            .lines()
            .iter()
            .any(|line| line["message"] == "deleting sessions")
    };
    eventually("sessions are to be released", async || Ok(releasing())).await?;
    ensure!(
        fixture.history.live("moving").is_some(),
        "it went with its session open"
    );
    moving.set_faults(Vec::new());
    eventually("the namespace is gone", async || {
        let path = format!("/api/v1/namespaces/{namespace}");
        Ok(fixture.env.cluster.get(&path).await?.is_none())
    })
    .await?;
    no_session_left(&moving)?;
    no_session_left(&resting)?;

    // A terminating namespace that refuses new objects is not reported as a failure.
    let failed: Vec<Value> = operator
        .lines()
        .into_iter()
        .filter(|line| line["message"] == "reconcile failed, requeueing")
        .collect();
    ensure!(failed.is_empty(), "{failed:?}");
    let metrics = operator.metrics().await?;
    ensure!(
        metrics.contains("\neventexport_deletion_abandoned_total 0\n"),
        "{metrics}"
    );
    ensure!(operator.leads().await && operator.get("/livez").await?.0 == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_export_without_its_bucket_still_deletes_its_session() -> Result<()> {
    let fixture = ChangeFixture::start("bucketless").await?;
    let simulator = slow_service().await?;
    let bucket = format!("{}-lost", fixture.namespace());
    fixture.env.gateway.create_bucket(&bucket).await?;
    fixture
        .create("june", &spec(&fixture, "june", &bucket, &simulator))
        .await?;
    let operator = fixture.operator().start().await?;
    wait_transferring(&fixture, "june").await?;

    // A user removes the bucket's folder.
    std::fs::remove_dir_all(fixture.env.gateway.folder().join("objects").join(&bucket))?;
    fixture.delete("june", &DeleteParams::default()).await?;
    wait_gone(fixture.env.cluster, fixture.namespace(), "june").await?;
    // The session was known from memory.
    no_session_left(&simulator)?;
    ensure!(operator.leads().await);
    Ok(())
}
