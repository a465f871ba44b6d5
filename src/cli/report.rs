//! `eventexport report`: a calendar of an archive with its gaps and what was checked, as text, HTML or JSON. Reads the
//! archive as `verify --quick` does; writes only the file of `-o`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::MultiProgress;
use serde_json::json;

use super::evidence::{Evidence, EvidenceArgs};
use super::exit::{CliError, Exit};
use super::logs::{self, Verbosity};
use super::open_archive::{LocationArgs, OpenArchive};
use super::output::{OutputArgs, OutputFormat, use_color, write_stdout};
use super::replace_file::replace_file;
use super::verify::{exit_of, show_progress};
use crate::archive::manifest::signature::PublicKey;
use crate::archive::report::{Given, Report, html, json, text};
use crate::archive::verify::archive::{self, VerifyOptions, VerifyProgress};

/// Name and version of the JSON document.
const SCHEMA: &str = "eventexport.io/report/v1";

/// Mode of the file, less the umask.
const FILE_MODE: u32 = 0o666;

/// Show an archive as a calendar, with its gaps and what was checked.
///
/// Checks what `verify --quick` checks: every receipt, manifest and signature, and the size and the checksum that the
/// store holds of each object, without reading the events. -o FILE.html writes a page for a browser, a mail or a printer,
/// without scripts; it replaces an earlier file at once, or not at all. The same archive gives the same page. Exit code 0:
/// nothing is missing and no check failed; 1: something is missing or wrong; 2: the arguments are invalid; 3: the archive
/// could not be read, or the report not be written.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub location: LocationArgs,
    /// Write the page to FILE.html; or print text, html or json (`-`: text)
    #[arg(short, long, value_name = "FILE.html|FORMAT", default_value = "text", value_parser = ReportOutput::parse)]
    pub output: ReportOutput,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub evidence: EvidenceArgs,
    /// Print only results and errors
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub verbosity: Verbosity,
}

/// Destination of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportOutput {
    /// Text on standard output.
    Text,
    /// HTML on standard output.
    Html,
    /// JSON on standard output.
    Json,
    /// HTML in a file.
    File(PathBuf),
}

const EXAMPLES: &str = "\
Examples:
  A calendar in the terminal:
    eventexport report ./export
  A page for an auditor, with the exporter's public key:
    eventexport report s3://audit/tracker --public-key exporter.pem -o report.html
  The range and the accepted gaps of a manifest:
    eventexport report -f audit.yaml -o report.html
  The days that are not covered:
    eventexport report ./export -o json | jq -c '.archives[].roots[].gaps[]'";

/// Reports on every given archive.
pub async fn run(args: ReportArgs) -> Result<Exit, CliError> {
    let output = args.output_args();
    let result = report(&args, &output).await;
    output.finish(SCHEMA, result.map_err(CliError::unchecked))
}

async fn report(args: &ReportArgs, output: &OutputArgs) -> Result<Exit, CliError> {
    let screen = MultiProgress::new();
    logs::start(&screen, args.verbosity)?;
    let evidence = args.evidence.read()?;
    let locations = args.location.open().await?;
    evidence.check_locations(&locations)?;
    let mut reports = Vec::new();
    for location in locations {
        let options = VerifyOptions {
            quick: true,
            ..evidence.options(&location)
        };
        let progress = Arc::new(VerifyProgress::default());
        let display = show_progress(output, true, &location, &screen, Arc::clone(&progress));
        let found = tokio::select! {
            found = archive::verify(&options, &progress) => found,
            () = display => continue,
        };
        let found = found.map_err(|error| {
            anyhow::anyhow!("{}: {}", location.name, error.describe(&location.setting_names))
        })?;
        reports.push(Report::new(given(&location, &evidence), found));
    }
    let exit = exit_of(reports.iter().map(|report| (report.passed, report.unchecked)));
    args.write(*output, &reports, exit)?;
    Ok(exit)
}

fn given(location: &OpenArchive, evidence: &Evidence) -> Given {
    Given {
        location: location.name.clone(),
        export: location.export.as_ref().map(|export| export.name.clone()),
        gaps: location
            .export
            .as_ref()
            .map(|export| export.accepted_gaps.clone()),
        key_ids: evidence.keys.iter().map(PublicKey::id).collect(),
        heads: evidence.heads.clone(),
    }
}

impl ReportArgs {
    /// Returns the output options as the other commands have them.
    const fn output_args(&self) -> OutputArgs {
        OutputArgs {
            output: match self.output {
                ReportOutput::Json => OutputFormat::Json,
                ReportOutput::Text | ReportOutput::Html | ReportOutput::File(_) => OutputFormat::Text,
            },
            quiet: self.quiet,
            verbosity: self.verbosity,
        }
    }

    fn write(&self, output: OutputArgs, reports: &[Report], exit: Exit) -> Result<(), CliError> {
        match &self.output {
            ReportOutput::Text | ReportOutput::Json => {
                let archives: Vec<_> = reports.iter().map(json::render).collect();
                let document = json!({
                    "passed": exit == Exit::Done,
                    "exitCode": exit.code(),
                    "archives": archives,
                });
                output.print(SCHEMA, document, || {
                    let texts = reports.iter().map(|report| text::render(report, use_color()));
                    texts.collect::<Vec<_>>().join("\n")
                })
            }
            ReportOutput::Html => write_stdout(&html::render(reports)),
            ReportOutput::File(path) => {
                replace_file(path, html::render(reports).as_bytes(), FILE_MODE)
                    .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
                for report in reports {
                    output.note(format!("{}: {}", report.given.location, report.result()));
                }
                Ok(())
            }
        }
    }
}

impl ReportOutput {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" | "-" => return Ok(Self::Text),
            "html" => return Ok(Self::Html),
            "json" => return Ok(Self::Json),
            _ => {}
        }
        let extension = Path::new(text)
            .extension()
            .and_then(|extension| extension.to_str());
        let is_page =
            extension.is_some_and(|extension| ["html", "htm"].contains(&&*extension.to_ascii_lowercase()));
        if is_page {
            Ok(Self::File(PathBuf::from(text)))
        } else {
            Err("expected text, html, json, or a file name that ends in .html".to_owned())
        }
    }
}
