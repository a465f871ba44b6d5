//! The table: manifests that are accepted, and manifests that are refused, each for one reason.

mod accepted;
mod changes;
mod dates;
mod destination;
mod shape;
mod source;

use serde_json::{Value, json};

use super::table::Case;
use super::table::Edit::{self, Remove, Set};

type Refused = (&'static str, &'static str);

/// Words of the messages of our own rules.
const DAY: &str = "must be a day that the calendar has";
const ADDRESS: &str = "must be https://HOST";
const FIXED: &str = "cannot be changed";
const SETTLE: &str = "must be a duration from 0s to 720h";

pub(crate) fn all() -> Vec<Case> {
    [
        accepted::accepted(),
        shape::shape(),
        shape::space(),
        dates::dates(),
        source::source(),
        destination::s3(),
        source::addresses(),
        shape::rest(),
        changes::changes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn yes(name: &'static str, edits: Vec<Edit>) -> Case {
    Case {
        name,
        before: None,
        edits,
        refused: None,
    }
}

fn no(name: &'static str, edits: Vec<Edit>, refused: Refused) -> Case {
    Case {
        name,
        before: None,
        edits,
        refused: Some(refused),
    }
}

/// One field that is set to something wrong.
fn bad(name: &'static str, pointer: &'static str, value: impl Into<Value>, refused: Refused) -> Case {
    no(name, vec![Set(pointer, value.into())], refused)
}

fn gap(start: &str, end: &str, reason: &str) -> Value {
    json!([{ "start": start, "end": end, "reason": reason }])
}

/// A source that is an endpoint.
fn endpoint(address: &str) -> Vec<Edit> {
    vec![Remove("/source/region"), Set("/source/endpoint", address.into())]
}
