//! The report that an operator writes into the bucket (`spec.report`).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{ensure_contains, event_reasons, eventually, message, patch};
use crate::testkit::command::run_in;
use crate::testkit::environment::Environment;
use crate::testkit::manifest::{Manifest, SPACE};
use crate::testkit::proxy::{Action, ErrorStatus, ProxiedPeer, RequestMatcher, Rule};

/// Name of the report below the root.
const REPORT: &str = "_report/index.html";

fn key() -> String {
    format!("tracker/space={SPACE}/scope=space/{REPORT}")
}

/// Returns the page of `eventexport report -f` for the same export.
async fn page_of_command(env: &Environment, manifest: &Manifest) -> Vec<u8> {
    let file = manifest
        .clone()
        .secrets(env.gateway)
        .write(env.folder.path().join("june.yaml"));
    let arguments = ["report", "-o", "html", "-f", file.to_str().unwrap()];
    run_in(env.folder.path(), &arguments).await.expect_exit(0).bytes
}

/// Asks the operator to look now, and waits for its answer.
async fn look(env: &Environment, request: &str) -> Result<()> {
    env.request_reconcile("june", request).await?;
    eventually("the look is answered", async || {
        Ok(env.object("june").await?["status"]["lastHandledReconcileAt"] == request)
    })
    .await
}

/// Waits until the report in the bucket has this number of versions.
async fn wait_versions(env: &Environment, number: usize) -> Result<()> {
    let mut seen = None;
    eventually("the report is written", async || {
        seen = env.bucket.versions().await?.get(&key()).copied();
        Ok(seen == Some(number))
    })
    .await
    .with_context(|| format!("{number} expected, {seen:?} seen"))
}

#[tokio::test]
async fn the_report_in_the_bucket_is_that_of_the_command_and_written_only_after_a_change() -> Result<()> {
    let env = Environment::builder("report").versioned().start().await?;
    let june = env
        .proxied_export("june")
        .set("report", true)
        .set("destination.s3.storageClass", "GLACIER");
    env.apply(&june).await?;
    let operator = env.operator().start().await?;
    env.wait_complete("june").await?;
    wait_versions(&env, 1).await?;
    let direct = june
        .clone()
        .set("destination.s3.endpoint", env.gateway.endpoint());
    ensure!(env.bucket.get(&key()).await? == page_of_command(&env, &direct).await);
    let head = env.bucket.client.head_object();
    let head = head.bucket(&env.bucket.name).key(key()).send().await?;
    ensure!(
        head.content_type() == Some("text/html; charset=utf-8"),
        "{head:?}"
    );
    let requests = env.rules.requests_to(ProxiedPeer::Store);
    let put = requests
        .iter()
        .find(|request| request.contains(&["PUT ", REPORT]));
    let put = put.context("no request")?;
    ensure!(
        put.headers.contains("x-amz-checksum-crc64nvme") && !put.headers.contains("if-none-match"),
        "{}",
        put.headers
    );
    let class = |line: &str| line.contains("x-amz-storage-class");
    ensure!(!put.headers.lines().any(class), "{}", put.headers);
    let events = requests
        .iter()
        .find(|request| request.contains(&["PUT ", "/events.json.gz"]));
    ensure!(events.context("no events")?.headers.lines().any(class));

    // Looked at again, also by another operator: nothing changed.
    look(&env, "one").await?;
    drop(operator);
    let _operator = env.operator().start().await?;
    look(&env, "two").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    wait_versions(&env, 1).await?;

    let longer = json!({ "spec": { "dateRange": { "start": "2018-06-03", "end": "2018-06-08" } } });
    patch(env.cluster, &env.namespace, "june", &longer).await?;
    wait_versions(&env, 2).await?;
    env.wait_complete("june").await?;
    let direct = direct.days("2018-06-03", "2018-06-08");
    ensure!(env.bucket.get(&key()).await? == page_of_command(&env, &direct).await);

    // Deleted, it comes back.
    env.bucket.delete(&key()).await?;
    look(&env, "three").await?;
    eventually("the report is there again", async || {
        Ok(env.bucket.get(&key()).await.is_ok())
    })
    .await?;
    // Overwritten by another program, it is replaced.
    let page = env.bucket.get(&key()).await?;
    let foreign = env.bucket.client.put_object().bucket(&env.bucket.name).key(key());
    let foreign = foreign
        .content_type("text/html")
        .body(b"<p>other".to_vec().into());
    foreign.send().await?;
    look(&env, "four").await?;
    eventually("the report is that of the command again", async || {
        Ok(env.bucket.get(&key()).await? == page)
    })
    .await?;
    ensure!(page == page_of_command(&env, &direct).await);
    Ok(())
}

#[tokio::test]
async fn a_store_that_denies_the_report_does_not_disturb_the_export() -> Result<()> {
    let env = Environment::builder("no-report").versioned().start().await?;
    let put = RequestMatcher::LineContains(ProxiedPeer::Store, vec!["PUT ", REPORT]);
    let denied = env
        .rules
        .keep(Rule::new(put, Action::ErrorReply(ErrorStatus::Forbidden)));
    env.apply(&env.proxied_export("june").set("report", true)).await?;
    let _operator = env.operator().start().await?;
    eventually("the report is denied", async || Ok(denied.hits() > 0)).await?;
    let mut ready = String::new();
    eventually("the condition says so", async || {
        ready = message(&env.wait_complete("june").await?, "Ready");
        Ok(ready.contains("ReportNotWritten"))
    })
    .await?;
    ensure_contains(&ready, &[REPORT, "spec.report"])?;
    eventually("an Event says so", async || {
        let reasons = event_reasons(env.cluster, &env.namespace, "june").await?;
        Ok(reasons.iter().any(|reason| reason == "ReportNotWritten"))
    })
    .await?;
    // Not in a loop.
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(denied.hits() == 1, "{} tries", denied.hits());
    drop(denied);
    look(&env, "now").await?;
    wait_versions(&env, 1).await?;
    eventually("the condition forgets it", async || {
        let june = env.wait_complete("june").await?;
        Ok(!june["status"].to_string().contains("ReportNotWritten"))
    })
    .await?;
    env.check_archive("2018-06-03", "2018-06-07").await
}
