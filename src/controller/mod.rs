//! `EventExport` ⇄ engine: observe, decide, act, status, finalizer, leader lease.
//!
//! Pure: [`decide`], [`judge`], [`status`], [`election`], [`gauges`], [`grants`], [`secrets_in_use`]. With effects: [`reconcile`] and what it calls,
//! [`lease`], and this file, which puts the parts together.

mod act;
mod claim;
mod config;
mod context;
pub mod decide;
pub mod election;
mod entry;
pub mod events;
mod exporter;
mod finalizer;
mod gauges;
pub mod grants;
pub mod judge;
mod lease;
mod metered;
mod reconcile;
mod runs;
mod said;
mod secret_watch;
mod secrets;
mod secrets_in_use;
pub mod status;
mod supervise;
mod watching;
mod write_back;

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

pub use claim::{CONTENDER, OPERATOR};
pub use config::{CONCURRENCY, DEBOUNCE, OperatorConfig, Watching};
pub use entry::FINALIZER;
pub use exporter::{EngineExporter, Exporter, Job, Owner};
pub use lease::LeaseSettings;
pub use write_back::FIELD_MANAGER;

use crate::api::EventExport;
use crate::telemetry::Observatory;
use crate::telemetry::metrics::Resources;
use context::Context;
use events::Announcer;
use lease::{Candidate, Leadership};
use runs::Runs;

/// How long is kept back of the time until another may lead, for cutting off what has not stopped.
const FENCE_MARGIN: Duration = Duration::from_secs(1);

/// How often the controller gives a sign of life.
const PULSE: Duration = Duration::from_secs(5);

/// Where `kubectl apply` keeps the manifest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How long to wait before the API server is asked again at the start.
const START_RETRY: Duration = Duration::from_secs(2);

/// How long one request may take at the start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Runs the operator until `shutdown`: then exports are stopped, their sessions deleted, and the lease given back.
/// An error: the lease was lost, and everything was stopped before another could lead; or it cannot begin. The
/// process should end then, and be started again.
pub async fn operate(
    config: OperatorConfig,
    observatory: Observatory,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let client = watching::client(config.kubernetes.clone(), config.watching, &config.traffic)
        .context("no client for the Kubernetes API server")?;
    let unfenced = config.traffic.unfenced();
    let alone = lease::client(config.kubernetes.clone(), &config.lease.times, &unfenced)
        .context("no client for the lease at the Kubernetes API server")?;
    let Some(cluster) = cluster_name(&config, &client, &observatory, &shutdown).await? else {
        return Ok(());
    };
    let host = std::env::var("HOSTNAME").ok();
    let me = lease::identity(host.as_deref());
    let candidate = Candidate::new(alone, &config.lease, me.clone(), config.traffic.fence().clone());
    let Some(leadership) = candidate.lead(&observatory.health, &shutdown).await else {
        return Ok(());
    };
    observatory.metrics.leader.set(1);
    let outcome = lead(&config, client, cluster, me, &observatory, &leadership, &shutdown).await;
    observatory.metrics.leader.set(0);
    observatory.health.set_ready(false);
    if outcome.is_ok() {
        leadership.resign().await;
        info!("stopped; the lease is given back");
    }
    outcome
}

/// Leads until `shutdown`, or until the lease is lost.
async fn lead(
    config: &OperatorConfig,
    client: Client,
    cluster: String,
    me: String,
    observatory: &Observatory,
    leadership: &Leadership,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let metrics = observatory.metrics.clone();
    let (runs, woken) = Runs::new(metrics.clone(), Timestamp::now);
    let context = Arc::new(Context {
        client: client.clone(),
        runs: runs.clone(),
        exporter: (config.exporter)(cluster, me.clone()),
        announcer: Announcer::new(client.clone(), me, metrics.clone()),
        operator: config.lease.full_name(&client),
        patience: claim::patience(&config.lease.times),
        since: Timestamp::now(),
        metrics: metrics.clone(),
        health: observatory.health.clone(),
        retention: config.retention,
        now: Timestamp::now,
    });
    let known: Arc<dyn Resources> = runs.clone();
    metrics.resources.ask(Arc::downgrade(&known));
    let end = CancellationToken::new();
    let _cut_off = CutOff(runs.clone());
    let mut looking = AbortOnDropHandle::new(tokio::spawn(look_at_all(
        config.clone(),
        client.clone(),
        context,
        woken,
        end.clone(),
    )));
    let namespace = config.namespace.clone();
    let secrets = {
        let (runs, times) = (runs.clone(), config.watching);
        AbortOnDropHandle::new(tokio::spawn(async move {
            secret_watch::watch(client, namespace.as_deref(), times, runs).await;
        }))
    };
    let lost = tokio::select! {
        () = shutdown.cancelled() => false,
        () = leadership.lost().cancelled() => true,
        // It ends only when it is told to.
        ended = &mut looking => {
            runs.stop_all(config.stop_within).await;
            bail!("a defect: the controller ended by itself ({ended:?}); report it with the lines above")
        }
    };
    observatory.health.controls_no_more();
    observatory.health.set_ready(false);
    // First no new work, then the end of what is under way.
    end.cancel();
    secrets.abort();
    looking.abort();
    let limit = if lost {
        leadership.time_left().saturating_sub(FENCE_MARGIN)
    } else {
        config.stop_within
    };
    info!(?limit, lost, "stopping exports and deleting their sessions");
    tokio::select! {
        () = runs.stop_all(limit) => {}
        // Stopping takes longer than a lease: it may be lost only now.
        () = leadership.lost().cancelled(), if !lost => {
            runs.stop_all(leadership.time_left().saturating_sub(FENCE_MARGIN)).await;
            bail!("the lease was lost while exports were being stopped");
        }
    }
    if lost {
        bail!("the lease was lost: all exports are stopped, and another process may lead");
    }
    Ok(())
}

/// Whoever drops the future of [`operate`] leaves no work behind that nobody leads.
struct CutOff(Arc<Runs>);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.cut_off_all();
    }
}

/// Looks at every resource when it changes, when it is due, and when its work has something to say.
async fn look_at_all(
    config: OperatorConfig,
    client: Client,
    context: Arc<Context>,
    woken: mpsc::Receiver<reflector::ObjectRef<EventExport>>,
    end: CancellationToken,
) {
    let api: Api<EventExport> = match &config.namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let (reader, writer) = reflector::store();
    let existing = Mutex::new(HashSet::new());
    let runs = context.runs.clone();
    let objects = watching::watching(api, watcher::Config::default(), config.watching)
        .default_backoff()
        .modify(strip)
        .inspect(move |event| match event {
            Ok(event) => keep_in_step(&runs, &existing, event),
            Err(error) => {
                let error = said::plain_of_watch(error);
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
    let pulse = stream::unfold(tokio::time::interval(PULSE), move |mut interval| {
        let health = health.clone();
        async move {
            interval.tick().await;
            health.controls(PULSE + reconcile::LIMIT);
            Some((None, interval))
        }
    });
    let woken = stream::select(woken, pulse).filter_map(std::future::ready);
    Controller::for_stream(objects, reader)
        .with_config(settings)
        .reconcile_on(woken)
        .graceful_shutdown_on(end.cancelled_owned())
        .run(reconcile::reconcile, reconcile::after_error, context)
        // What failed was logged, and the watch logs its own errors.
        .for_each(|_| std::future::ready(()))
        .await;
}

/// Takes away what is of no use here: most of a resource's bytes.
fn strip(object: &mut EventExport) {
    object.metadata.managed_fields = None;
    let notes = object.metadata.annotations.as_mut();
    notes.and_then(|notes| notes.remove(LAST_APPLIED));
}

/// What is deleted is forgotten, also what was deleted while nobody watched.
fn keep_in_step(runs: &Runs, existing: &Mutex<HashSet<String>>, event: &Event<EventExport>) {
    let mut existing = existing.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::Init => existing.clear(),
        Event::InitApply(object) => existing.extend(object.uid()),
        Event::InitDone => runs.forget_others(&std::mem::take(&mut *existing)),
        Event::Apply(object) => runs.replace_namesake(object),
        Event::Delete(object) => runs.forget(&object.uid().unwrap_or_default()),
    }
}

/// What tells this cluster from others, in the journals of buckets: asked until it is known or `shutdown`.
async fn cluster_name(
    config: &OperatorConfig,
    client: &Client,
    observatory: &Observatory,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<String>> {
    if let Some(cluster) = &config.cluster {
        return Ok(Some(cluster.clone()));
    }
    let api: Api<Namespace> = Api::all(client.clone());
    loop {
        observatory.health.beat();
        let asked = tokio::time::timeout(START_LIMIT, api.get("kube-system")).await;
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
                error = said::plain(&error),
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
