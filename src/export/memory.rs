//! What a run remembers between decisions: tries that failed, and until when something is not tried. It may
//! be lost at any time; then windows are tried again. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::failure::{Failure, Reach, Remedy};
use super::keys::AttemptId;
use super::record::RangeRecord;
use super::window::Window;
use super::wish::Persistence;
use crate::api::Reason;

/// Backoff of a failure that is tried again by itself: 2 s, doubled each time, at most 10 min.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(10));
/// Backoff of what waits for something outside: 20 s, doubled, at most 5 min.
const WAIT: (Duration, Duration) = (Duration::from_secs(20), Duration::from_mins(5));
/// Backoff of what needs a person: 10 min, doubled, at most 6 h (events expire while nobody looks).
const PERSON: (Duration, Duration) = (Duration::from_mins(10), Duration::from_hours(6));
/// Time-outs of a day after which it is exported by the hour.
const TIMEOUTS_MAX: u32 = 2;

/// The memory of a run.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Failed windows.
    pub windows: BTreeMap<Window, Tried>,
    /// What keeps every window from starting.
    pub gate: Option<Tried>,
    /// Leftover attempts that could not be settled yet, and when to look again.
    pub unsettled: BTreeMap<AttemptId, Tried>,
    /// Objects without a receipt that were looked at and are not ours.
    pub foreign: BTreeSet<Window>,
    /// Periods whose manifest is there, and says what the journal says.
    pub sealed: BTreeSet<RangeRecord>,
    /// Why the last manifest could not be written.
    pub seal: Option<Tried>,
}

/// A failure, how often, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// How often in a row.
    pub times: u32,
    /// How often of those the service was too slow.
    pub timeouts: u32,
    /// The last failure.
    pub failure: Failure,
    /// When that was.
    pub since: Timestamp,
    /// Not before.
    pub again: Timestamp,
}

impl Memory {
    /// Notes a failure. `jitter` is between 0 and 1: the wait is between half and all of the backoff.
    pub fn failed(&mut self, window: Window, failure: Failure, now: Timestamp, jitter: f64) {
        match failure.reach {
            Reach::Export => self.gated(failure, now, jitter),
            Reach::Window => {
                // Whoever came so far shows that the gate is open again.
                self.gate = self.gate.take().filter(|gate| gate.waits(now));
                let tried = next(
                    self.windows.get(&window),
                    stubborn(failure, self.windows.get(&window)),
                    now,
                    jitter,
                );
                self.windows.insert(window, tried);
            }
        }
    }

    /// Notes a window as done: whatever kept all of them is over, and what short hours of its day were judged by is
    /// another.
    pub fn succeeded(&mut self, window: Window) {
        self.windows.remove(&window);
        self.gate = None;
        if window.hour_of_day().is_none() {
            return;
        }
        for hour in Window::split(window.date()) {
            if self.is_short_hour(hour)
                && let Some(tried) = self.windows.get_mut(&hour)
            {
                tried.times = 0;
                tried.failure.remedy = Remedy::Retry(None);
                tried.again = tried.since;
            }
        }
    }

    /// Whether an hour was without events while the others did not hold all that are reported of the day.
    pub fn is_short_hour(&self, window: Window) -> bool {
        let tried = self.windows.get(&window);
        window.hour_of_day().is_some() && tried.is_some_and(|tried| tried.failure.reason == Reason::Short)
    }

    /// Notes what concerns the whole export. Windows that run into the same at the same time count once.
    pub fn gated(&mut self, failure: Failure, now: Timestamp, jitter: f64) {
        let again = self
            .gate
            .as_ref()
            .is_some_and(|gate| gate.waits(now) && gate.failure.reason == failure.reason);
        if !again {
            self.gate = Some(next(self.gate.as_ref(), failure, now, jitter));
        }
    }

    /// Notes that a leftover attempt could not be settled.
    pub fn unsettled(&mut self, id: AttemptId, failure: Failure, now: Timestamp, jitter: f64) {
        let last = self.unsettled.get(&id);
        let tried = next(last, stubborn(failure, last), now, jitter);
        self.unsettled.insert(id, tried);
    }

    /// Notes that a manifest is there.
    pub fn sealed(&mut self, period: RangeRecord) {
        self.seal = None;
        self.sealed.insert(period);
    }

    /// Notes that a manifest could not be written.
    pub fn unsealed(&mut self, failure: Failure, now: Timestamp, jitter: f64) {
        self.seal = Some(next(self.seal.as_ref(), failure, now, jitter));
    }

    /// Whether a day kept timing out, or is too large for one object, so that its hours are to be tried instead.
    pub fn too_slow(&self, window: Window) -> bool {
        window.hour_of_day().is_none()
            && self.windows.get(&window).is_some_and(|tried| {
                tried.timeouts >= TIMEOUTS_MAX || tried.failure.reason == Reason::TooLarge
            })
    }
}

impl Tried {
    /// Whether it is too early to try again. A failure that is yet to come is of a clock that was set back since.
    pub fn waits(&self, now: Timestamp) -> bool {
        self.since <= now && now < self.again
    }

    /// Whether it is not tried again under this persistence: it failed often enough, or something outside
    /// has to change first. A full space empties by itself, so that is waited for.
    pub fn given_up(&self, persistence: Persistence) -> bool {
        match (persistence, self.failure.remedy) {
            (Persistence::Forever, _) => false,
            (Persistence::Tries(_), Remedy::Person) => true,
            (Persistence::Tries(_), Remedy::Wait(_)) => self.failure.reason != Reason::SpaceFull,
            (Persistence::Tries(max), Remedy::Retry(_)) => self.times >= max,
        }
    }
}

/// Downloads that stay bad need a person: too few events twice, none without proof twice, broken bytes five times. So do
/// several sessions of which one may be ours, when they are there for the seventh time, after some minutes.
fn stubborn(failure: Failure, last: Option<&Tried>) -> Failure {
    let same = last
        .filter(|last| last.failure.reason == failure.reason)
        .map_or(0, |last| last.times);
    let patience = match failure.reason {
        Reason::Short | Reason::EmptyUnproved => 1,
        Reason::NotGzip | Reason::NotWhole | Reason::NotEvents => 4,
        Reason::SessionUnaccounted if matches!(failure.remedy, Remedy::Retry(_)) => 6,
        _ => return failure,
    };
    if same >= patience {
        Failure {
            remedy: Remedy::Person,
            ..failure
        }
    } else {
        failure
    }
}

fn next(last: Option<&Tried>, failure: Failure, now: Timestamp, jitter: f64) -> Tried {
    let same = last
        .filter(|last| last.failure.remedy == failure.remedy || !matches!(failure.remedy, Remedy::Person));
    let times = same.map_or(0, |last| last.times).saturating_add(1);
    let timeouts = last
        .map_or(0, |last| last.timeouts)
        .saturating_add(u32::from(failure.timed_out));
    let at_least = match failure.remedy {
        Remedy::Retry(after) => backoff(RETRY, times, jitter).max(after.unwrap_or_default()),
        Remedy::Wait(_) => backoff(WAIT, times, jitter),
        Remedy::Person => backoff(PERSON, times, jitter),
    };
    let again = now
        .checked_add(SignedDuration::try_from(at_least).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX);
    let again = match failure.remedy {
        Remedy::Wait(Some(until)) => again.max(until),
        Remedy::Wait(None) | Remedy::Retry(_) | Remedy::Person => again,
    };
    Tried {
        times,
        timeouts,
        failure,
        since: now,
        again,
    }
}

fn backoff((base, cap): (Duration, Duration), times: u32, jitter: f64) -> Duration {
    let doubled = base
        .saturating_mul(1u32 << times.saturating_sub(1).min(20))
        .min(cap);
    doubled.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_keep_what_the_service_asked() {
        let now = Timestamp::UNIX_EPOCH;
        let window: Window = "2018-06-28".parse().unwrap();
        let mut memory = Memory::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            memory.failed(window, Failure::retry(Reason::SourceUnreachable, "x"), now, 1.0);
            waits.push(memory.windows[&window].again.as_second());
        }
        assert_eq!(&waits[..4], [2, 4, 8, 16]);
        assert_eq!(waits[11], 600);
        let asked = Failure {
            remedy: Remedy::Retry(Some(Duration::from_mins(50))),
            ..Failure::retry(Reason::Throttled, "x")
        };
        memory.failed(window, asked, now, 0.0);
        assert_eq!(memory.windows[&window].again.as_second(), 3_000);
        assert!(memory.windows[&window].given_up(Persistence::Tries(5)));
        assert!(!memory.windows[&window].given_up(Persistence::Forever));
        memory.succeeded(window);
        assert!(memory.windows.is_empty());
    }

    #[test]
    fn sessions_that_may_be_ours_need_a_person_when_they_stay() {
        let window: Window = "2018-06-28".parse().unwrap();
        let id = AttemptId {
            window,
            ulid: ulid::Ulid::from_parts(1, 1),
        };
        let mut memory = Memory::default();
        let mut now = Timestamp::UNIX_EPOCH;
        let several = || Failure {
            remedy: Remedy::Retry(Some(Duration::from_secs(20))),
            ..Failure::retry(Reason::SessionUnaccounted, "x")
        };
        for _ in 0..6 {
            memory.unsettled(id, several(), now, 1.0);
            let tried = &memory.unsettled[&id];
            assert_ne!(tried.failure.remedy, Remedy::Person);
            now = tried.again;
        }
        assert_eq!(now.as_second(), 20 + 20 + 20 + 20 + 32 + 64);
        memory.unsettled(id, several(), now, 1.0);
        assert_eq!(memory.unsettled[&id].failure.remedy, Remedy::Person);
    }

    #[test]
    fn a_day_that_keeps_timing_out_is_too_slow() {
        let window: Window = "2018-06-28".parse().unwrap();
        let mut memory = Memory::default();
        let slow = || Failure {
            timed_out: true,
            ..Failure::retry(Reason::SourceUnreachable, "x")
        };
        memory.failed(window, slow(), Timestamp::UNIX_EPOCH, 0.0);
        memory.failed(
            window,
            Failure::retry(Reason::SourceUnreachable, "x"),
            Timestamp::UNIX_EPOCH,
            0.0,
        );
        assert!(!memory.too_slow(window));
        memory.failed(window, slow(), Timestamp::UNIX_EPOCH, 0.0);
        assert!(memory.too_slow(window));
        let other: Window = "2018-06-29".parse().unwrap();
        let large = Failure::retry(Reason::TooLarge, "x");
        memory.failed(other, large, Timestamp::UNIX_EPOCH, 0.0);
        assert!(memory.too_slow(other), "downloading it again would not help");
    }
}
