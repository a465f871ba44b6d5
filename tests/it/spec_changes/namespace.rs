//! Deletion after the loss of something else: the namespace with its Secrets, or the bucket.

use anyhow::{Result, ensure};
use eventexport::simulator::{Effect, Fault, RequestKind, Simulator};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::fixture::{ChangeFixture, service_settings};
use super::invariants;
use super::phases::LifecyclePhase;
use crate::bed::Gateway;
use crate::operator::{eventually, get, kubectl};

/// Delay of a download, so that it is always in progress.
const DOWNLOAD_DELAY_MS: u64 = 50_000;

/// Starts a service with slow downloads.
async fn slow_service() -> Result<Simulator> {
    let simulator = Simulator::start(service_settings()).await?;
    let late = Effect::Delay {
        millis: DOWNLOAD_DELAY_MS,
    };
    simulator.add_fault(Fault::new("late", late, &[RequestKind::Download]));
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
    let mut fixture = ChangeFixture::start("leaving").await?;
    fixture.operators.lease_namespace = "default".to_owned();
    let (moving, resting) = (slow_service().await?, Simulator::start(service_settings()).await?);
    let bucket = fixture.namespace().to_owned();
    for (name, simulator) in [("moving", &moving), ("resting", &resting)] {
        fixture
            .create(name, &spec(&fixture, name, &bucket, simulator))
            .await?;
    }
    let operator = fixture.operator(&[]).await?;
    wait_transferring(&fixture, "moving").await?;
    let complete = |live: Option<&Value>| live.is_some_and(|live| LifecyclePhase::Complete.is(live));
    fixture
        .history
        .wait_until("resting", "it is complete", complete)
        .await?;

    // The service refuses to delete the session at first, so that the retry happens when nothing new can be created
    // in the namespace and the Secrets are gone.
    let (message, status) = ("not now".to_owned(), 500);
    let refuses = Effect::Status {
        status,
        retry_after: None,
        message,
    };
    moving.add_fault(Fault::new("kept", refuses, &[RequestKind::Delete]));
    for name in ["tracker", "bucket"] {
        fixture.secrets.delete(name, &DeleteParams::default()).await?;
    }
    let namespace = fixture.namespace().to_owned();
    let delete = ["delete", "namespace", &namespace, "--wait=false"];
    kubectl(fixture.operators.cluster, &delete).await?;
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
        Ok(fixture.operators.cluster.get(&path).await?.is_none())
    })
    .await?;
    invariants::no_session_left(&moving)?;
    invariants::no_session_left(&resting)?;

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
    fixture.s3.create_bucket().bucket(&bucket).send().await?;
    fixture
        .create("june", &spec(&fixture, "june", &bucket, &simulator))
        .await?;
    let operator = fixture.operator(&[]).await?;
    wait_transferring(&fixture, "june").await?;

    // A user removes the bucket's folder.
    std::fs::remove_dir_all(Gateway::shared().await.folder().join("objects").join(&bucket))?;
    fixture.delete("june", &DeleteParams::default()).await?;
    eventually("it goes", async || {
        Ok(get(fixture.operators.cluster, fixture.namespace(), "june")
            .await?
            .is_none())
    })
    .await?;
    // The session was known from memory.
    invariants::no_session_left(&simulator)?;
    ensure!(operator.leads().await);
    Ok(())
}
