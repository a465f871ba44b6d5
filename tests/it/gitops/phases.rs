//! Health in each phase of an export with the real operator: verdicts of kstatus and Argo CD on every version that
//! the API server had.

use std::ops::Deref;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{Settings, Volume};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::{HealthVerdict, argo_health, kstatus, verdicts_agree};
use crate::operator::end_to_end::operator;
use crate::operator::{eventually, has_finalizer, start_deletion, wait_gone};

use crate::testkit::environment::Environment;
use crate::testkit::manifest::{bucket_keys, tracker_keys};

/// A service with events on every day: after a quiet day it lists no later one, and an export waits for that.
fn every_day() -> Settings {
    let volume = Volume {
        quiet: Vec::new(),
        ..Volume::default()
    };
    Settings {
        volume,
        ..Settings::default()
    }
}

/// One export and its peers.
struct GitOpsFixture(Environment);

impl Deref for GitOpsFixture {
    type Target = Environment;

    fn deref(&self) -> &Environment {
        &self.0
    }
}

impl GitOpsFixture {
    /// Applies a continuous export from that day on, without a delay for late events.
    async fn apply_from(&self, first: &str) -> Result<()> {
        let export = self.export("daily").days(first, "").set("settleAfter", "0s");
        self.apply(&export).await
    }

    /// Returns the current verdicts of both tools.
    async fn verdicts(&self) -> Result<(HealthVerdict, HealthVerdict)> {
        let now = [self.object("daily").await?];
        let (mut flux, mut argo) = (kstatus(&now).await?, argo_health(&now).await?);
        Ok((
            flux.pop().context("no verdict")?,
            argo.pop().context("no verdict")?,
        ))
    }

    /// Waits for this kstatus verdict with these words in its message.
    async fn wait_status(&self, phase: &str, status: &str, words: &[&str]) -> Result<()> {
        eventually(&format!("{phase}: {status}, saying {words:?}"), async || {
            let (flux, argo) = self.verdicts().await?;
            let so = flux.status == status && words.iter().all(|word| argo.message.contains(word));
            ensure!(so, "{flux:?} {argo:?}");
            Ok(true)
        })
        .await
    }
}

/// Starts to record every version of the export.
fn watch(fixture: &GitOpsFixture) -> Result<Child> {
    Ok(Command::new(super::program("kubectl")?)
        .arg("--kubeconfig")
        .arg(fixture.cluster.kubeconfig_path())
        .args(["get", "eventexports", "-n", &fixture.namespace])
        .args(["--watch", "--output-watch-events", "-o", "json"])
        .env("KUBERC", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?)
}

/// Ends the watch and returns the versions it recorded.
async fn versions(mut watch: Child) -> Result<Vec<Value>> {
    watch.start_kill()?;
    let mut text = Vec::new();
    let mut pipe = watch.stdout.take().context("no standard output")?;
    pipe.read_to_end(&mut text).await?;
    let events = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
    // The last version may be incomplete.
    Ok(events
        .map_while(Result::ok)
        .map(|mut event| event["object"].take())
        .collect())
}

fn days_ago(days: i64) -> Result<String> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    Ok(today.checked_sub(days.days())?.to_string())
}

#[tokio::test]
async fn a_wait_passes_when_healthy_and_fails_when_manual_action_is_needed() -> Result<()> {
    let environment = Environment::builder("phases").service(every_day());
    let fixture = GitOpsFixture(environment.without_secrets().without_bucket().start().await?);
    let mut watch = watch(&fixture)?;

    // Before the first reconcile no tool considers it ready, however long that lasts.
    fixture.apply_from(&days_ago(4)?).await?;
    fixture
        .wait_status("just applied", "InProgress", &["not looked"])
        .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fixture
        .wait_status("still", "InProgress", &["not looked"])
        .await?;

    let operator = operator(fixture.cluster, &fixture.namespace).await?;
    let missing = [
        "CredentialsMissing",
        "tracker",
        "spec.source.credentialsSecretRef",
    ];
    fixture.wait_status("no Secret", "Failed", &missing).await?;
    let (flux, _) = fixture.verdicts().await?;
    ensure!(
        flux.message.contains("tracker"),
        "the message names what is missing: {flux:?}"
    );

    fixture.secret("tracker", &tracker_keys()).await?;
    fixture.secret("bucket", &bucket_keys(fixture.gateway)).await?;
    let bucket = fixture.namespace.clone();
    fixture
        .wait_status("no bucket", "Failed", &["BucketMissing", &bucket])
        .await?;

    // After the fix it continues by itself, and a download keeps it exporting.
    let held = format!("hang-download@{}x1", days_ago(3)?);
    fixture.simulator.add_preset(&held)?;
    fixture.gateway.create_bucket(&bucket).await?;
    fixture
        .wait_status("accepted and exporting", "Current", &["Exporting"])
        .await?;

    // It hangs only once, so the runs below do not.
    fixture.wait_fault().await?;

    // The operator notices a change late: until then no verdict on the old spec counts. It restarts the transfer.
    operator.signal("-STOP").await?;
    let other = json!({ "spec": { "destination": { "s3": { "checksum": "SHA256" } } } });
    fixture.patch("daily", &other).await?;
    fixture
        .wait_status("spec changed", "InProgress", &["newest spec"])
        .await?;
    operator.signal("-CONT").await?;
    fixture
        .wait_status("continuous", "Current", &["CaughtUp"])
        .await?;

    let end = json!({ "spec": { "dateRange": { "end": days_ago(2)? } } });
    fixture.patch("daily", &end).await?;
    fixture.wait_status("complete", "Current", &["Complete"]).await?;

    // Deleted with an open session: it stays until the session is gone, and no wait considers it ready.
    let held = format!("hang-download@{}x1", days_ago(6)?);
    fixture.simulator.add_preset(&held)?;
    let more = json!({ "spec": { "dateRange": { "start": days_ago(6)? } } });
    fixture.patch("daily", &more).await?;
    eventually("it exports again", async || {
        let object = fixture.object("daily").await?;
        Ok(has_finalizer(&object) && object["status"]["sessions"][0].is_object())
    })
    .await?;
    operator.signal("-STOP").await?;
    start_deletion(fixture.cluster, &fixture.namespace, "daily").await?;
    let (flux, _) = fixture.verdicts().await?;
    ensure!(flux.status == "Terminating", "{flux:?}");
    operator.signal("-CONT").await?;
    wait_gone(fixture.cluster, &fixture.namespace, "daily").await?;
    ensure!(fixture.simulator.open_sessions().is_empty());

    ensure!(watch.try_wait()?.is_none(), "the watch ended early");
    health_of_all(&versions(watch).await?).await
}

/// Checks the verdicts on each intermediate version.
async fn health_of_all(versions: &[Value]) -> Result<()> {
    let alive: Vec<Value> = versions
        .iter()
        .filter(|object| object["metadata"]["deletionTimestamp"].is_null())
        .cloned()
        .collect();
    ensure!(alive.len() >= 8, "the watch saw {} versions only", alive.len());
    let (flux, argo) = (kstatus(&alive).await?, argo_health(&alive).await?);
    for ((object, flux), argo) in alive.iter().zip(&flux).zip(&argo) {
        let status = &object["status"];
        ensure!(
            verdicts_agree(&flux.status, &argo.status),
            "{flux:?} {argo:?} {status}"
        );
        let looked = status["observedGeneration"] == object["metadata"]["generation"];
        ensure!(
            looked || flux.status == "InProgress",
            "{flux:?} of a spec that the operator has not seen: {status}"
        );
        for condition in status["conditions"].as_array().into_iter().flatten() {
            ensure!(
                condition["observedGeneration"] == status["observedGeneration"],
                "{condition}"
            );
        }
    }
    Ok(())
}
