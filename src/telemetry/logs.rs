//! The tracing subscriber, the only global of a process. Writes to standard error, so that standard output is reserved
//! for results, and sends spans to an OTLP collector if one is configured.

use std::io::IsTerminal as _;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::format::{FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt};
use url::Url;

use super::json::{JsonLines, MAX_FIELD_CHARS};
use super::traces::{self, Traces, TracesError};
use crate::api::sanitize_to;

/// Environment variable with the log filter, in the syntax of `RUST_LOG`: `info,eventexport::export=debug`.
pub const FILTER_VARIABLE: &str = "EVENTEXPORT_LOG";

/// Log filter if the variable is not set. The Kubernetes client repeats our log lines at `info` and `warn`, including
/// complete error pages of gateways, and logs each failed request at `error` without a remedy.
const DEFAULT_FILTER: &str =
    "info,kube=error,kube_client=error,kube_client::client::builder=off,kube_runtime=error";

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for humans.
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// Returns true if a line may be logged, independent of the filter. The S3 client writes requests with session tokens,
/// and bodies of responses, below `info`. The verifier of certificates writes each error that it returns as well,
/// with all names of the peer's certificate; we report that error with its remedy. The Kubernetes client writes complete
/// replies that it cannot parse, which may be those of Secrets.
pub fn is_safe_to_log(metadata: &tracing::Metadata<'_>) -> bool {
    let target = metadata.target();
    !target.starts_with("rustls_platform_verifier")
        && target != "kube_client::client"
        && (!target.starts_with("aws") || *metadata.level() <= tracing::Level::INFO)
}

/// Fields of a text line, as the library formats them, but bounded and without control characters: libraries log text of
/// their peers.
#[derive(Clone, Copy, Debug)]
pub struct LineFields;

impl<'w> FormatFields<'w> for LineFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> std::fmt::Result {
        let mut visitor = LineVisitor {
            writer,
            separator: "",
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct LineVisitor<'w> {
    writer: Writer<'w>,
    separator: &'static str,
    result: std::fmt::Result,
}

impl Visit for LineVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        let text = sanitize_to(&text, MAX_FIELD_CHARS);
        let (separator, name) = (self.separator, field.name());
        let written = match name {
            "message" => write!(self.writer, "{separator}{text}"),
            // Target and position of a line of the `log` crate, which the line has already.
            _ if name.starts_with("log.") => return,
            _ => write!(self.writer, "{separator}{name}={text}"),
        };
        self.separator = " ";
        self.result = self.result.and(written);
    }
}

/// Error in setting up logs.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter is invalid.
    #[error("invalid {FILTER_VARIABLE}: {0} (example: info,eventexport::export=debug)")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The value of the variable is not UTF-8.
    #[error("{FILTER_VARIABLE} is not UTF-8")]
    NotUnicode,
    /// A subscriber is already installed.
    #[error("logs are already set up")]
    AlreadyInitialized,
    /// Traces cannot be set up.
    #[error(transparent)]
    Traces(#[from] TracesError),
}

/// Sets up logging for the process, once. Spans are sent to the collector at `otlp`, if given. The returned value sends
/// the remaining spans at shutdown.
pub fn start(format: LogFormat, otlp: Option<&Url>) -> Result<Traces, LogsError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) => EnvFilter::try_new(text)?,
        Err(std::env::VarError::NotPresent) => EnvFilter::try_new(DEFAULT_FILTER)?,
        Err(std::env::VarError::NotUnicode(_)) => return Err(LogsError::NotUnicode),
    };
    let lines = fmt::layer()
        .fmt_fields(LineFields)
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
