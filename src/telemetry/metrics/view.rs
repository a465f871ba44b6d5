//! Age of the leader's view of its resources: how long it has been unable to list or watch them. The clock is given.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Age at which the process is no longer ready: 2 min.
pub const MAX_VIEW_AGE: Duration = Duration::from_mins(2);

/// Time after the last error from which a watch counts as working, although it has reported no change. A watch that
/// fails is retried after at most 65 s for a response and 30 s of backoff.
const QUIET_AFTER_ERROR: Duration = Duration::from_mins(2);

/// State of the watches of the leader. Empty in a process that does not lead. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ResourceView(Arc<Mutex<BTreeMap<String, WatchState>>>);

#[derive(Clone, Copy, Debug)]
struct WatchState {
    /// True once a list was complete.
    listed: bool,
    /// Time of the last complete list or change before the errors, or of the start.
    seen_at: Instant,
    failed_at: Option<Instant>,
}

impl ResourceView {
    fn watches(&self) -> MutexGuard<'_, BTreeMap<String, WatchState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the watch of a namespace; empty: all.
    pub fn start(&self, namespace: &str, now: Instant) {
        let state = WatchState {
            listed: false,
            seen_at: now,
            failed_at: None,
        };
        self.watches().insert(namespace.to_owned(), state);
    }

    /// Records a complete list.
    pub fn listed(&self, namespace: &str, now: Instant) {
        self.update(namespace, |state| {
            *state = WatchState {
                listed: true,
                seen_at: now,
                failed_at: None,
            };
        });
    }

    /// Records a change that the watch reported.
    pub fn changed(&self, namespace: &str, now: Instant) {
        self.update(namespace, |state| (state.seen_at, state.failed_at) = (now, None));
    }

    /// Records that a list or watch failed.
    pub fn failed(&self, namespace: &str, now: Instant) {
        self.update(namespace, |state| {
            if state.listed && !is_failing(state, now) {
                state.seen_at = now;
            }
            state.failed_at = Some(now);
        });
    }

    /// Ends all watches: the process no longer leads.
    pub fn end(&self) {
        self.watches().clear();
    }

    fn update(&self, namespace: &str, change: impl FnOnce(&mut WatchState)) {
        if let Some(state) = self.watches().get_mut(namespace) {
            change(state);
        }
    }

    /// Returns the time since the view was complete, the longest of all namespaces: zero while the watches work, and
    /// `None` if the process does not lead.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let watches = self.watches();
        let age = |state: &WatchState| {
            if state.listed && !is_failing(state, now) {
                Duration::ZERO
            } else {
                now.saturating_duration_since(state.seen_at)
            }
        };
        watches.values().map(age).max()
    }

    /// Returns why the process cannot work: a namespace was never listed, or not for [`MAX_VIEW_AGE`].
    pub fn check(&self, now: Instant) -> Result<(), &'static str> {
        let listed = self.watches().values().all(|state| state.listed);
        if !listed {
            return Err("not ready: EventExports not listed yet (see the log)");
        }
        if self.age(now).is_some_and(|age| age >= MAX_VIEW_AGE) {
            return Err("not ready: EventExports could not be listed or watched for 2 minutes (see the log)");
        }
        Ok(())
    }
}

fn is_failing(state: &WatchState, now: Instant) -> bool {
    state
        .failed_at
        .is_some_and(|at| now.saturating_duration_since(at) < QUIET_AFTER_ERROR)
}

impl Collector for ResourceView {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(age) = self.age(Instant::now()) else {
            return Ok(());
        };
        let encoder = encoder.encode_descriptor(
            "eventexport_resource_list_age",
            "Time since the leader had a complete view of its resources; 0 while lists and watches work",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(age.as_secs_f64()).encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_mins(1);

    #[test]
    fn the_age_counts_from_the_last_complete_view() {
        let (view, t) = (ResourceView::default(), Instant::now());
        assert_eq!((view.age(t), view.check(t)), (None, Ok(())), "it does not lead");
        view.start("", t);
        view.failed("", t + MIN);
        assert_eq!(view.age(t + 3 * MIN), Some(3 * MIN), "never listed");
        assert!(view.check(t).is_err());
        view.listed("", t + 4 * MIN);
        assert_eq!(
            view.age(t + 60 * MIN),
            Some(Duration::ZERO),
            "a quiet watch is no failure"
        );
        assert_eq!(view.check(t + 60 * MIN), Ok(()));
        // It fails again and again.
        for at in [60, 61, 62] {
            view.failed("", t + at * MIN);
        }
        assert_eq!(view.age(t + 63 * MIN), Some(3 * MIN));
        assert!(view.check(t + 63 * MIN).is_err());
        assert_eq!(view.check(t + 61 * MIN), Ok(()), "below two minutes");
        // It works again: a change says so at once, silence after two minutes.
        assert_eq!(view.age(t + 64 * MIN), Some(Duration::ZERO));
        view.failed("", t + 70 * MIN);
        view.changed("", t + 71 * MIN);
        assert_eq!(view.age(t + 71 * MIN), Some(Duration::ZERO));
        view.end();
        assert_eq!(view.age(t + 80 * MIN), None);
    }

    #[test]
    fn one_blind_namespace_makes_the_view_old() {
        let (view, t) = (ResourceView::default(), Instant::now());
        view.start("a", t);
        view.start("b", t);
        view.listed("a", t);
        assert_eq!(view.age(t + 5 * MIN), Some(5 * MIN));
        assert!(view.check(t).is_err());
        view.listed("b", t + 5 * MIN);
        assert_eq!(view.age(t + 6 * MIN), Some(Duration::ZERO));
    }
}
