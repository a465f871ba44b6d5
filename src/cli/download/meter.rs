//! What a person sees while bytes come: a bar with rate and time left on a terminal, and lines for what matters. Draws
//! on standard error.

use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{MultiProgress, ProgressBar};

use crate::cli::progress::Mode;
use crate::cli::progress::bars::style;
use crate::cli::size;

/// With the size of the whole known: how much, how fast, and how long it will still take.
const KNOWN: &str = "{prefix} [{bar:28}] {percent:>3}% {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// Without: how much, how fast, and how long it took.
const UNKNOWN: &str = "{prefix} {binary_bytes}, {binary_bytes_per_sec}, {elapsed} so far";

/// Shows how a download stands.
#[derive(Debug)]
pub struct Meter {
    screen: MultiProgress,
    mode: Mode,
    bar: ProgressBar,
    seen: AtomicU64,
}

impl Meter {
    /// In a mode, on a screen that the log shares.
    pub fn new(mode: Mode, screen: &MultiProgress) -> Self {
        Self {
            screen: screen.clone(),
            mode,
            bar: ProgressBar::hidden(),
            seen: AtomicU64::new(0),
        }
    }

    /// Begins at a byte of a whole; the rate is of what comes from now on.
    pub fn begin(&mut self, name: &str, at: u64) {
        self.finish();
        self.seen.store(at, Ordering::Relaxed);
        if self.mode == Mode::Bars {
            self.bar = self.screen.add(ProgressBar::no_length());
            self.bar.set_style(style(UNKNOWN));
            self.bar.set_prefix(name.to_owned());
            self.bar.set_position(at);
            self.bar.reset_eta();
        }
    }

    /// So many bytes are there, of so many.
    pub fn at(&self, bytes: u64, total: Option<u64>) {
        self.seen.store(bytes, Ordering::Relaxed);
        if self.mode != Mode::Bars {
            return;
        }
        if let Some(total) = total
            && self.bar.length() != Some(total)
        {
            self.bar.set_style(style(KNOWN));
            self.bar.set_length(total);
        }
        self.bar.set_position(bytes);
    }

    /// Bytes that were there when it was told last.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// A transfer was cut and went on.
    pub fn resumed(&self, at: u64) {
        self.remark(&format!(
            "The transfer was cut after {} and went on there.",
            size::bytes(at)
        ));
    }

    /// A line for a person; programs find the same in the document.
    pub fn remark(&self, text: &str) {
        match self.mode {
            // A terminal that is gone cannot be told.
            Mode::Bars => drop(self.screen.println(text)),
            Mode::Lines => eprintln!("{text}"),
            Mode::Json | Mode::Quiet => {}
        }
    }

    /// Takes the bar off the screen.
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
    fn both_templates_can_be_drawn() {
        for template in [KNOWN, UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
