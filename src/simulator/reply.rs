//! JSON responses, lists and errors, with the format that faults select. No I/O.

use serde_json::{Value, json};

use super::connection::{ResponseBody, ServerResponse};
use super::effect::{Effect, ErrorForm, ListForm};
use super::fault::{FaultContext, RequestKind};
use super::outcome::RouteOutcome;
use super::service::SimulatedService;

/// An error response. `violation` is true if the request violates the protocol.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) retry_after: Option<u64>,
    pub(super) violation: bool,
}

impl ApiError {
    /// Creates an error for a valid request.
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after: None,
            violation: false,
        }
    }

    /// Creates an error for a request that violates the protocol.
    pub(super) fn violation(status: u16, message: impl Into<String>) -> Self {
        Self {
            violation: true,
            ..Self::new(status, message)
        }
    }
}

/// Returns the response to an executed request, unless a fault drops it.
pub(super) fn respond(
    service: &SimulatedService,
    context: FaultContext,
    status: u16,
    value: &Value,
) -> RouteOutcome {
    let silence = service.fault(context, |effect| match effect {
        Effect::NoReply { done: true, how } => Some(*how),
        _ => None,
    });
    silence.map_or_else(
        || RouteOutcome::Response(json_response(status, value)),
        RouteOutcome::NoReply,
    )
}

/// Returns a JSON response.
pub(super) fn json_response(status: u16, value: &Value) -> ServerResponse {
    ServerResponse {
        status,
        headers: vec![("Content-Type", "application/json".to_owned())],
        body: ResponseBody::Whole(value.to_string().into()),
    }
}

/// Returns an error response with the format that faults select, and records violations.
pub(super) fn error_response(
    service: &SimulatedService,
    context: FaultContext,
    error: ApiError,
) -> ServerResponse {
    let ApiError {
        status,
        message,
        retry_after,
        violation,
    } = error;
    if violation {
        service
            .state()
            .ledger
            .violation(format!("{:?}: {status}: {message}", context.kind));
    }
    if matches!(context.kind, RequestKind::Login | RequestKind::Refresh) {
        service.state().ledger.logins_refused += 1;
    }
    let form = service.fault(context, |effect| match effect {
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
    ServerResponse {
        status,
        headers,
        body: ResponseBody::Whole(text.into()),
    }
}

/// Returns a list with the format that faults select.
pub(super) fn list_value(
    service: &SimulatedService,
    context: FaultContext,
    name: &str,
    rows: Vec<Value>,
) -> Value {
    let rows = rows
        .into_iter()
        .map(|row| reshape(service, context, row))
        .collect();
    let form = service.fault(context, |effect| match effect {
        Effect::ListAs { form } => Some(*form),
        _ => None,
    });
    match form.unwrap_or(ListForm::Array) {
        ListForm::Array => Value::Array(rows),
        ListForm::Object => json!({ name: rows }),
        ListForm::Null => Value::Null,
    }
}

/// Returns an object with the fields that faults select.
pub(super) fn reshape(service: &SimulatedService, context: FaultContext, value: Value) -> Value {
    let fields = service.fault(context, |effect| {
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
