//! The operator on a real API server with real controllers. Its exports are scripted, so that each test gets exactly
//! its problem.

// Needed outside of `#[test]` functions: fixtures panic, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod access_files;
mod blind;
mod chart;
mod deletion;
pub(crate) mod end_to_end;
mod handover;
mod helm;
mod kubectl_output;
mod late_events;
mod leader_election;
mod lifecycle;
mod look_now;
mod manifests;
mod monitoring;
mod older_definition;
mod own_identity;
mod plugin;
pub(crate) mod pod;
mod rbac;
mod report;
pub(crate) mod scripted_exporter;
mod signing;
mod tenant_identity;
pub(crate) mod traces;
mod verification;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::controller::access_files::{AccessFiles, AccessSettings};
use eventexport::controller::election::LeaseTiming;
use eventexport::controller::watch_scope::{LabelQuery, WatchScope};
use eventexport::controller::{
    AccessConfig, DEFAULT_CONCURRENCY, DEFAULT_DEBOUNCE, Exporter, LeaseSettings, OperatorConfig,
    WatchConfig, run_operator,
};
use eventexport::egress::Traffic;
use eventexport::telemetry::{Health, Metrics, Telemetry};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::scripted_exporter::ScriptedExporter;
use crate::bed::Cluster;
use crate::testkit::manifest::Manifest;

/// Generous, because a machine that also compiles is slow.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

/// Heartbeat timeout: shorter than the default, and generous for a machine that also compiles.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(8);

/// Operator in this process, for one namespace.
pub(crate) struct Operator {
    exporter: Arc<ScriptedExporter>,
    metrics: Metrics,
    health: Health,
    shutdown: CancellationToken,
    task: JoinHandle<Result<()>>,
    /// Separate runtime, so that it can be killed completely.
    runtime: Option<Runtime>,
}

impl Operator {
    pub(crate) async fn start(cluster: &Cluster, namespace: &str) -> Result<Self> {
        Self::start_with(cluster, namespace, Arc::default()).await
    }

    pub(crate) async fn start_with(
        cluster: &Cluster,
        namespace: &str,
        exporter: Arc<ScriptedExporter>,
    ) -> Result<Self> {
        let kubernetes = cluster.client_config().await?;
        Self::start_watching(kubernetes, namespace, exporter, WatchConfig::default())
    }

    /// Starts an operator with this API server address and these watch settings.
    pub(crate) fn start_watching(
        kubernetes: kube::Config,
        namespace: &str,
        exporter: Arc<ScriptedExporter>,
        watch: WatchConfig,
    ) -> Result<Self> {
        let timing = LeaseTiming {
            duration: Duration::from_secs(5),
            deadline: Duration::from_secs(3),
            renew: Duration::from_secs(1),
        };
        let exports = exporter.clone();
        let access = AccessFiles::load(AccessSettings::default())?;
        let config = OperatorConfig {
            kubernetes,
            scope: WatchScope::new([namespace.to_owned()], [], LabelQuery::default())?,
            lease: LeaseSettings {
                name: format!("lease-{namespace}"),
                namespace: Some("default".to_owned()),
                timing: timing.checked()?,
            },
            concurrency: DEFAULT_CONCURRENCY,
            debounce: DEFAULT_DEBOUNCE,
            watch,
            watch_secrets: true,
            shutdown_timeout: Duration::from_secs(5),
            exporter: Arc::new(move |_client, _cluster, _process| -> Arc<dyn Exporter> { exports.clone() }),
            access: AccessConfig {
                policy: access.0,
                files: access.1,
                interval: Duration::from_secs(10),
            },
            traffic: Traffic::default(),
            retention_days: None,
            cluster: None,
        };
        let metrics = Metrics::default();
        let health = Health::new(HEARTBEAT_TIMEOUT);
        let telemetry = Telemetry {
            health: health.clone(),
            metrics: metrics.clone(),
        };
        let shutdown = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let task = runtime.spawn(run_operator(config, telemetry, shutdown.clone()));
        Ok(Self {
            exporter,
            metrics,
            health,
            shutdown,
            task,
            runtime: Some(runtime),
        })
    }

    fn leads(&self) -> bool {
        self.metrics.leader.get() == 1
    }

    /// Stops it, as SIGTERM does.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.shutdown.cancel();
        (&mut self.task).await?
    }

    /// Waits until it exits by itself.
    async fn wait_exit(mut self) -> Result<()> {
        let ended = tokio::time::timeout(TIMEOUT, &mut self.task).await;
        ended.context("it goes on")??
    }

    /// Ends it, as `kill -9` does.
    fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    eventually_within(TIMEOUT, what, holds).await
}

/// Waits for that time until the condition holds.
pub(crate) async fn eventually_within(
    limit: Duration,
    what: &str,
    mut holds: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let last = holds().await;
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if start.elapsed() > limit {
            last.with_context(|| format!("not within {limit:?}: {what}"))?;
            anyhow::bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns a manifest; the script of its space decides its behavior.
pub(crate) fn manifest(namespace: &str, name: &str, space: &str) -> Value {
    Manifest::new(name, "http://127.0.0.1:1")
        .namespace(namespace)
        .set("space", space)
        .set("destination.s3.credentialsSecretRef.name", "tracker")
        .export()
}

pub(crate) fn secret(namespace: &str, value: &str) -> Value {
    crate::testkit::manifest::secret(namespace, "tracker", &json!({ "apiKey": value }))
}

pub(crate) async fn apply(cluster: &Cluster, manifest: &Value) -> Result<()> {
    let output = cluster
        .kubectl(&["apply", "-f", "-"], Some(&manifest.to_string()))
        .await;
    output.success().map(drop)
}

/// Deletes an export without waiting for its end.
pub(crate) async fn start_deletion(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let delete = ["delete", "eventexport", name, "-n", namespace, "--wait=false"];
    kubectl(cluster, &delete).await.map(drop)
}

/// Waits until an export is gone.
pub(crate) async fn wait_gone(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    eventually(&format!("{namespace}/{name} is gone"), async || {
        Ok(get(cluster, namespace, name).await?.is_none())
    })
    .await
}

/// Returns `None` if it does not exist.
pub(crate) async fn get(cluster: &Cluster, namespace: &str, name: &str) -> Result<Option<Value>> {
    let exports = "/apis/eventexport.io/v1alpha1/namespaces";
    cluster
        .get(&format!("{exports}/{namespace}/eventexports/{name}"))
        .await
}

/// Returns an export that exists.
pub(crate) async fn existing(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value> {
    let found = get(cluster, namespace, name).await?;
    found.with_context(|| format!("{namespace}/{name} is gone"))
}

/// Returns the Events that match a field selector.
pub(crate) async fn events(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events?fieldSelector={selector}");
    let list = cluster.get(&path).await?.context("no list")?;
    Ok(list["items"].as_array().context("no items")?.clone())
}

/// Returns a condition of an object; null if it has none of this type.
pub(crate) fn find_condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|one| one["type"] == kind);
    found.unwrap_or(&Value::Null)
}

/// Formats a condition as `True/Reason`.
pub(crate) fn condition(object: &Value, kind: &str) -> String {
    let found = find_condition(object, kind);
    let text = |field: &str| found[field].as_str().unwrap_or("-");
    format!("{}/{}", text("status"), text("reason"))
}

/// Returns the message of a condition.
pub(crate) fn message(object: &Value, kind: &str) -> String {
    let message = &find_condition(object, kind)["message"];
    message.as_str().unwrap_or_default().to_owned()
}

/// Waits for these conditions `Ready`, `Complete`, `Reconciling` and `Stalled`, in the format of [`condition`]; an
/// empty text matches any.
pub(crate) async fn wait_conditions(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    wanted: [&str; 4],
) -> Result<Value> {
    wait_conditions_within(TIMEOUT, cluster, [namespace, name], wanted).await
}

/// Waits for that time for these conditions of an export.
pub(crate) async fn wait_conditions_within(
    limit: Duration,
    cluster: &Cluster,
    [namespace, name]: [&str; 2],
    wanted: [&str; 4],
) -> Result<Value> {
    let mut last = Value::Null;
    let what = format!("{namespace}/{name} becomes {wanted:?}");
    let outcome = eventually_within(limit, &what, async || {
        last = existing(cluster, namespace, name).await?;
        let kinds = ["Ready", "Complete", "Reconciling", "Stalled"];
        Ok(kinds
            .iter()
            .zip(wanted)
            .all(|(kind, wanted)| condition(&last, kind).starts_with(wanted)))
    })
    .await;
    outcome.with_context(|| format!("last seen: {}", last["status"]))?;
    Ok(last)
}

pub(crate) fn has_finalizer(object: &Value) -> bool {
    let names = object["metadata"]["finalizers"].as_array();
    names
        .into_iter()
        .flatten()
        .any(|name| name == eventexport::controller::FINALIZER)
}

pub(crate) async fn kubectl(cluster: &Cluster, args: &[&str]) -> Result<String> {
    cluster.kubectl(args, None).await.success()
}

/// Returns the reasons of the Events about a resource.
pub(crate) async fn event_reasons(cluster: &Cluster, namespace: &str, name: &str) -> Result<Vec<String>> {
    let found = events(cluster, namespace, &format!("regarding.name={name}")).await?;
    Ok(found
        .iter()
        .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
        .collect())
}

pub(crate) async fn patch(cluster: &Cluster, namespace: &str, name: &str, patch: &Value) -> Result<()> {
    let patch = ["--type=merge", "-p", &patch.to_string()];
    let export = ["patch", "eventexport", name, "-n", namespace];
    kubectl(cluster, &[&export[..], &patch].concat()).await.map(drop)
}

/// Patches only the status, as another controller or a person may.
pub(crate) async fn patch_status(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    patch: &Value,
) -> Result<()> {
    let patch = ["--subresource=status", "--type=merge", "-p", &patch.to_string()];
    let export = ["patch", "eventexport", name, "-n", namespace];
    kubectl(cluster, &[&export[..], &patch].concat()).await.map(drop)
}

/// Sets an annotation of an export, `name=value`.
pub(crate) async fn annotate(cluster: &Cluster, namespace: &str, name: &str, annotation: &str) -> Result<()> {
    let export = ["annotate", "eventexport", name, "-n", namespace];
    let annotation = ["--overwrite", annotation];
    kubectl(cluster, &[&export[..], &annotation].concat())
        .await
        .map(drop)
}

fn ensure_contains(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "{part:?} is not in {text:?}");
    }
    Ok(())
}
