//! `eventexport run` with the manifest of an export that an operator serves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::Settings;
use jiff::civil::date;
use serde_json::json;
use tokio::process::Child;

use super::fixture::{ResourceParams, SplitBrainFixture, TIMEOUT, eventually, kill, wait_receipts};
use crate::bed::Cluster;
use crate::operator::{get, patch};

const DAYS: [&str; 2] = ["2018-06-01", "2018-06-16"];

fn settings() -> Settings {
    Settings {
        today: Some(date(2018, 8, 1)),
        latency: Duration::from_millis(150),
        ..Settings::default()
    }
}

fn run(fixture: &SplitBrainFixture, params: &ResourceParams<'_>) -> Result<Child> {
    let file = fixture.file(params)?;
    let state = fixture.folder.path().join("state");
    let mut command = fixture.command(&["run", "-f", &file, "--output", "json", "--state-dir"]);
    Ok(command.arg(state).stdout(std::process::Stdio::piped()).spawn()?)
}

fn params(namespace: &str) -> ResourceParams<'_> {
    ResourceParams {
        namespace,
        name: "june",
        days: DAYS,
        prefix: "tracker",
        parallelism: 3,
    }
}

/// The operator starts first, and the command is killed halfway.
#[tokio::test(flavor = "multi_thread")]
async fn windows_of_a_run_killed_beside_the_operator_are_in_the_status() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("beside").await;
    let fixture = SplitBrainFixture::start(&namespace, settings()).await?;
    let params = params(&namespace);
    let _operator = fixture.operator(cluster, &namespace, &[]).await?;
    fixture.apply(cluster, &params).await?;
    wait_receipts(&fixture, 1).await?;
    let mut beside = run(&fixture, &params)?;
    // It dies while it holds a window.
    let id = beside.id().context("it ended")?.to_string();
    let mut left = Vec::new();
    eventually("the command exports, too", async || {
        signal("-STOP", &id).await?;
        left = holders(&fixture).await?;
        left.retain(|holder| !holder.contains(&namespace));
        if left.is_empty() {
            signal("-CONT", &id).await?;
        }
        Ok(!left.is_empty())
    })
    .await?;
    beside.start_kill()?;
    beside.wait().await?;
    let holder = left.first().context("no holder")?;
    // Everything else is stored. The windows of the dead process are left to it, and the status names its holder and
    // the deadline.
    let mut status = serde_json::Value::Null;
    eventually("the status tells", async || {
        status = get(cluster, &namespace, "june").await?.context("it is gone")?["status"].clone();
        let windows = &status["windows"];
        let rest = windows["wanted"].as_u64()
            == windows["stored"]
                .as_u64()
                .map(|stored| stored + left.len() as u64);
        let conditions = status["conditions"].to_string();
        Ok(rest
            && windows["active"] == 0
            && conditions.contains("HeldByOther")
            && conditions.contains(holder.as_str()))
    })
    .await
    .with_context(|| format!("{left:?} {status:#}"))?;
    // A second run recognizes its own leftovers.
    let again = tokio::time::timeout(TIMEOUT, run(&fixture, &params)?.wait_with_output()).await??;
    ensure!(again.status.success(), "{again:?}");
    patch(
        cluster,
        &namespace,
        "june",
        &json!({ "spec": { "parallelism": 4 } }),
    )
    .await?;
    fixture.wait_complete(cluster, &params).await?;
    fixture.check_archive("tracker", DAYS).await?;
    fixture.source.no_session_left()
}

/// The command starts first, and the operator is killed halfway and restarted.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_beside_a_run_resumes_without_touching_its_windows() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("after").await;
    let fixture = SplitBrainFixture::start(&namespace, settings()).await?;
    let params = params(&namespace);
    fixture.apply(cluster, &params).await?;
    let beside = run(&fixture, &params)?;
    wait_receipts(&fixture, 1).await?;
    let operator = fixture.operator(cluster, &namespace, &[]).await?;
    eventually("the operator exports, too", async || {
        Ok(holders(&fixture)
            .await?
            .iter()
            .any(|holder| holder.contains(&namespace)))
    })
    .await?;
    kill(operator).await?;
    let _operator = fixture.operator(cluster, &namespace, &[]).await?;
    let ran = tokio::time::timeout(TIMEOUT, beside.wait_with_output()).await??;
    let stdout = String::from_utf8_lossy(&ran.stdout).into_owned();
    ensure!(ran.status.success() || stdout.contains("HeldByOther"), "{ran:?}");
    wait_receipts(&fixture, 16).await?;
    patch(
        cluster,
        &namespace,
        "june",
        &json!({ "spec": { "parallelism": 4 } }),
    )
    .await?;
    fixture.wait_complete(cluster, &params).await?;
    fixture.check_archive("tracker", DAYS).await?;
    fixture.source.no_session_left()
}

async fn signal(signal: &str, id: &str) -> Result<()> {
    let kill = tokio::process::Command::new("kill")
        .args([signal, id])
        .status()
        .await?;
    ensure!(kill.success(), "kill {signal}: {kill}");
    Ok(())
}

/// Returns the holders of windows with a session, from the journal.
async fn holders(fixture: &SplitBrainFixture) -> Result<Vec<String>> {
    let keys = fixture.bucket.keys().await?;
    let mut holders = Vec::new();
    for key in &keys {
        if let Some(attempt) = key.strip_suffix(".attempt.json")
            && keys
                .iter()
                .any(|key| key.starts_with(&format!("{attempt}.session.")))
            && let Ok(bytes) = fixture.bucket.get(key).await
        {
            let attempt: serde_json::Value = serde_json::from_slice(&bytes)?;
            holders.push(attempt["holder"].as_str().context("no holder")?.to_owned());
        }
    }
    Ok(holders)
}
