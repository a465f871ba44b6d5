//! Whatever may be seen, for tests of decisions: by hand, or at random.

use std::collections::BTreeSet;

use jiff::civil::{Date, date};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use ulid::Ulid;

use super::{Decision, Observation, decide};
use crate::api::Reason;
use crate::export::failure::{Failure, Remedy};
use crate::export::journal::{AttemptFacts, Journal, ReceiptFacts, ReceiptProof};
use crate::export::keys::{AttemptId, Root};
use crate::export::manifest::document::GapEntry;
use crate::export::memory::{Memory, Tried};
use crate::export::record::{AttemptRecord, Record as _};
use crate::export::shard::Shard;
use crate::export::snapshot::WindowFacts;
use crate::export::verdict::Verdict;
use crate::export::window::Window;
use crate::export::wish::{Export, Persistence, Scope};

pub(super) const FIRST: Date = date(2018, 6, 2);
pub(super) const SOURCE: &str = "https://a";

/// All that is seen, owned.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) export: Export,
    pub(super) journal: Journal,
    pub(super) active: BTreeSet<Window>,
    pub(super) busy: BTreeSet<AttemptId>,
    pub(super) sealing: bool,
    pub(super) memory: Memory,
    pub(super) now: Timestamp,
    pub(super) store_now: Timestamp,
}

impl World {
    pub(super) fn decide(&self) -> Decision {
        decide(&Observation {
            export: &self.export,
            journal: &self.journal,
            active: &self.active,
            busy: &self.busy,
            sealing: self.sealing,
            memory: &self.memory,
            // Of this moment, or of long ago.
            listed: self.now.min(at(-25)),
            now: self.now,
            store_now: self.store_now,
        })
    }
}

pub(super) fn id(window: Window, n: u16) -> AttemptId {
    AttemptId {
        window,
        ulid: Ulid::from_parts(u64::from(n) + 1, u128::from(n)),
    }
}

pub(super) fn at(hours: i64) -> Timestamp {
    let start = Window::day(FIRST.yesterday().unwrap()).end();
    start.checked_add(SignedDuration::from_hours(hours)).unwrap()
}

pub(super) fn receipt(bytes: u64, events: u64, source: &str, day_reported: Option<u64>) -> ReceiptFacts {
    let facts = WindowFacts {
        bytes,
        events,
        reported: None,
        verdict: Verdict::Matched,
        sha256: (bytes > 0).then(|| "".into()),
        stored_now: false,
    };
    ReceiptFacts {
        source: source.to_owned(),
        day_reported,
        stored_at: Timestamp::UNIX_EPOCH,
        facts,
        proof: ReceiptProof::default(),
    }
}

fn attempt(holder: &str, deadline: Timestamp) -> AttemptRecord {
    AttemptRecord {
        schema: AttemptRecord::SCHEMA.to_owned(),
        holder: holder.to_owned(),
        process: None,
        source: SOURCE.to_owned(),
        started_at: at(0),
        deadline,
        tracker_user: None,
        open_before: Vec::new(),
    }
}

pub(super) fn windows() -> impl Strategy<Value = Window> {
    // Around the range, so that what is outside is seen too.
    (
        -1i64..6,
        prop_oneof![3 => Just(None), 2 => (0u8..24).prop_map(Some), 2 => (6u8..9).prop_map(Some)],
    )
        .prop_map(|(day, hour)| {
            let date = FIRST.checked_add(day.days()).unwrap();
            hour.map_or(Window::day(date), |hour| Window::hour(date, hour).unwrap())
        })
}

pub(super) fn remedies() -> impl Strategy<Value = Remedy> {
    prop_oneof![
        Just(Remedy::Retry(None)),
        Just(Remedy::Wait(None)),
        Just(Remedy::Person)
    ]
}

pub(super) fn tried() -> impl Strategy<Value = Tried> {
    let reasons = prop_oneof![
        Just(Reason::SourceUnreachable),
        Just(Reason::SpaceFull),
        Just(Reason::Short)
    ];
    (remedies(), reasons, 1u32..5, 0u32..4, -30i64..200).prop_map(
        |(remedy, reason, times, timeouts, again)| Tried {
            times,
            since: Timestamp::MIN,
            timeouts,
            again: at(again),
            failure: Failure {
                remedy,
                ..Failure::retry(reason, "x")
            },
        },
    )
}

pub(super) fn exports() -> impl Strategy<Value = Export> {
    let hour = prop_oneof![2 => Just(None), 1 => (6u8..9).prop_map(Some)];
    let persistence = prop_oneof![Just(Persistence::Forever), (1u32..4).prop_map(Persistence::Tries)];
    let gaps = vec((0i64..5, 0i64..2), 0..2);
    (
        0i64..5,
        any::<bool>(),
        hour,
        persistence,
        gaps,
        1usize..4,
        0i64..30,
        prop_oneof![3 => Just((0, 1)), 1 => (0u64..2).prop_map(|index| (index, 2))],
    )
        .prop_map(
            |(days, ends, hour, persistence, gaps, parallelism, settle, (index, of))| {
                let day = |n: i64| FIRST.checked_add(n.days()).unwrap();
                Export {
                    name: "x".to_owned(),
                    space: "s".to_owned(),
                    scope: Scope::Space,
                    start: FIRST,
                    end: ends.then(|| day(days)),
                    hour,
                    source: SOURCE.to_owned(),
                    root: Root::new("p", "s", "space"),
                    shard: Shard::new(index, of).unwrap(),
                    parallelism,
                    settle_after: SignedDuration::from_hours(settle),
                    accepted: gaps
                        .into_iter()
                        .map(|(from, more)| GapEntry {
                            start: day(from),
                            end: day(from + more),
                            reason: "x".to_owned(),
                        })
                        .collect(),
                    holder: "we".to_owned(),
                    tenure: None,
                    single_writer: false,
                    persistence,
                }
            },
        )
}

/// What may be found of a window.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Stored,
    Empty,
    HoursOf {
        events: u64,
        reported: Option<u64>,
    },
    Stranger {
        foreign: bool,
    },
    OtherSource,
    ObjectMissing,
    Expired,
    Split,
    Attempt {
        ours: bool,
        late: bool,
        session: bool,
        prepared: bool,
        busy: bool,
        unsettled: Option<Tried>,
    },
}

pub(super) fn found() -> impl Strategy<Value = Found> {
    let attempts = (any::<[bool; 5]>(), proptest::option::of(tried())).prop_map(
        |([ours, late, session, prepared, busy], unsettled)| Found::Attempt {
            ours,
            late,
            session,
            prepared,
            busy,
            unsettled,
        },
    );
    prop_oneof![
        3 => Just(Found::Stored),
        1 => Just(Found::Empty),
        1 => (0u64..3, proptest::option::of(0u64..60))
            .prop_map(|(events, reported)| Found::HoursOf { events, reported }),
        1 => any::<bool>().prop_map(|foreign| Found::Stranger { foreign }),
        1 => Just(Found::OtherSource),
        1 => Just(Found::ObjectMissing),
        1 => Just(Found::Expired),
        1 => Just(Found::Split),
        3 => attempts,
    ]
}

impl World {
    pub(super) fn add(&mut self, n: u16, window: Window, found: Found) {
        let journal = &mut self.journal;
        let mut receipt_of = |window, facts: ReceiptFacts| {
            journal.receipts.insert(window, Some(facts));
        };
        match found {
            Found::Stored => {
                receipt_of(window, receipt(9, 1, SOURCE, None));
                journal.objects.insert(window, 9);
            }
            Found::Empty => receipt_of(window, receipt(0, 0, SOURCE, None)),
            Found::HoursOf { events, reported } => {
                for hour in Window::split(window.date()) {
                    receipt_of(hour, receipt(0, events, SOURCE, reported));
                }
            }
            Found::Stranger { foreign } => {
                journal.objects.insert(window, 9);
                if foreign {
                    self.memory.foreign.insert(window);
                }
            }
            Found::OtherSource => receipt_of(window, receipt(0, 0, "https://b", None)),
            Found::ObjectMissing => {
                receipt_of(window, receipt(9, 1, SOURCE, None));
                journal.objects.remove(&window);
            }
            Found::Expired => {
                journal.expired.insert(window);
            }
            Found::Split => {
                journal.splits.insert(Window::day(window.date()));
            }
            Found::Attempt {
                ours,
                late,
                session,
                prepared,
                busy,
                unsettled,
            } => {
                let id = id(window, n);
                let deadline = if late { at(-40) } else { at(1_000) };
                let facts = AttemptFacts {
                    record: Some(attempt(if ours { "we" } else { "they" }, deadline)),
                    begun: true,
                    sessions: if session {
                        vec![format!("s{n}")]
                    } else {
                        Vec::new()
                    },
                    prepared,
                };
                journal.attempts.insert(id, facts);
                if busy && (ours || late) {
                    self.busy.insert(id);
                } else if let Some(tried) = unsettled {
                    self.memory.unsettled.insert(id, tried);
                }
            }
        }
    }
}

prop_compose! {
    pub(super) fn worlds()(
        export in exports(),
        now in -30i64..160,
        ahead in -90i64..90,
        found in vec((windows(), found()), 0..10),
        failed in vec((windows(), tried()), 0..6),
        gate in proptest::option::weighted(0.3, tried()),
        seal in proptest::option::weighted(0.2, tried()),
        sealing in proptest::bool::weighted(0.1),
        running in vec(any::<Index>(), 0..3),
    ) -> World {
        let now = at(now);
        let mut world = World {
            export,
            journal: Journal::default(),
            active: BTreeSet::new(),
            busy: BTreeSet::new(),
            sealing,
            memory: Memory::default(),
            now,
            store_now: now.checked_add(SignedDuration::from_mins(ahead)).unwrap(),
        };
        for (n, (window, found)) in found.into_iter().enumerate() {
            world.add(u16::try_from(n).unwrap(), window, found);
        }
        // What runs was started by an earlier decision.
        let could = world.decide().start;
        for (n, index) in running.into_iter().enumerate() {
            if let Some(window) = could.get(index.index(could.len().max(1))) {
                world.active.insert(*window);
                world.busy.insert(id(*window, 900 + u16::try_from(n).unwrap()));
            }
        }
        world.memory.windows.extend(failed);
        world.memory.gate = gate;
        world.memory.seal = seal;
        world
    }
}
