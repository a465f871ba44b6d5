//! The end of a run, printed: table and sentence for people, one object for programs. Writes to standard output;
//! what is missing goes to standard error where standard output is not for people.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use serde_json::{Value, json};

use super::closing::{self, SessionCount};
use super::exit::{Exit, Fault};
use super::job::Job;
use super::outcome::Outcome;
use super::progress::{Mode, events};
use super::simulation::Simulation;
use super::table;
use super::totals::Totals;
use crate::api::Reason;
use crate::export::failure::{Remedy, Trouble};
use crate::export::snapshot::Snapshot;
use crate::export::wish::Export;

/// Missing ranges that the summary for programs lists; one more text counts the rest.
const RANGES_LISTED: usize = 100;

/// How an export ended.
#[derive(Debug)]
pub struct Ended {
    /// Window by window.
    pub outcome: Outcome,
    /// What is left, for a person.
    pub left: Vec<String>,
}

/// All that the end of a run is told from.
#[derive(Debug)]
pub struct Closing<'a> {
    /// How each export ended.
    pub ended: &'a [Ended],
    /// The exports, in the same order.
    pub jobs: &'a [Job],
    /// The simulator, where there was one.
    pub simulation: Option<&'a Simulation>,
    /// Whether a person stopped it.
    pub stopped: bool,
    /// Whether a person left at once.
    pub at_once: bool,
    /// For whom it is printed.
    pub mode: Mode,
}

/// Prints the end, and says how the command ends.
pub fn print(closing: &Closing<'_>) -> Exit {
    let done = closing
        .ended
        .iter()
        .all(|ended| ended.outcome.exit() == Exit::Done);
    let exit = if done && !closing.at_once {
        Exit::Done
    } else {
        Exit::Failed
    };
    match closing.mode {
        Mode::Json => events::print(object(closing, exit)),
        Mode::Bars | Mode::Lines => people(closing),
        Mode::Quiet => closing.ended.iter().zip(closing.jobs).for_each(|(ended, job)| {
            for line in &ended.left {
                eprintln!("{}: {line}", job.export.name);
            }
        }),
    }
    exit
}

/// Tells a program why nothing was attempted.
pub fn print_fault(fault: &Fault) {
    events::print(json!({"event": "error", "message": fault.to_string(), "exitCode": fault.exit().code()}));
}

/// A snapshot that says why an export was not begun.
pub fn refused(message: &str) -> Snapshot {
    let trouble = Trouble {
        reason: Reason::HeldBy,
        message: message.to_owned(),
        window: None,
        remedy: Remedy::Wait(None),
        again: None,
    };
    Snapshot {
        troubles: vec![trouble],
        ..Snapshot::default()
    }
}

/// Behind the name of an export: `, shard 2 of 8`, or nothing where it is the whole.
pub fn part(export: &Export) -> String {
    if export.shard.is_whole() {
        return String::new();
    }
    format!(", {}", export.shard.words())
}

fn people(closing: &Closing<'_>) {
    let mut out = std::io::stdout().lock();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = out.is_terminal() && !plain;
    let mut text = String::new();
    for (ended, job) in closing.ended.iter().zip(closing.jobs) {
        let Ended { outcome, left } = ended;
        let export = &job.export;
        let whose = format!("{} {}", export.scope.as_key(), export.space);
        let _ = write!(
            text,
            "\n{}{}: {whose} → {}/{}\n",
            export.name,
            part(export),
            job.peers.store.name(),
            export.root.as_str()
        );
        if outcome.observed {
            text.push_str(&table::render(outcome, colour));
            text.push('\n');
            text.push_str(&closing::sentence(&outcome.totals, export.hour.is_some()));
            if !export.shard.is_whole() {
                text.push_str(" This is one part of the export: the others' days are not looked at.");
            }
            text.push('\n');
        }
        for line in left {
            text.push_str(line);
            text.push('\n');
        }
        if closing.at_once && outcome.exit() == Exit::Failed {
            text.push_str("Left at once: a session that was just being opened may still be open; the next run deletes it.\n");
        }
    }
    if let Some(simulation) = closing.simulation {
        text.push_str(&closing::sessions(&simulation.sessions()));
        text.push('\n');
    }
    // Nobody to tell that nobody listens.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn object(closing: &Closing<'_>, exit: Exit) -> Value {
    let exports: Vec<Value> = closing
        .ended
        .iter()
        .zip(closing.jobs)
        .map(|(ended, job)| export(&ended.outcome, job))
        .collect();
    let all = closing
        .ended
        .iter()
        .fold(Totals::default(), |sum, ended| sum.plus(&ended.outcome.totals));
    let mut object = json!({
        "event": "summary",
        "exitCode": exit.code(),
        "stopped": closing.stopped,
        "totals": totals(&all),
        "exports": exports,
    });
    if let Some(simulation) = closing.simulation {
        let SessionCount {
            opened,
            deleted,
            open,
        } = simulation.sessions();
        events::merge(
            &mut object,
            json!({"simulatedSessions": {"opened": opened, "deleted": deleted, "open": open}}),
        );
    }
    object
}

fn export(outcome: &Outcome, job: &Job) -> Value {
    let export = &job.export;
    json!({
        "export": export.name,
        "space": export.space,
        "scope": export.scope.as_str(),
        "shard": (!export.shard.is_whole()).then(|| export.shard.to_string()),
        "source": export.source,
        "destination": job.peers.store.name(),
        "root": export.root.as_str(),
        "exitCode": outcome.exit().code(),
        "totals": totals(&outcome.totals),
        "missing": outcome.missing(RANGES_LISTED),
        "manifestDue": outcome.sealing,
        "sessionsLeft": outcome.sessions,
        "troubles": outcome.troubles.iter().map(events::trouble).collect::<Vec<_>>(),
        "nextDueAt": outcome.next_look,
    })
}

fn totals(totals: &Totals) -> Value {
    let Totals {
        wanted,
        stored_now,
        already_there,
        empty,
        uncounted,
        over,
        accepted,
        not_due,
        missing,
        expired,
        events,
        bytes,
        bytes_now,
    } = totals;
    json!({
        "wanted": wanted,
        "stored": totals.stored(),
        "storedNow": stored_now,
        "alreadyThere": already_there,
        "empty": empty,
        "uncounted": uncounted,
        "over": over,
        "accepted": accepted,
        "notDue": not_due,
        "missing": missing,
        "expired": expired,
        "events": events,
        "bytes": bytes,
        "bytesStoredNow": bytes_now,
    })
}
