//! What stands before a peer and answers in its place, in the peer's own words. No I/O.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use serde_json::json;

use super::fault::Refusal;
use super::request::Peer;

/// What a person must never find in a log: pages of gateways are for browsers.
const PAGE: &str = "<html><head><title>502 Bad Gateway</title></head><body>\n<center><h1>502 Bad Gateway</h1></center>\n\
                    <hr><center>gateway</center></body></html>\n";

/// Seconds, as short as they can be told.
const RETRY_AFTER: &str = "1";

/// The answer of that kind, as this peer has it.
pub(super) fn refuse(peer: Peer, refusal: Refusal) -> Response<Body> {
    let (kind, body) = match refusal {
        Refusal::BadGateway => ("text/html", PAGE.to_owned()),
        Refusal::GatewayTimeout => ("text/plain", String::new()),
        _ => match peer {
            Peer::Store => ("application/xml", of_store(refusal)),
            Peer::Cluster => ("application/json", of_cluster(refusal)),
            Peer::Uaa => ("application/json", of_uaa(refusal)),
            Peer::Tracker => (
                "application/json",
                json!({ "message": words(refusal) }).to_string(),
            ),
        },
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    if refusal == Refusal::TooMany {
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    }
    response
}

fn words(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Unauthorized => "the token is not valid",
        Refusal::Forbidden => "you are not allowed to do that",
        Refusal::NotFound => "there is no such thing",
        Refusal::Conflict => "something else is being done with it",
        Refusal::Gone => "it is gone",
        Refusal::TooMany => "too many requests",
        Refusal::Internal => "an internal error",
        Refusal::BadGateway | Refusal::Unavailable | Refusal::GatewayTimeout => "not available now",
    }
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
fn of_store(refusal: Refusal) -> String {
    let code = match refusal {
        Refusal::Unauthorized => "Unauthorized",
        Refusal::Forbidden => "AccessDenied",
        Refusal::NotFound => "NoSuchKey",
        Refusal::Conflict => "OperationAborted",
        Refusal::Gone => "Gone",
        Refusal::TooMany => "TooManyRequests",
        Refusal::Internal => "InternalError",
        Refusal::BadGateway | Refusal::Unavailable | Refusal::GatewayTimeout => "SlowDown",
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{}</Message>\
         <RequestId>0</RequestId></Error>",
        words(refusal)
    )
}

/// The Status of apimachinery.
fn of_cluster(refusal: Refusal) -> String {
    let reason = match refusal {
        Refusal::Unauthorized => "Unauthorized",
        Refusal::Forbidden => "Forbidden",
        Refusal::NotFound => "NotFound",
        Refusal::Conflict => "Conflict",
        Refusal::Gone => "Expired",
        Refusal::TooMany => "TooManyRequests",
        Refusal::Internal => "InternalError",
        Refusal::BadGateway | Refusal::Unavailable | Refusal::GatewayTimeout => "ServiceUnavailable",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": words(refusal), "reason": reason, "code": refusal.status(),
    });
    status.to_string()
}

/// RFC 6749, 5.2.
fn of_uaa(refusal: Refusal) -> String {
    let error = match refusal {
        Refusal::Unauthorized => "unauthorized",
        Refusal::Forbidden => "access_denied",
        _ => "server_error",
    };
    json!({ "error": error, "error_description": words(refusal) }).to_string()
}
