//! When to ask again: bounded by count and by time, jittered, honouring `Retry-After`. Pure, no I/O, no clock.

use std::time::Duration;

/// Bounds of asking again, the only ones at the tracker's boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Tries of one request in all, the first included.
    pub attempts: u32,
    /// Time in all after which nothing is tried again.
    pub total: Duration,
    /// The longest first pause; it doubles with every try.
    pub base: Duration,
    /// The longest pause that we choose ourselves.
    pub cap: Duration,
    /// The longest pause that `Retry-After` may ask for.
    pub retry_after_cap: Duration,
    /// How often a download is taken up again without a new byte in between.
    pub resumes_without_progress: u32,
    /// How often a download is taken up again in all.
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
    /// How long to pause before the next try of a request; `None` when it was the last. `attempt` counts from 1,
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

    /// Full jitter: anything up to the doubled base, but not less than the service asked for.
    pub(super) fn backoff(&self, attempt: u32, after: Option<Duration>, random: f64) -> Duration {
        let doublings = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let longest = self.base.saturating_mul(doublings).min(self.cap);
        let own = longest.mul_f64(random.clamp(0.0, 1.0));
        own.max(after.unwrap_or_default().min(self.retry_after_cap))
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
    fn retry_after_is_honoured_up_to_its_cap() {
        let policy = RetryConfig::default();
        let asked = |seconds| policy.backoff(1, Some(Duration::from_secs(seconds)), 0.0);
        assert_eq!(asked(7), Duration::from_secs(7));
        assert_eq!(asked(3600), policy.retry_after_cap);
    }
}
