//! Progress as JSON, one object per line on standard output. `docs/json.md` documents the fields.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::changes::SnapshotChange;
use crate::archive::receipt::WindowFacts;
use crate::cli::exit::CliError;
use crate::cli::output::{merge, write_stdout};
use crate::export::failure::Problem;
use crate::export::snapshot::Snapshot;

/// Name and version of the lines' schema: the first field of every line.
pub const SCHEMA: &str = "eventexport.io/run/v2";

/// Renders progress as lines of JSON.
#[derive(Debug, Default)]
pub struct JsonProgress {
    /// Error of the first line that could not be written.
    pub error: Option<CliError>,
}

impl JsonProgress {
    /// Prints each change.
    pub fn update(&mut self, name: &str, snapshot: &Snapshot, changes: &[SnapshotChange<'_>]) {
        for change in changes {
            if let Err(error) = print(change_json(name, snapshot, change)) {
                self.error.get_or_insert(error);
            }
        }
    }
}

/// Returns a change as a JSON object.
fn change_json(name: &str, snapshot: &Snapshot, change: &SnapshotChange<'_>) -> Value {
    match change {
        SnapshotChange::Observed { wanted, stored } => {
            json!({"event": "observed", "export": name, "wanted": wanted, "stored": stored})
        }
        SnapshotChange::Window(window, facts) => {
            let mut object = json!({
                "event": "window",
                "export": name,
                "window": window.to_string(),
                "state": if facts.stored_now { "Stored" } else { "Found" },
                "windowsStored": snapshot.stored,
                "windowsWanted": snapshot.wanted,
            });
            merge(&mut object, self::window_json(facts));
            object
        }
        SnapshotChange::Problem(problem) => {
            let mut object = json!({"event": "problem", "export": name});
            merge(&mut object, self::problem(problem));
            object
        }
    }
}

/// Returns the fields of a stored window.
pub fn window_json(facts: &WindowFacts) -> Value {
    let WindowFacts {
        bytes,
        events,
        reported,
        verdict,
        uncounted,
        sha256,
        stored_now: _,
        revision,
        late_events,
    } = facts;
    json!({
        "events": events, "reported": reported, "bytes": bytes, "verdict": format!("{verdict:?}"),
        "uncounted": uncounted, "sha256": sha256.map(|digest| digest.to_string()),
        "revision": revision, "lateEvents": late_events,
    })
}

/// Returns the fields of a problem.
pub fn problem(problem: &Problem) -> Value {
    let Problem {
        reason,
        message,
        window,
        class: _,
        next_try,
        retry_at,
    } = problem;
    json!({
        "reason": reason.as_str(),
        "message": message,
        "window": window.map(|window| window.to_string()),
        "nextTry": next_try.map(|(number, of)| json!({"number": number, "of": of})),
        "retryAt": retry_at,
    })
}

/// Prints an object on one line, with schema and time.
pub fn print(object: Value) -> Result<(), CliError> {
    let mut line = json!({"schema": SCHEMA, "time": Timestamp::now()});
    merge(&mut line, object);
    write_stdout(&format!("{line}\n"))
}
