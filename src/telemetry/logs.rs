//! The tracing subscriber: the one global thing of a process. Writes to standard error, so that standard output
//! stays for results.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The environment variable that says what is logged, in the syntax of `RUST_LOG`:
/// `info,eventexport::export=debug`.
pub const FILTER_VARIABLE: &str = "EVENTEXPORT_LOG";

/// What is logged when the variable is absent. The Kubernetes client repeats at `info` what our own lines say.
const DEFAULT_FILTER: &str = "info,kube=warn,kube_client=warn,kube_runtime=warn";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// Logs cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter cannot be read.
    #[error("{FILTER_VARIABLE} cannot be read: {0}; write for example info,eventexport::export=debug")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The variable holds no text.
    #[error("{FILTER_VARIABLE} is not UTF-8")]
    NotText,
    /// There is a subscriber already.
    #[error("logs were set up before")]
    Twice,
}

/// Starts logging for the whole process, once.
pub fn start(format: LogFormat) -> Result<(), LogsError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) => EnvFilter::try_new(text)?,
        Err(std::env::VarError::NotPresent) => EnvFilter::try_new(DEFAULT_FILTER)?,
        Err(std::env::VarError::NotUnicode(_)) => return Err(LogsError::NotText),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogsError::Twice)
}
