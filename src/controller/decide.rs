//! What the operator does with one resource, given what it knows of it. Pure: no I/O and no clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long sessions of a deleted resource are tried to be released, from its deletion on.
pub const RELEASE_LIMIT: SignedDuration = SignedDuration::from_mins(10);

/// How long this process tries that at least, also if it comes late.
const RELEASE_LEAST: SignedDuration = SignedDuration::from_mins(1);

/// Longest pause after a failure that may go away by itself, or for which nothing tells that a person mended it.
pub const FAILED_MOST: SignedDuration = SignedDuration::from_mins(10);

/// Longest pause between two tries to release sessions: there are ten minutes in all.
pub const RELEASE_MOST: SignedDuration = SignedDuration::from_mins(1);

/// The longest that a resource is left alone: then its bucket is listed again.
pub const LOOK_AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// How often an export that is under way is looked at when it says nothing.
pub const WATCH: SignedDuration = SignedDuration::from_hours(1);

/// What is known of a resource at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The moment.
    pub now: Timestamp,
    /// Since when it is being deleted.
    pub deleting: Option<Timestamp>,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
    /// Whether a person suspended it.
    pub suspended: bool,
    /// What its spec asks for, as a digest; `suspend` does not count.
    pub wanted: u64,
    /// Whether its Secrets may have other contents than those in use.
    pub secrets_stale: bool,
    /// Whether sessions may be open because of it.
    pub sessions: bool,
    /// Whether its status is not what this process wrote, or the work has to begin again for another reason.
    pub afresh: bool,
    /// What this process does, or did, for it.
    pub work: Work,
}

/// What this process does, or did, for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing yet.
    Fresh,
    /// It exports, by the spec of this digest.
    Exporting {
        /// The digest.
        spec: u64,
        /// Whether it was told to stop.
        stopping: bool,
    },
    /// It deletes sessions.
    Releasing,
    /// It did something, which ended.
    Ended {
        /// What it did was by the spec of this digest.
        spec: u64,
        /// How it ended.
        end: End,
    },
}

/// How work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There is nothing to do before that time.
    Rested(Timestamp),
    /// It could not begin, or broke down: not again before that time.
    Failed(Timestamp),
    /// Sessions could not be deleted: not again before that time.
    NotReleased(Timestamp),
    /// Sessions cannot be deleted, and trying again would not help.
    Unreleasable,
}

impl End {
    /// When to go on, if that is still to come. A time further away than any pause is not: the clock was set back.
    fn pauses_until(self, now: Timestamp) -> Option<Timestamp> {
        let (next, most) = match self {
            Self::Rested(next) => (next, LOOK_AGAIN),
            Self::Failed(next) => (next, FAILED_MOST),
            Self::NotReleased(next) => (next, RELEASE_MOST),
            Self::Unreleasable => return None,
        };
        (next > now && next.duration_since(now) <= most).then_some(next)
    }
}

/// Since when a resource counts as being deleted, of which this process has known for `known`. The API server's word
/// alone would not do: its clock may be another, and this process may have been away.
pub fn deleting_since(now: Timestamp, by_api_server: Timestamp, known: SignedDuration) -> Timestamp {
    let longest = known.saturating_add(RELEASE_LIMIT).saturating_sub(RELEASE_LEAST);
    let age = now.duration_since(by_api_server).max(known).min(longest);
    now.saturating_sub(age).unwrap_or(Timestamp::MIN)
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing.
    Leave,
    /// Begin to export.
    Start,
    /// Compare the contents of the Secrets with those in use; where they differ, begin again.
    CompareSecrets,
    /// Tell the export to stop; its end wakes us.
    Stop,
    /// Delete the sessions.
    Release,
    /// Take our finalizer away: no session is open.
    LetGo,
    /// Take our finalizer away although sessions may be open, and say so.
    GiveUp,
}

/// What is to be done now, and when to look again at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is to be done now.
    pub deed: Deed,
    /// When to look again, should nothing wake us before; `None`: something will.
    pub again: Option<Timestamp>,
}

impl Decision {
    const fn now(deed: Deed) -> Self {
        Self { deed, again: None }
    }

    const fn wait(until: Timestamp) -> Self {
        Self {
            deed: Deed::Leave,
            again: Some(until),
        }
    }

    /// How long to wait from `now`, at least a second.
    pub fn pause(&self, now: Timestamp) -> Option<Duration> {
        let pause = Duration::try_from(self.again?.duration_since(now)).unwrap_or_default();
        Some(pause.max(Duration::from_secs(1)))
    }
}

/// What to do.
pub fn decide(seen: &Observation) -> Decision {
    match seen.deleting {
        Some(since) => delete(seen, since),
        None if seen.suspended => suspend(seen),
        None => export(seen),
    }
}

fn export(seen: &Observation) -> Decision {
    let (spec, end) = match seen.work {
        Work::Fresh => return Decision::now(Deed::Start),
        Work::Releasing | Work::Exporting { stopping: true, .. } => return Decision::now(Deed::Leave),
        Work::Exporting { spec, .. } if spec != seen.wanted => return Decision::now(Deed::Stop),
        Work::Exporting { .. } if seen.secrets_stale => return Decision::now(Deed::CompareSecrets),
        // What waits may become overdue without anything else happening.
        Work::Exporting { .. } => {
            return Decision::wait(seen.now.saturating_add(WATCH).unwrap_or(Timestamp::MAX));
        }
        Work::Ended { spec, end } => (spec, end),
    };
    if spec != seen.wanted || seen.afresh {
        return Decision::now(Deed::Start);
    }
    match end {
        End::Rested(_) if seen.secrets_stale => Decision::now(Deed::CompareSecrets),
        _ if seen.secrets_stale => Decision::now(Deed::Start),
        _ => match end.pauses_until(seen.now) {
            Some(next) if seen.finalizer && !seen.sessions => Decision {
                deed: Deed::LetGo,
                again: Some(next),
            },
            Some(next) => Decision::wait(next),
            // What cannot be released was suspended when that was found out; it no longer is.
            None => Decision::now(Deed::Start),
        },
    }
}

fn suspend(seen: &Observation) -> Decision {
    let pause = match seen.work {
        Work::Ended {
            end: end @ (End::NotReleased(_) | End::Failed(_)),
            ..
        } => end.pauses_until(seen.now),
        _ => None,
    };
    match seen.work {
        Work::Exporting { stopping: false, .. } => Decision::now(Deed::Stop),
        Work::Exporting { .. } | Work::Releasing => Decision::now(Deed::Leave),
        _ if !seen.finalizer => Decision::now(Deed::Leave),
        _ if !seen.sessions => Decision::now(Deed::LetGo),
        _ if pause.is_some() => Decision {
            deed: Deed::Leave,
            again: pause,
        },
        // Only a person can help; a change of the Secret or the spec wakes us, and a day's time.
        Work::Ended {
            end: End::Unreleasable,
            ..
        } if !seen.secrets_stale && !seen.afresh => {
            Decision::wait(seen.now.saturating_add(LOOK_AGAIN).unwrap_or(Timestamp::MAX))
        }
        Work::Fresh | Work::Ended { .. } => Decision::now(Deed::Release),
    }
}

fn delete(seen: &Observation, since: Timestamp) -> Decision {
    let limit = since.saturating_add(RELEASE_LIMIT).unwrap_or(Timestamp::MAX);
    let late = seen.now >= limit;
    if !seen.finalizer {
        // Somebody else's finalizer keeps it, or a person took ours away.
        return match seen.work {
            Work::Exporting { stopping: false, .. } => Decision::now(Deed::Stop),
            _ => Decision::now(Deed::Leave),
        };
    }
    match seen.work {
        Work::Exporting { stopping: false, .. } => Decision {
            deed: Deed::Stop,
            again: Some(limit),
        },
        Work::Exporting { .. } | Work::Releasing if late => Decision::now(Deed::GiveUp),
        Work::Exporting { .. } | Work::Releasing => Decision::wait(limit),
        _ if !seen.sessions => Decision::now(Deed::LetGo),
        _ if late => Decision::now(Deed::GiveUp),
        Work::Ended {
            end: End::Unreleasable,
            ..
        } => Decision::now(Deed::GiveUp),
        Work::Ended {
            end: end @ End::NotReleased(_),
            ..
        } if end.pauses_until(seen.now).is_some() => {
            Decision::wait(end.pauses_until(seen.now).map_or(limit, |next| next.min(limit)))
        }
        Work::Fresh | Work::Ended { .. } => Decision::now(Deed::Release),
    }
}

#[cfg(test)]
mod tests;
