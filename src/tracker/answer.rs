//! Comparison of a session that the service opened with the request for it. No I/O.

use std::fmt;

use jiff::civil::Date;

use super::{Session, SessionRequest};
use crate::api::sanitize_to;

/// Maximum length of the space of a session in a message, in characters.
const SPACE_CHARS_MAX: usize = 64;

/// A property of a session that differs from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Requested value.
    pub requested: String,
    /// Value in the reply of the service.
    pub answered: String,
}

impl SessionRequest {
    /// Returns how a session differs from the request in a space: space, range, hour, scope. A property that the service
    /// omits does not differ.
    pub fn differences(&self, space: &str, session: &Session) -> Vec<Difference> {
        let other = session
            .space
            .as_deref()
            .filter(|other| !other.eq_ignore_ascii_case(space));
        let space = other.map(|other| Difference {
            requested: format!("space {space}"),
            answered: format!("space {}", sanitize_to(other, SPACE_CHARS_MAX)),
        });
        space
            .into_iter()
            .chain(self.differences_in_space(session))
            .collect()
    }

    fn differences_in_space(&self, session: &Session) -> Vec<Difference> {
        let Self {
            start,
            end,
            hour,
            account,
        } = *self;
        let range = session
            .range
            .filter(|range| *range != (start, end))
            .map(|(first, last)| Difference {
                requested: format_range(start, end),
                answered: format_range(first, last),
            });
        let hour = session
            .hour
            .filter(|answered| *answered != hour)
            .map(|answered| Difference {
                requested: format_hour(hour),
                answered: format_hour(answered),
            });
        let account = session
            .account
            .filter(|answered| *answered != account)
            .map(|answered| Difference {
                requested: format_scope(account).to_owned(),
                answered: format_scope(answered).to_owned(),
            });
        [range, hour, account].into_iter().flatten().collect()
    }

    /// Returns true if the session has the requested range, hour and scope, as far as the service states them. Ignores its
    /// space: a session that is listed in the space may block it.
    pub fn answer_matches(&self, session: &Session) -> bool {
        self.differences_in_space(session).is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, answered } = self;
        write!(f, "requested {requested}, but the session is for {answered}")
    }
}

fn format_range(start: Date, end: Date) -> String {
    if start == end {
        start.to_string()
    } else {
        format!("{start} to {end}")
    }
}

fn format_hour(hour: Option<u8>) -> String {
    hour.map_or_else(|| "all hours".to_owned(), |hour| format!("hour {hour}"))
}

const fn format_scope(account: bool) -> &'static str {
    if account {
        "events of the account"
    } else {
        "events of the space"
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn each_property_that_the_service_states_is_compared() {
        let day = |day| date(2018, 6, day);
        let request = SessionRequest {
            start: day(1),
            end: day(3),
            hour: None,
            account: true,
        };
        let session = Session {
            id: "s".to_owned(),
            space: None,
            username: None,
            created: None,
            accessed: None,
            range: None,
            account: None,
            hour: None,
        };
        let texts = |range, hour, account| -> Vec<String> {
            let session = Session {
                range,
                account,
                hour,
                ..session.clone()
            };
            request
                .differences("C1-6D55", &session)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        let table: [(_, _, _, &[&str]); 6] = [
            (None, None, None, &[]),
            (Some((day(1), day(3))), Some(None), Some(true), &[]),
            (
                Some((day(1), day(2))),
                None,
                None,
                &["requested 2018-06-01 to 2018-06-03, but the session is for 2018-06-01 to 2018-06-02"],
            ),
            (
                None,
                Some(Some(7)),
                None,
                &["requested all hours, but the session is for hour 7"],
            ),
            (
                None,
                None,
                Some(false),
                &["requested events of the account, but the session is for events of the space"],
            ),
            (
                Some((day(2), day(2))),
                Some(Some(7)),
                Some(false),
                &[
                    "requested 2018-06-01 to 2018-06-03, but the session is for 2018-06-02",
                    "requested all hours, but the session is for hour 7",
                    "requested events of the account, but the session is for events of the space",
                ],
            ),
        ];
        for (range, hour, account, expected) in table {
            assert_eq!(texts(range, hour, account), expected);
        }
        for (space, expected) in [
            ("c1-6d55", &[][..]),
            (
                "c2",
                &["requested space C1-6D55, but the session is for space c2"],
            ),
        ] {
            let session = Session {
                space: Some(space.to_owned()),
                ..session.clone()
            };
            let found = request.differences("C1-6D55", &session);
            assert_eq!(
                found.iter().map(ToString::to_string).collect::<Vec<_>>(),
                expected
            );
            assert!(request.answer_matches(&session));
        }
    }
}
