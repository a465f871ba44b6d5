//! What these tests share: environments, exports through their proxies, operators, and the checks of the final archives.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use eventexport::simulator::Settings;
use jiff::ToSpan as _;
use jiff::civil::Date;
use serde_json::Value;

use crate::bed::{Cluster, Gateway};
use crate::operator::{eventually_within, wait_conditions_within};
use crate::testkit::command::{bucket_env, program_in, run_command};
use crate::testkit::environment::{COMPLETE, Environment};
use crate::testkit::manifest::{Manifest, SPACE};
use crate::testkit::operator::{LeaseTimes, OperatorCommand};
use crate::testkit::process::Process;
use crate::testkit::proxy::{RecordedRequest, created};

/// Generous, because a machine that also compiles is slow.
pub(super) const TIMEOUT: Duration = Duration::from_mins(4);

/// Short enough to wait for, and long enough to keep on a machine that also compiles.
const LEASE: LeaseTimes = ["10s", "8s", "1s"];

/// Starts an environment; its exports bring their Secrets.
pub(super) async fn environment(name: &str, settings: Settings) -> Result<Environment> {
    let environment = Environment::builder(name).service(settings);
    environment.versioned().without_secrets().start().await
}

/// Returns an export of these days with its Secrets, through the proxies.
pub(super) fn export(env: &Environment, days: [&str; 2]) -> Manifest {
    let export = env.proxied_export("june").days(days[0], days[1]);
    export.set("parallelism", 3).secrets(env.gateway)
}

/// Returns an operator of the environment's namespace.
pub(super) fn operator(env: &Environment) -> OperatorCommand {
    operator_of(env, env.cluster, &env.namespace)
}

/// Returns an operator of a namespace in that cluster.
pub(super) fn operator_of(env: &Environment, cluster: &Cluster, namespace: &str) -> OperatorCommand {
    env.operator_of(cluster).namespace(namespace).lease(LEASE)
}

/// Waits until an export is complete.
pub(super) async fn wait_complete(cluster: &Cluster, export: &Manifest) -> Result<Value> {
    wait_conditions_within(TIMEOUT, cluster, export.key(), COMPLETE).await
}

/// Checks that a prefix has exactly these days as served, and a chain of manifests, each created once, and that
/// `eventexport verify` succeeds.
pub(super) async fn check_archive(env: &Environment, prefix: &str, days: [&str; 2]) -> Result<()> {
    let root = format!("{prefix}/space={SPACE}/scope=space/");
    let (first, last): (Date, Date) = (days[0].parse()?, days[1].parse()?);
    let dates: Vec<Date> = first.series(1.day()).take_while(|day| *day <= last).collect();
    env.bucket.check_archive(&env.simulator, prefix, &dates).await?;
    created_once(&root, &env.store.requests())?;

    let archive = format!("s3://{}/{prefix}", env.bucket.name);
    let endpoint = env.gateway.endpoint();
    let verify = ["verify", &archive, "--s3-endpoint", &endpoint];
    let range = ["--start", days[0], "--end", days[1]];
    let region = ["--s3-region", Gateway::REGION];
    let mut verify = program_in(env.folder.path(), &[&verify[..], &region, &range].concat());
    verify.envs(bucket_env(env.gateway));
    run_command(verify).await.expect_exit(0);
    Ok(())
}

/// Waits until the condition holds; longer than elsewhere, because complete exports are awaited.
pub(super) async fn eventually(what: &str, holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    eventually_within(TIMEOUT, what, holds).await
}

/// Checks that each object, receipt and manifest of a root became visible by exactly one successful request. Uploads
/// in parts are exempt: a store may repeat its reply to a second completion, and the number of versions shows that it
/// created nothing.
fn created_once(root: &str, seen: &[RecordedRequest]) -> Result<()> {
    let mut keys = BTreeSet::new();
    for (key, upload) in seen.iter().filter_map(created) {
        let evidence =
            key.contains("/date=") || key.ends_with(".receipt.json") || key.contains("/_manifests/");
        if evidence && upload.is_empty() && key.starts_with(root) {
            ensure!(keys.insert(key), "{key} was created twice");
        }
    }
    ensure!(!keys.is_empty(), "nothing was seen to be created below {root}");
    Ok(())
}

/// Counts the receipts that were written through the store's proxy.
pub(super) fn receipts(env: &Environment) -> usize {
    let seen = env.store.requests();
    let stored = |seen: &&RecordedRequest| seen.succeeded() && seen.contains(&["PUT ", ".receipt.json"]);
    seen.iter().filter(stored).count()
}

/// Waits until this many receipts were written.
pub(super) async fn wait_receipts(env: &Environment, count: usize) -> Result<()> {
    let what = format!("{count} days are stored");
    eventually(&what, async || Ok(receipts(env) >= count)).await
}

/// Returns the requests of a process to both peers since that time.
pub(super) fn requests_since(env: &Environment, process: u32, since: Instant) -> Vec<String> {
    let requests = env.rules.requests_from(process).into_iter();
    requests
        .filter(|request| request.at >= since)
        .map(|request| request.line)
        .collect()
}

/// Waits for the end of a process and returns its exit code.
pub(super) async fn wait_exit(process: &Process) -> Result<Option<i32>> {
    Ok(process.wait(TIMEOUT).await?.code())
}
