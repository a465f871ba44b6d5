//! `GET /v3/events/download`: the body of a session, complete or from an offset, with faults. Compresses on blocking
//! threads.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::connection::{BodyEnding, ResponseBody, ServerRequest, ServerResponse, Transfer};
use super::effect::{BodyOffset, Effect, EmptyReply, RangeReply, RepeatDownload};
use super::fault::FaultContext;
use super::layout::{BodyShape, Layout};
use super::outcome::{DownloadRecord, RouteOutcome};
use super::reply::ApiError;
use super::service::{SimulatedService, SimulatedSession};
use super::sessions::owned_session;
use super::settings::Framing;
use super::uaa::Caller;
use super::validate::single_header;

/// Parses `Range: bytes=N-`.
pub(super) fn range(request: &ServerRequest) -> Result<Option<u64>, ApiError> {
    let Some(value) = single_header(request, "range")? else {
        return Ok(None);
    };
    let first = value
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-'));
    match first.and_then(|first| first.parse().ok()) {
        Some(first) => Ok(Some(first)),
        None => Err(ApiError::violation(
            400,
            format!("Range {value:?} is not bytes=N-"),
        )),
    }
}

/// Serves a download.
pub(super) async fn download(
    service: &Arc<SimulatedService>,
    caller: &Caller,
    id: &str,
    from: Option<u64>,
    context: FaultContext,
) -> Result<RouteOutcome, ApiError> {
    let open = owned_session(service, caller, id)?;
    let fault = |wanted: &Effect| {
        service
            .fault(context, |effect| (effect == wanted).then_some(()))
            .is_some()
    };
    let moves = !fault(&Effect::AccessTimeFrozen);
    if moves && let Some(open) = service.state().sessions.get_mut(id) {
        open.accessed = Timestamp::now();
    }
    if fault(&Effect::LoginPage) {
        let page = "<!DOCTYPE html><html><body><form action=\"/login\">Log in</form></body></html>";
        return Ok(RouteOutcome::Response(ServerResponse {
            status: 200,
            headers: vec![("Content-Type", "text/html".to_owned())],
            body: ResponseBody::Whole(page.into()),
        }));
    }
    let shape = shape(service, context);
    let served = open.served.clone();
    let worker = Arc::clone(service);
    let layout = tokio::task::spawn_blocking(move || worker.layout(&served, shape))
        .await
        .map_err(|_| ApiError::new(500, "cannot generate the body"))?;
    let layout = Arc::new(layout);
    if layout.events == 0
        && let Some(outcome) = empty_reply(service, &open, context)?
    {
        return Ok(outcome);
    }
    if from.is_none() && open.completed > 0 {
        let second = service.fault(context, |effect| match effect {
            Effect::SecondDownloadAs { how } => Some(*how),
            _ => None,
        });
        match second {
            Some(RepeatDownload::Refused) => {
                return Err(ApiError::new(409, "this session was already downloaded"));
            }
            Some(RepeatDownload::Empty) => return Ok(empty_response(200)),
            None => {}
        }
    }
    Ok(transfer(service, &open, id, &layout, from, context, moves))
}

/// Returns the shape of this download, with faults.
fn shape(service: &SimulatedService, context: FaultContext) -> BodyShape {
    let mut shape = service.shape();
    let take = |pick: &dyn Fn(&Effect, &mut BodyShape)| {
        let before = shape;
        service.fault(context, |effect| {
            let mut changed = before;
            pick(effect, &mut changed);
            (changed != before).then_some(changed)
        })
    };
    let members = take(&|effect, shape| {
        if let Effect::MembersAs { members } = effect {
            shape.members = *members;
        }
    });
    let json = take(&|effect, shape| {
        if let Effect::JsonAs { json } = effect {
            shape.json = *json;
        }
    });
    let trailing = take(&|effect, shape| {
        if let Effect::Trailing { bytes } = effect {
            shape.trailing = *bytes;
        }
    });
    let wrong_crc = take(&|effect, shape| shape.wrong_crc = *effect == Effect::WrongCrc);
    let other = take(&|effect, shape| {
        if *effect == Effect::OtherBytes {
            shape.mtime = 1;
        }
    });
    shape.members = members.map_or(shape.members, |changed| changed.members);
    shape.json = json.map_or(shape.json, |changed| changed.json);
    shape.trailing = trailing.map_or(0, |changed| changed.trailing);
    shape.wrong_crc = wrong_crc.is_some();
    if other.is_some() {
        let number = service.state().ids.next();
        shape.mtime = u32::try_from(number >> 32).unwrap_or(1).max(1);
    }
    shape
}

/// Returns the response to a range without events, unless it is a gzip without contents.
fn empty_reply(
    service: &SimulatedService,
    open: &SimulatedSession,
    context: FaultContext,
) -> Result<Option<RouteOutcome>, ApiError> {
    let expired = open.served.end < service.oldest();
    let how = service.fault(context, |effect| match effect {
        Effect::ExpiredAs { how } if expired => Some(*how),
        Effect::EmptyAs { how } if !expired => Some(*how),
        _ => None,
    });
    match how.unwrap_or(EmptyReply::GzipOfNothing) {
        EmptyReply::NotFound => Err(ApiError::new(404, "no events in this range")),
        EmptyReply::NoContent => Ok(Some(empty_response(204))),
        EmptyReply::ZeroLength => Ok(Some(empty_response(200))),
        EmptyReply::GzipOfNothing => Ok(None),
    }
}

fn empty_response(status: u16) -> RouteOutcome {
    RouteOutcome::Response(ServerResponse {
        status,
        headers: vec![("Content-Type", "application/octet-stream".to_owned())],
        body: ResponseBody::Whole(Bytes::new()),
    })
}

/// Start of a response.
enum RangeStart {
    /// The status, the stated first byte, and the actual first byte.
    Serve(u16, u64, u64),
    /// This status without a body.
    Refuse(u16),
}

impl RangeStart {
    fn of(service: &SimulatedService, from: Option<u64>, total: u64, context: FaultContext) -> Self {
        let Some(from) = from else {
            return Self::Serve(200, 0, 0);
        };
        let how = service.fault(context, |effect| match effect {
            Effect::ResumeAs { how } => Some(*how),
            _ => None,
        });
        match how.unwrap_or(RangeReply::Right) {
            RangeReply::Status(status) => Self::Refuse(status),
            RangeReply::Whole => Self::Serve(200, 0, 0),
            RangeReply::Remainder => Self::Serve(200, from.min(total), from.min(total)),
            _ if from >= total => Self::Refuse(416),
            RangeReply::Right => Self::Serve(206, from, from),
            RangeReply::WrongOffset => Self::Serve(206, from / 2, from / 2),
            RangeReply::Lie => Self::Serve(206, from, from / 2),
        }
    }
}

fn transfer(
    service: &Arc<SimulatedService>,
    open: &SimulatedSession,
    id: &str,
    layout: &Arc<Layout>,
    from: Option<u64>,
    context: FaultContext,
    moves_access_time: bool,
) -> RouteOutcome {
    let total = layout.bytes;
    let (status, claimed, first) = match RangeStart::of(service, from, total, context) {
        RangeStart::Serve(status, claimed, first) => (status, claimed, first),
        RangeStart::Refuse(status) => {
            return RouteOutcome::Response(ServerResponse {
                status,
                headers: vec![("Content-Range", format!("bytes */{total}"))],
                body: ResponseBody::Whole(Bytes::new()),
            });
        }
    };
    let mut to = first + (total - claimed);
    // An offset applies if it lies within this response, and not at its start, where an earlier response ended.
    let relative_offset = |at: BodyOffset, to: u64| {
        let at = match at {
            BodyOffset::Byte(byte) => byte,
            BodyOffset::Permille(part) => {
                u64::try_from(u128::from(total) * u128::from(part) / 1000).unwrap_or(total)
            }
            BodyOffset::MemberEnd(nth) => layout.member_end(nth),
            BodyOffset::Answer(bytes) => return Some(bytes).filter(|bytes| first + bytes < to),
        };
        (at < to && (at > first || first == 0)).then(|| at - first)
    };
    let early = service.fault(context, |effect| match effect {
        Effect::EndEarly { at } => relative_offset(*at, to),
        _ => None,
    });
    to = early.map_or(to, |after| first + after);
    let ending = service.fault(context, |effect| match effect {
        Effect::Cut { at, reset, vanish } => {
            relative_offset(*at, to).map(|after| (BodyEnding::Cut { after, reset: *reset }, *vanish))
        }
        Effect::Stall { at } => relative_offset(*at, to).map(|after| (BodyEnding::Stall { after }, false)),
        _ => None,
    });
    let (end, vanish) = ending.unwrap_or((BodyEnding::Complete, false));
    let framing = service.fault(context, |effect| match effect {
        Effect::FramingAs { framing } => Some(*framing),
        _ => None,
    });
    let trickle = service.fault(context, |effect| match effect {
        Effect::Trickle { bytes_per_second } => Some(*bytes_per_second),
        _ => None,
    });
    let mut headers = vec![("Content-Type", "application/octet-stream".to_owned())];
    if status == 206 {
        headers.push(("Content-Range", format!("bytes {claimed}-{}/{total}", total - 1)));
    }
    if service
        .fault(context, |effect| (*effect == Effect::EncodingLabel).then_some(()))
        .is_some()
    {
        headers.push(("Content-Encoding", "gzip".to_owned()));
    }
    let record = DownloadRecord {
        session: id.to_owned(),
        label: open.requested.label(),
        resumed: first > 0,
        complete_after: (end == BodyEnding::Complete && to == total).then(|| to - first),
        vanish,
        moves_access_time,
    };
    let response = ServerResponse {
        status,
        headers,
        body: ResponseBody::Events(Transfer {
            pieces: layout.pieces(&service.blocks, first, to),
            framing: framing.unwrap_or(if early.is_some() {
                Framing::Length
            } else {
                service.settings.framing
            }),
            bytes_per_second: trickle.or(service.settings.bandwidth),
            end,
        }),
    };
    RouteOutcome::Download(response, record)
}
