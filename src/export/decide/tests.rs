//! Table tests for rules of a decision.

use super::fixture::{DecisionFixture, FIRST, FixtureEntry, at};
use super::*;
use crate::api::{Scope, SettingNames};
use crate::archive::layout::ArchiveRoot;
use crate::export::shard::Shard;

/// Fixture with a day exported by the hour, long past: all but the last `open` hours are stored.
fn split_day(open: usize, parallelism: usize) -> DecisionFixture {
    let export = ExportSpec {
        name: "x".to_owned(),
        space: "s".to_owned(),
        scope: Scope::Space,
        start: FIRST,
        end: Some(FIRST),
        hour: None,
        source: super::fixture::SOURCE.to_owned(),
        root: ArchiveRoot::new("p", "s", "space"),
        shard: Shard::SINGLE,
        parallelism,
        settle_after: SignedDuration::ZERO,
        accepted_gaps: Vec::new(),
        holder: "self".to_owned(),
        holder_epoch: None,
        single_writer: false,
        retry_policy: RetryPolicy::Forever,
        setting_names: SettingNames::default(),
    };
    let mut fixture = DecisionFixture {
        export,
        journal: Journal::default(),
        active: BTreeSet::new(),
        in_progress: BTreeSet::new(),
        sealing: false,
        retry_state: RetryState::default(),
        now: at(100),
        store_now: at(100),
    };
    fixture.add(0, Window::day(FIRST), FixtureEntry::Split);
    for hour in Window::split(FIRST).take(24 - open) {
        fixture.add(0, hour, FixtureEntry::Stored);
    }
    fixture
}

fn hour(hour: u8) -> Window {
    Window::hour(FIRST, hour).unwrap()
}

#[test]
fn an_empty_hour_is_retried_after_the_other_hours_of_its_day() {
    let none: &[u8] = &[];
    // Columns: open hours, hours that were short before, running hours, hours started now.
    for (open, short, running, started) in [
        (3, none, none, &[21, 22, 23][..]),
        (3, &[22], none, &[21, 23]),
        (3, &[21, 22], &[23], none),
        (3, &[21, 22, 23], none, &[21, 22, 23]),
        (1, &[23], none, &[23]),
    ] {
        let mut fixture = split_day(open, 9);
        for short in short {
            let failure = Failure::retry(Reason::Short, "no events");
            fixture
                .retry_state
                .record_failure(hour(*short), failure, at(50), 0.5);
        }
        fixture.active = running.iter().copied().map(hour).collect();
        let decision = fixture.decide();
        let expected: Vec<Window> = started.iter().copied().map(hour).collect();
        assert_eq!(
            decision.start, expected,
            "open {open}, short {short:?}, running {running:?}"
        );
        assert!(!decision.idle && !decision.complete);
    }
}

#[test]
fn missing_hours_start_up_to_the_parallelism() {
    for (parallelism, started) in [(1, 1), (2, 2), (30, 5)] {
        let decision = split_day(5, parallelism).decide();
        let expected: Vec<Window> = (19..).map(hour).take(started).collect();
        assert_eq!(decision.start, expected, "parallelism {parallelism}");
        assert_eq!((decision.coverage.wanted, decision.coverage.stored), (1, 0));
        assert_eq!(
            (decision.coverage.covered.len(), decision.coverage.missing.len()),
            (19, 5)
        );
    }
}
