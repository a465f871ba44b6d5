//! What a command prints: text for people, JSON for programs, and how much of it. Writes to standard output.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table};
use indicatif::MultiProgress;
use serde_json::{Value, json};

use super::exit::{CliError, Exit};
use super::logs::{self, Verbosity};
use super::progress::events;

/// What is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The options of every command that prints.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// What is printed: text for people, json for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    /// Print no remarks, only results and what is wrong
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub verbosity: Verbosity,
}

impl OutputArgs {
    /// Whether a program reads.
    pub const fn is_json(&self) -> bool {
        matches!(self.output, OutputFormat::Json)
    }

    /// Starts the log, on standard error.
    pub fn start_log(&self) -> Result<(), CliError> {
        logs::start(&MultiProgress::new(), self.verbosity)
    }

    /// A remark for people, on standard error. Programs find the same in the document.
    pub fn note(&self, text: impl Display) {
        if !self.quiet && !self.is_json() {
            eprintln!("{text}");
        }
    }

    /// Prints the document where a program reads, else the text. Whoever stopped reading, as `head` does, has what it
    /// wanted.
    pub fn print(&self, schema: &str, document: Value, text: impl FnOnce() -> String) {
        let mut out = io::stdout().lock();
        let _ = if self.is_json() {
            let mut versioned = json!({"schema": schema});
            events::merge(&mut versioned, document);
            writeln!(out, "{versioned}")
        } else {
            let text = text();
            writeln!(out, "{}", text.trim_end_matches('\n'))
        };
    }

    /// The end of a command: where a program reads, why it failed is a document too.
    pub fn finish(&self, schema: &str, result: Result<Exit, CliError>) -> Result<Exit, CliError> {
        if let (Err(error), true) = (&result, self.is_json()) {
            let document = json!({"error": {"message": error.to_string(), "exitCode": error.exit().code()}});
            self.print(schema, document, String::new);
        }
        result
    }
}

/// A table as the service's own command line drew them, no wider than the terminal; as wide as it must be where standard
/// output is none, so that `grep` finds what it looks for in one line.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED.header_separator(LineStyle::new('+', '-', '+', '+')));
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header.iter().copied());
    // An id that is broken over lines cannot be copied.
    if let Some(first) = table.column_mut(0) {
        first.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// Whether colour is welcome on standard output: a terminal, and `NO_COLOR` is not set (no-color.org).
pub fn use_color() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A path as people write it: `~` for their home.
pub fn display_path(path: &Path) -> String {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(below) => format!("~/{}", below.display()),
        None => path.display().to_string(),
    }
}
