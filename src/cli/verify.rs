//! `eventexport verify`: proves an archive without the service. Reads it through [`crate::archive::verify`]; this module shows
//! progress and prints the report.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::evidence::EvidenceArgs;
use super::exit::{CliError, Exit};
use super::human;
use super::logs;
use super::open_archive::{LocationArgs, OpenArchive};
use super::output::{OutputArgs, merge, write_stderr};
use super::progress::ProgressMode;
use super::verify_text;
use crate::api::MIN_BYTES_PER_SECOND;
use crate::archive::verify::archive::{self, VerifyOptions, VerifyProgress};
use crate::archive::verify::report::VerifyReport;

/// Refresh interval of bars.
const TICK: Duration = Duration::from_millis(200);
/// Interval between progress lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Name and version of the JSON document.
pub const SCHEMA: &str = "eventexport.io/verify/v3";

/// Verify an archive without the service and without trusting the exporter.
///
/// Reads every object, receipt and manifest, and writes nothing. Checks that each object named by a receipt exists with
/// its size, SHA-256 and CRC-64/NVME, is complete gzip, and holds the stated number of events; that no window of the
/// range is missing and nothing exists without a receipt; that the receipts match the manifests; and that the manifests
/// form a complete chain. With --public-key, everything that is covered must be signed with that key: each manifest, and each
/// window by a manifest or its receipt. Works on a copy in another bucket or folder, for one space or many. Exit code 0: proved; 1: not proved, since something is wrong or there is nothing to prove; 2: the arguments are
/// invalid; 3: the archive could not be checked, for example because the store is unreachable or the credentials are
/// rejected.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub location: LocationArgs,
    /// Compare the checksums that the store holds, without reading the objects
    #[arg(long)]
    pub quick: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub evidence: EvidenceArgs,
    /// Compare the versions that the bucket keeps: each object must have one, the one that its receipt states
    #[arg(long)]
    pub versions: bool,
    /// Implied by --public-key; accepted as in earlier versions
    #[arg(
        long,
        hide = true,
        requires = "public_keys",
        conflicts_with = "allow_unsigned"
    )]
    pub require_signature: bool,
    /// Maximum bytes of objects to read per second, on average, 65536 or more (default: no limit)
    #[arg(long, value_name = "BYTES", value_parser = bytes_per_second)]
    pub bytes_per_second: Option<NonZeroU64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  A directory, or a copy of one:
    eventexport verify ./export
  A bucket, with the exporter's public key:
    AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… \\
    eventexport verify s3://audit/tracker --public-key exporter.pem
  That the chain still has the manifest that was noted at the last audit:
    eventexport verify ./export --public-key exporter.pem --head 14:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  The destination and the range of a manifest:
    eventexport verify -f audit.yaml
  That nothing of a month is missing:
    eventexport verify s3://audit/tracker --start 2018-06-01 --end 2018-06-30
  A nightly check that does not read the data, with JSON output:
    eventexport verify -f audit.yaml --quick --output json";

/// Verifies every given archive.
pub async fn run(args: VerifyArgs) -> Result<Exit, CliError> {
    let result = verify(&args).await;
    args.output.finish(SCHEMA, result.map_err(CliError::unchecked))
}

async fn verify(args: &VerifyArgs) -> Result<Exit, CliError> {
    let screen = MultiProgress::new();
    logs::start(&screen, args.output.verbosity)?;
    let evidence = args.evidence.read()?;
    let mut reports = Vec::new();
    let locations = args.location.open().await?;
    evidence.check_locations(&locations)?;
    for location in locations {
        if args.versions && location.store.is_local() {
            return Err(CliError::usage(format!(
                "--versions: {} is a directory, which keeps no versions: name a bucket, or omit it",
                location.name
            )));
        }
        let options = VerifyOptions {
            quick: args.quick,
            versions: args.versions,
            bytes_per_second: args.bytes_per_second,
            ..evidence.options(&location)
        };
        let progress = Arc::new(VerifyProgress::default());
        let display = show_progress(
            &args.output,
            args.quick,
            &location,
            &screen,
            Arc::clone(&progress),
        );
        let report = tokio::select! {
            report = archive::verify(&options, &progress) => report,
            () = display => continue,
        };
        let report = report.map_err(|error| {
            anyhow::anyhow!("{}: {}", location.name, error.describe(&location.setting_names))
        })?;
        reports.push((location, report));
    }
    let exit = exit_of(
        reports
            .iter()
            .map(|(_, report)| (report.is_proved(), report.is_unchecked())),
    );
    args.output.print(SCHEMA, verify_json(args, &reports, exit), || {
        let texts = reports.iter().map(|(location, report)| {
            verify_text::render(&location.name, report, args.quick, args.output.quiet)
        });
        texts.collect::<Vec<_>>().join("\n")
    })?;
    Ok(exit)
}

fn bytes_per_second(text: &str) -> Result<NonZeroU64, String> {
    let number = text.parse::<NonZeroU64>().ok();
    number
        .filter(|number| number.get() >= MIN_BYTES_PER_SECOND)
        .ok_or_else(|| format!("must be a number of bytes, {MIN_BYTES_PER_SECOND} or more"))
}

/// Returns the exit status of several archives, each whether it passed and whether it could not be checked:
/// [`Exit::Done`] if all passed, [`Exit::Unchecked`] if the only errors are objects that could not be read.
pub(super) fn exit_of(results: impl Iterator<Item = (bool, bool)>) -> Exit {
    let mut exit = Exit::Done;
    for (_, unchecked) in results.filter(|(passed, _)| !passed) {
        if !unchecked {
            return Exit::Failed;
        }
        exit = Exit::Unchecked;
    }
    exit
}

fn verify_json(args: &VerifyArgs, reports: &[(OpenArchive, VerifyReport)], exit: Exit) -> Value {
    let archives: Vec<Value> = reports
        .iter()
        .map(|(location, report)| {
            let mut archive = json!({
                "location": location.name,
                "export": location.export.as_ref().map(|export| &export.name),
            });
            merge(&mut archive, report.json(args.quick));
            archive
        })
        .collect();
    json!({
        "quick": args.quick,
        "passed": exit == Exit::Done,
        "proved": exit == Exit::Done && !args.quick,
        "exitCode": exit.code(),
        "archives": archives,
    })
}

/// Shows the progress; never completes.
pub(super) async fn show_progress(
    output: &OutputArgs,
    quick: bool,
    location: &OpenArchive,
    screen: &MultiProgress,
    progress: Arc<VerifyProgress>,
) {
    let read = || {
        let load = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        (
            (load(&progress.objects_done), load(&progress.objects)),
            (load(&progress.bytes_done), load(&progress.bytes)),
        )
    };
    match ProgressMode::detect(output.is_json(), output.quiet) {
        ProgressMode::Json | ProgressMode::Quiet => std::future::pending().await,
        ProgressMode::Lines => loop {
            tokio::time::sleep(LINE_INTERVAL).await;
            let ((done, all), (bytes, of)) = read();
            write_stderr(&format!(
                "{}: {} of {} objects, {} of {}",
                location.name,
                human::count(done),
                human::count(all),
                human::bytes(bytes),
                human::bytes(of)
            ));
        },
        ProgressMode::Bars => {
            let bar = screen
                .add(ProgressBar::new(0))
                .with_message(location.name.clone());
            if let Ok(style) = ProgressStyle::with_template(
                "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            ) {
                bar.set_style(style.progress_chars("=> "));
            }
            let bar = ClearOnDrop(bar);
            loop {
                tokio::time::sleep(TICK).await;
                let ((done, all), (bytes, of)) = read();
                // With --quick, the progress counts objects: no bytes are read.
                let (at, end) = if quick { (done, all) } else { (bytes, of) };
                bar.0.set_length(end);
                bar.0.set_position(at);
            }
        }
    }
}

/// Progress bar that is cleared when dropped.
struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
