//! Real Flux deploys the chart and an export, waits for it, fails when it stalls, recovers, and prunes it.
//!
//! Without a node the chart's Pods do not run: the release has no replicas, and the operator is a process with the
//! rights of the chart's service account and the arguments of its Deployment.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{Settings, Simulator};
use jiff::civil::date;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{file, program};
use crate::bed::{Cluster, Flux, Gateway};
use crate::operator::{
    apply, condition, eventually, existing, get, kubectl, pod, wait_conditions, wait_gone,
};
use crate::testkit::environment::{COMPLETE, june};
use crate::testkit::manifest::{self, bucket_keys, tracker_keys};
use crate::testkit::process::Process;

const SYSTEM: &str = "eventexport-system";
const TENANT: &str = "audit";

struct FluxFixture {
    cluster: Cluster,
    flux: Flux,
    gateway: &'static Gateway,
    simulator: Simulator,
    bucket: String,
    folder: TempDir,
}

impl FluxFixture {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start().await?;
        // The chart installs it.
        kubectl(&cluster, &["delete", "crd", "eventexports.eventexport.io"]).await?;
        let flux = Flux::start(&cluster).await?;
        let gateway = Gateway::shared().await;
        let bucket = format!("fleet-{:08x}", rand::random::<u32>());
        gateway.create_bucket(&bucket).await?;
        let settings = Settings {
            today: Some(date(2018, 6, 9)),
            // A day takes a while, so that Flux sees the export in progress.
            bandwidth: Some(2000),
            ..Settings::default()
        };
        Ok(Self {
            cluster,
            flux,
            gateway,
            simulator: Simulator::start(settings).await?,
            bucket,
            folder: TempDir::new()?,
        })
    }

    /// Applies the Kustomizations of the example, with our artifacts instead of a repository.
    async fn apply_kustomizations(&self) -> Result<()> {
        for mut document in example("exports.yaml")? {
            document["spec"]["sourceRef"]["kind"] = json!("ExternalArtifact");
            document["spec"]["retryInterval"] = json!("2s");
            apply(&self.cluster, &document).await?;
        }
        Ok(())
    }

    async fn secret(&self, name: &str, data: &Value) -> Result<()> {
        apply(&self.cluster, &manifest::secret(TENANT, name, data)).await
    }

    /// Publishes the next revision of the tenant's folder.
    async fn commit(&self, revision: &str, files: &[(&str, Value)]) -> Result<()> {
        let folder = self.folder.path().join(revision);
        std::fs::create_dir_all(folder.join("audit/exports"))?;
        // Flux rejects a folder without manifests; a team's folder holds more than exports.
        let team = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "team", "namespace": TENANT } });
        for (name, value) in files.iter().chain([&("team.yaml", team)]) {
            std::fs::write(folder.join("audit/exports").join(name), value.to_string())?;
        }
        std::fs::create_dir_all(folder.join("audit/operator"))?;
        std::fs::write(folder.join("audit/operator/operator.yaml"), operator_folder()?)?;
        let archive = self.folder.path().join(format!("{revision}.tar.gz"));
        run("tar", &["-czf", text(&archive)?, "-C", text(&folder)?, "audit"]).await?;
        let revision = format!("main@sha1:{revision}");
        self.flux
            .publish(&self.cluster, "flux-system", "fleet", &revision, &archive)
            .await
    }

    fn export(&self) -> Value {
        june(&self.simulator, TENANT, &self.bucket, self.gateway).export()
    }

    /// Waits until a Flux object has this condition for the revision, and returns its message.
    async fn wait_ready(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        ready_is: &str,
        words: &[&str],
    ) -> Result<()> {
        let mut last = Value::Null;
        let what = format!("{kind}/{name}: Ready is {ready_is}, saying {words:?}");
        let outcome = eventually(&what, async || {
            let args = ["get", kind, name, "-n", namespace, "-o", "json"];
            last = serde_json::from_str(&kubectl(&self.cluster, &args).await?)?;
            let conditions = last["status"]["conditions"].as_array();
            let ready = conditions
                .into_iter()
                .flatten()
                .find(|one| one["type"] == "Ready");
            Ok(ready.is_some_and(|one| {
                let message = one["message"].as_str().unwrap_or_default();
                one["status"] == ready_is
                    && one["observedGeneration"] == last["metadata"]["generation"]
                    && words.iter().all(|word| message.contains(word))
            }))
        })
        .await;
        let log = match kind {
            "helmrelease" => "helm-controller",
            _ => "kustomize-controller",
        };
        outcome.with_context(|| format!("{}\n{}", last["status"], self.flux.log(log)))
    }

    /// Triggers a reconcile, as `flux reconcile` does.
    async fn reconcile(&self) -> Result<()> {
        let now = format!("reconcile.fluxcd.io/requestedAt={}", jiff::Timestamp::now());
        let args = [
            "annotate",
            "kustomization",
            "audit-exports",
            "-n",
            TENANT,
            "--overwrite",
            &now,
        ];
        kubectl(&self.cluster, &args).await.map(drop)
    }

    /// Starts the operator with the rights and arguments of the chart.
    async fn operator(&self) -> Result<Arc<Process>> {
        pod::start(&self.cluster, SYSTEM).await
    }
}

fn example(name: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(file("examples/flux").join(name))?;
    Ok(serde_saphyr::from_multiple(&text)?)
}

/// Returns operator.yaml of the examples, with our artifact instead of a registry.
fn operator_folder() -> Result<String> {
    let mut items = example("operator.yaml")?;
    items.retain(|document| document["kind"] != "OCIRepository");
    for document in &mut items {
        if document["kind"] == "HelmRelease" {
            document["spec"]["chartRef"]["kind"] = json!("ExternalArtifact");
            // No node runs Pods, and all peers are on this machine.
            document["spec"]["values"]["replicaCount"] = json!(0);
            document["spec"]["values"]["allowHosts"] = json!(["127.0.0.1"]);
            document["spec"]["values"]["limits"] = json!({ "sessionQuiet": "1s" });
        }
    }
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())
}

#[tokio::test]
async fn flux_deploys_waits_fails_recovers_and_prunes() -> Result<()> {
    let fleet = FluxFixture::start().await?;
    let cluster = &fleet.cluster;

    // The chart, by the HelmRelease of the example.
    let folder = text(fleet.folder.path())?;
    let helm = program("helm")?;
    run(
        text(&helm)?,
        &["package", text(&file("charts/eventexport"))?, "-d", folder],
    )
    .await?;
    let archive = one_file(fleet.folder.path(), "tgz")?;
    kubectl(cluster, &["create", "namespace", SYSTEM]).await?;
    fleet
        .flux
        .publish(cluster, SYSTEM, "eventexport", "0.1.0", &archive)
        .await?;

    // Both Kustomizations of the example at once. The exports wait for the operator's, because the CRD is in its chart.
    // Then the export stalls because the tracker's Secret is missing.
    kubectl(cluster, &["create", "namespace", TENANT]).await?;
    fleet.secret("bucket", &bucket_keys(fleet.gateway)).await?;
    fleet.commit("1", &[("june.yaml", fleet.export())]).await?;
    fleet.apply_kustomizations().await?;
    fleet
        .wait_ready("helmrelease", SYSTEM, "eventexport", "True", &[])
        .await?;
    let _operator = fleet.operator().await?;
    let stalled = ["stalled resources", "EventExport/audit/june status: 'Failed'"];
    let kustomization = |ready: &'static str, words: &'static [&'static str]| {
        fleet.wait_ready("kustomization", TENANT, "audit-exports", ready, words)
    };
    fleet
        .wait_ready("kustomization", TENANT, "audit-exports", "False", &stalled)
        .await?;

    // After the fix the wait passes by itself, with the export still in progress.
    fleet.secret("tracker", &tracker_keys()).await?;
    kustomization("True", &["main@sha1:1"]).await?;
    let busy = existing(cluster, TENANT, "june").await?;
    ensure!(busy["status"]["windows"]["wanted"] == 5, "{}", busy["status"]);
    wait_conditions(cluster, TENANT, "june", COMPLETE).await?;
    let generation = existing(cluster, TENANT, "june").await?["metadata"]["generation"].clone();

    // Repeated applies find no drift to correct.
    fleet.reconcile().await?;
    kustomization("True", &["main@sha1:1"]).await?;
    ensure!(generation == 1, "something changed the spec: {generation}");

    // It stalls again later; the next reconcile of Flux reports it.
    let more = json!({ "dateRange": { "start": "2018-06-02", "end": "2018-06-07" } });
    let mut widened = fleet.export();
    widened["spec"]["dateRange"] = more["dateRange"].clone();
    kubectl(cluster, &["delete", "secret", "tracker", "-n", TENANT]).await?;
    fleet.commit("2", &[("june.yaml", widened.clone())]).await?;
    fleet
        .wait_ready("kustomization", TENANT, "audit-exports", "False", &stalled)
        .await?;
    fleet.secret("tracker", &tracker_keys()).await?;
    kustomization("True", &["main@sha1:2"]).await?;
    wait_conditions(cluster, TENANT, "june", COMPLETE).await?;

    // A suspended export does not fail the wait, unlike in kstatus.
    let mut suspended = widened.clone();
    suspended["spec"]["suspend"] = json!(true);
    fleet.commit("3", &[("june.yaml", suspended)]).await?;
    kustomization("True", &["main@sha1:3"]).await?;
    let ready = condition(&existing(cluster, TENANT, "june").await?, "Ready");
    ensure!(ready == "False/Suspended", "{ready}");

    // An immutable field stays as it is, with a message, unless the manifest says that the export may be recreated.
    let before = existing(cluster, TENANT, "june").await?;
    let mut moved = widened.clone();
    moved["spec"]["destination"]["s3"]["prefix"] = json!("moved");
    fleet.commit("4", &[("june.yaml", moved.clone())]).await?;
    kustomization("False", &["EventExport/audit/june", "another prefix"]).await?;
    let after = existing(cluster, TENANT, "june").await?;
    ensure!(before["spec"] == after["spec"], "{}", after["spec"]);
    moved["metadata"]["annotations"] = json!({ "kustomize.toolkit.fluxcd.io/force": "enabled" });
    fleet.commit("5", &[("june.yaml", moved)]).await?;
    kustomization("True", &["main@sha1:5"]).await?;
    let recreated = existing(cluster, TENANT, "june").await?;
    ensure!(recreated["metadata"]["uid"] != before["metadata"]["uid"]);
    wait_conditions(cluster, TENANT, "june", COMPLETE).await?;

    // Removed from Git, it is deleted without a leftover session; the data stay.
    fleet.commit("6", &[]).await?;
    kustomization("True", &["main@sha1:6"]).await?;
    wait_gone(cluster, TENANT, "june").await?;
    ensure!(fleet.simulator.open_sessions().is_empty());
    let stored = fleet
        .gateway
        .folder()
        .join("objects")
        .join(&fleet.bucket)
        .join("tracker");
    ensure!(stored.is_dir(), "{} is gone", stored.display());

    // Uninstalling the release removes the operator, but no EventExport.
    fleet.commit("7", &[("june.yaml", widened)]).await?;
    kustomization("True", &["main@sha1:7"]).await?;
    kubectl(
        cluster,
        &[
            "delete",
            "helmrelease",
            "eventexport",
            "-n",
            SYSTEM,
            "--timeout=60s",
        ],
    )
    .await?;
    let left = ["get", "deployment", "-n", SYSTEM, "-o", "name"];
    ensure!(kubectl(cluster, &left).await?.is_empty());
    ensure!(
        get(cluster, TENANT, "june").await?.is_some(),
        "the release took the exports with it"
    );
    Ok(())
}

async fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn one_file(folder: &Path, extension: &str) -> Result<PathBuf> {
    let mut found = std::fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == extension));
    found
        .next()
        .with_context(|| format!("no .{extension} in {}", folder.display()))
}
