//! Deletion when something else is gone first: the namespace with its Secrets, or the bucket.

use anyhow::{Result, ensure};
use eventexport::simulator::{Effect, Fault, Kind, Simulator};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::oracle;
use super::phases::Phase;
use super::rows::base;
use super::stage::{Stage, service};
use crate::bed::Gateway;
use crate::operator::{eventually, get, kubectl};

/// How late a download's answer is, so that it is under way all the time.
const LATE: u64 = 50_000;

/// A service whose downloads take long.
async fn slow_service() -> Result<Simulator> {
    let simulator = Simulator::start(service()).await?;
    let late = Effect::Delay { millis: LATE };
    simulator.add_fault(Fault::new("late", late, &[Kind::Download]));
    Ok(simulator)
}

fn spec(stage: &Stage, name: &str, bucket: &str, simulator: &Simulator) -> Value {
    let url = simulator.url().as_str().trim_end_matches('/').to_owned();
    let mut spec = base(stage.days);
    super::merge(
        &mut spec,
        &json!({
            "space": name,
            "source": { "endpoint": url, "uaaEndpoint": url, "credentialsSecretRef": { "name": "tracker" } },
            "destination": { "s3": {
                "bucket": bucket, "prefix": name, "endpoint": stage.scene.store.url(),
                "credentialsSecretRef": { "name": "bucket" },
            }},
        }),
    );
    spec
}

async fn transfers(stage: &Stage, name: &str) -> Result<()> {
    let moving = |live: Option<&Value>| live.is_some_and(|live| Phase::Transferring.is(live));
    stage.history.until(name, "a session is open", moving).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_while_its_exports_run_and_leaves_no_session() -> Result<()> {
    let mut stage = Stage::start("leaving").await?;
    stage.scene.lease_namespace = "default".to_owned();
    let (moving, resting) = (slow_service().await?, Simulator::start(service()).await?);
    let bucket = stage.namespace().to_owned();
    for (name, simulator) in [("moving", &moving), ("resting", &resting)] {
        stage
            .create(name, &spec(&stage, name, &bucket, simulator))
            .await?;
    }
    let operator = stage.operator(&[]).await?;
    transfers(&stage, "moving").await?;
    let complete = |live: Option<&Value>| live.is_some_and(|live| Phase::Complete.is(live));
    stage.history.until("resting", "it is complete", complete).await?;

    // The service does not delete the session at first, so that this falls into the time when nothing new may be made
    // in the namespace, and the Secrets are gone.
    let (message, status) = ("not now".to_owned(), 500);
    let refuses = Effect::Status {
        status,
        retry_after: None,
        message,
    };
    moving.add_fault(Fault::new("kept", refuses, &[Kind::Delete]));
    for name in ["tracker", "bucket"] {
        stage.secrets.delete(name, &DeleteParams::default()).await?;
    }
    let namespace = stage.namespace().to_owned();
    let delete = ["delete", "namespace", &namespace, "--wait=false"];
    kubectl(stage.scene.cluster, &delete).await?;
    let releasing = || {
        operator
            .lines()
            .iter()
            .any(|line| line["message"] == "deleting its sessions")
    };
    eventually("sessions are to be released", async || Ok(releasing())).await?;
    ensure!(
        stage.history.live("moving").is_some(),
        "it went with its session open"
    );
    moving.set_faults(Vec::new());
    eventually("the namespace is gone", async || {
        let get = ["get", "namespace", &namespace, "--ignore-not-found", "-o", "name"];
        Ok(kubectl(stage.scene.cluster, &get).await?.trim().is_empty())
    })
    .await?;
    oracle::no_session_is_left(&moving)?;
    oracle::no_session_is_left(&resting)?;

    // That nothing may be made there any more was no failure of anything.
    let failed: Vec<Value> = operator
        .lines()
        .into_iter()
        .filter(|line| line["message"] == "a look failed")
        .collect();
    ensure!(failed.is_empty(), "{failed:?}");
    let metrics = operator.metrics().await?;
    ensure!(
        metrics.contains("\neventexport_deletion_given_up_total 0\n"),
        "{metrics}"
    );
    ensure!(operator.leads().await && operator.get("/livez").await?.0 == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_bucket_a_deleted_export_goes_and_still_deletes_its_session() -> Result<()> {
    let stage = Stage::start("bucketless").await?;
    let simulator = slow_service().await?;
    let bucket = format!("{}-lost", stage.namespace());
    stage.s3.create_bucket().bucket(&bucket).send().await?;
    stage
        .create("june", &spec(&stage, "june", &bucket, &simulator))
        .await?;
    let operator = stage.operator(&[]).await?;
    transfers(&stage, "june").await?;

    // As a person does who is in a hurry.
    std::fs::remove_dir_all(Gateway::shared().await.folder().join("objects").join(&bucket))?;
    stage.delete("june", &DeleteParams::default()).await?;
    eventually("it goes", async || {
        Ok(get(stage.scene.cluster, stage.namespace(), "june")
            .await?
            .is_none())
    })
    .await?;
    // It was known from memory.
    oracle::no_session_is_left(&simulator)?;
    ensure!(operator.leads().await);
    Ok(())
}
