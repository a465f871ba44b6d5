//! Logging of commands: lines go to standard error, above the progress bars. Sets the subscriber.

use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use super::exit::CliError;
use crate::telemetry::logs::{FILTER_VARIABLE, LineFields, is_safe_to_log};

/// Default filter, without `EVENTEXPORT_LOG`. Progress and summary already show problems.
const DEFAULT_FILTER: &str = "error";

/// Log verbosity.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Verbosity {
    /// Log more to standard error: -v for actions, -vv for reasons, -vvv for every request. Overrides `EVENTEXPORT_LOG`
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Verbosity {
    /// Returns the filter for the verbosity; `None` without `-v`.
    const fn filter(self) -> Option<&'static str> {
        match self.verbose {
            0 => None,
            1 => Some("warn,eventexport=info"),
            2 => Some("warn,eventexport=debug"),
            3.. => Some("info,eventexport=trace,hyper_util=debug,reqwest=debug"),
        }
    }
}

/// Starts the log, above the bars of `screen`.
pub fn start(screen: &MultiProgress, verbosity: Verbosity) -> Result<(), CliError> {
    let filter = match (verbosity.filter(), std::env::var(FILTER_VARIABLE)) {
        (Some(text), _) => EnvFilter::try_new(text),
        (None, Ok(text)) => EnvFilter::try_new(text),
        (None, Err(_)) => EnvFilter::try_new(DEFAULT_FILTER),
    };
    let filter = filter.map_err(|error| {
        CliError::usage(format!(
            "{FILTER_VARIABLE}: {error}; use for example info,eventexport::export=debug"
        ))
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(LineFields)
        .with_ansi(false)
        .with_writer(ScreenWriter(screen.clone()))
        .with_filter(filter.and(filter_fn(is_safe_to_log)));
    // A second call keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    Ok(())
}

#[derive(Clone, Debug)]
struct ScreenWriter(MultiProgress);

impl<'a> MakeWriter<'a> for ScreenWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for ScreenWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
