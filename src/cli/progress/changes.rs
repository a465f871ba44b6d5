//! What happened between two looks at an export, each thing once. No I/O.

use std::collections::BTreeSet;

use crate::api::Reason;
use crate::export::failure::Problem;
use crate::export::snapshot::{Snapshot, WindowFacts};
use crate::export::window::Window;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotChange<'a> {
    /// The destination was listed for the first time: so many windows are wanted, so many were there.
    Observed {
        /// Wanted windows.
        wanted: u64,
        /// Stored before.
        stored: u64,
    },
    /// A window is stored, or was found stored.
    Window(Window, &'a WindowFacts),
    /// Something is wrong, or waited for, that was not before.
    Problem(&'a Problem),
}

/// What was told so far.
#[derive(Clone, Debug, Default)]
pub struct ChangeDetector {
    observed: bool,
    windows: BTreeSet<Window>,
    problems: BTreeSet<(Reason, Option<Window>)>,
}

impl ChangeDetector {
    /// What `snapshot` tells that was not told before. A trouble that went away and came back is told again.
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
        let key = |problem: &Problem| (problem.reason, problem.window);
        let fresh = snapshot
            .problems
            .iter()
            .filter(|problem| !self.problems.contains(&key(problem)));
        changes.extend(fresh.map(SnapshotChange::Problem));
        self.problems = snapshot.problems.iter().map(key).collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::cli::outcome::tests::{facts, snapshot};
    use crate::export::failure::Remedy;

    #[test]
    fn each_change_is_reported_once_and_a_returning_problem_again() {
        let window = Window::day(date(2018, 6, 1));
        let problem = Problem {
            reason: Reason::Throttled,
            message: "slower".to_owned(),
            window: None,
            remedy: Remedy::Retry(None),
            retry_at: None,
        };
        let calm = snapshot(vec![(window, facts(3, true))]);
        let troubled = Snapshot {
            problems: vec![problem.clone()],
            ..calm.clone()
        };
        let mut detector = ChangeDetector::default();
        assert!(detector.changes(&Snapshot::default()).is_empty());
        assert_eq!(
            detector.changes(&troubled),
            [
                SnapshotChange::Observed { wanted: 0, stored: 0 },
                SnapshotChange::Window(window, &facts(3, true)),
                SnapshotChange::Problem(&problem)
            ]
        );
        assert!(detector.changes(&troubled).is_empty());
        assert!(detector.changes(&calm).is_empty());
        assert_eq!(detector.changes(&troubled), [SnapshotChange::Problem(&problem)]);
    }
}
