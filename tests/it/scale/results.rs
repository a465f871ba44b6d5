//! What was measured, as rows of a table that people and plots read. Writes a CSV file where it is told one.

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
    /// `EVENTEXPORT_BENCH_CSV` names the file.
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            file: std::env::var_os("EVENTEXPORT_BENCH_CSV").map(PathBuf::from),
        }
    }

    pub(super) fn add(&mut self, resources: usize, state: &str, metric: &str, unit: &str, value: f64) {
        // As many digits as mean something.
        let digits = if value.abs() < 10.0 { 3 } else { 1 };
        let row = format!("{resources},{state},{metric},{unit},{value:.digits$}");
        println!("{row}");
        self.rows.push(row);
    }

    /// How busy the machine was, to be read beside the times.
    pub(super) fn add_load(&mut self, resources: usize, state: &str) {
        self.add(resources, state, "machine_load_1min", "processes", load());
    }

    /// Written after each step, so that an end before the last one loses nothing.
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

/// How many resources: `EVENTEXPORT_BENCH_RESOURCES`, several with commas between them.
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
