//! Which days are wanted and when: days that are not over, ranges without an end, gaps, hours, splits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::export::snapshot::Snapshot;
use eventexport::simulator::Kind;
use jiff::Timestamp;
use jiff::civil::{Date, date};

use super::bench::{Bench, gap, settings};

fn june(day: i8) -> Date {
    date(2018, 6, day)
}

fn reasons(snapshot: &Snapshot) -> Vec<Reason> {
    snapshot.troubles.iter().map(|trouble| trouble.reason).collect()
}

fn set_clock(bench: &mut Bench, at: &str) -> Arc<Mutex<Timestamp>> {
    let clock = Arc::new(Mutex::new(at.parse::<Timestamp>().unwrap()));
    let read = Arc::clone(&clock);
    bench.clock = Arc::new(move || *read.lock().unwrap());
    clock
}

fn objects(bench: &Bench) -> Vec<String> {
    let files = bench.files();
    files
        .into_iter()
        .filter(|name| name.starts_with("date="))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_exported_once_it_is_over_and_settled_and_not_before() {
    let mut bench = Bench::start(settings(), june(3), june(5)).await;
    let clock = set_clock(&mut bench, "2018-06-05T05:59:59Z");
    let early = bench.run().await;
    assert_eq!((early.stored, early.waiting, early.complete), (1, 2, false));
    assert_eq!(reasons(&early), [Reason::NotSettled]);
    let six: Timestamp = "2018-06-05T06:00:00Z".parse().unwrap();
    assert_eq!(early.next_look, Some(six));
    assert!(early.missing.is_empty(), "what is not over is not missing");

    *clock.lock().unwrap() = six;
    let later = bench.run().await;
    assert_eq!((later.stored, later.waiting), (2, 1));
    *clock.lock().unwrap() = "2018-06-06T06:00:00Z".parse().unwrap();
    assert!(bench.run().await.complete);
    assert_eq!(bench.simulator.ledger().opened, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_without_an_end_takes_each_new_day_and_says_when_it_looks_again() {
    let mut bench = Bench::start(settings(), june(2), june(2)).await;
    bench.export.end = None;
    let clock = set_clock(&mut bench, "2018-06-04T12:00:00Z");
    let first = bench.run().await;
    assert_eq!((first.stored, first.complete), (2, false));
    assert_eq!(first.next_look, Some("2018-06-05T06:00:00Z".parse().unwrap()));
    *clock.lock().unwrap() = first.next_look.unwrap();
    let second = bench.run().await;
    assert_eq!(second.stored, 3);
    assert_eq!(second.next_look, Some("2018-06-06T06:00:00Z".parse().unwrap()));

    // Of one hour a day, today's may be done already, and the range may lie ahead.
    bench.export.hour = Some(7);
    *clock.lock().unwrap() = "2018-06-05T20:00:00Z".parse().unwrap();
    let hours = bench.run().await;
    assert!(hours.missing.is_empty());
    assert_eq!(hours.next_look, Some("2018-06-06T14:00:00Z".parse().unwrap()));
    bench.export.start = june(20);
    let ahead = bench.run().await;
    assert_eq!(ahead.next_look, Some("2018-06-20T14:00:00Z".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_gap_is_not_asked_for_and_keeps_nothing_from_being_complete() {
    let mut bench = Bench::start(settings(), june(2), june(4)).await;
    bench.export.accepted = vec![gap(june(3), june(3))];
    let snapshot = bench.run().await;
    assert!(
        snapshot.complete && snapshot.missing.is_empty(),
        "{:?}",
        snapshot.troubles
    );
    assert_eq!((snapshot.wanted, snapshot.stored), (3, 2));
    assert_eq!(bench.simulator.ledger().opened, 2);
    // A day of which an hour is stored already, too.
    bench.export.accepted.clear();
    bench.export.start = june(3);
    bench.export.hour = Some(7);
    bench.run().await;
    let opened = bench.simulator.ledger().opened;
    bench.export.hour = None;
    bench.export.accepted = vec![gap(june(1), june(9))];
    assert!(bench.run().await.complete);
    assert_eq!(bench.simulator.ledger().opened, opened);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_hour_the_day_needs_only_the_other_hours() {
    let mut bench = Bench::start(settings(), june(3), june(3)).await;
    bench.export.hour = Some(7);
    let hour = bench.run().await;
    assert!(hour.complete);
    assert_eq!(objects(&bench), ["date=2018-06-03/events-h07.json.gz"]);
    bench.export.hour = None;
    bench.export.parallelism = 8;
    let day = bench.run().await;
    assert!(day.complete, "{:?}", day.troubles);
    let ledger = bench.simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.open_now), (24, 24, 0));
    assert_eq!(ledger.downloads_of("2018-06-03T07").completed, 1);
    assert_eq!(objects(&bench).len(), 24);
    assert_eq!(day.events, 240);
    for hour in 0..24 {
        let name = format!("date=2018-06-03/events-h{hour:02}.json.gz");
        let stored = std::fs::read(bench.root().join(name)).unwrap();
        assert!(stored == bench.served_hour(june(3), hour), "hour {hour}");
    }
    // The day covers the hour, too.
    bench.export.hour = Some(9);
    assert!(bench.run().await.complete);
    assert_eq!(bench.simulator.ledger().opened, 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_without_events_is_short_until_the_others_have_all_of_the_day() {
    let mut settings = settings();
    settings.volume.events_per_day = 480;
    let mut bench = Bench::start(settings, june(2), june(3)).await;
    bench.export.parallelism = 8;
    bench.timeouts.idle_read = Duration::from_millis(400);
    bench.retry.resumes = 3;
    bench.simulator.add_preset("stall-days@2018-06-03").unwrap();
    bench.simulator.add_preset("download-404@2018-06-03T07").unwrap();
    let short = bench.run().await;
    assert!(
        !short.complete && reasons(&short).contains(&Reason::Short),
        "{:?}",
        short.troubles
    );
    assert_eq!(short.missing.ranges(9), ["2018-06-03T07"]);
    assert!(
        bench
            .files()
            .contains(&"_journal/2018-06-03.split.json".to_owned())
    );
    // Whatever answered 404 for the hour is believed by nobody: there is no receipt that says that it is empty.
    let receipt = "_journal/2018-06-03T07.receipt.json".to_owned();
    assert!(!bench.files().contains(&receipt));
    let accepted = vec![gap(june(3), june(3))];
    bench.export.accepted.clone_from(&accepted);
    let with_gap = bench.run().await;
    assert!(
        with_gap.complete && with_gap.troubles.is_empty(),
        "{:?}",
        with_gap.troubles
    );

    // Once it is given, nothing but it is asked for, and the day is whole.
    bench.export.accepted.clear();
    bench.simulator.set_faults(Vec::new());
    let downloads = bench.simulator.ledger().requests_of(Kind::Download);
    let whole = bench.run().await;
    assert!(
        whole.complete && whole.troubles.is_empty(),
        "{:?}",
        whole.troubles
    );
    assert_eq!(
        bench.simulator.ledger().requests_of(Kind::Download),
        downloads + 1
    );
    assert!(bench.files().contains(&receipt));
    assert_eq!(whole.events, 960);
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_that_are_empty_are_proved_by_the_others_in_a_second_round() {
    let mut settings = settings();
    // At most a handful of hours have an event.
    settings.volume.days.insert(june(3), 5);
    let mut bench = Bench::start(settings, june(3), june(3)).await;
    bench.export.parallelism = 8;
    bench.timeouts.idle_read = Duration::from_millis(400);
    bench.retry.resumes = 3;
    bench.simulator.add_preset("stall-days@2018-06-03").unwrap();
    bench.simulator.add_preset("empty-404").unwrap();
    let day = bench.run().await;
    assert!(day.complete, "{:?}", day.troubles);
    assert_eq!(day.events, 5);
    let ledger = bench.simulator.ledger();
    // Two tries of the whole day, each hour once, and those without events once more.
    assert!(
        (2 + 24 + 19..=2 + 24 + 23).contains(&ledger.opened),
        "{}",
        ledger.opened
    );
    assert_eq!(ledger.open_now, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_its_own_is_not_empty_because_of_a_404() {
    let mut bench = Bench::start(settings(), june(2), june(3)).await;
    bench.export.hour = Some(7);
    bench.simulator.add_preset("download-404@2018-06-03").unwrap();
    let snapshot = bench.run().await;
    assert_eq!(reasons(&snapshot), [Reason::EmptyUnproved]);
    assert_eq!(snapshot.stored, 1);
    assert!(
        !bench
            .files()
            .contains(&"_journal/2018-06-03T07.receipt.json".to_owned())
    );
}
