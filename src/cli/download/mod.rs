//! `eventexport download`: the events of a session, or of days, into a file that is whole or not there, or to standard
//! output. Decides what the end of it means and says so; the work is in `flow`.

pub mod asked;
pub mod ending;
pub mod fetch;
pub mod flow;
pub mod judge;
pub mod meter;
pub mod note;
pub mod own;
pub mod part;
pub mod place;
pub mod pour;
pub mod replay;
pub mod reports;
pub mod told;
pub mod trouble;
pub mod whole;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use indicatif::MultiProgress;
use jiff::civil::Date;

use self::asked::{Asked, DAYS_MAX};
use self::ending::{finish, leave};
use self::flow::Flow;
use self::meter::Meter;
use self::note::Identity;
use self::part::{Part, PartError};
use self::place::Place;
use self::told::Told;
use self::trouble::Trouble;
use super::exit::{Exit, Fault};
use super::logs;
use super::output::OutputArgs;
use super::progress::Mode;
use super::source::SourceArgs;
use super::stop::{self, Stop};
use crate::export::proof::ProofPool;
use crate::tracker::Held;

/// Download the events of a session, or of days, and prove that they came whole.
///
/// With an ID, the events of a session that is open (`eventexport session create`); the session stays. With --start, the
/// events of days, in sessions of its own that are deleted at the end, also after Ctrl-C or an error. The events are
/// gzip-compressed JSON, as the service sends them. Exit code 0: all came, the gzip is whole, and there are no fewer
/// events than the service reports; 1: not so; 2: the arguments cannot be used.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DownloadArgs {
    /// The session
    #[arg(
        value_name = "ID",
        required_unless_present = "start",
        conflicts_with = "start"
    )]
    pub session: Option<String>,
    /// Write to this file, which appears only when it is whole; `-`: standard output, as without
    #[arg(short = 'o', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// First UTC day
    #[arg(long, value_name = "DATE")]
    pub start: Option<Date>,
    /// Last UTC day, inclusive (default: the first)
    #[arg(long, value_name = "DATE", requires = "start", conflicts_with = "session")]
    pub end: Option<Date>,
    /// Only this hour of each day, 0–23
    #[arg(
        long, value_name = "HOUR", requires = "start", conflicts_with = "session",
        value_parser = clap::value_parser!(u8).range(0..24)
    )]
    pub hour: Option<u8>,
    /// Replace FILE if it exists, and throw away a part of another download
    #[arg(long)]
    pub force: bool,
    /// Write the JSON instead of the gzip
    #[arg(long)]
    pub decompress: bool,
    /// Leave the sessions of --start open: an interrupted download can be gone on with, and another file be filled
    #[arg(long, requires = "start", conflicts_with = "session")]
    pub keep_session: bool,
    /// Days of a session at most; fewer where long downloads time out
    #[arg(
        long, value_name = "DAYS", requires = "start", conflicts_with = "session",
        default_value_t = asked::SESSION_DAYS_MAX,
        value_parser = clap::value_parser!(u8).range(1..=i64::from(asked::SESSION_DAYS_MAX))
    )]
    pub days_per_session: u8,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub printed: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
}

const EXAMPLES: &str = "\
Examples:
  The events of a session, into a file; interrupted, the same command goes on where it stopped:
    eventexport download -o events.json.gz 32c657c5-31c0-4a3c-a139-b380871c737a
  Session, download and delete in one command:
    eventexport download --start 2018-06-30 --end 2018-07-02 --account -o events.json.gz
  Into another program:
    eventexport download --start 2018-06-30 --decompress | jq -c 'select(.payload.outcome == \"failure\")'

docs/consumers.md has the pipes into Elasticsearch and Logstash.";

/// Runs the command.
pub async fn run(args: DownloadArgs) -> Result<Exit, Fault> {
    let told = match download(&args).await {
        Ok(told) => told,
        Err(fault) if args.printed.json() => {
            let error = serde_json::json!({"message": fault.to_string(), "exitCode": fault.exit().code()});
            print(
                &args,
                &serde_json::json!({"schema": told::SCHEMA, "error": error}).to_string(),
            );
            return Ok(fault.exit());
        }
        Err(fault) => return Err(fault),
    };
    let Some(told) = told else {
        return Ok(Exit::PipeClosed);
    };
    if args.printed.json() {
        print(&args, &told.document().to_string());
    } else {
        if let Some(failed) = &told.failed {
            eprintln!("eventexport: {failed}");
        }
        let text = told.text();
        if !args.printed.quiet || !told.succeeded() {
            print(&args, text.trim_end());
        }
    }
    Ok(if told.succeeded() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// The result: on standard output, unless that is where the events go.
fn print(args: &DownloadArgs, text: &str) {
    if text.is_empty() {
        return;
    }
    // Whoever stopped reading has what they wanted.
    let _ = match file(args) {
        Some(_) => writeln!(io::stdout().lock(), "{text}"),
        None => writeln!(io::stderr().lock(), "{text}"),
    };
}

/// FILE; `None`: standard output.
fn file(args: &DownloadArgs) -> Option<&Path> {
    args.file.as_deref().filter(|file| *file != Path::new("-"))
}

/// Downloads; `None` where nobody reads standard output any more.
async fn download(args: &DownloadArgs) -> Result<Option<Told>, Fault> {
    let file = file(args);
    let to_terminal = file.is_none() && io::stdout().is_terminal();
    if to_terminal && !args.decompress {
        return Err(Fault::usage(
            "standard output is a terminal, and gzip would garble it: give -o FILE, a pipe, or --decompress",
        ));
    }
    let days = days(args)?;
    let screen = MultiProgress::new();
    logs::start(&screen, args.printed.verbosity)?;
    let source = args.source.connect()?;
    let asked = match (&args.session, days) {
        (Some(id), _) => Asked::Session { id: id.clone() },
        (None, Some((start, end))) => Asked::Days {
            start,
            end,
            hour: args.hour,
            account: source.account,
            days_per_session: args.days_per_session,
        },
        (None, None) => return Err(Fault::usage("give the ID of a session, or --start")),
    };
    let place = match file {
        Some(file) => {
            let identity = Identity {
                endpoint: source.tracker.endpoint().to_owned(),
                space: source.space.clone(),
                asked: asked.clone(),
            };
            Place::File(Box::new(Part::open(file, args.force, identity).map_err(refused)?))
        }
        None => Place::standard_output(args.decompress).map_err(anyhow::Error::from)?,
    };
    let mode = match Mode::of(args.printed.json(), args.printed.quiet) {
        // The bar would be drawn into the events.
        Mode::Bars if to_terminal => Mode::Lines,
        mode => mode,
    };
    let stop = stop::listen().map_err(anyhow::Error::from)?;
    let open = Arc::new(Mutex::new(None));
    let flow = Flow {
        account: source.account,
        source: &source,
        asked: &asked,
        keep: args.keep_session,
        place,
        meter: Meter::new(mode, &screen),
        stop: &stop,
        pool: ProofPool::new(available_parallelism().map_or(1, usize::from)),
        open: Arc::clone(&open),
        left: Vec::new(),
        sections: Vec::new(),
        before: judge::Counts::new(),
        sha256: None,
        proof: None,
        held: Held::of(None),
        current: None,
        found: 0,
        seen: 0,
    };
    tokio::select! {
        biased;
        () = stop.at_once.cancelled() => {
            let open = open.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let left = open.map_or_else(String::new, |id| {
                format!("; session {id} may still be open: `eventexport session delete {id}` deletes it")
            });
            Err(anyhow::anyhow!("left at once{left}").into())
        }
        told = to_the_end(flow, args, &screen) => told,
    }
}

/// What was typed about days.
fn days(args: &DownloadArgs) -> Result<Option<(Date, Date)>, Fault> {
    let Some(start) = args.start else {
        return Ok(None);
    };
    let end = args.end.unwrap_or(start);
    if end < start {
        return Err(Fault::usage(format!("--end {end} is before --start {start}")));
    }
    if start.until(end).map_or(i32::MAX, |span| span.get_days()) >= DAYS_MAX {
        return Err(Fault::usage(format!(
            "--start {start} to --end {end} are more than {DAYS_MAX} days: download a part at a time, or use `eventexport run`"
        )));
    }
    Ok(Some((start, end)))
}

/// What is there already is for the person who typed the name.
fn refused(error: PartError) -> Fault {
    match error {
        PartError::Io { .. } => Fault::Failed(error.into()),
        PartError::Exists(_)
        | PartError::NotAFile(_)
        | PartError::Busy(_)
        | PartError::Foreign { .. }
        | PartError::Unknown(_) => Fault::usage(format!("-o: {error}")),
    }
}

/// Downloads, whatever happens closes, and says what came of it.
async fn to_the_end(
    mut flow: Flow<'_>,
    args: &DownloadArgs,
    screen: &MultiProgress,
) -> Result<Option<Told>, Fault> {
    flow.throw_away().await;
    let stop = flow.stop;
    let ran = tokio::select! {
        biased;
        ran = flow.run() => ran,
        () = told_to_stop(stop, args, screen) => Err(Trouble::Stopped),
    };
    let there = flow.close().await;
    let mut told = flow.told(ran.is_ok()).await;
    told.file = file(args).map(Path::to_owned);
    told.decompressed = args.decompress;
    let Flow { place, .. } = flow;
    let ended = match ran {
        Ok(()) => finish(place, &told, args.decompress).await.map_err(|trouble| {
            let words = trouble.to_string();
            (trouble, words)
        }),
        Err(trouble) => {
            let words = leave(place, &trouble, there);
            Err((trouble, words))
        }
    };
    match ended {
        Ok(()) => {}
        Err((Trouble::Closed, _)) if told.left.is_empty() || told.kept => return Ok(None),
        Err((_, words)) => told.failed = Some(words),
    }
    Ok(Some(told))
}

/// Says once that the signal was heard; never ends.
async fn told_to_stop(stop: &Stop, args: &DownloadArgs, screen: &MultiProgress) {
    stop.orderly.cancelled().await;
    if !args.printed.quiet && !args.printed.json() {
        let text = "Stopping. Ctrl-C again leaves at once.";
        // The bars are drawn on a terminal only; elsewhere nothing is to be kept clear of.
        if screen.println(text).is_err() || screen.is_hidden() {
            eprintln!("{text}");
        }
    }
    std::future::pending::<()>().await;
}
