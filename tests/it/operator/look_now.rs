//! A person asks an operator to look now: it lists the bucket again, at rest and during waits, and says when it has.

use anyhow::{Context as _, Result, ensure};
use jiff::civil::date;
use serde_json::{Value, json};

use super::{annotate, condition, eventually};
use crate::testkit::environment::Environment;
use crate::testkit::manifest::SPACE;

#[tokio::test]
async fn a_requested_look_lists_the_bucket_again_and_is_answered() -> Result<()> {
    let fixture = Environment::builder("look")
        .today(date(2018, 7, 1))
        .start()
        .await?;
    let (cluster, namespace) = (fixture.cluster, fixture.namespace.as_str());
    let root = format!("june/space={SPACE}/scope=space/date=2018-06-05");
    let bucket = fixture.gateway.folder().join("objects").join(namespace);
    let day = bucket.join(root).join("events.json.gz");
    std::fs::create_dir_all(day.parent().context("no folder")?)?;
    std::fs::write(&day, "of somebody else")?;
    fixture
        .create("june", ["2018-06-04", "2018-06-06"], &json!({}))
        .await?;
    let operator = fixture.operator().start().await?;
    let june = async || fixture.object("june").await;
    let ask = async |annotation: &str, value: &str| -> Result<Value> {
        let annotation = format!("{annotation}={value}");
        annotate(cluster, namespace, "june", &annotation).await?;
        let mut last = Value::Null;
        eventually("the look is answered", async || {
            last = june().await?;
            Ok(last["status"]["lastHandledReconcileAt"] == value)
        })
        .await
        .with_context(|| last["status"].to_string())?;
        Ok(last)
    };
    let mut last = Value::Null;
    eventually("the foreign object stops the day", async || {
        last = june().await?["status"].take();
        Ok(last["windows"]["stored"] == 2 && last["lastError"]["reason"] == "ForeignObject")
    })
    .await
    .with_context(|| last.to_string())?;

    // It waits for hours; the object is gone, and a look finds that.
    std::fs::remove_file(&day)?;
    ask("eventexport.io/requestedAt", "2026-01-01T00:00:00Z").await?;
    eventually("the day is stored", async || {
        Ok(condition(&june().await?, "Complete") == "True/Complete")
    })
    .await?;
    let complete = june().await?;
    ensure!(
        complete["status"]["nextRunTime"].is_string(),
        "{}",
        complete["status"]
    );

    // At rest, a look finds what is gone, and Flux may ask as well.
    std::fs::remove_file(&day)?;
    let looked = ask("reconcile.fluxcd.io/requestedAt", "2026-01-02T00:00:00Z").await?;
    ensure!(
        condition(&looked, "Complete").starts_with("False"),
        "{}",
        looked["status"]
    );

    // One value asks once.
    let lists = async || {
        let text = operator.metrics().await?;
        let count = text
            .lines()
            .filter(|line| line.starts_with("eventexport_requests_total{") && line.contains("\"ListKeys\""));
        Ok::<_, anyhow::Error>(count.map(str::to_owned).collect::<Vec<_>>())
    };
    let before = lists().await?;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    ensure!(before == lists().await?, "it keeps looking");
    Ok(())
}
