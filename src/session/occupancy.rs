//! Occupancy of a space: holders of its open sessions, as far as a listing of the service shows them. No I/O.

use std::fmt;

use jiff::Timestamp;

use super::SESSIONS_PER_SPACE;
use crate::api::sanitize_to;
use crate::tracker::{Session, SessionListing, TrackerError};

/// Maximum number of users that are named.
const USERS_NAMED_MAX: usize = 3;

/// Maximum length of the name of a user, in characters.
const USER_CHARS_MAX: usize = 64;

/// Remedy for a full space.
const REMEDY: &str = "wait until one is deleted, or delete those that nobody needs (`eventexport session list`, `eventexport session delete ID`, `eventexport session delete --all-mine-older-than 2h`)";

/// Holder of a session, as the process that lists it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionHolder {
    /// This export or command.
    Own,
    /// Another export of this process or of the archive.
    Known,
    /// Not known: another user, another program, or a session that was left open.
    Unknown,
}

/// Holders of the open sessions of a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupancy {
    space: String,
    own: usize,
    known: usize,
    unknown: usize,
    /// Users of the unknown sessions with the number of theirs, most first.
    users: Vec<(String, usize)>,
    /// Time at which the oldest session was opened, by the clock of the service.
    oldest: Option<Timestamp>,
    /// Time of the listing, by the same clock.
    listed_at: Option<Timestamp>,
}

impl Occupancy {
    /// Counts the sessions of a listing by their holders.
    pub fn new(space: &str, listing: &SessionListing, holder: impl Fn(&str) -> SessionHolder) -> Self {
        let mut occupancy = Self {
            space: space.to_owned(),
            own: 0,
            known: 0,
            unknown: 0,
            users: Vec::new(),
            oldest: listing
                .sessions
                .iter()
                .filter_map(|session| session.created)
                .min(),
            listed_at: listing.service_time,
        };
        for session in &listing.sessions {
            match holder(&session.id) {
                SessionHolder::Own => occupancy.own += 1,
                SessionHolder::Known => occupancy.known += 1,
                SessionHolder::Unknown => occupancy.add_unknown(session),
            }
        }
        occupancy
            .users
            .sort_by_key(|(_, sessions)| std::cmp::Reverse(*sessions));
        occupancy
    }

    fn add_unknown(&mut self, session: &Session) {
        self.unknown += 1;
        let user = session.username.as_deref().unwrap_or("an unnamed user");
        match self.users.iter_mut().find(|(named, _)| named == user) {
            Some((_, sessions)) => *sessions += 1,
            None => self.users.push((user.to_owned(), 1)),
        }
    }

    /// Returns the number of open sessions.
    pub const fn open(&self) -> usize {
        self.own + self.known + self.unknown
    }

    /// Returns the holders: `2 of this export, 28 unknown (…); the oldest was opened …`.
    fn holders(&self) -> String {
        let shares = [
            (self.own, "of this export"),
            (self.known, "of other known exports"),
        ];
        let mut parts: Vec<String> = shares
            .iter()
            .filter(|(sessions, _)| *sessions > 0)
            .map(|(sessions, of)| format!("{sessions} {of}"))
            .collect();
        if self.unknown > 0 {
            let named = self.users.iter().take(USERS_NAMED_MAX);
            let mut users: Vec<String> = named
                .map(|(user, sessions)| format!("{sessions} of {}", sanitize_to(user, USER_CHARS_MAX)))
                .collect();
            if self.users.len() > USERS_NAMED_MAX {
                users.push("…".to_owned());
            }
            parts.push(format!("{} unknown ({})", self.unknown, users.join(", ")));
        }
        let oldest = self.oldest.map_or_else(String::new, |oldest| {
            let age = self.listed_at.and_then(|now| format_age(oldest, now));
            let age = age.map_or_else(String::new, |age| format!(" ({age} ago)"));
            format!("; the oldest was opened {oldest}{age}")
        });
        parts.join(", ") + &oldest
    }
}

/// States the sessions that the service lists, and their holders.
impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, space) = (self.open(), &self.space);
        if open == 0 {
            return write!(f, "the service listed 0 open sessions in space {space}");
        }
        let holders = self.holders();
        write!(
            f,
            "the service listed {open} of {SESSIONS_PER_SPACE} sessions open in space {space}: {holders}"
        )
    }
}

/// Formats an age by both times of one clock; coarse, so that a message that is repeated seldom changes.
fn format_age(opened: Timestamp, now: Timestamp) -> Option<String> {
    let hours = now.duration_since(opened).as_hours();
    (opened <= now).then(|| match hours {
        0 => "less than 1 h".to_owned(),
        1..48 => format!("{hours} h"),
        _ => format!("{} days", hours / 24),
    })
}

/// A space without a free session: the message of every front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullSpace {
    /// Holders of the open sessions, before the request.
    pub occupancy: Occupancy,
    /// Refusal of the service; `None`: no request was sent.
    pub refusal: Option<TrackerError>,
}

impl fmt::Display for FullSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { occupancy, refusal } = self;
        match refusal {
            Some(refusal) => write!(f, "{refusal}: {occupancy}")?,
            None => write!(f, "{occupancy}")?,
        }
        if occupancy.open() < SESSIONS_PER_SPACE {
            f.write_str(match refusal {
                Some(_) => "; the rest may be of users whose sessions it does not list",
                None => "; no more are opened for now, so that others find a free one",
            })?;
        }
        write!(f, "; {REMEDY}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(sessions: &[(&str, Option<&str>, Option<&str>)], at: Option<&str>) -> SessionListing {
        let time = |text: &str| text.parse().unwrap();
        let session = |(id, user, created): &(&str, Option<&str>, Option<&str>)| Session {
            id: (*id).to_owned(),
            space: None,
            username: user.map(str::to_owned),
            created: created.map(time),
            accessed: None,
            range: None,
            account: None,
            hour: None,
        };
        SessionListing {
            sessions: sessions.iter().map(session).collect(),
            service_time: at.map(time),
        }
    }

    fn holder(id: &str) -> SessionHolder {
        match id.get(..1) {
            Some("o") => SessionHolder::Own,
            Some("k") => SessionHolder::Known,
            _ => SessionHolder::Unknown,
        }
    }

    #[test]
    fn a_full_space_names_the_holders_and_the_age_of_the_oldest_session() {
        let day = Some("2018-06-28T00:00:00Z");
        let later = Some("2018-06-28T07:30:00Z");
        let table: [(&[_], _, &str); 5] = [
            (&[], None, "listed 0 open sessions in space s"),
            (
                &[("o1", None, None), ("k1", None, day)],
                None,
                "listed 2 of 30 sessions open in space s: 1 of this export, 1 of other known exports; the oldest was opened 2018-06-28T00:00:00Z",
            ),
            (
                &[("a", Some("u"), later), ("b", None, day), ("c", Some("u"), later)],
                later,
                "3 unknown (2 of u, 1 of an unnamed user); the oldest was opened 2018-06-28T00:00:00Z (7 h ago)",
            ),
            // Set back clocks give no age.
            (
                &[("a", Some("u\u{1b}[2J"), later)],
                day,
                "1 unknown (1 of u\\u{1b}[2J); the oldest was opened 2018-06-28T07:30:00Z",
            ),
            (
                &[
                    ("a", Some("1"), day),
                    ("b", Some("2"), day),
                    ("c", Some("3"), day),
                    ("d", Some("4"), day),
                ],
                Some("2018-07-01T00:00:00Z"),
                "4 unknown (1 of 1, 1 of 2, 1 of 3, …); the oldest was opened 2018-06-28T00:00:00Z (3 days ago)",
            ),
        ];
        for (sessions, at, expected) in table {
            let text = Occupancy::new("s", &listing(sessions, at), holder).to_string();
            assert!(text.ends_with(expected), "{text}");
        }
    }

    #[test]
    fn a_refusal_is_quoted_before_the_holders_and_the_remedy_comes_last() {
        let occupancy = Occupancy::new("s", &listing(&[("o", None, None)], None), holder);
        let refusal = TrackerError::Capacity {
            space: "s".to_owned(),
            status: 429,
            names_capacity: true,
            message: "enough".to_owned(),
            after: None,
        };
        let full = |refusal| FullSpace {
            occupancy: occupancy.clone(),
            refusal,
        };
        let refused = full(Some(refusal)).to_string();
        assert!(
            refused.starts_with(
                "cannot open a session in space s (status 429), saying “enough”: the service listed 1 of 30"
            ),
            "{refused}"
        );
        let unasked = full(None).to_string();
        assert!(unasked.starts_with("the service listed 1 of 30"), "{unasked}");
        for text in [refused, unasked] {
            assert!(
                text.contains("1 of this export") && text.ends_with(&format!("; {REMEDY}")),
                "{text}"
            );
        }
    }
}
