//! Scheduled verification: damage in the bucket shows in the condition `Verified`, a repair after the next verification,
//! and a restart goes on where the last operator stopped.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::RequestKind;
use jiff::civil::date;
use serde_json::{Value, json};

use super::{condition, event_reasons, eventually, find_condition, patch_status};
use crate::testkit::environment::{Environment, STOP_LIMIT};
use crate::testkit::manifest::SPACE;
use crate::testkit::proxy::ProxiedPeer;
use crate::testkit::service::service_on;

fn events_key(day: &str) -> String {
    format!("tracker/space={SPACE}/scope=space/date={day}/events.json.gz")
}

fn verified(object: &Value) -> &Value {
    find_condition(object, "Verified")
}

/// Waits for the condition `Verified`, in the format of [`condition`].
async fn wait_verified(environment: &Environment, wanted: &str) -> Result<Value> {
    let mut last = Value::Null;
    eventually(&format!("Verified becomes {wanted}"), async || {
        last = environment.object("june").await?;
        Ok(condition(&last, "Verified") == wanted)
    })
    .await
    .with_context(|| last["status"].to_string())?;
    Ok(last)
}

/// Removes the state of the verification, so that the next one is due.
async fn verify_now(environment: &Environment) -> Result<()> {
    let due = json!({ "status": { "verification": null } });
    patch_status(environment.cluster, &environment.namespace, "june", &due).await
}

/// Returns the days whose events the operator read from the store, in this order, after `skip` requests.
fn days_read(environment: &Environment, skip: usize) -> Vec<String> {
    let requests = environment.rules.requests_to(ProxiedPeer::Store);
    let reads = requests
        .iter()
        .skip(skip)
        .filter(|seen| seen.contains(&["GET ", "/events.json.gz"]));
    let days = reads.filter_map(|seen| {
        let (_, rest) = seen.line.split_once("/date=")?;
        rest.get(..10).map(str::to_owned)
    });
    days.collect()
}

fn store_requests(environment: &Environment) -> usize {
    environment.rules.requests_to(ProxiedPeer::Store).len()
}

#[tokio::test]
async fn damage_and_repair_show_and_a_suspended_export_is_not_read() -> Result<()> {
    let environment = Environment::builder("verified").start().await?;
    let export = environment
        .proxied_export("june")
        .set("verification", json!({ "every": "1h" }));
    environment.apply(&export).await?;
    let operator = environment.operator().start().await?;
    environment.wait_complete("june").await?;
    let proved = wait_verified(&environment, "True/Proved").await?;
    let state = &proved["status"]["verification"];
    ensure!(
        state["windows"] == 5 && state["findings"] == 0 && state["completedAt"].is_string(),
        "{state}"
    );
    ensure!(state["verifiedThrough"].is_null(), "{state}");
    let message = verified(&proved)["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        message.starts_with("2018-06-03/2018-06-07: 5 windows"),
        "{message}"
    );
    let read = days_read(&environment, 0);
    ensure!(
        !read.is_empty() && read.iter().all(|day| day.starts_with("2018-06-0")),
        "{read:?}"
    );

    // One byte changes below the operator.
    let key = events_key("2018-06-05");
    let good = environment.bucket.get(&key).await?;
    let mut bad = good.clone();
    *bad.last_mut().context("an empty object")? ^= 1;
    environment.bucket.put(&key, bad).await?;
    let downloads = || environment.simulator.ledger().requests_of(RequestKind::Download);
    let before = downloads();
    verify_now(&environment).await?;
    let damaged = wait_verified(&environment, "False/NotProved").await?;
    let state = &damaged["status"]["verification"];
    ensure!(state["findings"] == 1, "{state}");
    let message = verified(&damaged)["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        message.contains(&key) && message.contains("ObjectChanged") && message.contains("eventexport verify"),
        "{message}"
    );
    ensure!(
        state["firstFinding"]
            .as_str()
            .is_some_and(|first| first.contains(&key)),
        "{state}"
    );
    for (kind, wanted) in [
        ("Ready", "True/Complete"),
        ("Complete", "True/Complete"),
        ("Stalled", "False"),
    ] {
        ensure!(
            condition(&damaged, kind).starts_with(wanted),
            "{}",
            damaged["status"]
        );
    }
    let reasons = event_reasons(environment.cluster, &environment.namespace, "june").await?;
    ensure!(reasons.contains(&"NotProved".to_owned()), "{reasons:?}");
    let metrics = operator.metrics().await?;
    let series = format!(
        "eventexport_resource_verified{{namespace=\"{}\",name=\"june\"}} 0",
        environment.namespace
    );
    ensure!(metrics.contains(&series), "no {series} in {metrics}");

    // Repaired. A change of the schedule interrupts and restarts nothing.
    environment.bucket.put(&key, good).await?;
    let schedule = json!({ "every": "2h", "bytesPerSecond": 1_048_576 });
    let schedule = json!({ "spec": { "verification": schedule } });
    environment.patch("june", &schedule).await?;
    let mut last = Value::Null;
    eventually("the new generation is accepted", async || {
        last = environment.object("june").await?;
        Ok(last["status"]["observedGeneration"] == last["metadata"]["generation"])
    })
    .await
    .with_context(|| last.to_string())?;
    ensure!(
        condition(&last, "Complete") == "True/Complete",
        "{}",
        last["status"]
    );
    verify_now(&environment).await?;
    wait_verified(&environment, "True/Proved").await?;
    ensure!(downloads() == before, "nothing is downloaded again");

    let suspended = json!({ "spec": { "suspend": true } });
    environment.patch("june", &suspended).await?;
    eventually("it is suspended", async || {
        Ok(condition(&environment.object("june").await?, "Ready") == "False/Suspended")
    })
    .await?;
    verify_now(&environment).await?;
    let skip = store_requests(&environment);
    tokio::time::sleep(Duration::from_secs(12)).await;
    let read = days_read(&environment, skip);
    ensure!(read.is_empty(), "read while it is suspended: {read:?}");

    // Without a schedule, nothing is left of it.
    let unscheduled = json!({ "spec": { "verification": null } });
    environment.patch("june", &unscheduled).await?;
    eventually("the condition goes", async || {
        let object = environment.object("june").await?;
        Ok(condition(&object, "Verified") == "-/-" && object["status"]["verification"].is_null())
    })
    .await
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_operator_stopped() -> Result<()> {
    let settings = service_on(date(2018, 6, 9));
    let environment = Environment::builder("verifies-on")
        .service(settings)
        .start()
        .await?;
    let export = environment
        .proxied_export("june")
        .days("2018-04-26", "2018-06-07")
        .set("parallelism", 16)
        .set("verification", json!({ "every": "1h", "bytesPerSecond": 65_536 }));
    environment.apply(&export).await?;
    // An operator that is killed keeps its Lease.
    let lease = ["6s", "4s", "1s"];
    let first = environment.operator().lease(lease).start().await?;
    environment.wait_complete("june").await?;
    let mut last = Value::Null;
    eventually("April is verified", async || {
        last = environment.object("june").await?["status"].take();
        Ok(last["verification"]["verifiedThrough"] == "2018-04-30")
    })
    .await
    .with_context(|| last.to_string())?;
    let stopping = Instant::now();
    ensure!(first.stop(STOP_LIMIT).await?, "it did not stop well");
    let took = stopping.elapsed();
    ensure!(took < Duration::from_secs(10), "it read on for {took:?}");
    let (skip, started) = (
        store_requests(&environment),
        last["verification"]["startedAt"].clone(),
    );

    let second = environment.operator().lease(lease).start().await?;
    eventually("May is being read", async || {
        let read = days_read(&environment, skip);
        Ok(read.iter().any(|day| day.starts_with("2018-05")))
    })
    .await?;
    second.kill().await?;
    let _third = environment.operator().lease(lease).start().await?;
    let proved = wait_verified(&environment, "True/Proved").await?;
    let state = &proved["status"]["verification"];
    ensure!(state["startedAt"] == started && state["windows"] == 43, "{state}");
    let read = days_read(&environment, skip);
    ensure!(!read.is_empty(), "nothing was read");
    let again: Vec<&String> = read.iter().filter(|day| day.starts_with("2018-04")).collect();
    ensure!(again.is_empty(), "read again: {again:?}");
    for month in ["2018-05-0", "2018-06-0"] {
        ensure!(
            read.iter().any(|day| day.starts_with(month)),
            "{month} was not read: {read:?}"
        );
    }
    Ok(())
}
