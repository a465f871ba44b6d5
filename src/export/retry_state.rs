//! What a run remembers between decisions: tries that failed, and until when something is not tried. It may
//! be lost at any time; then windows are tried again. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::failure::{Failure, FailureScope, Remedy};
use super::keys::AttemptId;
use super::record::RangeRecord;
use super::spec::RetryPolicy;
use super::window::Window;
use crate::api::Reason;

/// Backoff of a failure that is tried again by itself: 2 s, doubled each time, at most 10 min.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(10));
/// Backoff of what waits for something outside: 20 s, doubled, at most 5 min.
const WAIT_BACKOFF: (Duration, Duration) = (Duration::from_secs(20), Duration::from_mins(5));
/// Backoff of what needs a person: 10 min, doubled, at most 6 h (events expire while nobody looks).
const MANUAL_BACKOFF: (Duration, Duration) = (Duration::from_mins(10), Duration::from_hours(6));
/// Time-outs of a day after which it is exported by the hour.
const TIMEOUTS_MAX: u32 = 2;

/// The memory of a run.
#[derive(Clone, Debug, Default)]
pub struct RetryState {
    /// Failed windows.
    pub windows: BTreeMap<Window, RetryEntry>,
    /// What keeps every window from starting.
    pub export_backoff: Option<RetryEntry>,
    /// Leftover attempts that could not be settled yet, and when to look again.
    pub unrecovered: BTreeMap<AttemptId, RetryEntry>,
    /// Objects without a receipt that were looked at and are not ours.
    pub foreign_objects: BTreeSet<Window>,
    /// Periods whose manifest is there, and says what the journal says.
    pub sealed: BTreeSet<RangeRecord>,
    /// Why the last manifest could not be written.
    pub seal_retry: Option<RetryEntry>,
}

/// A failure, how often, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryEntry {
    /// How often in a row.
    pub failure_count: u32,
    /// How often of those the service was too slow.
    pub timeouts: u32,
    /// The last failure.
    pub failure: Failure,
    /// When that was.
    pub failed_at: Timestamp,
    /// Not before.
    pub retry_at: Timestamp,
}

impl RetryState {
    /// Notes a failure. `jitter` is between 0 and 1: the wait is between half and all of the backoff.
    pub fn record_failure(&mut self, window: Window, failure: Failure, now: Timestamp, jitter: f64) {
        match failure.scope {
            FailureScope::Export => self.record_export_failure(failure, now, jitter),
            FailureScope::Window => {
                // Whoever came so far shows that the gate is open again.
                self.export_backoff = self
                    .export_backoff
                    .take()
                    .filter(|export_backoff| export_backoff.is_backing_off(now));
                let entry = next_entry(
                    self.windows.get(&window),
                    escalate(failure, self.windows.get(&window)),
                    now,
                    jitter,
                );
                self.windows.insert(window, entry);
            }
        }
    }

    /// Notes a window as done: whatever kept all of them is over, and what short hours of its day were judged by is
    /// another.
    pub fn record_success(&mut self, window: Window) {
        self.windows.remove(&window);
        self.export_backoff = None;
        if window.hour_of_day().is_none() {
            return;
        }
        for hour in Window::split(window.date()) {
            if self.is_short_hour(hour)
                && let Some(entry) = self.windows.get_mut(&hour)
            {
                entry.failure_count = 0;
                entry.failure.remedy = Remedy::Retry(None);
                entry.retry_at = entry.failed_at;
            }
        }
    }

    /// Whether an hour was without events while the others did not hold all that are reported of the day.
    pub fn is_short_hour(&self, window: Window) -> bool {
        let entry = self.windows.get(&window);
        window.hour_of_day().is_some() && entry.is_some_and(|entry| entry.failure.reason == Reason::Short)
    }

    /// Notes what concerns the whole export. Windows that run into the same at the same time count once.
    pub fn record_export_failure(&mut self, failure: Failure, now: Timestamp, jitter: f64) {
        let repeated = self.export_backoff.as_ref().is_some_and(|export_backoff| {
            export_backoff.is_backing_off(now) && export_backoff.failure.reason == failure.reason
        });
        if !repeated {
            self.export_backoff = Some(next_entry(self.export_backoff.as_ref(), failure, now, jitter));
        }
    }

    /// Notes that a leftover attempt could not be settled.
    pub fn record_recovery_failure(&mut self, id: AttemptId, failure: Failure, now: Timestamp, jitter: f64) {
        let last = self.unrecovered.get(&id);
        let entry = next_entry(last, escalate(failure, last), now, jitter);
        self.unrecovered.insert(id, entry);
    }

    /// Notes that a manifest is there.
    pub fn record_seal(&mut self, period: RangeRecord) {
        self.seal_retry = None;
        self.sealed.insert(period);
    }

    /// Notes that a manifest could not be written.
    pub fn record_seal_failure(&mut self, failure: Failure, now: Timestamp, jitter: f64) {
        self.seal_retry = Some(next_entry(self.seal_retry.as_ref(), failure, now, jitter));
    }

    /// Whether a day kept timing out, or is too large for one object, so that its hours are to be tried instead.
    pub fn needs_split(&self, window: Window) -> bool {
        window.hour_of_day().is_none()
            && self.windows.get(&window).is_some_and(|entry| {
                entry.timeouts >= TIMEOUTS_MAX || entry.failure.reason == Reason::TooLarge
            })
    }
}

impl RetryEntry {
    /// Whether it is too early to try again. A failure that is yet to come is of a clock that was set back since.
    pub fn is_backing_off(&self, now: Timestamp) -> bool {
        self.failed_at <= now && now < self.retry_at
    }

    /// Whether it is not tried again under this persistence: it failed often enough, or something outside
    /// has to change first. A full space empties by itself, so that is waited for.
    pub fn is_exhausted(&self, retry_policy: RetryPolicy) -> bool {
        match (retry_policy, self.failure.remedy) {
            (RetryPolicy::Forever, _) => false,
            (RetryPolicy::MaxAttempts(_), Remedy::Manual) => true,
            (RetryPolicy::MaxAttempts(_), Remedy::Wait(_)) => self.failure.reason != Reason::SpaceFull,
            (RetryPolicy::MaxAttempts(max), Remedy::Retry(_)) => self.failure_count >= max,
        }
    }
}

/// Downloads that stay bad need a person: too few events twice, none without proof twice, broken bytes five times. So do
/// several sessions of which one may be ours, when they are there for the seventh time, after some minutes.
fn escalate(failure: Failure, last: Option<&RetryEntry>) -> Failure {
    let repeats = last
        .filter(|last| last.failure.reason == failure.reason)
        .map_or(0, |last| last.failure_count);
    let tolerated = match failure.reason {
        Reason::Short | Reason::EmptyUnproved => 1,
        Reason::NotGzip | Reason::DownloadIncomplete | Reason::InvalidEvents => 4,
        Reason::OrphanSessionSuspected if matches!(failure.remedy, Remedy::Retry(_)) => 6,
        _ => return failure,
    };
    if repeats >= tolerated {
        Failure {
            remedy: Remedy::Manual,
            ..failure
        }
    } else {
        failure
    }
}

fn next_entry(last: Option<&RetryEntry>, failure: Failure, now: Timestamp, jitter: f64) -> RetryEntry {
    let repeats = last
        .filter(|last| last.failure.remedy == failure.remedy || !matches!(failure.remedy, Remedy::Manual));
    let failure_count = repeats.map_or(0, |last| last.failure_count).saturating_add(1);
    let timeouts = last
        .map_or(0, |last| last.timeouts)
        .saturating_add(u32::from(failure.timed_out));
    let delay = match failure.remedy {
        Remedy::Retry(after) => backoff(RETRY_BACKOFF, failure_count, jitter).max(after.unwrap_or_default()),
        Remedy::Wait(_) => backoff(WAIT_BACKOFF, failure_count, jitter),
        Remedy::Manual => backoff(MANUAL_BACKOFF, failure_count, jitter),
    };
    let retry_at = now
        .checked_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX);
    let retry_at = match failure.remedy {
        Remedy::Wait(Some(until)) => retry_at.max(until),
        Remedy::Wait(None) | Remedy::Retry(_) | Remedy::Manual => retry_at,
    };
    RetryEntry {
        failure_count,
        timeouts,
        failure,
        failed_at: now,
        retry_at,
    }
}

fn backoff((base, cap): (Duration, Duration), failure_count: u32, jitter: f64) -> Duration {
    let doubled = base
        .saturating_mul(1u32 << failure_count.saturating_sub(1).min(20))
        .min(cap);
    doubled.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_a_cap_and_honors_retry_after() {
        let now = Timestamp::UNIX_EPOCH;
        let window: Window = "2018-06-28".parse().unwrap();
        let mut retry_state = RetryState::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            retry_state.record_failure(window, Failure::retry(Reason::SourceUnreachable, "x"), now, 1.0);
            waits.push(retry_state.windows[&window].retry_at.as_second());
        }
        assert_eq!(&waits[..4], [2, 4, 8, 16]);
        assert_eq!(waits[11], 600);
        let asked = Failure {
            remedy: Remedy::Retry(Some(Duration::from_mins(50))),
            ..Failure::retry(Reason::Throttled, "x")
        };
        retry_state.record_failure(window, asked, now, 0.0);
        assert_eq!(retry_state.windows[&window].retry_at.as_second(), 3_000);
        assert!(retry_state.windows[&window].is_exhausted(RetryPolicy::MaxAttempts(5)));
        assert!(!retry_state.windows[&window].is_exhausted(RetryPolicy::Forever));
        retry_state.record_success(window);
        assert!(retry_state.windows.is_empty());
    }

    #[test]
    fn ambiguous_sessions_escalate_to_manual_action() {
        let window: Window = "2018-06-28".parse().unwrap();
        let id = AttemptId {
            window,
            ulid: ulid::Ulid::from_parts(1, 1),
        };
        let mut retry_state = RetryState::default();
        let mut now = Timestamp::UNIX_EPOCH;
        let several = || Failure {
            remedy: Remedy::Retry(Some(Duration::from_secs(20))),
            ..Failure::retry(Reason::OrphanSessionSuspected, "x")
        };
        for _ in 0..6 {
            retry_state.record_recovery_failure(id, several(), now, 1.0);
            let entry = &retry_state.unrecovered[&id];
            assert_ne!(entry.failure.remedy, Remedy::Manual);
            now = entry.retry_at;
        }
        assert_eq!(now.as_second(), 20 + 20 + 20 + 20 + 32 + 64);
        retry_state.record_recovery_failure(id, several(), now, 1.0);
        assert_eq!(retry_state.unrecovered[&id].failure.remedy, Remedy::Manual);
    }

    #[test]
    fn a_day_that_keeps_timing_out_needs_a_split() {
        let window: Window = "2018-06-28".parse().unwrap();
        let mut retry_state = RetryState::default();
        let slow = || Failure {
            timed_out: true,
            ..Failure::retry(Reason::SourceUnreachable, "x")
        };
        retry_state.record_failure(window, slow(), Timestamp::UNIX_EPOCH, 0.0);
        retry_state.record_failure(
            window,
            Failure::retry(Reason::SourceUnreachable, "x"),
            Timestamp::UNIX_EPOCH,
            0.0,
        );
        assert!(!retry_state.needs_split(window));
        retry_state.record_failure(window, slow(), Timestamp::UNIX_EPOCH, 0.0);
        assert!(retry_state.needs_split(window));
        let other: Window = "2018-06-29".parse().unwrap();
        let large = Failure::retry(Reason::TooLarge, "x");
        retry_state.record_failure(other, large, Timestamp::UNIX_EPOCH, 0.0);
        assert!(
            retry_state.needs_split(other),
            "downloading it again would not help"
        );
    }
}
