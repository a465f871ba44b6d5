//! What a status that is no success means, by what was asked for. Pure, no I/O.

use std::time::Duration;

use ::http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

use super::{CredentialsKey, TrackerError};
use crate::egress::{Asked, Peer};

/// What is asked of the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Create,
    Sessions,
    Session,
    Delete,
    Days,
    Download,
}

impl Purpose {
    /// As it is counted.
    pub(super) const fn asked(self) -> Asked {
        let operation = match self {
            Self::Create => "CreateSession",
            Self::Sessions => "ListSessions",
            Self::Session => "ShowSession",
            Self::Delete => "DeleteSession",
            Self::Days => "ListDays",
            Self::Download => "Download",
        };
        Asked {
            peer: Peer::Tracker,
            operation,
        }
    }

    /// In words, for errors.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Create => "a new session",
            Self::Sessions => "the list of sessions",
            Self::Session => "a session",
            Self::Delete => "the end of a session",
            Self::Days => "the daily listing",
            Self::Download => "a download",
        }
    }
}

/// A reply that is no success.
pub(super) struct Refusal<'a> {
    pub host: &'a str,
    pub space: &'a str,
    pub key: CredentialsKey,
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// The service's words, fit to be shown.
    pub said: String,
    /// What `Retry-After` asks for.
    pub after: Option<Duration>,
}

impl Refusal<'_> {
    /// The error that it is.
    pub(super) fn of(self, purpose: Purpose) -> TrackerError {
        let Self {
            host,
            space,
            key,
            status,
            headers,
            said,
            after,
        } = self;
        let host = host.to_owned();
        let code = status.as_u16();
        if from_router(headers) || code == 408 {
            return TrackerError::Server {
                host,
                status: code,
                said,
                after,
            };
        }
        match (purpose, code) {
            (_, 401) => TrackerError::Unauthorized { host, key, said },
            (Purpose::Create, 403 | 409 | 429) => TrackerError::Capacity {
                space: space.to_owned(),
                status: code,
                said,
            },
            (Purpose::Create, 500) if speaks_of_capacity(&said) => TrackerError::Capacity {
                space: space.to_owned(),
                status: code,
                said,
            },
            (_, 429) => TrackerError::Throttled { host, said, after },
            (Purpose::Days, 400..=499 | 501) => TrackerError::ListingRefused {
                host,
                status: code,
                said,
            },
            (_, 403) => TrackerError::Forbidden {
                host,
                space: space.to_owned(),
                said,
            },
            (_, 404) => TrackerError::NotFound {
                host,
                what: purpose.what(),
                said,
            },
            (_, 500..=599) => TrackerError::Server {
                host,
                status: code,
                said,
                after,
            },
            _ => TrackerError::Refused {
                host,
                what: purpose.what(),
                status: code,
                said,
            },
        }
    }
}

/// Cloud Foundry's router says so when it, not the service, answers: a 404 of its own means that no instance of the
/// service runs, not that a session is gone.
pub(super) fn from_router(headers: &HeaderMap) -> bool {
    headers.contains_key("x-cf-routererror")
}

/// A 500 that says that there is no room is not an accident, so nothing was opened.
fn speaks_of_capacity(said: &str) -> bool {
    let said = said.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    any(&["too many", "capacity"])
        || (said.contains("session") && any(&["limit", "maximum", "quota", "exceed", "already open"]))
}

/// `Retry-After` in either form (RFC 9110 § 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Class;

    fn error(purpose: Purpose, status: u16, said: &str) -> TrackerError {
        let refusal = Refusal {
            host: "t.example",
            space: "s",
            key: CredentialsKey::ApiKey,
            status: StatusCode::from_u16(status).unwrap(),
            headers: &HeaderMap::new(),
            said: said.to_owned(),
            after: None,
        };
        refusal.of(purpose)
    }

    #[test]
    fn too_many_sessions_is_waiting_whatever_the_status() {
        for (status, said) in [
            (429, ""),
            (403, ""),
            (409, "conflict"),
            (500, "Too many open sessions"),
            (500, "session limit of 30 reached"),
        ] {
            let error = error(Purpose::Create, status, said);
            assert!(matches!(error, TrackerError::Capacity { .. }), "{error:?}");
            assert_eq!(error.class(), Class::Wait);
            assert!(!error.may_have_executed());
        }
    }

    #[test]
    fn a_refusal_without_a_known_meaning_is_asked_again_by_itself() {
        for (purpose, status) in [
            (Purpose::Create, 404),
            (Purpose::Sessions, 404),
            (Purpose::Sessions, 410),
            (Purpose::Session, 400),
        ] {
            assert_eq!(error(purpose, status, "").class(), Class::Wait, "{status}");
        }
    }

    #[test]
    fn a_failed_create_may_have_opened_a_session() {
        for (status, said) in [
            (500, "session store: connection reset"),
            (502, "Bad Gateway"),
            (504, ""),
            (503, "too many requests"),
        ] {
            assert!(
                error(Purpose::Create, status, said).may_have_executed(),
                "{status} {said}"
            );
        }
        for status in [400, 401, 404, 405, 422] {
            assert!(
                !error(Purpose::Create, status, "").may_have_executed(),
                "{status}"
            );
        }
    }

    #[test]
    fn a_refused_listing_is_no_listing() {
        for status in [400, 403, 404, 405, 501] {
            let error = error(Purpose::Days, status, "");
            assert!(matches!(error, TrackerError::ListingRefused { .. }), "{error:?}");
        }
        assert!(matches!(
            error(Purpose::Days, 502, ""),
            TrackerError::Server { .. }
        ));
        assert!(matches!(
            error(Purpose::Days, 401, ""),
            TrackerError::Unauthorized { .. }
        ));
    }

    #[test]
    fn a_routers_404_is_not_a_session_gone() {
        let headers = HeaderMap::from_iter([(
            "x-cf-routererror".parse().unwrap(),
            "unknown_route".parse().unwrap(),
        )]);
        let refusal = Refusal {
            host: "t.example",
            space: "s",
            key: CredentialsKey::Token,
            status: StatusCode::NOT_FOUND,
            headers: &headers,
            said: String::new(),
            after: None,
        };
        assert!(matches!(
            refusal.of(Purpose::Delete),
            TrackerError::Server { status: 404, .. }
        ));
    }

    #[test]
    fn forbidden_names_role_and_permission() {
        let words = error(Purpose::Sessions, 403, "no").to_string();
        assert!(
            words.contains("developer role") && words.contains("account") && words.contains("“no”"),
            "{words}"
        );
    }

    #[test]
    fn retry_after_comes_as_seconds_or_date() {
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
