//! Output options of a command: text or JSON, and verbosity. Writes to standard output.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;

use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table};
use indicatif::MultiProgress;
use serde_json::{Value, json};

use super::exit::{CliError, Exit};
use super::logs::{self, Verbosity};

/// Output format of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people, at most 80 columns.
    #[default]
    Text,
    /// For people, with all columns.
    Wide,
    /// For programs.
    Json,
}

/// Output options, shared by the commands.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// Output format: text for people, wide with all columns, json for programs
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    /// Print only results and errors
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub verbosity: Verbosity,
}

impl OutputArgs {
    /// True for text output with all columns.
    pub const fn is_wide(&self) -> bool {
        matches!(self.output, OutputFormat::Wide)
    }

    /// True for JSON output.
    pub const fn is_json(&self) -> bool {
        matches!(self.output, OutputFormat::Json)
    }

    /// Starts the log, on standard error.
    pub fn start_log(&self) -> Result<(), CliError> {
        logs::start(&MultiProgress::new(), self.verbosity)
    }

    /// Prints a note to standard error, for text output only: the JSON document has the same information.
    pub fn note(&self, text: impl Display) {
        if !self.quiet && !self.is_json() {
            write_stderr(&format!("{text}"));
        }
    }

    /// Prints the JSON document or the text.
    pub fn print(
        &self,
        schema: &str,
        document: Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        if self.is_json() {
            let mut versioned = json!({"schema": schema});
            merge(&mut versioned, document);
            return write_stdout(&format!("{versioned}\n"));
        }
        write_stdout(&format!("{}\n", text().trim_end_matches('\n')))
    }

    /// Returns the result of the command; for JSON output, prints an error as a document first.
    pub fn finish(&self, schema: &str, result: Result<Exit, CliError>) -> Result<Exit, CliError> {
        if let (Err(error), true) = (&result, self.is_json()) {
            let document = json!({"error": {"message": error.to_string(), "exitCode": error.exit().code()}});
            // The caller prints the error to standard error too.
            let _ = self.print(schema, document, String::new);
        }
        result
    }
}

/// Adds the fields of `more` to `object`.
pub fn merge(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

/// Writes a text to standard output: the only way to print a result. Ignores a closed pipe, since a reader such as `head` may
/// stop early; every other error fails the command.
pub fn write_stdout(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::Failed(anyhow::anyhow!(
            "cannot write the result to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Writes a line to standard error: the only way to print a note. Ignores errors: a closed terminal must not keep a command
/// from deleting its sessions.
pub fn write_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Returns a table in the style of the service's command line, no wider than the terminal. Without a terminal the width
/// is unlimited, so that `grep` finds each row in one line.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED.header_separator(LineStyle::new('+', '-', '+', '+')));
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header.iter().copied());
    // A user cannot copy an id that is wrapped.
    if let Some(first) = table.column_mut(0) {
        first.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// True if standard output is a terminal that has colors, and `NO_COLOR` is not set (no-color.org).
pub fn use_color() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && can_draw() && !no_color
}

/// True if the terminal, if there is one, understands control sequences.
pub fn can_draw() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Returns a path with `~` for the home directory.
pub fn display_path(path: &Path) -> String {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(below) => format!("~/{}", below.display()),
        None => path.display().to_string(),
    }
}
