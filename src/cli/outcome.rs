//! Outcome of an export, from its last snapshot; determines the exit code. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;

use super::exit::Exit;
use super::totals::ExportTotals;
use super::window_outcome::{WindowOutcome, WindowRow, missing_state, stored_facts};
use crate::api::Reason;
use crate::archive::coverage::Growth;
use crate::archive::manifest::Head;
use crate::archive::window::{HourSet, Window};
use crate::export::failure::{Problem, RetryClass};
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;

/// Name of a session whose id is not known.
pub const UNKNOWN_SESSION: &str = "unknown";

/// Outcome of an export.
#[derive(Clone, Debug)]
pub struct ExportOutcome {
    /// Every wanted window, oldest first.
    pub rows: Vec<WindowRow>,
    /// Totals over the windows.
    pub totals: ExportTotals,
    /// Sessions that are or may be open, and `unknown` if an attempt may have opened one that is not known.
    pub sessions: Vec<String>,
    /// Windows of attempts that may have a session open.
    pub open_attempts: Vec<Window>,
    /// True if every window that is due is covered or accepted, no attempt is open, and every due manifest exists.
    pub finished: bool,
    /// Earliest time at which another run gets further; `None`: not known, or nothing to wait for.
    pub rerun_at: Option<Timestamp>,
    /// Problems and waits, the worst first.
    pub problems: Vec<Problem>,
    /// True if the destination was listed.
    pub observed: bool,
    /// Stored days of which the service reports more events than the archive has.
    pub grown: BTreeMap<Date, Growth>,
    /// True if a due manifest is missing.
    pub manifest_due: bool,
    /// Newest manifest, to be remembered outside of the archive.
    pub head: Option<Head>,
    /// Time of the next work of a continuous export.
    pub next_run_at: Option<Timestamp>,
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
                Some((facts, true)) => (facts, WindowOutcome::StoredNow),
                Some((facts, false)) => (facts, WindowOutcome::AlreadyStored),
                None if accepts(window) => (None, WindowOutcome::Accepted),
                None => (None, missing_state(export, window, snapshot, now)),
            };
            totals.add(stored.as_ref(), &state);
            let partial = snapshot.covered.intersects(window) && !snapshot.covered.contains(window);
            WindowRow {
                window,
                stored,
                state,
                partial,
            }
        })
        .collect();
    ExportOutcome {
        rows,
        totals,
        sessions: open_sessions(snapshot),
        open_attempts: snapshot.open_attempts.clone(),
        finished: snapshot.finished,
        rerun_at: rerun_at(&snapshot.problems),
        problems: snapshot.problems.clone(),
        observed: snapshot.observed,
        grown: snapshot.grown.clone(),
        manifest_due: snapshot.manifest_due,
        head: snapshot.head.as_ref().map(|record| record.head.clone()),
        next_run_at: snapshot.next_run_at,
    }
}

impl ExportOutcome {
    /// Returns [`Exit::Done`] only if every due window is stored or accepted, no attempt or session is left, every due
    /// manifest exists, and there is no problem other than a wait, such as for the end of the day.
    pub fn exit(&self) -> Exit {
        let only_waits = self
            .problems
            .iter()
            .all(|problem| matches!(problem.class, RetryClass::Wait(_)));
        let stored = self.totals.missing == 0 && self.sessions.is_empty();
        let done = self.observed && self.finished && stored && !self.manifest_due && only_waits;
        if done { Exit::Done } else { Exit::Failed }
    }

    /// Returns the missing windows as merged ranges, at most `max`.
    pub fn missing(&self, max: usize) -> Vec<String> {
        let missing = self.rows.iter().filter(|row| row.state.is_missing());
        missing.map(|row| row.window).collect::<HourSet>().ranges(max)
    }
}

/// Returns the sessions that are or may be open. Each open attempt has one, known or not.
fn open_sessions(snapshot: &Snapshot) -> Vec<String> {
    let known = snapshot.sessions.iter().map(|session| session.id.clone());
    if snapshot.open_attempts.is_empty() {
        return known.collect();
    }
    let mut sessions: BTreeSet<String> = known.collect();
    sessions.extend(snapshot.suspected_sessions.iter().cloned());
    let unknown = sessions.len() < snapshot.open_attempts.len();
    let unknown = unknown.then(|| UNKNOWN_SESSION.to_owned());
    sessions.into_iter().chain(unknown).collect()
}

/// Returns the latest known end of the waits that this run does not make.
fn rerun_at(problems: &[Problem]) -> Option<Timestamp> {
    let ends = problems.iter().filter_map(|problem| match problem.class {
        RetryClass::Wait(end) if problem.reason != Reason::NotSettled => end,
        RetryClass::Wait(_) | RetryClass::Retry(_) | RetryClass::Manual => None,
    });
    ends.max()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use jiff::civil::date;

    use super::*;
    use crate::archive::counts::Verdict;
    use crate::archive::receipt::{Sha256Digest, WindowFacts};
    use crate::export::snapshot::SessionFacts;
    use crate::export::spec::RetryPolicy;

    pub(crate) fn export(days: i8) -> ExportSpec {
        ExportSpec {
            end: Some(date(2018, 6, days)),
            single_writer: true,
            retry_policy: RetryPolicy::MaxAttempts(5),
            ..ExportSpec::new("audit", "s", "http://simulator.invalid", "", date(2018, 6, 1))
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
            sha256: (events > 0).then_some(Sha256Digest([0xab; 32])),
            stored_now,
            revision: 0,
            late_events: 0,
        }
    }

    pub(crate) fn snapshot(windows: Vec<(Window, WindowFacts)>) -> Snapshot {
        Snapshot {
            observed: true,
            finished: true,
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
            next_try: None,
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
        let unfinished = Snapshot {
            finished: false,
            ..all.clone()
        };
        assert_eq!(evaluate(&export(2), &unfinished, later()).exit(), Exit::Failed);
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
        let states: Vec<WindowOutcome> = outcome.rows.iter().map(|row| row.state.clone()).collect();
        let due = |text: &str| WindowOutcome::NotDue(text.parse().unwrap());
        assert_eq!(
            states,
            [
                WindowOutcome::StoredNow,
                WindowOutcome::Expired,
                WindowOutcome::Failed(Reason::Short),
                WindowOutcome::Accepted,
                WindowOutcome::Waiting(Reason::SpaceFull),
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
