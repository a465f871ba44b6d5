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
        self.texts().0
    }

    /// Returns the status, the message, the code of S3, and the reasons of Kubernetes and of OAuth.
    #[rustfmt::skip]
    const fn texts(self) -> (u16, &'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Unauthorized => (401, "the token is not valid", "Unauthorized", "Unauthorized", "unauthorized"),
            Self::Forbidden => (403, "you are not allowed to do that", "AccessDenied", "Forbidden", "access_denied"),
            Self::NotFound => (404, "there is no such thing", "NoSuchKey", "NotFound", "server_error"),
            Self::Conflict => (409, "something else is being done with it", "OperationAborted", "Conflict", "server_error"),
            Self::Gone => (410, "it is gone", "Gone", "Expired", "server_error"),
            Self::TooManyRequests => (429, "too many requests", "TooManyRequests", "TooManyRequests", "server_error"),
            Self::InternalServerError => (500, "an internal error", "InternalError", "InternalError", "server_error"),
            Self::BadGateway => (502, "not available now", "SlowDown", "ServiceUnavailable", "server_error"),
            Self::ServiceUnavailable => (503, "not available now", "SlowDown", "ServiceUnavailable", "server_error"),
            Self::GatewayTimeout => (504, "not available now", "SlowDown", "ServiceUnavailable", "server_error"),
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
    let (code, message, s3_code, reason, oauth_error) = status.texts();
    let (kind, body) = match (status, peer) {
        (ErrorStatus::BadGateway, _) => ("text/html", HTML_PAGE.to_owned()),
        (ErrorStatus::GatewayTimeout, _) => ("text/plain", String::new()),
        // <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
        (_, ProxiedPeer::Store) => {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{s3_code}</Code>\
                 <Message>{message}</Message><RequestId>0</RequestId></Error>"
            );
            ("application/xml", body)
        }
        // Status object of apimachinery.
        (_, ProxiedPeer::ApiServer) => {
            let body = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": message, "reason": reason, "code": code,
            });
            ("application/json", body.to_string())
        }
        // Error response of RFC 6749, section 5.2.
        (_, ProxiedPeer::Uaa) => {
            let body = json!({ "error": oauth_error, "error_description": message });
            ("application/json", body.to_string())
        }
        (_, ProxiedPeer::Tracker) => ("application/json", json!({ "message": message }).to_string()),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    if status == ErrorStatus::TooManyRequests {
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    }
    response
}
