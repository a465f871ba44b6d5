//! What happened between two looks at an export, each thing once. No I/O.

use std::collections::BTreeSet;

use crate::api::Reason;
use crate::export::failure::Trouble;
use crate::export::snapshot::{Snapshot, WindowFacts};
use crate::export::window::Window;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
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
    Trouble(&'a Trouble),
}

/// What was told so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    observed: bool,
    windows: BTreeSet<Window>,
    troubles: BTreeSet<(Reason, Option<Window>)>,
}

impl Seen {
    /// What `snapshot` tells that was not told before. A trouble that went away and came back is told again.
    pub fn changes<'a>(&mut self, snapshot: &'a Snapshot) -> Vec<Change<'a>> {
        let mut changes = Vec::new();
        if snapshot.observed && !self.observed {
            self.observed = true;
            changes.push(Change::Observed {
                wanted: snapshot.wanted,
                stored: snapshot.stored,
            });
        }
        for (window, facts) in snapshot.windows.iter() {
            if self.windows.insert(*window) {
                changes.push(Change::Window(*window, facts));
            }
        }
        let key = |trouble: &Trouble| (trouble.reason, trouble.window);
        let fresh = snapshot
            .troubles
            .iter()
            .filter(|trouble| !self.troubles.contains(&key(trouble)));
        changes.extend(fresh.map(Change::Trouble));
        self.troubles = snapshot.troubles.iter().map(key).collect();
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
    fn each_thing_is_told_once_and_a_trouble_that_returns_again() {
        let window = Window::day(date(2018, 6, 1));
        let trouble = Trouble {
            reason: Reason::Throttled,
            message: "slower".to_owned(),
            window: None,
            remedy: Remedy::Retry(None),
            again: None,
        };
        let calm = snapshot(vec![(window, facts(3, true))]);
        let troubled = Snapshot {
            troubles: vec![trouble.clone()],
            ..calm.clone()
        };
        let mut seen = Seen::default();
        assert!(seen.changes(&Snapshot::default()).is_empty());
        assert_eq!(
            seen.changes(&troubled),
            [
                Change::Observed { wanted: 0, stored: 0 },
                Change::Window(window, &facts(3, true)),
                Change::Trouble(&trouble)
            ]
        );
        assert!(seen.changes(&troubled).is_empty());
        assert!(seen.changes(&calm).is_empty());
        assert_eq!(seen.changes(&troubled), [Change::Trouble(&trouble)]);
    }
}
