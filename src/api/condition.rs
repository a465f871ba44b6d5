//! Conditions of a resource, by the conventions of Kubernetes. No I/O.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Reason;

/// Maximum length of a condition's message, in characters; longer messages end with an ellipsis. Kubernetes allows
/// 32768.
pub const MAX_MESSAGE_CHARS: usize = 1024;

/// Condition types of an `EventExport`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The spec is accepted, credentials and bucket work, and no window is overdue, short or lost.
    Ready,
    /// Every requested window is covered or an accepted gap, and no session is open.
    Complete,
    /// The operator has not acted on the generation yet.
    Reconciling,
    /// Manual action is required; the message names it.
    Stalled,
    /// Another operator of the cluster selects the resource too. Set only while this is the case.
    Contended,
    /// The archive was read again and is proved. Set only with `spec.verification`.
    Verified,
}

impl ConditionType {
    /// Types that every resource has, in display order.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Complete, Self::Reconciling, Self::Stalled];

    /// Types that a resource has only if they apply.
    pub const OPTIONAL: [Self; 2] = [Self::Contended, Self::Verified];

    /// Returns the name of the type in a condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Complete => "Complete",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Contended => "Contended",
            Self::Verified => "Verified",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Creates a condition with the transition time `now`. A `status` of `None` is Unknown. The message is truncated to
/// [`MAX_MESSAGE_CHARS`].
pub fn condition(
    kind: ConditionType,
    status: Option<bool>,
    reason: Reason,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    Condition {
        type_: kind.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: truncate_message(message),
        observed_generation: Some(generation),
        last_transition_time: Time(now),
    }
}

/// Adds or replaces a condition. Keeps the transition time if the status did not change.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// Returns the condition of a type, if there is one.
pub fn find_condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind.as_str())
}

/// Truncates a message to [`MAX_MESSAGE_CHARS`].
pub(super) fn truncate_message(message: &str) -> String {
    if message.chars().count() <= MAX_MESSAGE_CHARS {
        return message.to_owned();
    }
    let kept: String = message.chars().take(MAX_MESSAGE_CHARS - 1).collect();
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_changes_only_with_the_status() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let ready =
            |status, reason, second| condition(ConditionType::Ready, Some(status), reason, "", 1, at(second));
        let mut conditions = vec![];
        set_condition(&mut conditions, ready(false, Reason::Accepted, 1));
        set_condition(&mut conditions, ready(false, Reason::BucketMissing, 2));
        let found = find_condition(&conditions, ConditionType::Ready).unwrap();
        assert_eq!(
            (found.reason.as_str(), found.last_transition_time.0),
            ("BucketMissing", at(1))
        );
        set_condition(&mut conditions, ready(true, Reason::Complete, 3));
        assert_eq!(conditions[0].last_transition_time.0, at(3));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn long_messages_are_truncated() {
        let long = "ü".repeat(MAX_MESSAGE_CHARS + 1);
        let made = condition(
            ConditionType::Ready,
            None,
            Reason::Failed,
            &long,
            1,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(made.message.chars().count(), MAX_MESSAGE_CHARS);
        assert_eq!(made.status, "Unknown");
    }
}
