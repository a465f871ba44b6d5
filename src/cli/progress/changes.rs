//! Changes between two snapshots of an export, each reported once. No I/O.

use std::collections::BTreeSet;

use crate::api::Reason;
use crate::archive::receipt::WindowFacts;
use crate::archive::window::Window;
use crate::export::failure::Problem;
use crate::export::snapshot::Snapshot;

/// Change of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotChange<'a> {
    /// The destination was listed for the first time.
    Observed {
        /// Number of wanted windows.
        wanted: u64,
        /// Number of windows that are already stored.
        stored: u64,
    },
    /// A window is stored, or was found stored.
    Window(Window, &'a WindowFacts),
    /// A new problem or wait.
    Problem(&'a Problem),
}

/// Reason, window and next try of a problem.
type ProblemKey = (Reason, Option<Window>, Option<(u32, u32)>);

/// Reports each change once.
#[derive(Clone, Debug, Default)]
pub struct ChangeDetector {
    observed: bool,
    windows: BTreeSet<Window>,
    problems: BTreeSet<ProblemKey>,
}

impl ChangeDetector {
    /// Returns the changes in `snapshot` since the last call. A problem that returns, or a further try, is reported again.
    pub fn changes<'a>(&mut self, snapshot: &'a Snapshot) -> Vec<SnapshotChange<'a>> {
        let mut changes = Vec::new();
        if snapshot.observed && !self.observed {
            self.observed = true;
            changes.push(SnapshotChange::Observed {
                wanted: snapshot.wanted,
                stored: snapshot.stored,
            });
        }
        for (window, facts) in snapshot.windows.iter() {
            if self.windows.insert(*window) {
                changes.push(SnapshotChange::Window(*window, facts));
            }
        }
        let key = |problem: &Problem| (problem.reason, problem.window, problem.next_try);
        let new_problems = snapshot
            .problems
            .iter()
            .filter(|problem| !self.problems.contains(&key(problem)));
        changes.extend(new_problems.map(SnapshotChange::Problem));
        self.problems = snapshot.problems.iter().map(key).collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::cli::outcome::tests::{facts, snapshot};
    use crate::export::failure::RetryClass;

    #[test]
    fn each_change_is_reported_once_and_a_returning_problem_again() {
        let window = Window::day(date(2018, 6, 1));
        let problem = Problem {
            reason: Reason::Throttled,
            message: "slower".to_owned(),
            window: None,
            class: RetryClass::Retry(None),
            next_try: None,
            retry_at: None,
        };
        let healthy = snapshot(vec![(window, facts(3, true))]);
        let failing = Snapshot {
            problems: vec![problem.clone()],
            ..healthy.clone()
        };
        let mut detector = ChangeDetector::default();
        assert!(detector.changes(&Snapshot::default()).is_empty());
        assert_eq!(
            detector.changes(&failing),
            [
                SnapshotChange::Observed { wanted: 0, stored: 0 },
                SnapshotChange::Window(window, &facts(3, true)),
                SnapshotChange::Problem(&problem)
            ]
        );
        assert!(detector.changes(&failing).is_empty());
        assert!(detector.changes(&healthy).is_empty());
        assert_eq!(detector.changes(&failing), [SnapshotChange::Problem(&problem)]);
        let third = Problem {
            next_try: Some((3, 5)),
            ..problem
        };
        let failing = Snapshot {
            problems: vec![third.clone()],
            ..healthy
        };
        assert_eq!(detector.changes(&failing), [SnapshotChange::Problem(&third)]);
    }
}
