//! Plans a run from the state of each window in the destination. No I/O.

use jiff::Timestamp;

use crate::archive::coverage::{self, Coverage, WindowState};
use crate::archive::listing::Journal;
use crate::archive::window::{HourSet, Window};
use crate::export::spec::ExportSpec;

/// Requests to the service per run: service description, token, list of days.
pub const REQUESTS_PER_RUN: u64 = 3;

/// Requests to the service per window: list sessions twice, open one, download, list days, delete the session.
pub const REQUESTS_PER_WINDOW: u64 = 6;

/// Listing of the destination.
#[derive(Clone, Debug)]
pub enum DestinationListing {
    /// The destination was listed, and its receipts were read.
    Listed(Box<Journal>),
    /// The destination was not listed, for this reason.
    Unavailable(String),
}

/// Plan of a run for one export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPlan {
    /// Every wanted window with its state.
    pub windows: Vec<(Window, WindowState)>,
    /// Windows of the sessions to open: days, or hours of days that are partly stored or were split.
    pub sessions: Vec<Window>,
    /// Maximum number of concurrent sessions.
    pub concurrency: usize,
    /// Estimated requests to the service if nothing fails.
    pub requests: u64,
    /// True if the service no longer has some hours of a day that is missing.
    pub expired_hours: bool,
    /// Stored windows whose later body lacks stored events, with the explanation.
    pub changed: Vec<(Window, String)>,
}

impl RunPlan {
    /// True if a run needs manual action before it can complete: data in the destination does not count, or the service
    /// no longer has a window.
    pub fn needs_manual_action(&self) -> bool {
        let bad = |state: &WindowState| matches!(state, WindowState::Damaged(_) | WindowState::Expired);
        self.expired_hours || !self.changed.is_empty() || self.windows.iter().any(|(_, state)| bad(state))
    }
}

impl DestinationListing {
    /// Returns a warning if the stored windows do not count.
    pub fn warning(&self, export: &ExportSpec) -> Option<String> {
        match self {
            Self::Unavailable(reason) => Some(format!("not listed, so nothing counts as stored: {reason}")),
            Self::Listed(journal) => journal.other_source(&export.source).map(|(window, source)| {
                format!(
                    "the receipt of {window} names the source {source}: a run adds nothing to the archive of another \
                     source (SourceMismatch)"
                )
            }),
        }
    }
}

/// Plans a run at `now` from the listing.
pub fn plan(export: &ExportSpec, listing: &DestinationListing, now: Timestamp) -> RunPlan {
    let nothing = Journal::default();
    let journal = match listing {
        DestinationListing::Listed(journal) => journal,
        DestinationListing::Unavailable(_) => &nothing,
    };
    let coverage = coverage::assess(&export.expectation(now), journal);
    let windows: Vec<(Window, WindowState)> = export
        .windows(now)
        .map(|window| (window, coverage.state(window)))
        .collect();
    let sessions: Vec<Window> = windows
        .iter()
        .filter(|(_, state)| matches!(state, WindowState::Missing | WindowState::Partial(_)))
        .flat_map(|(window, _)| sessions_for(*window, &coverage, journal))
        .collect();
    // Nothing is added to the archive of another source.
    let sessions = match journal.other_source(&export.source) {
        Some(_) => Vec::new(),
        None => sessions,
    };
    let requests = match sessions.len() as u64 {
        0 => 0,
        number => REQUESTS_PER_RUN + REQUESTS_PER_WINDOW * number,
    };
    RunPlan {
        windows,
        concurrency: sessions.len().min(export.parallelism),
        expired_hours: !coverage.expired.intersection(&coverage.missing).is_empty(),
        changed: changed_windows(export, journal, now),
        requests,
        sessions,
    }
}

/// Returns the wanted windows whose later body lacks stored events, outside of accepted gaps.
fn changed_windows(export: &ExportSpec, journal: &Journal, now: Timestamp) -> Vec<(Window, String)> {
    let wanted: HourSet = export.windows(now).collect();
    let changed = coverage::changed_windows(journal, Some(&export.source));
    changed
        .filter(|(window, ..)| wanted.intersects(*window) && !export.in_accepted_gap(window.date()))
        .map(|(window, stored, late)| {
            let text = format!(
                "{stored} events are stored, the service reported {}, and its later body lacks stored events",
                late.reported
            );
            (window, text)
        })
        .collect()
}

/// Returns one session for the window, or one for each missing hour of a day that is partly stored or was split.
fn sessions_for(window: Window, coverage: &Coverage, journal: &Journal) -> Vec<Window> {
    let covered: &HourSet = &coverage.covered;
    if window.hour_of_day().is_some() || !(covered.intersects(window) || journal.splits.contains(&window)) {
        return vec![window];
    }
    Window::split(window.date())
        .filter(|hour| !covered.contains(*hour) && !coverage.expired.contains(*hour))
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::counts::Verdict;
    use crate::archive::coverage::Damage;
    use crate::archive::layout::{ArchiveRoot, Key};
    use crate::archive::listing::ExpiredFacts;
    use crate::cli::archived::tests::receipt;
    use crate::cli::outcome::tests::export;
    use crate::storage::ObjectSummary;

    fn day(day: i8) -> Window {
        Window::day(date(2018, 6, day))
    }

    #[test]
    fn only_windows_to_export_need_a_session() {
        let mut export = export(8);
        export.accepted_gaps = vec![crate::archive::manifest::document::GapEntry::new(
            date(2018, 6, 3),
            date(2018, 6, 3),
            "lost",
        )];
        let hour = Window::hour(date(2018, 6, 5), 0).unwrap();
        let root = ArchiveRoot::new("", "c1", "space");
        let keys = [
            Key::Receipt(day(1)),
            Key::Events(day(1)),
            Key::Expired(day(2)),
            Key::Events(day(4)),
            Key::Receipt(hour),
            Key::Receipt(day(6)),
        ];
        let row = |key: &Key| ObjectSummary {
            key: root.key(key).unwrap(),
            size: 50,
            etag: None,
            last_modified: None,
        };
        let mut journal = Journal::from_listing(&root, &keys.iter().map(row).collect::<Vec<_>>());
        for (window, events, object) in [(day(1), 5, true), (hour, 0, false), (day(6), 5, true)] {
            let verdict = if object { Verdict::Matched } else { Verdict::Empty };
            journal.receipts.insert(
                window,
                Some(Box::new(receipt(&export.source, events, verdict, object))),
            );
        }
        let expired = ExpiredFacts {
            source: export.source.clone(),
            oldest_listed: date(2018, 6, 3),
        };
        journal.expired.insert(day(2), Some(expired));
        let now: Timestamp = "2018-06-08T07:00:00Z".parse().unwrap();
        let plan = plan(&export, &DestinationListing::Listed(Box::new(journal)), now);
        let states: Vec<&WindowState> = plan.windows.iter().map(|(_, state)| state).collect();
        let partial = HourSet::from_iter([day(5)]).difference(&HourSet::from_iter([hour]));
        assert_eq!(
            states,
            [
                &WindowState::Covered,
                &WindowState::Expired,
                &WindowState::Accepted,
                &WindowState::Damaged(Damage::Orphaned),
                &WindowState::Partial(partial),
                &WindowState::Damaged(Damage::ObjectMissing),
                &WindowState::Missing,
                &WindowState::NotDue,
            ]
        );
        // The 23 other hours of the fifth, and the seventh.
        assert_eq!((plan.sessions.len(), plan.concurrency), (24, 4));
        assert_eq!(plan.requests, 3 + 24 * 6);
        assert!(plan.needs_manual_action());
    }
}
