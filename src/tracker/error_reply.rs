//! Classification of replies without success, by operation. No I/O.

use std::time::Duration;

use ::http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

use super::{CredentialsKey, TrackerError};
use crate::egress::{Peer, RequestLabel};

/// Operation of the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiOperation {
    CreateSession,
    ListSessions,
    ShowSession,
    DeleteSession,
    ListDays,
    Download,
}

impl ApiOperation {
    /// Returns the label for metrics.
    pub(super) const fn label(self) -> RequestLabel {
        let operation = match self {
            Self::CreateSession => "CreateSession",
            Self::ListSessions => "ListSessions",
            Self::ShowSession => "ShowSession",
            Self::DeleteSession => "DeleteSession",
            Self::ListDays => "ListDays",
            Self::Download => "Download",
        };
        RequestLabel {
            peer: Peer::Tracker,
            operation,
        }
    }

    /// Returns the object of the request, for errors.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::CreateSession => "a new session",
            Self::ListSessions => "the list of sessions",
            Self::ShowSession => "a session",
            Self::DeleteSession => "the deletion of a session",
            Self::ListDays => "the daily listing",
            Self::Download => "a download",
        }
    }
}

/// Reply without success.
pub(super) struct ErrorReply<'a> {
    pub host: &'a str,
    pub space: &'a str,
    pub key: CredentialsKey,
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// Text of the reply, redacted for display.
    pub message: String,
    /// Wait that `Retry-After` asks for.
    pub after: Option<Duration>,
}

impl ErrorReply<'_> {
    /// Converts the reply into an error.
    pub(super) fn into_error(self, operation: ApiOperation) -> TrackerError {
        let Self {
            host,
            space,
            key,
            status,
            headers,
            message,
            after,
        } = self;
        let host = host.to_owned();
        let code = status.as_u16();
        if is_router_error(headers) || code == 408 {
            return TrackerError::Server {
                host,
                status: code,
                message,
                after,
            };
        }
        match (operation, code) {
            (_, 401) => TrackerError::Unauthorized { host, key, message },
            (ApiOperation::CreateSession, 403 | 409 | 429) => TrackerError::Capacity {
                space: space.to_owned(),
                status: code,
                names_capacity: code == 429 || mentions_capacity(&message),
                message,
                after,
            },
            (ApiOperation::CreateSession, 500) if mentions_capacity(&message) => TrackerError::Capacity {
                space: space.to_owned(),
                status: code,
                names_capacity: true,
                message,
                after,
            },
            (_, 429) => TrackerError::Throttled { host, message, after },
            // Other replies may pass.
            (ApiOperation::ListDays, 400 | 403 | 404 | 405 | 501) => TrackerError::ListingRefused {
                host,
                status: code,
                message,
            },
            (_, 403) => TrackerError::Forbidden {
                host,
                space: space.to_owned(),
                message,
            },
            (_, 404) => TrackerError::NotFound {
                host,
                what: operation.description(),
                message,
            },
            (_, 500..=599) => TrackerError::Server {
                host,
                status: code,
                message,
                after,
            },
            _ => TrackerError::Refused {
                host,
                what: operation.description(),
                status: code,
                message,
            },
        }
    }
}

/// Returns true if the router of Cloud Foundry replied instead of the service: its 404 means that no instance of the
/// service runs, not that a session is gone.
pub(super) fn is_router_error(headers: &HeaderMap) -> bool {
    headers.contains_key("x-cf-routererror")
}

/// Returns true for a text that reports a full space. In a 500 it means that no session was opened.
fn mentions_capacity(message: &str) -> bool {
    let message = message.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| message.contains(word));
    any(&["too many", "capacity"])
        || (message.contains("session") && any(&["limit", "maximum", "quota", "exceed", "already open"]))
}

/// Parses `Retry-After` in either form (RFC 9110 § 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = http_date(text)?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// Returns the time of a reply by the clock of its sender (RFC 9110 § 6.6.1).
pub(super) fn reply_time(headers: &HeaderMap) -> Option<Timestamp> {
    http_date(headers.get(header::DATE)?.to_str().ok()?.trim())
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::TrackerErrorClass;

    fn error(operation: ApiOperation, status: u16, message: &str) -> TrackerError {
        let error_reply = ErrorReply {
            host: "t.example",
            space: "s",
            key: CredentialsKey::ApiKey,
            status: StatusCode::from_u16(status).unwrap(),
            headers: &HeaderMap::new(),
            message: message.to_owned(),
            after: None,
        };
        error_reply.into_error(operation)
    }

    #[test]
    fn a_full_space_is_a_capacity_error_for_any_status() {
        for (status, message) in [
            (429, ""),
            (403, ""),
            (409, "conflict"),
            (500, "Too many open sessions"),
            (500, "session limit of 30 reached"),
        ] {
            let error = error(ApiOperation::CreateSession, status, message);
            assert!(matches!(error, TrackerError::Capacity { .. }), "{error:?}");
            assert_eq!(error.class(), TrackerErrorClass::Wait);
            assert!(!error.may_have_executed());
        }
    }

    #[test]
    fn an_unknown_refusal_waits() {
        for (operation, status) in [
            (ApiOperation::CreateSession, 404),
            (ApiOperation::ListSessions, 404),
            (ApiOperation::ListSessions, 410),
            (ApiOperation::ShowSession, 400),
        ] {
            assert_eq!(
                error(operation, status, "").class(),
                TrackerErrorClass::Wait,
                "{status}"
            );
        }
    }

    #[test]
    fn a_failed_create_may_have_opened_a_session() {
        for (status, message) in [
            (500, "session store: connection reset"),
            (502, "Bad Gateway"),
            (504, ""),
            (503, "too many requests"),
        ] {
            assert!(
                error(ApiOperation::CreateSession, status, message).may_have_executed(),
                "{status} {message}"
            );
        }
        for status in [400, 401, 404, 405, 422] {
            assert!(
                !error(ApiOperation::CreateSession, status, "").may_have_executed(),
                "{status}"
            );
        }
    }

    #[test]
    fn a_refused_listing_is_reported_as_unavailable() {
        for status in [400, 403, 404, 405, 501] {
            let error = error(ApiOperation::ListDays, status, "");
            assert!(matches!(error, TrackerError::ListingRefused { .. }), "{error:?}");
        }
        assert!(matches!(
            error(ApiOperation::ListDays, 502, ""),
            TrackerError::Server { .. }
        ));
        assert!(matches!(
            error(ApiOperation::ListDays, 401, ""),
            TrackerError::Unauthorized { .. }
        ));
    }

    #[test]
    fn a_router_404_is_a_server_error() {
        let headers = HeaderMap::from_iter([(
            "x-cf-routererror".parse().unwrap(),
            "unknown_route".parse().unwrap(),
        )]);
        let error_reply = ErrorReply {
            host: "t.example",
            space: "s",
            key: CredentialsKey::Token,
            status: StatusCode::NOT_FOUND,
            headers: &headers,
            message: String::new(),
            after: None,
        };
        assert!(matches!(
            error_reply.into_error(ApiOperation::DeleteSession),
            TrackerError::Server { status: 404, .. }
        ));
    }

    #[test]
    fn a_403_names_the_required_role_and_permission() {
        let text = error(ApiOperation::ListSessions, 403, "no").to_string();
        assert!(
            text.contains("developer role") && text.contains("account") && text.contains("“no”"),
            "{text}"
        );
    }

    #[test]
    fn retry_after_accepts_seconds_and_dates() {
        let now: Timestamp = "2018-06-28T12:00:00Z".parse().unwrap();
        let read = |text: &str| {
            retry_after(
                &HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]),
                now,
            )
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            read("Thu, 28 Jun 2018 12:00:09 GMT"),
            Some(Duration::from_secs(9))
        );
        assert_eq!(read("Thu, 28 Jun 2018 11:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }
}
