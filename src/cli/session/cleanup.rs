//! Selects the sessions that `--all-mine-older-than` deletes: owned by the user, old and idle. No I/O.

use jiff::{SignedDuration, Timestamp};

use crate::api::format_duration;
use crate::tracker::Session;

/// Time since its last use after which a session is idle: 10 minutes, as in the engine.
pub const IDLE_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Decision on a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CleanupDecision {
    /// Delete: owned by the user, old and idle.
    Delete,
    /// Keep by default: owned by the user and old, but last used less than [`IDLE_AFTER`] ago. Holds the idle time.
    RecentlyUsed(SignedDuration),
    /// Keep: younger than requested.
    TooYoung,
    /// Keep: owned by another user.
    OtherUser,
    /// Keep: the owner or the age is unknown, or the session belongs to another space. Holds the reason.
    Unverified(&'static str),
}

/// Decides on a session when `user` deletes the sessions of `space` that are older than `age`.
pub fn decide(
    session: &Session,
    user: &str,
    space: &str,
    age: SignedDuration,
    now: Timestamp,
) -> CleanupDecision {
    match session.username.as_deref() {
        None => return CleanupDecision::Unverified("the service does not report its owner"),
        Some(owner) if owner != user => return CleanupDecision::OtherUser,
        Some(_) => {}
    }
    if session.space.as_deref().is_some_and(|other| other != space) {
        return CleanupDecision::Unverified("it belongs to another space");
    }
    let Some(created) = session.created else {
        return CleanupDecision::Unverified("the service does not report its creation time");
    };
    if now.duration_since(created) < age {
        return CleanupDecision::TooYoung;
    }
    match session.accessed.map(|accessed| now.duration_since(accessed)) {
        Some(idle) if idle < IDLE_AFTER => CleanupDecision::RecentlyUsed(idle.max(SignedDuration::ZERO)),
        _ => CleanupDecision::Delete,
    }
}

/// Formats a duration to the minute, or to the second below one minute: `2h5m`, `40s`.
pub fn format_age(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let rounded = if seconds < 60 {
        SignedDuration::from_secs(seconds)
    } else {
        SignedDuration::from_mins(seconds / 60)
    };
    format_duration(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_old_and_idle_sessions_are_deleted() {
        let now: Timestamp = "2018-07-01T12:00:00Z".parse().unwrap();
        let ago = |minutes: i64| now.checked_sub(SignedDuration::from_mins(minutes)).ok();
        let own = Session {
            id: "i".to_owned(),
            space: Some("s".to_owned()),
            username: Some("me".to_owned()),
            created: ago(180),
            accessed: ago(180),
            range: None,
            account: None,
            hour: None,
        };
        let with = |change: fn(&mut Session)| {
            let mut session = own.clone();
            change(&mut session);
            session
        };
        let recent = Session {
            accessed: ago(3),
            ..own.clone()
        };
        let young = Session {
            created: ago(119),
            ..own.clone()
        };
        for (session, expected) in [
            (own.clone(), CleanupDecision::Delete),
            (with(|session| session.space = None), CleanupDecision::Delete),
            (with(|session| session.accessed = None), CleanupDecision::Delete),
            (
                recent,
                CleanupDecision::RecentlyUsed(SignedDuration::from_mins(3)),
            ),
            (young, CleanupDecision::TooYoung),
            (
                with(|session| session.username = Some("Me".to_owned())),
                CleanupDecision::OtherUser,
            ),
            (
                with(|session| session.username = None),
                CleanupDecision::Unverified("the service does not report its owner"),
            ),
            (
                with(|session| session.created = None),
                CleanupDecision::Unverified("the service does not report its creation time"),
            ),
            (
                with(|session| session.space = Some("t".to_owned())),
                CleanupDecision::Unverified("it belongs to another space"),
            ),
        ] {
            assert_eq!(
                decide(&session, "me", "s", SignedDuration::from_hours(2), now),
                expected,
                "{session:?}"
            );
        }
    }
}
