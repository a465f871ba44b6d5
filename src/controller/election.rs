//! Who leads: the decision of one candidate over one Lease record. Pure: no I/O and no clock.
//!
//! The rules are those of client-go's leader election. Clocks of different machines are never compared: a record
//! counts as abandoned when this process has watched it unchanged for the record's whole duration, by its own
//! monotonic clock.

use std::time::Duration;

/// Times of a lease. Each must be longer than the next: duration > deadline > renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long others wait for a leader that says nothing. Whole seconds.
    pub duration: Duration,
    /// How long a leader tries to renew before it stops leading.
    pub deadline: Duration,
    /// How often a leader renews.
    pub renew: Duration,
}

/// Times that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTimes {
    /// The record holds whole seconds.
    #[error("the lease's duration must be whole seconds, from 2 s to 10 min")]
    Duration,
    /// A leader must stop before another may start.
    #[error("the deadline must be shorter than the lease's duration by at least a second")]
    Deadline,
    /// One failed renewal must not be the end.
    #[error("the renewal interval must be at most half the deadline, and at least 100 ms")]
    Renew,
}

/// Longest duration of a lease: longer, and a crashed leader is missed for too long.
const DURATION_MAX: Duration = Duration::from_mins(10);

/// How often a candidate looks, and a leader repeats a renewal that failed: what a handover takes beyond the end of
/// the old leader.
pub const RETRY: Duration = Duration::from_secs(1);

impl Default for Times {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            renew: Duration::from_secs(5),
        }
    }
}

impl Times {
    /// These times, if they can work.
    pub fn checked(self) -> Result<Self, BadTimes> {
        let second = Duration::from_secs(1);
        if self.duration.subsec_nanos() != 0 || self.duration < 2 * second || self.duration > DURATION_MAX {
            return Err(BadTimes::Duration);
        }
        if self.deadline + second > self.duration {
            return Err(BadTimes::Deadline);
        }
        if self.renew * 2 > self.deadline || self.renew < Duration::from_millis(100) {
            return Err(BadTimes::Renew);
        }
        Ok(self)
    }

    /// How long one request about the lease may take: a second one must fit before the deadline.
    pub fn request(&self) -> Duration {
        (self.deadline / 2).min(Duration::from_secs(5))
    }

    /// How long to wait before a candidate looks again, or a failed renewal is repeated.
    pub fn retry(&self) -> Duration {
        RETRY.min(self.renew)
    }
}

/// What a Lease says, as far as the election goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; `None` or empty: nobody.
    pub holder: Option<String>,
    /// How long others must wait.
    pub duration: Duration,
    /// The version of the record: it changes whenever the holder renews.
    pub version: String,
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no record: make one.
    Create,
    /// The record is free or abandoned: put our name in, if it has not changed since.
    Take,
    /// The record has our name: a reply of ours was lost. Renew it.
    Renew,
    /// Another leads: look again then.
    Wait(Duration),
}

/// `unchanged` is how long this process has watched the record as it is.
pub fn step(me: &str, record: Option<&Record>, unchanged: Duration, times: &Times) -> Step {
    let Some(record) = record else {
        return Step::Create;
    };
    match record.holder.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == me => Step::Renew,
        Some(_) => {
            // The holder's own duration, should it be configured with a longer one than we are.
            let patience = record.duration.clamp(times.duration, DURATION_MAX);
            match patience.checked_sub(unchanged) {
                None | Some(Duration::ZERO) => Step::Take,
                Some(rest) => Step::Wait(rest.min(times.retry())),
            }
        }
    }
}

/// How a renewal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The record is ours for another duration.
    Done,
    /// The record has another name, or is gone.
    Taken,
    /// Nobody knows: no answer, an error, or the record changed meanwhile.
    Unknown,
}

/// What a leader does after a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Go on, and renew after so long.
    Keep(Duration),
    /// Stop leading. Nobody else can lead before so long.
    Lost(Duration),
}

/// `since` is how long ago the last successful renewal was *sent*.
pub fn hold(renewal: Renewal, since: Duration, times: &Times) -> Hold {
    match renewal {
        Renewal::Done => Hold::Keep(times.renew),
        Renewal::Taken => Hold::Lost(Duration::ZERO),
        Renewal::Unknown if since >= times.deadline => Hold::Lost(times.duration.saturating_sub(since)),
        Renewal::Unknown => Hold::Keep(times.retry().min(times.deadline.saturating_sub(since))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(holder: Option<&str>, duration: u64) -> Record {
        Record {
            holder: holder.map(str::to_owned),
            duration: s(duration),
            version: "7".to_owned(),
        }
    }

    #[test]
    fn a_candidate_takes_only_what_is_free_or_watched_unchanged_for_its_whole_duration() {
        let times = Times::default();
        for (given, unchanged, expected) in [
            (None, s(0), Step::Create),
            (Some(record(None, 15)), s(0), Step::Take),
            (Some(record(Some(""), 1)), s(0), Step::Take),
            (Some(record(Some("me"), 15)), s(0), Step::Renew),
            (Some(record(Some("other"), 15)), s(0), Step::Wait(s(1))),
            (Some(record(Some("other"), 15)), s(14), Step::Wait(s(1))),
            (Some(record(Some("other"), 15)), s(15), Step::Take),
            // A leader with a longer duration than ours is given its own; one with a shorter, ours.
            (Some(record(Some("other"), 60)), s(59), Step::Wait(s(1))),
            (Some(record(Some("other"), 60)), s(60), Step::Take),
            (Some(record(Some("other"), 0)), s(3), Step::Wait(s(1))),
            // A nonsensical record does not lock everyone out for ever.
            (Some(record(Some("other"), 1_000_000)), s(600), Step::Take),
        ] {
            assert_eq!(
                step("me", given.as_ref(), unchanged, &times),
                expected,
                "{given:?} {unchanged:?}"
            );
        }
    }

    #[test]
    fn a_leader_stops_before_another_can_start() {
        let times = Times::default();
        for (renewal, since, expected) in [
            (Renewal::Done, s(0), Hold::Keep(s(5))),
            (Renewal::Taken, s(1), Hold::Lost(s(0))),
            (Renewal::Unknown, s(5), Hold::Keep(s(1))),
            (Renewal::Unknown, s(9), Hold::Keep(s(1))),
            (Renewal::Unknown, s(10), Hold::Lost(s(5))),
            (Renewal::Unknown, s(16), Hold::Lost(s(0))),
        ] {
            assert_eq!(hold(renewal, since, &times), expected, "{renewal:?} {since:?}");
        }
    }

    #[test]
    fn times_that_cannot_work_are_refused() {
        let times = |duration, deadline, renew| Times {
            duration: s(duration),
            deadline: s(deadline),
            renew: s(renew),
        };
        assert!(Times::default().checked().is_ok());
        assert_eq!(times(1, 1, 1).checked(), Err(BadTimes::Duration));
        assert_eq!(times(601, 10, 1).checked(), Err(BadTimes::Duration));
        assert_eq!(times(15, 15, 5).checked(), Err(BadTimes::Deadline));
        assert_eq!(times(15, 10, 6).checked(), Err(BadTimes::Renew));
        assert_eq!(times(15, 10, 0).checked(), Err(BadTimes::Renew));
    }
}
