//! Failures and backoff times that a run keeps between decisions. Losing them is safe: windows are then tried again.
//! No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::document_task::DocumentKind;
use super::failure::{Failure, FailureScope, Observed, RetryClass};
use super::report_state::ReportState;
use super::spec::RetryPolicy;
use crate::api::Reason;
use crate::archive::layout::AttemptId;
use crate::archive::records::RangeRecord;
use crate::archive::window::Window;

/// Backoff of failures that are retried automatically: 2 s, doubled each time, at most 10 min.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(10));
/// Backoff of failures that wait for an external change: 20 s, doubled, at most 5 min.
const WAIT_BACKOFF: (Duration, Duration) = (Duration::from_secs(20), Duration::from_mins(5));
/// Backoff of failures that need manual action: 10 min, doubled, at most 6 h (events expire meanwhile).
const MANUAL_BACKOFF: (Duration, Duration) = (Duration::from_mins(10), Duration::from_hours(6));
/// Maximum number of attempts to get the newest counts of the service for one comparison.
pub const RECHECK_ATTEMPTS_MAX: u32 = 3;
/// Maximum failed windows and attempts with which a run ends to wait: they stay in memory.
const WAITING_ENTRIES_MAX: usize = 500;
/// Number of timeouts of a day after which it is exported by the hour.
const TIMEOUTS_MAX: u32 = 2;

/// Failures of a run, with the times of their next attempts.
#[derive(Clone, Debug, Default)]
pub struct RetryState {
    /// Failed windows.
    pub windows: BTreeMap<Window, RetryEntry>,
    /// Failure that keeps all windows from starting.
    pub export_backoff: Option<RetryEntry>,
    /// Leftover attempts that could not be recovered yet.
    pub unrecovered: BTreeMap<AttemptId, RetryEntry>,
    /// Windows with an object that has no receipt and that this software did not write.
    pub foreign_objects: BTreeSet<Window>,
    /// Stored windows that were downloaded again, with the count of the service for their day at that time.
    pub rechecked: BTreeMap<Window, u64>,
    /// Failure of the last attempts to get the newest counts of the service.
    pub recheck: Option<RetryEntry>,
    /// Periods with a manifest that matches the journal.
    pub sealed: BTreeSet<RangeRecord>,
    /// True if the remembered head must be found in the chain before anything is added to it.
    pub head_due: bool,
    /// Failures of the last attempts to write a document.
    pub documents: BTreeMap<DocumentKind, RetryEntry>,
    /// Reports.
    pub report: ReportState,
    /// Maximum time to wait for a session while none can be opened; `None`: no limit.
    pub session_wait: Option<Duration>,
}

/// A failure with its count and the time of the next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryEntry {
    /// Number of consecutive failures.
    pub failure_count: u32,
    /// Number of timeouts.
    pub timeouts: u32,
    /// The last failure.
    pub failure: Failure,
    /// Time of the last failure.
    pub failed_at: Timestamp,
    /// Earliest time of the next attempt.
    pub retry_at: Timestamp,
    /// Time of the last attempt, if the wait is limited.
    pub give_up_at: Option<Timestamp>,
}

impl RetryState {
    /// Records a failure. `jitter` is between 0 and 1: the delay is between half and all of the backoff.
    pub fn record_failure(&mut self, window: Window, failure: Failure, now: Timestamp, jitter: f64) {
        match failure.scope {
            FailureScope::Export => self.record_export_failure(failure, now, jitter),
            FailureScope::Window => {
                // A failure of one window shows that the export-wide cause is gone.
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

    /// Records success of a window. This ends the export-wide backoff and makes short hours of the same day due again,
    /// because the sum that they were compared with has changed.
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
                entry.failure.class = RetryClass::Retry(None);
                entry.retry_at = entry.failed_at;
            }
        }
    }

    /// Ends all waits for retries, because a user asks to look now. What failed stays recorded.
    pub fn retry_all(&mut self, now: Timestamp) {
        self.foreign_objects.clear();
        self.rechecked.clear();
        self.recheck = None;
        self.sealed.clear();
        (self.report.at_once, self.report.about) = (true, None);
        let windows = self.windows.values_mut();
        let others = self.unrecovered.values_mut().chain(self.documents.values_mut());
        for entry in windows.chain(others).chain(&mut self.export_backoff) {
            // Not what a peer or a rule set, such as Retry-After and the second look at an expired day.
            let set = matches!(
                entry.failure.class,
                RetryClass::Retry(Some(_)) | RetryClass::Wait(Some(_))
            );
            if !set {
                entry.retry_at = entry.retry_at.min(now);
            }
        }
    }

    /// Returns true if the state is small enough to be kept without its run.
    pub fn is_small(&self) -> bool {
        let others = self.foreign_objects.len() + self.rechecked.len();
        self.windows.len() + self.unrecovered.len() + others <= WAITING_ENTRIES_MAX
    }

    /// Returns true if an hour had no events although the other hours do not account for the reported count of the day.
    pub fn is_short_hour(&self, window: Window) -> bool {
        let entry = self.windows.get(&window);
        window.hour_of_day().is_some() && entry.is_some_and(|entry| entry.failure.reason == Reason::Short)
    }

    /// Returns the time of the last attempt if it found the window before the oldest day that the service lists.
    pub fn before_oldest_since(&self, window: Window) -> Option<Timestamp> {
        let entry = self.windows.get(&window)?;
        (entry.failure.observed == Some(Observed::BeforeOldest)).then_some(entry.failed_at)
    }

    /// Records an export-wide failure. Windows that fail for the same reason at the same time count once.
    pub fn record_export_failure(&mut self, failure: Failure, now: Timestamp, jitter: f64) {
        let repeated = self.export_backoff.as_ref().is_some_and(|export_backoff| {
            export_backoff.is_backing_off(now) && export_backoff.failure.reason == failure.reason
        });
        if !repeated {
            let last = self.export_backoff.as_ref();
            let entry = next_entry(last, failure, now, jitter);
            let waited_since = last.filter(|last| waits_for_session(last.failure.reason));
            let limit = self
                .session_wait
                .filter(|_| waits_for_session(entry.failure.reason));
            let give_up_at = limit.map(|limit| {
                let limit = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
                let end = now.saturating_add(limit).unwrap_or(Timestamp::MAX);
                waited_since.and_then(|last| last.give_up_at).unwrap_or(end)
            });
            self.export_backoff = Some(RetryEntry {
                retry_at: give_up_at.map_or(entry.retry_at, |end| entry.retry_at.min(end)),
                give_up_at,
                ..entry
            });
        }
    }

    /// Records a failed recovery of a leftover attempt.
    pub fn record_recovery_failure(&mut self, id: AttemptId, failure: Failure, now: Timestamp, jitter: f64) {
        let last = self.unrecovered.get(&id);
        let entry = next_entry(last, escalate(failure, last), now, jitter);
        self.unrecovered.insert(id, entry);
    }

    /// Records a failure to write a document.
    pub fn record_document_failure(
        &mut self,
        kind: DocumentKind,
        failure: Failure,
        now: Timestamp,
        jitter: f64,
    ) {
        let entry = next_entry(self.documents.get(&kind), failure, now, jitter);
        self.documents.insert(kind, entry);
    }

    /// Records a failure to get the newest counts of the service. Returns true if it is tried again.
    pub fn record_recheck_failure(&mut self, failure: Failure, now: Timestamp, jitter: f64) -> bool {
        let entry = next_entry(self.recheck.as_ref(), failure, now, jitter);
        let again = entry.failure_count < RECHECK_ATTEMPTS_MAX;
        self.recheck = Some(entry);
        again
    }

    /// Returns true if a day must be exported by the hour: it timed out repeatedly or is too large for one object.
    pub fn needs_split(&self, window: Window) -> bool {
        window.hour_of_day().is_none()
            && self.windows.get(&window).is_some_and(|entry| {
                entry.timeouts >= TIMEOUTS_MAX || entry.failure.reason == Reason::TooLarge
            })
    }
}

impl RetryEntry {
    /// Returns true if it is too early to retry. A failure in the future means that the clock was set back: retry.
    pub fn is_backing_off(&self, now: Timestamp) -> bool {
        self.failed_at <= now && now < self.retry_at
    }

    /// Returns true if the policy allows no further attempt: the maximum is reached, or an external change is needed.
    /// A session is waited for until the limit, because sessions of others end by themselves.
    pub fn is_exhausted(&self, retry_policy: RetryPolicy) -> bool {
        match (retry_policy, self.failure.class) {
            (RetryPolicy::Forever, _) => false,
            (RetryPolicy::MaxAttempts(_), RetryClass::Manual) => true,
            (RetryPolicy::MaxAttempts(_), RetryClass::Wait(_)) => {
                !waits_for_session(self.failure.reason)
                    || self.give_up_at.is_some_and(|end| self.failed_at >= end)
            }
            (RetryPolicy::MaxAttempts(max), RetryClass::Retry(_)) => self.failure_count >= max,
        }
    }

    /// Returns the number of the next try, and the number of tries before the run gives up; `None`: they are not counted.
    pub const fn next_try(&self, retry_policy: RetryPolicy) -> Option<(u32, u32)> {
        match (retry_policy, self.failure.class) {
            (RetryPolicy::MaxAttempts(max), RetryClass::Retry(_)) if self.failure_count < max => {
                Some((self.failure_count + 1, max))
            }
            _ => None,
        }
    }
}

/// Returns true if the export waits for the service to open a session.
const fn waits_for_session(reason: Reason) -> bool {
    matches!(reason, Reason::SpaceFull | Reason::SessionRefused)
}

/// Escalates repeated failures to manual action: too few events twice, unproved empty answers twice, broken bytes five
/// times, ambiguous orphan sessions seven times (after some minutes). A day with a rising count is downloaded again, and
/// a window before the oldest listed day is looked at again.
fn escalate(failure: Failure, last: Option<&RetryEntry>) -> Failure {
    let before = last.and_then(|last| last.failure.observed);
    match (failure.observed, before) {
        (Some(Observed::Count(count)), Some(Observed::Count(before))) if count > before => return failure,
        (Some(Observed::BeforeOldest), _) => return failure,
        (Some(Observed::Count(_)) | None, _) => {}
    }
    let repeats = last
        .filter(|last| last.failure.reason == failure.reason)
        .map_or(0, |last| last.failure_count);
    let tolerated = match failure.reason {
        Reason::Short | Reason::EmptyUnproved => 1,
        Reason::NotGzip | Reason::DownloadIncomplete => 4,
        Reason::OrphanSessionSuspected if matches!(failure.class, RetryClass::Retry(_)) => 6,
        _ => return failure,
    };
    if repeats >= tolerated {
        Failure {
            class: RetryClass::Manual,
            ..failure
        }
    } else {
        failure
    }
}

fn next_entry(last: Option<&RetryEntry>, failure: Failure, now: Timestamp, jitter: f64) -> RetryEntry {
    let repeats = last
        .filter(|last| last.failure.class == failure.class || !matches!(failure.class, RetryClass::Manual));
    let failure_count = repeats.map_or(0, |last| last.failure_count).saturating_add(1);
    let timeouts = last
        .map_or(0, |last| last.timeouts)
        .saturating_add(u32::from(failure.timed_out));
    let delay = match failure.class {
        RetryClass::Retry(after) => {
            backoff(RETRY_BACKOFF, failure_count, jitter).max(after.unwrap_or_default())
        }
        RetryClass::Wait(_) => backoff(WAIT_BACKOFF, failure_count, jitter),
        RetryClass::Manual => backoff(MANUAL_BACKOFF, failure_count, jitter),
    };
    let retry_at = now
        .checked_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX);
    let retry_at = match failure.class {
        RetryClass::Wait(Some(until)) => retry_at.max(until),
        RetryClass::Wait(None) | RetryClass::Retry(_) | RetryClass::Manual => retry_at,
    };
    RetryEntry {
        failure_count,
        timeouts,
        failure,
        failed_at: now,
        retry_at,
        give_up_at: None,
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
        let throttled = Failure {
            class: RetryClass::Retry(Some(Duration::from_mins(50))),
            ..Failure::retry(Reason::Throttled, "x")
        };
        retry_state.record_failure(window, throttled, now, 0.0);
        assert_eq!(retry_state.windows[&window].retry_at.as_second(), 3_000);
        assert!(retry_state.windows[&window].is_exhausted(RetryPolicy::MaxAttempts(5)));
        assert!(!retry_state.windows[&window].is_exhausted(RetryPolicy::Forever));
        retry_state.record_success(window);
        assert!(retry_state.windows.is_empty());
    }

    #[test]
    fn a_day_with_a_rising_count_is_not_escalated() {
        let window: Window = "2018-06-28".parse().unwrap();
        let mut retry_state = RetryState::default();
        let mut now = Timestamp::UNIX_EPOCH;
        let mut record = |count| {
            let failure = Failure::retry(Reason::Short, "x").with_observed(Observed::Count(count));
            retry_state.record_failure(window, failure, now, 1.0);
            let entry = &retry_state.windows[&window];
            let pause = entry.retry_at.duration_since(now).as_secs();
            now = entry.retry_at;
            (entry.failure.class == RetryClass::Manual, pause)
        };
        assert_eq!(record(2_500), (false, 2));
        assert_eq!(record(2_600), (false, 4));
        assert_eq!(record(3_000), (false, 8));
        assert_eq!(record(3_000), (true, 600));
        assert_eq!(record(3_001), (false, 4));
    }

    #[test]
    fn a_window_before_the_oldest_day_is_looked_at_again() {
        let window: Window = "2018-06-28".parse().unwrap();
        let mut retry_state = RetryState::default();
        let now = Timestamp::UNIX_EPOCH;
        let lost = Failure::retry(Reason::EmptyUnproved, "lost session");
        retry_state.record_failure(window, lost.clone(), now, 1.0);
        assert_eq!(retry_state.before_oldest_since(window), None);
        let gone = Failure {
            class: RetryClass::Retry(Some(Duration::from_mins(5))),
            ..lost.clone().with_observed(Observed::BeforeOldest)
        };
        retry_state.record_failure(window, gone, now, 1.0);
        let entry = &retry_state.windows[&window];
        assert_eq!(entry.retry_at.as_second(), 300);
        assert!(!entry.is_exhausted(RetryPolicy::MaxAttempts(5)));
        assert_eq!(retry_state.before_oldest_since(window), Some(now));
        // A lost session proves nothing: the first look is forgotten.
        retry_state.record_failure(window, lost, now, 1.0);
        assert_eq!(retry_state.before_oldest_since(window), None);
    }

    #[test]
    fn a_session_is_waited_for_until_the_limit() {
        let policy = RetryPolicy::MaxAttempts(5);
        let full = |reason| Failure::wait(reason, "x", None).export_wide();
        let mut retry_state = RetryState {
            session_wait: Some(Duration::from_secs(50)),
            ..RetryState::default()
        };
        let mut now = Timestamp::UNIX_EPOCH;
        let mut tries = Vec::new();
        for reason in [Reason::SpaceFull, Reason::SessionRefused, Reason::SpaceFull] {
            retry_state.record_export_failure(full(reason), now, 1.0);
            let entry = retry_state.export_backoff.clone().unwrap();
            tries.push((now.as_second(), entry.is_exhausted(policy)));
            assert!(!entry.is_exhausted(RetryPolicy::Forever));
            now = entry.retry_at;
        }
        assert_eq!(tries, [(0, false), (20, false), (50, true)]);
        // A stored window restarts the limit.
        retry_state.record_success("2018-06-28".parse().unwrap());
        retry_state.record_export_failure(full(Reason::SpaceFull), now, 1.0);
        assert!(!retry_state.export_backoff.unwrap().is_exhausted(policy));
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
        let ambiguous = || Failure {
            class: RetryClass::Retry(Some(Duration::from_secs(20))),
            ..Failure::retry(Reason::OrphanSessionSuspected, "x")
        };
        for _ in 0..6 {
            retry_state.record_recovery_failure(id, ambiguous(), now, 1.0);
            let entry = &retry_state.unrecovered[&id];
            assert_ne!(entry.failure.class, RetryClass::Manual);
            now = entry.retry_at;
        }
        assert_eq!(now.as_second(), 20 + 20 + 20 + 20 + 32 + 64);
        retry_state.record_recovery_failure(id, ambiguous(), now, 1.0);
        assert_eq!(retry_state.unrecovered[&id].failure.class, RetryClass::Manual);
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
