//! `GET /v3/events`: counts and sizes of days. Compresses days on their first use, on blocking threads.

use std::sync::Arc;

use jiff::civil::Date;
use serde_json::{Value, json};

use super::connection::ServerRequest;
use super::effect::Effect;
use super::fault::FaultContext;
use super::reply::ApiError;
use super::service::{Selection, SimulatedService};
use super::sessions::{parse_account, parse_dates};
use super::uaa::Caller;
use super::validate::json_body;

/// Age below which a day can be searched, not only downloaded, in days.
const SEARCHABLE_DAYS: i32 = 3;

/// A request for the listing.
#[derive(Clone, Debug)]
pub(super) struct ListingRequest {
    pub(super) start: Date,
    pub(super) end: Date,
    account: bool,
}

impl ListingRequest {
    /// Rejects a range that a fault does not allow.
    pub(super) fn check_range(
        &self,
        service: &SimulatedService,
        context: FaultContext,
    ) -> Result<(), ApiError> {
        let (length, today) = ((self.end - self.start).get_days(), service.now().0);
        let refused = service.fault(context, |effect| match effect {
            Effect::RefuseRanges { days } => (length >= i32::from(*days) || self.end > today).then_some(()),
            _ => None,
        });
        refused.map_or(Ok(()), |()| {
            Err(ApiError::new(400, "the range is too long or in the future"))
        })
    }
}

/// Parses a request. Without a body it is for all retained days of the space.
pub(super) fn parse_listing(
    service: &SimulatedService,
    request: &ServerRequest,
) -> Result<ListingRequest, ApiError> {
    if request.body.is_empty() {
        return Ok(ListingRequest {
            start: service.oldest(),
            end: service.now().0,
            account: false,
        });
    }
    let body = json_body(request, &["start", "end", "AtAccountLevel"])?;
    let (start, end) = parse_dates(&body)?;
    Ok(ListingRequest {
        start,
        end,
        account: parse_account(&body)?,
    })
}

/// Returns the rows, oldest first: retained days with events.
pub(super) async fn list(
    service: &Arc<SimulatedService>,
    caller: &Caller,
    request: &ListingRequest,
    context: FaultContext,
) -> Vec<Value> {
    let all = service
        .fault(context, |effect| (*effect == Effect::IgnoreFields).then_some(()))
        .is_some();
    let (today, oldest) = (service.now().0, service.oldest());
    let (start, end) = if all {
        (oldest, today)
    } else {
        (request.start.max(oldest), request.end.min(today))
    };
    let mut rows = Vec::new();
    let mut date = start;
    while date <= end {
        rows.extend(row(service, caller, request.account, date, context).await);
        let Ok(next) = date.tomorrow() else { break };
        date = next;
    }
    rows
}

async fn row(
    service: &Arc<SimulatedService>,
    caller: &Caller,
    account: bool,
    date: Date,
    context: FaultContext,
) -> Option<Value> {
    let context = FaultContext {
        window: Some((date, date, None)),
        ..context
    };
    let selection = Selection {
        space: caller.space.clone(),
        account,
        start: date,
        end: date,
        hour: None,
    };
    let worker = Arc::clone(service);
    let layout = tokio::task::spawn_blocking(move || worker.layout(&selection, worker.shape()))
        .await
        .ok()?;
    let zero = || {
        service
            .fault(context, |effect| (*effect == Effect::ZeroDays).then_some(()))
            .is_some()
    };
    if layout.events == 0 && !zero() {
        return None;
    }
    if service
        .fault(context, |effect| (*effect == Effect::LeaveOutDays).then_some(()))
        .is_some()
    {
        return None;
    }
    let percent = service.fault(context, |effect| match effect {
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
