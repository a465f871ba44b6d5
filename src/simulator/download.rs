//! `GET /v3/events/download`: the bytes of a session, whole or from a byte on, as the faults allow.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::effect::{At, Effect, Nothing, Resume, Second};
use super::fault::Concern;
use super::layout::{Layout, Shape};
use super::reply::Refusal;
use super::router::{Caller, Outcome};
use super::service::{Open, Service};
use super::sessions::owned;
use super::settings::Framing;
use super::sound::header;
use super::wire::{Answer, Body, End, Request, Transfer};

/// What is noted when a download ended.
#[derive(Debug)]
pub(super) struct Note {
    session: String,
    label: String,
    resumed: bool,
    /// Bytes after which the body is complete.
    whole_after: Option<u64>,
    /// The session is gone if it broke off.
    vanish: bool,
    moves_access_time: bool,
}

impl Note {
    /// Notes how much went.
    pub(super) fn ended(&self, service: &Service, sent: u64) {
        let mut state = service.state();
        let entry = state.ledger.downloads.entry(self.label.clone()).or_default();
        entry.answers += 1;
        entry.resumed += u64::from(self.resumed);
        entry.bytes += sent;
        let whole = self.whole_after.is_some_and(|whole| sent >= whole);
        entry.completed += u64::from(whole);
        if let Some(open) = state.sessions.get_mut(&self.session) {
            open.completed += u64::from(whole);
            if self.moves_access_time {
                open.accessed = Timestamp::now();
            }
        }
        if self.vanish {
            state.vanish(&self.session);
        }
    }
}

/// The first byte of `Range: bytes=N-`.
pub(super) fn range(request: &Request) -> Result<Option<u64>, Refusal> {
    let Some(value) = header(request, "range")? else {
        return Ok(None);
    };
    let first = value
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-'));
    match first.and_then(|first| first.parse().ok()) {
        Some(first) => Ok(Some(first)),
        None => Err(Refusal::violation(
            400,
            format!("Range {value:?} is not bytes=N-"),
        )),
    }
}

/// Answers a download.
pub(super) async fn download(
    service: &Arc<Service>,
    caller: &Caller,
    id: &str,
    from: Option<u64>,
    concern: Concern,
) -> Result<Outcome, Refusal> {
    let open = owned(service, caller, id)?;
    let fault = |wanted: &Effect| {
        service
            .fault(concern, |effect| (effect == wanted).then_some(()))
            .is_some()
    };
    let moves = !fault(&Effect::AccessTimeFrozen);
    if moves && let Some(open) = service.state().sessions.get_mut(id) {
        open.accessed = Timestamp::now();
    }
    if fault(&Effect::LoginPage) {
        let page = "<!DOCTYPE html><html><body><form action=\"/login\">Log in</form></body></html>";
        return Ok(Outcome::Answer(Answer {
            status: 200,
            headers: vec![("Content-Type", "text/html".to_owned())],
            body: Body::Whole(page.into()),
        }));
    }
    let shape = shape(service, concern);
    let given = open.given.clone();
    let making = Arc::clone(service);
    let layout = tokio::task::spawn_blocking(move || making.layout(&given, shape))
        .await
        .map_err(|_| Refusal::new(500, "the body could not be made"))?;
    let layout = Arc::new(layout);
    if layout.events == 0
        && let Some(outcome) = nothing(service, &open, concern)?
    {
        return Ok(outcome);
    }
    if from.is_none() && open.completed > 0 {
        let second = service.fault(concern, |effect| match effect {
            Effect::SecondDownloadAs { how } => Some(*how),
            _ => None,
        });
        match second {
            Some(Second::Refused) => return Err(Refusal::new(409, "this session was downloaded already")),
            Some(Second::Empty) => return Ok(no_bytes(200)),
            None => {}
        }
    }
    Ok(transfer(service, &open, id, &layout, from, concern, moves))
}

/// The shape of this download.
fn shape(service: &Service, concern: Concern) -> Shape {
    let mut shape = service.shape();
    let take = |pick: &dyn Fn(&Effect, &mut Shape)| {
        let before = shape;
        service.fault(concern, |effect| {
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

/// The answer to a range without events, if it is not a gzip of nothing.
fn nothing(service: &Service, open: &Open, concern: Concern) -> Result<Option<Outcome>, Refusal> {
    let expired = open.given.end < service.oldest();
    let how = service.fault(concern, |effect| match effect {
        Effect::ExpiredAs { how } if expired => Some(*how),
        Effect::EmptyAs { how } if !expired => Some(*how),
        _ => None,
    });
    match how.unwrap_or(Nothing::GzipOfNothing) {
        Nothing::NotFound => Err(Refusal::new(404, "no events in this range")),
        Nothing::NoContent => Ok(Some(no_bytes(204))),
        Nothing::ZeroLength => Ok(Some(no_bytes(200))),
        Nothing::GzipOfNothing => Ok(None),
    }
}

fn no_bytes(status: u16) -> Outcome {
    Outcome::Answer(Answer {
        status,
        headers: vec![("Content-Type", "application/octet-stream".to_owned())],
        body: Body::Whole(Bytes::new()),
    })
}

/// Where a `Range` leads.
enum Start {
    /// The status, the first byte that the answer says, and the one that it has.
    At(u16, u64, u64),
    /// No bytes, this status.
    Nowhere(u16),
}

impl Start {
    fn of(service: &Service, from: Option<u64>, total: u64, concern: Concern) -> Self {
        let Some(from) = from else {
            return Self::At(200, 0, 0);
        };
        let how = service.fault(concern, |effect| match effect {
            Effect::ResumeAs { how } => Some(*how),
            _ => None,
        });
        match how.unwrap_or(Resume::Right) {
            Resume::Status(status) => Self::Nowhere(status),
            Resume::Whole => Self::At(200, 0, 0),
            Resume::Remainder => Self::At(200, from.min(total), from.min(total)),
            _ if from >= total => Self::Nowhere(416),
            Resume::Right => Self::At(206, from, from),
            Resume::WrongOffset => Self::At(206, from / 2, from / 2),
            Resume::Lie => Self::At(206, from, from / 2),
        }
    }
}

fn transfer(
    service: &Arc<Service>,
    open: &Open,
    id: &str,
    layout: &Arc<Layout>,
    from: Option<u64>,
    concern: Concern,
    moves_access_time: bool,
) -> Outcome {
    let total = layout.bytes;
    let (status, said, first) = match Start::of(service, from, total, concern) {
        Start::At(status, said, first) => (status, said, first),
        Start::Nowhere(status) => {
            return Outcome::Answer(Answer {
                status,
                headers: vec![("Content-Range", format!("bytes */{total}"))],
                body: Body::Whole(Bytes::new()),
            });
        }
    };
    let mut to = first + (total - said);
    // A place counts if this answer passes it; one that an earlier answer ended at does not count again.
    let place = |at: At, to: u64| {
        let at = match at {
            At::Byte(byte) => byte,
            At::Permille(part) => u64::try_from(u128::from(total) * u128::from(part) / 1000).unwrap_or(total),
            At::MemberEnd(nth) => layout.member_end(nth),
            At::Answer(bytes) => return Some(bytes).filter(|bytes| first + bytes < to),
        };
        (at < to && (at > first || first == 0)).then(|| at - first)
    };
    let early = service.fault(concern, |effect| match effect {
        Effect::EndEarly { at } => place(*at, to),
        _ => None,
    });
    to = early.map_or(to, |after| first + after);
    let ending = service.fault(concern, |effect| match effect {
        Effect::Cut { at, reset, vanish } => {
            place(*at, to).map(|after| (End::Cut { after, reset: *reset }, *vanish))
        }
        Effect::Stall { at } => place(*at, to).map(|after| (End::Stall { after }, false)),
        _ => None,
    });
    let (end, vanish) = ending.unwrap_or((End::Complete, false));
    let framing = service.fault(concern, |effect| match effect {
        Effect::FramingAs { framing } => Some(*framing),
        _ => None,
    });
    let trickle = service.fault(concern, |effect| match effect {
        Effect::Trickle { bytes_per_second } => Some(*bytes_per_second),
        _ => None,
    });
    let mut headers = vec![("Content-Type", "application/octet-stream".to_owned())];
    if status == 206 {
        headers.push(("Content-Range", format!("bytes {said}-{}/{total}", total - 1)));
    }
    if service
        .fault(concern, |effect| (*effect == Effect::EncodingLabel).then_some(()))
        .is_some()
    {
        headers.push(("Content-Encoding", "gzip".to_owned()));
    }
    let note = Note {
        session: id.to_owned(),
        label: open.asked.label(),
        resumed: first > 0,
        whole_after: (end == End::Complete && to == total).then(|| to - first),
        vanish,
        moves_access_time,
    };
    let answer = Answer {
        status,
        headers,
        body: Body::Events(Transfer {
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
    Outcome::Download(answer, note)
}
