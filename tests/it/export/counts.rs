//! Evidence of the service about its days: counts, days that it lists late or no longer, and a listing that fails.

use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::archive::counts::{EmptyAnswer, Verdict};
use eventexport::archive::records::{ArchiveRecord as _, ExpiredRecord, Receipt, decode, encode};
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::RetryPolicy;
use eventexport::simulator::{RequestKind, Settings, Simulator};
use jiff::Timestamp;
use jiff::civil::{Date, date};
use tokio_util::sync::CancellationToken;

use super::fixture::{EngineFixture, settings};

fn june(day: i8) -> Date {
    date(2018, 6, day)
}

fn reasons(snapshot: &Snapshot) -> Vec<Reason> {
    snapshot.problems.iter().map(|problem| problem.reason).collect()
}

fn receipt(fixture: &EngineFixture, window: &str) -> Option<Receipt> {
    let bytes = std::fs::read(fixture.root().join(format!("_journal/{window}.receipt.json"))).ok()?;
    Some(decode("receipt", &bytes).expect("a receipt"))
}

/// Sets a clock that goes on from `at`.
fn set_clock(fixture: &mut EngineFixture, at: &str) {
    let (at, began) = (at.parse::<Timestamp>().unwrap(), std::time::Instant::now());
    fixture.clock = Arc::new(move || at.checked_add(began.elapsed()).unwrap());
}

/// Seven days of retention up to the 9th: the oldest day is the 3rd.
fn short_retention() -> Settings {
    Settings {
        retention_days: 7,
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_grows_during_its_download_is_downloaded_again() {
    let mut settings = settings();
    settings.volume.events_per_day = 2_500;
    let fixture = EngineFixture::start(settings, june(3), june(3)).await;
    fixture.simulator.add_preset("day-grows@2018-06-03").unwrap();
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let receipt = receipt(&fixture, "2018-06-03").unwrap();
    assert_eq!((receipt.events, receipt.verdict), (2_500, Verdict::Matched));
    assert_eq!(fixture.simulator.ledger().opened, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_the_first_listing_leaves_out_is_compared_with_the_second() {
    let mut settings = settings();
    settings.volume.events_per_day = 2_400;
    let fixture = EngineFixture::start(settings, june(3), june(3)).await;
    for preset in [
        "events-left-out@2018-06-03x1",
        "end-early-at-member-end@2018-06-03x1",
    ] {
        fixture.simulator.add_preset(preset).unwrap();
    }
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let receipt = receipt(&fixture, "2018-06-03").unwrap();
    assert_eq!((receipt.events, receipt.verdict), (2_400, Verdict::Matched));
    assert_eq!(fixture.simulator.ledger().opened, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_newer_than_the_newest_listed_day_waits_until_that_day_or_a_later_one_is_listed() {
    // No events on the 8th and the 9th: the newest listed day is the 7th.
    let mut quiet = settings();
    quiet.volume.days.extend([(june(8), 0), (june(9), 0)]);
    let mut fixture = EngineFixture::start(quiet.clone(), june(7), june(8)).await;
    set_clock(&mut fixture, "2018-06-09T06:00:00Z");
    let waiting = fixture.run().await;
    assert_eq!(
        reasons(&waiting),
        [Reason::NotListedYet],
        "{:?}",
        waiting.problems
    );
    assert_eq!((waiting.stored, receipt(&fixture, "2018-06-08")), (1, None));
    assert_eq!(
        fixture.simulator.ledger().opened,
        1,
        "no session for a day without a count"
    );

    // 500 events arrive.
    let mut late = quiet.clone();
    late.volume.days.insert(june(8), 500);
    fixture.simulator = Simulator::start(late).await.unwrap();
    let stored = fixture.run().await;
    assert!(stored.complete, "{:?}", stored.problems);
    let late = receipt(&fixture, "2018-06-08").unwrap();
    assert_eq!((late.events, late.verdict), (500, Verdict::Matched));

    // No events arrive: a later day proves that, and without one the wait is bounded.
    std::fs::remove_dir_all(fixture.root()).unwrap();
    fixture.simulator = Simulator::start(quiet.clone()).await.unwrap();
    set_clock(&mut fixture, "2018-06-12T06:00:00Z");
    let unproved = fixture.run().await;
    assert_eq!(reasons(&unproved), [Reason::EmptyUnproved]);
    assert_eq!(receipt(&fixture, "2018-06-08"), None);
    quiet.volume.days.remove(&june(9));
    fixture.simulator = Simulator::start(quiet).await.unwrap();
    assert!(fixture.run().await.complete);
    let empty = receipt(&fixture, "2018-06-08").unwrap();
    assert_eq!((empty.verdict, empty.reported_after), (Verdict::Empty, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lost_session_or_one_short_listing_does_not_expire_a_day() {
    for presets in [
        ["session-gone@2018-06-03x1", "events-left-out@2018-06-03x3"],
        ["download-404@2018-06-03x1", "events-left-out@2018-06-03x2"],
    ] {
        let fixture = EngineFixture::start(short_retention(), june(3), june(4)).await;
        for preset in presets {
            fixture.simulator.add_preset(preset).unwrap();
        }
        let snapshot = fixture.run().await;
        assert!(snapshot.complete, "{presets:?}: {:?}", snapshot.problems);
        let expired = fixture.files().into_iter().find(|name| name.contains("expired"));
        assert_eq!(expired, None, "{presets:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_days_are_looked_at_twice_and_together() {
    let mut fixture = EngineFixture::start(short_retention(), date(2018, 5, 31), june(3)).await;
    fixture.limits.second_look = Duration::from_secs(3);
    let began = std::time::Instant::now();
    let snapshot = fixture.run().await;
    assert_eq!(reasons(&snapshot), [Reason::Expired]);
    assert_eq!((snapshot.stored, snapshot.expired.len()), (1, 3 * 24));
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert!(
        began.elapsed() < Duration::from_secs(3 * 3),
        "the second looks happen together"
    );
    assert_eq!(fixture.simulator.ledger().opened, 2 * 3 + 1);
    // Days that are known to be expired are not asked for.
    let again = fixture.run().await;
    assert_eq!(again.expired.len(), 3 * 24);
    assert_eq!(fixture.simulator.ledger().opened, 2 * 3 + 1);
    // The service lists older days again.
    fixture.simulator = Simulator::start(settings()).await.unwrap();
    let complete = fixture.run().await;
    assert!(complete.complete, "{:?}", complete.problems);
    assert_eq!(fixture.simulator.ledger().opened, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_split_entries_are_read_and_those_of_another_source_do_not_count() {
    // The service lists only the 3rd to the 9th: it could not contradict the entries.
    let mut fixture = EngineFixture::start(short_retention(), june(1), june(4)).await;
    let entry = |source: &str| ExpiredRecord {
        schema: ExpiredRecord::SCHEMA.to_owned(),
        source: source.to_owned(),
        oldest_listed: june(20),
        answer: EmptyAnswer::NotFound,
        seen_at: Timestamp::UNIX_EPOCH,
        software: "test".to_owned(),
    };
    let journal = fixture.root().join("_journal");
    std::fs::create_dir_all(&journal).unwrap();
    let own = fixture.export.source.clone();
    for (day, bytes) in [
        ("2018-06-01.expired", encode(&entry(&own))),
        ("2018-06-02.expired", encode(&entry("https://other.example"))),
        ("2018-06-03.expired", b"{}".to_vec()),
        ("2018-06-03.split", Vec::new()),
        ("2018-06-04.expired", encode(&entry(&own))),
    ] {
        std::fs::write(journal.join(format!("{day}.json")), bytes).unwrap();
    }
    fixture.limits.second_look = Duration::from_secs(30);
    fixture.export.retry_policy = RetryPolicy::MaxAttempts(1);
    let snapshot = fixture.run().await;
    assert_eq!(snapshot.expired.ranges(9), ["2018-06-01"]);
    assert_eq!(snapshot.missing.ranges(9), ["2018-06-01/2018-06-02"]);
    let files = fixture.files();
    for day in ["2018-06-03", "2018-06-04"] {
        assert!(files.contains(&format!("date={day}/events.json.gz")), "{files:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_listing_is_retried_and_leaves_no_day_without_a_count() {
    let mut fixture = EngineFixture::start(settings(), june(1), june(8)).await;
    fixture.export.retry_policy = RetryPolicy::MaxAttempts(6);
    fixture.simulator.add_preset("events-500x40").unwrap();
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    for day in 1..=8 {
        let receipt = receipt(&fixture, &format!("2018-06-0{day}")).unwrap();
        assert_eq!(receipt.verdict, Verdict::Matched, "{day}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_long_and_future_ranges_gives_counts() {
    let mut fixture = EngineFixture::start(settings(), june(1), june(8)).await;
    set_clock(&mut fixture, "2018-06-09T12:00:00Z");
    fixture.simulator.add_preset("events-refuse-long").unwrap();
    assert!(fixture.run().await.complete);
    for day in 1..=8 {
        let receipt = receipt(&fixture, &format!("2018-06-0{day}")).unwrap();
        assert_eq!(receipt.verdict, Verdict::Matched, "{day}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_of_nothing_does_not_prove_an_hour_of_a_day_with_events_empty() {
    let mut settings = settings();
    settings.volume.days.insert(june(3), 5);
    let mut fixture = EngineFixture::start(settings, june(3), june(3)).await;
    let sizes: Vec<usize> = (0..24)
        .map(|hour| fixture.served_hour(june(3), hour).len())
        .collect();
    let least = sizes.iter().min().unwrap();
    let hour = sizes.iter().position(|size| size == least).unwrap();
    fixture.export.hour = u8::try_from(hour).ok();
    let snapshot = fixture.run().await;
    assert_eq!(reasons(&snapshot), [Reason::EmptyUnproved]);
    assert_eq!(receipt(&fixture, &format!("2018-06-03T{hour:02}")), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_run_lists_the_days_of_the_service_regularly() {
    let mut fixture = EngineFixture::start(settings(), june(3), june(4)).await;
    fixture.limits.listing_max_age = Duration::from_millis(500);
    fixture.export.retry_policy = RetryPolicy::Forever;
    // Needs manual action after the second attempt.
    fixture.simulator.add_preset("download-404@2018-06-03").unwrap();
    let stop = CancellationToken::new();
    let peers = fixture.peers(fixture.store());
    let waits = async {
        let downloads = || fixture.simulator.ledger().requests_of(RequestKind::Download);
        while downloads() < 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = fixture.simulator.ledger();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = fixture.simulator.ledger();
        stop.cancel();
        assert_eq!(after.opened, before.opened);
        let listings = |ledger: &eventexport::simulator::Ledger| ledger.requests_of(RequestKind::Events);
        assert!(listings(&after) > listings(&before));
    };
    let (snapshot, ()) = tokio::join!(fixture.run_with(peers, stop.clone()), waits);
    assert!(snapshot.retention.unwrap().oldest < june(1));
}
