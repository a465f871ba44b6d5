//! End to end: `eventexport operator` as a process with exactly the rights of deploy/operator.yaml, with a real API
//! server, a real S3 store and the simulator.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, RequestKind, Settings, Simulator};
use jiff::civil::date;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{apply, event_reasons, eventually, get, has_finalizer, kubectl, wait_conditions};
use crate::bed::{Cluster, Gateway};

pub(crate) const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";

/// One namespace with its service, bucket and operator.
pub(super) struct EndToEndFixture {
    pub(super) cluster: &'static Cluster,
    gateway: &'static Gateway,
    simulator: Simulator,
    pub(super) namespace: String,
    operator: Child,
}

impl EndToEndFixture {
    pub(super) async fn start(name: &str, faults: &[&str]) -> Result<Self> {
        let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
        let namespace = cluster.namespace(name).await;
        gateway.create_bucket(&namespace).await?;
        let operator = operator(cluster, &namespace).await?;
        let simulator = simulator().await?;
        for fault in faults {
            simulator.add_preset(fault)?;
        }
        let fixture = Self {
            cluster,
            gateway,
            simulator,
            namespace,
            operator,
        };
        fixture.apply().await?;
        Ok(fixture)
    }

    async fn apply(&self) -> Result<()> {
        for document in &documents(&self.namespace, &self.namespace, self.gateway, &self.simulator) {
            apply(self.cluster, document).await?;
        }
        Ok(())
    }

    pub(super) async fn wait_complete(&self) -> Result<Value> {
        let states = ["True/Complete", "True/Complete", "False/Accepted", "False"];
        wait_conditions(self.cluster, &self.namespace, "june", states).await
    }

    /// Folder of the space's objects in the gateway.
    pub(super) fn folder(&self) -> std::path::PathBuf {
        let bucket = self.gateway.folder().join("objects").join(&self.namespace);
        bucket.join("tracker").join(format!("space={SPACE}"))
    }

    pub(super) async fn wait_finalizer_removed(&self) -> Result<()> {
        eventually("the finalizer goes", async || {
            let object = get(self.cluster, &self.namespace, "june").await?;
            Ok(!has_finalizer(&object.context("it is gone")?))
        })
        .await
    }

    async fn delete(&self) -> Result<()> {
        let delete = [
            "delete",
            "eventexport",
            "june",
            "-n",
            &self.namespace,
            "--timeout=60s",
        ];
        kubectl(self.cluster, &delete).await.map(drop)
    }

    fn downloads(&self) -> u64 {
        self.simulator.ledger().requests_of(RequestKind::Download)
    }
}

/// Starts a service with days around those of the export.
pub(crate) async fn simulator() -> Result<Simulator> {
    let settings = Settings {
        today: Some(date(2018, 6, 9)),
        ..Settings::default()
    };
    Ok(Simulator::start(settings).await?)
}

/// Returns an export of five days and its Secrets.
pub(super) fn documents(
    namespace: &str,
    bucket: &str,
    gateway: &Gateway,
    simulator: &Simulator,
) -> [Value; 3] {
    let metadata = |name: &str| json!({ "namespace": namespace, "name": name });
    let secret = |name: &str, data: Value| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata(name), "stringData": data });
    let (key, hidden) = (gateway.access_key(), gateway.secret_key());
    let url = simulator.url().as_str().trim_end_matches('/');
    let export = json!({
        "apiVersion": "eventexport.io/v1alpha1",
        "kind": "EventExport",
        "metadata": metadata("june"),
        "spec": {
            "space": SPACE,
            "dateRange": { "start": "2018-06-03", "end": "2018-06-07" },
            "source": { "endpoint": url, "credentialsSecretRef": { "name": "tracker" } },
            "destination": { "s3": {
                "bucket": bucket, "prefix": "tracker", "endpoint": gateway.endpoint(),
                "credentialsSecretRef": { "name": "bucket" },
            }},
        },
    });
    [
        secret("tracker", json!({ "apiKey": DEFAULT_API_KEY })),
        secret("bucket", json!({ "accessKeyId": key, "secretAccessKey": hidden })),
        export,
    ]
}

/// Starts an operator with the rights of deploy/operator.yaml, which is generated from the chart.
pub(crate) async fn operator(cluster: &Cluster, namespace: &str) -> Result<Child> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/operator.yaml");
    kubectl(cluster, &["apply", "--server-side", "-f", manifest]).await?;
    let kubeconfig = cluster
        .kubeconfig_for_service_account("eventexport-system", "eventexport")
        .await?;
    // The rights name the lease, so each test's operator holds it in its own namespace.
    let rights = kubectl(
        cluster,
        &[
            "get",
            "role,rolebinding",
            "-n",
            "eventexport-system",
            "-o",
            "json",
        ],
    )
    .await?;
    let mut rights: Value = serde_json::from_str(&rights)?;
    for item in rights["items"].as_array_mut().into_iter().flatten() {
        item["metadata"] = json!({ "namespace": namespace, "name": item["metadata"]["name"] });
    }
    apply(cluster, &rights).await?;
    let child = Command::new(env!("CARGO_BIN_EXE_eventexport"))
        .args([
            "operator",
            "--namespace",
            namespace,
            "--lease-namespace",
            namespace,
        ])
        .args([
            "--lease-name",
            "eventexport-operator",
            "--allow-host",
            "127.0.0.1",
        ])
        .args([
            "--metrics-listen",
            "127.0.0.1:0",
            "--session-quiet",
            "1s",
            "--kubeconfig",
        ])
        .arg(kubeconfig)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

#[tokio::test]
async fn a_manifest_becomes_objects_and_a_ready_status_and_nothing_is_downloaded_twice() -> Result<()> {
    let fixture = EndToEndFixture::start("whole", &[]).await?;
    let object = fixture.wait_complete().await?;
    ensure!(object["status"]["windows"]["stored"] == 5, "{}", object["status"]);
    ensure!(object["status"]["covered"] == json!(["2018-06-03/2018-06-07"]));
    fixture.wait_finalizer_removed().await?;
    ensure!(fixture.simulator.open_sessions().is_empty());
    ensure!(
        event_reasons(fixture.cluster, &fixture.namespace, "june")
            .await?
            .contains(&"Complete".to_owned())
    );

    let before = fixture.downloads();
    fixture.delete().await?;
    fixture.apply().await?;
    let again = fixture.wait_complete().await?;
    ensure!(again["status"]["covered"] == object["status"]["covered"]);
    ensure!(again["status"]["events"] == object["status"]["events"]);
    ensure!(
        fixture.downloads() == before,
        "what is stored is not downloaded again"
    );
    Ok(())
}

#[tokio::test]
async fn sigterm_deletes_the_sessions_and_a_restart_completes() -> Result<()> {
    let mut fixture = EndToEndFixture::start("sigterm", &["hang-download@2018-06-05x1"]).await?;
    eventually("a download hangs", async || {
        Ok(!fixture.simulator.ledger().faults.is_empty())
    })
    .await?;
    ensure!(!fixture.simulator.open_sessions().is_empty());
    let id = fixture.operator.id().context("it ended")?.to_string();
    Command::new("kill").args(["-TERM", &id]).status().await?;
    let ended = tokio::time::timeout(Duration::from_secs(30), fixture.operator.wait()).await??;
    ensure!(ended.success(), "{ended}");
    ensure!(
        fixture.simulator.open_sessions().is_empty(),
        "no session outlives an orderly end"
    );
    let left = get(fixture.cluster, &fixture.namespace, "june")
        .await?
        .context("it is gone")?;
    ensure!(
        left["status"]["windows"]["active"] == 0 && left["status"]["sessions"].is_null(),
        "{}",
        left["status"]
    );
    ensure!(!has_finalizer(&left), "a stopped operator left its finalizer");
    fixture.operator = operator(fixture.cluster, &fixture.namespace).await?;
    fixture.wait_complete().await?;
    ensure!(fixture.simulator.open_sessions().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_vanished_bucket_does_not_block_deletion() -> Result<()> {
    let fixture = EndToEndFixture::start("vanished", &["hang-download@2018-06-05x1"]).await?;
    eventually("the session is in the status", async || {
        let object = get(fixture.cluster, &fixture.namespace, "june")
            .await?
            .unwrap_or_default();
        let hangs = !fixture.simulator.ledger().faults.is_empty();
        Ok(hangs && object["status"]["sessions"][0]["window"] == "2018-06-05")
    })
    .await?;
    // In one step: the operator writes into the bucket until it is gone.
    let bucket = fixture.gateway.folder().join("objects").join(&fixture.namespace);
    let removed = bucket.with_extension("removed");
    std::fs::rename(&bucket, &removed).with_context(|| bucket.display().to_string())?;
    std::fs::remove_dir_all(&removed).with_context(|| removed.display().to_string())?;
    fixture.delete().await?;
    ensure!(
        fixture.simulator.open_sessions().is_empty(),
        "the service was there, so the session is not left"
    );
    Ok(())
}
