//! Request of a download: an open session, or days, which are split into sessions of at most 15 days. No I/O.

use std::fmt::{self, Write as _};

use jiff::ToSpan as _;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::tracker::SessionRequest;

/// Maximum number of days of a session (API page).
pub const SESSION_DAYS_MAX: u8 = 15;

/// Maximum number of days of a download: 366. The service retains events for weeks.
pub const DAYS_MAX: i32 = 366;

/// Requested events. A partial file is resumed only for the same request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DownloadRequest {
    /// Session that is already open and stays open.
    Session {
        /// Session ID.
        id: String,
    },
    /// Days, in sessions that the download opens.
    Days {
        /// First day (UTC).
        start: Date,
        /// Last day (UTC), inclusive.
        end: Date,
        /// Only this hour of each day.
        hour: Option<u8>,
        /// Events of the account instead of the space.
        account: bool,
        /// Maximum number of days per session.
        days_per_session: u8,
    },
}

impl DownloadRequest {
    /// Returns the sessions to open, in order of time; none for a session that is already open.
    pub fn session_requests(&self) -> Vec<SessionRequest> {
        let Self::Days {
            start,
            end,
            hour,
            account,
            days_per_session,
        } = *self
        else {
            return Vec::new();
        };
        let days = i64::from(days_per_session.clamp(1, SESSION_DAYS_MAX));
        let mut sessions = Vec::new();
        let mut first = start;
        while first <= end {
            let last = first.saturating_add((days - 1).days()).min(end);
            sessions.push(SessionRequest {
                start: first,
                end: last,
                hour,
                account,
            });
            // `Date::MAX` has no next day.
            let Ok(next) = last.tomorrow() else { break };
            first = next;
        }
        sessions
    }
}

impl fmt::Display for DownloadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session { id } => write!(f, "session {id}"),
            Self::Days {
                start,
                end,
                hour,
                account,
                ..
            } => {
                f.write_str(&format_days(*start, *end, *hour))?;
                f.write_str(if *account { " of the account" } else { "" })
            }
        }
    }
}

/// Formats days: `2018-06-28`, `2018-06-28 to 2018-07-02, hour 7`.
pub fn format_days(start: Date, end: Date, hour: Option<u8>) -> String {
    let mut text = start.to_string();
    if end != start {
        // Writing to a string cannot fail.
        let _ = write!(text, " to {end}");
    }
    if let Some(hour) = hour {
        let _ = write!(text, ", hour {hour}");
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn days_request(days: i8, days_per_session: u8) -> DownloadRequest {
        DownloadRequest::Days {
            start: date(2018, 6, 1),
            end: date(2018, 6, days),
            hour: None,
            account: true,
            days_per_session,
        }
    }

    #[test]
    fn days_become_sessions_in_order_without_gap_or_overlap() {
        for (days, days_per_session, expected) in [
            (1, 15, vec![(1, 1)]),
            (15, 15, vec![(1, 15)]),
            (16, 15, vec![(1, 15), (16, 16)]),
            (30, 13, vec![(1, 13), (14, 26), (27, 30)]),
            (3, 1, vec![(1, 1), (2, 2), (3, 3)]),
        ] {
            let found: Vec<_> = days_request(days, days_per_session)
                .session_requests()
                .iter()
                .map(|session| (session.start.day(), session.end.day()))
                .collect();
            assert_eq!(found, expected);
        }
        assert!(
            DownloadRequest::Session { id: "s".to_owned() }
                .session_requests()
                .is_empty()
        );
    }
}
