//! Plans the action of a run for each window, from the keys of the destination. No I/O.

use jiff::Timestamp;

use crate::archive::layout::Key;
use crate::archive::window::{HourSet, Window};
use crate::export::spec::ExportSpec;

/// Requests to the service per run: service description, token, list of days.
pub const REQUESTS_PER_RUN: u64 = 3;

/// Requests to the service per window: list sessions, open one, download, list days, delete the session.
pub const REQUESTS_PER_WINDOW: u64 = 5;

/// Listing of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationListing {
    /// The destination was listed.
    Listed {
        /// Keys below the root.
        keys: Vec<Key>,
        /// Source in the newest receipt.
        source: Option<String>,
    },
    /// The destination was not listed, for this reason.
    Unavailable(String),
}

/// Plan of a run for one export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPlan {
    /// Every wanted window with its action.
    pub windows: Vec<(Window, PlannedAction)>,
    /// Windows of the sessions to open: days, or hours of days that are partly stored or were split.
    pub sessions: Vec<Window>,
    /// Maximum number of concurrent sessions.
    pub concurrency: usize,
    /// Estimated requests to the service if nothing fails.
    pub requests: u64,
}

/// Action of a run for a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedAction {
    /// Export it, or its missing hours.
    Export,
    /// None: it has a receipt.
    Stored,
    /// None: the spec accepts the gap.
    Accepted,
    /// None before this time.
    NotDue(Timestamp),
    /// None: the service no longer has it.
    Expired,
    /// Check the object that exists without a receipt, and adopt it if it is from this exporter.
    Adopt,
}

impl PlannedAction {
    /// Returns the value in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Export => "Export",
            Self::Stored => "Stored",
            Self::Accepted => "AcceptedGap",
            Self::NotDue(_) => "NotDue",
            Self::Expired => "Expired",
            Self::Adopt => "ObjectWithoutReceipt",
        }
    }
}

impl DestinationListing {
    /// Returns a warning if the stored windows do not count.
    pub fn warning(&self, export: &ExportSpec) -> Option<String> {
        match self {
            Self::Unavailable(reason) => Some(format!("not listed, so nothing counts as stored: {reason}")),
            Self::Listed {
                source: Some(source), ..
            } if *source != export.source => Some(format!(
                "its receipts are from source {source}: a run does not count them (SourceMismatch)"
            )),
            Self::Listed { .. } => None,
        }
    }
}

/// Plans a run at `now` from the listing.
pub fn plan(export: &ExportSpec, listing: &DestinationListing, now: Timestamp) -> RunPlan {
    let keys: &[Key] = match listing {
        DestinationListing::Listed { keys, .. } => keys,
        DestinationListing::Unavailable(_) => &[],
    };
    let hours =
        |window_of: fn(&Key) -> Option<Window>| keys.iter().filter_map(window_of).collect::<HourSet>();
    let covered = hours(|key| {
        if let Key::Receipt(window) = key {
            Some(*window)
        } else {
            None
        }
    });
    let expired = hours(|key| {
        if let Key::Expired(window) = key {
            Some(*window)
        } else {
            None
        }
    });
    let objects = hours(|key| {
        if let Key::Events(window) = key {
            Some(*window)
        } else {
            None
        }
    })
    .difference(&covered);
    let split = hours(|key| {
        if let Key::Split(window) = key {
            Some(*window)
        } else {
            None
        }
    });
    let wanted: HourSet = export.windows(now).collect();
    let settled = export.accepted_hours(&wanted).union(&covered);

    let planned_action = |window: Window| match window {
        window if covered.contains(window) => PlannedAction::Stored,
        window if settled.contains(window) => PlannedAction::Accepted,
        window if export.due_at(window) > now => PlannedAction::NotDue(export.due_at(window)),
        window if expired.intersects(window) => PlannedAction::Expired,
        window if objects.intersects(window) => PlannedAction::Adopt,
        _ => PlannedAction::Export,
    };
    let windows: Vec<(Window, PlannedAction)> = export
        .windows(now)
        .map(|window| (window, planned_action(window)))
        .collect();
    let sessions: Vec<Window> = windows
        .iter()
        .filter(|(_, action)| *action == PlannedAction::Export)
        .flat_map(|(window, _)| sessions_for(*window, &covered, &split))
        .collect();
    let requests = match sessions.len() as u64 {
        0 => 0,
        number => REQUESTS_PER_RUN + REQUESTS_PER_WINDOW * number,
    };
    RunPlan {
        windows,
        concurrency: sessions.len().min(export.parallelism),
        requests,
        sessions,
    }
}

/// Returns one session for the window, or one for each missing hour of a day that is partly stored or was split.
fn sessions_for(window: Window, covered: &HourSet, split: &HourSet) -> Vec<Window> {
    if window.hour_of_day().is_some() || !(covered.intersects(window) || split.contains(window)) {
        return vec![window];
    }
    Window::split(window.date())
        .filter(|hour| !covered.contains(*hour))
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::cli::outcome::tests::export;

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
        let keys = vec![
            Key::Receipt(day(1)),
            Key::Events(day(1)),
            Key::Expired(day(2)),
            Key::Events(day(4)),
            Key::Receipt(hour),
            Key::Other,
        ];
        let now: Timestamp = "2018-06-08T07:00:00Z".parse().unwrap();
        let plan = plan(&export, &DestinationListing::Listed { keys, source: None }, now);
        let actions: Vec<PlannedAction> = plan.windows.iter().map(|(_, action)| *action).collect();
        let due = PlannedAction::NotDue("2018-06-09T06:00:00Z".parse().unwrap());
        assert_eq!(
            actions,
            [
                PlannedAction::Stored,
                PlannedAction::Expired,
                PlannedAction::Accepted,
                PlannedAction::Adopt,
                PlannedAction::Export,
                PlannedAction::Export,
                PlannedAction::Export,
                due
            ]
        );
        // The 23 other hours of the fifth, and two days.
        assert_eq!((plan.sessions.len(), plan.concurrency), (25, 4));
        assert_eq!(plan.requests, 3 + 25 * 5);
    }
}
