//! `eventexport operator` as processes, with the real API server, a real S3 store and the simulator, and wiretaps on
//! the connections to service and store.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{apply, eventually};
use crate::bed::{Cluster, Gateway, Wiretap, http_client};

const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";

/// Lease that is short enough for tests and long enough for a busy machine.
pub(crate) const SHORT_LEASE: [&str; 6] = [
    "--lease-duration",
    "6s",
    "--lease-deadline",
    "4s",
    "--lease-renew",
    "1s",
];

/// One namespace with its service and bucket.
pub(crate) struct OperatorFixture {
    pub(crate) cluster: &'static Cluster,
    pub(crate) simulator: Simulator,
    pub(crate) namespace: String,
    pub(crate) tracker: Wiretap,
    pub(crate) store: Wiretap,
    /// Namespace of the operators' lease: this one, unless a test deletes it.
    pub(crate) lease_namespace: String,
}

impl OperatorFixture {
    pub(crate) async fn start(name: &str, settings: Settings) -> Result<Self> {
        let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
        let namespace = cluster.namespace(name).await;
        gateway.create_bucket(&namespace).await?;
        let simulator = Simulator::start(settings).await?;
        let port = simulator.url().port().context("the simulator has no port")?;
        let tracker = Wiretap::start(port).await?;
        let endpoint = gateway.endpoint();
        let (_, port) = endpoint.rsplit_once(':').context("the gateway has no port")?;
        let store = Wiretap::start(port.parse()?).await?;
        let fixture = Self {
            cluster,
            simulator,
            lease_namespace: namespace.clone(),
            namespace,
            tracker,
            store,
        };
        fixture
            .secret("tracker", &json!({ "apiKey": DEFAULT_API_KEY }))
            .await?;
        let (key, hidden) = (gateway.access_key(), gateway.secret_key());
        fixture
            .secret(
                "bucket",
                &json!({ "accessKeyId": key, "secretAccessKey": hidden }),
            )
            .await?;
        Ok(fixture)
    }

    async fn secret(&self, name: &str, data: &Value) -> Result<()> {
        let metadata = json!({ "namespace": self.namespace, "name": name });
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data });
        apply(self.cluster, &secret).await
    }

    /// Creates an export of these days; `change` is merged into its spec.
    pub(crate) async fn export(&self, name: &str, days: [&str; 2], change: &Value) -> Result<()> {
        let mut range = json!({ "start": days[0] });
        if !days[1].is_empty() {
            range["end"] = days[1].into();
        }
        let mut spec = json!({
            "space": SPACE,
            "dateRange": range,
            "source": {
                "endpoint": self.tracker.url(), "uaaEndpoint": self.tracker.url(),
                "credentialsSecretRef": { "name": "tracker" },
            },
            "destination": { "s3": {
                "bucket": self.namespace, "prefix": name, "endpoint": self.store.url(),
                "credentialsSecretRef": { "name": "bucket" },
            }},
        });
        for (field, value) in change.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let export = json!({
            "apiVersion": "eventexport.io/v1alpha1",
            "kind": "EventExport",
            "metadata": { "namespace": self.namespace, "name": name },
            "spec": spec,
        });
        apply(self.cluster, &export).await
    }

    /// Starts an operator of this namespace with additional arguments and variables.
    pub(crate) async fn operator(&self, args: &[&str], env: &[(&str, &str)]) -> Result<OperatorProcess> {
        self.operator_with(&self.cluster.kubeconfig_path(), args, env)
            .await
    }

    /// Starts an operator that uses this kubeconfig.
    pub(crate) async fn operator_with(
        &self,
        kubeconfig: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<OperatorProcess> {
        let own = ["--namespace", &self.namespace];
        let name = format!("eventexport-{}", self.namespace);
        let lease = ["--lease-namespace", &self.lease_namespace, "--lease-name", &name];
        let quiet = ["--session-quiet", "1s"];
        let args = [&own[..], &lease, &quiet, args].concat();
        operator(kubeconfig, &args, env, [&self.tracker, &self.store]).await
    }
}

/// Starts an operator that uses this kubeconfig and is watched by these wiretaps.
pub(crate) async fn operator(
    kubeconfig: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    taps: [&Wiretap; 2],
) -> Result<OperatorProcess> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_eventexport"))
        .arg("operator")
        .args(["--allow-host", "127.0.0.1", "--metrics-listen", "127.0.0.1:0"])
        .args(["--log-format", "json", "--kubeconfig"])
        .arg(kubeconfig)
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let errors = child.stderr.take().context("it has no standard error")?;
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let kept = lines.clone();
    tokio::spawn(async move {
        let mut errors = BufReader::new(errors).lines();
        while let Ok(Some(line)) = errors.next_line().await {
            // Shown if the test fails.
            eprintln!("{line}");
            kept.lock().unwrap().push(line);
        }
    });
    let mut process = OperatorProcess {
        id: child.id().context("it ended at once")?,
        child,
        lines,
        address: String::new(),
    };
    for tap in taps {
        tap.watch(process.id);
    }
    eventually("it says where it can be watched", async || {
        let lines = process.lines();
        let address = lines.iter().find_map(|line| line["address"].as_str());
        Ok(address.is_some())
    })
    .await?;
    let lines = process.lines();
    let address = lines.iter().find_map(|line| line["address"].as_str());
    address.unwrap_or_default().clone_into(&mut process.address);
    Ok(process)
}

/// Running operator.
pub(crate) struct OperatorProcess {
    pub(crate) id: u32,
    pub(crate) child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Address of the metrics and health endpoints.
    pub(crate) address: String,
}

impl OperatorProcess {
    /// Returns the log lines that are JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = http_client()?
            .get(format!("http://{}{path}", self.address))
            .timeout(Duration::from_secs(5))
            .send()
            .await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    pub(crate) async fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics").await?.1)
    }

    pub(crate) async fn leads(&self) -> bool {
        let metrics = self.metrics().await.unwrap_or_default();
        metrics.contains("\neventexport_leader 1\n")
    }

    pub(crate) async fn signal(&self, signal: &str) -> Result<()> {
        let id = self.id.to_string();
        let kill = Command::new("kill").args([signal, &id]).status().await?;
        ensure!(kill.success(), "kill {signal}: {kill}");
        Ok(())
    }
}
