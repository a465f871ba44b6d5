//! The same measurements of another operator: Flux's kustomize-controller, built with controller-runtime, with
//! thousands of idle resources. It represents its kind of program, not the same task: a `Kustomization` is reapplied
//! periodically, an `EventExport` completes.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::fixture::{LoadFixture, ProcessUsage};
use super::operator::ScrapedMetrics;
use super::results::{LoadResults, counts, setting};
use crate::bed::{Flux, http_client, program};

/// Namespaces of the resources.
const NAMESPACES: usize = 10;

/// Concurrent requests to the API server.
const CONCURRENCY: usize = 32;

/// Maximum time of a step.
const TIMEOUT: Duration = Duration::from_mins(30);

/// Time without load before the memory of a process is read.
const QUIET_PERIOD: Duration = Duration::from_secs(5);

struct FluxController {
    child: Child,
    id: u32,
    address: String,
    started: Instant,
}

impl FluxController {
    /// Starts it with defaults except addresses.
    async fn start(fixture: &LoadFixture) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string();
        let temporary = fixture.folder.path().join("peer");
        std::fs::create_dir_all(&temporary)?;
        let started = Instant::now();
        let child = Command::new(program("kustomize-controller").context("run `make bed-gitops`")?)
            .arg(format!("--metrics-addr={address}"))
            .args([
                "--health-addr=0",
                "--feature-gates=ExternalArtifact=true",
                "--log-level=error",
            ])
            .env("KUBECONFIG", fixture.cluster.kubeconfig_path())
            .env("RUNTIME_NAMESPACE", "flux-system")
            .env("TMPDIR", temporary)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().context("it ended at once")?;
        Ok(Self {
            child,
            id,
            address,
            started,
        })
    }

    async fn scrape(&self) -> Result<ScrapedMetrics> {
        let ask = async || {
            let answer = http_client()?
                .get(format!("http://{}/metrics", self.address))
                .timeout(Duration::from_mins(1));
            anyhow::Ok(ScrapedMetrics(
                answer.send().await?.error_for_status()?.text().await?,
            ))
        };
        loop {
            match ask().await {
                Ok(metrics) => return Ok(metrics),
                Err(error) => ensure!(
                    self.started.elapsed() < Duration::from_mins(1),
                    "no metrics: {error:#}"
                ),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until this many reconciles are done and none is queued.
    async fn settled(&self, reconciles: usize) -> Result<()> {
        loop {
            let metrics = self.scrape().await?;
            let of = |name: &str| metrics.sum_of(&format!("{name}{{controller=\"kustomization\""));
            let done = of("controller_runtime_reconcile_total");
            let waiting = of("workqueue_depth") + of("controller_runtime_active_workers");
            if done >= reconciles as f64 && waiting == 0.0 {
                return Ok(());
            }
            ensure!(
                self.started.elapsed() < TIMEOUT,
                "{done} of {reconciles} reconciles, {waiting} queued"
            );
            sleep(Duration::from_millis(500)).await;
        }
    }

    fn usage(&self) -> Result<ProcessUsage> {
        ProcessUsage::of(self.id)
    }

    async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

/// Returns a resource. All share one archive with one `ConfigMap`, and apply it under their own names.
fn kustomization(name: &str, suspend: bool) -> Value {
    json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": { "name": name },
        "spec": {
            "interval": "1h", "prune": true, "path": "./", "namePrefix": format!("{name}-"), "suspend": suspend,
            "sourceRef": { "kind": "ExternalArtifact", "name": "fleet", "namespace": "flux-system" },
        },
    })
}

async fn create(fixture: &LoadFixture, count: usize, suspend: bool) -> Result<()> {
    let kind = GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
    let resource = ApiResource::from_gvk(&kind);
    stream::iter(0..count)
        .map(|number| {
            let api: Api<DynamicObject> =
                Api::namespaced_with(fixture.client.clone(), &namespace(number), &resource);
            async move {
                let object = serde_json::from_value(kustomization(&format!("many-{number}"), suspend))?;
                api.create(&PostParams::default(), &object).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

async fn publish(fixture: &LoadFixture, flux: &Flux) -> Result<()> {
    let folder: &Path = fixture.folder.path();
    let settings = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings", "namespace": "team-0" } });
    std::fs::write(folder.join("settings.yaml"), settings.to_string())?;
    let archive = folder.join("fleet.tar.gz");
    let mut pack = Command::new("tar");
    pack.arg("-czf")
        .arg(&archive)
        .arg("-C")
        .arg(folder)
        .arg("settings.yaml");
    ensure!(pack.status().await?.success(), "tar");
    flux.publish(&fixture.cluster, "flux-system", "fleet", "main@sha1:1", &archive)
        .await
}

async fn measure(results: &mut LoadResults, count: usize, suspend: bool) -> Result<()> {
    let fixture = LoadFixture::start(&[]).await?;
    let flux = Flux::without_controllers(&fixture.cluster).await?;
    for number in 0..NAMESPACES {
        fixture.namespace(&namespace(number)).await?;
    }
    publish(&fixture, &flux).await?;
    let state = if suspend { "suspended" } else { "applied" };
    let mut add = |metric: &str, unit: &str, value: f64| results.add(count, state, metric, unit, value);

    let peer = FluxController::start(&fixture).await?;
    peer.scrape().await?;
    sleep(QUIET_PERIOD).await;
    let empty = peer.usage()?;
    add("rss_without_resources", "KiB", empty.rss_kib);
    let began = Instant::now();
    create(&fixture, count, suspend).await?;
    peer.settled(count).await?;
    add("apply_all_and_reconcile", "s", began.elapsed().as_secs_f64());
    let spent = peer.usage()?.cpu_seconds - empty.cpu_seconds;
    add("cpu_to_reconcile_per_resource", "ms", spent * 1e3 / count as f64);
    sleep(QUIET_PERIOD).await;
    add("rss_after_work", "KiB", peer.usage()?.rss_kib);
    let (began, before) = (Instant::now(), peer.usage()?.cpu_seconds);
    sleep(Duration::from_secs(setting("EVENTEXPORT_BENCH_IDLE", 30))).await;
    let spent = peer.usage()?.cpu_seconds - before;
    add(
        "idle_cpu_per_hour",
        "s",
        spent * 3600.0 / began.elapsed().as_secs_f64(),
    );
    peer.kill().await?;

    let peer = FluxController::start(&fixture).await?;
    peer.settled(count).await?;
    add("restart_reconciled", "s", peer.started.elapsed().as_secs_f64());
    let usage = peer.usage()?;
    add(
        "restart_cpu_per_resource",
        "ms",
        usage.cpu_seconds * 1e3 / count as f64,
    );
    add("restart_rss_peak", "KiB", usage.peak_kib);
    sleep(QUIET_PERIOD).await;
    let rest = peer.usage()?.rss_kib;
    add("rss_at_rest", "KiB", rest);
    add("rss_per_resource", "KiB", (rest - empty.rss_kib) / count as f64);
    peer.kill().await?;
    results.add_load(count, state);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load: bench/peer runs it"]
async fn flux_cost_of_thousands_of_resources() -> Result<()> {
    let mut results = LoadResults::new();
    for count in counts("1000")? {
        for suspend in [true, false] {
            let measured = measure(&mut results, count, suspend).await;
            results.write()?;
            measured.with_context(|| format!("{count} resources, suspended: {suspend}"))?;
        }
    }
    Ok(())
}
