//! Progress as bars on a terminal: one for each export, a few for its transfers, and lines above them for problems.
//! Draws on standard error.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::changes::SnapshotChange;
use super::lines::describe;
use crate::cli::human;
use crate::export::snapshot::Snapshot;

/// Maximum number of transfer bars per export; the rest are counted.
const TRANSFERS_SHOWN: usize = 6;

/// Maximum number of exports with bars; the rest appear only in the summary table.
const EXPORTS_SHOWN: usize = 4;

/// Refresh interval of the elapsed time.
const TICK: Duration = Duration::from_millis(200);

/// Renders progress as bars.
#[derive(Debug)]
pub struct ProgressBars {
    screen: MultiProgress,
    exports: Vec<ExportBars>,
}

#[derive(Debug)]
struct ExportBars {
    overall: ProgressBar,
    transfers: Vec<ProgressBar>,
}

impl ProgressBars {
    /// Returns bars for exports with these names.
    pub fn new(names: &[String], screen: &MultiProgress) -> Self {
        let exports = names
            .iter()
            .take(EXPORTS_SHOWN)
            .map(|name| {
                let overall = screen.add(ProgressBar::new(0));
                overall.set_style(bar_style(
                    "{prefix} [{elapsed_precise}] {bar:30} {pos}/{len} windows {msg}",
                ));
                overall.set_prefix(name.clone());
                overall.set_message("listing destination");
                overall.enable_steady_tick(TICK);
                ExportBars {
                    overall,
                    transfers: Vec::new(),
                }
            })
            .collect();
        Self {
            screen: screen.clone(),
            exports,
        }
    }

    /// Draws the state of an export, and prints problems above the bars.
    pub fn update(&mut self, number: usize, name: &str, snapshot: &Snapshot, changes: &[SnapshotChange<'_>]) {
        for change in changes {
            // The bar and the summary table show stored windows.
            if let (SnapshotChange::Problem(_), Some(text)) = (change, describe(change)) {
                self.println(&format!("{name}: {text}"));
            }
        }
        let Some(bars) = self.exports.get_mut(number) else {
            return;
        };
        bars.overall.set_length(snapshot.wanted);
        bars.overall.set_position(snapshot.stored);
        bars.overall.set_message(status_message(snapshot));
        bars.draw_transfers(&self.screen, snapshot);
    }

    /// Prints a line above the bars.
    pub fn println(&self, text: &str) {
        // A closed terminal cannot be reported.
        let _ = self.screen.println(text);
    }

    /// Removes the bars.
    pub fn finish(&mut self) {
        for bars in self.exports.drain(..) {
            bars.transfers.iter().for_each(ProgressBar::finish_and_clear);
            bars.overall.finish_and_clear();
        }
    }
}

impl ExportBars {
    fn draw_transfers(&mut self, screen: &MultiProgress, snapshot: &Snapshot) {
        let shown = snapshot.transfers.len().min(TRANSFERS_SHOWN);
        for bar in self.transfers.drain(shown.min(self.transfers.len())..) {
            bar.finish_and_clear();
            screen.remove(&bar);
        }
        while self.transfers.len() < shown {
            let after = self.transfers.last().unwrap_or(&self.overall);
            self.transfers
                .push(screen.insert_after(after, ProgressBar::no_length()));
        }
        for (bar, transfer) in self.transfers.iter().zip(&snapshot.transfers) {
            match transfer.announced {
                Some(bytes) => {
                    bar.set_style(bar_style(
                        "  {prefix} {bar:24} {binary_bytes} of {binary_total_bytes}",
                    ));
                    bar.set_length(bytes);
                }
                None => bar.set_style(bar_style("  {prefix} {binary_bytes}")),
            }
            bar.set_prefix(transfer.window.to_string());
            bar.set_position(transfer.bytes);
        }
    }
}

fn status_message(snapshot: &Snapshot) -> String {
    if !snapshot.observed {
        return "listing destination".to_owned();
    }
    let mut text = format!(
        "{}, {}",
        human::plural(snapshot.events, "event"),
        human::bytes(snapshot.bytes)
    );
    let hidden = snapshot.transfers.len().saturating_sub(TRANSFERS_SHOWN);
    for (number, label) in [
        (hidden as u64, "more in progress"),
        (snapshot.waiting, "waiting"),
        (snapshot.failed, "failed"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {number} {label}");
        }
    }
    text
}

/// Returns the style of a bar. Templates are constants, and a unit test draws each.
pub(in crate::cli) fn bar_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};
    use jiff::civil::date;

    use super::*;
    use crate::archive::window::Window;
    use crate::export::snapshot::TransferFacts;

    /// Terminal that records its output.
    #[derive(Clone, Debug, Default)]
    struct FakeTerminal(Arc<Mutex<String>>);

    impl TermLike for FakeTerminal {
        fn width(&self) -> u16 {
            120
        }
        fn height(&self) -> u16 {
            24
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.write_str("\n")
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_number_of_drawn_transfers_is_bounded() {
        let terminal = FakeTerminal::default();
        let screen =
            MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        let mut bars = ProgressBars::new(&["audit".to_owned()], &screen);
        let transfers = (1..=9)
            .map(|day| TransferFacts {
                window: Window::day(date(2018, 6, day)),
                bytes: 2048,
                announced: (day == 1).then_some(4096),
            })
            .collect();
        let snapshot = Snapshot {
            observed: true,
            wanted: 30,
            stored: 3,
            transfers,
            ..Snapshot::default()
        };
        // Draws are limited to about 20 a second.
        for _ in 0..10 {
            bars.update(0, "audit", &snapshot, &[]);
            std::thread::sleep(Duration::from_millis(60));
        }
        bars.finish();
        let drawn = terminal.0.lock().unwrap().clone();
        for expected in [
            "3/30 windows",
            "3 more in progress",
            "2018-06-01",
            "2.00 KiB of 4.00 KiB",
            "2018-06-06",
        ] {
            assert!(drawn.contains(expected), "{expected} is not in:\n{drawn}");
        }
        assert!(!drawn.contains("2018-06-07"), "{drawn}");
    }
}
