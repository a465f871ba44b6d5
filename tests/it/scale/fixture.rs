//! Fixture of the load tests: a cluster, a store and a service, namespaces with their Secrets, and any number of
//! resources.

use anyhow::{Context as _, Result, ensure};
use eventexport::api::EventExport;
use eventexport::simulator::Ledger;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::bed::{Cluster, Gateway};
use crate::testkit::command::SimulatorProcess;
use crate::testkit::manifest::{Manifest, bucket_keys, secret, tracker_keys};

/// Concurrent requests to the API server.
const CONCURRENCY: usize = 32;

/// Resources per page of a list.
const PAGE: u32 = 500;

pub(super) struct LoadFixture {
    pub(super) cluster: Cluster,
    pub(super) gateway: Gateway,
    pub(super) client: Client,
    pub(super) service: SimulatorProcess,
    pub(super) folder: tempfile::TempDir,
}

impl LoadFixture {
    /// Returns what the service has seen so far.
    pub(super) async fn ledger(&self) -> Result<Ledger> {
        let ledger = self.service.admin(reqwest::Method::GET, "ledger", &Value::Null);
        Ok(serde_json::from_value(ledger.await?)?)
    }

    pub(super) async fn start(service: &[&str]) -> Result<Self> {
        let (cluster, gateway) = (Cluster::start().await?, Gateway::start().await?);
        Ok(Self {
            client: cluster.client().await?,
            cluster,
            gateway,
            service: SimulatorProcess::start(&[&["--weekends"], service].concat()).await,
            folder: tempfile::tempdir()?,
        })
    }

    /// Creates a namespace with the Secrets of its exports.
    pub(super) async fn namespace(&self, name: &str) -> Result<()> {
        let params = PostParams::default();
        let namespace = json!({ "metadata": { "name": name } });
        Api::<Namespace>::all(self.client.clone())
            .create(&params, &serde_json::from_value(namespace)?)
            .await?;
        for (name_of_secret, data) in [
            ("tracker", tracker_keys()),
            ("bucket", bucket_keys(&self.gateway)),
        ] {
            let secret = secret(name, name_of_secret, &data);
            Api::<Secret>::namespaced(self.client.clone(), name)
                .create(&params, &serde_json::from_value(secret)?)
                .await?;
        }
        Ok(())
    }

    pub(super) fn exports(&self, namespace: &str) -> Api<EventExport> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates the resources concurrently, each in its namespace.
    pub(super) async fn create(&self, all: Vec<(String, Value)>) -> Result<()> {
        let created = stream::iter(all).map(|(namespace, object)| async move {
            let object = serde_json::from_value(object)?;
            let params = PostParams {
                // As kubectl does: managedFields are most of a small object.
                field_manager: Some("kubectl-create".to_owned()),
                ..PostParams::default()
            };
            self.exports(&namespace).create(&params, &object).await?;
            anyhow::Ok(())
        });
        created.buffer_unordered(CONCURRENCY).try_collect().await
    }

    /// Returns all resources, page by page, as a client with a cache holds them.
    pub(super) async fn all(&self) -> Result<Vec<EventExport>> {
        let api: Api<EventExport> = Api::all(self.client.clone());
        let mut all = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            all.extend(page.items.into_iter().map(|mut object| {
                object.metadata.managed_fields = None;
                object
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        Ok(all)
    }
}

/// Parameters of a resource of a space, below its own prefix or a shared one.
pub(super) struct ExportParams<'a> {
    pub(super) name: &'a str,
    pub(super) space: &'a str,
    pub(super) start: &'a str,
    pub(super) end: Option<&'a str>,
    pub(super) bucket: &'a str,
    pub(super) prefix: &'a str,
    pub(super) source: &'a str,
    pub(super) store: &'a str,
    pub(super) suspend: bool,
}

impl ExportParams<'_> {
    pub(super) fn manifest(&self) -> Value {
        Manifest::new(self.name, self.source)
            .set("space", self.space)
            .days(self.start, self.end.unwrap_or_default())
            .uaa()
            .bucket(self.bucket, self.prefix, self.store)
            .set("suspend", self.suspend)
            .export()
    }
}

/// Resource usage of a process, from the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessUsage {
    pub(super) rss_kib: f64,
    pub(super) peak_kib: f64,
    pub(super) cpu_seconds: f64,
}

impl ProcessUsage {
    pub(super) fn of(process: u32) -> Result<Self> {
        /// `sysconf(_SC_CLK_TCK)` on Linux.
        const TICKS: f64 = 100.0;
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let kib = |name: &str| -> Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(number.with_context(|| format!("no {name}"))?.parse()?)
        };
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .context("no name in stat")?
            .1
            .split_whitespace()
            .collect();
        ensure!(fields.len() > 12, "a short stat");
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(Self {
            rss_kib: kib("VmRSS:")?,
            peak_kib: kib("VmHWM:")?,
            cpu_seconds: ticks / TICKS,
        })
    }
}

/// Load of the machine from all processes.
pub(super) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}
