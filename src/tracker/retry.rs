//! Retry policy: bounded by count and by time, with jitter, honors `Retry-After`. No I/O, no clock.

use std::time::Duration;

/// Limits of retries, the only ones in the client of the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Maximum number of attempts of one request, including the first.
    pub attempts: u32,
    /// Time after which no further attempt starts.
    pub total: Duration,
    /// Maximum of the first pause; it doubles with every attempt.
    pub base: Duration,
    /// Maximum pause without `Retry-After`.
    pub cap: Duration,
    /// Maximum pause that `Retry-After` may request.
    pub retry_after_cap: Duration,
    /// Maximum number of resumes of a download without a new byte in between.
    pub resumes_without_progress: u32,
    /// Maximum number of resumes of a download.
    pub resumes: u32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 5,
            total: Duration::from_mins(2),
            base: Duration::from_millis(500),
            cap: Duration::from_secs(10),
            retry_after_cap: Duration::from_mins(1),
            resumes_without_progress: 5,
            resumes: 100,
        }
    }
}

impl RetryConfig {
    /// Returns the pause before the next attempt of a request. `None`: there is none left. `attempt` counts from 1,
    /// `random` is in 0–1.
    pub(super) fn pause(
        &self,
        attempt: u32,
        elapsed: Duration,
        after: Option<Duration>,
        random: f64,
    ) -> Option<Duration> {
        let pause = self.backoff(attempt, after, random);
        (attempt < self.attempts && elapsed.saturating_add(pause) <= self.total).then_some(pause)
    }

    /// Returns a pause with full jitter: from zero to the doubled base, but not less than the service requests.
    pub(super) fn backoff(&self, attempt: u32, after: Option<Duration>, random: f64) -> Duration {
        let doublings = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let longest = self.base.saturating_mul(doublings).min(self.cap);
        let jittered = longest.mul_f64(random.clamp(0.0, 1.0));
        jittered.max(after.unwrap_or_default().min(self.retry_after_cap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_bounded_by_count_and_time() {
        let policy = RetryConfig::default();
        let pause = |attempt, elapsed| policy.pause(attempt, Duration::from_secs(elapsed), None, 1.0);
        assert_eq!(pause(1, 0), Some(Duration::from_millis(500)));
        assert_eq!(pause(4, 0), Some(Duration::from_secs(4)));
        assert_eq!(pause(5, 0), None);
        assert_eq!(pause(1, 120), None);
        assert_eq!(policy.backoff(u32::MAX, None, 1.0), policy.cap);
    }

    #[test]
    fn retry_after_is_honored_up_to_its_cap() {
        let policy = RetryConfig::default();
        let requested = |seconds| policy.backoff(1, Some(Duration::from_secs(seconds)), 0.0);
        assert_eq!(requested(7), Duration::from_secs(7));
        assert_eq!(requested(3600), policy.retry_after_cap);
    }
}
