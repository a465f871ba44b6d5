//! `eventexport cat`: prints the events of an archive, one on each line. [`crate::archive::verify::selection`] decides which
//! objects are read; this module reads and checks them, and writes to standard output.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use indicatif::MultiProgress;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::day::day;
use super::evidence::check_days;
use super::exit::{CliError, Exit};
use super::human;
use super::logs;
use super::open_archive::{LocationArgs, OpenArchive};
use super::output::write_stderr;
use super::session::create::today;
use super::stop;
use crate::api::escape;
use crate::archive::finding::Finding;
use crate::archive::verify::archive::VerifyOptions;
use crate::archive::verify::attestation::Unsigned;
use crate::archive::verify::object::{DataReceiver, ObjectReader};
use crate::archive::verify::observation::{DigestIndex, ObjectObservation, evaluate};
use crate::archive::verify::recheck::read_archive;
use crate::archive::verify::selection::{SelectedObject, Selection, select};
use crate::pipeline::event_lines::EventLines;

/// Maximum number of windows or ranges in a message. `inspect` lists all.
const LISTED_MAX: usize = 10;

/// Print the events of an archive, one JSON object per line, each once.
///
/// Reads the receipts, and the objects that they name, oldest day first: of each day its object or those of its hours, and late
/// events. Every object is checked while it is printed: size, SHA-256, CRC-64/NVME, gzip and number of events. A mismatch is
/// found at the end of an object: then the command stops and states how many lines are proved. Arrays become lines, and white space
/// outside of strings is removed. Exit code 0: every event of the range is printed and proved; 1: an object is damaged, or a
/// window of the range is missing; 2: the arguments are invalid; 3: the archive could not be read. Receipts and signatures are
/// not checked: use `verify --public-key` for that.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CatArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub location: LocationArgs,
    /// First UTC day: every hour from it to the last day must be stored or an accepted gap
    #[arg(short, long, value_name = "DATE", value_parser = day)]
    pub start: Option<Date>,
    /// Last UTC day
    #[arg(short, long, value_name = "DATE", value_parser = day)]
    pub end: Option<Date>,
    /// Print only errors to standard error
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub verbosity: logs::Verbosity,
}

const EXAMPLES: &str = "\
Examples:
  The failed actions of a month:
    eventexport cat s3://audit/tracker --start 2018-06-01 --end 2018-06-30 \\
      | jq -c 'select(.payload.outcome == \"failure\")'
  All events of the destination of a manifest:
    eventexport cat -f audit.yaml > events.ndjson

See docs/consumers.md for a pipe into Elasticsearch.";

/// An archive of the command, with its selected objects.
struct SelectedArchive {
    archive: OpenArchive,
    selections: Vec<Selection>,
}

/// Prints the events of every given archive.
pub async fn run(args: CatArgs) -> Result<Exit, CliError> {
    logs::start(&MultiProgress::new(), args.verbosity)?;
    check_days(args.start, args.end, today())?;
    let stop = stop::listen().map_err(anyhow::Error::from)?.graceful;
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(CliError::Failed(anyhow::anyhow!("stopped: the output is incomplete"))),
        exit = print_archives(&args, &stop) => exit,
    }
}

async fn print_archives(args: &CatArgs, stop: &CancellationToken) -> Result<Exit, CliError> {
    let mut archives = Vec::new();
    let mut roots = BTreeSet::new();
    for archive in args.location.open().await.map_err(CliError::unchecked)? {
        archives.push(select_archive(args, archive, &mut roots).await?);
    }
    reject_overlap(&roots)?;
    // A separate handle: the standard output of Rust is line-buffered.
    let out = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(anyhow::Error::from)?;
    let mut printer = Printer {
        lines: EventLines::new(File::from(out)),
        stop: stop.clone(),
    };
    let mut report = PrintReport::default();
    for selected in &archives {
        for selection in &selected.selections {
            printer = match report.print(&selected.archive, selection, printer).await {
                Ok(printer) => printer,
                Err(PrintError::StdoutClosed) => return Ok(Exit::PipeClosed),
                Err(PrintError::Failed(error)) => return Err(error),
            };
        }
    }
    if !args.quiet {
        write_stderr(&report.summary());
    }
    report.finish()
}

async fn select_archive(
    args: &CatArgs,
    archive: OpenArchive,
    roots: &mut BTreeSet<(String, String)>,
) -> Result<SelectedArchive, CliError> {
    let options = VerifyOptions {
        expectation: archive.expectation(),
        hour: archive.export.as_ref().and_then(|export| export.hour),
        unsigned: Unsigned::Allowed,
        since: args.start,
        until: args.end,
        ..VerifyOptions::new(Arc::clone(&archive.store), &archive.prefix)
    };
    let reading = read_archive(&options).await.map_err(|error| {
        CliError::Unchecked(anyhow::anyhow!(
            "{}: {}",
            archive.name,
            error.describe(&archive.setting_names)
        ))
    })?;
    if reading.roots.is_empty() {
        let message = format!(
            "{}: no archive here: it has no events and no receipts",
            archive.name
        );
        return Err(CliError::Failed(anyhow::anyhow!(message)));
    }
    for root in &reading.roots {
        let name = root.contents.root.as_str().to_owned();
        if !roots.insert((archive.store.identity().to_string(), name)) {
            return Err(CliError::usage(format!(
                "{}: two exports have this destination, so its events would be printed twice: name it as ARCHIVE instead of -f",
                archive.name
            )));
        }
    }
    let source = options.source();
    let selections = reading.roots.iter().map(|root| select(root, source)).collect();
    Ok(SelectedArchive { archive, selections })
}

/// Rejects an account beside other spaces or scopes, which may hold the same events.
fn reject_overlap(roots: &BTreeSet<(String, String)>) -> Result<(), CliError> {
    let account = roots.iter().find(|(_, root)| root.ends_with("scope=account/"));
    let Some((_, account)) = account.filter(|_| roots.len() > 1) else {
        return Ok(());
    };
    Err(CliError::usage(format!(
        "ARCHIVE has {} of spaces and accounts, and the events of an account are also those of its spaces, so that some would \
         be printed twice: name one folder, such as {}",
        human::plural(roots.len() as u64, "folder"),
        escape(account.trim_end_matches('/'))
    )))
}

/// Receiver of the data of objects that prints their events.
struct Printer {
    lines: EventLines<File>,
    stop: CancellationToken,
}

impl DataReceiver for Printer {
    fn push(&mut self, data: &[u8]) {
        self.lines.push(data);
    }

    fn is_closed(&self) -> bool {
        self.lines.has_failed() || self.stop.is_cancelled()
    }
}

/// Error that ends the output.
enum PrintError {
    /// The reader closed the pipe.
    StdoutClosed,
    /// The output is not complete.
    Failed(CliError),
}

/// Printed events, and what is missing.
#[derive(Debug, Default)]
struct PrintReport {
    lines: u64,
    objects: u64,
    windows: u64,
    /// Number of reported problems.
    problems: u64,
}

impl PrintReport {
    /// Prints the events of a root, and reports its gaps.
    async fn print(
        &mut self,
        archive: &OpenArchive,
        selection: &Selection,
        mut printer: Printer,
    ) -> Result<Printer, PrintError> {
        let reader = ObjectReader {
            store: Arc::clone(&archive.store),
            pace: None,
            progress: Arc::default(),
        };
        for object in &selection.objects {
            printer = self.print_object(archive, &reader, object, printer).await?;
        }
        self.windows += selection.windows;
        if !selection.accepted.is_empty() {
            let ranges = selection.accepted.ranges(LISTED_MAX).join(", ");
            write_stderr(&format!("{}: accepted gaps: {ranges}", archive.name));
        }
        let gaps = describe_gaps(selection);
        for gap in gaps.iter().take(LISTED_MAX) {
            write_stderr(&format!("{}: {}", archive.name, escape(gap)));
        }
        let more = gaps.len().saturating_sub(LISTED_MAX);
        if more > 0 {
            write_stderr(&format!(
                "{}: … and {more} more: `eventexport inspect` lists them",
                archive.name
            ));
        }
        self.problems += gaps.len() as u64;
        Ok(printer)
    }

    async fn print_object(
        &mut self,
        archive: &OpenArchive,
        reader: &ObjectReader,
        object: &SelectedObject,
        printer: Printer,
    ) -> Result<Printer, PrintError> {
        let SelectedObject { expected, listed } = object;
        let not_proved = |why: String, exit: fn(anyhow::Error) -> CliError| {
            PrintError::Failed(exit(anyhow::anyhow!(
                "{}: {}. The first {} of the output are proved; those after them, of this object, are not",
                escape(&listed.key),
                escape(&why),
                human::plural(self.lines, "line")
            )))
        };
        let read = reader.prove(listed, expected.decompressed, printer).await;
        let (proof, mut printer) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return Err(not_proved("the object was deleted".to_owned(), CliError::Failed)),
            Err(error) => {
                return Err(not_proved(
                    error.describe(&archive.setting_names),
                    CliError::Unchecked,
                ));
            }
        };
        let split = printer.lines.end_object().map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => PrintError::StdoutClosed,
            _ => PrintError::Failed(CliError::Failed(anyhow::anyhow!(
                "cannot write to standard output: {error}; the output is incomplete"
            ))),
        })?;
        let observed = ObjectObservation::from(proof);
        if let Some(finding) = evaluate(expected, &observed, &DigestIndex::default()).first() {
            return Err(not_proved(describe_finding(finding), CliError::Failed));
        }
        let lines = printer.lines.lines() - self.lines;
        if let Err(error) = split {
            self.problems += 1;
            write_stderr(&format!(
                "{}: {error}: {} of this object are printed, and the rest is not; `gzip -dc` shows its content",
                escape(&listed.key),
                human::plural(lines, "event")
            ));
        } else if lines != expected.events {
            let why = format!(
                "{lines} events were printed, and its receipt states {}",
                expected.events
            );
            return Err(not_proved(why, CliError::Failed));
        }
        self.lines += lines;
        self.objects += 1;
        Ok(printer)
    }

    fn summary(&self) -> String {
        format!(
            "{} in {} of {}",
            human::plural(self.lines, "event"),
            human::plural(self.objects, "object"),
            human::plural(self.windows, "window")
        )
    }

    fn finish(&self) -> Result<Exit, CliError> {
        match self.problems {
            0 => Ok(Exit::Done),
            problems => Err(CliError::Failed(anyhow::anyhow!(
                "{} above: the output does not have all events of the range",
                human::plural(problems, "problem")
            ))),
        }
    }
}

/// Describes what the range lacks, a line for each reason.
fn describe_gaps(selection: &Selection) -> Vec<String> {
    let findings = selection.findings.iter();
    let findings = findings.map(|finding| format!("{}: {}", finding.key, describe_finding(finding)));
    let damaged = selection.damaged.iter();
    let damaged = damaged.map(|(window, damage)| format!("{window} is not covered: {damage}"));
    let missing = selection.missing.ranges(LISTED_MAX).join(", ");
    let missing = (!missing.is_empty()).then(|| format!("missing: {missing}"));
    findings.chain(damaged).chain(missing).collect()
}

fn describe_finding(finding: &Finding) -> String {
    let (expected, found) = (finding.expected.as_deref(), finding.found.as_deref());
    format!(
        "{}: expected {}, found {}; {}",
        finding.kind.as_str(),
        expected.unwrap_or("no such file"),
        found.unwrap_or("none"),
        finding.kind.explanation()
    )
}
