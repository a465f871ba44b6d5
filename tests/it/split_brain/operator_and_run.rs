//! `eventexport run` with the manifest of an export that an operator serves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::Settings;
use jiff::civil::date;
use serde_json::json;
use tokio::process::Child;

use super::fixture::{
    check_archive, environment, eventually, export, operator, wait_complete, wait_receipts,
};
use crate::testkit::command::{program_in, signal, wait_output};
use crate::testkit::environment::{Environment, no_session_left};
use crate::testkit::manifest::Manifest;

const DAYS: [&str; 2] = ["2018-06-01", "2018-06-16"];

fn settings() -> Settings {
    Settings {
        today: Some(date(2018, 8, 1)),
        latency: Duration::from_millis(150),
        ..Settings::default()
    }
}

fn run(env: &Environment, june: &Manifest) -> Result<Child> {
    let folder = env.folder.path();
    june.write(folder.join("june.yaml"));
    Ok(program_in(folder, &["run", "-f", "june.yaml", "--output", "json"]).spawn()?)
}

/// The operator starts first, and the command is killed halfway.
#[tokio::test(flavor = "multi_thread")]
async fn windows_of_a_run_killed_beside_the_operator_are_in_the_status() -> Result<()> {
    let env = environment("beside", settings()).await?;
    let june = export(&env, DAYS);
    let _operator = operator(&env).start().await?;
    env.apply(&june).await?;
    wait_receipts(&env, 1).await?;
    let mut beside = run(&env, &june)?;
    // It dies while it holds a window.
    let mut left = Vec::new();
    eventually("the command exports, too", async || {
        signal(&beside, "STOP").await;
        left = holders(&env).await?;
        left.retain(|holder| !holder.contains(&env.namespace));
        if left.is_empty() {
            signal(&beside, "CONT").await;
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
        status = env.object("june").await?["status"].take();
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
    wait_output(run(&env, &june)?).await.expect_exit(0);
    check_after_change(&env, &june).await
}

/// The command starts first, and the operator is killed halfway and restarted.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_beside_a_run_resumes_without_touching_its_windows() -> Result<()> {
    let env = environment("after", settings()).await?;
    let june = export(&env, DAYS);
    env.apply(&june).await?;
    let beside = run(&env, &june)?;
    wait_receipts(&env, 1).await?;
    let first = operator(&env).start().await?;
    eventually("the operator exports, too", async || {
        Ok(holders(&env)
            .await?
            .iter()
            .any(|holder| holder.contains(&env.namespace)))
    })
    .await?;
    first.kill().await?;
    let _second = operator(&env).start().await?;
    let ran = wait_output(beside).await;
    ensure!(ran.code == Some(0) || ran.out.contains("HeldByOther"), "{ran:?}");
    wait_receipts(&env, 16).await?;
    check_after_change(&env, &june).await
}

/// Changes the spec, which triggers a reconcile; then the export is complete, and its archive is right.
async fn check_after_change(env: &Environment, june: &Manifest) -> Result<()> {
    env.patch("june", &json!({ "spec": { "parallelism": 4 } }))
        .await?;
    wait_complete(env.cluster, june).await?;
    check_archive(env, "tracker", DAYS).await?;
    no_session_left(&env.simulator)
}

/// Returns the holders of windows with a session, from the journal.
async fn holders(env: &Environment) -> Result<Vec<String>> {
    let keys = env.bucket.keys().await?;
    let mut holders = Vec::new();
    for key in &keys {
        if let Some(attempt) = key.strip_suffix(".attempt.json")
            && keys
                .iter()
                .any(|key| key.starts_with(&format!("{attempt}.session.")))
            && let Ok(bytes) = env.bucket.get(key).await
        {
            let attempt: serde_json::Value = serde_json::from_slice(&bytes)?;
            holders.push(attempt["holder"].as_str().context("no holder")?.to_owned());
        }
    }
    Ok(holders)
}
