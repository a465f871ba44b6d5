//! Lifecycle of a release: real helm installs the chart, and the operator runs with the rights, arguments and
//! environment of its Pods. No helm operation loses an EventExport or stored data.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use eventexport::simulator::{RequestKind, Simulator};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::helm::{CHART, Helm};
use super::{apply, condition, event_reasons, eventually, get, kubectl, patch, pod, rbac, wait_conditions};
use crate::bed::{Cluster, Gateway};
use crate::testkit::environment::{COMPLETE, STOP_LIMIT, june, simulator};
use crate::testkit::process::Process;

const NAMESPACE: &str = "eventexport-system";
const DEFINITION: &str = "eventexports.eventexport.io";

/// Cluster with a release of the chart, and an export in its own namespace.
struct ChartFixture {
    cluster: Cluster,
    helm: Helm,
    simulator: Simulator,
    /// Older version of the chart.
    previous: TempDir,
}

impl ChartFixture {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let helm = Helm::new(&cluster)?;
        let simulator = simulator().await?;
        let gateway = Gateway::shared().await;
        gateway.create_bucket("released").await?;
        for name in [NAMESPACE, "audit"] {
            kubectl(&cluster, &["create", "namespace", name]).await?;
        }
        let authorities = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": "audit", "name": "authorities" },
            "data": { "ca.crt": std::fs::read_to_string(cluster.ca_path())? },
        });
        apply(&cluster, &authorities).await?;
        let export = june(&simulator, "audit", "released", gateway);
        let export = export.set("source.caConfigMapRef.name", "authorities");
        for document in &export.documents() {
            apply(&cluster, document).await?;
        }
        let previous = previous_chart()?;
        Ok(Self {
            cluster,
            helm,
            simulator,
            previous,
        })
    }

    /// Runs `helm install` or `helm upgrade` with the values of the test's operator.
    async fn helm(&self, verb: &str, release: &str, chart: &Path, more: &[&str]) -> Result<String> {
        let chart = chart.display().to_string();
        let args = [
            verb,
            release,
            &chart,
            "--namespace",
            NAMESPACE,
            "--set",
            "image.repository=registry.example.com/eventexport,allowHosts={127.0.0.1}",
        ];
        self.helm.run(&[&args, more].concat()).await
    }

    async fn uninstall(&self, release: &str) -> Result<String> {
        let args = [
            "uninstall",
            release,
            "--namespace",
            NAMESPACE,
            "--wait",
            "--timeout=60s",
        ];
        self.helm.run(&args).await
    }

    async fn operator(&self) -> Result<Arc<Process>> {
        pod::start(&self.cluster, NAMESPACE).await
    }

    /// Waits until the export is complete without a restart; returns its UID and coverage.
    async fn wait_complete(&self) -> Result<(Value, Value)> {
        let export = wait_conditions(&self.cluster, "audit", "june", COMPLETE).await?;
        Ok((
            export["metadata"]["uid"].clone(),
            export["status"]["covered"].clone(),
        ))
    }

    /// True if the CRD is the older one.
    async fn definition_is_previous(&self) -> Result<bool> {
        let text = kubectl(&self.cluster, &["get", "crd", DEFINITION, "-o", "json"]).await?;
        Ok(!text.contains(REASON_COLUMN))
    }

    fn downloads(&self) -> u64 {
        self.simulator.ledger().requests_of(RequestKind::Download)
    }

    /// Returns the answer of `kubectl auth can-i` for this user in the namespace of the export.
    async fn may(&self, who: &str, verb: &str, what: &str) -> bool {
        // kubectl treats a part after a slash as a name.
        let (resource, part) = what.split_once('/').unwrap_or((what, ""));
        let part = format!("--subresource={part}");
        let args = ["auth", "can-i", verb, resource, &part, "-n", "audit", "--as", who];
        self.cluster.kubectl(&args, None).await.status.success()
    }
}

/// Description that only the current CRD has.
const REASON_COLUMN: &str = "Reason of the condition Ready";

/// Returns a chart as an older version might have been: another version number, and a CRD with one column less.
fn previous_chart() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let copied = std::process::Command::new("cp")
        .arg("-R")
        .arg(format!("{CHART}/."))
        .arg(folder.path())
        .status()?;
    ensure!(copied.success(), "cp: {copied}");
    let rewrite = |name: &str, change: &dyn Fn(&str) -> Result<String>| -> Result<()> {
        let path = folder.path().join(name);
        fs::write(&path, change(&fs::read_to_string(&path)?)?)?;
        Ok(())
    };
    rewrite("Chart.yaml", &|text| {
        Ok(text
            .replace("\nversion: ", "\nversion: 0.0.1 # ")
            .replace("\nappVersion: ", "\nappVersion: 0.0.1 # "))
    })?;
    rewrite("files/crds/eventexports.yaml", &|text| {
        let column = format!("    - description: {REASON_COLUMN}\n");
        let (before, rest) = text.split_once(&column).context("no such column")?;
        let (_, after) = rest.split_once("    - ").context("no column behind it")?;
        Ok(format!("{before}    - {after}"))
    })?;
    Ok(folder)
}

#[tokio::test]
async fn a_release_is_upgraded_rolled_back_and_uninstalled_and_nothing_is_lost() -> Result<()> {
    let fixture = ChartFixture::start().await?;
    let (cluster, current) = (&fixture.cluster, Path::new(CHART));

    // The CRD exists and does not belong to helm, which refuses to adopt it.
    let Err(error) = fixture
        .helm("install", "eventexport", fixture.previous.path(), &[])
        .await
    else {
        bail!("a definition of others was taken over");
    };
    ensure!(error.to_string().contains("ownership"), "{error}");
    fixture
        .helm(
            "install",
            "eventexport",
            fixture.previous.path(),
            &["--take-ownership", "--force-conflicts"],
        )
        .await?;
    ensure!(fixture.definition_is_previous().await?);

    // For all namespaces with the rights of the chart: an export in another namespace completes.
    let operator = fixture.operator().await?;
    let (uid, covered) = fixture.wait_complete().await?;
    let downloads = fixture.downloads();
    // Repeated, so that the right to count repetitions of Events is used.
    for suspend in [true, false, true, false] {
        patch(
            cluster,
            "audit",
            "june",
            &json!({ "spec": { "suspend": suspend } }),
        )
        .await?;
        let ready = if suspend {
            "False/Suspended"
        } else {
            "True/Complete"
        };
        wait_conditions(cluster, "audit", "june", [ready, "", "", ""]).await?;
        // Suspending changes nothing in the archive.
        let export = get(cluster, "audit", "june").await?.context("it is gone")?;
        ensure!(condition(&export, "Complete") == "True/Complete");
    }
    ensure!(
        event_reasons(cluster, "audit", "june")
            .await?
            .contains(&"Suspended".to_owned())
    );
    ensure!(operator.stop(STOP_LIMIT).await?, "it did not stop well");
    let unused = rbac::unused(cluster, NAMESPACE).await?;
    ensure!(unused.is_empty(), "granted and never used: {unused:?}");

    // Upgrade to a release that may read only named Secrets.
    fixture
        .helm(
            "upgrade",
            "eventexport",
            current,
            &["--set", "rbac.secretNames={tracker,bucket}"],
        )
        .await?;
    ensure!(!fixture.definition_is_previous().await?);
    let operator = fixture.operator().await?;
    patch(cluster, "audit", "june", &json!({ "spec": { "parallelism": 2 } })).await?;
    eventually("the new process has acted upon the new generation", async || {
        let export = get(cluster, "audit", "june").await?.context("it is gone")?;
        Ok(export["status"]["observedGeneration"] == export["metadata"]["generation"])
    })
    .await?;
    ensure!(fixture.wait_complete().await? == (uid.clone(), covered.clone()));
    ensure!(operator.stop(STOP_LIMIT).await?, "it did not stop well");
    let lines = operator.lines();
    let watches = lines.iter().any(|line| {
        line["message"]
            .as_str()
            .unwrap_or_default()
            .contains("watch Secrets")
    });
    ensure!(!watches, "it tries to watch Secrets: {lines:?}");

    people_have_the_rights_of_their_roles(&fixture).await?;

    let args = ["rollback", "eventexport", "1", "--namespace", NAMESPACE];
    fixture.helm.run(&args).await?;
    ensure!(fixture.definition_is_previous().await?);
    ensure!(fixture.wait_complete().await? == (uid.clone(), covered.clone()));

    // After the uninstallation only objects that nobody asked to delete are left.
    fixture.uninstall("eventexport").await?;
    let leftovers = [
        "get",
        "deployment,configmap,service,serviceaccount,role,rolebinding,clusterrole,clusterrolebinding,poddisruptionbudget,crd",
        "--all-namespaces",
        "-l",
        "app.kubernetes.io/instance=eventexport",
        "-o",
        "name",
    ];
    let left = kubectl(cluster, &leftovers).await?;
    ensure!(
        left.trim() == format!("customresourcedefinition.apiextensions.k8s.io/{DEFINITION}"),
        "{left}"
    );
    ensure!(fixture.wait_complete().await? == (uid.clone(), covered.clone()));

    // The same release adopts its leftovers and sends no request to the service.
    fixture.helm("install", "eventexport", current, &[]).await?;
    ensure!(!fixture.definition_is_previous().await?);
    let operator = fixture.operator().await?;
    patch(
        cluster,
        "audit",
        "june",
        &json!({ "status": null, "spec": { "parallelism": 3 } }),
    )
    .await?;
    eventually("the reinstalled operator has acted", async || {
        let export = get(cluster, "audit", "june").await?.context("it is gone")?;
        Ok(export["status"]["observedGeneration"] == export["metadata"]["generation"])
    })
    .await?;
    ensure!(fixture.wait_complete().await? == (uid.clone(), covered));
    ensure!(
        fixture.downloads() == downloads,
        "what is stored was downloaded again"
    );
    ensure!(operator.stop(STOP_LIMIT).await?, "it did not stop well");
    fixture.uninstall("eventexport").await?;

    // A release with another name must adopt them explicitly.
    let Err(error) = fixture.helm("install", "other", current, &[]).await else {
        bail!("a definition of another release was taken over");
    };
    ensure!(error.to_string().contains("ownership"), "{error}");
    let take = ["--take-ownership", "--set", "crds.keep=false"];
    fixture.helm("install", "other", current, &take).await?;
    ensure!(get(cluster, "audit", "june").await?.context("it is gone")?["metadata"]["uid"] == uid);

    // If requested, helm deletes the CRD.
    fixture.uninstall("other").await?;
    let gone = kubectl(
        cluster,
        &["get", "crd", DEFINITION, "--ignore-not-found", "-o", "name"],
    )
    .await?;
    ensure!(gone.trim().is_empty(), "{gone}");
    Ok(())
}

/// Checks the aggregated roles: users may do with exports what they may do with other resources.
async fn people_have_the_rights_of_their_roles(fixture: &ChartFixture) -> Result<()> {
    for role in ["view", "edit", "admin"] {
        let (clusterrole, user) = (format!("--clusterrole={role}"), format!("--user={role}er"));
        kubectl(
            &fixture.cluster,
            &["create", "rolebinding", role, "-n", "audit", &clusterrole, &user],
        )
        .await?;
    }
    eventually("the roles are put together", async || {
        Ok(fixture.may("viewer", "get", "eventexports").await
            && fixture.may("editer", "create", "eventexports").await
            && fixture.may("adminer", "delete", "eventexports").await)
    })
    .await?;
    ensure!(!fixture.may("viewer", "create", "eventexports").await);
    ensure!(!fixture.may("editer", "patch", "eventexports/status").await);
    Ok(())
}
