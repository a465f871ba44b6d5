//! Rules of a decision that are easier read in a table than in a property.

use super::world::{FIRST, Found, World, at};
use super::*;
use crate::export::keys::Root;
use crate::export::shard::Shard;
use crate::export::wish::Scope;

/// A day that is exported by the hour, of which all but the last `open` hours are stored, long after it was over.
fn split_day(open: usize, parallelism: usize) -> World {
    let export = Export {
        name: "x".to_owned(),
        space: "s".to_owned(),
        scope: Scope::Space,
        start: FIRST,
        end: Some(FIRST),
        hour: None,
        source: super::world::SOURCE.to_owned(),
        root: Root::new("p", "s", "space"),
        shard: Shard::WHOLE,
        parallelism,
        settle_after: SignedDuration::ZERO,
        accepted: Vec::new(),
        holder: "we".to_owned(),
        tenure: None,
        single_writer: false,
        persistence: Persistence::Forever,
    };
    let mut world = World {
        export,
        journal: Journal::default(),
        active: BTreeSet::new(),
        busy: BTreeSet::new(),
        sealing: false,
        memory: Memory::default(),
        now: at(100),
        store_now: at(100),
    };
    world.add(0, Window::day(FIRST), Found::Split);
    for hour in Window::split(FIRST).take(24 - open) {
        world.add(0, hour, Found::Stored);
    }
    world
}

fn hour(hour: u8) -> Window {
    Window::hour(FIRST, hour).unwrap()
}

#[test]
fn an_hour_without_events_is_asked_for_again_after_the_others_of_its_day() {
    let none: &[u8] = &[];
    // Of the hours that are open: which were short before and may be tried again; which run; which are started now.
    for (open, short, running, started) in [
        (3, none, none, &[21, 22, 23][..]),
        (3, &[22], none, &[21, 23]),
        (3, &[21, 22], &[23], none),
        (3, &[21, 22, 23], none, &[21, 22, 23]),
        (1, &[23], none, &[23]),
    ] {
        let mut world = split_day(open, 9);
        for short in short {
            let failure = Failure::retry(Reason::Short, "no events");
            world.memory.failed(hour(*short), failure, at(50), 0.5);
        }
        world.active = running.iter().copied().map(hour).collect();
        let decision = world.decide();
        let expected: Vec<Window> = started.iter().copied().map(hour).collect();
        assert_eq!(
            decision.start, expected,
            "open {open}, short {short:?}, running {running:?}"
        );
        assert!(!decision.rest && !decision.complete);
    }
}

#[test]
fn what_is_missing_of_a_day_in_hours_is_started_as_far_as_there_is_room() {
    for (parallelism, started) in [(1, 1), (2, 2), (30, 5)] {
        let decision = split_day(5, parallelism).decide();
        let expected: Vec<Window> = (19..).map(hour).take(started).collect();
        assert_eq!(decision.start, expected, "parallelism {parallelism}");
        assert_eq!((decision.tally.wanted, decision.tally.stored), (1, 0));
        assert_eq!(
            (decision.tally.covered.len(), decision.tally.missing.len()),
            (19, 5)
        );
    }
}
