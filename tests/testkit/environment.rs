//! What a test needs, from one builder: a simulator, a bucket, a namespace, proxies before the peers, a folder, and
//! operators. Cluster and gateway are those of the test process, and start with the first test that asks for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, Ledger, Settings, Simulator};
use jiff::ToSpan as _;
use jiff::civil::{Date, date};
use serde_json::Value;

use super::bucket::Bucket;
use super::manifest::{Manifest, SPACE, bucket_keys, secret, tracker_keys};
use super::operator::OperatorCommand;
use super::process::read_log;
use super::proxy::{ProxiedPeer, Proxy, Rules};
use super::service::service_on;
use crate::bed::{Cluster, Gateway};
use crate::operator::{
    annotate, apply, eventually, existing, has_finalizer, kubectl, patch, wait_conditions,
};

/// Conditions `Ready`, `Complete`, `Reconciling` and `Stalled` of a complete export.
pub(crate) const COMPLETE: [&str; 4] = ["True/Complete", "True/Complete", "False/Accepted", "False"];

/// Environment to start.
pub(crate) struct EnvironmentBuilder {
    name: String,
    settings: Settings,
    presets: Vec<String>,
    bucket: bool,
    versioned: bool,
    secrets: bool,
    separate_uaa: bool,
}

impl EnvironmentBuilder {
    /// Sets the service; by default it is 9 June 2018.
    pub(crate) fn service(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the day of the service.
    pub(crate) fn today(mut self, today: Date) -> Self {
        self.settings.today = Some(today);
        self
    }

    /// Adds faults of the service.
    pub(crate) fn presets(mut self, presets: &[&str]) -> Self {
        self.presets.extend(presets.iter().map(ToString::to_string));
        self
    }

    /// Creates no bucket.
    pub(crate) fn without_bucket(mut self) -> Self {
        self.bucket = false;
        self
    }

    /// Keeps all versions of the bucket's objects, which makes an overwritten one visible.
    pub(crate) fn versioned(mut self) -> Self {
        self.versioned = true;
        self
    }

    /// Creates no Secrets.
    pub(crate) fn without_secrets(mut self) -> Self {
        self.secrets = false;
        self
    }

    /// Puts a proxy of its own before the UAA, which the service names in its discovery document.
    pub(crate) fn separate_uaa(mut self) -> Self {
        self.separate_uaa = true;
        self
    }

    pub(crate) async fn start(self) -> Result<Environment> {
        let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
        let namespace = cluster.namespace(&self.name).await;
        if self.bucket {
            gateway.create_bucket(&namespace).await?;
        }
        let bucket = Bucket::of(gateway, &namespace);
        if self.versioned {
            bucket.keep_versions().await?;
        }
        let simulator = Simulator::start(self.settings).await?;
        for preset in &self.presets {
            simulator.add_preset(preset)?;
        }
        let (rules, service) = (Rules::new(), simulator.url().as_str());
        let uaa = if self.separate_uaa {
            Some(Proxy::start(ProxiedPeer::Uaa, service, &rules).await?)
        } else {
            None
        };
        let environment = Environment {
            tracker: match &uaa {
                Some(uaa) => Proxy::tracker(service, uaa, &rules).await?,
                None => Proxy::start(ProxiedPeer::Tracker, service, &rules).await?,
            },
            _uaa: uaa,
            store: Proxy::store(gateway, &rules).await?,
            cluster,
            gateway,
            simulator,
            namespace,
            bucket,
            rules,
            folder: tempfile::tempdir()?,
        };
        if self.secrets {
            environment.secret("tracker", &tracker_keys()).await?;
            environment.secret("bucket", &bucket_keys(gateway)).await?;
        }
        Ok(environment)
    }
}

/// One namespace with its service, bucket and proxies.
pub(crate) struct Environment {
    pub(crate) cluster: &'static Cluster,
    pub(crate) gateway: &'static Gateway,
    pub(crate) simulator: Simulator,
    /// Name of the namespace and of the bucket.
    pub(crate) namespace: String,
    pub(crate) bucket: Bucket,
    /// Rules of both proxies, and the requests that they saw.
    pub(crate) rules: Arc<Rules>,
    pub(crate) tracker: Proxy,
    _uaa: Option<Proxy>,
    pub(crate) store: Proxy,
    pub(crate) folder: tempfile::TempDir,
}

impl Environment {
    /// Returns a builder; the name begins that of the namespace.
    pub(crate) fn builder(name: &str) -> EnvironmentBuilder {
        EnvironmentBuilder {
            name: name.to_owned(),
            settings: ninth_of_june(),
            presets: Vec::new(),
            bucket: true,
            versioned: false,
            secrets: true,
            separate_uaa: false,
        }
    }

    /// Returns an export of 3 to 7 June 2018, without proxies.
    pub(crate) fn export(&self, name: &str) -> Manifest {
        Manifest::new(name, self.simulator.url().as_str())
            .namespace(&self.namespace)
            .days("2018-06-03", "2018-06-07")
            .bucket(&self.namespace, "tracker", &self.gateway.endpoint())
    }

    /// Returns the same export through the proxies.
    pub(crate) fn proxied_export(&self, name: &str) -> Manifest {
        self.export(name)
            .set("source.endpoint", self.tracker.endpoint())
            .uaa()
            .set("destination.s3.endpoint", self.store.endpoint())
    }

    /// Creates or changes the objects of the manifest.
    pub(crate) async fn apply(&self, manifest: &Manifest) -> Result<()> {
        manifest.apply(self.cluster).await
    }

    /// Creates an export of these days through the proxies, below a prefix of its name; `change` is merged into its
    /// spec.
    pub(crate) async fn create(&self, name: &str, days: [&str; 2], change: &Value) -> Result<()> {
        let export = self.proxied_export(name).days(days[0], days[1]);
        let export = export.set("destination.s3.prefix", name).merge(change);
        self.apply(&export).await
    }

    /// Changes an export by a merge patch.
    pub(crate) async fn patch(&self, name: &str, change: &Value) -> Result<()> {
        patch(self.cluster, &self.namespace, name, change).await
    }

    /// Creates or changes a Secret.
    pub(crate) async fn secret(&self, name: &str, data: &Value) -> Result<()> {
        apply(self.cluster, &secret(&self.namespace, name, data)).await
    }

    /// Returns an operator of this namespace, with short pauses, and watched by the proxies.
    pub(crate) fn operator(&self) -> OperatorCommand {
        self.operator_of(self.cluster).namespace(&self.namespace)
    }

    /// Returns the same operator for all namespaces of that cluster.
    pub(crate) fn operator_of(&self, cluster: &Cluster) -> OperatorCommand {
        OperatorCommand::new(cluster)
            .session_quiet("1s")
            .watched_by(&self.rules)
    }

    /// File for the logs of operators that are killed and replaced.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        read_log(&self.log_path())
    }

    /// Returns an existing export.
    pub(crate) async fn object(&self, name: &str) -> Result<Value> {
        existing(self.cluster, &self.namespace, name).await
    }

    /// Waits until the export is complete; returns it.
    pub(crate) async fn wait_complete(&self, name: &str) -> Result<Value> {
        wait_conditions(self.cluster, &self.namespace, name, COMPLETE).await
    }

    /// Requests a reconcile, which does not wait for the end of a pause. Each request needs another text.
    pub(crate) async fn request_reconcile(&self, name: &str, request: &str) -> Result<()> {
        let annotation = format!("eventexport.io/requestedAt={request}");
        annotate(self.cluster, &self.namespace, name, &annotation).await
    }

    pub(crate) async fn wait_finalizer_removed(&self, name: &str) -> Result<()> {
        eventually("the finalizer goes", async || {
            Ok(!has_finalizer(&self.object(name).await?))
        })
        .await
    }

    /// Deletes an export and waits until it is gone.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let namespace = ["-n", &self.namespace, "--timeout=60s"];
        kubectl(
            self.cluster,
            &[&["delete", "eventexport", name][..], &namespace].concat(),
        )
        .await
        .map(drop)
    }

    /// Waits until a fault of the service has hit a request.
    pub(crate) async fn wait_fault(&self) -> Result<()> {
        eventually("a fault hits a request", async || {
            Ok(!self.simulator.ledger().faults.is_empty())
        })
        .await
    }

    /// Folder of the space's objects in the gateway.
    pub(crate) fn stored(&self) -> PathBuf {
        let bucket = self.gateway.folder().join("objects").join(&self.namespace);
        bucket.join("tracker").join(format!("space={SPACE}"))
    }

    /// Checks that the archive of [`export`](Self::export) holds just these days, as they were served and each once,
    /// and that no session is left.
    pub(crate) async fn check_archive(&self, start: &str, end: &str) -> Result<()> {
        let (start, end): (Date, Date) = (start.parse()?, end.parse()?);
        let days: Vec<Date> = start.series(1.day()).take_while(|day| *day <= end).collect();
        let archive = self.bucket.check_archive(&self.simulator, "tracker", &days);
        archive.await.with_context(|| self.log())?;
        no_session_left(&self.simulator)
    }

    /// Checks that no key of the service or the store is in the log.
    pub(crate) fn no_secret_logged(&self) -> Result<()> {
        let log = self.log();
        let secrets = [DEFAULT_API_KEY, self.gateway.secret_key()];
        let leak = log
            .lines()
            .find(|line| secrets.iter().any(|secret| line.contains(secret)));
        ensure!(leak.is_none(), "a secret was logged: {leak:?}");
        Ok(())
    }
}

/// Starts a service on 9 June 2018.
pub(crate) async fn simulator() -> Result<Simulator> {
    Ok(Simulator::start(ninth_of_june()).await?)
}

fn ninth_of_june() -> Settings {
    service_on(date(2018, 6, 9))
}

/// Returns the export `june` of 3 to 7 June 2018 with its Secrets.
pub(crate) fn june(simulator: &Simulator, namespace: &str, bucket: &str, gateway: &Gateway) -> Manifest {
    Manifest::new("june", simulator.url().as_str())
        .namespace(namespace)
        .days("2018-06-03", "2018-06-07")
        .bucket(bucket, "tracker", &gateway.endpoint())
        .secrets(gateway)
}

/// Returns the bytes that the service sends for a day.
pub(crate) fn served(simulator: &Simulator, day: Date) -> Vec<u8> {
    let body = simulator.body_of(SPACE, false, day, None);
    body.flat_map(|piece| piece.to_vec()).collect()
}

/// Checks that all opened sessions except manual ones are deleted, and that all requests followed the protocol.
pub(crate) fn no_session_left(simulator: &Simulator) -> Result<()> {
    let ledger = simulator.ledger();
    let violations = session_violations(&ledger);
    ensure!(violations.is_empty(), "{violations:#?}: {ledger:#?}");
    Ok(())
}

/// Lists what must not be in the ledger when nothing runs any more.
pub(crate) fn session_violations(ledger: &Ledger) -> Vec<String> {
    let checks = [
        (ledger.open_now == 0, "sessions are open"),
        (
            ledger.opened == ledger.deleted + ledger.vanished,
            "other sessions were deleted than opened",
        ),
        (ledger.other_users_deleted == 0, "a manual session was deleted"),
        (ledger.max_open <= 30, "more sessions than a space may have"),
    ];
    let failed = checks.iter().filter(|(holds, _)| !holds).map(|(_, text)| *text);
    let protocol = ledger.violations.iter().map(String::as_str);
    failed.chain(protocol).map(str::to_owned).collect()
}

/// Time that an operator may take to stop.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(40);
