//! Outcome of an export by window, from its last snapshot; determines the exit code. No I/O.

use std::sync::Arc;

use jiff::Timestamp;

use super::exit::Exit;
use super::totals::ExportTotals;
use crate::api::Reason;
use crate::archive::counts::Verdict;
use crate::archive::listing::WindowFacts;
use crate::archive::window::{HourSet, Window};
use crate::export::failure::{Problem, RetryClass};
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;

/// Outcome of an export.
#[derive(Clone, Debug)]
pub struct ExportOutcome {
    /// Every wanted window, oldest first.
    pub rows: Vec<WindowRow>,
    /// Totals over the windows.
    pub totals: ExportTotals,
    /// Sessions that are or may be open.
    pub sessions: Vec<String>,
    /// Problems and waits, the worst first.
    pub problems: Vec<Problem>,
    /// True if the destination was listed.
    pub observed: bool,
    /// True if a due manifest is missing.
    pub manifest_due: bool,
    /// Time of the next work of a continuous export.
    pub next_run_at: Option<Timestamp>,
}

/// Outcome of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRow {
    /// Day, or hour if the spec requests an hour.
    pub window: Window,
    /// Facts of the stored data.
    pub stored: Option<StoredFacts>,
    /// State of the window.
    pub state: WindowState,
}

/// Stored data of a window: one object, or the sum of the hours of a split day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFacts {
    /// Events counted.
    pub events: u64,
    /// Events that the service reported; absent unless it did for every receipt.
    pub reported: Option<u64>,
    /// Bytes as stored.
    pub bytes: u64,
    /// Weakest verdict of the receipts.
    pub verdict: Verdict,
    /// SHA-256 of the object, if there is exactly one.
    pub sha256: Option<Arc<str>>,
    /// Number of receipts: 1, or up to 24 for a split day.
    pub receipts: usize,
}

/// State of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// This run stored it.
    StoredNow,
    /// An earlier run stored it.
    AlreadyStored,
    /// The spec accepts the gap.
    Accepted,
    /// Not over, or `settleAfter` has not passed; due at this time.
    NotDue(Timestamp),
    /// The service no longer has it.
    Expired,
    /// Waits for an external condition.
    Waiting(Reason),
    /// The last attempt failed.
    Failed(Reason),
    /// No attempt was made.
    NotTried,
}

impl WindowState {
    /// True if the window is due and neither stored nor accepted.
    pub const fn is_missing(&self) -> bool {
        match self {
            Self::StoredNow | Self::AlreadyStored | Self::Accepted | Self::NotDue(_) => false,
            Self::Expired | Self::Waiting(_) | Self::Failed(_) | Self::NotTried => true,
        }
    }
}

/// Returns the outcome of `export` at `now` from its snapshot.
pub fn evaluate(export: &ExportSpec, snapshot: &Snapshot, now: Timestamp) -> ExportOutcome {
    let windows: Vec<Window> = export.windows(now).collect();
    let wanted: HourSet = windows.iter().copied().collect();
    let accepted = export.accepted_hours(&wanted);
    // An accepted gap may cover a part of a window with the other hours stored.
    let settled = accepted.union(&snapshot.covered);
    let accepts = |window| accepted.intersects(window) && settled.contains(window);
    let mut totals = ExportTotals::default();
    let rows: Vec<WindowRow> = windows
        .into_iter()
        .map(|window| {
            let stored = stored_facts(window, snapshot);
            let (stored, state) = match stored {
                Some((facts, true)) => (facts, WindowState::StoredNow),
                Some((facts, false)) => (facts, WindowState::AlreadyStored),
                None if accepts(window) => (None, WindowState::Accepted),
                None => (None, missing_state(export, window, snapshot, now)),
            };
            totals.add(stored.as_ref(), &state);
            WindowRow {
                window,
                stored,
                state,
            }
        })
        .collect();
    ExportOutcome {
        rows,
        totals,
        sessions: snapshot
            .sessions
            .iter()
            .map(|session| session.id.clone())
            .collect(),
        problems: snapshot.problems.clone(),
        observed: snapshot.observed,
        manifest_due: snapshot.manifest_due,
        next_run_at: snapshot.next_run_at,
    }
}

impl ExportOutcome {
    /// Returns [`Exit::Done`] only if every due window is stored or accepted, no session is left, every due manifest
    /// exists, and there is no problem other than a wait, such as for the end of the day.
    pub fn exit(&self) -> Exit {
        let only_waits = self
            .problems
            .iter()
            .all(|problem| matches!(problem.class, RetryClass::Wait(_)));
        let stored = self.totals.missing == 0 && self.sessions.is_empty();
        let done = self.observed && stored && !self.manifest_due && only_waits;
        if done { Exit::Done } else { Exit::Failed }
    }

    /// Returns the missing windows as merged ranges, at most `max`.
    pub fn missing(&self, max: usize) -> Vec<String> {
        let missing = self.rows.iter().filter(|row| row.state.is_missing());
        missing.map(|row| row.window).collect::<HourSet>().ranges(max)
    }
}

/// Returns the facts of a covered window, and true if this run stored any of it. The facts are absent if the snapshot
/// has only the coverage.
fn stored_facts(window: Window, snapshot: &Snapshot) -> Option<(Option<StoredFacts>, bool)> {
    if !snapshot.covered.contains(window) {
        return None;
    }
    let day = Window::day(window.date());
    if let Some(facts) = snapshot
        .windows
        .get(&window)
        .or_else(|| snapshot.windows.get(&day))
    {
        return Some((Some(StoredFacts::from(facts)), facts.stored_now));
    }
    let hours = snapshot
        .windows
        .iter()
        .filter(|(part, _)| part.date() == window.date())
        .map(|(_, facts)| facts);
    let mut sum: Option<StoredFacts> = None;
    let mut now = false;
    for facts in hours {
        now |= facts.stored_now;
        sum = Some(match sum {
            None => StoredFacts::from(facts),
            Some(sum) => sum.merge(facts),
        });
    }
    Some((sum, now))
}

fn missing_state(export: &ExportSpec, window: Window, snapshot: &Snapshot, now: Timestamp) -> WindowState {
    let due = export.due_at(window);
    if due > now {
        return WindowState::NotDue(due);
    }
    if snapshot.expired.intersects(window) {
        return WindowState::Expired;
    }
    let of_day = |problem: &&Problem| problem.window.is_some_and(|other| other.date() == window.date());
    let own = snapshot.problems.iter().find(of_day);
    // A problem of the whole export explains a window without an attempt.
    match own.or_else(|| snapshot.problems.iter().find(|problem| problem.window.is_none())) {
        None => WindowState::NotTried,
        Some(problem) => match problem.class {
            RetryClass::Wait(_) => WindowState::Waiting(problem.reason),
            RetryClass::Retry(_) | RetryClass::Manual => WindowState::Failed(problem.reason),
        },
    }
}

impl From<&WindowFacts> for StoredFacts {
    fn from(facts: &WindowFacts) -> Self {
        let WindowFacts {
            bytes,
            events,
            reported,
            verdict,
            uncounted: _,
            sha256,
            stored_now: _,
        } = facts.clone();
        Self {
            events,
            reported,
            bytes,
            verdict,
            sha256,
            receipts: 1,
        }
    }
}

impl StoredFacts {
    fn merge(self, other: &WindowFacts) -> Self {
        Self {
            events: self.events.saturating_add(other.events),
            reported: self
                .reported
                .zip(other.reported)
                .map(|(one, two)| one.saturating_add(two)),
            bytes: self.bytes.saturating_add(other.bytes),
            verdict: if weakness(other.verdict) > weakness(self.verdict) {
                other.verdict
            } else {
                self.verdict
            },
            sha256: None,
            receipts: self.receipts + 1,
        }
    }
}

const fn weakness(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Empty => 0,
        Verdict::Matched => 1,
        Verdict::Over => 2,
        Verdict::Unknown => 3,
        Verdict::Uncounted => 4,
        Verdict::Short => 5,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use jiff::SignedDuration;
    use jiff::civil::date;

    use super::*;
    use crate::api::{Scope, SettingNames};
    use crate::archive::layout::ArchiveRoot;
    use crate::export::shard::Shard;
    use crate::export::snapshot::SessionFacts;
    use crate::export::spec::RetryPolicy;

    pub(crate) fn export(days: i8) -> ExportSpec {
        ExportSpec {
            name: "audit".to_owned(),
            space: "s".to_owned(),
            scope: Scope::Space,
            start: date(2018, 6, 1),
            end: Some(date(2018, 6, days)),
            hour: None,
            source: "http://simulator.invalid".to_owned(),
            root: ArchiveRoot::new("", "s", "space"),
            shard: Shard::SINGLE,
            parallelism: 4,
            settle_after: SignedDuration::from_hours(6),
            accepted_gaps: Vec::new(),
            holder: "h".to_owned(),
            holder_epoch: None,
            single_writer: true,
            retry_policy: RetryPolicy::MaxAttempts(5),
            setting_names: SettingNames::default(),
        }
    }

    pub(crate) fn facts(events: u64, stored_now: bool) -> WindowFacts {
        WindowFacts {
            bytes: events * 10,
            events,
            reported: Some(events),
            verdict: if events == 0 {
                Verdict::Empty
            } else {
                Verdict::Matched
            },
            uncounted: None,
            sha256: (events > 0).then(|| "ab".repeat(32).into()),
            stored_now,
        }
    }

    pub(crate) fn snapshot(windows: Vec<(Window, WindowFacts)>) -> Snapshot {
        Snapshot {
            observed: true,
            covered: windows.iter().map(|(window, _)| *window).collect(),
            windows: Arc::new(windows.into_iter().collect::<BTreeMap<_, _>>()),
            ..Snapshot::default()
        }
    }

    fn day(day: i8) -> Window {
        Window::day(date(2018, 6, day))
    }

    fn later() -> Timestamp {
        "2019-01-01T00:00:00Z".parse().unwrap()
    }

    fn problem(reason: Reason, window: Option<Window>, class: RetryClass) -> Problem {
        Problem {
            reason,
            message: "why".to_owned(),
            window,
            class,
            retry_at: None,
        }
    }

    #[test]
    fn exit_is_success_only_when_all_due_windows_are_stored() {
        let all = snapshot(vec![(day(1), facts(5, true)), (day(2), facts(0, false))]);
        let outcome = evaluate(&export(2), &all, later());
        assert_eq!(outcome.exit(), Exit::Done);
        assert_eq!(
            (
                outcome.totals.stored_now,
                outcome.totals.already_stored,
                outcome.totals.empty
            ),
            (1, 1, 1)
        );

        let session = SessionFacts {
            id: "id".to_owned(),
            window: day(1),
        };
        let open = Snapshot {
            sessions: vec![session],
            ..all.clone()
        };
        assert_eq!(evaluate(&export(2), &open, later()).exit(), Exit::Failed);
        let short = Snapshot {
            problems: vec![problem(Reason::Short, Some(day(1)), RetryClass::Manual)],
            ..all.clone()
        };
        assert_eq!(evaluate(&export(2), &short, later()).exit(), Exit::Failed);
        assert_eq!(evaluate(&export(3), &all, later()).exit(), Exit::Failed);
        assert_eq!(
            evaluate(&export(2), &Snapshot::default(), later()).exit(),
            Exit::Failed
        );
    }

    #[test]
    fn each_missing_window_states_its_reason() {
        let mut seen = snapshot(vec![(day(1), facts(5, true))]);
        seen.expired.insert(day(2));
        seen.problems = vec![
            problem(Reason::Short, Some(day(3)), RetryClass::Manual),
            problem(Reason::SpaceFull, None, RetryClass::Wait(None)),
        ];
        let mut export = export(7);
        export.accepted_gaps = vec![crate::archive::manifest::document::GapEntry::new(
            date(2018, 6, 4),
            date(2018, 6, 4),
            "lost",
        )];
        let now: Timestamp = "2018-06-07T05:00:00Z".parse().unwrap();
        let outcome = evaluate(&export, &seen, now);
        let states: Vec<WindowState> = outcome.rows.iter().map(|row| row.state.clone()).collect();
        let due = |text: &str| WindowState::NotDue(text.parse().unwrap());
        assert_eq!(
            states,
            [
                WindowState::StoredNow,
                WindowState::Expired,
                WindowState::Failed(Reason::Short),
                WindowState::Accepted,
                WindowState::Waiting(Reason::SpaceFull),
                due("2018-06-07T06:00:00Z"),
                due("2018-06-08T06:00:00Z"),
            ]
        );
        assert_eq!(outcome.missing(9), ["2018-06-02/2018-06-03", "2018-06-05"]);
        assert_eq!(outcome.totals.missing, 3);
    }

    #[test]
    fn a_day_stored_by_the_hour_is_one_row_with_the_weakest_verdict() {
        let mut hours: Vec<(Window, WindowFacts)> = Window::split(date(2018, 6, 1))
            .map(|hour| (hour, facts(2, true)))
            .collect();
        hours[3].1.verdict = Verdict::Unknown;
        hours[3].1.reported = None;
        let outcome = evaluate(&export(1), &snapshot(hours), later());
        let row = outcome.rows[0].stored.clone().unwrap();
        assert_eq!(
            (row.events, row.receipts, row.verdict),
            (48, 24, Verdict::Unknown)
        );
        assert_eq!((row.reported, row.sha256), (None, None));
        assert_eq!(outcome.exit(), Exit::Done);
    }
}
