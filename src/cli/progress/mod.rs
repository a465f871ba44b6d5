//! What a person or a program sees while exports run: bars on a terminal, lines in a pipe, JSON for programs.
//! Writes to standard error, JSON to standard output.

pub mod bars;
pub mod changes;
pub mod events;
pub mod lines;

use std::io::IsTerminal as _;

use indicatif::MultiProgress;

use self::bars::Bars;
use self::changes::Seen;
use self::events::Events;
use self::lines::Lines;
use crate::export::snapshot::Snapshot;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bars that move, for a person at a terminal.
    Bars,
    /// A line for each thing that happened.
    Lines,
    /// A JSON object for each thing that happened.
    Json,
    /// Nothing.
    Quiet,
}

impl Mode {
    /// What fits: JSON where it was asked for, bars where standard error is a terminal that can move.
    pub fn of(json: bool, quiet: bool) -> Self {
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
pub struct Progress {
    names: Vec<String>,
    seen: Vec<Seen>,
    view: View,
}

#[derive(Debug)]
enum View {
    Bars(Bars),
    Lines(Lines),
    Json(Events),
    Quiet,
}

impl Progress {
    /// Of exports with these names. Bars are drawn on `screen`, so that logs can make room for themselves.
    pub fn new(mode: Mode, names: Vec<String>, screen: &MultiProgress) -> Self {
        let view = match mode {
            Mode::Bars => View::Bars(Bars::new(&names, screen)),
            Mode::Lines => View::Lines(Lines::default()),
            Mode::Json => View::Json(Events),
            Mode::Quiet => View::Quiet,
        };
        let seen = names.iter().map(|_| Seen::default()).collect();
        Self { names, seen, view }
    }

    /// Shows how the export of this number stands. To be called at every change and about once a second.
    pub fn update(&mut self, number: usize, snapshot: &Snapshot) {
        let (Some(name), Some(seen)) = (self.names.get(number), self.seen.get_mut(number)) else {
            return;
        };
        let changes = seen.changes(snapshot);
        match &mut self.view {
            View::Bars(bars) => bars.update(number, name, snapshot, &changes),
            View::Lines(lines) => lines.update(name, snapshot, &changes),
            View::Json(events) => events.update(name, snapshot, &changes),
            View::Quiet => {}
        }
    }

    /// A remark for people; programs read the same in the summary.
    pub fn remark(&mut self, text: &str) {
        match &mut self.view {
            View::Bars(bars) => bars.remark(text),
            View::Lines(lines) => lines.remark(text),
            View::Json(_) | View::Quiet => {}
        }
    }

    /// Takes the bars off the screen.
    pub fn finish(&mut self) {
        if let View::Bars(bars) = &mut self.view {
            bars.finish();
        }
    }
}
