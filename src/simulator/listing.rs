//! `GET /v3/events`: what each day has. Compresses days that nobody asked about before, away from the sockets.

use std::sync::Arc;

use jiff::civil::Date;
use serde_json::{Value, json};

use super::effect::Effect;
use super::fault::Concern;
use super::reply::Refusal;
use super::router::Caller;
use super::service::{Selection, Service};
use super::sessions::{account_field, dates};
use super::sound::json_body;
use super::wire::Request;

/// Days until which a day can be searched, and not only downloaded.
const SEARCHABLE_DAYS: i32 = 3;

/// What the listing is asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) start: Date,
    pub(super) end: Date,
    account: bool,
}

/// Reads a request; without a body it is for all kept days of the space.
pub(super) fn asked(service: &Service, request: &Request) -> Result<Asked, Refusal> {
    if request.body.is_empty() {
        return Ok(Asked {
            start: service.oldest(),
            end: service.now().0,
            account: false,
        });
    }
    let body = json_body(request, &["start", "end", "AtAccountLevel"])?;
    let (start, end) = dates(&body)?;
    Ok(Asked {
        start,
        end,
        account: account_field(&body)?,
    })
}

/// The rows, oldest first: kept days with events.
pub(super) async fn list(
    service: &Arc<Service>,
    caller: &Caller,
    asked: &Asked,
    concern: Concern,
) -> Vec<Value> {
    let all = service
        .fault(concern, |effect| (*effect == Effect::IgnoreFields).then_some(()))
        .is_some();
    let (today, oldest) = (service.now().0, service.oldest());
    let (start, end) = if all {
        (oldest, today)
    } else {
        (asked.start.max(oldest), asked.end.min(today))
    };
    let mut rows = Vec::new();
    let mut date = start;
    while date <= end {
        rows.extend(row(service, caller, asked.account, date, concern).await);
        let Ok(next) = date.tomorrow() else { break };
        date = next;
    }
    rows
}

async fn row(
    service: &Arc<Service>,
    caller: &Caller,
    account: bool,
    date: Date,
    concern: Concern,
) -> Option<Value> {
    let concern = Concern {
        window: Some((date, date, None)),
        ..concern
    };
    let selection = Selection {
        space: caller.space.clone(),
        account,
        start: date,
        end: date,
        hour: None,
    };
    let making = Arc::clone(service);
    let layout = tokio::task::spawn_blocking(move || making.layout(&selection, making.shape()))
        .await
        .ok()?;
    let zero = || {
        service
            .fault(concern, |effect| (*effect == Effect::ZeroDays).then_some(()))
            .is_some()
    };
    if layout.events == 0 && !zero() {
        return None;
    }
    if service
        .fault(concern, |effect| (*effect == Effect::LeaveOutDays).then_some(()))
        .is_some()
    {
        return None;
    }
    let percent = service.fault(concern, |effect| match effect {
        Effect::CountAs { percent } => Some(*percent),
        _ => None,
    });
    let count = match percent {
        Some(percent) if percent > 100 => layout.events.saturating_mul(percent).div_ceil(100),
        Some(percent) => layout.events.saturating_mul(percent) / 100,
        None => layout.events,
    };
    let size = if layout.events == 0 { 0 } else { layout.bytes };
    let searchable = (service.now().0 - date).get_days() < SEARCHABLE_DAYS;
    Some(json!({
        "DATE": date.to_string(),
        "COUNT": count,
        "SIZE": size,
        "TYPES": "ActivityTracker",
        "SEARCHABLE": if searchable { "All" } else { "None" },
    }))
}
