//! Validation cases: their definition, the verdicts of the API server and of Rust, and their documentation.

// A test panics on output of kubectl or serde that it does not expect.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write as _;

use eventexport::api::{self, FieldError};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::bed::{Cluster, other_kubernetes};

/// Concurrent kubectl processes.
const CONCURRENCY: usize = 4;

/// One manifest, as edits of the base, and its expected verdict.
pub(crate) struct ValidationCase {
    /// Description for readers.
    pub(crate) name: &'static str,
    /// Edits that make the existing object, for an update; `None` if the manifest is new.
    pub(crate) before: Option<Vec<SpecEdit>>,
    /// Edits of the spec of [`base`] that make the manifest.
    pub(crate) edits: Vec<SpecEdit>,
    /// Field and part of the server's message; `None` if the manifest is accepted.
    pub(crate) rejection: Option<(&'static str, &'static str)>,
}

/// One edit of a spec. Paths are JSON pointers.
#[derive(Clone)]
pub(crate) enum SpecEdit {
    /// Sets a value, which may be null.
    Set(&'static str, Value),
    /// Removes the field.
    Remove(&'static str),
}

/// Verdicts on a case.
pub(crate) struct ValidationOutcome {
    case: ValidationCase,
    /// Verdict of the server: the object as it would be stored, or the output of kubectl.
    server: Result<Value, String>,
    /// Verdict of our validation.
    rust: Result<Value, Vec<FieldError>>,
}

/// Returns a valid spec.
pub(crate) fn base() -> Value {
    json!({
        "space": "c1234567-6d55-4193-a9de-378620d6fab5",
        "dateRange": { "start": "2018-06-01", "end": "2018-06-30" },
        "source": { "region": "us-south", "credentialsSecretRef": { "name": "tracker" } },
        "destination": { "s3": { "bucket": "audit", "prefix": "tracker" } },
    })
}

/// Returns a manifest with that spec.
pub(crate) fn manifest(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "eventexport.io/v1alpha1",
        "kind": "EventExport",
        "metadata": { "name": name },
        "spec": spec,
    })
}

fn edited(edits: &[SpecEdit]) -> Value {
    let mut spec = base();
    for edit in edits {
        let (SpecEdit::Set(pointer, _) | SpecEdit::Remove(pointer)) = edit;
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = spec
            .pointer_mut(parent)
            .unwrap_or_else(|| panic!("{pointer}: no parent"));
        let parent = parent.as_object_mut().unwrap();
        match edit {
            SpecEdit::Set(_, value) => parent.insert(field.to_owned(), value.clone()),
            SpecEdit::Remove(_) => parent.remove(field),
        };
    }
    spec
}

/// Validates all cases, in their order.
pub(crate) async fn validate_all(
    cluster: &Cluster,
    namespace: &str,
    cases: Vec<ValidationCase>,
) -> Vec<ValidationOutcome> {
    futures::stream::iter(cases.into_iter().enumerate())
        .map(|(index, case)| validate(cluster, namespace, format!("case-{index}"), case))
        .buffered(CONCURRENCY)
        .collect()
        .await
}

async fn validate(
    cluster: &Cluster,
    namespace: &str,
    name: String,
    case: ValidationCase,
) -> ValidationOutcome {
    let document = manifest(&name, &edited(&case.edits));
    let mut rust = api::read_export(document.clone());
    let verb = match &case.before {
        None => "create",
        Some(before) => {
            let before = manifest(&name, &edited(before));
            let create = ["create", "-n", namespace, "-f", "-"];
            cluster
                .kubectl(&create, Some(&before.to_string()))
                .await
                .success()
                .unwrap();
            let before = api::read_export(before).unwrap();
            rust = rust.and_then(|export| export.spec.validate_update(&before.spec).map(|()| export));
            "replace"
        }
    };
    let args = [verb, "--dry-run=server", "-n", namespace, "-f", "-", "-o", "json"];
    let output = cluster.kubectl(&args, Some(&document.to_string())).await;
    let server = match output.success() {
        Ok(stored) => Ok(serde_json::from_str::<Value>(&stored).unwrap()["spec"].clone()),
        Err(error) => Err(in_newer_words(
            error
                .to_string()
                .replace(&name, "audit")
                .replace("kubectl: exit status: 1: ", ""),
        )),
    };
    let rust = rust.map(|export| serde_json::to_value(export.spec).unwrap());
    ValidationOutcome { case, server, rust }
}

/// Returns the message of an older server as a newer one writes it. Kubernetes 1.29 states the maximum length of a
/// text in other words, and appends the field of the second failing rule of an object to that of the first.
fn in_newer_words(message: String) -> String {
    if other_kubernetes().is_none() {
        return message;
    }
    let message = message.replace("spec.source.region.endpoint: ", "spec.source.endpoint: ");
    let lines = message.lines().map(|line| {
        let longest = line.split_once("Too long: may not be longer than ");
        longest.map_or_else(
            || line.to_owned(),
            |(field, longest)| format!("{field}Too long: may not be more than {longest} bytes"),
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

impl ValidationOutcome {
    /// Describes a difference between the two verdicts, or from the expected one.
    pub(crate) fn disagreement(&self) -> Option<String> {
        let Self { case, server, rust } = self;
        let mismatch = |what: &str| {
            Some(format!(
                "{}: {what}\n  server: {server:?}\n  rust: {rust:?}",
                case.name
            ))
        };
        match (case.rejection, server, rust) {
            (None, Ok(stored), Ok(read)) if stored == read => None,
            (None, Ok(_), Ok(_)) => mismatch("defaults differ"),
            (Some((path, words)), Err(message), Err(errors)) => {
                let server_names = message.contains(path) && message.contains(words);
                let rust_names = errors.iter().any(|error| error.path == path);
                (!server_names || !rust_names).then(|| mismatch("another field or other words"))?
            }
            _ => mismatch("another verdict"),
        }
    }
}

/// Renders the refused manifests and their messages as Markdown.
pub(crate) fn document(outcomes: &[ValidationOutcome]) -> String {
    let mut text = String::from(
        "# Validation at apply time\n\n\
         Messages of a real API server for invalid manifests. `eventexport run -f` refuses the same manifests and names\n\
         the same fields. If a required field is missing or has a wrong type, the API server checks the other rules only\n\
         after that is fixed. Generated by a test: do not edit, run `make generated`.\n",
    );
    for (title, changes) in [
        ("New manifests", false),
        ("Changes of an existing resource", true),
    ] {
        let _ = write!(text, "\n## {title}\n\n| manifest | message |\n|---|---|\n");
        for outcome in outcomes
            .iter()
            .filter(|outcome| outcome.case.before.is_some() == changes)
        {
            if let Err(message) = &outcome.server {
                let _ = writeln!(
                    text,
                    "| {} | {} |",
                    cell(outcome.case.name),
                    cell(&message_text(message))
                );
            }
        }
    }
    text
}

/// Removes the text that kubectl adds and the server's remark that it stopped. Sorts the causes, because the server's
/// order varies.
fn message_text(message: &str) -> String {
    let reasons = message
        .strip_prefix("The EventExport \"audit\" is invalid: ")
        .unwrap_or(message);
    let lines = reasons.lines().map(|line| line.trim_start_matches("* ").trim());
    let mut lines: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("<nil>: "))
        .collect();
    lines.sort_unstable();
    lines.join("<br>")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace("<br>", "\u{0}")
        .replace('<', "&lt;")
        .replace('\u{0}', "<br>")
}
