//! Load of the engine, read at each scrape, so that no gauge keeps the value of a run that ended unexpectedly.

use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::export::observer::EngineLoad;
use crate::session::budget::SpaceLoad;

type SpaceValue = fn(&SpaceLoad) -> Option<usize>;

type LoadFn = Box<dyn Fn() -> EngineLoad + Send + Sync>;

/// Collector of the load of the engine.
#[derive(Clone, Default)]
pub struct LoadCollector(Arc<Mutex<Option<LoadFn>>>);

impl LoadCollector {
    /// Sets the function that each scrape calls.
    pub fn set_source(&self, engine: impl Fn() -> EngineLoad + Send + Sync + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(engine));
    }

    pub(super) fn sample(&self) {
        self.set_source(|| EngineLoad {
            spaces: vec![SpaceLoad {
                source: "https://activity-tracker.example".to_owned(),
                space: "c1".to_owned(),
                held: 1,
                budget: 28,
                listed: Some(2),
            }],
            ..EngineLoad::default()
        });
    }
}

impl Debug for LoadCollector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadCollector").finish_non_exhaustive()
    }
}

#[allow(clippy::cast_precision_loss)] // counts of things that fit in memory
fn number(count: usize) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss)] // bytes of a machine's memory
fn bytes(count: u64) -> f64 {
    count as f64
}

impl Collector for LoadCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let load = match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(load) => load(),
            None => return Ok(()),
        };
        let EngineLoad {
            windows,
            active_windows,
            waiting_for_slot,
            waiting_for_memory,
            waiting_for_session,
            pool_bytes,
            pool_used_bytes,
            spaces,
        } = load;
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
        };
        gauge(
            "windows_active",
            "Current number of windows that have a slot.",
            None,
            number(active_windows),
        )?;
        gauge(
            "windows_limit",
            "Maximum number of windows of exports that have one already (--windows).",
            None,
            number(windows),
        )?;
        let unit = Some(&Unit::Bytes);
        gauge(
            "pool_size",
            "Size of the memory pool for data in transfer (--pool-mib).",
            unit,
            bytes(pool_bytes),
        )?;
        gauge(
            "pool_used",
            "Bytes of the memory pool in use.",
            unit,
            bytes(pool_used_bytes),
        )?;
        let mut queue = encoder.encode_descriptor(
            "windows_waiting",
            "Current number of waiting windows, by what they wait for: slot, memory, or their turn to open a session.",
            None,
            MetricType::Gauge,
        )?;
        for (awaited, count) in [
            ("slot", waiting_for_slot),
            ("memory", waiting_for_memory),
            ("session", waiting_for_session),
        ] {
            let gauge = ConstGauge::new(number(count));
            gauge.encode(queue.encode_family(&[("for", awaited)])?)?;
        }
        let gauges: [(&str, &str, SpaceValue); 3] = [
            (
                "space_sessions_held",
                "Current number of sessions that this process holds open in a space.",
                |space| Some(space.held),
            ),
            (
                "space_sessions_budget",
                "Maximum number of sessions that this process may hold in a space (--sessions-per-space), of 30 for all users.",
                |space| Some(space.budget),
            ),
            (
                "space_sessions_listed",
                "Number of sessions of all users in a space at the last listing.",
                |space| space.listed,
            ),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for space in &spaces {
                let labels = [("source", space.source.as_str()), ("space", space.space.as_str())];
                if let Some(value) = value(space) {
                    ConstGauge::new(number(value)).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}
