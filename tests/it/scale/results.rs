//! Measurements as rows of a table, for readers and plots. Writes a CSV file if `EVENTEXPORT_BENCH_CSV` names one.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::fixture::load;

/// Rows `resources,state,metric,unit,value`.
pub(super) struct LoadResults {
    rows: Vec<String>,
    file: Option<PathBuf>,
}

impl LoadResults {
    /// Reads the name of the file from `EVENTEXPORT_BENCH_CSV`.
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            file: std::env::var_os("EVENTEXPORT_BENCH_CSV").map(PathBuf::from),
        }
    }

    pub(super) fn add(&mut self, resources: usize, state: &str, metric: &str, unit: &str, value: f64) {
        // Significant digits only.
        let digits = if value.abs() < 10.0 { 3 } else { 1 };
        let row = format!("{resources},{state},{metric},{unit},{value:.digits$}");
        println!("{row}");
        self.rows.push(row);
    }

    /// Adds the load of the machine, to interpret the times.
    pub(super) fn add_load(&mut self, resources: usize, state: &str) {
        self.add(resources, state, "machine_load_1min", "processes", load());
    }

    /// Writes after each step, so that an abort loses nothing.
    pub(super) fn write(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut text = "resources,state,metric,unit,value\n".to_owned();
        for row in &self.rows {
            let _ = writeln!(text, "{row}");
        }
        std::fs::write(file, text)?;
        Ok(())
    }
}

/// Reads the numbers of resources from `EVENTEXPORT_BENCH_RESOURCES`, separated by commas.
pub(super) fn counts(default: &str) -> Result<Vec<usize>> {
    let resources: String = setting("EVENTEXPORT_BENCH_RESOURCES", default.to_owned());
    let counts = resources.split(',').map(|count| count.trim().parse());
    counts
        .collect::<Result<_, _>>()
        .context("--resources: not a number")
}

pub(super) fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}
