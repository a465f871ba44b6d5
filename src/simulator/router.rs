//! Routing: classifies a request, checks caller and parameters, injects faults, and executes it. Waits for delays.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::connection::{ResponseBody, ServerRequest, ServerResponse};
use super::effect::Effect;
use super::fault::{FaultContext, RequestKind};
use super::outcome::RouteOutcome;
use super::reply::{ApiError, error_response, list_value, reshape, respond};
use super::service::SimulatedService;
use super::uaa::Caller;
use super::validate::single_header;
use super::{admin, download, listing, sessions, uaa};

/// Marks a redirect to another host, so that a token that follows it is detected.
const OTHER_HOST_MARK: &str = "simulator-redirect=other-host";
/// Marks a redirect within the host, so that the second request is served.
const SAME_HOST_MARK: &str = "simulator-redirect=same-host";
/// Maximum length of a session id in a path, in bytes.
const MAX_ID: usize = 64;

/// Returns the kind of a request, and the session id in its path.
fn classify(request: &ServerRequest) -> Result<(RequestKind, &str), ApiError> {
    let wrong_method = || {
        ApiError::violation(
            405,
            format!("{} does not support {}", request.path, request.method),
        )
    };
    let (method, path) = (request.method.as_str(), request.path.as_str());
    let only = |wanted: &str, kind| {
        if method == wanted {
            Ok((kind, ""))
        } else {
            Err(wrong_method())
        }
    };
    match path {
        "/v2/info" => only("GET", RequestKind::Info),
        "/oauth/token" => only("POST", RequestKind::Login),
        "/v3/events" => only("GET", RequestKind::Events),
        "/v3/events/download" => only("GET", RequestKind::Download),
        "/v3/sessions" => match method {
            "POST" => Ok((RequestKind::Create, "")),
            "GET" => Ok((RequestKind::List, "")),
            _ => Err(wrong_method()),
        },
        _ if path.starts_with("/simulator/") => Ok((RequestKind::Admin, "")),
        _ => match path.strip_prefix("/v3/sessions/") {
            Some(id) if !id.is_empty() && id.len() <= MAX_ID && !id.contains('/') => match method {
                "GET" => Ok((RequestKind::Show, id)),
                "DELETE" => Ok((RequestKind::Delete, id)),
                _ => Err(wrong_method()),
            },
            _ => Err(ApiError::violation(404, format!("unknown path {path}"))),
        },
    }
}

/// Routes a request.
pub(super) async fn route(service: &Arc<SimulatedService>, request: &ServerRequest) -> RouteOutcome {
    let classified = classify(request);
    let mut kind = classified.as_ref().map_or(RequestKind::Other, |(kind, _)| *kind);
    if kind == RequestKind::Admin {
        return RouteOutcome::Admin(admin::admin(service, request));
    }
    if kind == RequestKind::Login && uaa::is_refresh(request) {
        kind = RequestKind::Refresh;
    }
    *service.state().ledger.requests.entry(kind).or_default() += 1;
    sleep(service.settings.latency).await;
    let mut context = FaultContext { kind, window: None };
    let result = match classified {
        Err(error) => Err(error),
        Ok((_, id)) => execute(service, request, id, &mut context).await,
    };
    match result {
        Ok(outcome) => outcome,
        Err(error) => RouteOutcome::Response(error_response(service, context, error)),
    }
}

async fn execute(
    service: &Arc<SimulatedService>,
    request: &ServerRequest,
    id: &str,
    context: &mut FaultContext,
) -> Result<RouteOutcome, ApiError> {
    let kind = context.kind;
    let has_secret = ["x-auth-token", "authorization"]
        .iter()
        .any(|name| !matches!(request.header(name), Ok(None)));
    if request.query.contains(OTHER_HOST_MARK) && (has_secret || !request.body.is_empty()) {
        return Err(ApiError::violation(
            400,
            "credentials were sent to another host after a redirect",
        ));
    }
    if !kind.is_tracker() {
        if let Some(outcome) = inject_faults(service, request, *context).await? {
            return Ok(outcome);
        }
        let value = if kind == RequestKind::Info {
            uaa::info(service, request)
        } else {
            uaa::token(service, request, *context)?
        };
        let value = reshape(service, *context, value);
        return Ok(respond(service, *context, 200, &value));
    }
    let caller = uaa::caller(service, request)?;
    if !matches!(kind, RequestKind::Create | RequestKind::Events) && !request.body.is_empty() {
        return Err(ApiError::violation(
            400,
            format!("{} {} does not accept a body", request.method, request.path),
        ));
    }
    let mut plan = TrackerRequest::parse(service, request, &caller, id, kind)?;
    context.window = plan.window(service);
    if let Some(outcome) = inject_faults(service, request, *context).await? {
        return Ok(outcome);
    }
    // A fault can remove the session before the request is executed.
    let remove_if_gone = |id: &str| {
        service
            .fault(*context, |effect| (*effect == Effect::SessionGone).then_some(()))
            .map(|()| service.state().vanish(id))
    };
    match &mut plan {
        TrackerRequest::Create(create) => {
            let (status, value) = sessions::create(service, &caller, create, *context)?;
            Ok(respond(
                service,
                *context,
                status,
                &reshape(service, *context, value),
            ))
        }
        TrackerRequest::List => {
            let value = sessions::list(service, &caller, *context);
            Ok(respond(
                service,
                *context,
                200,
                &list_value(service, *context, "sessions", value),
            ))
        }
        TrackerRequest::Show(id) => {
            remove_if_gone(id);
            let value = sessions::show(service, &caller, id)?;
            Ok(respond(
                service,
                *context,
                200,
                &reshape(service, *context, value),
            ))
        }
        TrackerRequest::Delete(id) => {
            remove_if_gone(id);
            let value = sessions::delete(service, &caller, id)?;
            Ok(respond(
                service,
                *context,
                200,
                &reshape(service, *context, value),
            ))
        }
        TrackerRequest::Events(listing) => {
            listing.check_range(service, *context)?;
            let value = listing::list(service, &caller, listing, *context).await;
            Ok(respond(
                service,
                *context,
                200,
                &list_value(service, *context, "events", value),
            ))
        }
        TrackerRequest::Download(id, from) => {
            remove_if_gone(id);
            download::download(service, &caller, id, *from, *context).await
        }
    }
}

/// A valid request to the tracker.
enum TrackerRequest {
    Create(sessions::CreateRequest),
    List,
    Show(String),
    Delete(String),
    Events(listing::ListingRequest),
    /// The session id, and the first byte of a `Range`.
    Download(String, Option<u64>),
}

impl TrackerRequest {
    fn parse(
        service: &SimulatedService,
        request: &ServerRequest,
        caller: &Caller,
        id: &str,
        kind: RequestKind,
    ) -> Result<Self, ApiError> {
        Ok(match kind {
            RequestKind::Create => Self::Create(sessions::parse_create(request, caller)?),
            RequestKind::List => Self::List,
            RequestKind::Show => Self::Show(id.to_owned()),
            RequestKind::Delete => Self::Delete(id.to_owned()),
            RequestKind::Events => Self::Events(listing::parse_listing(service, request)?),
            _ => {
                let id = single_header(request, "sessionid")?
                    .ok_or_else(|| ApiError::violation(400, "header SESSIONID is missing"))?;
                Self::Download(id.to_owned(), download::range(request)?)
            }
        })
    }

    fn window(
        &self,
        service: &SimulatedService,
    ) -> Option<(jiff::civil::Date, jiff::civil::Date, Option<u8>)> {
        match self {
            Self::Create(request) => Some((request.start, request.end, request.hour)),
            Self::List => None,
            Self::Events(request) => Some((request.start, request.end, None)),
            Self::Show(id) | Self::Delete(id) | Self::Download(id, _) => {
                let state = service.state();
                let requested = &state.sessions.get(id)?.requested;
                Some((requested.start, requested.end, requested.hour))
            }
        }
    }
}

/// Injects the faults that affect a request before it is executed.
async fn inject_faults(
    service: &SimulatedService,
    request: &ServerRequest,
    context: FaultContext,
) -> Result<Option<RouteOutcome>, ApiError> {
    let delay = service.fault(context, |effect| match effect {
        Effect::Delay { millis } => Some(*millis),
        _ => None,
    });
    if let Some(millis) = delay {
        sleep(Duration::from_millis(millis)).await;
    }
    let silence = service.fault(context, |effect| match effect {
        Effect::NoReply { done: false, how } => Some(*how),
        _ => None,
    });
    if let Some(how) = silence {
        return Ok(Some(RouteOutcome::NoReply(how)));
    }
    if service
        .fault(context, |effect| (*effect == Effect::ExpireToken).then_some(()))
        .is_some()
    {
        uaa::expire_token(service, request);
        return Err(ApiError::new(401, "the token has expired"));
    }
    if !request.query.contains(SAME_HOST_MARK) {
        let redirect = service.fault(context, |effect| match effect {
            Effect::Redirect { status, other_host } => Some((*status, *other_host)),
            _ => None,
        });
        if let Some((status, other_host)) = redirect {
            return Ok(Some(RouteOutcome::Response(redirect_response(
                service, request, status, other_host,
            ))));
        }
    }
    let error = service.fault(context, |effect| match effect {
        Effect::Status {
            status,
            retry_after,
            message,
        } => Some(ApiError {
            retry_after: *retry_after,
            ..ApiError::new(*status, message.clone())
        }),
        _ => None,
    });
    error.map_or(Ok(None), Err)
}

fn redirect_response(
    service: &SimulatedService,
    request: &ServerRequest,
    status: u16,
    other_host: bool,
) -> ServerResponse {
    let (host, mark) = if other_host {
        (format!("localhost:{}", service.address.port()), OTHER_HOST_MARK)
    } else {
        (service.authority(request), SAME_HOST_MARK)
    };
    ServerResponse {
        status,
        headers: vec![("Location", format!("http://{host}{}?{mark}", request.path))],
        body: ResponseBody::Whole(bytes::Bytes::new()),
    }
}
