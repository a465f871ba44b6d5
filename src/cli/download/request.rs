//! What a download is asked for: a session of somebody's, or days, which become sessions of at most fifteen. No I/O.

use std::fmt::{self, Write as _};

use jiff::ToSpan as _;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::export::window::Window;
use crate::tracker::{Session, SessionRequest};

/// Days that a session may have (API page).
pub const SESSION_DAYS_MAX: u8 = 15;

/// Days that one download may ask for: 366. The service keeps weeks.
pub const DAYS_MAX: i32 = 366;

/// What is asked for; a partial file is gone on with only where this is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DownloadRequest {
    /// A session that is open already, and stays so.
    Session {
        /// Its id.
        id: String,
    },
    /// Days, in sessions of our own.
    Days {
        /// First UTC day.
        start: Date,
        /// Last UTC day, inclusive.
        end: Date,
        /// Only this hour of each day.
        hour: Option<u8>,
        /// Events of the account instead of the space.
        account: bool,
        /// Days of a session at most.
        days_per_session: u8,
    },
}

impl DownloadRequest {
    /// The sessions that it takes, in order of time; of a session of somebody else's none is to be opened.
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
            // The last day that there is has no tomorrow.
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

/// `2018-06-28`, `2018-06-28 to 2018-07-02, hour 7`.
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

/// How the answered session differs from what was asked for; `None` where it does not, or does not say.
pub fn mismatch(requested: &SessionRequest, session: &Session) -> Option<String> {
    let SessionRequest {
        start,
        end,
        hour,
        account,
    } = *requested;
    if let Some((first, last)) = session.range
        && (first, last) != (start, end)
    {
        return Some(format!(
            "asked for {}, the service answered {}",
            format_days(start, end, None),
            format_days(first, last, None)
        ));
    }
    if let Some(other) = session.hour
        && other != hour
    {
        let name =
            |hour: Option<u8>| hour.map_or_else(|| "the whole day".to_owned(), |hour| format!("hour {hour}"));
        return Some(format!(
            "asked for {}, the service answered {}",
            name(hour),
            name(other)
        ));
    }
    let other = session.account.filter(|other| *other != account)?;
    let name = |account| {
        if account {
            "the account's events"
        } else {
            "the space's events"
        }
    };
    Some(format!(
        "asked for {}, the service answered {}",
        name(account),
        name(other)
    ))
}

/// The windows of days, one for each.
pub fn windows(start: Date, end: Date, hour: Option<u8>) -> impl Iterator<Item = Window> {
    std::iter::successors(Some(start), |day| day.tomorrow().ok())
        .take_while(move |day| *day <= end)
        .filter_map(move |day| match hour {
            Some(hour) => Window::hour(day, hour),
            None => Some(Window::day(day)),
        })
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
        for (days, most, expected) in [
            (1, 15, vec![(1, 1)]),
            (15, 15, vec![(1, 15)]),
            (16, 15, vec![(1, 15), (16, 16)]),
            (30, 13, vec![(1, 13), (14, 26), (27, 30)]),
            (3, 1, vec![(1, 1), (2, 2), (3, 3)]),
        ] {
            let found: Vec<_> = days_request(days, most)
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

    #[test]
    fn a_session_with_other_days_or_scope_is_a_mismatch() {
        let request = days_request(3, 15).session_requests()[0];
        let session = Session {
            id: "s".to_owned(),
            space: None,
            username: None,
            created: None,
            accessed: None,
            range: Some((request.start, request.end)),
            account: Some(true),
            hour: Some(None),
        };
        assert_eq!(mismatch(&request, &session), None);
        let without_details = Session {
            range: None,
            account: None,
            hour: None,
            ..session.clone()
        };
        assert_eq!(mismatch(&request, &without_details), None);
        for (other, expected) in [
            (
                Session {
                    range: Some((date(2018, 5, 31), date(2018, 6, 2))),
                    ..session.clone()
                },
                "answered 2018-05-31 to 2018-06-02",
            ),
            (
                Session {
                    hour: Some(Some(7)),
                    ..session.clone()
                },
                "answered hour 7",
            ),
            (
                Session {
                    account: Some(false),
                    ..session
                },
                "answered the space's events",
            ),
        ] {
            let text = mismatch(&request, &other).unwrap();
            assert!(text.contains(expected), "{text}");
        }
    }
}
