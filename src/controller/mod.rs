//! `EventExport` ⇄ engine: observe, decide, act, status, finalizer, leader lease.
//!
//! Pure: [`decide`], [`export_health`], [`status`], [`election`], [`gauges`], [`grants`], [`secrets_in_use`]. With effects: [`reconcile`] and what it calls,
//! [`lease`], and this file, which puts the parts together.

mod act;
mod claim;
mod config;
mod context;
pub mod decide;
pub mod election;
mod entry;
pub mod events;
pub mod export_health;
mod exporter;
mod finalizer;
mod gauges;
pub mod grants;
mod kube_error;
mod lease;
mod metered;
mod reconcile;
mod registry;
mod secret_watch;
mod secrets;
mod secrets_in_use;
pub mod status;
mod status_writer;
mod supervise;
mod watch_stream;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::controller::{self, Controller};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub use claim::{CONTENDER_ANNOTATION, OPERATOR_ANNOTATION};
pub use config::{DEFAULT_CONCURRENCY, DEFAULT_DEBOUNCE, OperatorConfig, WatchConfig};
pub use entry::FINALIZER;
pub use exporter::{EngineExporter, ExportRunner, Exporter, Owner};
pub use lease::LeaseSettings;
pub use status_writer::FIELD_MANAGER;

use crate::api::EventExport;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::ResourceSource;
use context::ReconcileContext;
use events::EventRecorder;
use lease::{Leadership, LeaseCandidate};
use registry::ExportRegistry;

/// How long is kept back of the time until another may lead, for cutting off what has not stopped.
const FENCE_MARGIN: Duration = Duration::from_secs(1);

/// How often the controller gives a sign of life.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Where `kubectl apply` keeps the manifest.
const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How long to wait before the API server is asked again at the start.
const START_RETRY: Duration = Duration::from_secs(2);

/// How long one request may take at the start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the operator until `shutdown`: then exports are stopped, their sessions deleted, and the lease given back.
/// An error: the lease was lost, and everything was stopped before another could lead; or it cannot begin. The
/// process should end then, and be started again.
pub async fn run_operator(
    config: OperatorConfig,
    telemetry: Telemetry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let client = watch_stream::client(config.kubernetes.clone(), config.watch, &config.traffic)
        .context("no client for the Kubernetes API server")?;
    let unfenced = config.traffic.unfenced();
    let lease_client = lease::client(config.kubernetes.clone(), &config.lease.timing, &unfenced)
        .context("no client for the lease at the Kubernetes API server")?;
    let Some(cluster) = cluster_id(&config, &client, &telemetry, &shutdown).await? else {
        return Ok(());
    };
    let host = std::env::var("HOSTNAME").ok();
    let me = lease::identity(host.as_deref());
    let candidate = LeaseCandidate::new(
        lease_client,
        &config.lease,
        me.clone(),
        config.traffic.fence().clone(),
    );
    let Some(leadership) = candidate.acquire(&telemetry.health, &shutdown).await else {
        return Ok(());
    };
    telemetry.metrics.leader.set(1);
    let outcome = run_as_leader(&config, client, cluster, me, &telemetry, &leadership, &shutdown).await;
    telemetry.metrics.leader.set(0);
    telemetry.health.set_ready(false);
    if outcome.is_ok() {
        leadership.resign().await;
        info!("stopped; the lease is given back");
    }
    outcome
}

/// Leads until `shutdown`, or until the lease is lost.
async fn run_as_leader(
    config: &OperatorConfig,
    client: Client,
    cluster: String,
    me: String,
    telemetry: &Telemetry,
    leadership: &Leadership,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let metrics = telemetry.metrics.clone();
    let (registry, woken) = ExportRegistry::new(metrics.clone(), Timestamp::now);
    let context = Arc::new(ReconcileContext {
        client: client.clone(),
        registry: registry.clone(),
        exporter: (config.exporter)(cluster, me.clone()),
        recorder: EventRecorder::new(client.clone(), me, metrics.clone()),
        operator: config.lease.full_name(&client),
        answer_timeout: claim::answer_timeout(&config.lease.timing),
        since: Timestamp::now(),
        metrics: metrics.clone(),
        health: telemetry.health.clone(),
        retention: config.retention,
        now: Timestamp::now,
    });
    let source: Arc<dyn ResourceSource> = registry.clone();
    metrics.resources.set_source(Arc::downgrade(&source));
    let end = CancellationToken::new();
    let _abort_guard = AbortOnDrop(registry.clone());
    let mut controller_task = AbortOnDropHandle::new(tokio::spawn(run_controller(
        config.clone(),
        client.clone(),
        context,
        woken,
        end.clone(),
    )));
    let namespace = config.namespace.clone();
    let secrets = {
        let (registry, times) = (registry.clone(), config.watch);
        AbortOnDropHandle::new(tokio::spawn(async move {
            secret_watch::watch(client, namespace.as_deref(), times, registry).await;
        }))
    };
    let lost = tokio::select! {
        () = shutdown.cancelled() => false,
        () = leadership.lost().cancelled() => true,
        // It ends only when it is told to.
        ended = &mut controller_task => {
            registry.stop_all(config.shutdown_timeout).await;
            bail!("a defect: the controller ended by itself ({ended:?}); report it with the lines above")
        }
    };
    telemetry.health.stop_heartbeat();
    telemetry.health.set_ready(false);
    // First no new work, then the end of what is under way.
    end.cancel();
    secrets.abort();
    controller_task.abort();
    let limit = if lost {
        leadership.time_left().saturating_sub(FENCE_MARGIN)
    } else {
        config.shutdown_timeout
    };
    info!(?limit, lost, "stopping exports and deleting their sessions");
    tokio::select! {
        () = registry.stop_all(limit) => {}
        // Stopping takes longer than a lease: it may be lost only now.
        () = leadership.lost().cancelled(), if !lost => {
            registry.stop_all(leadership.time_left().saturating_sub(FENCE_MARGIN)).await;
            bail!("the lease was lost while exports were being stopped");
        }
    }
    if lost {
        bail!("the lease was lost: all exports are stopped, and another process may lead");
    }
    Ok(())
}

/// Whoever drops the future of [`run_operator`] leaves no work behind that nobody leads.
struct AbortOnDrop(Arc<ExportRegistry>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort_all();
    }
}

/// Looks at every resource when it changes, when it is due, and when its work has something to say.
async fn run_controller(
    config: OperatorConfig,
    client: Client,
    context: Arc<ReconcileContext>,
    woken: mpsc::Receiver<reflector::ObjectRef<EventExport>>,
    end: CancellationToken,
) {
    let api: Api<EventExport> = match &config.namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let (reader, writer) = reflector::store();
    let existing = Mutex::new(HashSet::new());
    let registry = context.registry.clone();
    let objects = watch_stream::watch_stream(api, watcher::Config::default(), config.watch)
        .default_backoff()
        .modify(strip)
        .inspect(move |event| match event {
            Ok(event) => sync_registry(&registry, &existing, event),
            Err(error) => {
                let error = kube_error::describe_watch_error(error);
                warn!(
                    error,
                    "EventExports cannot be watched (is crds/ applied?); trying again"
                );
            }
        })
        .reflect(writer)
        .applied_objects();
    let settings = controller::Config::default()
        .concurrency(config.concurrency)
        .debounce(config.debounce);
    let woken = stream::unfold(woken, |mut woken| async {
        woken.recv().await.map(|object| (Some(object), woken))
    });
    // Polled by the controller like everything that wakes it, so that it gives its sign of life only while it goes
    // round. While all places for looks are taken it may not: then the looks are watched.
    let health = context.health.clone();
    let heartbeat = stream::unfold(tokio::time::interval(HEARTBEAT_INTERVAL), move |mut interval| {
        let health = health.clone();
        async move {
            interval.tick().await;
            health.controller_heartbeat(HEARTBEAT_INTERVAL + reconcile::RECONCILE_TIMEOUT);
            Some((None, interval))
        }
    });
    let woken = stream::select(woken, heartbeat).filter_map(std::future::ready);
    Controller::for_stream(objects, reader)
        .with_config(settings)
        .reconcile_on(woken)
        .graceful_shutdown_on(end.cancelled_owned())
        .run(reconcile::reconcile, reconcile::error_policy, context)
        // What failed was logged, and the watch logs its own errors.
        .for_each(|_| std::future::ready(()))
        .await;
}

/// Takes away what is of no use here: most of a resource's bytes.
fn strip(object: &mut EventExport) {
    object.metadata.managed_fields = None;
    let annotations = object.metadata.annotations.as_mut();
    annotations.and_then(|annotations| annotations.remove(LAST_APPLIED_ANNOTATION));
}

/// What is deleted is forgotten, also what was deleted while nobody watched.
fn sync_registry(registry: &ExportRegistry, existing: &Mutex<HashSet<String>>, event: &Event<EventExport>) {
    let mut existing = existing.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::Init => existing.clear(),
        Event::InitApply(object) => existing.extend(object.uid()),
        Event::InitDone => registry.retain_only(&std::mem::take(&mut *existing)),
        Event::Apply(object) => registry.replace_recreated(object),
        Event::Delete(object) => registry.remove(&object.uid().unwrap_or_default()),
    }
}

/// What tells this cluster from others, in the journals of buckets: asked until it is known or `shutdown`.
async fn cluster_id(
    config: &OperatorConfig,
    client: &Client,
    telemetry: &Telemetry,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<String>> {
    if let Some(cluster) = &config.cluster {
        return Ok(Some(cluster.clone()));
    }
    let api: Api<Namespace> = Api::all(client.clone());
    loop {
        telemetry.health.heartbeat();
        let asked = tokio::time::timeout(START_TIMEOUT, api.get("kube-system")).await;
        match asked {
            Ok(Ok(namespace)) => {
                return namespace
                    .uid()
                    .map(Some)
                    .context("the namespace kube-system has no UID");
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403 | 404) => bail!(
                "the UID of the namespace kube-system, which names this cluster in journals, cannot be read: {} ({}); \
                 grant `get` on it, or name the cluster with --cluster-id",
                status.message,
                status.code
            ),
            Ok(Err(error)) => warn!(
                error = kube_error::describe_error(&error),
                "the API server does not answer; trying again"
            ),
            Err(_) => warn!("the API server does not answer in time; trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(START_RETRY) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}
