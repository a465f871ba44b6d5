//! Named invariants of each case, over an observation. No I/O.

use std::collections::BTreeSet;

use eventexport::api::Reason;
use eventexport::controller::export_health::needs_manual_action;
use serde_json::Value;

use super::fixture::{SESSION_LIMIT, USER_SESSIONS};
use super::observation::{CaseObservation, CaseOutcome};
use super::{ProxiedPeer, RecordedRequest};
use crate::testkit::proxy::creations;

/// Named invariant; its check describes a violation.
pub(crate) struct Invariant {
    pub(crate) name: &'static str,
    /// Compares a case with the reference.
    check: fn(&CaseObservation, &CaseObservation) -> Result<(), String>,
}

pub(crate) const INVARIANTS: [Invariant; 15] = [
    Invariant {
        name: "the export completes",
        check: completes,
    },
    Invariant {
        name: "manual action is needed only for reasons that say so",
        check: needs_no_manual_action,
    },
    Invariant {
        name: "the operator stops on request",
        check: stops_on_sigterm,
    },
    Invariant {
        name: "objects equal the reference byte for byte",
        check: same_objects,
    },
    Invariant {
        name: "receipts equal the reference",
        check: same_receipts,
    },
    Invariant {
        name: "objects, receipts and manifests are created once",
        check: created_once,
    },
    Invariant {
        name: "every opened session is deleted",
        check: no_session_left,
    },
    Invariant {
        name: "the session limit is respected",
        check: within_budget,
    },
    Invariant {
        name: "manual sessions are untouched",
        check: user_sessions_untouched,
    },
    Invariant {
        name: "no upload is left",
        check: no_upload_left,
    },
    Invariant {
        name: "no temporary journal entry is left",
        check: no_temporary_entry_left,
    },
    Invariant {
        name: "the status equals the reference",
        check: same_status,
    },
    Invariant {
        name: "every warning is actionable",
        check: warnings_are_actionable,
    },
    Invariant {
        name: "no secret is visible",
        check: no_secret,
    },
    Invariant {
        name: "verify succeeds",
        check: archive_verifies,
    },
];

/// Returns the violated invariants with their descriptions.
pub(crate) fn violations(
    observed: &CaseObservation,
    reference: &CaseObservation,
) -> Vec<(&'static str, String)> {
    INVARIANTS
        .iter()
        .filter_map(|invariant| {
            let wrong = (invariant.check)(observed, reference).err()?;
            Some((invariant.name, wrong))
        })
        .collect()
}

fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(wrong()) }
}

fn completes(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    match &observed.ending {
        CaseOutcome::Recovered | CaseOutcome::ManualAction(_) => Ok(()),
        CaseOutcome::Incomplete(status) => Err(format!("not complete; the status: {status}")),
    }
}

/// Reasons that need manual action and that a refusal by a peer may cause. A transient fault must not cause a report
/// of lost days or foreign objects.
fn requires_manual_action(reason: Reason) -> bool {
    let of_peers = matches!(
        reason,
        Reason::CredentialsMissing
            | Reason::CredentialsRefused
            | Reason::RoleMissing
            | Reason::BucketMissing
            | Reason::BucketForbidden
            | Reason::BucketFull
            | Reason::ObjectAttributesRejected
            | Reason::ConditionalWritesUnsupported
            | Reason::ReceiptUnreadable
    );
    // Refused counts are asked for again on the next day, and the export stays complete.
    of_peers && needs_manual_action(reason) || reason == Reason::Complete
}

fn needs_no_manual_action(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    match observed.ending {
        CaseOutcome::ManualAction(reason) => ensure(reason.is_some_and(requires_manual_action), || {
            format!("it went on only after a restart, with the reason {reason:?}")
        }),
        CaseOutcome::Recovered | CaseOutcome::Incomplete(_) => Ok(()),
    }
}

fn stops_on_sigterm(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    // An operator that loses its lease, as on a paused machine, exits with 1; that is not a violation.
    ensure(
        observed.stopped_cleanly || observed.log.contains("the lease was lost"),
        || "it did not end within its time, or not with 0, after SIGTERM".to_owned(),
    )
}

/// True for temporary entries, which are ignored and removed when the window is done.
pub(crate) fn is_temporary_entry(key: &str) -> bool {
    let stays = is_receipt(key) || key.ends_with(".receipt.json.sig") || key.ends_with(".split.json");
    key.contains("/_journal/") && !stays
}

/// True for receipts and manifests.
fn is_receipt(key: &str) -> bool {
    key.ends_with(".receipt.json") || key.contains("/_manifests/") && !key.ends_with(".json.sig")
}

/// Checks that all entries of one kind are equal.
fn compare_entries(
    observed: &CaseObservation,
    reference: &CaseObservation,
    of: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let keys: BTreeSet<&String> = observed
        .archive
        .keys()
        .chain(reference.archive.keys())
        .filter(|key| of(key))
        .collect();
    for key in keys {
        match (observed.archive.get(key), reference.archive.get(key)) {
            (Some(one), Some(other)) if one == other => {}
            (Some(one), Some(other)) => {
                return Err(format!(
                    "{key} is {}, not {}",
                    display_object(one),
                    display_object(other)
                ));
            }
            (None, _) => return Err(format!("{key} is not there")),
            (_, None) => return Err(format!("{key} is there, and not in the reference")),
        }
    }
    Ok(())
}

/// Formats an object as one line of text, or as its size.
fn display_object(object: &[u8]) -> String {
    match std::str::from_utf8(object) {
        Ok(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Err(_) => format!("{} bytes", object.len()),
    }
}

fn same_objects(observed: &CaseObservation, reference: &CaseObservation) -> Result<(), String> {
    compare_entries(observed, reference, |key| {
        !is_temporary_entry(key) && !is_receipt(key)
    })
}

/// Ignores times, ids and transfer details; ignores counts if the service refused them.
fn same_receipts(observed: &CaseObservation, reference: &CaseObservation) -> Result<(), String> {
    let refused = |seen: &RecordedRequest| {
        seen.peer == ProxiedPeer::Tracker
            && seen.line == "GET /v3/events"
            && seen.rule.as_ref().is_some_and(|rule| rule.starts_with("answer-"))
    };
    let mut uncounted = vec!["resumes", "transferEnd", "emptyAnswer"];
    if observed.requests.iter().any(refused) {
        uncounted.extend(["reportedBefore", "reportedAfter", "verdict"]);
    }
    let without = |observed: &CaseObservation| CaseObservation {
        archive: observed
            .archive
            .iter()
            .filter(|(key, _)| is_receipt(key))
            .map(|(key, bytes)| (key.clone(), without_fields(bytes, &uncounted)))
            .collect(),
        ..observed.clone()
    };
    compare_entries(&without(observed), &without(reference), is_receipt)
}

/// Returns a document without these fields at any depth.
fn without_fields(document: &[u8], names: &[&str]) -> Vec<u8> {
    fn strip(value: Value, names: &[&str]) -> Value {
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .filter(|(name, _)| !names.contains(&name.as_str()))
                .map(|(name, value)| (name, strip(value, names)))
                .collect(),
            Value::Array(items) => items.into_iter().map(|item| strip(item, names)).collect(),
            other => other,
        }
    }
    match serde_json::from_slice(document) {
        Ok(value) => strip(value, names).to_string().into_bytes(),
        Err(_) => document.to_vec(),
    }
}

fn created_once(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    let created = creations(&observed.requests);
    let stay = |key: &&String| !is_temporary_entry(key) && !key.ends_with(".split.json");
    for key in observed.archive.keys().filter(stay) {
        let times = created.get(key.as_str()).copied().unwrap_or_default();
        ensure(times == 1, || format!("{key} was created {times} times"))?;
        let versions = observed.versions.get(key).copied().unwrap_or_default();
        ensure(versions == 1, || format!("{key} has {versions} versions"))?;
    }
    Ok(())
}

fn no_session_left(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    let ledger = &observed.ledger;
    ensure(ledger.open_now == 0 && ledger.opened == ledger.deleted, || {
        format!(
            "{} opened, {} deleted, {} open",
            ledger.opened, ledger.deleted, ledger.open_now
        )
    })
}

fn within_budget(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    let most = usize::try_from(observed.ledger.max_open).unwrap_or(usize::MAX);
    ensure(most <= USER_SESSIONS + SESSION_LIMIT, || {
        format!("{most} were open at once, {USER_SESSIONS} of them manual; {SESSION_LIMIT} are allowed")
    })
}

fn user_sessions_untouched(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    let (gone, ledger) = (&observed.deleted_user_sessions, &observed.ledger);
    ensure(gone.is_empty() && ledger.other_users_deleted == 0, || {
        format!(
            "gone: {gone:?}; {} deleted by request",
            ledger.other_users_deleted
        )
    })?;
    ensure(ledger.violations.is_empty(), || {
        format!("the protocol was broken: {:?}", ledger.violations)
    })
}

fn no_upload_left(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    ensure(observed.uploads.is_empty(), || format!("{:?}", observed.uploads))
}

fn no_temporary_entry_left(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    let entries: Vec<&String> = observed
        .archive
        .keys()
        .filter(|key| is_temporary_entry(key))
        .collect();
    ensure(entries.is_empty(), || format!("{entries:?}"))
}

/// Returns the status without its times, and without the digest of a manifest, which states its own.
fn without_times(status: &Value) -> Value {
    match status {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !name.ends_with("Time") && !["writtenAt", "sha256"].contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), without_times(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_times).collect(),
        other => other.clone(),
    }
}

fn same_status(observed: &CaseObservation, reference: &CaseObservation) -> Result<(), String> {
    let (one, other) = (without_times(&observed.status), without_times(&reference.status));
    ensure(one == other, || format!("{one} is not {other}"))
}

/// Markers of text for developers.
const DEBUG_MARKERS: [&str; 16] = [
    "panicked",
    "stack backtrace",
    "Some(",
    "Ok(",
    "Err(",
    "Error {",
    "Error(",
    "Kind(",
    "kind: ",
    "Custom {",
    "DispatchFailure",
    "unhandled error",
    "service error",
    "<html",
    "hyper::",
    "source: ",
];

/// Fields that name the object of a log line.
const SUBJECT_FIELDS: [&str; 11] = [
    "export",
    "exports",
    "namespace",
    "lease",
    "session",
    "sessions",
    "attempt",
    "key",
    "upload",
    "window",
    "reason",
];

/// Checks that an operator can act on a log line. Informational lines are not checked.
pub(crate) fn check_actionable(line: &str) -> Result<(), String> {
    for mark in DEBUG_MARKERS {
        ensure(!line.contains(mark), || {
            format!("{mark:?} is for programmers: {line}")
        })?;
    }
    // Error of the exiting program.
    if line.starts_with("eventexport: ") {
        return Ok(());
    }
    let Ok(Value::Object(fields)) = serde_json::from_str(line) else {
        return Err(format!("no line of the log: {line}"));
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    if !["WARN", "ERROR"].contains(&text("level")) {
        return Ok(());
    }
    ensure(!text("message").is_empty(), || format!("it says nothing: {line}"))?;
    let names = SUBJECT_FIELDS.iter().any(|name| fields.contains_key(*name));
    // The process itself may be at fault: its lease, the API server, or the namespace that identifies its cluster.
    let of_itself = ["API server", "lease", "namespace kube-system"]
        .iter()
        .any(|word| line.contains(word));
    ensure(names || of_itself, || format!("it names nothing: {line}"))
}

fn warnings_are_actionable(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    let mut lines: Vec<&str> = observed.log.lines().filter(|line| !line.is_empty()).collect();
    // A killed process may leave an incomplete line.
    lines.retain(|line| line.ends_with('}') || !line.starts_with("{\"timestamp\""));
    lines.into_iter().try_for_each(check_actionable)
}

fn no_secret(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    let places = [
        ("the log", &observed.log),
        ("resource or Events", &observed.resource_text),
        ("what verify says", &observed.verified.1),
    ];
    for secret in observed.secrets.iter().filter(|secret| !secret.is_empty()) {
        for (place, text) in places {
            ensure(!text.contains(secret.as_str()), || {
                let first: String = secret.chars().take(4).collect();
                format!("{place} has the secret {first}…")
            })?;
        }
    }
    Ok(())
}

fn archive_verifies(observed: &CaseObservation, _: &CaseObservation) -> Result<(), String> {
    let (proved, printed) = &observed.verified;
    ensure(*proved, || printed.clone())
}
