//! The same questions to an operator of somebody else: Flux's kustomize-controller, built with controller-runtime, beside
//! thousands of resources that need nothing. It stands for its kind, not for what it does: a `Kustomization` is applied
//! from an archive again and again, an `EventExport` is done when it is done.

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

/// Namespaces that the resources are spread over.
const NAMESPACES: usize = 10;

/// Requests to the API server at once.
const CONCURRENCY: usize = 32;

/// The longest that anything may take.
const TIMEOUT: Duration = Duration::from_mins(30);

/// How long a process is left alone before its memory is read.
const QUIET_PERIOD: Duration = Duration::from_secs(5);

struct FluxController {
    child: Child,
    id: u32,
    address: String,
    started: Instant,
}

impl FluxController {
    /// With its defaults but for addresses.
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

    /// Until so many were looked at and none waits.
    async fn settled(&self, looks: usize) -> Result<()> {
        loop {
            let metrics = self.scrape().await?;
            let of = |name: &str| metrics.sum_of(&format!("{name}{{controller=\"kustomization\""));
            let done = of("controller_runtime_reconcile_total");
            let waiting = of("workqueue_depth") + of("controller_runtime_active_workers");
            if done >= looks as f64 && waiting == 0.0 {
                return Ok(());
            }
            ensure!(
                self.started.elapsed() < TIMEOUT,
                "{done} of {looks} looks, {waiting} wait"
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

/// All of one archive, which holds one `ConfigMap`; each applies it under a name of its own.
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
    add("apply_all_and_judge", "s", began.elapsed().as_secs_f64());
    let spent = peer.usage()?.cpu_seconds - empty.cpu_seconds;
    add("cpu_to_judge_per_resource", "ms", spent * 1e3 / count as f64);
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
    add("restart_judged", "s", peer.started.elapsed().as_secs_f64());
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
async fn what_thousands_of_resources_cost_a_peer() -> Result<()> {
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
