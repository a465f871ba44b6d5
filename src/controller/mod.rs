//! Controller of `EventExport` resources: observe, decide, act, write the status, with finalizer and leader election.
//!
//! Pure: [`access`], [`decide`], [`export_health`], [`status`], [`election`], [`watch_scope`], `gauges`, [`grants`],
//! `secrets_in_use`, `work_queue`. With effects: `reconcile_loop`, `reconcile` and its callees, `runs`, `lease`, [`installations`],
//! `verification`, and this file, which starts and stops the parts.

pub mod access;
pub mod access_files;
mod access_watch;
mod act;
mod config;
mod context;
pub mod decide;
pub mod election;
mod entry;
pub mod events;
mod export_cache;
pub mod export_health;
mod export_name;
mod export_watch;
mod exporter;
mod finalizer;
mod gauges;
pub mod grants;
mod head_status;
mod in_place;
pub mod installations;
mod kube_error;
mod lease;
mod look_request;
mod metered;
mod reconcile;
mod reconcile_loop;
mod registry;
mod runs;
mod secret_watch;
mod secrets;
mod secrets_in_use;
mod service_account;
mod shutdown;
mod start_phase;
mod start_places;
pub mod status;
mod status_values;
mod status_writer;
mod verification;
pub mod watch_scope;
mod watch_stream;
mod work_queue;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub use access_watch::AccessConfig;
pub use config::{DEFAULT_CONCURRENCY, DEFAULT_DEBOUNCE, OperatorConfig, WatchConfig};
pub use entry::FINALIZER;
pub use exporter::{EngineExporter, ExportRunner, Exporter, OpenedArchive, Owner};
pub use lease::LeaseSettings;
pub use look_request::REQUEST_ANNOTATIONS;
pub use status_writer::FIELD_MANAGER;

use crate::telemetry::Telemetry;
use crate::telemetry::metrics::ResourceSource;
use access_watch::AccessWatch;
use context::ReconcileContext;
use events::EventRecorder;
use export_cache::ExportCache;
use export_name::ExportName;
use installations::{Installation, Installations, LeaseWatch};
use lease::{Leadership, LeaseCandidate};
use reconcile_loop::LoopSettings;
use registry::ExportRegistry;
use runs::{RunEvent, Runs};

/// Margin before another process may lead, in which the remaining tasks are aborted.
const FENCE_MARGIN: Duration = Duration::from_secs(1);

/// Delay between requests to the API server at startup.
const START_RETRY: Duration = Duration::from_secs(2);

/// Timeout of a request to the API server at startup.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the operator until `shutdown`, then stops exports, deletes their sessions and releases the lease.
///
/// Fails if it cannot start, or if it loses the lease: then all exports are stopped before another process can lead.
/// The process should exit then, and be restarted.
pub async fn run_operator(
    config: OperatorConfig,
    telemetry: Telemetry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let client = watch_stream::client(config.kubernetes.clone(), config.watch, &config.traffic)
        .context("cannot create a client for the Kubernetes API server")?;
    let unfenced = config.traffic.unfenced();
    let lease_client = lease::client(config.kubernetes.clone(), &config.lease.timing, &unfenced)
        .context("cannot create a client for the Lease at the Kubernetes API server")?;
    let Some(cluster) = cluster_id(&config, &client, &telemetry, &shutdown).await? else {
        return Ok(());
    };
    for flag in config.access.files.flags() {
        telemetry.metrics.access_file(flag, true);
    }
    let host = std::env::var("HOSTNAME").ok();
    let me = lease::identity(host.as_deref());
    let candidate = LeaseCandidate::new(
        lease_client,
        &config.lease,
        &config.scope,
        me.clone(),
        config.traffic.fence().clone(),
    );
    let Some(leadership) = candidate.acquire(&telemetry.health, &shutdown).await else {
        return Ok(());
    };
    telemetry.metrics.leader.set(1);
    let outcome = run_as_leader(&config, client, cluster, me, &telemetry, &leadership, &shutdown).await;
    telemetry.metrics.leader.set(0);
    telemetry.metrics.view.end();
    telemetry.health.set_ready(false);
    if outcome.is_ok() {
        leadership.resign().await;
        info!("operator stopped, lease released");
    }
    outcome
}

/// Runs the controller until `shutdown`, or until the lease is lost.
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
    let (registry, woken) = ExportRegistry::new(Timestamp::now);
    let (runs, run_events) = Runs::new(metrics.clone());
    let installations = Arc::new(Installations::new(Installation {
        lease: config.lease.full_name(&client),
        created: leadership.lease_created(),
        scope: config.scope.clone(),
    }));
    // Not ready from here until the first list.
    export_watch::begin_view(&config.scope, &metrics.view);
    let mut leases = LeaseWatch::new(client.clone(), installations.clone(), &config.lease.timing);
    // Before the first reconcile: an export of another installation must not start here.
    tokio::select! {
        () = leases.first_look() => {}
        () = shutdown.cancelled() => return Ok(()),
        () = leadership.lost().cancelled() => bail!("the lease was lost before the exports of other installations were known"),
    }
    let exports = ExportCache::default();
    let context = Arc::new(ReconcileContext {
        client: client.clone(),
        exports: exports.clone(),
        registry: registry.clone(),
        runs: runs.clone(),
        installations,
        exporter: (config.exporter)(client.clone(), cluster, me.clone()),
        recorder: EventRecorder::new(client.clone(), me, metrics.clone()),
        since: Timestamp::now(),
        metrics: metrics.clone(),
        health: telemetry.health.clone(),
        retention_days: config.retention_days,
        now: Timestamp::now,
    });
    let source: Arc<dyn ResourceSource> = registry.clone();
    metrics.resources.set_source(Arc::downgrade(&source));
    let mut access = AccessWatch::new(config.access.clone(), exports.clone(), registry.clone(), metrics);
    // The files may have changed while another process was the leader.
    access.read_once().await;
    let end = CancellationToken::new();
    let _abort_guard = AbortOnDrop(registry.clone());
    let mut controller_task = AbortOnDropHandle::new(tokio::spawn(run_controller(
        config.clone(),
        context.clone(),
        woken,
        end.clone(),
    )));
    let ended = CancellationToken::new();
    let reports = apply_run_events(run_events, registry.clone(), ended.clone());
    let mut reports = AbortOnDropHandle::new(tokio::spawn(reports));
    let secrets = {
        let (registry, config) = (registry.clone(), config.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            if config.watch_secrets {
                secret_watch::watch(&client, &config.scope, config.watch, &registry).await;
            }
        }))
    };
    let access = AbortOnDropHandle::new(tokio::spawn(access.run()));
    let overlaps = leases.run(exports, registry.wake_ups.clone());
    let overlaps = AbortOnDropHandle::new(tokio::spawn(overlaps));
    let verifications = verification::run(context.clone());
    let verifications = AbortOnDropHandle::new(tokio::spawn(verifications));
    let lost = tokio::select! {
        () = shutdown.cancelled() => false,
        () = leadership.lost().cancelled() => true,
        // The controller stops only when `end` is cancelled.
        ended = &mut controller_task => {
            shutdown::stop_runs(&registry, &runs, config.shutdown_timeout).await;
            bail!("the controller stopped unexpectedly ({ended:?}): report this defect with the log lines above")
        }
    };
    telemetry.health.stop_heartbeat();
    telemetry.health.set_ready(false);
    // Prevents new tasks before the running ones are stopped.
    end.cancel();
    secrets.abort();
    access.abort();
    overlaps.abort();
    verifications.abort();
    controller_task.abort();
    let limit = if lost {
        leadership.time_left().saturating_sub(FENCE_MARGIN)
    } else {
        config.shutdown_timeout
    };
    info!(?limit, lost, "stopping exports and deleting sessions");
    if lost {
        shutdown::stop_runs(&registry, &runs, limit).await;
        bail!("the lease was lost: all exports are stopped, and another process may lead");
    }
    let reported = async {
        ended.cancel();
        // A panic of that task was logged.
        let _ = (&mut reports).await;
    };
    tokio::select! {
        () = shutdown::finish(&context, limit, reported) => {}
        // The shutdown may take longer than the lease, which can be lost meanwhile.
        () = leadership.lost().cancelled() => {
            let left = leadership.time_left().saturating_sub(FENCE_MARGIN);
            shutdown::stop_runs(&registry, &runs, left).await;
            bail!("the lease was lost during shutdown: all exports are stopped");
        }
    }
    Ok(())
}

/// Records the events of the runs, and triggers the reconciles that they need. Ends when `ended` is cancelled and no
/// event is left.
async fn apply_run_events(
    mut events: mpsc::Receiver<RunEvent>,
    registry: Arc<ExportRegistry>,
    ended: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            () = ended.cancelled() => return,
        };
        let Some(event) = event else { return };
        if let Some(name) = registry.apply(event) {
            // Fails only if the controller is gone.
            let _ = registry.wake_ups.send(name).await;
        }
    }
}

/// Aborts all tasks when the future of [`run_operator`] is dropped: no export may run without the lease.
struct AbortOnDrop(Arc<ExportRegistry>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort_all();
    }
}

/// Watches the exports and reconciles them, until `end` is cancelled.
async fn run_controller(
    config: OperatorConfig,
    context: Arc<ReconcileContext>,
    woken: mpsc::Receiver<ExportName>,
    end: CancellationToken,
) {
    let changes = export_watch::watch_exports(
        &context.client,
        &config.scope,
        config.watch,
        &context.exports,
        &context.metrics.view,
    );
    let settings = LoopSettings {
        concurrency: config.concurrency,
        debounce: config.debounce,
    };
    reconcile_loop::run(context, changes, woken, settings, end).await;
}

/// Returns the name of this cluster in the journals of buckets. Retries until it is known; `None` after `shutdown`.
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
        match tokio::time::timeout(START_TIMEOUT, api.get("kube-system")).await {
            Ok(Ok(namespace)) => {
                return namespace
                    .uid()
                    .map(Some)
                    .context("namespace kube-system has no UID");
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403 | 404) => bail!(
                "cannot read the UID of namespace kube-system, which identifies this cluster in journals: {} ({}); \
                 grant `get` on it, or set --cluster-id",
                status.message,
                status.code
            ),
            Ok(Err(error)) => warn!(
                error = kube_error::describe_error(&error),
                "cannot read namespace kube-system from the API server, will retry"
            ),
            Err(_) => warn!(
                error = "timed out",
                "cannot read namespace kube-system from the API server, will retry"
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(START_RETRY) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}
