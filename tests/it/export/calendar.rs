//! Due windows: unfinished days, open ranges, gaps, hours, splits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::export::snapshot::Snapshot;
use eventexport::simulator::RequestKind;
use jiff::Timestamp;
use jiff::civil::{Date, date};

use super::fixture::{EngineFixture, gap, settings};

fn june(day: i8) -> Date {
    date(2018, 6, day)
}

fn reasons(snapshot: &Snapshot) -> Vec<Reason> {
    snapshot.problems.iter().map(|problem| problem.reason).collect()
}

fn set_clock(fixture: &mut EngineFixture, at: &str) -> Arc<Mutex<Timestamp>> {
    let clock = Arc::new(Mutex::new(at.parse::<Timestamp>().unwrap()));
    let read = Arc::clone(&clock);
    fixture.clock = Arc::new(move || *read.lock().unwrap());
    clock
}

fn objects(fixture: &EngineFixture) -> Vec<String> {
    let files = fixture.files();
    files
        .into_iter()
        .filter(|name| name.starts_with("date="))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_exported_once_it_is_over_and_settled_and_not_before() {
    let mut fixture = EngineFixture::start(settings(), june(3), june(5)).await;
    let clock = set_clock(&mut fixture, "2018-06-05T05:59:59Z");
    let early = fixture.run().await;
    assert_eq!((early.stored, early.waiting, early.complete), (1, 2, false));
    assert_eq!(reasons(&early), [Reason::NotSettled]);
    let six: Timestamp = "2018-06-05T06:00:00Z".parse().unwrap();
    assert_eq!(early.next_run_at, Some(six));
    assert!(early.missing.is_empty(), "what is not over is not missing");

    *clock.lock().unwrap() = six;
    let later = fixture.run().await;
    assert_eq!((later.stored, later.waiting), (2, 1));
    *clock.lock().unwrap() = "2018-06-06T06:00:00Z".parse().unwrap();
    assert!(fixture.run().await.complete);
    assert_eq!(fixture.simulator.ledger().opened, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuous_range_exports_each_new_day_and_states_the_next_run() {
    let mut fixture = EngineFixture::start(settings(), june(2), june(2)).await;
    fixture.export.end = None;
    let clock = set_clock(&mut fixture, "2018-06-04T12:00:00Z");
    let first = fixture.run().await;
    assert_eq!((first.stored, first.complete), (2, false));
    assert_eq!(first.next_run_at, Some("2018-06-05T06:00:00Z".parse().unwrap()));
    *clock.lock().unwrap() = first.next_run_at.unwrap();
    let second = fixture.run().await;
    assert_eq!(second.stored, 3);
    assert_eq!(second.next_run_at, Some("2018-06-06T06:00:00Z".parse().unwrap()));

    // With one hour a day, today's may be due already, and the range may lie in the future.
    fixture.export.hour = Some(7);
    *clock.lock().unwrap() = "2018-06-05T20:00:00Z".parse().unwrap();
    let hours = fixture.run().await;
    assert!(hours.missing.is_empty());
    assert_eq!(hours.next_run_at, Some("2018-06-06T14:00:00Z".parse().unwrap()));
    fixture.export.start = june(20);
    let ahead = fixture.run().await;
    assert_eq!(ahead.next_run_at, Some("2018-06-20T14:00:00Z".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_gap_is_not_downloaded_and_does_not_block_completion() {
    let mut fixture = EngineFixture::start(settings(), june(2), june(4)).await;
    fixture.export.accepted_gaps = vec![gap(june(3), june(3))];
    let snapshot = fixture.run().await;
    assert!(
        snapshot.complete && snapshot.missing.is_empty(),
        "{:?}",
        snapshot.problems
    );
    assert_eq!((snapshot.wanted, snapshot.stored), (3, 2));
    assert_eq!(fixture.simulator.ledger().opened, 2);
    // A day with a stored hour is included.
    fixture.export.accepted_gaps.clear();
    fixture.export.start = june(3);
    fixture.export.hour = Some(7);
    fixture.run().await;
    let opened = fixture.simulator.ledger().opened;
    fixture.export.hour = None;
    fixture.export.accepted_gaps = vec![gap(june(1), june(9))];
    assert!(fixture.run().await.complete);
    assert_eq!(fixture.simulator.ledger().opened, opened);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_hour_the_day_needs_only_the_other_hours() {
    let mut fixture = EngineFixture::start(settings(), june(3), june(3)).await;
    fixture.export.hour = Some(7);
    let hour = fixture.run().await;
    assert!(hour.complete);
    assert_eq!(objects(&fixture), ["date=2018-06-03/events-h07.json.gz"]);
    fixture.export.hour = None;
    fixture.export.parallelism = 8;
    let day = fixture.run().await;
    assert!(day.complete, "{:?}", day.problems);
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.open_now), (24, 24, 0));
    assert_eq!(ledger.downloads_of("2018-06-03T07").completed, 1);
    assert_eq!(objects(&fixture).len(), 24);
    assert_eq!(day.events, 240);
    for hour in 0..24 {
        let name = format!("date=2018-06-03/events-h{hour:02}.json.gz");
        let stored = std::fs::read(fixture.root().join(name)).unwrap();
        assert!(stored == fixture.served_hour(june(3), hour), "hour {hour}");
    }
    // The day also covers the hour.
    fixture.export.hour = Some(9);
    assert!(fixture.run().await.complete);
    assert_eq!(fixture.simulator.ledger().opened, 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_without_events_is_short_until_the_other_hours_add_up_to_the_day() {
    let mut settings = settings();
    settings.volume.events_per_day = 480;
    let mut fixture = EngineFixture::start(settings, june(2), june(3)).await;
    fixture.export.parallelism = 8;
    fixture.timeouts.idle_read = Duration::from_millis(400);
    fixture.retry.resumes = 3;
    fixture.simulator.add_preset("stall-days@2018-06-03").unwrap();
    fixture
        .simulator
        .add_preset("download-404@2018-06-03T07")
        .unwrap();
    let short = fixture.run().await;
    assert!(
        !short.complete && reasons(&short).contains(&Reason::Short),
        "{:?}",
        short.problems
    );
    assert_eq!(short.missing.ranges(9), ["2018-06-03T07"]);
    assert!(
        fixture
            .files()
            .contains(&"_journal/2018-06-03.split.json".to_owned())
    );
    // A 404 for the hour is not trusted: no receipt declares it empty.
    let receipt = "_journal/2018-06-03T07.receipt.json".to_owned();
    assert!(!fixture.files().contains(&receipt));
    let accepted = vec![gap(june(3), june(3))];
    fixture.export.accepted_gaps.clone_from(&accepted);
    let with_gap = fixture.run().await;
    assert!(
        with_gap.complete && with_gap.problems.is_empty(),
        "{:?}",
        with_gap.problems
    );

    // Once the hour is available, only it is requested, and the day is complete.
    fixture.export.accepted_gaps.clear();
    fixture.simulator.set_faults(Vec::new());
    let downloads = fixture.simulator.ledger().requests_of(RequestKind::Download);
    let whole = fixture.run().await;
    assert!(
        whole.complete && whole.problems.is_empty(),
        "{:?}",
        whole.problems
    );
    assert_eq!(
        fixture.simulator.ledger().requests_of(RequestKind::Download),
        downloads + 1
    );
    assert!(fixture.files().contains(&receipt));
    assert_eq!(whole.events, 960);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_hours_are_proved_by_the_other_hours_in_a_second_round() {
    let mut settings = settings();
    // Only a few hours have an event.
    settings.volume.days.insert(june(3), 5);
    let mut fixture = EngineFixture::start(settings, june(3), june(3)).await;
    fixture.export.parallelism = 8;
    fixture.timeouts.idle_read = Duration::from_millis(400);
    fixture.retry.resumes = 3;
    fixture.simulator.add_preset("stall-days@2018-06-03").unwrap();
    fixture.simulator.add_preset("empty-404").unwrap();
    let day = fixture.run().await;
    assert!(day.complete, "{:?}", day.problems);
    assert_eq!(day.events, 5);
    let ledger = fixture.simulator.ledger();
    // Two attempts of the day, each hour once, and those without events once more.
    assert!(
        (2 + 24 + 19..=2 + 24 + 23).contains(&ledger.opened),
        "{}",
        ledger.opened
    );
    assert_eq!(ledger.open_now, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_does_not_prove_a_single_hour_empty() {
    let mut fixture = EngineFixture::start(settings(), june(2), june(3)).await;
    fixture.export.hour = Some(7);
    fixture.simulator.add_preset("download-404@2018-06-03").unwrap();
    let snapshot = fixture.run().await;
    assert_eq!(reasons(&snapshot), [Reason::EmptyUnproved]);
    assert_eq!(snapshot.stored, 1);
    assert!(
        !fixture
            .files()
            .contains(&"_journal/2018-06-03T07.receipt.json".to_owned())
    );
}
