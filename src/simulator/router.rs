//! From a request to its answer: what is asked, who asks, what is wrong with it, and which faults befall it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::effect::{Effect, Silence};
use super::fault::{Concern, Kind};
use super::reply::{Refusal, after, listed, refused, reshape};
use super::service::Service;
use super::sound::header;
use super::wire::{Answer, Body, Request};
use super::{admin, download, listing, sessions, uaa};

/// Marks a redirect to another host, so that a token that follows it is seen.
const OTHER_HOST_MARK: &str = "simulator-redirect=other-host";
/// Marks a redirect within the host, so that it is answered the second time.
const SAME_HOST_MARK: &str = "simulator-redirect=same-host";
/// Bytes of a session's id in a path; more is not an id.
const MAX_ID: usize = 64;

/// What to do about a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Answer),
    /// Not of the service: not in the ledger.
    Admin(Answer),
    /// A download, to be noted when it ended.
    Download(Answer, download::Note),
    Silence(Silence),
}

/// Who asks, and for which space.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) user: String,
    pub(super) account: bool,
    pub(super) space: Arc<str>,
}

/// What a request asks for, and the session that its path names.
fn classify(request: &Request) -> Result<(Kind, &str), Refusal> {
    let wrong_method = || Refusal::violation(405, format!("{} is not for {}", request.method, request.path));
    let (method, path) = (request.method.as_str(), request.path.as_str());
    let only = |wanted: &str, kind| {
        if method == wanted {
            Ok((kind, ""))
        } else {
            Err(wrong_method())
        }
    };
    match path {
        "/v2/info" => only("GET", Kind::Info),
        "/oauth/token" => only("POST", Kind::Login),
        "/v3/events" => only("GET", Kind::Events),
        "/v3/events/download" => only("GET", Kind::Download),
        "/v3/sessions" => match method {
            "POST" => Ok((Kind::Create, "")),
            "GET" => Ok((Kind::List, "")),
            _ => Err(wrong_method()),
        },
        _ if path.starts_with("/simulator/") => Ok((Kind::Admin, "")),
        _ => match path.strip_prefix("/v3/sessions/") {
            Some(id) if !id.is_empty() && id.len() <= MAX_ID && !id.contains('/') => match method {
                "GET" => Ok((Kind::Show, id)),
                "DELETE" => Ok((Kind::Delete, id)),
                _ => Err(wrong_method()),
            },
            _ => Err(Refusal::violation(404, format!("there is no {path}"))),
        },
    }
}

/// Answers a request.
pub(super) async fn route(service: &Arc<Service>, request: &Request) -> Outcome {
    let classified = classify(request);
    let mut kind = classified.as_ref().map_or(Kind::Other, |(kind, _)| *kind);
    if kind == Kind::Admin {
        return Outcome::Admin(admin::admin(service, request));
    }
    if kind == Kind::Login && uaa::is_refresh(request) {
        kind = Kind::Refresh;
    }
    *service.state().ledger.requests.entry(kind).or_default() += 1;
    sleep(service.settings.latency).await;
    let mut concern = Concern { kind, window: None };
    let result = match classified {
        Err(refusal) => Err(refusal),
        Ok((_, id)) => carry_out(service, request, id, &mut concern).await,
    };
    match result {
        Ok(outcome) => outcome,
        Err(refusal) => Outcome::Answer(refused(service, concern, refusal)),
    }
}

async fn carry_out(
    service: &Arc<Service>,
    request: &Request,
    id: &str,
    concern: &mut Concern,
) -> Result<Outcome, Refusal> {
    let kind = concern.kind;
    let has_secret = ["x-auth-token", "authorization"]
        .iter()
        .any(|name| !matches!(request.header(name), Ok(None)));
    if request.query.contains(OTHER_HOST_MARK) && (has_secret || !request.body.is_empty()) {
        return Err(Refusal::violation(
            400,
            "credentials followed a redirect to another host",
        ));
    }
    if !kind.is_tracker() {
        if let Some(outcome) = befall(service, request, *concern).await? {
            return Ok(outcome);
        }
        let value = if kind == Kind::Info {
            uaa::info(service)
        } else {
            uaa::token(service, request, *concern)?
        };
        let value = reshape(service, *concern, value);
        return Ok(after(service, *concern, 200, &value));
    }
    let caller = uaa::caller(service, request)?;
    if !matches!(kind, Kind::Create | Kind::Events) && !request.body.is_empty() {
        return Err(Refusal::violation(
            400,
            format!("{} {} takes no body", request.method, request.path),
        ));
    }
    let mut plan = Plan::of(service, request, &caller, id, kind)?;
    concern.window = plan.window(service);
    if let Some(outcome) = befall(service, request, *concern).await? {
        return Ok(outcome);
    }
    // A fault may have taken the session away meanwhile.
    let gone = |id: &str| {
        service
            .fault(*concern, |effect| (*effect == Effect::SessionGone).then_some(()))
            .map(|()| service.state().vanish(id))
    };
    match &mut plan {
        Plan::Create(asked) => {
            let (status, value) = sessions::create(service, &caller, asked, *concern)?;
            Ok(after(
                service,
                *concern,
                status,
                &reshape(service, *concern, value),
            ))
        }
        Plan::List => {
            let value = sessions::list(service, &caller, *concern);
            Ok(after(
                service,
                *concern,
                200,
                &listed(service, *concern, "sessions", value),
            ))
        }
        Plan::Show(id) => {
            gone(id);
            let value = sessions::show(service, &caller, id)?;
            Ok(after(service, *concern, 200, &reshape(service, *concern, value)))
        }
        Plan::Delete(id) => {
            gone(id);
            let value = sessions::delete(service, &caller, id)?;
            Ok(after(service, *concern, 200, &reshape(service, *concern, value)))
        }
        Plan::Events(asked) => {
            let value = listing::list(service, &caller, asked, *concern).await;
            Ok(after(
                service,
                *concern,
                200,
                &listed(service, *concern, "events", value),
            ))
        }
        Plan::Download(id, from) => {
            gone(id);
            download::download(service, &caller, id, *from, *concern).await
        }
    }
}

/// A sound request of the tracker.
enum Plan {
    Create(sessions::Asked),
    List,
    Show(String),
    Delete(String),
    Events(listing::Asked),
    /// The session, and the first byte of a `Range`.
    Download(String, Option<u64>),
}

impl Plan {
    fn of(
        service: &Service,
        request: &Request,
        caller: &Caller,
        id: &str,
        kind: Kind,
    ) -> Result<Self, Refusal> {
        Ok(match kind {
            Kind::Create => Self::Create(sessions::asked(request, caller)?),
            Kind::List => Self::List,
            Kind::Show => Self::Show(id.to_owned()),
            Kind::Delete => Self::Delete(id.to_owned()),
            Kind::Events => Self::Events(listing::asked(service, request)?),
            _ => {
                let id = header(request, "sessionid")?
                    .ok_or_else(|| Refusal::violation(400, "header SESSIONID is missing"))?;
                Self::Download(id.to_owned(), download::range(request)?)
            }
        })
    }

    fn window(&self, service: &Service) -> Option<(jiff::civil::Date, jiff::civil::Date, Option<u8>)> {
        match self {
            Self::Create(asked) => Some((asked.start, asked.end, asked.hour)),
            Self::List => None,
            Self::Events(asked) => Some((asked.start, asked.end, None)),
            Self::Show(id) | Self::Delete(id) | Self::Download(id, _) => {
                let state = service.state();
                let asked = &state.sessions.get(id)?.asked;
                Some((asked.start, asked.end, asked.hour))
            }
        }
    }
}

/// The faults that befall any request before it is carried out.
async fn befall(service: &Service, request: &Request, concern: Concern) -> Result<Option<Outcome>, Refusal> {
    let delay = service.fault(concern, |effect| match effect {
        Effect::Delay { millis } => Some(*millis),
        _ => None,
    });
    if let Some(millis) = delay {
        sleep(Duration::from_millis(millis)).await;
    }
    let silence = service.fault(concern, |effect| match effect {
        Effect::NoReply { done: false, how } => Some(*how),
        _ => None,
    });
    if let Some(how) = silence {
        return Ok(Some(Outcome::Silence(how)));
    }
    if service
        .fault(concern, |effect| (*effect == Effect::ExpireToken).then_some(()))
        .is_some()
    {
        uaa::forget(service, request);
        return Err(Refusal::new(401, "the token has expired"));
    }
    if !request.query.contains(SAME_HOST_MARK) {
        let redirect = service.fault(concern, |effect| match effect {
            Effect::Redirect { status, other_host } => Some((*status, *other_host)),
            _ => None,
        });
        if let Some((status, other_host)) = redirect {
            return Ok(Some(Outcome::Answer(redirected(
                service, request, status, other_host,
            ))));
        }
    }
    let refusal = service.fault(concern, |effect| match effect {
        Effect::Status {
            status,
            retry_after,
            message,
        } => Some(Refusal {
            retry_after: *retry_after,
            ..Refusal::new(*status, message.clone())
        }),
        _ => None,
    });
    refusal.map_or(Ok(None), Err)
}

fn redirected(service: &Service, request: &Request, status: u16, other_host: bool) -> Answer {
    let port = service.authority.rsplit(':').next().unwrap_or_default();
    let (host, mark) = if other_host {
        (format!("localhost:{port}"), OTHER_HOST_MARK)
    } else {
        (service.authority.clone(), SAME_HOST_MARK)
    };
    Answer {
        status,
        headers: vec![("Location", format!("http://{host}{}?{mark}", request.path))],
        body: Body::Whole(bytes::Bytes::new()),
    }
}
