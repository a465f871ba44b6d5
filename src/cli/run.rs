//! `eventexport run`: runs the exports of a manifest once, without a cluster. The engine does all I/O on sources
//! and destinations; this module shows progress and listens for signals.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use indicatif::MultiProgress;
use jiff::Timestamp;
use tokio::sync::watch;

use super::exit::{CliError, Exit};
use super::job::{self, PreparedExport, RunOptions};
use super::logs;
use super::operator::duration;
use super::outcome::{self, ExportOutcome};
use super::output::{OutputFormat, write_stdout};
use super::progress::{ProgressMode, RunProgress};
use super::run_summary::{self, ExportResult};
use super::settings::destination::{DestinationOverride, S3Args};
use super::settings::export::{ExportArgs, LoadedExports, SourceCredentials};
use super::settings::location::{ARCHIVE_VALUE, ArchiveLocation};
use super::simulation::Simulation;
use super::state::Holder;
use super::stop::{self, ShutdownSignals};
use super::summary_text;
use super::verify_command::{RunSource, verify_command};
use crate::archive::manifest::{Head, HeadRecord};
use crate::export::engine::{Engine, Limits, RunControl};
use crate::export::shard::Shard;
use crate::export::snapshot::Snapshot;

/// Maximum number of exports that run concurrently: 4. Their windows share the limits of the engine.
const CONCURRENT_EXPORTS_MAX: usize = 4;

/// Refresh interval of the progress display while nothing changes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum time for deleting leftover sessions after an export: 30 s.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Run the exports of a manifest once, without a cluster.
///
/// Reads the same file as `kubectl apply`. With --start instead of -f, exports the space of the flags, the environment or the
/// context (docs/cli.md) to --archive. Windows that are already stored are not downloaded again: to resume
/// after a failure or an interruption, run the same command again. Exit code 0: everything due is stored and
/// proved, and no session is left; 1: something is missing or not finished; 2: the arguments or the manifest are
/// invalid.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Destination: a directory, or `s3://bucket/prefix`. With -f: instead of the bucket of the manifest, under the same keys
    #[arg(long, alias = "to", value_name = ARCHIVE_VALUE, value_parser = ArchiveLocation::parser())]
    pub archive: Option<ArchiveLocation>,
    /// Use a bundled fake Activity Tracker instead of the service, which then needs no name, space or credentials
    #[arg(long, requires = "archive")]
    pub simulate: bool,
    /// Print the manifest that --start and the other flags stand for, with placeholders for secrets, and export nothing
    #[arg(long, requires = "start", conflicts_with = "simulate")]
    pub print_manifest: bool,
    /// Output format: text for people, wide with all columns, json for programs (one object per line on standard output)
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    /// Print only what is missing and what to do about it
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub verbosity: logs::Verbosity,
    /// Maximum time to wait for a session while the service opens none, for example `90s`, `10m`, `2h`; then the run
    /// ends with exit code 1
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub wait: Duration,
    /// Allow a store without conditional writes; no other process may export to this prefix
    #[arg(long)]
    pub single_writer: bool,
    /// Maximum number of concurrent windows; overrides `spec.parallelism`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=30))]
    pub parallelism: Option<u8>,
    /// Run only part I of N (counted from 0), to divide the work between N processes
    #[arg(long, env = "EVENTEXPORT_SHARD", value_name = "I/N", default_value_t = Shard::SINGLE, hide_default_value = true)]
    pub shard: Shard,
    /// Maximum number of sessions to hold in one space, of the 30 that the service allows for all users together
    /// (default: 28, or with --shard an even share)
    #[arg(long, env = "EVENTEXPORT_SESSIONS_PER_SPACE", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=29))]
    pub sessions_per_space: Option<u8>,
    /// Memory for data in flight, in MiB, over all exports
    #[arg(long, env = "EVENTEXPORT_POOL_MIB", value_name = "MIB", default_value_t = Limits::default().pool_mib, value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub pool_mib: u32,
    /// Holder name in the journal, instead of one for this user on this machine. It must be unique and stay the same
    /// after a restart. The state folder is then used only with --state-dir. The shard is appended to the name
    #[arg(long, env = "EVENTEXPORT_HOLDER", value_name = "NAME")]
    pub holder: Option<String>,
    /// State folder that identifies this user on this machine, so that a run after a crash recognizes its own leftovers
    /// (default: `$XDG_STATE_HOME/eventexport` or `~/.local/state/eventexport`)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Newest manifest of the archive after the last run, as its summary printed it. If the archive does not have it any
    /// more, no manifest is written, and the exit code is 1. Only for a manifest with one export
    #[arg(long, value_name = "SEQ:SHA256")]
    pub head: Option<Head>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub export: ExportArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub s3: S3Args,
}

const EXAMPLES: &str = "\
Examples:
  Try it without a service, bucket or cluster:
    eventexport run --simulate --start 2018-06-01 --end 2018-06-30 --archive ./export
  Export a month without a manifest; prompts for the API key if no variable or context has it:
    eventexport run --region us-south --space ID --start 2018-06-01 --end 2018-06-30 --archive s3://audit/tracker
  Export to the bucket of the manifest, with the API key from the environment:
    EVENTEXPORT_API_KEY=… AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… eventexport run -f audit.yaml
  The same, with JSON output:
    eventexport run -f audit.yaml --output json
  Export to another bucket:
    eventexport run -f audit.yaml --archive s3://audit-copy/tracker --s3-region eu-central-1

Secrets are never arguments: pass them as documents of the manifest or in the environment (docs/cli.md).
Ctrl-C deletes the open sessions and prints what is left; a second Ctrl-C exits immediately.";

/// Runs the command. With `--output json`, an early error is printed as a JSON line too.
pub async fn run(args: RunArgs) -> Result<Exit, CliError> {
    let json = args.output == OutputFormat::Json;
    let result = Box::pin(run_exports(args)).await;
    if let (Err(error), true) = (&result, json) {
        run_summary::print_error(error);
    }
    result
}

async fn run_exports(args: RunArgs) -> Result<Exit, CliError> {
    let screen = MultiProgress::new();
    logs::start(&screen, args.verbosity)?;
    let mode = ProgressMode::detect(args.output == OutputFormat::Json, args.quiet);
    if args.print_manifest {
        let text = args.export.manifest_text(args.archive.as_ref(), &args.s3)?;
        return write_stdout(&text).map(|()| Exit::Done);
    }
    let credentials = if args.simulate {
        SourceCredentials::Simulated
    } else {
        SourceCredentials::Required
    };
    let exports = args.export.load(args.archive.as_ref(), &args.s3, credentials)?;
    let run_source = RunSource {
        files: &args.export.files,
        s3: &args.s3,
        simulated: args.simulate,
    };
    let verify = verify_command(&exports, run_source).filter(|_| args.shard == Shard::SINGLE);
    let LoadedExports { manifest, archive } = exports;
    let holder = Holder::open(args.holder.as_deref(), args.state_dir.as_deref(), args.shard)
        .map_err(|error| CliError::usage(error.to_string()))?;
    let stop = stop::listen().map_err(anyhow::Error::from)?;
    let simulation = start_simulation(&args, &manifest.exports).await?;
    let options = RunOptions {
        archive: archive.as_ref().map(|location| DestinationOverride {
            location,
            s3: &args.s3,
            context: None,
        }),
        parallelism: args.parallelism,
        single_writer: args.single_writer,
        shard: args.shard,
        max_sessions: max_sessions(args.shard, args.sessions_per_space),
    };
    let jobs = Box::pin(job::prepare_all(
        &manifest,
        &options,
        simulation.as_ref(),
        holder.name(),
    ))
    .await?;
    if args.head.is_some() && jobs.len() != 1 {
        let message = format!(
            "--head is about one archive, and there are {} exports in the manifest: run each from a file of its own",
            jobs.len()
        );
        return Err(CliError::usage(message));
    }

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
        head: args.head.clone().map(HeadRecord::from),
        limits: Limits {
            pool_mib: args.pool_mib,
            sessions_per_space: usize::from(options.max_sessions),
            session_wait: Some(args.wait),
            ..Limits::default()
        },
        stop: &stop,
        progress: Mutex::new(progress),
        snapshots: snapshot_channels(&jobs),
    };
    let results = run.run_all().await;
    let printed = run_summary::print(&run_summary::RunSummary {
        results: &results,
        jobs: &jobs,
        simulation: simulation.as_ref(),
        stopped: stop.graceful.is_cancelled(),
        immediate: stop.immediate.is_cancelled(),
        mode,
        wide: args.output == OutputFormat::Wide,
        verify,
    });
    if let Some(simulation) = simulation {
        simulation.stop().await;
    }
    match run.with_progress(RunProgress::take_error) {
        Some(error) => Err(error),
        None => printed,
    }
}

/// Returns the maximum number of sessions per space: the requested number, or this shard's even share of the default.
/// With more than 28 shards, each takes one and waits while the space is full.
pub(super) fn max_sessions(shard: Shard, requested: Option<u8>) -> u8 {
    let even = shard.share(Limits::default().sessions_per_space);
    requested.unwrap_or_else(|| u8::try_from(even).unwrap_or(u8::MAX))
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

/// Latest snapshot of an export, which stays readable after an immediate exit.
type SnapshotChannel = (watch::Sender<Arc<Snapshot>>, watch::Receiver<Arc<Snapshot>>);

fn snapshot_channels(jobs: &[PreparedExport]) -> Vec<SnapshotChannel> {
    jobs.iter().map(|_| watch::channel(Arc::default())).collect()
}

struct ManifestRun<'a> {
    jobs: &'a [PreparedExport],
    holder: &'a Holder,
    /// Newest manifest of the only export, as the user remembers it.
    head: Option<HeadRecord>,
    limits: Limits,
    stop: &'a ShutdownSignals,
    progress: Mutex<RunProgress>,
    snapshots: Vec<SnapshotChannel>,
}

impl ManifestRun<'_> {
    /// Runs until every export ends, or until the second signal.
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

    /// Prints a line after the first signal; never completes.
    async fn announce_stop(&self) {
        self.stop.graceful.cancelled().await;
        self.with_progress(|progress| {
            progress.println("Stopping: deleting sessions. Press Ctrl-C again to exit immediately.");
        });
        std::future::pending::<()>().await;
    }

    /// Runs exports of the same store and root in sequence: they share a holder and would conflict in the journal.
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
                        .await;
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
        let control = RunControl {
            head: self.head.clone(),
            ..RunControl::from(self.stop.graceful.clone())
        };
        let mut run = std::pin::pin!(engine.run(job.export.clone(), job.peers.clone(), sender, control));
        // The shutdown causes the problems that follow the signal.
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

    /// Tries once more to delete the open sessions, and keeps those that are left in the snapshot.
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
            // Without leftovers, every attempt is closed.
            let open_attempts = if released.leftover_sessions.is_empty() {
                Vec::new()
            } else {
                last.open_attempts.clone()
            };
            let left = |id: &String| released.leftover_sessions.iter().any(|(other, _)| other == id);
            let sessions = last
                .sessions
                .iter()
                .filter(|session| left(&session.id))
                .cloned()
                .collect();
            sender.send_replace(Arc::new(Snapshot {
                sessions,
                open_attempts,
                ..last.clone()
            }));
        }
    }

    fn with_progress<T>(&self, show: impl FnOnce(&mut RunProgress) -> T) -> T {
        // The display has no invariant that a panic elsewhere could have broken.
        show(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn export_result(&self, job: &PreparedExport, snapshot: &Snapshot) -> ExportResult {
        let outcome: ExportOutcome = outcome::evaluate(&job.export, snapshot, Timestamp::now());
        let left = summary_text::remaining_work(&outcome, self.stop.graceful.is_cancelled());
        ExportResult { outcome, left }
    }
}
