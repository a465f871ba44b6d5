//! Who leads: the decision of one candidate over one Lease record. Pure: no I/O and no clock.
//!
//! The rules are those of client-go's leader election. Clocks of different machines are never compared: a record
//! counts as abandoned when this process has watched it unchanged for the record's whole duration, by its own
//! monotonic clock.

use std::time::Duration;

/// Times of a lease. Each must be longer than the next: duration > deadline > renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// How long others wait for a leader that says nothing. Whole seconds.
    pub duration: Duration,
    /// How long a leader tries to renew before it stops leading.
    pub deadline: Duration,
    /// How often a leader renews.
    pub renew: Duration,
}

/// Times that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseTimingError {
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
pub const RETRY_PERIOD: Duration = Duration::from_secs(1);

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            renew: Duration::from_secs(5),
        }
    }
}

impl LeaseTiming {
    /// These times, if they can work.
    pub fn checked(self) -> Result<Self, LeaseTimingError> {
        let second = Duration::from_secs(1);
        if self.duration.subsec_nanos() != 0 || self.duration < 2 * second || self.duration > DURATION_MAX {
            return Err(LeaseTimingError::Duration);
        }
        if self.deadline + second > self.duration {
            return Err(LeaseTimingError::Deadline);
        }
        if self.renew * 2 > self.deadline || self.renew < Duration::from_millis(100) {
            return Err(LeaseTimingError::Renew);
        }
        Ok(self)
    }

    /// How long one request about the lease may take: a second one must fit before the deadline.
    pub fn request(&self) -> Duration {
        (self.deadline / 2).min(Duration::from_secs(5))
    }

    /// How long to wait before a candidate looks again, or a failed renewal is repeated.
    pub fn retry(&self) -> Duration {
        RETRY_PERIOD.min(self.renew)
    }
}

/// What a Lease says, as far as the election goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Who holds it; `None` or empty: nobody.
    pub holder: Option<String>,
    /// How long others must wait.
    pub duration: Duration,
    /// The version of the record: it changes whenever the holder renews.
    pub version: String,
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateStep {
    /// There is no record: make one.
    Create,
    /// The record is free or abandoned: put our name in, if it has not changed since.
    Acquire,
    /// The record has our name: a reply of ours was lost. Renew it.
    Renew,
    /// Another leads: look again then.
    Wait(Duration),
}

/// `unchanged` is how long this process has watched the record as it is.
pub fn candidate_step(
    me: &str,
    record: Option<&LeaseRecord>,
    unchanged: Duration,
    timing: &LeaseTiming,
) -> CandidateStep {
    let Some(record) = record else {
        return CandidateStep::Create;
    };
    match record.holder.as_deref() {
        None | Some("") => CandidateStep::Acquire,
        Some(holder) if holder == me => CandidateStep::Renew,
        Some(_) => {
            // The holder's own duration, should it be configured with a longer one than we are.
            let validity = record.duration.clamp(timing.duration, DURATION_MAX);
            match validity.checked_sub(unchanged) {
                None | Some(Duration::ZERO) => CandidateStep::Acquire,
                Some(rest) => CandidateStep::Wait(rest.min(timing.retry())),
            }
        }
    }
}

/// How a renewal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalResult {
    /// The record is ours for another duration.
    Done,
    /// The record has another name, or is gone.
    Taken,
    /// Nobody knows: no answer, an error, or the record changed meanwhile.
    Unknown,
}

/// What a leader does after a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderStep {
    /// Go on, and renew after so long.
    Keep(Duration),
    /// Stop leading. Nobody else can lead before so long.
    Lost(Duration),
}

/// `since` is how long ago the last successful renewal was *sent*.
pub fn leader_step(renewal: RenewalResult, since: Duration, timing: &LeaseTiming) -> LeaderStep {
    match renewal {
        RenewalResult::Done => LeaderStep::Keep(timing.renew),
        RenewalResult::Taken => LeaderStep::Lost(Duration::ZERO),
        RenewalResult::Unknown if since >= timing.deadline => {
            LeaderStep::Lost(timing.duration.saturating_sub(since))
        }
        RenewalResult::Unknown => LeaderStep::Keep(timing.retry().min(timing.deadline.saturating_sub(since))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(holder: Option<&str>, duration: u64) -> LeaseRecord {
        LeaseRecord {
            holder: holder.map(str::to_owned),
            duration: s(duration),
            version: "7".to_owned(),
        }
    }

    #[test]
    fn a_candidate_acquires_only_a_free_or_expired_lease() {
        let timing = LeaseTiming::default();
        for (given, unchanged, expected) in [
            (None, s(0), CandidateStep::Create),
            (Some(record(None, 15)), s(0), CandidateStep::Acquire),
            (Some(record(Some(""), 1)), s(0), CandidateStep::Acquire),
            (Some(record(Some("me"), 15)), s(0), CandidateStep::Renew),
            (Some(record(Some("other"), 15)), s(0), CandidateStep::Wait(s(1))),
            (Some(record(Some("other"), 15)), s(14), CandidateStep::Wait(s(1))),
            (Some(record(Some("other"), 15)), s(15), CandidateStep::Acquire),
            // A leader with a longer duration than ours is given its own; one with a shorter, ours.
            (Some(record(Some("other"), 60)), s(59), CandidateStep::Wait(s(1))),
            (Some(record(Some("other"), 60)), s(60), CandidateStep::Acquire),
            (Some(record(Some("other"), 0)), s(3), CandidateStep::Wait(s(1))),
            // A nonsensical record does not lock everyone out for ever.
            (
                Some(record(Some("other"), 1_000_000)),
                s(600),
                CandidateStep::Acquire,
            ),
        ] {
            assert_eq!(
                candidate_step("me", given.as_ref(), unchanged, &timing),
                expected,
                "{given:?} {unchanged:?}"
            );
        }
    }

    #[test]
    fn a_leader_stops_before_another_can_start() {
        let timing = LeaseTiming::default();
        for (renewal, since, expected) in [
            (RenewalResult::Done, s(0), LeaderStep::Keep(s(5))),
            (RenewalResult::Taken, s(1), LeaderStep::Lost(s(0))),
            (RenewalResult::Unknown, s(5), LeaderStep::Keep(s(1))),
            (RenewalResult::Unknown, s(9), LeaderStep::Keep(s(1))),
            (RenewalResult::Unknown, s(10), LeaderStep::Lost(s(5))),
            (RenewalResult::Unknown, s(16), LeaderStep::Lost(s(0))),
        ] {
            assert_eq!(
                leader_step(renewal, since, &timing),
                expected,
                "{renewal:?} {since:?}"
            );
        }
    }

    #[test]
    fn invalid_timings_are_rejected() {
        let timing = |duration, deadline, renew| LeaseTiming {
            duration: s(duration),
            deadline: s(deadline),
            renew: s(renew),
        };
        assert!(LeaseTiming::default().checked().is_ok());
        assert_eq!(timing(1, 1, 1).checked(), Err(LeaseTimingError::Duration));
        assert_eq!(timing(601, 10, 1).checked(), Err(LeaseTimingError::Duration));
        assert_eq!(timing(15, 15, 5).checked(), Err(LeaseTimingError::Deadline));
        assert_eq!(timing(15, 10, 6).checked(), Err(LeaseTimingError::Renew));
        assert_eq!(timing(15, 10, 0).checked(), Err(LeaseTimingError::Renew));
    }
}
