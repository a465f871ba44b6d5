//! Health in each phase of an export with the real operator: verdicts of kstatus and Argo CD on every version that
//! the API server had.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator, Volume};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::{HealthVerdict, argo_health, kstatus, verdicts_agree};
use crate::bed::{Cluster, Gateway};
use crate::operator::end_to_end::{SPACE, operator};
use crate::operator::{apply, eventually, get, has_finalizer, kubectl, patch};

/// One export, its peers, and a watch.
struct GitOpsFixture {
    cluster: &'static Cluster,
    gateway: &'static Gateway,
    simulator: Simulator,
    namespace: String,
    operator: Option<Child>,
}

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

impl GitOpsFixture {
    async fn new(name: &str) -> Result<Self> {
        let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
        Ok(Self {
            cluster,
            gateway,
            simulator: Simulator::start(every_day()).await?,
            namespace: cluster.namespace(name).await,
            operator: None,
        })
    }

    /// Applies a continuous export from that day on, without a delay for late events.
    async fn apply(&self, first: &str) -> Result<()> {
        let url = self.simulator.url().as_str().trim_end_matches('/').to_owned();
        let export = json!({
            "apiVersion": "eventexport.io/v1alpha1",
            "kind": "EventExport",
            "metadata": { "namespace": self.namespace, "name": "daily" },
            "spec": {
                "space": SPACE,
                "dateRange": { "start": first },
                "settleAfter": "0s",
                "source": { "endpoint": url, "credentialsSecretRef": { "name": "tracker" } },
                "destination": { "s3": {
                    "bucket": self.namespace, "endpoint": self.gateway.endpoint(),
                    "credentialsSecretRef": { "name": "bucket" },
                }},
            },
        });
        apply(self.cluster, &export).await
    }

    async fn secret(&self, name: &str, data: Value) -> Result<()> {
        let metadata = json!({ "namespace": self.namespace, "name": name });
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data });
        apply(self.cluster, &secret).await
    }

    async fn object(&self) -> Result<Value> {
        let found = get(self.cluster, &self.namespace, "daily").await?;
        found.context("it is gone")
    }

    /// Returns the current verdicts of both tools.
    async fn verdicts(&self) -> Result<(HealthVerdict, HealthVerdict)> {
        let now = [self.object().await?];
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

    /// Stops or continues the operator process, like a busy machine.
    async fn signal(&self, signal: &str) -> Result<()> {
        let id = self.operator.as_ref().and_then(Child::id);
        let id = id.context("there is no operator")?.to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await?;
        ensure!(sent.success(), "kill {signal}: {sent}");
        Ok(())
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
    let mut fixture = GitOpsFixture::new("phases").await?;
    let mut watch = watch(&fixture)?;

    // Before the first reconcile no tool considers it ready, however long that lasts.
    fixture.apply(&days_ago(4)?).await?;
    fixture
        .wait_status("just applied", "InProgress", &["not looked"])
        .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fixture
        .wait_status("still", "InProgress", &["not looked"])
        .await?;

    fixture.operator = Some(operator(fixture.cluster, &fixture.namespace).await?);
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

    fixture
        .secret("tracker", json!({ "apiKey": DEFAULT_API_KEY }))
        .await?;
    let keys = json!({ "accessKeyId": fixture.gateway.access_key(), "secretAccessKey": fixture.gateway.secret_key() });
    fixture.secret("bucket", keys).await?;
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
    eventually("a download hangs", async || {
        Ok(!fixture.simulator.ledger().faults.is_empty())
    })
    .await?;

    // The operator notices a change late: until then no verdict on the old spec counts.
    fixture.signal("-STOP").await?;
    let other = json!({ "spec": { "parallelism": 2 } });
    patch(fixture.cluster, &fixture.namespace, "daily", &other).await?;
    fixture
        .wait_status("spec changed", "InProgress", &["newest spec"])
        .await?;
    fixture.signal("-CONT").await?;
    fixture
        .wait_status("continuous", "Current", &["CaughtUp"])
        .await?;

    let end = json!({ "spec": { "dateRange": { "end": days_ago(2)? } } });
    patch(fixture.cluster, &fixture.namespace, "daily", &end).await?;
    fixture.wait_status("complete", "Current", &["Complete"]).await?;

    // Deleted with an open session: it stays until the session is gone, and no wait considers it ready.
    let held = format!("hang-download@{}x1", days_ago(6)?);
    fixture.simulator.add_preset(&held)?;
    let more = json!({ "spec": { "dateRange": { "start": days_ago(6)? } } });
    patch(fixture.cluster, &fixture.namespace, "daily", &more).await?;
    eventually("it exports again", async || {
        let object = fixture.object().await?;
        Ok(has_finalizer(&object) && object["status"]["sessions"][0].is_object())
    })
    .await?;
    fixture.signal("-STOP").await?;
    let delete = [
        "delete",
        "eventexport",
        "daily",
        "-n",
        &fixture.namespace,
        "--wait=false",
    ];
    kubectl(fixture.cluster, &delete).await?;
    let (flux, _) = fixture.verdicts().await?;
    ensure!(flux.status == "Terminating", "{flux:?}");
    fixture.signal("-CONT").await?;
    eventually("it goes", async || {
        Ok(get(fixture.cluster, &fixture.namespace, "daily").await?.is_none())
    })
    .await?;
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
