//! Leader election: the decision of one candidate over one Lease record. Pure: no I/O and no clock.
//!
//! The rules are those of client-go's leader election. It never compares clocks of different machines: a record
//! is abandoned if it did not change for its full duration, by the monotonic clock of this process.

use std::time::Duration;

/// Timing of a lease: `duration` > `deadline` > `renew`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// Time that others wait for a leader that does not renew. Whole seconds.
    pub duration: Duration,
    /// Time that a leader tries to renew before it stops leading.
    pub deadline: Duration,
    /// Interval between renewals of the leader.
    pub renew: Duration,
}

/// Invalid [`LeaseTiming`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseTimingError {
    /// The Lease stores whole seconds.
    #[error("the lease duration must be whole seconds, from 2 s to 10 min")]
    Duration,
    /// A leader must stop before another process may start.
    #[error("the renewal deadline must be at least 1 s shorter than the lease duration")]
    Deadline,
    /// A leader must survive one failed renewal.
    #[error("the renewal interval must be at least 100 ms and at most half the renewal deadline")]
    Renew,
}

/// Maximum duration of a lease. It bounds the outage after a crash of the leader.
const DURATION_MAX: Duration = Duration::from_mins(10);

/// Interval at which a candidate reads the Lease and a leader repeats a failed renewal: the maximum time of a handover
/// after the old leader ended.
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
    /// Returns the timing if it is valid.
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

    /// Returns the timeout of one request for the Lease. A second request fits before the deadline.
    pub fn request(&self) -> Duration {
        (self.deadline / 2).min(Duration::from_secs(5))
    }

    /// Returns the delay before a candidate reads the Lease again, or a leader repeats a failed renewal.
    pub fn retry(&self) -> Duration {
        RETRY_PERIOD.min(self.renew)
    }
}

/// Fields of a Lease that the election uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Identity of the holder. `None` or empty: no holder.
    pub holder: Option<String>,
    /// Time that others must wait after the last renewal.
    pub duration: Duration,
    /// `resourceVersion`, which changes with each renewal.
    pub version: String,
}

/// Next step of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateStep {
    /// Create the Lease, which does not exist.
    Create,
    /// Acquire the Lease, which is free or abandoned, if it did not change since.
    Acquire,
    /// Renew the Lease, which this process holds already: the response to its write was lost.
    Renew,
    /// Read the Lease again after this time: another process leads.
    Wait(Duration),
}

/// Decides the next step of a candidate. `unchanged` is the time since this process first read this version.
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
            // The holder may be configured with a longer duration than this process.
            let validity = record.duration.clamp(timing.duration, DURATION_MAX);
            match validity.checked_sub(unchanged) {
                None | Some(Duration::ZERO) => CandidateStep::Acquire,
                Some(rest) => CandidateStep::Wait(rest.min(timing.retry())),
            }
        }
    }
}

/// Result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalResult {
    /// The Lease is renewed for another duration.
    Done,
    /// The Lease has another holder, or does not exist.
    Taken,
    /// Unknown: no answer, an error, or the Lease changed meanwhile.
    Unknown,
}

/// Next step of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderStep {
    /// Keep leading, and renew after this time.
    Keep(Duration),
    /// Stop leading. No other process can lead before this time.
    Lost(Duration),
}

/// Decides the next step of a leader. `since` is the time since the last successful renewal was *sent*.
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
            // The longer one of the durations of holder and candidate counts.
            (Some(record(Some("other"), 60)), s(59), CandidateStep::Wait(s(1))),
            (Some(record(Some("other"), 60)), s(60), CandidateStep::Acquire),
            (Some(record(Some("other"), 0)), s(3), CandidateStep::Wait(s(1))),
            // An invalid record does not block the election permanently.
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
