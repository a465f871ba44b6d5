//! Progress as bars on a terminal of 80 columns or more: one for each export, a few for its transfers, and lines above them
//! for problems. Draws on standard error.

use std::fmt::Write as _;
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::changes::SnapshotChange;
use super::lines::describe;
use super::pace::{self, WorkDone};
use crate::cli::human;
use crate::export::snapshot::{Snapshot, TransferPhase};

/// Maximum number of transfer bars per export; the rest are counted.
const TRANSFERS_SHOWN: usize = 6;

/// Maximum number of exports with bars; the rest appear only in the summary table.
const EXPORTS_SHOWN: usize = 4;

/// Maximum number of characters of the name of an export.
const NAME_CHARS: usize = 20;

/// Template of the bar of an export. The message is cut at the end of the line.
const OVERALL: &str = "{prefix} [{bar:14}] {pos}/{len} {wide_msg}";

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
    start: Option<RunStart>,
}

/// State of an export when its destination was listed.
#[derive(Clone, Copy, Debug)]
struct RunStart {
    at: Instant,
    bytes: u64,
    stored: u64,
}

impl ProgressBars {
    /// Returns bars for exports with these names.
    pub fn new(names: &[String], screen: &MultiProgress) -> Self {
        let exports = names
            .iter()
            .take(EXPORTS_SHOWN)
            .map(|name| {
                let overall = screen.add(ProgressBar::new(0));
                overall.set_style(bar_style(OVERALL));
                overall.set_prefix(short_name(name));
                overall.set_message("listing destination");
                overall.tick();
                ExportBars {
                    overall,
                    transfers: Vec::new(),
                    start: None,
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
        let done = bars.work_done(snapshot);
        bars.overall.set_message(status_message(snapshot, &done));
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
    /// Returns the work since the destination was listed.
    fn work_done(&mut self, snapshot: &Snapshot) -> WorkDone {
        if self.start.is_none() && snapshot.observed {
            self.start = Some(RunStart {
                at: Instant::now(),
                bytes: snapshot.bytes,
                stored: snapshot.stored,
            });
        }
        let Some(start) = self.start else {
            return WorkDone::default();
        };
        let in_transfer = snapshot.transfers.iter().map(|transfer| transfer.bytes);
        WorkDone {
            elapsed: start.at.elapsed(),
            bytes: in_transfer.fold(snapshot.bytes.saturating_sub(start.bytes), u64::saturating_add),
            windows: snapshot.stored.saturating_sub(start.stored),
            left: snapshot.wanted.saturating_sub(snapshot.stored),
        }
    }

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
            let phase = match transfer.phase {
                TransferPhase::Opening => "opening",
                TransferPhase::Downloading => "downloading",
                TransferPhase::Storing => "storing",
            };
            bar.set_style(bar_style(match (transfer.phase, transfer.announced) {
                (TransferPhase::Opening, _) => "  {prefix}",
                (_, Some(_)) => "  {prefix} [{bar:14}] {binary_bytes} of {binary_total_bytes}",
                (_, None) => "  {prefix} {binary_bytes}",
            }));
            if let Some(bytes) = transfer.announced {
                bar.set_length(bytes);
            }
            bar.set_prefix(format!("{} {phase:11}", transfer.window));
            bar.set_position(transfer.bytes);
        }
    }
}

/// Cuts a long name.
fn short_name(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS) {
        None => name.to_owned(),
        Some(_) => name.chars().take(NAME_CHARS - 1).chain(['…']).collect(),
    }
}

/// Describes the progress, the most important first.
fn status_message(snapshot: &Snapshot, done: &WorkDone) -> String {
    if !snapshot.observed {
        return "listing destination".to_owned();
    }
    let mut text = human::bytes(snapshot.bytes);
    if let Some(rate) = done.bytes_per_second() {
        let _ = write!(text, ", {}/s", human::bytes(rate));
    }
    if let Some(left) = done.time_left() {
        let _ = write!(text, ", {} left", pace::duration(left));
    }
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
    use std::time::Duration;

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
            80
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
            // Each piece is a line, or its end.
            let mut written = self.0.lock().unwrap();
            written.push_str(text);
            written.push('\n');
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
    fn the_message_has_bytes_rate_and_time_left_first() {
        let snapshot = Snapshot {
            observed: true,
            bytes: 3 << 20,
            waiting: 2,
            ..Snapshot::default()
        };
        let done = WorkDone {
            elapsed: Duration::from_mins(1),
            bytes: 60 << 20,
            windows: 10,
            left: 20,
        };
        let message = status_message(&snapshot, &done);
        assert_eq!(message, "3.0 MiB, 1.0 MiB/s, 2m left, 2 waiting");
    }

    #[test]
    fn the_number_of_drawn_transfers_and_their_width_are_bounded() {
        let terminal = FakeTerminal::default();
        let screen =
            MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        let mut bars = ProgressBars::new(&["audit-of-a-space-with-a-long-name".to_owned()], &screen);
        let transfers = (1..=9)
            .map(|day| TransferFacts {
                window: Window::hour(date(2018, 6, day), 7).unwrap(),
                phase: match day {
                    1 => TransferPhase::Storing,
                    2 => TransferPhase::Opening,
                    _ => TransferPhase::Downloading,
                },
                bytes: 1023 << 20,
                announced: (day != 3).then_some(1023 << 30),
            })
            .collect();
        let snapshot = Snapshot {
            observed: true,
            wanted: 8760,
            stored: 3000,
            bytes: 1023 << 30,
            waiting: 12,
            failed: 34,
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
            "audit-of-a-space-wi… [",
            "3000/8760 1023.0 GiB",
            "2018-06-01T07 storing     [",
            "1023.00 MiB of 1023.00 GiB",
            "2018-06-02T07 opening",
            "2018-06-06T07 downloading",
        ] {
            assert!(drawn.contains(expected), "{expected} is not in:\n{drawn}");
        }
        assert!(!drawn.contains("2018-06-07"), "{drawn}");
        let widths = drawn
            .lines()
            .map(|line| console::measure_text_width(line.trim_end()));
        assert!(widths.max().unwrap() <= 80, "{drawn}");
    }
}
