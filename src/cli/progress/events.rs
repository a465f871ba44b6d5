//! Progress as JSON, one object per line on standard output, for programs. `docs/cli.md` documents the fields.

use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::changes::Change;
use crate::export::failure::Trouble;
use crate::export::snapshot::{Snapshot, WindowFacts};

/// Name and version of the lines' schema: the first field of every line.
pub const SCHEMA: &str = "eventexport.io/run/v1";

/// Prints lines of JSON.
#[derive(Clone, Copy, Debug)]
pub struct Events;

impl Events {
    /// Prints what happened.
    pub fn update(self, name: &str, snapshot: &Snapshot, changes: &[Change<'_>]) {
        for change in changes {
            print(event(name, snapshot, change));
        }
    }
}

/// A change as an object.
fn event(name: &str, snapshot: &Snapshot, change: &Change<'_>) -> Value {
    match change {
        Change::Observed { wanted, stored } => {
            json!({"event": "observed", "export": name, "wanted": wanted, "stored": stored})
        }
        Change::Window(window, facts) => {
            let mut object = json!({
                "event": "window",
                "export": name,
                "window": window.to_string(),
                "state": if facts.stored_now { "Stored" } else { "Found" },
                "windowsStored": snapshot.stored,
                "windowsWanted": snapshot.wanted,
            });
            merge(&mut object, self::facts(facts));
            object
        }
        Change::Trouble(trouble) => {
            let mut object = json!({"event": "trouble", "export": name});
            merge(&mut object, self::trouble(trouble));
            object
        }
    }
}

/// The fields of a stored window.
pub fn facts(facts: &WindowFacts) -> Value {
    let WindowFacts {
        bytes,
        events,
        reported,
        verdict,
        sha256,
        stored_now: _,
    } = facts;
    json!({"events": events, "reported": reported, "bytes": bytes, "verdict": verdict, "sha256": sha256.as_deref()})
}

/// The fields of a trouble.
pub fn trouble(trouble: &Trouble) -> Value {
    let Trouble {
        reason,
        message,
        window,
        remedy: _,
        again,
    } = trouble;
    json!({
        "reason": reason.as_str(),
        "message": message,
        "window": window.map(|window| window.to_string()),
        "triedAgainAt": again,
    })
}

/// Prints an object as one line, with schema and time.
pub fn print(object: Value) {
    let mut line = json!({"schema": SCHEMA, "time": Timestamp::now()});
    merge(&mut line, object);
    // Nobody to tell that nobody listens.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Adds the fields of `more`.
pub fn merge(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}
