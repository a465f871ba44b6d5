//! Summary of a run: table and text, or one JSON object. Writes to standard output; with `--quiet`, prints only
//! what is missing, to standard error.

use std::fmt::Write as _;

use console::Term;
use serde_json::{Value, json};

use super::exit::{CliError, Exit};
use super::job::PreparedExport;
use super::outcome::ExportOutcome;
use super::output::{merge, use_color, write_stderr, write_stdout};
use super::progress::{ProgressMode, events};
use super::simulation::Simulation;
use super::summary_text::{self, SessionCount};
use super::table::{self, TableStyle};
use super::totals::ExportTotals;
use super::window_outcome::WindowOutcome;
use crate::api::Reason;
use crate::export::failure::{Problem, RetryClass};
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;

/// Maximum number of missing ranges in the JSON summary; one more entry counts the rest.
const RANGES_LISTED: usize = 100;

/// Result of an export.
#[derive(Debug)]
pub struct ExportResult {
    /// State of each window.
    pub outcome: ExportOutcome,
    /// Remaining work, as lines of text.
    pub left: Vec<String>,
}

/// Input of the summary of a run.
#[derive(Debug)]
pub struct RunSummary<'a> {
    /// Result of each export.
    pub results: &'a [ExportResult],
    /// Exports, in the same order.
    pub jobs: &'a [PreparedExport],
    /// Simulator of `--simulate`.
    pub simulation: Option<&'a Simulation>,
    /// True after the first signal.
    pub stopped: bool,
    /// True after the second signal.
    pub immediate: bool,
    /// Selects text or JSON.
    pub mode: ProgressMode,
    /// True for tables with all columns.
    pub wide: bool,
    /// Command that verifies the archive, without the head of its chain; `None`: there is no one command.
    pub verify: Option<String>,
}

/// Prints the summary and returns the exit status.
pub fn print(summary: &RunSummary<'_>) -> Result<Exit, CliError> {
    let done = summary
        .results
        .iter()
        .all(|result| result.outcome.exit() == Exit::Done);
    let exit = if done && !summary.immediate {
        Exit::Done
    } else {
        Exit::Failed
    };
    match summary.mode {
        ProgressMode::Json => events::print(summary_json(summary, exit))?,
        ProgressMode::Bars | ProgressMode::Lines => print_text(summary)?,
        ProgressMode::Quiet => summary
            .results
            .iter()
            .zip(summary.jobs)
            .for_each(|(result, job)| {
                for line in &result.left {
                    write_stderr(&format!("{}: {line}", job.export.name));
                }
            }),
    }
    Ok(exit)
}

/// Prints an error as a JSON line, when nothing was attempted.
pub fn print_error(error: &CliError) {
    // The caller prints the error to standard error too.
    let _ = events::print(
        json!({"event": "error", "message": error.to_string(), "exitCode": error.exit().code()}),
    );
}

/// Returns a snapshot with the reason why an export was not started.
pub fn not_started(message: &str) -> Snapshot {
    let problem = Problem {
        reason: Reason::HeldByOther,
        message: message.to_owned(),
        window: None,
        class: RetryClass::Wait(None),
        next_try: None,
        retry_at: None,
    };
    Snapshot {
        problems: vec![problem],
        ..Snapshot::default()
    }
}

/// Returns the suffix for the name of an export: `, shard 2 of 8`, or nothing without shards.
pub fn shard_suffix(export: &ExportSpec) -> String {
    if export.shard.is_single() {
        return String::new();
    }
    format!(", {}", export.shard.label())
}

fn print_text(summary: &RunSummary<'_>) -> Result<(), CliError> {
    let style = TableStyle {
        color: use_color(),
        wide: summary.wide,
        width: Term::stdout().size_checked().map(|(_, columns)| columns),
    };
    let mut text = String::new();
    for (result, job) in summary.results.iter().zip(summary.jobs) {
        let ExportResult { outcome, left } = result;
        let export = &job.export;
        let owner = format!("{} {}", export.scope.as_key(), export.space);
        let _ = write!(
            text,
            "\n{}{}: {owner} → {}/{}\n",
            export.name,
            shard_suffix(export),
            job.peers.store.location(),
            export.root.as_str()
        );
        if outcome.observed {
            text.push_str(&table::render(outcome, style));
            text.push('\n');
            text.push_str(&summary_text::stored_text(outcome, export.hour.is_some()));
            if !export.shard.is_single() {
                text.push_str(
                    " This is one shard of the export; the days of the other shards are not checked.",
                );
            }
            text.push('\n');
        }
        if let Some(head) = &outcome.head {
            text.push_str(&summary_text::head(head));
            text.push('\n');
            if let Some(command) = summary.verify.as_ref().filter(|_| outcome.exit() == Exit::Done) {
                text.push_str(&summary_text::verify(command, head));
                text.push('\n');
            }
        }
        for line in left {
            text.push_str(line);
            text.push('\n');
        }
        if summary.immediate && outcome.exit() == Exit::Failed {
            text.push_str("Exited immediately: a session that was being opened may still be open; the next run reports it, or deletes it if it is provably its own.\n");
        }
    }
    if let Some(simulation) = summary.simulation {
        text.push_str(&summary_text::session_counts(&simulation.sessions()));
        text.push('\n');
    }
    write_stdout(&text)
}

fn summary_json(summary: &RunSummary<'_>, exit: Exit) -> Value {
    let exports: Vec<Value> = summary
        .results
        .iter()
        .zip(summary.jobs)
        .map(|(result, job)| export_json(&result.outcome, job))
        .collect();
    let all = summary
        .results
        .iter()
        .fold(ExportTotals::default(), |sum, result| {
            sum.plus(&result.outcome.totals)
        });
    let mut object = json!({
        "event": "summary",
        "exitCode": exit.code(),
        "stopped": summary.stopped,
        "totals": totals_json(&all),
        "exports": exports,
    });
    if let Some(simulation) = summary.simulation {
        let SessionCount {
            opened,
            deleted,
            open,
        } = simulation.sessions();
        merge(
            &mut object,
            json!({"simulatedSessions": {"opened": opened, "deleted": deleted, "open": open}}),
        );
    }
    object
}

fn export_json(outcome: &ExportOutcome, job: &PreparedExport) -> Value {
    let export = &job.export;
    json!({
        "export": export.name,
        "space": export.space,
        "scope": export.scope.as_str(),
        "shard": (!export.shard.is_single()).then(|| export.shard.to_string()),
        "source": export.source,
        "destination": job.peers.store.location(),
        "root": export.root.as_str(),
        "exitCode": outcome.exit().code(),
        "totals": totals_json(&outcome.totals),
        "missing": outcome.missing(RANGES_LISTED),
        "uncovered": uncovered_json(outcome),
        "grown": outcome.grown.iter().map(|(date, growth)| json!({
            "date": date, "stored": growth.stored, "reported": growth.reported,
        })).collect::<Vec<_>>(),
        "manifestDue": outcome.manifest_due,
        "head": outcome.head.as_ref().map(ToString::to_string),
        "headKeyId": outcome.head.as_ref().and_then(|head| head.key_id.as_deref()),
        "sessionsLeft": outcome.sessions,
        "openAttempts": outcome.open_attempts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "rerunAt": outcome.rerun_at,
        "problems": outcome.problems.iter().map(events::problem).collect::<Vec<_>>(),
        "nextDueAt": outcome.next_run_at,
    })
}

/// Returns the windows that are not covered with their states, at most [`RANGES_LISTED`].
fn uncovered_json(outcome: &ExportOutcome) -> Vec<Value> {
    let uncovered = outcome.rows.iter().filter(|row| !row.state.is_stored());
    uncovered
        .take(RANGES_LISTED)
        .map(|row| {
            let message = match &row.state {
                WindowOutcome::Damaged(damage) => Some(damage.to_string()),
                _ => None,
            };
            json!({"window": row.window.to_string(), "state": row.archive_state(), "message": message})
        })
        .collect()
}

fn totals_json(totals: &ExportTotals) -> Value {
    let ExportTotals {
        wanted,
        stored_now,
        already_stored,
        empty,
        uncounted,
        over,
        accepted,
        not_due,
        missing,
        expired,
        events,
        late_events,
        bytes,
        bytes_now,
    } = totals;
    json!({
        "wanted": wanted,
        "stored": totals.stored(),
        "storedNow": stored_now,
        "alreadyStored": already_stored,
        "empty": empty,
        "uncounted": uncounted,
        "over": over,
        "accepted": accepted,
        "notDue": not_due,
        "missing": missing,
        "expired": expired,
        "events": events,
        "lateEvents": late_events,
        "bytes": bytes,
        "bytesStoredNow": bytes_now,
    })
}
