//! Answers in words: JSON, lists, errors, in the form that the faults want. No I/O.

use serde_json::{Value, json};

use super::effect::{Effect, ErrorForm, ListForm};
use super::fault::{Concern, Kind};
use super::router::Outcome;
use super::service::Service;
use super::wire::{Answer, Body};

/// A refusal. `violation` says that the request broke the protocol.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) retry_after: Option<u64>,
    pub(super) violation: bool,
}

impl Refusal {
    /// An answer with an error status to a sound request.
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after: None,
            violation: false,
        }
    }

    /// The request broke the protocol.
    pub(super) fn violation(status: u16, message: impl Into<String>) -> Self {
        Self {
            violation: true,
            ..Self::new(status, message)
        }
    }
}

/// The answer to a request that was carried out, unless a fault loses it.
pub(super) fn after(service: &Service, concern: Concern, status: u16, value: &Value) -> Outcome {
    let silence = service.fault(concern, |effect| match effect {
        Effect::NoReply { done: true, how } => Some(*how),
        _ => None,
    });
    silence.map_or_else(|| Outcome::Answer(json_answer(status, value)), Outcome::Silence)
}

/// JSON.
pub(super) fn json_answer(status: u16, value: &Value) -> Answer {
    Answer {
        status,
        headers: vec![("Content-Type", "application/json".to_owned())],
        body: Body::Whole(value.to_string().into()),
    }
}

/// An error, worded as the faults want it; a violation is noted.
pub(super) fn refused(service: &Service, concern: Concern, refusal: Refusal) -> Answer {
    let Refusal {
        status,
        message,
        retry_after,
        violation,
    } = refusal;
    if violation {
        service
            .state()
            .ledger
            .violation(format!("{:?}: {status}: {message}", concern.kind));
    }
    if matches!(concern.kind, Kind::Login | Kind::Refresh) {
        service.state().ledger.logins_refused += 1;
    }
    let form = service.fault(concern, |effect| match effect {
        Effect::ErrorsAs { form } => Some(*form),
        _ => None,
    });
    let (media, text) = match form.unwrap_or(ErrorForm::Json) {
        ErrorForm::Json => ("application/json", json!({"message": message}).to_string()),
        ErrorForm::Text => ("text/plain", message),
        ErrorForm::Html => (
            "text/html",
            format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"),
        ),
    };
    let mut headers = vec![("Content-Type", media.to_owned())];
    headers.extend(retry_after.map(|seconds| ("Retry-After", seconds.to_string())));
    Answer {
        status,
        headers,
        body: Body::Whole(text.into()),
    }
}

/// A list, in the form that the faults want.
pub(super) fn listed(service: &Service, concern: Concern, name: &str, rows: Vec<Value>) -> Value {
    let rows = rows
        .into_iter()
        .map(|row| reshape(service, concern, row))
        .collect();
    let form = service.fault(concern, |effect| match effect {
        Effect::ListAs { form } => Some(*form),
        _ => None,
    });
    match form.unwrap_or(ListForm::Array) {
        ListForm::Array => Value::Array(rows),
        ListForm::Object => json!({ name: rows }),
        ListForm::Null => Value::Null,
    }
}

/// An object, with the fields that the faults want.
pub(super) fn reshape(service: &Service, concern: Concern, value: Value) -> Value {
    let fields = service.fault(concern, |effect| {
        matches!(effect, Effect::Fields { .. }).then(|| effect.clone())
    });
    let (
        Some(Effect::Fields {
            add,
            drop,
            null,
            lowercase,
            number_strings,
        }),
        Value::Object(object),
    ) = (fields, &value)
    else {
        return value;
    };
    let mut changed = serde_json::Map::new();
    if add {
        changed.insert("x-undocumented".to_owned(), json!({"of": ["an", 1, null]}));
    }
    for (name, value) in object.iter().filter(|(name, _)| !drop.contains(name)) {
        let value = match value {
            _ if null.contains(name) => Value::Null,
            Value::Number(number) if number_strings => Value::String(number.to_string()),
            value => value.clone(),
        };
        changed.insert(
            if lowercase {
                name.to_lowercase()
            } else {
                name.clone()
            },
            value,
        );
    }
    Value::Object(changed)
}
