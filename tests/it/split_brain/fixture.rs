//! A service and a bucket behind wiretaps and freeze proxies, the resources that use them, and the checks of the
//! final archives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use jiff::ToSpan as _;
use jiff::civil::Date;
use serde_json::{Value, json};
use tokio::process::Command;

use super::freeze_proxy::{FreezeProxy, ProxiedRequest};
use crate::bed::{Cluster, Gateway, Wiretap};
use crate::crash_recovery::fixture::SPACE;
use crate::crash_recovery::versioned_bucket::VersionedBucket;
use crate::operator::process::{self, OperatorProcess};
use crate::operator::{apply, condition, get};

pub(super) const COMPLETE: [&str; 4] = ["True/Complete", "True/Complete", "False/Accepted", "False"];

/// Generous, because a machine that also compiles is slow.
pub(super) const TIMEOUT: Duration = Duration::from_mins(4);

/// Short enough to wait for, and long enough to keep on a machine that also compiles.
const LEASE_FLAGS: [&str; 6] = [
    "--lease-duration",
    "10s",
    "--lease-deadline",
    "8s",
    "--lease-renew",
    "1s",
];

/// Service with a freeze proxy and a wiretap before it.
pub(super) struct TappedService {
    pub(super) simulator: Simulator,
    pub(super) proxy: Arc<FreezeProxy>,
    pub(super) tap: Wiretap,
}

impl TappedService {
    pub(super) async fn start(settings: Settings) -> Result<Self> {
        let simulator = Simulator::start(settings).await?;
        let proxy = FreezeProxy::start(simulator.url().as_str()).await?;
        let tap = Wiretap::start(port(&proxy.endpoint())?).await?;
        Ok(Self {
            simulator,
            proxy,
            tap,
        })
    }

    /// Checks that all opened sessions except manual ones are deleted, and that none was requested above the limit.
    pub(super) fn no_session_left(&self) -> Result<()> {
        let ledger = self.simulator.ledger();
        ensure!(
            ledger.open_now == 0 && ledger.opened == ledger.deleted + ledger.vanished,
            "{ledger:#?}"
        );
        ensure!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
        ensure!(ledger.other_users_deleted == 0, "{ledger:#?}");
        ensure!(ledger.max_open <= 30, "{ledger:#?}");
        Ok(())
    }
}

fn port(endpoint: &str) -> Result<u16> {
    let (_, port) = endpoint.rsplit_once(':').context("no port")?;
    Ok(port.trim_end_matches('/').parse()?)
}

pub(super) struct SplitBrainFixture {
    pub(super) gateway: &'static Gateway,
    pub(super) bucket: VersionedBucket,
    pub(super) source: TappedService,
    pub(super) store: Arc<FreezeProxy>,
    pub(super) store_tap: Wiretap,
    pub(super) folder: tempfile::TempDir,
}

/// Parameters of one resource.
#[derive(Clone, Copy)]
pub(super) struct ResourceParams<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) days: [&'a str; 2],
    pub(super) prefix: &'a str,
    pub(super) parallelism: u8,
}

impl SplitBrainFixture {
    /// Starts with a bucket of that name.
    pub(super) async fn start(bucket: &str, settings: Settings) -> Result<Self> {
        let gateway = Gateway::shared().await;
        let store = FreezeProxy::start(&gateway.endpoint()).await?;
        let store_tap = Wiretap::start(port(&store.endpoint())?).await?;
        Ok(Self {
            gateway,
            bucket: VersionedBucket::create(gateway, bucket).await?,
            source: TappedService::start(settings).await?,
            store,
            store_tap,
            folder: tempfile::tempdir()?,
        })
    }

    /// Returns the resource and its Secrets.
    pub(super) fn manifests(&self, params: &ResourceParams<'_>, source: &TappedService) -> Vec<Value> {
        let metadata = |name: &str| json!({ "namespace": params.namespace, "name": name });
        let secret = |name: &str, data: Value| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata(name), "stringData": data });
        let (key, hidden) = (self.gateway.access_key(), self.gateway.secret_key());
        vec![
            secret("tracker", json!({ "apiKey": DEFAULT_API_KEY })),
            secret("bucket", json!({ "accessKeyId": key, "secretAccessKey": hidden })),
            json!({
                "apiVersion": "eventexport.io/v1alpha1",
                "kind": "EventExport",
                "metadata": metadata(params.name),
                "spec": {
                    "space": SPACE,
                    "dateRange": { "start": params.days[0], "end": params.days[1] },
                    "source": {
                        "endpoint": source.tap.url(), "uaaEndpoint": source.tap.url(),
                        "credentialsSecretRef": { "name": "tracker" },
                    },
                    "destination": { "s3": {
                        "bucket": self.bucket.name, "prefix": params.prefix, "endpoint": self.store_tap.url(),
                        "credentialsSecretRef": { "name": "bucket" },
                    }},
                    "parallelism": params.parallelism,
                },
            }),
        ]
    }

    pub(super) async fn apply(&self, cluster: &Cluster, params: &ResourceParams<'_>) -> Result<()> {
        self.apply_from(cluster, params, &self.source).await
    }

    pub(super) async fn apply_from(
        &self,
        cluster: &Cluster,
        params: &ResourceParams<'_>,
        source: &TappedService,
    ) -> Result<()> {
        for document in self.manifests(params, source) {
            apply(cluster, &document).await?;
        }
        Ok(())
    }

    /// Starts an operator of that namespace with a short Lease in it.
    pub(super) async fn operator(
        &self,
        cluster: &Cluster,
        namespace: &str,
        args: &[&str],
    ) -> Result<OperatorProcess> {
        let own = ["--namespace", namespace];
        self.operator_in(cluster, namespace, &[&own[..], args].concat())
            .await
    }

    /// Starts an operator of all namespaces unless `args` differ, which may also set times.
    pub(super) async fn operator_in(
        &self,
        cluster: &Cluster,
        lease: &str,
        args: &[&str],
    ) -> Result<OperatorProcess> {
        let kubeconfig = cluster.kubeconfig_path();
        let times: &[&str] = if args.contains(&"--lease-duration") {
            &[]
        } else {
            &LEASE_FLAGS
        };
        let quiet: &[&str] = if args.contains(&"--session-quiet") {
            &[]
        } else {
            &["--session-quiet", "1s"]
        };
        let args = [&["--lease-namespace", lease][..], times, quiet, args].concat();
        process::operator(&kubeconfig, &args, &[], [&self.source.tap, &self.store_tap]).await
    }

    /// Returns the command `eventexport` with these arguments.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eventexport"));
        command
            .args(args)
            .env("NO_COLOR", "1")
            .env("AWS_ACCESS_KEY_ID", self.gateway.access_key())
            .env("AWS_SECRET_ACCESS_KEY", self.gateway.secret_key())
            .kill_on_drop(true);
        command
    }

    /// Writes the manifest to a file.
    pub(super) fn file(&self, params: &ResourceParams<'_>) -> Result<String> {
        let documents = self.manifests(params, &self.source);
        let text: Vec<String> = documents.iter().map(Value::to_string).collect();
        let path = self.folder.path().join(format!("{}.yaml", params.name));
        std::fs::write(&path, text.join("\n---\n"))?;
        path.to_str().map(str::to_owned).context("not UTF-8")
    }

    /// Returns the bytes that the service sends for a day.
    fn served(&self, day: Date) -> Vec<u8> {
        let body = self.source.simulator.body_of(SPACE, false, day, None);
        body.flat_map(|piece| piece.to_vec()).collect()
    }

    /// Waits until the status is complete.
    pub(super) async fn wait_complete(
        &self,
        cluster: &Cluster,
        params: &ResourceParams<'_>,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let what = format!("{}/{} is complete", params.namespace, params.name);
        let ended = eventually(&what, async || {
            last = get(cluster, params.namespace, params.name)
                .await?
                .context("it is gone")?;
            let kinds = ["Ready", "Complete", "Reconciling", "Stalled"]
                .iter()
                .zip(COMPLETE);
            Ok(kinds
                .into_iter()
                .all(|(kind, wanted)| condition(&last, kind).starts_with(wanted)))
        })
        .await;
        ended.with_context(|| format!("last seen: {}", last["status"]))?;
        Ok(last)
    }

    /// Checks that a prefix has exactly these days as served, and a chain of manifests, each created once, and that
    /// `eventexport verify` succeeds.
    pub(super) async fn check_archive(&self, prefix: &str, days: [&str; 2]) -> Result<()> {
        let all = dates(days)?;
        let root = format!("{prefix}/space={SPACE}/scope=space/");
        let receipt = |day: &Date| format!("{root}_journal/{day}.receipt.json");
        let object = |day: &Date| format!("{root}date={day}/events.json.gz");
        let busy: Vec<Date> = all
            .iter()
            .copied()
            .filter(|day| !self.source.simulator.body_of(SPACE, false, *day, None).is_empty())
            .collect();
        let wanted: BTreeSet<String> = all.iter().map(receipt).chain(busy.iter().map(object)).collect();
        let start = Instant::now();
        let manifests = loop {
            let mut keys = self.bucket.keys().await?;
            keys.retain(|key| key.starts_with(&root));
            let manifests: BTreeSet<String> = keys
                .iter()
                .filter(|key| key.contains("/_manifests/"))
                .cloned()
                .collect();
            keys.retain(|key| !manifests.contains(key));
            if keys == wanted && !manifests.is_empty() {
                break manifests;
            }
            // Temporary entries are deleted after the receipt.
            ensure!(
                start.elapsed() < Duration::from_secs(20),
                "not as wanted: {:#?}",
                keys.symmetric_difference(&wanted).collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let versions = self.bucket.versions().await?;
        for key in wanted.iter().chain(&manifests) {
            ensure!(
                versions.get(key) == Some(&1),
                "{key} has {:?} versions",
                versions.get(key)
            );
        }
        for day in busy {
            let stored = self.bucket.get(&object(&day)).await?;
            ensure!(stored == self.served(day), "{day} is not stored as it was served");
        }
        let mut uploads = self.bucket.uploads().await?;
        uploads.retain(|key| key.starts_with(&root));
        ensure!(uploads.is_empty(), "uploads left: {uploads:?}");
        created_once(&root, &self.store.requests())?;
        self.verify(prefix, days).await
    }

    /// Checks that `eventexport verify` succeeds.
    async fn verify(&self, prefix: &str, days: [&str; 2]) -> Result<()> {
        let archive = format!("s3://{}/{prefix}", self.bucket.name);
        let endpoint = self.gateway.endpoint();
        let args = [
            "verify",
            &archive,
            "--s3-endpoint",
            &endpoint,
            "--s3-region",
            Gateway::REGION,
        ];
        let range = ["--start", days[0], "--end", days[1]];
        let verified = self.command(&[&args[..], &range].concat()).output().await?;
        ensure!(
            verified.status.success(),
            "verify {archive}: {}{}",
            String::from_utf8_lossy(&verified.stdout),
            String::from_utf8_lossy(&verified.stderr)
        );
        Ok(())
    }
}

/// Waits until the condition holds; longer than elsewhere, because complete exports are awaited.
pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    loop {
        let last = holds().await;
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if start.elapsed() > TIMEOUT {
            last.with_context(|| format!("not within {TIMEOUT:?}: {what}"))?;
            anyhow::bail!("not within {TIMEOUT:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns the days of the range.
pub(super) fn dates(days: [&str; 2]) -> Result<Vec<Date>> {
    let (first, last): (Date, Date) = (days[0].parse()?, days[1].parse()?);
    Ok(first.series(1.day()).take_while(|day| *day <= last).collect())
}

/// Checks that each object, receipt and manifest of a root became visible by exactly one successful request. Uploads
/// in parts are exempt: a store may repeat its reply to a second completion, and the number of versions shows that it
/// created nothing.
fn created_once(root: &str, seen: &[ProxiedRequest]) -> Result<()> {
    let mut created = BTreeSet::new();
    for seen in seen
        .iter()
        .filter(|seen| seen.succeeded() && seen.contains(&["PUT ", root]))
    {
        let path = seen.line.split_whitespace().nth(1).unwrap_or_default();
        let key = path.split('?').next().unwrap_or_default();
        let evidence =
            key.contains("/date=") || key.ends_with(".receipt.json") || key.contains("/_manifests/");
        if evidence && !path.contains("partNumber=") {
            ensure!(created.insert(key.to_owned()), "{key} was created twice");
        }
    }
    ensure!(!created.is_empty(), "nothing was seen to be created below {root}");
    Ok(())
}

/// Waits until this many receipts were written through the store's proxy.
pub(super) async fn wait_receipts(fixture: &SplitBrainFixture, count: usize) -> Result<()> {
    let what = format!("{count} days are stored");
    eventually(&what, async || {
        let seen = fixture.store.requests();
        let stored = |seen: &&ProxiedRequest| seen.succeeded() && seen.contains(&["PUT ", ".receipt.json"]);
        Ok(seen.iter().filter(stored).count() >= count)
    })
    .await
}

/// Returns the requests of a process to both peers since that time.
pub(super) fn requests_since(fixture: &SplitBrainFixture, process: u32, since: Instant) -> Vec<String> {
    let lines = [&fixture.source.tap, &fixture.store_tap];
    let requests = lines.into_iter().flat_map(|line| line.requests_from(process));
    requests
        .filter(|request| request.at >= since)
        .map(|request| request.line)
        .collect()
}

/// Waits for the end of a process and returns its exit code.
pub(super) async fn wait_exit(process: &mut OperatorProcess) -> Result<Option<i32>> {
    let ended = tokio::time::timeout(TIMEOUT, process.child.wait()).await;
    Ok(ended.context("it goes on")??.code())
}

/// Kills a process with SIGKILL and waits for its end.
pub(super) async fn kill(mut process: OperatorProcess) -> Result<()> {
    process.signal("-KILL").await?;
    process.child.wait().await?;
    Ok(())
}
