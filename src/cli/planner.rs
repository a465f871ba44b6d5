//! What a run would do about each window, from the keys of the destination alone. No I/O.

use jiff::Timestamp;

use crate::export::keys::Key;
use crate::export::spec::ExportSpec;
use crate::export::window::{HourSet, Window};

/// Requests to the service once in a run: its description, a token, the listing of its days.
pub const REQUESTS_PER_RUN: u64 = 3;

/// Requests for each window: list the sessions, open one, download, list the days again, delete the session.
pub const REQUESTS_PER_WINDOW: u64 = 5;

/// What is known of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationListing {
    /// Its keys.
    Listed {
        /// All below the root.
        keys: Vec<Key>,
        /// The source that its newest receipt names.
        source: Option<String>,
    },
    /// Nothing, and why.
    Unavailable(String),
}

/// What a run would do for one export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPlan {
    /// Every wanted window with what is to be done about it.
    pub windows: Vec<(Window, PlannedAction)>,
    /// Windows of sessions to open: days, or hours of days that are stored in part or were split.
    pub sessions: Vec<Window>,
    /// Sessions that are open at once at most.
    pub concurrency: usize,
    /// Requests to the service, when all goes well: about.
    pub requests: u64,
}

/// What a run does about a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedAction {
    /// Exports it, or what is missing of it.
    Export,
    /// Nothing: it has a receipt.
    Stored,
    /// Nothing: a person accepted the gap.
    Accepted,
    /// Nothing before then.
    NotDue(Timestamp),
    /// Nothing: the service was found not to have it any more.
    Expired,
    /// Looks whether the object that lies there is its own.
    Adopt,
}

impl PlannedAction {
    /// As programs read it.
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
    /// What is to be said of a destination that counts for less than it seems.
    pub fn warning(&self, export: &ExportSpec) -> Option<String> {
        match self {
            Self::Unavailable(why) => Some(format!("not looked at, so nothing counts as stored: {why}")),
            Self::Listed {
                source: Some(source), ..
            } if *source != export.source => Some(format!(
                "its receipts are about {source}: a run does not count them (SourceMismatch)"
            )),
            Self::Listed { .. } => None,
        }
    }
}

/// What a run at `now` does, as far as keys tell.
pub fn plan(export: &ExportSpec, listing: &DestinationListing, now: Timestamp) -> RunPlan {
    let keys: &[Key] = match listing {
        DestinationListing::Listed { keys, .. } => keys,
        DestinationListing::Unavailable(_) => &[],
    };
    let cells = |of: fn(&Key) -> Option<Window>| keys.iter().filter_map(of).collect::<HourSet>();
    let covered = cells(|key| {
        if let Key::Receipt(window) = key {
            Some(*window)
        } else {
            None
        }
    });
    let expired = cells(|key| {
        if let Key::Expired(window) = key {
            Some(*window)
        } else {
            None
        }
    });
    let objects = cells(|key| {
        if let Key::Events(window) = key {
            Some(*window)
        } else {
            None
        }
    })
    .difference(&covered);
    let split = cells(|key| {
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

/// One session for a whole window; for a day that is stored in part, or was split, one for each missing hour.
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
        export.accepted_gaps = vec![crate::export::manifest::document::GapEntry::new(
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
