//! What became of every window that an export wants, from its last snapshot: decides the exit code. No I/O.

use std::sync::Arc;

use jiff::Timestamp;

use super::exit::Exit;
use super::totals::Totals;
use crate::api::Reason;
use crate::export::failure::{Remedy, Trouble};
use crate::export::snapshot::{Snapshot, WindowFacts};
use crate::export::verdict::Verdict;
use crate::export::window::{Cells, Window};
use crate::export::wish::Export;

/// What became of an export.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every wanted window up to its range's end, oldest first.
    pub rows: Vec<Row>,
    /// Sums over the stored ones.
    pub totals: Totals,
    /// Sessions that are open, or may be.
    pub sessions: Vec<String>,
    /// What is wrong or waited for, the worst first.
    pub troubles: Vec<Trouble>,
    /// Whether the destination was seen at all.
    pub observed: bool,
    /// Whether a manifest is due that is not there.
    pub sealing: bool,
    /// When a continuous export has something to do again.
    pub next_look: Option<Timestamp>,
}

/// What became of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The day, or the hour where an hour was asked for.
    pub window: Window,
    /// What is stored of it.
    pub stored: Option<StoredFacts>,
    /// Where it stands.
    pub state: State,
}

/// What is stored of a window: one object, or the sum of the hours of a day that was split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFacts {
    /// Events counted.
    pub events: u64,
    /// Events that the service reported, where it did for all of it.
    pub reported: Option<u64>,
    /// Bytes as stored.
    pub bytes: u64,
    /// The weakest verdict of its objects.
    pub verdict: Verdict,
    /// SHA-256 of the object, where it is one.
    pub sha256: Option<Arc<str>>,
    /// How many receipts it is made of: 1, or up to 24 hours.
    pub receipts: usize,
}

/// Where a window stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// This run stored it.
    StoredNow,
    /// Its receipt was there.
    AlreadyThere,
    /// A gap that a person accepted in the spec.
    Accepted,
    /// Not over, or `settleAfter` has not passed: due then.
    NotDue(Timestamp),
    /// The service no longer has it.
    Expired,
    /// It waits for something outside.
    Waits(Reason),
    /// Its last try failed.
    Failed(Reason),
    /// Nothing was tried.
    Untouched,
}

impl State {
    /// Whether it is due and neither stored nor accepted.
    pub const fn is_missing(&self) -> bool {
        match self {
            Self::StoredNow | Self::AlreadyThere | Self::Accepted | Self::NotDue(_) => false,
            Self::Expired | Self::Waits(_) | Self::Failed(_) | Self::Untouched => true,
        }
    }
}

/// What became of `export`, as `snapshot` shows it at `now`.
pub fn of(export: &Export, snapshot: &Snapshot, now: Timestamp) -> Outcome {
    let windows: Vec<Window> = export.windows(now).collect();
    let wanted: Cells = windows.iter().copied().collect();
    let accepted = export.accepted_cells(&wanted);
    // An accepted gap may be a part of a window whose other hours are stored.
    let settled = accepted.union(&snapshot.covered);
    let accepts = |window| accepted.touches(window) && settled.contains(window);
    let mut totals = Totals::default();
    let rows: Vec<Row> = windows
        .into_iter()
        .map(|window| {
            let stored = stored(window, snapshot);
            let (stored, state) = match stored {
                Some((facts, true)) => (facts, State::StoredNow),
                Some((facts, false)) => (facts, State::AlreadyThere),
                None if accepts(window) => (None, State::Accepted),
                None => (None, unstored(export, window, snapshot, now)),
            };
            totals.add(stored.as_ref(), &state);
            Row {
                window,
                stored,
                state,
            }
        })
        .collect();
    Outcome {
        rows,
        totals,
        sessions: snapshot
            .sessions
            .iter()
            .map(|session| session.id.clone())
            .collect(),
        troubles: snapshot.troubles.clone(),
        observed: snapshot.observed,
        sealing: snapshot.sealing,
        next_look: snapshot.next_look,
    }
}

impl Outcome {
    /// 0 only where all that is due is stored or accepted, no session is left, every manifest that is due is there,
    /// and nothing is wrong that a person must know (a wait for the next day to be over is not wrong).
    pub fn exit(&self) -> Exit {
        let fine = self
            .troubles
            .iter()
            .all(|trouble| matches!(trouble.remedy, Remedy::Wait(_)));
        let stored = self.totals.missing == 0 && self.sessions.is_empty();
        let done = self.observed && stored && !self.sealing && fine;
        if done { Exit::Done } else { Exit::Failed }
    }

    /// What is due and missing, as merged ranges, at most `max`.
    pub fn missing(&self, max: usize) -> Vec<String> {
        let missing = self.rows.iter().filter(|row| row.state.is_missing());
        missing.map(|row| row.window).collect::<Cells>().ranges(max)
    }
}

/// The facts of a covered window, and whether this run stored any of it; facts are absent where the snapshot
/// says only that it is covered.
fn stored(window: Window, snapshot: &Snapshot) -> Option<(Option<StoredFacts>, bool)> {
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
            Some(sum) => sum.and(facts),
        });
    }
    Some((sum, now))
}

fn unstored(export: &Export, window: Window, snapshot: &Snapshot, now: Timestamp) -> State {
    let due = export.settled_at(window);
    if due > now {
        return State::NotDue(due);
    }
    if snapshot.expired.touches(window) {
        return State::Expired;
    }
    let of_day = |trouble: &&Trouble| trouble.window.is_some_and(|other| other.date() == window.date());
    let own = snapshot.troubles.iter().find(of_day);
    // What concerns the whole export explains a window that nobody tried.
    match own.or_else(|| snapshot.troubles.iter().find(|trouble| trouble.window.is_none())) {
        None => State::Untouched,
        Some(trouble) => match trouble.remedy {
            Remedy::Wait(_) => State::Waits(trouble.reason),
            Remedy::Retry(_) | Remedy::Person => State::Failed(trouble.reason),
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
    fn and(self, other: &WindowFacts) -> Self {
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
        Verdict::Short => 4,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use jiff::SignedDuration;
    use jiff::civil::date;

    use super::*;
    use crate::export::keys::Root;
    use crate::export::shard::Shard;
    use crate::export::snapshot::SessionFacts;
    use crate::export::wish::{Persistence, Scope};

    pub(crate) fn export(days: i8) -> Export {
        Export {
            name: "audit".to_owned(),
            space: "s".to_owned(),
            scope: Scope::Space,
            start: date(2018, 6, 1),
            end: Some(date(2018, 6, days)),
            hour: None,
            source: "http://simulator.invalid".to_owned(),
            root: Root::new("", "s", "space"),
            shard: Shard::WHOLE,
            parallelism: 4,
            settle_after: SignedDuration::from_hours(6),
            accepted: Vec::new(),
            holder: "h".to_owned(),
            tenure: None,
            single_writer: true,
            persistence: Persistence::Tries(5),
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

    fn trouble(reason: Reason, window: Option<Window>, remedy: Remedy) -> Trouble {
        Trouble {
            reason,
            message: "why".to_owned(),
            window,
            remedy,
            again: None,
        }
    }

    #[test]
    fn nothing_due_and_missing_looks_done() {
        let all = snapshot(vec![(day(1), facts(5, true)), (day(2), facts(0, false))]);
        let outcome = of(&export(2), &all, later());
        assert_eq!(outcome.exit(), Exit::Done);
        assert_eq!(
            (
                outcome.totals.stored_now,
                outcome.totals.already_there,
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
        assert_eq!(of(&export(2), &open, later()).exit(), Exit::Failed);
        let short = Snapshot {
            troubles: vec![trouble(Reason::Short, Some(day(1)), Remedy::Person)],
            ..all.clone()
        };
        assert_eq!(of(&export(2), &short, later()).exit(), Exit::Failed);
        assert_eq!(of(&export(3), &all, later()).exit(), Exit::Failed);
        assert_eq!(of(&export(2), &Snapshot::default(), later()).exit(), Exit::Failed);
    }

    #[test]
    fn each_window_that_is_not_stored_says_why() {
        let mut seen = snapshot(vec![(day(1), facts(5, true))]);
        seen.expired.insert(day(2));
        seen.troubles = vec![
            trouble(Reason::Short, Some(day(3)), Remedy::Person),
            trouble(Reason::SpaceFull, None, Remedy::Wait(None)),
        ];
        let mut export = export(7);
        export.accepted = vec![crate::export::manifest::document::GapEntry::new(
            date(2018, 6, 4),
            date(2018, 6, 4),
            "lost",
        )];
        let now: Timestamp = "2018-06-07T05:00:00Z".parse().unwrap();
        let outcome = of(&export, &seen, now);
        let states: Vec<State> = outcome.rows.iter().map(|row| row.state.clone()).collect();
        let due = |text: &str| State::NotDue(text.parse().unwrap());
        assert_eq!(
            states,
            [
                State::StoredNow,
                State::Expired,
                State::Failed(Reason::Short),
                State::Accepted,
                State::Waits(Reason::SpaceFull),
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
        let outcome = of(&export(1), &snapshot(hours), later());
        let row = outcome.rows[0].stored.clone().unwrap();
        assert_eq!(
            (row.events, row.receipts, row.verdict),
            (48, 24, Verdict::Unknown)
        );
        assert_eq!((row.reported, row.sha256), (None, None));
        assert_eq!(outcome.exit(), Exit::Done);
    }
}
