//! Progress as lines, for a pipe or a log: one for each change, and a heartbeat while nothing changes.
//! Writes to standard error.

use std::io::Write as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::changes::SnapshotChange;
use crate::archive::counts::Verdict;
use crate::archive::receipt::WindowFacts;
use crate::archive::window::Window;
use crate::cli::human;
use crate::export::failure::Problem;
use crate::export::snapshot::Snapshot;

/// Time without a line after which a heartbeat line is printed: 30 s.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Renders progress as lines.
#[derive(Debug)]
pub struct ProgressLines {
    last: Instant,
}

impl Default for ProgressLines {
    fn default() -> Self {
        Self { last: Instant::now() }
    }
}

impl ProgressLines {
    /// Prints each change, or a heartbeat.
    pub fn update(&mut self, name: &str, snapshot: &Snapshot, changes: &[SnapshotChange<'_>]) {
        for text in changes.iter().filter_map(describe) {
            self.println(&format!("{name}: {text}"));
        }
        if self.last.elapsed() >= HEARTBEAT
            && let Some(text) = heartbeat_text(snapshot)
        {
            self.println(&format!("{name}: {text}"));
        }
    }

    /// Prints a line with the time.
    pub fn println(&mut self, text: &str) {
        self.last = Instant::now();
        let now = human::time(Timestamp::now());
        // A closed pipe cannot be reported.
        let _ = writeln!(std::io::stderr().lock(), "{now} {text}");
    }
}

/// Returns the text of a change; `None` for windows stored before, which the first line counts.
pub fn describe(change: &SnapshotChange<'_>) -> Option<String> {
    match change {
        SnapshotChange::Observed { wanted, stored } => Some(format!(
            "{} wanted, {} already stored",
            human::plural(*wanted, "window"),
            human::count(*stored)
        )),
        SnapshotChange::Window(window, facts) => facts.stored_now.then(|| stored_text(*window, facts)),
        SnapshotChange::Problem(problem) => {
            let place = problem
                .window
                .map(|window| format!("{window}: "))
                .unwrap_or_default();
            let next = next_try(problem);
            Some(format!("{place}{}: {}{next}", problem.reason, problem.message))
        }
    }
}

/// Returns when the problem is tried again, if tries are counted.
fn next_try(problem: &Problem) -> String {
    match (problem.next_try, problem.retry_at) {
        (Some((number, of)), Some(at)) => {
            format!("; try {number} of {of} at {}", human::time(at))
        }
        _ => String::new(),
    }
}

fn stored_text(window: Window, facts: &WindowFacts) -> String {
    if facts.verdict == Verdict::Empty {
        return format!("{window}: proved empty");
    }
    let reported = match facts.reported {
        Some(reported) => format!("of {} reported", human::count(reported)),
        None => "without a count from the service".to_owned(),
    };
    let events = human::plural(facts.events, "event");
    format!(
        "{window}: stored {events} {reported}, {}, {:?}",
        human::bytes(facts.bytes),
        facts.verdict
    )
}

/// Returns what a run that prints nothing else is doing; `None` if it neither transfers nor waits.
fn heartbeat_text(snapshot: &Snapshot) -> Option<String> {
    if !snapshot.transfers.is_empty() {
        return Some(transfers_text(snapshot));
    }
    let mut problems = snapshot.problems.iter();
    let (problem, at) = problems.find_map(|problem| Some((problem, problem.retry_at?)))?;
    Some(format!(
        "waiting: {}, next try {}; {} of {} stored",
        problem.reason,
        human::time(at),
        snapshot.stored,
        snapshot.wanted
    ))
}

fn transfers_text(snapshot: &Snapshot) -> String {
    let bytes = snapshot.transfers.iter().map(|transfer| transfer.bytes).sum();
    let transfers = human::plural(snapshot.transfers.len() as u64, "transfer");
    format!(
        "{transfers} in progress, {} so far; {} of {} stored",
        human::bytes(bytes),
        snapshot.stored,
        snapshot.wanted
    )
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::api::Reason;
    use crate::cli::outcome::tests::facts;
    use crate::export::failure::RetryClass;

    #[test]
    fn a_run_that_waits_says_for_what_and_until_when() {
        let waiting = Snapshot {
            wanted: 7,
            problems: vec![Problem {
                reason: Reason::SessionRefused,
                message: "403".to_owned(),
                window: None,
                class: RetryClass::Wait(None),
                next_try: None,
                retry_at: "2018-06-30T12:00:20.4Z".parse().ok(),
            }],
            ..Snapshot::default()
        };
        assert_eq!(
            heartbeat_text(&waiting).unwrap(),
            "waiting: SessionRefused, next try 2018-06-30T12:00:20Z; 0 of 7 stored"
        );
        assert_eq!(heartbeat_text(&Snapshot::default()), None);
    }

    #[test]
    fn a_failed_try_is_described_with_the_next_one() {
        let problem = Problem {
            reason: Reason::Throttled,
            message: "429".to_owned(),
            window: Some(Window::day(date(2018, 6, 1))),
            class: RetryClass::Retry(None),
            next_try: Some((2, 5)),
            retry_at: "2018-06-30T12:00:20.4Z".parse().ok(),
        };
        assert_eq!(
            describe(&SnapshotChange::Problem(&problem)).unwrap(),
            "2018-06-01: Throttled: 429; try 2 of 5 at 2018-06-30T12:00:20Z"
        );
    }

    #[test]
    fn a_line_states_what_was_stored_and_proved() {
        let window = Window::day(date(2018, 6, 1));
        let line = |facts: &WindowFacts| describe(&SnapshotChange::Window(window, facts));
        assert_eq!(
            line(&facts(1224, true)).unwrap(),
            "2018-06-01: stored 1,224 events of 1,224 reported, 11.9 KiB, Matched"
        );
        assert_eq!(line(&facts(0, true)).unwrap(), "2018-06-01: proved empty");
        assert_eq!(line(&facts(1224, false)), None);
    }
}
