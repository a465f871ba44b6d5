//! Sessions: create, list, show, delete. No I/O but the clock.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use super::effect::Effect;
use super::fault::Concern;
use super::reply::Refusal;
use super::router::Caller;
use super::service::{Open, Selection, Service};
use super::sound::json_body;
use super::wire::Request;

/// Days that a session may have (API page).
const MAX_DAYS: i32 = 15;

/// What a create asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) start: Date,
    pub(super) end: Date,
    pub(super) hour: Option<u8>,
    account: bool,
}

/// `YYYY-MM-DD`, exactly.
pub(super) fn date_field(name: &str, value: Option<&Value>) -> Result<Date, Refusal> {
    let wrong = || Refusal::violation(400, format!("{name} is not a date as YYYY-MM-DD"));
    let text = value.and_then(Value::as_str).ok_or_else(wrong)?;
    let sound = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if !sound {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// Both dates, in order.
pub(super) fn dates(body: &serde_json::Map<String, Value>) -> Result<(Date, Date), Refusal> {
    let (start, end) = (
        date_field("start", body.get("start"))?,
        date_field("end", body.get("end"))?,
    );
    if end < start {
        return Err(Refusal::violation(
            400,
            format!("end {end} is before start {start}"),
        ));
    }
    Ok((start, end))
}

/// The account scope, which not everybody may ask for.
pub(super) fn account_field(body: &serde_json::Map<String, Value>) -> Result<bool, Refusal> {
    body.get("AtAccountLevel")
        .and_then(Value::as_bool)
        .ok_or_else(|| Refusal::violation(400, "AtAccountLevel is neither true nor false"))
}

/// Reads a create.
pub(super) fn asked(request: &Request, caller: &Caller) -> Result<Asked, Refusal> {
    let body = json_body(request, &["start", "end", "AtAccountLevel", "SearchTime"])?;
    let (start, end) = dates(&body)?;
    let days = (end - start).get_days() + 1;
    if days > MAX_DAYS {
        return Err(Refusal::violation(
            400,
            format!("{days} days are more than {MAX_DAYS}"),
        ));
    }
    let account = account_field(&body)?;
    let hour = match body.get("SearchTime").and_then(Value::as_str) {
        Some("") => None,
        Some(text) => match text.parse::<u8>() {
            // "07" and "+7" are not what the API page shows.
            Ok(hour) if hour < 24 && hour.to_string() == text => Some(hour),
            _ => {
                return Err(Refusal::violation(
                    400,
                    format!("SearchTime {text:?} is not an hour, 0 to 23"),
                ));
            }
        },
        None => return Err(Refusal::violation(400, "SearchTime is not a string")),
    };
    if account && !caller.account {
        return Err(Refusal::new(
            403,
            format!("{} may not ask for the account scope", caller.user),
        ));
    }
    Ok(Asked {
        start,
        end,
        hour,
        account,
    })
}

/// Creates a session.
pub(super) fn create(
    service: &Service,
    caller: &Caller,
    asked: &Asked,
    concern: Concern,
) -> Result<(u16, Value), Refusal> {
    let shifted = service.fault(concern, |effect| match effect {
        Effect::AnswerShifted { days, data } => Some((*days, *data)),
        _ => None,
    });
    let selection = Selection {
        space: caller.space.clone(),
        account: asked.account,
        start: asked.start,
        end: asked.end,
        hour: asked.hour,
    };
    let moved = |days: i8, date: Date| date.checked_add(i32::from(days).days()).unwrap_or(date);
    let said = shifted.map_or((asked.start, asked.end), |(days, _)| {
        (moved(days, asked.start), moved(days, asked.end))
    });
    let mut given = selection.clone();
    if shifted.is_some_and(|(_, data)| data) {
        (given.start, given.end) = said;
    }
    {
        let mut state = service.state();
        if state.open_in(&caller.space) < service.settings.session_limit {
            let id = state.open(&caller.user, selection, given, said, false);
            let value = state
                .sessions
                .get(&id)
                .map_or(Value::Null, |open| describe(&id, open));
            return Ok((200, value));
        }
        state.ledger.refused_full += 1;
    }
    let told = service.fault(concern, |effect| match effect {
        Effect::CapacityAs { status, retry_after } => Some((*status, *retry_after)),
        _ => None,
    });
    let (status, retry_after) = told.unwrap_or((429, Some(1)));
    Err(Refusal {
        retry_after,
        ..Refusal::new(status, "too many sessions are open in this space")
    })
}

/// A session as the API page shows it.
fn describe(id: &str, open: &Open) -> Value {
    json!({
        "id": id,
        "space": &*open.asked.space,
        "username": open.username,
        "create-time": nanoseconds(open.created),
        "access-time": nanoseconds(open.accessed),
        "date-range": {"Start": open.said.0.to_string(), "End": open.said.1.to_string()},
        "types": {"Type": "ActivityTracker", "AtAccountLevel": open.asked.account},
        "search-time": open.asked.hour.map(|hour| hour.to_string()).unwrap_or_default(),
    })
}

fn nanoseconds(time: Timestamp) -> String {
    format!("{time:.9}")
}

/// The caller's sessions in the space.
pub(super) fn list(service: &Service, caller: &Caller, concern: Concern) -> Vec<Value> {
    let everybody = service
        .fault(concern, |effect| (*effect == Effect::WholeSpace).then_some(()))
        .is_some();
    let state = service.state();
    let seen = |open: &Open| open.asked.space == caller.space && (everybody || open.username == caller.user);
    state
        .sessions
        .iter()
        .filter(|(_, open)| seen(open))
        .map(|(id, open)| describe(id, open))
        .collect()
}

/// The session, if it is the caller's.
pub(super) fn owned(service: &Service, caller: &Caller, id: &str) -> Result<Open, Refusal> {
    let open = service.state().sessions.get(id).cloned();
    let open = open.ok_or_else(|| Refusal::new(404, format!("there is no session {id:?}")))?;
    if open.username != caller.user {
        return Err(Refusal::violation(403, format!("session {id} is another user's")));
    }
    if open.asked.space != caller.space {
        return Err(Refusal::violation(
            403,
            format!("session {id} is of another space"),
        ));
    }
    Ok(open)
}

/// One session.
pub(super) fn show(service: &Service, caller: &Caller, id: &str) -> Result<Value, Refusal> {
    owned(service, caller, id).map(|open| describe(id, &open))
}

/// Deletes a session.
pub(super) fn delete(service: &Service, caller: &Caller, id: &str) -> Result<Value, Refusal> {
    let owned = owned(service, caller, id);
    let mut state = service.state();
    match owned {
        Ok(open) => {
            // Of two deletes at once, one finds nothing.
            if state.sessions.remove(id).is_some() {
                if open.of_a_person {
                    state.ledger.people_deleted += 1;
                } else {
                    state.ledger.deleted += 1;
                }
            }
            Ok(json!({"message": "Delete session success"}))
        }
        Err(refusal) => {
            if refusal.status == 404 {
                state.ledger.deletes_of_nothing += 1;
            }
            Err(refusal)
        }
    }
}
