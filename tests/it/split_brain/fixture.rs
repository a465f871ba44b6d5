//! A service and a bucket behind proxies, the resources that use them, and the checks of the final archives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{Settings, Simulator};
use jiff::ToSpan as _;
use jiff::civil::Date;
use serde_json::Value;
use tokio::process::Command;

use crate::bed::{Cluster, Gateway};
use crate::operator::process::OperatorProcess;
use crate::operator::{apply, condition, get};
use crate::testkit::bucket::Bucket;
use crate::testkit::environment::{COMPLETE, no_session_left};
use crate::testkit::manifest::{Manifest, SPACE};
use crate::testkit::operator::OperatorCommand;
use crate::testkit::proxy::{ProxiedPeer, Proxy, RecordedRequest, Rules};

/// Generous, because a machine that also compiles is slow.
pub(super) const TIMEOUT: Duration = Duration::from_mins(4);

/// Short enough to wait for, and long enough to keep on a machine that also compiles.
const LEASE: [&str; 3] = ["10s", "8s", "1s"];

/// Service with a proxy before it.
pub(super) struct TappedService {
    pub(super) simulator: Simulator,
    pub(super) proxy: Proxy,
}

impl TappedService {
    pub(super) async fn start(settings: Settings, rules: &Arc<Rules>) -> Result<Self> {
        let simulator = Simulator::start(settings).await?;
        let proxy = Proxy::start(ProxiedPeer::Tracker, simulator.url().as_str(), rules).await?;
        Ok(Self { simulator, proxy })
    }

    pub(super) fn no_session_left(&self) -> Result<()> {
        no_session_left(&self.simulator)
    }
}

pub(super) struct SplitBrainFixture {
    pub(super) gateway: &'static Gateway,
    pub(super) bucket: Bucket,
    pub(super) source: TappedService,
    /// Shares its rules with the proxy of the service.
    pub(super) store: Proxy,
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
        let rules = Rules::new();
        Ok(Self {
            gateway,
            bucket: Bucket::create_versioned(gateway, bucket).await?,
            source: TappedService::start(settings, &rules).await?,
            store: Proxy::store(gateway, &rules).await?,
            folder: tempfile::tempdir()?,
        })
    }

    /// Returns the resource and its Secrets.
    fn manifest(&self, params: &ResourceParams<'_>, source: &TappedService) -> Manifest {
        Manifest::new(params.name, &source.proxy.endpoint())
            .namespace(params.namespace)
            .days(params.days[0], params.days[1])
            .uaa()
            .bucket(&self.bucket.name, params.prefix, &self.store.endpoint())
            .set("parallelism", params.parallelism)
            .secrets(self.gateway)
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
        for document in self.manifest(params, source).documents() {
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
        let mut operator = OperatorCommand::new(cluster)
            .args(&["--lease-namespace", lease])
            .watched_by(&self.store);
        if !args.contains(&"--lease-duration") {
            operator = operator.lease(LEASE);
        }
        if !args.contains(&"--session-quiet") {
            operator = operator.args(&["--session-quiet", "1s"]);
        }
        operator.args(args).start().await
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
        let path = self.folder.path().join(format!("{}.yaml", params.name));
        let path = self.manifest(params, &self.source).write(path);
        path.to_str().map(str::to_owned).context("not UTF-8")
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
        let root = format!("{prefix}/space={SPACE}/scope=space/");
        self.bucket
            .check_archive(&self.source.simulator, prefix, &dates(days)?)
            .await?;
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
fn created_once(root: &str, seen: &[RecordedRequest]) -> Result<()> {
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
        let stored = |seen: &&RecordedRequest| seen.succeeded() && seen.contains(&["PUT ", ".receipt.json"]);
        Ok(seen.iter().filter(stored).count() >= count)
    })
    .await
}

/// Returns the requests of a process to both peers since that time.
pub(super) fn requests_since(fixture: &SplitBrainFixture, process: u32, since: Instant) -> Vec<String> {
    let requests = fixture.store.rules().requests_from(process).into_iter();
    requests
        .filter(|request| request.at >= since)
        .map(|request| request.line)
        .collect()
}

/// Waits for the end of a process and returns its exit code.
pub(super) async fn wait_exit(process: &OperatorProcess) -> Result<Option<i32>> {
    Ok(process.wait(TIMEOUT).await?.code())
}

/// Kills a process with SIGKILL and waits for its end.
pub(super) async fn kill(process: OperatorProcess) -> Result<()> {
    process.kill().await
}
