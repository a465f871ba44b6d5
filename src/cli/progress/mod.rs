//! Progress of running exports: bars on a terminal, lines in a pipe, or JSON.
//! Writes to standard error, JSON to standard output.

pub mod bars;
pub mod changes;
pub mod events;
pub mod lines;
pub mod meter;
pub mod pace;

use std::io::IsTerminal as _;

use indicatif::MultiProgress;

use self::bars::ProgressBars;
use self::changes::ChangeDetector;
use self::events::JsonProgress;
use self::lines::ProgressLines;
use super::exit::CliError;
use super::output::can_draw;
use crate::export::snapshot::Snapshot;

/// Display of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// Bars on a terminal.
    Bars,
    /// A line for each change.
    Lines,
    /// A JSON object for each change.
    Json,
    /// No progress.
    Quiet,
}

impl ProgressMode {
    /// Selects the mode: JSON if requested, bars if standard error is a terminal that can move the cursor.
    pub fn detect(json: bool, quiet: bool) -> Self {
        let can_draw = std::io::stderr().is_terminal() && can_draw();
        match (json, quiet) {
            (true, _) => Self::Json,
            (false, true) => Self::Quiet,
            (false, false) if can_draw => Self::Bars,
            (false, false) => Self::Lines,
        }
    }
}

/// Progress of all exports of a run.
#[derive(Debug)]
pub struct RunProgress {
    names: Vec<String>,
    detectors: Vec<ChangeDetector>,
    renderer: ProgressRenderer,
}

#[derive(Debug)]
enum ProgressRenderer {
    Bars(ProgressBars),
    Lines(ProgressLines),
    Json(JsonProgress),
    Quiet,
}

impl RunProgress {
    /// Returns the progress of exports with these names. Draws bars on `screen`, so that log lines appear above them.
    pub fn new(mode: ProgressMode, names: Vec<String>, screen: &MultiProgress) -> Self {
        let renderer = match mode {
            ProgressMode::Bars => ProgressRenderer::Bars(ProgressBars::new(&names, screen)),
            ProgressMode::Lines => ProgressRenderer::Lines(ProgressLines::default()),
            ProgressMode::Json => ProgressRenderer::Json(JsonProgress::default()),
            ProgressMode::Quiet => ProgressRenderer::Quiet,
        };
        let detectors = names.iter().map(|_| ChangeDetector::default()).collect();
        Self {
            names,
            detectors,
            renderer,
        }
    }

    /// Shows the state of the export with this number. Callers call it at every change and about once a second.
    pub fn update(&mut self, number: usize, snapshot: &Snapshot) {
        let (Some(name), Some(detector)) = (self.names.get(number), self.detectors.get_mut(number)) else {
            return;
        };
        let changes = detector.changes(snapshot);
        match &mut self.renderer {
            ProgressRenderer::Bars(bars) => bars.update(number, name, snapshot, &changes),
            ProgressRenderer::Lines(lines) => lines.update(name, snapshot, &changes),
            ProgressRenderer::Json(events) => events.update(name, snapshot, &changes),
            ProgressRenderer::Quiet => {}
        }
    }

    /// Prints a line of text; JSON output has the same information in the summary.
    pub fn println(&mut self, text: &str) {
        match &mut self.renderer {
            ProgressRenderer::Bars(bars) => bars.println(text),
            ProgressRenderer::Lines(lines) => lines.println(text),
            ProgressRenderer::Json(_) | ProgressRenderer::Quiet => {}
        }
    }

    /// Returns the error of the first line that could not be written to standard output.
    pub fn take_error(&mut self) -> Option<CliError> {
        match &mut self.renderer {
            ProgressRenderer::Json(events) => events.error.take(),
            ProgressRenderer::Bars(_) | ProgressRenderer::Lines(_) | ProgressRenderer::Quiet => None,
        }
    }

    /// Removes the bars.
    pub fn finish(&mut self) {
        if let ProgressRenderer::Bars(bars) = &mut self.renderer {
            bars.finish();
        }
    }
}
