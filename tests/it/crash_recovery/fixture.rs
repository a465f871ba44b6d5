//! Fixture of crash tests: a namespace with service, bucket, resource and operator, and the checks of the final
//! archive.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use jiff::civil::Date;
use serde_json::{Value, json};
use tokio::process::Command;

use super::versioned_bucket::VersionedBucket;
use crate::bed::{Cluster, Gateway};
use crate::faults::TargetProcess;

pub(crate) const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";

/// Prefix of all keys.
pub(crate) const ROOT: &str = "tracker/space=c1234567-6d55-4193-a9de-378620d6fab5/scope=space/";

/// Generous, because a machine that also compiles is slow.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) struct CrashFixture {
    pub(crate) cluster: &'static Cluster,
    pub(crate) gateway: &'static Gateway,
    pub(crate) simulator: Simulator,
    pub(crate) bucket: VersionedBucket,
    pub(crate) folder: tempfile::TempDir,
}

/// Days, and addresses of the peers or of proxies before them.
pub(crate) struct ManifestParams<'a> {
    pub(crate) start: &'a str,
    pub(crate) end: &'a str,
    pub(crate) parallelism: u8,
    pub(crate) source: &'a str,
    pub(crate) store: &'a str,
}

impl CrashFixture {
    pub(crate) async fn start(name: &str, settings: Settings) -> Result<Self> {
        let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
        let namespace = cluster.namespace(name).await;
        Ok(Self {
            cluster,
            gateway,
            simulator: Simulator::start(settings).await?,
            bucket: VersionedBucket::create(gateway, &namespace).await?,
            folder: tempfile::tempdir()?,
        })
    }

    /// Name of the namespace and of the bucket.
    pub(crate) fn namespace(&self) -> &str {
        &self.bucket.name
    }

    /// Returns the resource and its Secrets as one multi-document file, for any bucket.
    pub(crate) fn manifest(&self, params: &ManifestParams<'_>, bucket: &str) -> String {
        let metadata = |name: &str| json!({ "namespace": self.namespace(), "name": name });
        let secret = |name: &str, data: Value| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata(name), "stringData": data });
        let (key, hidden) = (self.gateway.access_key(), self.gateway.secret_key());
        let documents = [
            secret("tracker", json!({ "apiKey": DEFAULT_API_KEY })),
            secret("bucket", json!({ "accessKeyId": key, "secretAccessKey": hidden })),
            json!({
                "apiVersion": "eventexport.io/v1alpha1",
                "kind": "EventExport",
                "metadata": metadata("june"),
                "spec": {
                    "space": SPACE,
                    "dateRange": { "start": params.start, "end": params.end },
                    "source": { "endpoint": params.source, "credentialsSecretRef": { "name": "tracker" } },
                    "destination": { "s3": {
                        "bucket": bucket, "prefix": "tracker", "endpoint": params.store,
                        "credentialsSecretRef": { "name": "bucket" },
                    }},
                    "parallelism": params.parallelism,
                },
            }),
        ];
        documents.map(|document| document.to_string()).join("\n---\n")
    }

    pub(crate) async fn kubectl(&self, args: &[&str], stdin: Option<&str>) -> Result<String> {
        self.cluster.kubectl(args, stdin).await.success()
    }

    pub(crate) async fn apply(&self, params: &ManifestParams<'_>) -> Result<()> {
        let manifest = self.manifest(params, &self.bucket.name);
        self.kubectl(&["apply", "-f", "-"], Some(&manifest))
            .await
            .map(drop)
    }

    /// Starts an operator process. Its lease identity is constant and its lease times are short, so that a killed
    /// process is replaced soon.
    pub(crate) fn operator(&self) -> Result<Arc<TargetProcess>> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))?;
        let child = Command::new(env!("CARGO_BIN_EXE_eventexport"))
            .args(["operator", "--namespace", self.namespace()])
            .args(["--lease-namespace", self.namespace()])
            .args([
                "--lease-duration",
                "4s",
                "--lease-deadline",
                "3s",
                "--lease-renew",
                "1s",
            ])
            .args(["--allow-host", "127.0.0.1", "--metrics-listen", "127.0.0.1:0"])
            .args(["--session-quiet", "1s", "--kubeconfig"])
            .arg(self.cluster.kubeconfig_path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(TargetProcess::new(child))
    }

    /// Returns the operator's log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits for completion as a user does and returns the status.
    pub(crate) async fn wait_complete(&self) -> Result<Value> {
        let timeout = format!("--timeout={}s", TIMEOUT.as_secs());
        let wait = [
            "wait",
            "eventexport/june",
            "-n",
            self.namespace(),
            "--for=condition=Complete",
            &timeout,
        ];
        let waited = self.kubectl(&wait, None).await;
        let status = self.status().await?;
        waited.with_context(|| format!("the status: {status:#}\nthe operator said:\n{}", self.log()))?;
        Ok(status)
    }

    pub(crate) async fn status(&self) -> Result<Value> {
        let get = ["get", "eventexport", "june", "-n", self.namespace(), "-o", "json"];
        let mut object: Value = serde_json::from_str(&self.kubectl(&get, None).await?)?;
        Ok(object.get_mut("status").map(Value::take).unwrap_or_default())
    }

    /// Returns the bytes that the service sends for a day.
    pub(crate) fn served(&self, day: Date) -> Vec<u8> {
        let body = self.simulator.body_of(SPACE, false, day, None);
        body.flat_map(|piece| piece.to_vec()).collect()
    }

    /// Checks the archive: a receipt for each of these days, an object if the day has events, and one manifest. No
    /// duplicates, no overwritten objects, no open session, no upload, and no temporary journal entry.
    pub(crate) async fn check_archive(&self, days: &[Date]) -> Result<()> {
        let receipt = |day: &Date| format!("{ROOT}_journal/{day}.receipt.json");
        let object = |day: &Date| format!("{ROOT}date={day}/events.json.gz");
        let is_busy = |day: &&Date| !self.simulator.body_of(SPACE, false, **day, None).is_empty();
        let busy = || days.iter().filter(is_busy);
        let manifest = format!("{ROOT}_manifests/00000001.json");
        let keys = days
            .iter()
            .map(receipt)
            .chain(busy().map(object))
            .chain([manifest]);
        let wanted: BTreeSet<String> = keys.collect();
        let start = Instant::now();
        loop {
            let keys = self.bucket.keys().await?;
            if keys == wanted {
                break;
            }
            // Temporary entries are deleted after the receipt.
            ensure!(
                start.elapsed() < Duration::from_secs(10),
                "not as wanted: {:#?}\n{}",
                keys.symmetric_difference(&wanted).collect::<Vec<_>>(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let versions = self.bucket.versions().await?;
        for key in &wanted {
            ensure!(
                versions.get(key) == Some(&1),
                "{key} has {:?} versions",
                versions.get(key)
            );
        }
        for day in busy() {
            let stored = self.bucket.get(&object(day)).await?;
            ensure!(
                stored == self.served(*day),
                "{day} is not stored as it was served"
            );
        }
        let uploads = self.bucket.uploads().await?;
        ensure!(uploads.is_empty(), "uploads left: {uploads:?}");
        self.no_secret_logged()?;
        self.no_session_left()
    }

    /// Checks that no key of the service or the store is in the log.
    fn no_secret_logged(&self) -> Result<()> {
        let log = self.log();
        let secrets = [DEFAULT_API_KEY, self.gateway.secret_key()];
        let line_with_secret = log
            .lines()
            .find(|line| secrets.iter().any(|secret| line.contains(secret)));
        ensure!(
            line_with_secret.is_none(),
            "a secret was logged: {line_with_secret:?}"
        );
        Ok(())
    }

    pub(crate) fn no_session_left(&self) -> Result<()> {
        let ledger = self.simulator.ledger();
        ensure!(
            ledger.open_now == 0 && ledger.opened == ledger.deleted + ledger.vanished,
            "{ledger:#?}"
        );
        ensure!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
        ensure!(ledger.other_users_deleted == 0, "{ledger:#?}");
        Ok(())
    }
}
