//! Progress of a download: a bar with rate and remaining time on a terminal, and lines. Writes to standard error.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use indicatif::{MultiProgress, ProgressBar};

use super::ProgressMode;
use super::bars::bar_style;
use crate::cli::human;
use crate::cli::output::write_stderr;
use crate::pipeline::copy::CopyProgress;

/// Bar with a known total: bytes, rate and remaining time.
const TEMPLATE_WITH_TOTAL: &str = "{prefix} [{bar:28}] {percent:>3}% {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// Bar without a known total: bytes, rate and elapsed time.
const TEMPLATE_WITHOUT_TOTAL: &str = "{prefix} {binary_bytes}, {binary_bytes_per_sec}, {elapsed} so far";

/// Shows the progress of a download.
#[derive(Debug)]
pub struct ProgressMeter {
    screen: MultiProgress,
    mode: ProgressMode,
    bar: ProgressBar,
    /// Position at which the bar started.
    start: u64,
    position: AtomicU64,
    resumes: AtomicU32,
}

impl ProgressMeter {
    /// Creates a meter on a screen that the log shares.
    pub fn new(mode: ProgressMode, screen: &MultiProgress) -> Self {
        Self {
            screen: screen.clone(),
            mode,
            bar: ProgressBar::hidden(),
            start: 0,
            position: AtomicU64::new(0),
            resumes: AtomicU32::new(0),
        }
    }

    /// Starts a bar at byte `at`; the rate counts bytes from now on.
    pub fn begin(&mut self, name: &str, at: u64) {
        self.finish();
        self.start = at;
        self.position.store(at, Ordering::Relaxed);
        self.resumes.store(0, Ordering::Relaxed);
        if self.mode == ProgressMode::Bars {
            self.bar = self.screen.add(ProgressBar::no_length());
            self.bar.set_style(bar_style(TEMPLATE_WITHOUT_TOTAL));
            self.bar.set_prefix(name.to_owned());
            self.bar.set_position(at);
            self.bar.reset_eta();
        }
    }

    /// Shows the progress of a copy. Prints if its transfer was cut and resumed.
    pub fn update(&self, progress: CopyProgress) {
        let CopyProgress {
            bytes,
            total,
            resumes,
        } = progress;
        let at = self.position();
        // The first request of a resumed download is not a cut.
        if resumes > self.resumes.swap(resumes, Ordering::Relaxed) && at > self.start {
            let received = human::bytes(at);
            self.println(&format!("The transfer was cut after {received} and resumed."));
        }
        self.set_position(bytes, total);
    }

    /// Sets the number of bytes, and the total if it is known.
    pub fn set_position(&self, bytes: u64, total: Option<u64>) {
        self.position.store(bytes, Ordering::Relaxed);
        if self.mode != ProgressMode::Bars {
            return;
        }
        if let Some(total) = total
            && self.bar.length() != Some(total)
        {
            self.bar.set_style(bar_style(TEMPLATE_WITH_TOTAL));
            self.bar.set_length(total);
        }
        self.bar.set_position(bytes);
    }

    /// Returns the last number of bytes.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Prints a line, except in JSON mode: the document has the same facts.
    pub fn println(&self, text: &str) {
        match self.mode {
            // A closed terminal is not an error.
            ProgressMode::Bars => drop(self.screen.println(text)),
            ProgressMode::Lines => write_stderr(text),
            ProgressMode::Json | ProgressMode::Quiet => {}
        }
    }

    /// Removes the bar from the screen.
    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
        self.screen.remove(&self.bar);
        self.bar = ProgressBar::hidden();
    }
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressStyle;

    use super::*;

    #[test]
    fn both_bar_templates_are_valid() {
        for template in [TEMPLATE_WITH_TOTAL, TEMPLATE_WITHOUT_TOTAL] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
