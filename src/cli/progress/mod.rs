//! What a person or a program sees while exports run: bars on a terminal, lines in a pipe, JSON for programs.
//! Writes to standard error, JSON to standard output.

pub mod bars;
pub mod changes;
pub mod events;
pub mod lines;

use std::io::IsTerminal as _;

use indicatif::MultiProgress;

use self::bars::ProgressBars;
use self::changes::ChangeDetector;
use self::events::JsonProgress;
use self::lines::ProgressLines;
use crate::export::snapshot::Snapshot;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// Bars that move, for a person at a terminal.
    Bars,
    /// A line for each thing that happened.
    Lines,
    /// A JSON object for each thing that happened.
    Json,
    /// Nothing.
    Quiet,
}

impl ProgressMode {
    /// What fits: JSON where it was asked for, bars where standard error is a terminal that can move.
    pub fn detect(json: bool, quiet: bool) -> Self {
        let moves =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        match (json, quiet) {
            (true, _) => Self::Json,
            (false, true) => Self::Quiet,
            (false, false) if moves => Self::Bars,
            (false, false) => Self::Lines,
        }
    }
}

/// The view of all exports of a run.
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
    /// Of exports with these names. Bars are drawn on `screen`, so that logs can make room for themselves.
    pub fn new(mode: ProgressMode, names: Vec<String>, screen: &MultiProgress) -> Self {
        let renderer = match mode {
            ProgressMode::Bars => ProgressRenderer::Bars(ProgressBars::new(&names, screen)),
            ProgressMode::Lines => ProgressRenderer::Lines(ProgressLines::default()),
            ProgressMode::Json => ProgressRenderer::Json(JsonProgress),
            ProgressMode::Quiet => ProgressRenderer::Quiet,
        };
        let detectors = names.iter().map(|_| ChangeDetector::default()).collect();
        Self {
            names,
            detectors,
            renderer,
        }
    }

    /// Shows how the export of this number stands. To be called at every change and about once a second.
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

    /// A remark for people; programs read the same in the summary.
    pub fn println(&mut self, text: &str) {
        match &mut self.renderer {
            ProgressRenderer::Bars(bars) => bars.println(text),
            ProgressRenderer::Lines(lines) => lines.println(text),
            ProgressRenderer::Json(_) | ProgressRenderer::Quiet => {}
        }
    }

    /// Takes the bars off the screen.
    pub fn finish(&mut self) {
        if let ProgressRenderer::Bars(bars) = &mut self.renderer {
            bars.finish();
        }
    }
}
