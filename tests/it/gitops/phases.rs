//! An export through its life under the real operator, with every version of it that the API server had: what kstatus
//! and Argo CD made of each.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::{Verdict, agree, argo_health, kstatus};
use crate::bed::{Cluster, Gateway};
use crate::operator::whole::{SPACE, operator};
use crate::operator::{apply, eventually, get, has_finalizer, kubectl, patch};

/// One export, its peers, and whoever watches it.
struct Scene {
    cluster: &'static Cluster,
    gateway: &'static Gateway,
    simulator: Simulator,
    namespace: String,
    operator: Option<Child>,
}

impl Scene {
    async fn new(name: &str) -> Result<Self> {
        let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
        Ok(Self {
            cluster,
            gateway,
            simulator: Simulator::start(Settings::default()).await?,
            namespace: cluster.namespace(name).await,
            operator: None,
        })
    }

    /// As Git has it: every day from then on, without waiting for late events.
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

    /// Both tools' verdicts now.
    async fn verdicts(&self) -> Result<(Verdict, Verdict)> {
        let now = [self.object().await?];
        let (mut flux, mut argo) = (kstatus(&now).await?, argo_health(&now).await?);
        Ok((
            flux.pop().context("no verdict")?,
            argo.pop().context("no verdict")?,
        ))
    }

    /// Waits until kstatus says so, with those words in its message.
    async fn is(&self, phase: &str, status: &str, words: &[&str]) -> Result<()> {
        eventually(&format!("{phase}: {status}, saying {words:?}"), async || {
            let (flux, argo) = self.verdicts().await?;
            let so = flux.status == status && words.iter().all(|word| argo.message.contains(word));
            ensure!(so, "{flux:?} {argo:?}");
            Ok(true)
        })
        .await
    }

    /// Holds the operator where it is, or lets it go on, as a busy machine does.
    async fn signal(&self, signal: &str) -> Result<()> {
        let id = self.operator.as_ref().and_then(Child::id);
        let id = id.context("there is no operator")?.to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await?;
        ensure!(sent.success(), "kill {signal}: {sent}");
        Ok(())
    }
}

/// Every version of the export, from now on.
fn watch(scene: &Scene) -> Result<Child> {
    Ok(Command::new(super::program("kubectl")?)
        .arg("--kubeconfig")
        .arg(scene.cluster.kubeconfig_path())
        .args(["get", "eventexports", "-n", &scene.namespace])
        .args(["--watch", "--output-watch-events", "-o", "json"])
        .env("KUBERC", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?)
}

/// What the watch has seen; it ends with this.
async fn versions(mut watch: Child) -> Result<Vec<Value>> {
    watch.start_kill()?;
    let mut text = Vec::new();
    let mut pipe = watch.stdout.take().context("no standard output")?;
    pipe.read_to_end(&mut text).await?;
    let events = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
    // The last one may be cut off by the end.
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
async fn a_wait_passes_when_the_export_is_healthy_and_fails_when_a_person_is_needed() -> Result<()> {
    let mut scene = Scene::new("phases").await?;
    let mut watch = watch(&scene)?;

    // Nobody has looked: no tool takes it for ready, however long that lasts.
    scene.apply(&days_ago(4)?).await?;
    scene.is("just applied", "InProgress", &["not looked"]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.is("still", "InProgress", &["not looked"]).await?;

    scene.operator = Some(operator(scene.cluster, &scene.namespace).await?);
    let missing = [
        "CredentialsMissing",
        "tracker",
        "spec.source.credentialsSecretRef",
    ];
    scene.is("no Secret", "Failed", &missing).await?;
    let (flux, _) = scene.verdicts().await?;
    ensure!(
        flux.message.contains("tracker"),
        "a person reads what is missing: {flux:?}"
    );

    scene
        .secret("tracker", json!({ "apiKey": DEFAULT_API_KEY }))
        .await?;
    let keys =
        json!({ "accessKeyId": scene.gateway.access_key(), "secretAccessKey": scene.gateway.secret_key() });
    scene.secret("bucket", keys).await?;
    let bucket = scene.namespace.clone();
    scene
        .is("no bucket", "Failed", &["BucketMissing", &bucket])
        .await?;

    // Mended, it goes on by itself, and a download keeps it exporting.
    let held = format!("hang-download@{}x1", days_ago(3)?);
    scene.simulator.add_preset(&held)?;
    scene.gateway.create_bucket(&bucket).await?;
    scene
        .is("accepted and exporting", "Current", &["Exporting"])
        .await?;

    // It hangs once only, so what begins again below does not.
    eventually("a download hangs", async || {
        Ok(!scene.simulator.ledger().faults.is_empty())
    })
    .await?;

    // The operator is slow to see a change: until then, no verdict on the old spec counts.
    scene.signal("-STOP").await?;
    let other = json!({ "spec": { "parallelism": 2 } });
    patch(scene.cluster, &scene.namespace, "daily", &other).await?;
    scene.is("spec changed", "InProgress", &["newest spec"]).await?;
    scene.signal("-CONT").await?;
    scene.is("continuous", "Current", &["CaughtUp"]).await?;

    let end = json!({ "spec": { "dateRange": { "end": days_ago(2)? } } });
    patch(scene.cluster, &scene.namespace, "daily", &end).await?;
    scene.is("complete", "Current", &["Complete"]).await?;

    // Deleted while a session is open: it is there until the session is gone, and no wait takes it for ready.
    let held = format!("hang-download@{}x1", days_ago(6)?);
    scene.simulator.add_preset(&held)?;
    let more = json!({ "spec": { "dateRange": { "start": days_ago(6)? } } });
    patch(scene.cluster, &scene.namespace, "daily", &more).await?;
    eventually("it exports again", async || {
        let object = scene.object().await?;
        Ok(has_finalizer(&object) && object["status"]["sessions"][0].is_object())
    })
    .await?;
    scene.signal("-STOP").await?;
    let delete = [
        "delete",
        "eventexport",
        "daily",
        "-n",
        &scene.namespace,
        "--wait=false",
    ];
    kubectl(scene.cluster, &delete).await?;
    let (flux, _) = scene.verdicts().await?;
    ensure!(flux.status == "Terminating", "{flux:?}");
    scene.signal("-CONT").await?;
    eventually("it goes", async || {
        Ok(get(scene.cluster, &scene.namespace, "daily").await?.is_none())
    })
    .await?;
    ensure!(scene.simulator.open_sessions().is_empty());

    ensure!(watch.try_wait()?.is_none(), "the watch ended early");
    judge_all(&versions(watch).await?).await
}

/// Nothing of what was there for a moment only misled a tool.
async fn judge_all(versions: &[Value]) -> Result<()> {
    let alive: Vec<Value> = versions
        .iter()
        .filter(|object| object["metadata"]["deletionTimestamp"].is_null())
        .cloned()
        .collect();
    ensure!(alive.len() >= 8, "the watch saw {} versions only", alive.len());
    let (flux, argo) = (kstatus(&alive).await?, argo_health(&alive).await?);
    for ((object, flux), argo) in alive.iter().zip(&flux).zip(&argo) {
        let status = &object["status"];
        ensure!(agree(&flux.status, &argo.status), "{flux:?} {argo:?} {status}");
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
