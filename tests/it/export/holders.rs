//! Several holders of one archive do not interfere, and no work is done twice.

use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::{ExportSpec, HolderEpoch, RetryPolicy};
use eventexport::storage::Store;
use jiff::civil::date;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::crashes::archive_violations;
use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, settings};

/// Runs a process with its own engine and store connection.
async fn process(fixture: &EngineFixture, export: &ExportSpec, created: &Arc<CreationLog>) -> Arc<Snapshot> {
    let store = FaultyStore::new(fixture.store(), created, 0, StoreFault::Fail);
    let (out, _) = watch::channel(Arc::default());
    let export = Arc::new(export.clone());
    let engine = fixture.engine();
    let run = engine.run(export, fixture.peers(store), &out, CancellationToken::new());
    let ended = tokio::time::timeout(Duration::from_mins(1), run).await;
    ended.expect("the run ends")
}

/// Counts objects and receipts.
fn evidence(fixture: &EngineFixture) -> usize {
    let files = fixture.files();
    files
        .iter()
        .filter(|name| !name.starts_with("_manifests/"))
        .count()
}

fn held(snapshot: &Snapshot) -> bool {
    let mut problems = snapshot.problems.iter();
    problems.any(|problem| problem.reason == Reason::HeldByOther)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_holders_of_overlapping_ranges_store_everything_once() {
    for round in 0..6 {
        let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 7)).await;
        let created = Arc::new(CreationLog::default());
        let one = ExportSpec {
            end: Some(date(2018, 6, 5)),
            ..fixture.export.clone()
        };
        let two = ExportSpec {
            start: date(2018, 6, 3),
            holder: "tests/two".to_owned(),
            ..fixture.export.clone()
        };
        let ends = tokio::join!(
            process(&fixture, &one, &created),
            process(&fixture, &two, &created)
        );
        for (snapshot, name) in [(&ends.0, "one"), (&ends.1, "two")] {
            assert!(
                snapshot.complete || held(snapshot),
                "round {round}, {name}: {:?}",
                snapshot.problems
            );
        }
        assert_eq!(
            evidence(&fixture),
            14,
            "round {round}: together they store everything"
        );
        assert!(process(&fixture, &one, &created).await.complete);
        assert!(process(&fixture, &two, &created).await.complete);
        assert_eq!(
            archive_violations(&fixture, &created).await,
            Vec::<String>::new(),
            "round {round}"
        );
        for day in 1..=7 {
            let stored =
                std::fs::read(fixture.root().join(format!("date=2018-06-0{day}/events.json.gz"))).unwrap();
            assert!(
                stored == fixture.served(date(2018, 6, day)),
                "round {round}, day {day}"
            );
        }
    }
}

/// Situation of a cluster restored beside the first one.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_holder_name_do_not_interfere() {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 7)).await;
    let created = Arc::new(CreationLog::default());
    // Both wait longer than clocks may differ.
    let since = Timestamp::now() - SignedDuration::from_mins(1);
    let named = |process: &str| ExportSpec {
        holder_epoch: Some(HolderEpoch::new(process, since)),
        ..fixture.export.clone()
    };
    let (one, two) = (named("one"), named("two"));
    let ends = tokio::join!(
        process(&fixture, &one, &created),
        process(&fixture, &two, &created)
    );
    for (snapshot, name) in [(&ends.0, "one"), (&ends.1, "two")] {
        assert!(
            snapshot.complete || held(snapshot),
            "{name}: {:?}",
            snapshot.problems
        );
    }
    assert_eq!(evidence(&fixture), 14, "together they store everything");
    assert!(process(&fixture, &one, &created).await.complete);
    assert_eq!(archive_violations(&fixture, &created).await, Vec::<String>::new());
    assert_eq!(
        fixture.simulator.ledger().opened,
        7,
        "no session was taken from the other"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_holders_that_start_at_once_one_continues() {
    let rounds = (0..24).map(|round| async move {
        let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
        let created = Arc::new(CreationLog::default());
        let other = ExportSpec {
            holder: "tests/two".to_owned(),
            ..fixture.export.clone()
        };
        let ends = tokio::join!(
            process(&fixture, &fixture.export, &created),
            process(&fixture, &other, &created)
        );
        let stored = ends.0.covered.len().max(ends.1.covered.len());
        assert!(
            ends.0.complete || ends.1.complete || evidence(&fixture) == 6,
            "round {round}, {stored} cells: {:?} {:?}",
            ends.0.problems,
            ends.1.problems
        );
        assert_eq!(archive_violations(&fixture, &created).await, Vec::<String>::new());
    });
    futures::future::join_all(rounds).await;
}

/// Crashes a process of the first holder at a store call.
async fn run_until_crash(fixture: &EngineFixture, created: &Arc<CreationLog>, call: &str, fault: StoreFault) {
    // The first run counts the calls up to the wanted one.
    let practice = EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 2)).await;
    let counted = FaultyStore::new(practice.store(), &Arc::default(), 0, StoreFault::Fail);
    let peers = practice.peers(Arc::clone(&counted) as Arc<dyn Store>);
    practice.run_with(peers, CancellationToken::new()).await;
    let log = counted.log.lock().unwrap().clone();
    let at = 1 + log
        .iter()
        .position(|line| line.contains(call))
        .expect("such a call");
    let store = FaultyStore::new(fixture.store(), created, at, fault);
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    tokio::select! {
        _ = fixture.run_with(peers, CancellationToken::new()) => panic!("it was to die at {call}"),
        () = store.died.notified() => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_taken_over_after_the_deadline_of_its_holder_and_its_session_is_deleted() {
    for (call, fault) in [
        (".session.", StoreFault::CrashAfter),
        (".session.", StoreFault::CrashBefore),
        ("put _journal/2018-06-02.receipt.json", StoreFault::CrashBefore),
    ] {
        let mut fixture = EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 2)).await;
        // Long enough for a reconcile before it ends, on a machine that also compiles.
        fixture.limits.attempt = Duration::from_secs(8);
        let created = Arc::new(CreationLog::default());
        run_until_crash(&fixture, &created, call, fault).await;
        assert_eq!(fixture.simulator.ledger().open_now, 1);
        let other = ExportSpec {
            end: Some(date(2018, 6, 3)),
            holder: "tests/two".to_owned(),
            ..fixture.export.clone()
        };
        let early = process(&fixture, &other, &created).await;
        assert!(held(&early) && early.stored == 1, "{call}: {:?}", early.problems);
        assert_eq!(
            fixture.simulator.ledger().open_now,
            1,
            "the other's session is not touched"
        );
        tokio::time::sleep(fixture.limits.attempt).await;
        let late = process(&fixture, &other, &created).await;
        let late = if late.complete {
            late
        } else {
            process(&fixture, &other, &created).await
        };
        assert!(late.complete, "{call} {fault:?}: {:?}", late.problems);
        assert_eq!(
            archive_violations(&fixture, &created).await,
            Vec::<String>::new(),
            "{call} {fault:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_past_its_deadline_loses_the_window_and_stops() {
    let mut settings = settings();
    // Some kilobytes, at one kilobyte a second.
    settings.volume.events_per_day = 60;
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 2), date(2018, 6, 2)).await;
    fixture.limits.attempt = Duration::from_secs(2);
    let created = Arc::new(CreationLog::default());
    fixture.simulator.add_preset("tricklex1").unwrap();
    let other = ExportSpec {
        holder: "tests/two".to_owned(),
        ..fixture.export.clone()
    };
    let slow = process(&fixture, &fixture.export, &created);
    let quick = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        process(&fixture, &other, &created).await
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(
        quick.complete || slow.complete,
        "{:?} {:?}",
        quick.problems,
        slow.problems
    );
    for (snapshot, name) in [(&slow, "slow"), (&quick, "quick")] {
        assert!(
            snapshot.complete || held(snapshot),
            "{name}: {:?}",
            snapshot.problems
        );
    }
    assert_eq!(archive_violations(&fixture, &created).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_abandons_an_attempt_at_its_deadline_and_tries_again() {
    let mut settings = settings();
    settings.gzip.level = 0;
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 2), date(2018, 6, 2)).await;
    fixture.limits.attempt = Duration::from_secs(2);
    fixture.export.retry_policy = RetryPolicy::MaxAttempts(1);
    let created = Arc::new(CreationLog::default());
    // Far longer than the deadline.
    fixture.simulator.add_preset("trickle").unwrap();
    let start = std::time::Instant::now();
    let snapshot = process(&fixture, &fixture.export, &created).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let problem = snapshot.problems.first().expect("a problem");
    assert_eq!(problem.reason, Reason::DownloadIncomplete);
    assert!(
        problem.message.contains("maximum duration of an attempt"),
        "{}",
        problem.message
    );
    assert_eq!(fixture.simulator.ledger().open_now, 0, "its session is deleted");
    fixture.simulator.set_faults(Vec::new());
    assert!(process(&fixture, &fixture.export, &created).await.complete);
    assert_eq!(archive_violations(&fixture, &created).await, Vec::<String>::new());
}
