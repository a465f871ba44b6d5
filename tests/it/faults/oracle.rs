//! What must hold after every case, each by name, over what was observed. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use eventexport::api::Reason;
use eventexport::controller::judge::needs_person;
use serde_json::Value;

use super::observed::{Ending, Observed};
use super::stage::{BUDGET, THEIRS};
use super::{Fault, Peer, Seen};

/// A promise, by name; it says what is wrong, where it is not kept.
pub(crate) struct Oracle {
    pub(crate) name: &'static str,
    /// Of a case, and of the reference.
    judge: fn(&Observed, &Observed) -> Result<(), String>,
}

pub(crate) const ORACLES: [Oracle; 15] = [
    Oracle {
        name: "it gets there",
        judge: gets_there,
    },
    Oracle {
        name: "a person is needed only where the reason says so",
        judge: alone,
    },
    Oracle {
        name: "it stops when it is told to",
        judge: stops,
    },
    Oracle {
        name: "the objects are the reference's, byte for byte",
        judge: same_objects,
    },
    Oracle {
        name: "the receipts are the reference's",
        judge: same_receipts,
    },
    Oracle {
        name: "objects, receipts and manifests are created once",
        judge: created_once,
    },
    Oracle {
        name: "every session that was opened is deleted",
        judge: no_session_left,
    },
    Oracle {
        name: "no more sessions are open than allowed",
        judge: within_budget,
    },
    Oracle {
        name: "sessions of people are untouched",
        judge: theirs_untouched,
    },
    Oracle {
        name: "no upload is left",
        judge: no_upload_left,
    },
    Oracle {
        name: "no working paper is left",
        judge: no_paper_left,
    },
    Oracle {
        name: "the status is the reference's",
        judge: same_status,
    },
    Oracle {
        name: "every warning can be acted upon",
        judge: warnings_help,
    },
    Oracle {
        name: "no secret is shown",
        judge: no_secret,
    },
    Oracle {
        name: "the archive is proved by verify",
        judge: proved,
    },
];

/// The promises that are not kept, with what is wrong.
pub(crate) fn judge(observed: &Observed, reference: &Observed) -> Vec<(&'static str, String)> {
    ORACLES
        .iter()
        .filter_map(|oracle| {
            let wrong = (oracle.judge)(observed, reference).err()?;
            Some((oracle.name, wrong))
        })
        .collect()
}

fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(wrong()) }
}

fn gets_there(observed: &Observed, _: &Observed) -> Result<(), String> {
    match &observed.ending {
        Ending::Alone | Ending::Helped(_) => Ok(()),
        Ending::Never(said) => Err(format!("not complete; the status: {said}")),
    }
}

/// Reasons for which a person acts, and that a peer's refusal can be the cause of. That days are lost, or objects
/// somebody else's, no passing fault may make anybody believe.
fn asks_for_a_person(reason: Reason) -> bool {
    let of_peers = matches!(
        reason,
        Reason::CredentialsMissing
            | Reason::CredentialsRefused
            | Reason::RoleMissing
            | Reason::BucketMissing
            | Reason::BucketForbidden
            | Reason::BucketFull
            | Reason::LockRefused
            | Reason::DestinationWeak
    );
    of_peers && needs_person(reason)
}

fn alone(observed: &Observed, _: &Observed) -> Result<(), String> {
    match observed.ending {
        Ending::Helped(reason) => ensure(reason.is_some_and(asks_for_a_person), || {
            format!("it went on only after a restart, with the reason {reason:?}")
        }),
        Ending::Alone | Ending::Never(_) => Ok(()),
    }
}

fn stops(observed: &Observed, _: &Observed) -> Result<(), String> {
    // Who loses its lease, as on a machine that stands still for seconds, ends with 1: then that is not judged.
    ensure(
        observed.stopped || observed.log.contains("the lease was lost"),
        || "it did not end within its time, or not with 0, after SIGTERM".to_owned(),
    )
}

/// Whether it is in the way of nothing, and spent when its window is done.
pub(crate) fn is_paper(key: &str) -> bool {
    key.contains("/_journal/") && !is_receipt(key) && !key.ends_with(".split.json")
}

/// What is written once and stays, beside the events.
fn is_receipt(key: &str) -> bool {
    key.ends_with(".receipt.json") || key.contains("/_manifests/")
}

/// That all of one kind is the same.
fn same(observed: &Observed, reference: &Observed, of: impl Fn(&str) -> bool) -> Result<(), String> {
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
                return Err(format!("{key} is {}, not {}", shown(one), shown(other)));
            }
            (None, _) => return Err(format!("{key} is not there")),
            (_, None) => return Err(format!("{key} is there, and not in the reference")),
        }
    }
    Ok(())
}

/// Text in one line, or how many bytes.
fn shown(object: &[u8]) -> String {
    match std::str::from_utf8(object) {
        Ok(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Err(_) => format!("{} bytes", object.len()),
    }
}

fn same_objects(observed: &Observed, reference: &Observed) -> Result<(), String> {
    same(observed, reference, |key| !is_paper(key) && !is_receipt(key))
}

/// But for times, ids, and how the transfer went; and but for counts, where the service refused to give them.
fn same_receipts(observed: &Observed, reference: &Observed) -> Result<(), String> {
    let refused = |seen: &Seen| {
        seen.peer == Peer::Tracker
            && seen.line == "GET /v3/events"
            && matches!(seen.fault, Some(Fault::Answer(_)))
    };
    let mut uncounted = vec!["resumes", "transferEnd", "emptyAnswer"];
    if observed.asked.iter().any(refused) {
        uncounted.extend(["reportedBefore", "reportedAfter", "verdict"]);
    }
    let without = |observed: &Observed| Observed {
        archive: observed
            .archive
            .iter()
            .filter(|(key, _)| is_receipt(key))
            .map(|(key, bytes)| (key.clone(), leave_out(bytes, &uncounted)))
            .collect(),
        ..observed.clone()
    };
    same(&without(observed), &without(reference), is_receipt)
}

/// A document without these fields, wherever they are.
fn leave_out(document: &[u8], names: &[&str]) -> Vec<u8> {
    fn go(value: Value, names: &[&str]) -> Value {
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .filter(|(name, _)| !names.contains(&name.as_str()))
                .map(|(name, value)| (name, go(value, names)))
                .collect(),
            Value::Array(items) => items.into_iter().map(|item| go(item, names)).collect(),
            other => other,
        }
    }
    match serde_json::from_slice(document) {
        Ok(value) => go(value, names).to_string().into_bytes(),
        Err(_) => document.to_vec(),
    }
}

/// The key that a successful request made visible, and the upload that it completed, if one: stores answer the same
/// completion again as they did the first time.
fn created(seen: &Seen) -> Option<(&str, &str)> {
    let (method, rest) = seen.line.split_once(' ')?;
    let (key, query) = rest.split_once('?').unwrap_or((rest, ""));
    let upload = query.split('&').find_map(|pair| pair.strip_prefix("uploadId="));
    let made = match method {
        "PUT" => upload.is_none(),
        "POST" => upload.is_some(),
        _ => false,
    };
    (made && seen.succeeded()).then_some((key, upload.unwrap_or_default()))
}

fn created_once(observed: &Observed, _: &Observed) -> Result<(), String> {
    let mut times = BTreeMap::<&str, usize>::new();
    let mut completed = BTreeSet::new();
    let of_store = observed.asked.iter().filter(|seen| seen.peer == Peer::Store);
    for (key, upload) in of_store.filter_map(created) {
        if upload.is_empty() || completed.insert(upload) {
            *times.entry(key).or_default() += 1;
        }
    }
    let stay = |key: &&String| !is_paper(key) && !key.ends_with(".split.json");
    for key in observed.archive.keys().filter(stay) {
        let found = times.iter().find(|(line, _)| line.ends_with(key.as_str()));
        let times = found.map_or(0, |(_, times)| *times);
        ensure(times == 1, || format!("{key} was created {times} times"))?;
        let versions = observed.versions.get(key).copied().unwrap_or_default();
        ensure(versions == 1, || format!("{key} has {versions} versions"))?;
    }
    Ok(())
}

fn no_session_left(observed: &Observed, _: &Observed) -> Result<(), String> {
    let ledger = &observed.ledger;
    ensure(ledger.open_now == 0 && ledger.opened == ledger.deleted, || {
        format!(
            "{} opened, {} deleted, {} open",
            ledger.opened, ledger.deleted, ledger.open_now
        )
    })
}

fn within_budget(observed: &Observed, _: &Observed) -> Result<(), String> {
    let most = usize::try_from(observed.ledger.max_open).unwrap_or(usize::MAX);
    ensure(most <= THEIRS + BUDGET, || {
        format!("{most} were open at once, {THEIRS} of them people's; {BUDGET} are allowed")
    })
}

fn theirs_untouched(observed: &Observed, _: &Observed) -> Result<(), String> {
    let (gone, ledger) = (&observed.theirs_gone, &observed.ledger);
    ensure(gone.is_empty() && ledger.people_deleted == 0, || {
        format!("gone: {gone:?}; {} deleted by request", ledger.people_deleted)
    })?;
    ensure(ledger.violations.is_empty(), || {
        format!("the protocol was broken: {:?}", ledger.violations)
    })
}

fn no_upload_left(observed: &Observed, _: &Observed) -> Result<(), String> {
    ensure(observed.uploads.is_empty(), || format!("{:?}", observed.uploads))
}

fn no_paper_left(observed: &Observed, _: &Observed) -> Result<(), String> {
    let papers: Vec<&String> = observed.archive.keys().filter(|key| is_paper(key)).collect();
    ensure(papers.is_empty(), || format!("{papers:?}"))
}

/// The status without its times.
fn timeless(status: &Value) -> Value {
    match status {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !name.ends_with("Time"))
            .map(|(name, value)| (name.clone(), timeless(value)))
            .collect(),
        Value::Array(items) => items.iter().map(timeless).collect(),
        other => other.clone(),
    }
}

fn same_status(observed: &Observed, reference: &Observed) -> Result<(), String> {
    let (one, other) = (timeless(&observed.status), timeless(&reference.status));
    ensure(one == other, || format!("{one} is not {other}"))
}

/// What marks words that are for the writers of programs.
const FOR_PROGRAMMERS: [&str; 16] = [
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

/// Fields by which a line names what it is about.
const NAMES: [&str; 10] = [
    "export", "exports", "lease", "session", "sessions", "attempt", "key", "upload", "window", "reason",
];

/// Whether a person could act upon a line of the log; or why not. Lines that only tell are not judged.
pub(crate) fn can_be_acted_upon(line: &str) -> Result<(), String> {
    for mark in FOR_PROGRAMMERS {
        ensure(!line.contains(mark), || {
            format!("{mark:?} is for programmers: {line}")
        })?;
    }
    // As the program says why it ended.
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
    let names = NAMES.iter().any(|name| fields.contains_key(*name));
    // The process itself may be what it is about: its lease, the API server, or the namespace that names its cluster,
    // which no export is to blame for.
    let of_itself = ["API server", "lease", "namespace kube-system"]
        .iter()
        .any(|word| line.contains(word));
    ensure(names || of_itself, || format!("it names nothing: {line}"))
}

fn warnings_help(observed: &Observed, _: &Observed) -> Result<(), String> {
    let mut lines: Vec<&str> = observed.log.lines().filter(|line| !line.is_empty()).collect();
    // A process that is killed may leave half a line.
    lines.retain(|line| line.ends_with('}') || !line.starts_with("{\"timestamp\""));
    lines.into_iter().try_for_each(can_be_acted_upon)
}

fn no_secret(observed: &Observed, _: &Observed) -> Result<(), String> {
    let places = [
        ("the log", &observed.log),
        ("resource or Events", &observed.told),
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

fn proved(observed: &Observed, _: &Observed) -> Result<(), String> {
    let (proved, said) = &observed.verified;
    ensure(*proved, || said.clone())
}
