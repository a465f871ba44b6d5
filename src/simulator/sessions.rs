//! Sessions: create, list, show, delete. No I/O but the clock.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use super::connection::ServerRequest;
use super::effect::Effect;
use super::fault::FaultContext;
use super::reply::ApiError;
use super::service::{Selection, SimulatedService, SimulatedSession};
use super::uaa::Caller;
use super::validate::json_body;

/// Maximum length of a session in days (API page).
const MAX_DAYS: i32 = 15;

/// A request to create a session.
#[derive(Clone, Debug)]
pub(super) struct CreateRequest {
    pub(super) start: Date,
    pub(super) end: Date,
    pub(super) hour: Option<u8>,
    account: bool,
}

/// Parses a date, exactly `YYYY-MM-DD`.
pub(super) fn parse_date(name: &str, value: Option<&Value>) -> Result<Date, ApiError> {
    let invalid = || ApiError::violation(400, format!("{name} is not a date of the form YYYY-MM-DD"));
    let text = value.and_then(Value::as_str).ok_or_else(invalid)?;
    let well_formed = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if !well_formed {
        return Err(invalid());
    }
    text.parse().map_err(|_| invalid())
}

/// Parses both dates, and checks their order.
pub(super) fn parse_dates(body: &serde_json::Map<String, Value>) -> Result<(Date, Date), ApiError> {
    let (start, end) = (
        parse_date("start", body.get("start"))?,
        parse_date("end", body.get("end"))?,
    );
    if end < start {
        return Err(ApiError::violation(
            400,
            format!("end {end} is before start {start}"),
        ));
    }
    Ok((start, end))
}

/// Parses the account scope.
pub(super) fn parse_account(body: &serde_json::Map<String, Value>) -> Result<bool, ApiError> {
    body.get("AtAccountLevel")
        .and_then(Value::as_bool)
        .ok_or_else(|| ApiError::violation(400, "AtAccountLevel is neither true nor false"))
}

/// Parses a create.
pub(super) fn parse_create(request: &ServerRequest, caller: &Caller) -> Result<CreateRequest, ApiError> {
    let body = json_body(request, &["start", "end", "AtAccountLevel", "SearchTime"])?;
    let (start, end) = parse_dates(&body)?;
    let days = (end - start).get_days() + 1;
    if days > MAX_DAYS {
        return Err(ApiError::violation(
            400,
            format!("{days} days are more than the maximum of {MAX_DAYS}"),
        ));
    }
    let account = parse_account(&body)?;
    let hour = match body.get("SearchTime").and_then(Value::as_str) {
        Some("") => None,
        Some(text) => match text.parse::<u8>() {
            // The API page does not allow "07" or "+7".
            Ok(hour) if hour < 24 && hour.to_string() == text => Some(hour),
            _ => {
                return Err(ApiError::violation(
                    400,
                    format!("SearchTime {text:?} is not an hour, 0 to 23"),
                ));
            }
        },
        None => return Err(ApiError::violation(400, "SearchTime is not a string")),
    };
    if account && !caller.account {
        return Err(ApiError::new(
            403,
            format!("{} is not allowed to read the account scope", caller.user),
        ));
    }
    Ok(CreateRequest {
        start,
        end,
        hour,
        account,
    })
}

/// Creates a session.
pub(super) fn create(
    service: &SimulatedService,
    caller: &Caller,
    request: &CreateRequest,
    context: FaultContext,
) -> Result<(u16, Value), ApiError> {
    let shifted = service.fault(context, |effect| match effect {
        Effect::AnswerShifted { days, data } => Some((*days, *data)),
        _ => None,
    });
    let selection = Selection {
        space: caller.space.clone(),
        account: request.account,
        start: request.start,
        end: request.end,
        hour: request.hour,
    };
    let moved = |days: i8, date: Date| date.checked_add(i32::from(days).days()).unwrap_or(date);
    let reported_range = shifted.map_or((request.start, request.end), |(days, _)| {
        (moved(days, request.start), moved(days, request.end))
    });
    let mut served = selection.clone();
    if shifted.is_some_and(|(_, data)| data) {
        (served.start, served.end) = reported_range;
    }
    {
        let mut state = service.state();
        if state.open_in(&caller.space) < service.settings.session_limit {
            let id = state.open(&caller.user, selection, served, reported_range, false);
            let value = state
                .sessions
                .get(&id)
                .map_or(Value::Null, |open| session_json(&id, open));
            return Ok((200, value));
        }
        state.ledger.refused_at_capacity += 1;
    }
    let replacement = service.fault(context, |effect| match effect {
        Effect::CapacityAs { status, retry_after } => Some((*status, *retry_after)),
        _ => None,
    });
    let (status, retry_after) = replacement.unwrap_or((429, Some(1)));
    Err(ApiError {
        retry_after,
        ..ApiError::new(status, "too many sessions are open in this space")
    })
}

/// Returns a session as the API page shows it.
fn session_json(id: &str, open: &SimulatedSession) -> Value {
    json!({
        "id": id,
        "space": &*open.requested.space,
        "username": open.username,
        "create-time": nanoseconds(open.created),
        "access-time": nanoseconds(open.accessed),
        "date-range": {"Start": open.reported_range.0.to_string(), "End": open.reported_range.1.to_string()},
        "types": {"Type": "ActivityTracker", "AtAccountLevel": open.requested.account},
        "search-time": open.requested.hour.map(|hour| hour.to_string()).unwrap_or_default(),
    })
}

fn nanoseconds(time: Timestamp) -> String {
    format!("{time:.9}")
}

/// Lists the caller's sessions in the space.
pub(super) fn list(service: &SimulatedService, caller: &Caller, context: FaultContext) -> Vec<Value> {
    let all_users = service
        .fault(context, |effect| (*effect == Effect::WholeSpace).then_some(()))
        .is_some();
    let state = service.state();
    let visible = |open: &SimulatedSession| {
        open.requested.space == caller.space && (all_users || open.username == caller.user)
    };
    state
        .sessions
        .iter()
        .filter(|(_, open)| visible(open))
        .map(|(id, open)| session_json(id, open))
        .collect()
}

/// Returns the session if the caller owns it.
pub(super) fn owned_session(
    service: &SimulatedService,
    caller: &Caller,
    id: &str,
) -> Result<SimulatedSession, ApiError> {
    let open = service.state().sessions.get(id).cloned();
    let open = open.ok_or_else(|| ApiError::new(404, format!("session {id:?} not found")))?;
    if open.username != caller.user {
        return Err(ApiError::violation(
            403,
            format!("session {id} is of another user"),
        ));
    }
    if open.requested.space != caller.space {
        return Err(ApiError::violation(
            403,
            format!("session {id} is of another space"),
        ));
    }
    Ok(open)
}

/// Shows one session.
pub(super) fn show(service: &SimulatedService, caller: &Caller, id: &str) -> Result<Value, ApiError> {
    owned_session(service, caller, id).map(|open| session_json(id, &open))
}

/// Deletes a session.
pub(super) fn delete(service: &SimulatedService, caller: &Caller, id: &str) -> Result<Value, ApiError> {
    let owned = owned_session(service, caller, id);
    let mut state = service.state();
    match owned {
        Ok(open) => {
            // Of two concurrent deletes, one finds no session.
            if state.sessions.remove(id).is_some() {
                if open.other_user {
                    state.ledger.other_users_deleted += 1;
                } else {
                    state.ledger.deleted += 1;
                }
            }
            Ok(json!({"message": "Delete session success"}))
        }
        Err(error) => {
            if error.status == 404 {
                state.ledger.deletes_not_found += 1;
            }
            Err(error)
        }
    }
}
