//! Embeds the engine in a program of its own: exports a week from the simulator to a directory, twice, and prints the coverage.
//!
//! `cargo run --example embed -- ./export`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use eventexport::api::{EventExport, ReferencedKind, SettingNames};
use eventexport::egress::{HostPolicy, Traffic};
use eventexport::export::connect::{self, PodIdentity, ProcessContext, Secrets};
use eventexport::export::engine::{Engine, Limits, Peers};
use eventexport::export::failure::Failure;
use eventexport::export::manifest::sign::Signing;
use eventexport::export::shard::Shard;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::RetryPolicy;
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use eventexport::storage::{AwsIdentities, DirectoryStore};
use eventexport::tracker::TokenCache;
use jiff::Timestamp;
use jiff::civil::date;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Settings that the program adds to a resource.
fn process_context() -> ProcessContext {
    ProcessContext {
        name: "embed".to_owned(),
        // Hosts that may get tokens and events: any that the resource names.
        hosts: HostPolicy::any(),
        store_hosts: HostPolicy::any(),
        traffic: Traffic::default(),
        tokens: TokenCache::new(),
        identities: AwsIdentities::new(Traffic::default()),
        service_account: None,
        pod_identity: Arc::new(|| PodIdentity::NotGranted),
        // Marks the attempts in the journal as those of this program: the same at each start, and of one process at a time.
        holder: "examples/embed".to_owned(),
        holder_epoch: None,
        single_writer: false,
        retry_policy: RetryPolicy::MaxAttempts(3),
        shard: Shard::SINGLE,
        setting_names: SettingNames::default(),
    }
}

fn failed(failure: &Failure) -> anyhow::Error {
    anyhow!("{}: {}", failure.reason, failure.message)
}

/// Exports the first week of June 2018 from the service at `endpoint` to `folder`.
async fn export(endpoint: &str, folder: &Path) -> Result<Arc<Snapshot>> {
    // The resource is the one of the operator and of `run -f`. The directory takes the place of its bucket.
    let resource: EventExport = serde_json::from_value(json!({
        "apiVersion": "eventexport.io/v1alpha1",
        "kind": "EventExport",
        "metadata": {"name": "embed"},
        "spec": {
            "space": "c1234567-6d55-4193-a9de-378620d6fab5",
            "dateRange": {"start": "2018-06-01", "end": "2018-06-07"},
            "source": {"endpoint": endpoint, "credentialsSecretRef": {"name": "tracker"}},
            "destination": {"s3": {"bucket": "directory", "region": "us-east-1"}},
        },
    }))?;
    let key = BTreeMap::from([("apiKey".to_owned(), DEFAULT_API_KEY.as_bytes().to_vec())]);
    let secrets = Secrets(BTreeMap::from([(ReferencedKind::Secret.named("tracker"), key)]));

    let context = process_context();
    let mut spec = connect::export_spec(&resource.spec, &context).map_err(|failure| failed(&failure))?;
    // Receipts name their source, and the simulator has another port in each run.
    "http://simulator.invalid".clone_into(&mut spec.source);
    let peers = Peers {
        tracker: connect::tracker(&resource.spec.source, &secrets, &context)
            .map_err(|failure| failed(&failure))?,
        store: Arc::new(DirectoryStore::open(folder)?),
        signing: Signing::Disabled,
        timestamps: None,
    };
    // One engine for all exports of a process: it shares memory, processors and sessions among them.
    let engine = Engine::new(Limits::default(), Arc::new(Timestamp::now));
    // A receiver sees each change; the last snapshot is returned, too.
    let (changes, _) = watch::channel(Arc::default());
    let stop = CancellationToken::new();
    Ok(engine.run(Arc::new(spec), peers, &changes, stop).await)
}

/// Lines that show the coverage, and whether this run downloaded a window or found it.
fn coverage(snapshot: &Snapshot) -> Vec<String> {
    let windows = snapshot.windows.iter().map(|(window, facts)| {
        let origin = if facts.stored_now { "downloaded" } else { "found" };
        let (events, verdict) = (facts.events, facts.verdict);
        format!("{window}  {events:>4} events  {verdict:?}  {origin}")
    });
    let problems = snapshot
        .problems
        .iter()
        .map(|problem| format!("problem: {problem:?}"));
    let total = format!(
        "{} of {} windows stored, complete: {}",
        snapshot.stored, snapshot.wanted, snapshot.complete
    );
    windows.chain(problems).chain([total]).collect()
}

/// Exports twice to `folder`, and returns the coverage after each run.
pub(crate) async fn run(folder: &Path) -> Result<[Vec<String>; 2]> {
    let settings = Settings {
        today: Some(date(2018, 7, 1)),
        ..Settings::default()
    };
    let simulator = Simulator::start(settings).await?;
    let endpoint = simulator.url().as_str().trim_end_matches('/').to_owned();
    let first = coverage(&*export(&endpoint, folder).await?);
    let second = coverage(&*export(&endpoint, folder).await?);
    simulator.stop().await;
    Ok([first, second])
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.context("usage: embed DIRECTORY")?;
    for lines in run(&folder).await? {
        println!("{}\n", lines.join("\n"));
    }
    Ok(())
}
