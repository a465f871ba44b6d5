//! The tracing subscriber: the one global thing of a process. Writes to standard error, so that standard output
//! stays for results, and sends spans to an OTLP collector where one is named.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt};
use url::Url;

use super::json::JsonLines;
use super::traces::{self, Traces, TracesError};

/// The environment variable that says what is logged, in the syntax of `RUST_LOG`:
/// `info,eventexport::export=debug`.
pub const FILTER_VARIABLE: &str = "EVENTEXPORT_LOG";

/// What is logged when the variable is absent. The Kubernetes client repeats at `info` and `warn` what our own lines say,
/// whole pages of gateways among it, and each request that failed at `error`, without saying what is to be done.
const DEFAULT_FILTER: &str =
    "info,kube=error,kube_client=error,kube_client::client::builder=off,kube_runtime=error";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// Whether a line may be logged, whatever the filter says: the client of S3 writes requests with session tokens and the
/// bodies of replies below `info`.
pub fn is_safe_to_log(metadata: &tracing::Metadata<'_>) -> bool {
    !metadata.target().starts_with("aws") || *metadata.level() <= tracing::Level::INFO
}

/// Logs cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter cannot be read.
    #[error("{FILTER_VARIABLE} cannot be read: {0}; write for example info,eventexport::export=debug")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The variable holds no text.
    #[error("{FILTER_VARIABLE} is not UTF-8")]
    NotUnicode,
    /// There is a subscriber already.
    #[error("logs were set up before")]
    AlreadyInitialized,
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] TracesError),
}

/// Starts logging for the whole process, once. Spans go to the collector at `otlp`, where one is named; what is
/// returned sends the last of them.
pub fn start(format: LogFormat, otlp: Option<&Url>) -> Result<Traces, LogsError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) => EnvFilter::try_new(text)?,
        Err(std::env::VarError::NotPresent) => EnvFilter::try_new(DEFAULT_FILTER)?,
        Err(std::env::VarError::NotUnicode(_)) => return Err(LogsError::NotUnicode),
    };
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.with_filter(filter.and(filter_fn(is_safe_to_log))).boxed(),
        LogFormat::Json => lines
            .with_ansi(false)
            .fmt_fields(fmt::format::JsonFields::new())
            .event_format(JsonLines)
            .with_filter(filter.and(filter_fn(is_safe_to_log)))
            .boxed(),
    };
    let (traces, spans) = traces::layer::<Registry>(otlp)?;
    let layers = spans.into_iter().chain([lines]).collect::<Vec<_>>();
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|_| LogsError::AlreadyInitialized)?;
    Ok(traces)
}
