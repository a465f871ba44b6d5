//! Metrics of the process, under the names that every Prometheus client library uses. Reads `/proc` (Linux only; on
//! other systems there are only the start time and the CPU time).

use std::fmt;
use std::fs;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::time::{ClockId, clock_gettime};

/// Collector of process metrics, with the start time in seconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    started: f64,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        Self {
            started: Timestamp::now().as_duration().as_secs_f64(),
        }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let spent = jiff::SignedDuration::new(spent.tv_sec, i32::try_from(spent.tv_nsec).unwrap_or(0));
        ConstCounter::new(spent.as_secs_f64()).encode(encoder.encode_descriptor(
            "process_cpu",
            "Total user and system CPU time spent.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?)?;
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<f64>| match value {
            Some(value) => {
                let encoder = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
                ConstGauge::new(value).encode(encoder)
            }
            None => Ok(()),
        };
        gauge(
            "process_start_time",
            "Start time of the process since the Unix epoch.",
            Some(&Unit::Seconds),
            Some(self.started),
        )?;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name| parse_number(&status, name).map(|kib| kib * 1024.0);
        gauge(
            "process_resident_memory",
            "Resident memory size.",
            Some(&Unit::Bytes),
            kib("VmRSS:"),
        )?;
        gauge(
            "process_virtual_memory",
            "Virtual memory size.",
            Some(&Unit::Bytes),
            kib("VmSize:"),
        )?;
        gauge(
            "process_open_fds",
            "Number of open file descriptors.",
            None,
            open_files(),
        )?;
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            None,
            parse_number(&limits, "Max open files"),
        )
    }
}

/// Returns the number after a name in a file of `/proc`.
fn parse_number(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_parsed() {
        assert_eq!(
            parse_number("Name:\tx\nVmRSS:\t  2048 kB\n", "VmRSS:"),
            Some(2048.0)
        );
        let limits = "Max open files            1024                 4096                 files\n";
        assert_eq!(parse_number(limits, "Max open files"), Some(1024.0));
        assert_eq!(parse_number("", "VmRSS:"), None);
    }
}
