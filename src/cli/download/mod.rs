//! `eventexport download`: downloads the events of a session or of a range of days to a file or to standard output.
//! Parses the arguments, prints the report and sets the exit code; `downloader` does the work.

pub mod downloader;
pub mod error;
pub mod part;
pub mod part_state;
pub mod replay;
pub mod report;
pub mod request;
pub mod sink;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use indicatif::MultiProgress;
use jiff::civil::Date;

use self::downloader::{Downloader, OwnSession};
use self::error::DownloadError;
use self::part::{PartError, PartFile};
use self::part_state::{DownloadIdentity, PartState};
use self::replay::Position;
use self::report::DownloadReport;
use self::request::{DAYS_MAX, DownloadRequest};
use self::sink::DownloadSink;
use super::day::{check_order, day};
use super::exit::{CliError, Exit};
use super::logs;
use super::output::{OutputArgs, write_stderr, write_stdout};
use super::progress::ProgressMode;
use super::progress::meter::ProgressMeter;
use super::settings::source::SourceArgs;
use super::stop::{self, ShutdownSignals};
use crate::pipeline::prover_pool::ProverPool;
use crate::pipeline::stdout_sink::StdoutSink;

/// Download the events of a session or of a range of days, and verify that they are complete.
///
/// With ID, download an open session (see `eventexport session create`) and leave it open. With --start, open sessions
/// for the given days and delete them at the end, also after Ctrl-C or an error. The events are gzip-compressed JSON,
/// as the service sends them. Exit codes: 0, the gzip is valid and has at least as many events as the service reports;
/// 1, the download failed or is incomplete; 2, the arguments are invalid.
#[derive(Debug, clap::Args)]
// `-o` is the file here.
#[command(after_help = EXAMPLES, mut_arg("output", |arg| arg.short(None::<char>)))]
pub struct DownloadArgs {
    /// ID of an open session
    #[arg(value_name = "ID", conflicts_with = "start")]
    pub session: Option<String>,
    /// Write to FILE, created when the events are complete (else FILE.incomplete); `-` or unset: standard output
    #[arg(short = 'o', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// First day (UTC)
    #[arg(short, long, value_name = "DATE", value_parser = day)]
    pub start: Option<Date>,
    /// Last day (UTC), inclusive (default: --start)
    #[arg(short, long, value_name = "DATE", requires = "start", conflicts_with = "session", value_parser = day)]
    pub end: Option<Date>,
    /// Download only this hour of each day (UTC), 0 to 23
    #[arg(
        long, value_name = "HOUR", requires = "start", conflicts_with = "session",
        value_parser = clap::value_parser!(u8).range(0..24)
    )]
    pub hour: Option<u8>,
    /// Overwrite FILE if it exists, and discard the partial file of another download
    #[arg(long)]
    pub force: bool,
    /// Write decompressed JSON instead of gzip
    #[arg(long)]
    pub decompress: bool,
    /// Keep the sessions that --start opens, to resume or repeat the download later
    #[arg(long, requires = "start", conflicts_with = "session")]
    pub keep_session: bool,
    /// Maximum number of days per session; use fewer if long downloads time out
    #[arg(
        long, value_name = "DAYS", requires = "start", conflicts_with = "session",
        default_value_t = request::SESSION_DAYS_MAX,
        value_parser = clap::value_parser!(u8).range(1..=i64::from(request::SESSION_DAYS_MAX))
    )]
    pub days_per_session: u8,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
}

const EXAMPLES: &str = "\
Examples:
  Download a session to a file; to resume after an interruption, run the same command again:
    eventexport download -o events.json.gz 32c657c5-31c0-4a3c-a139-b380871c737a
  Create a session, download it and delete it:
    eventexport download --start 2018-06-30 --end 2018-07-02 --account -o events.json.gz
  Pipe the events into another program:
    eventexport download --start 2018-06-30 --decompress | jq -c 'select(.payload.outcome == \"failure\")'

See docs/consumers.md for pipelines into Elasticsearch and Logstash.";

/// Runs the command.
pub async fn run(args: DownloadArgs) -> Result<Exit, CliError> {
    let report = match download(&args).await {
        Ok(report) => report,
        Err(fault) if args.output.is_json() => {
            let error = serde_json::json!({"message": fault.to_string(), "exitCode": fault.exit().code()});
            print(
                &args,
                &serde_json::json!({"schema": report::SCHEMA, "error": error}).to_string(),
            )?;
            return Ok(fault.exit());
        }
        Err(fault) => return Err(fault),
    };
    let Some(report) = report else {
        return Ok(Exit::PipeClosed);
    };
    if args.output.is_json() {
        print(&args, &report.document().to_string())?;
    } else {
        if let Some(failure) = &report.failure {
            write_stderr(&format!("eventexport: {failure}"));
        }
        let text = report.text();
        if !args.output.quiet || !report.succeeded() {
            print(&args, text.trim_end())?;
        }
    }
    Ok(if report.succeeded() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Prints the result: to standard output, or to standard error if the events go to standard output.
fn print(args: &DownloadArgs, text: &str) -> Result<(), CliError> {
    if text.is_empty() {
        return Ok(());
    }
    if output_file(args).is_some() {
        return write_stdout(&format!("{text}\n"));
    }
    // A failure to write to standard error cannot be reported.
    let _ = writeln!(io::stderr().lock(), "{text}");
    Ok(())
}

/// Returns FILE; `None`: standard output.
fn output_file(args: &DownloadArgs) -> Option<&Path> {
    args.file.as_deref().filter(|file| *file != Path::new("-"))
}

/// Downloads; returns `None` if the reader of standard output closed the pipe.
async fn download(args: &DownloadArgs) -> Result<Option<DownloadReport>, CliError> {
    let file = output_file(args);
    let to_terminal = file.is_none() && io::stdout().is_terminal();
    if to_terminal && !args.decompress {
        return Err(CliError::usage(
            "cannot write gzip data: standard output is a terminal; use -o FILE, a pipe or --decompress",
        ));
    }
    let days = date_range(args)?;
    if args.session.is_none() && days.is_none() {
        return Err(CliError::usage(
            "no events are selected: give the ID of an open session, or --start for days in new sessions",
        ));
    }
    let screen = MultiProgress::new();
    logs::start(&screen, args.output.verbosity)?;
    let source = args.source.connect()?;
    let request = match (&args.session, days) {
        (Some(id), _) => DownloadRequest::Session { id: id.clone() },
        (None, Some((start, end))) => DownloadRequest::Days {
            start,
            end,
            hour: args.hour,
            account: source.account,
            days_per_session: args.days_per_session,
        },
        (None, None) => return Err(CliError::usage("no session: give an ID, or use --start")),
    };
    let identity = DownloadIdentity {
        endpoint: source.tracker.endpoint().to_owned(),
        space: source.space.clone(),
        asked: request,
    };
    let stop = stop::listen().map_err(anyhow::Error::from)?;
    let (sink, state, discarded) = if let Some(file) = file {
        let opened = PartFile::open(file, args.force, identity).map_err(|error| part_fault(&error))?;
        (DownloadSink::File(opened.part), opened.state, opened.discarded)
    } else {
        let stdout = StdoutSink::open(args.decompress, stop.graceful.clone());
        let stdout = stdout.map_err(anyhow::Error::from)?;
        (DownloadSink::Stdout(stdout), PartState::new(identity), None)
    };
    let mode = match ProgressMode::detect(args.output.is_json(), args.output.quiet) {
        // A bar would be mixed with the events on the terminal.
        ProgressMode::Bars if to_terminal => ProgressMode::Lines,
        mode => mode,
    };
    let open = Arc::new(Mutex::new(OwnSession::None));
    let downloader = Downloader {
        account: source.account,
        source: &source,
        keep_sessions: args.keep_session,
        sink,
        state,
        meter: ProgressMeter::new(mode, &screen),
        stop: &stop,
        pool: ProverPool::new(available_parallelism().map_or(1, usize::from)),
        open_session: Arc::clone(&open),
        leftover_sessions: Vec::new(),
        position: Position::start(),
        prover: None,
        resumed_bytes: 0,
        transferred: 0,
    };
    tokio::select! {
        biased;
        () = stop.immediate.cancelled() => {
            let left = match open.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                OwnSession::None => String::new(),
                OwnSession::Requested => "; a session was requested and may be open: find it with `eventexport session list` \
                                          and delete it with `eventexport session delete ID`"
                    .to_owned(),
                OwnSession::Open(id) => {
                    format!("; session {id} may still be open: delete it with `eventexport session delete {id}`")
                }
            };
            Err(anyhow::anyhow!("interrupted{left}").into())
        }
        report = run_to_completion(downloader, discarded, args, &screen) => report,
    }
}

/// Returns the first and last day of `--start` and `--end`.
fn date_range(args: &DownloadArgs) -> Result<Option<(Date, Date)>, CliError> {
    let Some(start) = args.start else {
        return Ok(None);
    };
    let end = args.end.unwrap_or(start);
    check_order(Some(start), Some(end))?;
    if start.until(end).map_or(i32::MAX, |span| span.get_days()) >= DAYS_MAX {
        return Err(CliError::usage(format!(
            "--start {start} --end {end}: more than {DAYS_MAX} days; split the range, or use `eventexport run`"
        )));
    }
    Ok(Some((start, end)))
}

/// Returns a usage error if another FILE or flag helps, else a failure.
fn part_fault(error: &PartError) -> CliError {
    match error {
        // Its text has the cause already.
        PartError::Io { .. } => CliError::Failed(anyhow::anyhow!("{error}")),
        PartError::Exists(_)
        | PartError::NotAFile(_)
        | PartError::Locked(_)
        | PartError::Foreign { .. }
        | PartError::Unidentified(_) => CliError::usage(format!("-o: {error}")),
    }
}

/// Downloads, deletes the session in any case, and returns the report.
async fn run_to_completion(
    mut downloader: Downloader<'_>,
    discarded: Option<PartState>,
    args: &DownloadArgs,
    screen: &MultiProgress,
) -> Result<Option<DownloadReport>, CliError> {
    downloader.delete_discarded_session(discarded).await;
    let stop = downloader.stop;
    let result = tokio::select! {
        biased;
        result = downloader.run() => result,
        () = announce_stop(stop, args, screen) => Err(DownloadError::Stopped),
    };
    let bytes_kept = downloader.close().await;
    let mut report = downloader.report(result.is_ok()).await;
    // Without the last listing nothing shows that the bytes are enough; they stay in the partial file.
    let unlisted = result.is_ok() && stop.graceful.is_cancelled();
    let result = if unlisted {
        Err(DownloadError::Stopped)
    } else {
        result
    };
    report.file = output_file(args).map(Path::to_owned);
    report.decompressed = args.decompress;
    let Downloader { sink, .. } = downloader;
    let outcome = match result {
        Ok(()) => {
            let (no_bytes, complete) = (report.sha256.is_none(), report.warnings.is_empty());
            let finished = sink.finish(no_bytes, complete, args.decompress).await;
            finished
                .map(|file| report.file = file)
                .map_err(|error| (error.to_string(), error))
        }
        Err(error) => Err((sink.finish_failed(&error, bytes_kept), error)),
    };
    match outcome {
        Ok(()) => {}
        Err((_, DownloadError::StdoutClosed))
            if report.leftover_sessions.is_empty() || report.sessions_kept =>
        {
            // The reader left; a session that stays open is named all the same.
            let left = report.leftover_text();
            if !left.is_empty() {
                write_stderr(left.trim_end());
            }
            return Ok(None);
        }
        Err((message, _)) => report.failure = Some(message),
    }
    Ok(Some(report))
}

/// Prints once that the command is stopping; never returns.
async fn announce_stop(stop: &ShutdownSignals, args: &DownloadArgs, screen: &MultiProgress) {
    stop.graceful.cancelled().await;
    if !args.output.quiet && !args.output.is_json() {
        let text = "Stopping. Press Ctrl-C again to exit immediately.";
        // Without a terminal no bars are drawn, and `println` prints nothing.
        if screen.println(text).is_err() || screen.is_hidden() {
            write_stderr(text);
        }
    }
    std::future::pending::<()>().await;
}
