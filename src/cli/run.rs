//! `eventexport run`: exports what a manifest asks for, once, without a cluster. Does everything that has
//! effects through the engine; itself only shows progress and listens to signals.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use indicatif::MultiProgress;
use jiff::Timestamp;
use tokio::sync::watch;

use super::exit::{CliError, Exit};
use super::job::{self, PreparedExport, RunOptions};
use super::outcome::{self, ExportOutcome};
use super::output::OutputFormat;
use super::progress::{ProgressMode, RunProgress};
use super::run_summary::{self, ExportResult};
use super::simulation::Simulation;
use super::state::Holder;
use super::stop::{self, ShutdownSignals};
use super::summary_text;
use super::{load, logs};
use crate::export::engine::{Engine, Limits};
use crate::export::shard::Shard;
use crate::export::snapshot::Snapshot;

/// Exports of a manifest that run together: 4. Their windows share the engine's bounds anyway.
const CONCURRENT_EXPORTS_MAX: usize = 4;

/// How often the view is brought up to date while nothing changes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// The longest that the clean-up after an export may take: 30 s.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Export what a manifest asks for, once, without a cluster.
///
/// Takes the very file that `kubectl apply` takes. What is stored already is not downloaded again: run it again
/// after a failure or an interruption, and it goes on where it left off. Exit code 0: all that is due is stored
/// and proved; 1: something is missing; 2: the arguments or the manifest cannot be used.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Manifest with `EventExport` resources and their Secrets, YAML or JSON; `-` reads standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Store below this directory instead of the bucket of the manifest, under the same keys
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Ask a bundled, made-up Activity Tracker instead of the source of the manifest
    #[arg(long, requires = "to")]
    pub simulate: bool,
    /// What is printed: text for people, json for programs (one object per line on standard output)
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    /// Print nothing but what is missing and what to do
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub verbosity: logs::Verbosity,
    /// Write to a store that cannot create an object only if it is absent: nobody else exports to this prefix
    #[arg(long)]
    pub single_writer: bool,
    /// Windows at a time, instead of `spec.parallelism`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=30))]
    pub parallelism: Option<u8>,
    /// Do one part of several only, as one of several processes that share the work: part I of N, counted from 0
    #[arg(long, env = "EVENTEXPORT_SHARD", value_name = "I/N", default_value_t = Shard::SINGLE, hide_default_value = true)]
    pub shard: Shard,
    /// Sessions held at most in one space, of the 30 that the service allows everyone together (default: 28, or with
    /// --shard an even share of them)
    #[arg(long, env = "EVENTEXPORT_SESSIONS_PER_SPACE", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=29))]
    pub sessions_per_space: Option<u8>,
    /// Name in the journal instead of one for this user on this machine: the same after a restart, and nobody else's.
    /// With it the state folder is used only where --state-dir names it. The shard is added to it
    #[arg(long, env = "EVENTEXPORT_HOLDER", value_name = "NAME")]
    pub holder: Option<String>,
    /// Folder that stands for this user on this machine, so that a run after a crash knows its own leftovers
    /// (default: `$XDG_STATE_HOME/eventexport` or `~/.local/state/eventexport`)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  Try it without service, bucket or cluster:
    eventexport run -f examples/quickstart.yaml --simulate --to ./export
  Export to the bucket of the manifest, with the API key from the environment:
    EVENTEXPORT_API_KEY=… AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… eventexport run -f audit.yaml
  The same for a program:
    eventexport run -f audit.yaml --output json

Secrets are never arguments: they are further documents of the manifest, or in the environment (docs/cli.md).
Ctrl-C deletes the open sessions and says what is left; a second Ctrl-C leaves at once.";

/// Runs the command; whatever ends it early is told to programs too.
pub async fn run(args: RunArgs) -> Result<Exit, CliError> {
    let json = args.output == OutputFormat::Json;
    let result = run_exports(args).await;
    if let (Err(error), true) = (&result, json) {
        run_summary::print_error(error);
    }
    result
}

async fn run_exports(args: RunArgs) -> Result<Exit, CliError> {
    let screen = MultiProgress::new();
    logs::start(&screen, args.verbosity)?;
    let mode = ProgressMode::detect(args.output == OutputFormat::Json, args.quiet);
    let manifest = load::manifest(&args.files)?;
    let holder = Holder::open(args.holder.as_deref(), args.state_dir.as_deref(), args.shard)
        .map_err(|error| CliError::usage(error.to_string()))?;
    let stop = stop::listen().map_err(anyhow::Error::from)?;
    let simulation = start_simulation(&args, &manifest.exports).await?;
    let options = RunOptions {
        to: args.to.as_deref(),
        parallelism: args.parallelism,
        single_writer: args.single_writer,
        shard: args.shard,
        max_sessions: max_sessions(args.shard, args.sessions_per_space),
    };
    let jobs = job::prepare_all(&manifest, &options, simulation.as_ref(), holder.name()).await?;

    let mut progress = RunProgress::new(
        mode,
        jobs.iter().map(|job| job.export.name.clone()).collect(),
        &screen,
    );
    if let Some(simulation) = &simulation {
        progress.println(&simulation.announcement());
    }
    let run = ManifestRun {
        jobs: &jobs,
        holder: &holder,
        limits: Limits {
            sessions_per_space: usize::from(options.max_sessions),
            ..Limits::default()
        },
        stop: &stop,
        progress: Mutex::new(progress),
        snapshots: snapshot_channels(&jobs),
    };
    let results = run.run_all().await;
    let exit = run_summary::print(&run_summary::RunSummary {
        results: &results,
        jobs: &jobs,
        simulation: simulation.as_ref(),
        stopped: stop.graceful.is_cancelled(),
        immediate: stop.immediate.is_cancelled(),
        mode,
    });
    if let Some(simulation) = simulation {
        simulation.stop().await;
    }
    Ok(exit)
}

/// Sessions that one process may hold in a space: what was asked for, or an even share of what one alone takes.
/// More than 28 processes take one each, and wait for each other when the space is full.
pub(super) fn max_sessions(shard: Shard, asked: Option<u8>) -> u8 {
    let even = shard.share(Limits::default().sessions_per_space);
    asked.unwrap_or_else(|| u8::try_from(even).unwrap_or(u8::MAX))
}

async fn start_simulation(
    args: &RunArgs,
    exports: &[super::manifest::ExportResource],
) -> Result<Option<Simulation>, CliError> {
    if !args.simulate {
        return Ok(None);
    }
    let ranges = exports
        .iter()
        .map(job::date_range)
        .collect::<Result<Vec<_>, CliError>>()?;
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    Simulation::start(&ranges, today).await.map(Some)
}

/// The latest of each export, readable also when the run is left at once.
type SnapshotChannel = (watch::Sender<Arc<Snapshot>>, watch::Receiver<Arc<Snapshot>>);

fn snapshot_channels(jobs: &[PreparedExport]) -> Vec<SnapshotChannel> {
    jobs.iter().map(|_| watch::channel(Arc::default())).collect()
}

struct ManifestRun<'a> {
    jobs: &'a [PreparedExport],
    holder: &'a Holder,
    limits: Limits,
    stop: &'a ShutdownSignals,
    progress: Mutex<RunProgress>,
    snapshots: Vec<SnapshotChannel>,
}

impl ManifestRun<'_> {
    /// Until every export is at its end, or a person wants to leave at once.
    async fn run_all(&self) -> Vec<ExportResult> {
        let engine = Engine::new(self.limits, Arc::new(Timestamp::now));
        let groups = job::group_by_destination(self.jobs);
        let all = futures::stream::iter(groups)
            .map(|(identity, numbers)| self.run_group(&engine, identity, numbers))
            .buffer_unordered(CONCURRENT_EXPORTS_MAX)
            .collect::<Vec<_>>();
        tokio::select! {
            biased;
            () = self.stop.immediate.cancelled() => {}
            () = self.announce_stop() => {}
            _ = all => {}
        }
        self.with_progress(RunProgress::finish);
        self.jobs
            .iter()
            .zip(&self.snapshots)
            .map(|(job, (_, receiver))| self.export_result(job, &receiver.borrow()))
            .collect()
    }

    /// Says once that the signal was heard; never ends by itself.
    async fn announce_stop(&self) {
        self.stop.graceful.cancelled().await;
        self.with_progress(|progress| {
            progress.println(
                "Stopping: transfers are given up and sessions deleted. Ctrl-C again leaves at once.",
            );
        });
        std::future::pending::<()>().await;
    }

    /// Exports of one store and root, one after the other: with one holder they would meet in the journal.
    async fn run_group(&self, engine: &Engine, identity: String, numbers: Vec<usize>) {
        for (number, job, (sender, receiver)) in numbers
            .into_iter()
            .filter_map(|number| Some((number, self.jobs.get(number)?, self.snapshots.get(number)?)))
        {
            if self.stop.graceful.is_cancelled() {
                return;
            }
            match self.holder.lock(&identity, &job.export.name) {
                Ok(_lock) => {
                    self.run_export(engine, number, job, sender, receiver.clone())
                        .await
                }
                Err(error) => {
                    sender.send_replace(Arc::new(run_summary::not_started(&error.to_string())));
                    self.with_progress(|progress| progress.update(number, &sender.borrow()));
                }
            }
        }
    }

    async fn run_export(
        &self,
        engine: &Engine,
        number: usize,
        job: &PreparedExport,
        sender: &watch::Sender<Arc<Snapshot>>,
        mut receiver: watch::Receiver<Arc<Snapshot>>,
    ) {
        let mut run = std::pin::pin!(engine.run(
            job.export.clone(),
            job.peers.clone(),
            sender,
            self.stop.graceful.clone()
        ));
        // What fails after the signal fails because of it.
        let mut problems = Vec::new();
        let last = loop {
            tokio::select! {
                last = &mut run => break last,
                _ = receiver.changed() => {}
                () = tokio::time::sleep(REFRESH_INTERVAL) => {}
            }
            let snapshot = receiver.borrow_and_update().clone();
            if !self.stop.graceful.is_cancelled() {
                problems.clone_from(&snapshot.problems);
                self.with_progress(|progress| progress.update(number, &snapshot));
            }
        };
        let last = if self.stop.graceful.is_cancelled() {
            Arc::new(Snapshot {
                problems,
                ..Snapshot::clone(&last)
            })
        } else {
            last
        };
        sender.send_replace(last.clone());
        self.with_progress(|progress| progress.update(number, &last));
        if !last.sessions.is_empty() {
            self.release_sessions(engine, job, sender, &last).await;
        }
    }

    /// Tries once more to delete what is open, and keeps the truth about what is left.
    async fn release_sessions(
        &self,
        engine: &Engine,
        job: &PreparedExport,
        sender: &watch::Sender<Arc<Snapshot>>,
        last: &Snapshot,
    ) {
        let released = tokio::time::timeout(RELEASE_TIMEOUT, engine.release(&job.export, &job.peers)).await;
        if let Ok(released) = released
            && released.unknown.is_none()
        {
            let left = |id: &String| released.leftover_sessions.iter().any(|(other, _)| other == id);
            let sessions = last
                .sessions
                .iter()
                .filter(|session| left(&session.id))
                .cloned()
                .collect();
            sender.send_replace(Arc::new(Snapshot {
                sessions,
                ..last.clone()
            }));
        }
    }

    fn with_progress(&self, show: impl FnOnce(&mut RunProgress)) {
        // Drawing keeps no promise that a panic elsewhere could have broken.
        show(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn export_result(&self, job: &PreparedExport, snapshot: &Snapshot) -> ExportResult {
        let outcome: ExportOutcome = outcome::evaluate(&job.export, snapshot, Timestamp::now());
        let left = summary_text::remaining_work(&outcome, self.stop.graceful.is_cancelled());
        ExportResult { outcome, left }
    }
}
