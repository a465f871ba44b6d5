//! Table of manifests: accepted ones, and refused ones with one error each.

mod accepted;
mod changes;
mod dates;
mod destination;
mod shape;
mod source;

use serde_json::{Value, json};

use super::table::SpecEdit::{self, Remove, Set};
use super::table::ValidationCase;

type Rejection = (&'static str, &'static str);

/// Text in the messages of our rules.
const DAY: &str = "must be a calendar date";
const ADDRESS: &str = "must be https://HOST";
const IMMUTABLE: &str = "cannot be changed";
const SETTLE: &str = "must be a duration from 0s to 720h";
const EVERY: &str = "must be a duration from 1h to 8760h";

pub(crate) fn all() -> Vec<ValidationCase> {
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

fn accepted_case(name: &'static str, edits: Vec<SpecEdit>) -> ValidationCase {
    ValidationCase {
        name,
        before: None,
        edits,
        rejection: None,
    }
}

fn rejected_case(name: &'static str, edits: Vec<SpecEdit>, rejection: Rejection) -> ValidationCase {
    ValidationCase {
        name,
        before: None,
        edits,
        rejection: Some(rejection),
    }
}

/// Returns a case in which one field has an invalid value.
fn invalid_value(
    name: &'static str,
    pointer: &'static str,
    value: impl Into<Value>,
    rejection: Rejection,
) -> ValidationCase {
    rejected_case(name, vec![Set(pointer, value.into())], rejection)
}

fn gap(start: &str, end: &str, reason: &str) -> Value {
    json!([{ "start": start, "end": end, "reason": reason }])
}

/// Returns the edits for a source with an endpoint.
fn endpoint(address: &str) -> Vec<SpecEdit> {
    vec![Remove("/source/region"), Set("/source/endpoint", address.into())]
}
