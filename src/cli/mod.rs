//! Command line: turns arguments into validated settings. One file per subcommand.

pub mod archived;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
pub mod cat;
pub mod cluster;
pub mod config;
pub mod context;
pub mod crd;
pub mod day;
pub mod ddl;
pub mod documents;
pub mod download;
pub mod evidence;
pub mod exit;
pub mod health;
pub mod hints;
pub mod inspect;
pub mod job;
mod kube_config;
pub mod load;
pub mod logs;
pub mod manifest;
pub mod open_archive;
pub mod operator;
pub mod outcome;
pub mod output;
pub mod plan;
pub mod planner;
pub mod plugin;
pub mod progress;
pub mod replace_file;
pub mod report;
pub mod run;
pub mod run_summary;
pub mod secret_file;
pub mod session;
pub mod settings;
pub mod shell;
pub mod simulation;
pub mod state;
pub mod status;
pub mod stop;
pub mod summary_text;
pub mod table;
pub mod totals;
pub mod verify;
pub mod verify_command;
pub mod verify_text;
pub mod window_outcome;

use self::output::write_stderr;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) use crate::api::human;
pub use exit::{CliError, Exit};

/// Maximum time that the runtime waits at exit for background tasks: 1 s.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Version with the commit, which release builds set (`image/rootfs`); other builds show the version only.
const VERSION: &str = match option_env!("EVENTEXPORT_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Export Activity Tracker events to object storage, with proof that nothing is missing.
#[derive(Debug, clap::Parser)]
#[command(name = "eventexport", version = VERSION, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// Subcommand to run.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands. Those with arguments are documented on their argument structs, which `--help` shows.
#[derive(Debug, clap::Subcommand)]
// The process has only one value of this type.
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Command {
    Operator(operator::OperatorArgs),
    Run(run::RunArgs),
    Plan(plan::PlanArgs),
    Verify(verify::VerifyArgs),
    Inspect(inspect::InspectArgs),
    Cat(cat::CatArgs),
    Ddl(ddl::DdlArgs),
    Report(report::ReportArgs),
    Status(Box<status::StatusArgs>),
    #[command(visible_alias = "sessions")]
    Session(session::SessionArgs),
    Download(download::DownloadArgs),
    Context(context::ContextArgs),
    /// Print the `CustomResourceDefinition` for `kubectl apply -f -`.
    #[command(after_help = CRD_EXAMPLES)]
    Crd,
    Health(health::HealthArgs),
    #[command(flatten)]
    Cluster(cluster::ClusterCommand),
    Simulate(crate::simulator::SimulateArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
    /// Print the version, the commit of a release, and the platform.
    #[command(after_help = VERSION_EXAMPLES)]
    Version,
}

const EXAMPLES: &str = "\
Examples:
  eventexport run --simulate --start 2018-06-01 --end 2018-06-30 --archive ./export
  eventexport plan -f audit.yaml
  eventexport context set prod --region us-south --space ID --api-key-file prod.key
  eventexport status --archive s3://audit/tracker
  eventexport session list
  eventexport download --start 2018-06-30 --end 2018-07-02 --account -o events.json.gz
  eventexport crd | kubectl apply -f -
  eventexport operator --namespace audit
  eventexport simulate --listen 127.0.0.1:8030
  eventexport verify s3://audit/tracker --public-key exporter.pem
  eventexport cat s3://audit/tracker --start 2018-06-01 --end 2018-06-30 | jq .payload

Environment: EVENTEXPORT_LOG sets the log filter, for example info,eventexport::export=debug.
NO_COLOR disables colors. HTTPS_PROXY and NO_PROXY are honored.
Secrets are never arguments: pass them in the environment or in files (docs/cli.md).";

const VERSION_EXAMPLES: &str = "\
Examples:
  eventexport version";

const CRD_EXAMPLES: &str = "\
Examples:
  eventexport crd | kubectl apply -f -";

/// Runs an async command to completion and prints its error, if any, to standard error.
pub fn block_on(command: impl Future<Output = Result<Exit, CliError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report_error(&CliError::from(anyhow::Error::from(error))),
    };
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    exit_code(result)
}

/// `eventexport operator`: runs until a signal, or until the lease is lost.
pub async fn operate(args: operator::OperatorArgs) -> Result<Exit, CliError> {
    operator::run(args).await?;
    Ok(Exit::Done)
}

/// `eventexport simulate`: serves until a signal.
pub async fn simulate(args: crate::simulator::SimulateArgs) -> Result<Exit, CliError> {
    let stop = stop::listen().map_err(anyhow::Error::from)?;
    let print = |text: &str| Ok(output::write_stdout(text)?);
    let shutdown = async move { stop.graceful.cancelled().await };
    crate::simulator::simulate(args, print, write_stderr, shutdown).await?;
    Ok(Exit::Done)
}

/// Returns the exit code of a finished command and prints its error, if any, to standard error.
pub fn exit_code(result: Result<Exit, CliError>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(error) => report_error(&error),
    }
}

/// `eventexport version`: prints the version and the platform.
pub fn print_version() -> ExitCode {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    let platform = if os == "linux" {
        format!("{arch}-{os}-{libc}")
    } else {
        format!("{arch}-{os}")
    };
    exit_code(output::write_stdout(&format!("eventexport {VERSION} {platform}\n")).map(|()| Exit::Done))
}

/// `eventexport crd`: prints the `CustomResourceDefinition`.
pub fn print_crd() -> ExitCode {
    exit_code(output::write_stdout(&crd::crd()).map(|()| Exit::Done))
}

fn report_error(error: &CliError) -> ExitCode {
    write_stderr(&format!("eventexport: {error}"));
    error.exit().into()
}
