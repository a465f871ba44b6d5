//! Error replies of an intermediary, in the format of the peer behind it. No I/O.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use serde_json::json;

use super::rules::ProxiedPeer;

/// Reply of an intermediary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ErrorStatus {
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    Gone,
    /// 429 with `Retry-After`.
    TooManyRequests,
    InternalServerError,
    /// 502 with an HTML page.
    BadGateway,
    /// 503; for a store `SlowDown`.
    ServiceUnavailable,
    /// 504 without a body.
    GatewayTimeout,
}

impl ErrorStatus {
    pub(crate) const ALL: [Self; 10] = [
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::Gone,
        Self::TooManyRequests,
        Self::InternalServerError,
        Self::BadGateway,
        Self::ServiceUnavailable,
        Self::GatewayTimeout,
    ];

    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Gone => 410,
            Self::TooManyRequests => 429,
            Self::InternalServerError => 500,
            Self::BadGateway => 502,
            Self::ServiceUnavailable => 503,
            Self::GatewayTimeout => 504,
        }
    }
}

/// HTML pages of gateways must never appear in a log.
const HTML_PAGE: &str = "<html><head><title>502 Bad Gateway</title></head><body>\n<center><h1>502 Bad Gateway</h1></center>\n\
                    <hr><center>gateway</center></body></html>\n";

/// Seconds; the shortest possible value.
const RETRY_AFTER: &str = "1";

/// Returns the reply of that status in the format of this peer.
pub(super) fn error_reply(peer: ProxiedPeer, status: ErrorStatus) -> Response<Body> {
    let (kind, body) = match status {
        ErrorStatus::BadGateway => ("text/html", HTML_PAGE.to_owned()),
        ErrorStatus::GatewayTimeout => ("text/plain", String::new()),
        _ => match peer {
            ProxiedPeer::Store => ("application/xml", s3_error(status)),
            ProxiedPeer::ApiServer => ("application/json", status_error(status)),
            ProxiedPeer::Uaa => ("application/json", oauth_error(status)),
            ProxiedPeer::Tracker => (
                "application/json",
                json!({ "message": error_message(status) }).to_string(),
            ),
        },
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    if status == ErrorStatus::TooManyRequests {
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    }
    response
}

fn error_message(status: ErrorStatus) -> &'static str {
    match status {
        ErrorStatus::Unauthorized => "the token is not valid",
        ErrorStatus::Forbidden => "you are not allowed to do that",
        ErrorStatus::NotFound => "there is no such thing",
        ErrorStatus::Conflict => "something else is being done with it",
        ErrorStatus::Gone => "it is gone",
        ErrorStatus::TooManyRequests => "too many requests",
        ErrorStatus::InternalServerError => "an internal error",
        ErrorStatus::BadGateway | ErrorStatus::ServiceUnavailable | ErrorStatus::GatewayTimeout => {
            "not available now"
        }
    }
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
fn s3_error(status: ErrorStatus) -> String {
    let code = match status {
        ErrorStatus::Unauthorized => "Unauthorized",
        ErrorStatus::Forbidden => "AccessDenied",
        ErrorStatus::NotFound => "NoSuchKey",
        ErrorStatus::Conflict => "OperationAborted",
        ErrorStatus::Gone => "Gone",
        ErrorStatus::TooManyRequests => "TooManyRequests",
        ErrorStatus::InternalServerError => "InternalError",
        ErrorStatus::BadGateway | ErrorStatus::ServiceUnavailable | ErrorStatus::GatewayTimeout => "SlowDown",
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{}</Message>\
         <RequestId>0</RequestId></Error>",
        error_message(status)
    )
}

/// Status object of apimachinery.
fn status_error(status: ErrorStatus) -> String {
    let reason = match status {
        ErrorStatus::Unauthorized => "Unauthorized",
        ErrorStatus::Forbidden => "Forbidden",
        ErrorStatus::NotFound => "NotFound",
        ErrorStatus::Conflict => "Conflict",
        ErrorStatus::Gone => "Expired",
        ErrorStatus::TooManyRequests => "TooManyRequests",
        ErrorStatus::InternalServerError => "InternalError",
        ErrorStatus::BadGateway | ErrorStatus::ServiceUnavailable | ErrorStatus::GatewayTimeout => {
            "ServiceUnavailable"
        }
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": error_message(status), "reason": reason, "code": status.status(),
    });
    status.to_string()
}

/// Error response of RFC 6749, section 5.2.
fn oauth_error(status: ErrorStatus) -> String {
    let error = match status {
        ErrorStatus::Unauthorized => "unauthorized",
        ErrorStatus::Forbidden => "access_denied",
        _ => "server_error",
    };
    json!({ "error": error, "error_description": error_message(status) }).to_string()
}
