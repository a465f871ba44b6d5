//! Which sessions are provably this user's and old: decides purely what `--all-mine-older-than` deletes. No I/O.

use jiff::{SignedDuration, Timestamp};

use crate::api::format_duration;
use crate::tracker::Session;

/// How long ago a session must have been used last to be taken for idle: 10 minutes, as the engine holds it.
pub const IDLE_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// What becomes of a session, and why it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CleanupDecision {
    /// It is ours, old and idle.
    Delete,
    /// It is ours and old, and was used a while ago that is shorter than [`IDLE_AFTER`].
    RecentlyUsed(SignedDuration),
    /// It is younger than what was asked for.
    TooYoung,
    /// Another user's.
    OtherUser,
    /// The service does not say whose it is, how old it is, or says that it is of another space.
    Unverified(&'static str),
}

/// What becomes of `session` when `user` deletes those of `space` that are older than `age`.
pub fn decide(
    session: &Session,
    user: &str,
    space: &str,
    age: SignedDuration,
    now: Timestamp,
) -> CleanupDecision {
    match session.username.as_deref() {
        None => return CleanupDecision::Unverified("the service does not say whose it is"),
        Some(owner) if owner != user => return CleanupDecision::OtherUser,
        Some(_) => {}
    }
    if session.space.as_deref().is_some_and(|of| of != space) {
        return CleanupDecision::Unverified("the service says that it is of another space");
    }
    let Some(created) = session.created else {
        return CleanupDecision::Unverified("the service does not say when it was made");
    };
    if now.duration_since(created) < age {
        return CleanupDecision::TooYoung;
    }
    match session.accessed.map(|accessed| now.duration_since(accessed)) {
        Some(idle) if idle < IDLE_AFTER => CleanupDecision::RecentlyUsed(idle.max(SignedDuration::ZERO)),
        _ => CleanupDecision::Delete,
    }
}

/// A duration to the minute, or to the second below one: `2h5m`, `40s`.
pub fn format_age(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let shown = if seconds < 60 {
        SignedDuration::from_secs(seconds)
    } else {
        SignedDuration::from_mins(seconds / 60)
    };
    format_duration(shown)
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
        for (session, wanted) in [
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
                CleanupDecision::Unverified("the service does not say whose it is"),
            ),
            (
                with(|session| session.created = None),
                CleanupDecision::Unverified("the service does not say when it was made"),
            ),
            (
                with(|session| session.space = Some("t".to_owned())),
                CleanupDecision::Unverified("the service says that it is of another space"),
            ),
        ] {
            assert_eq!(
                decide(&session, "me", "s", SignedDuration::from_hours(2), now),
                wanted,
                "{session:?}"
            );
        }
    }
}
