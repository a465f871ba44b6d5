//! What a decision promises, whatever is seen; and that deciding and doing in turns comes to an end.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::world::{FIRST, Found, SOURCE, World, remedies, worlds};
use super::*;
use crate::export::manifest::periods::periods;
use crate::export::manifest::statement::state;

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
