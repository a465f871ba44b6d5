//! What a decision promises, whatever is seen; and that deciding and doing in turns comes to an end.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::civil::{Date, date};
use jiff::{SignedDuration, ToSpan as _};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use ulid::Ulid;

use super::*;
use crate::export::journal::{AttemptFacts, ReceiptFacts, ReceiptProof};
use crate::export::keys::Root;
use crate::export::manifest::document::GapEntry;
use crate::export::manifest::periods::periods;
use crate::export::manifest::statement::state;
use crate::export::record::Record as _;
use crate::export::shard::Shard;
use crate::export::snapshot::WindowFacts;
use crate::export::verdict::Verdict;
use crate::export::wish::Scope;

const FIRST: Date = date(2018, 6, 2);
const SOURCE: &str = "https://a";

/// All that is seen, owned.
#[derive(Clone, Debug)]
struct World {
    export: Export,
    journal: Journal,
    active: BTreeSet<Window>,
    busy: BTreeSet<AttemptId>,
    sealing: bool,
    memory: Memory,
    now: Timestamp,
    store_now: Timestamp,
}

impl World {
    fn decide(&self) -> Decision {
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

fn id(window: Window, n: u16) -> AttemptId {
    AttemptId {
        window,
        ulid: Ulid::from_parts(u64::from(n) + 1, u128::from(n)),
    }
}

fn at(hours: i64) -> Timestamp {
    let start = Window::day(FIRST.yesterday().unwrap()).end();
    start.checked_add(SignedDuration::from_hours(hours)).unwrap()
}

fn receipt(bytes: u64, events: u64, source: &str, day_reported: Option<u64>) -> ReceiptFacts {
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

fn windows() -> impl Strategy<Value = Window> {
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

fn remedies() -> impl Strategy<Value = Remedy> {
    prop_oneof![
        Just(Remedy::Retry(None)),
        Just(Remedy::Wait(None)),
        Just(Remedy::Person)
    ]
}

fn tried() -> impl Strategy<Value = Tried> {
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

fn exports() -> impl Strategy<Value = Export> {
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
enum Found {
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

fn found() -> impl Strategy<Value = Found> {
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
    fn add(&mut self, n: u16, window: Window, found: Found) {
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
    fn worlds()(
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

fn cells(windows: impl IntoIterator<Item = Window>) -> Cells {
    windows.into_iter().collect()
}

/// Why a cell that is neither covered nor accepted is not being exported right now.
fn is_explained(world: &World, decision: &Decision, cell: Window) -> bool {
    let World {
        export,
        journal,
        active,
        busy,
        ..
    } = world;
    let wanted = export.window_of(cell.date()).unwrap();
    // A day of which nothing is covered is exported as one.
    let whole = export.hour.is_none() && !decision.tally.covered.touches(wanted);
    let piece = if whole && !journal.splits.contains(&wanted) {
        wanted
    } else {
        cell
    };
    let over = |other: &Window| overlap(*other, piece);
    let full = active.len() + decision.start.len() >= export.parallelism;
    let said = decision.troubles.iter().any(|trouble| {
        let here = trouble.window.as_ref().is_none_or(over);
        // Whoever waits says until when, or whom for.
        here && trouble.reason != Reason::NotSettled && trouble.reason != Reason::Expired
    });
    let expired = journal.expired.iter().any(over)
        && decision
            .troubles
            .iter()
            .any(|trouble| trouble.reason == Reason::Expired);
    let later = export.settled_at(wanted) > world.now && decision.wake.is_some();
    active.iter().any(over)
        || decision.start.iter().any(over)
        || decision.split.iter().any(over)
        || decision.adopt.iter().any(over)
        || decision.settle.iter().chain(busy).any(|id| over(&id.window))
        || said
        || expired
        || later
        || full
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_window_is_started_twice_or_outside_of_what_is_wanted(world in worlds()) {
        let decision = world.decide();
        let World { export, journal, active, busy, .. } = &world;
        let wanted = cells(export.windows(world.now));
        let covered = journal.covered(&export.source);
        let mut taken = cells(active.iter().copied());
        for window in &decision.start {
            prop_assert!(!taken.touches(*window), "{window} is under way");
            taken.insert(*window);
            prop_assert!(cells([*window]).minus(&wanted).is_empty(), "{window} is not wanted");
            prop_assert!(!covered.touches(*window), "{window} is covered");
            prop_assert!(export.settled_at(*window) <= world.now, "{window} is not settled");
            prop_assert!(!export.accepts(window.date()));
            let there = journal.receipts.keys().chain(journal.objects.keys());
            let settled = decision.settle.iter().chain(busy).map(|id| &id.window);
            let beside = there.chain(settled).find(|other| overlap(**other, *window));
            prop_assert!(beside.is_none(), "{window} beside {beside:?}");
            let rival = journal.rivals(*window, &export.holder, world.store_now).next();
            prop_assert!(rival.is_none(), "{window} is held by {rival:?}");
        }
        prop_assert!(decision.start.is_sorted(), "the oldest first");
    }

    #[test]
    fn no_wanted_cell_is_lost(world in worlds()) {
        let decision = world.decide();
        let wanted = cells(world.export.windows(world.now));
        let accepted = world.export.accepted_cells(&wanted);
        let open = wanted.minus(&decision.tally.covered).minus(&accepted);
        for (date, hours) in open.days() {
            for hour in (0..24).filter(|hour| hours & (1 << hour) != 0) {
                let cell = Window::hour(date, hour).unwrap();
                prop_assert!(is_explained(&world, &decision, cell), "{cell}: {decision:#?}");
            }
        }
        prop_assert!(decision.tally.covered.minus(&wanted).is_empty());
        prop_assert!(decision.tally.missing.minus(&open).is_empty());
        prop_assert!(decision.tally.stored <= decision.tally.wanted);
        prop_assert!(decision.tally.expired.minus(&decision.tally.missing).is_empty());
    }

    #[test]
    fn a_shard_touches_no_day_of_another(world in worlds()) {
        let decision = world.decide();
        let settled = decision.settle.iter().map(|id| &id.window);
        let touched = decision.start.iter().chain(&decision.split).chain(&decision.adopt).chain(settled);
        for window in touched {
            prop_assert!(world.export.shard.has(window.date()), "{window}: {}", world.export.shard);
        }
    }

    #[test]
    fn never_more_at_a_time_than_allowed(world in worlds()) {
        let decision = world.decide();
        let at_once = world.active.len() + decision.start.len();
        prop_assert!(decision.start.is_empty() || at_once <= world.export.parallelism);
        let gate = world.memory.gate.as_ref();
        let shut = gate.is_some_and(|gate| gate.again > world.now || gate.given_up(world.export.persistence));
        prop_assert!(!shut || decision.start.is_empty());
    }

    #[test]
    fn there_is_always_progress_or_a_time_or_a_rest_with_its_reason(world in worlds()) {
        let decision = world.decide();
        let under_way = !world.active.is_empty() || !world.busy.is_empty() || world.sealing;
        let does = !(decision.start.is_empty()
            && decision.split.is_empty()
            && decision.settle.is_empty()
            && decision.adopt.is_empty()
            && decision.seal.is_none());
        if let Some(wake) = decision.wake {
            prop_assert!(wake > world.now, "woken for what has passed");
        }
        prop_assert!(decision.rest || under_way || does || decision.wake.is_some(), "stuck: {decision:#?}");
        prop_assert!(!(decision.rest && (under_way || does)), "rests while something is under way");
        let stated = !decision.troubles.is_empty();
        let caught_up = world.export.end.is_none() && decision.tally.missing.is_empty();
        prop_assert!(!decision.rest || decision.complete || stated || caught_up, "no reason: {decision:#?}");
        let again = decision.troubles.iter().find(|trouble| {
            // The next day is the caller's to wait for, and so is another holder unless asked to persist.
            let theirs = trouble.reason == Reason::HeldBy && world.export.persistence != Persistence::Forever;
            trouble.again.is_some() && trouble.reason != Reason::NotSettled && !theirs
        });
        prop_assert!(!decision.rest || again.is_none(), "rests before it tries again: {again:?}");
        let continuous = world.export.end.is_none();
        prop_assert!(!(continuous && decision.rest && decision.wake.is_none()), "sleeps for ever");
    }

    #[test]
    fn complete_means_that_nothing_is_missing_or_open(world in worlds()) {
        let decision = world.decide();
        if decision.complete {
            let wanted = cells(world.export.windows(world.now));
            let accepted = world.export.accepted_cells(&wanted);
            let covered = world.journal.covered(SOURCE);
            prop_assert!(wanted.minus(&covered).minus(&accepted).is_empty());
            prop_assert!(world.export.end.is_some() && world.active.is_empty() && world.busy.is_empty());
            let ours = world.journal.attempts.iter().filter(|(id, facts)| {
                let record = facts.record.as_ref().unwrap();
                let loose = record.holder == "we" || record.deadline <= world.store_now;
                loose && world.export.shard.has(id.window.date())
            });
            prop_assert_eq!(ours.count(), 0);
            prop_assert!(decision.start.is_empty() && decision.settle.is_empty());
            let mut periods = periods(&world.export, world.now).into_iter();
            // Of a shard, whoever sees the whole covered writes it.
            let shard = !world.export.shard.is_whole();
            prop_assert!(shard || periods.all(|period| world.memory.sealed.contains(&period)), "no manifest");
        }
    }

    #[test]
    fn what_is_to_be_sealed_can_be_stated_and_is_not_called_complete(world in worlds()) {
        let decision = world.decide();
        if let Some(period) = decision.seal {
            prop_assert!(decision.sealing && !decision.complete && !decision.rest && !world.sealing);
            prop_assert!(state(&world.export, &world.journal, period).is_some(), "{period:?}");
        }
        let ours = |id: &AttemptId| !world.journal.rivals(id.window, "we", world.store_now).any(|(other, _)| other == id);
        let finite = world.export.end.is_some();
        let open = world.journal.attempts.keys().any(ours) || !world.active.is_empty();
        prop_assert!(!(finite && open && decision.sealing), "sessions may be open");
    }

    /// Deciding and doing in turns: whatever was there at first, when nothing more fails the run comes to rest,
    /// with each window exported at most once, and all is covered but what has a reason.
    #[test]
    fn a_world_that_stops_failing_comes_to_rest(mut world in worlds(), mishaps in vec(remedies(), 0..12)) {
        let mut mishaps = mishaps.into_iter();
        let mut stored: BTreeMap<Window, u32> = BTreeMap::new();
        world.export.end.get_or_insert(FIRST);
        for turn in 0..400 {
            prop_assert!(turn < 399, "never rests: {:#?}", world.decide());
            let decision = world.decide();
            if decision.rest {
                for cell in decision.tally.missing.days().map(|(date, _)| Window::day(date)) {
                    let said = decision.troubles.iter().any(|trouble| {
                        trouble.window.is_none_or(|window| overlap(window, cell))
                    });
                    prop_assert!(said, "{cell} is missing without a reason: {decision:#?}");
                }
                break;
            }
            let nothing = decision.start.is_empty()
                && decision.split.is_empty()
                && decision.settle.is_empty()
                && decision.adopt.is_empty()
                && decision.seal.is_none();
            // What is under way ends before the next is done.
            let ended: Vec<Window> = std::mem::take(&mut world.active).into_iter().collect();
            let settled = std::mem::take(&mut world.busy);
            for window in ended {
                if let Some(remedy) = mishaps.next() {
                    let failure = Failure { remedy, ..Failure::retry(Reason::NotWhole, "x") };
                    world.memory.failed(window, failure, world.now, 0.5);
                } else {
                    *stored.entry(window).or_default() += 1;
                    world.memory.succeeded(window);
                    world.add(0, window, Found::Stored);
                }
            }
            for id in settled {
                world.journal.attempts.remove(&id);
            }
            for day in decision.split {
                world.journal.splits.insert(day);
                world.memory.windows.remove(&day);
            }
            for id in decision.settle {
                world.journal.attempts.remove(&id);
            }
            for window in decision.adopt {
                world.memory.foreign.insert(window);
            }
            world.sealing = false;
            if let Some(period) = decision.seal {
                world.memory.sealed(period);
            }
            world.active = decision.start.into_iter().collect();
            if nothing && world.active.is_empty()
                && let Some(wake) = decision.wake
            {
                let slept = wake.duration_since(world.now);
                world.now = wake;
                world.store_now = world.store_now.checked_add(slept).unwrap();
            } else {
                world.now = world.now.checked_add(Duration::from_secs(1)).unwrap();
                world.store_now = world.store_now.checked_add(Duration::from_secs(1)).unwrap();
            }
        }
        prop_assert!(stored.values().all(|times| *times == 1), "{stored:?}");
    }
}
