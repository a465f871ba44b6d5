//! Several holders of one archive: nobody fights, and nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::wish::{Export, Tenure};
use eventexport::storage::Store;
use jiff::civil::date;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, settings};
use super::crashes::faults_of;
use super::saboteur::{Created, Saboteur, Strike};

/// A process of its own, with its own engine and its own connection to the store.
async fn process(bench: &Bench, export: &Export, created: &Arc<Created>) -> Arc<Snapshot> {
    let store = Saboteur::new(bench.store(), created, 0, Strike::Refuse);
    let (out, _) = watch::channel(Arc::default());
    let export = Arc::new(export.clone());
    let engine = bench.engine();
    let run = engine.run(export, bench.peers(store), &out, CancellationToken::new());
    let ended = tokio::time::timeout(Duration::from_mins(1), run).await;
    ended.expect("the run ends")
}

/// Objects and receipts.
fn evidence(bench: &Bench) -> usize {
    let files = bench.files();
    files
        .iter()
        .filter(|name| !name.starts_with("_manifests/"))
        .count()
}

fn held(snapshot: &Snapshot) -> bool {
    let mut troubles = snapshot.troubles.iter();
    troubles.any(|trouble| trouble.reason == Reason::HeldBy)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_holders_of_overlapping_ranges_store_everything_once() {
    for round in 0..6 {
        let bench = Bench::start(settings(), date(2018, 6, 1), date(2018, 6, 7)).await;
        let created = Arc::new(Created::default());
        let one = Export {
            end: Some(date(2018, 6, 5)),
            ..bench.export.clone()
        };
        let two = Export {
            start: date(2018, 6, 3),
            holder: "tests/two".to_owned(),
            ..bench.export.clone()
        };
        let ends = tokio::join!(process(&bench, &one, &created), process(&bench, &two, &created));
        for (snapshot, name) in [(&ends.0, "one"), (&ends.1, "two")] {
            assert!(
                snapshot.complete || held(snapshot),
                "round {round}, {name}: {:?}",
                snapshot.troubles
            );
        }
        assert_eq!(
            evidence(&bench),
            14,
            "round {round}: together they store everything"
        );
        assert!(process(&bench, &one, &created).await.complete);
        assert!(process(&bench, &two, &created).await.complete);
        assert_eq!(
            faults_of(&bench, &created).await,
            Vec::<String>::new(),
            "round {round}"
        );
        for day in 1..=7 {
            let stored =
                std::fs::read(bench.root().join(format!("date=2018-06-0{day}/events.json.gz"))).unwrap();
            assert!(
                stored == bench.served(date(2018, 6, day)),
                "round {round}, day {day}"
            );
        }
    }
}

/// As the operators of a cluster that was restored beside the first one.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_name_leave_each_other_s_work_alone() {
    let bench = Bench::start(settings(), date(2018, 6, 1), date(2018, 6, 7)).await;
    let created = Arc::new(Created::default());
    // Both are there for longer than clocks may be apart.
    let since = Timestamp::now() - SignedDuration::from_mins(1);
    let named = |process: &str| Export {
        tenure: Some(Tenure::new(process, since)),
        ..bench.export.clone()
    };
    let (one, two) = (named("one"), named("two"));
    let ends = tokio::join!(process(&bench, &one, &created), process(&bench, &two, &created));
    for (snapshot, name) in [(&ends.0, "one"), (&ends.1, "two")] {
        assert!(
            snapshot.complete || held(snapshot),
            "{name}: {:?}",
            snapshot.troubles
        );
    }
    assert_eq!(evidence(&bench), 14, "together they store everything");
    assert!(process(&bench, &one, &created).await.complete);
    assert_eq!(faults_of(&bench, &created).await, Vec::<String>::new());
    assert_eq!(
        bench.simulator.ledger().opened,
        7,
        "no session was taken from the other"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_holders_that_begin_at_once_one_goes_on() {
    let rounds = (0..24).map(|round| async move {
        let bench = Bench::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
        let created = Arc::new(Created::default());
        let other = Export {
            holder: "tests/two".to_owned(),
            ..bench.export.clone()
        };
        let ends = tokio::join!(
            process(&bench, &bench.export, &created),
            process(&bench, &other, &created)
        );
        let stored = ends.0.covered.len().max(ends.1.covered.len());
        assert!(
            ends.0.complete || ends.1.complete || evidence(&bench) == 6,
            "round {round}, {stored} cells: {:?} {:?}",
            ends.0.troubles,
            ends.1.troubles
        );
        assert_eq!(faults_of(&bench, &created).await, Vec::<String>::new());
    });
    futures::future::join_all(rounds).await;
}

/// Lets a process of the first holder die at a call of the store.
async fn dies(bench: &Bench, created: &Arc<Created>, call: &str, strike: Strike) {
    // The first run counts the calls up to the one that is meant.
    let practice = Bench::start(settings(), date(2018, 6, 2), date(2018, 6, 2)).await;
    let counted = Saboteur::new(practice.store(), &Arc::default(), 0, Strike::Refuse);
    let peers = practice.peers(Arc::clone(&counted) as Arc<dyn Store>);
    practice.run_with(peers, CancellationToken::new()).await;
    let log = counted.log.lock().unwrap().clone();
    let at = 1 + log
        .iter()
        .position(|line| line.contains(call))
        .expect("such a call");
    let store = Saboteur::new(bench.store(), created, at, strike);
    let peers = bench.peers(Arc::clone(&store) as Arc<dyn Store>);
    tokio::select! {
        _ = bench.run_with(peers, CancellationToken::new()) => panic!("it was to die at {call}"),
        () = store.died.notified() => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_taken_over_after_the_deadline_of_its_holder_and_its_session_is_deleted() {
    for (call, strike) in [
        (".session.", Strike::DieAfter),
        (".session.", Strike::DieBefore),
        ("receipt.json", Strike::DieBefore),
    ] {
        let mut bench = Bench::start(settings(), date(2018, 6, 2), date(2018, 6, 2)).await;
        // Long enough for a look before it is over, on a machine that also compiles.
        bench.limits.attempt = Duration::from_secs(8);
        let created = Arc::new(Created::default());
        dies(&bench, &created, call, strike).await;
        assert_eq!(bench.simulator.ledger().open_now, 1);
        let other = Export {
            end: Some(date(2018, 6, 3)),
            holder: "tests/two".to_owned(),
            ..bench.export.clone()
        };
        let early = process(&bench, &other, &created).await;
        assert!(held(&early) && early.stored == 1, "{call}: {:?}", early.troubles);
        assert_eq!(
            bench.simulator.ledger().open_now,
            1,
            "the other's session is not touched"
        );
        tokio::time::sleep(bench.limits.attempt).await;
        let late = process(&bench, &other, &created).await;
        let late = if late.complete {
            late
        } else {
            process(&bench, &other, &created).await
        };
        assert!(late.complete, "{call} {strike:?}: {:?}", late.troubles);
        assert_eq!(
            faults_of(&bench, &created).await,
            Vec::<String>::new(),
            "{call} {strike:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_past_his_deadline_loses_the_window_and_stops() {
    let mut settings = settings();
    // Some kilobytes, at one a second.
    settings.volume.events_per_day = 60;
    let mut bench = Bench::start(settings, date(2018, 6, 2), date(2018, 6, 2)).await;
    bench.limits.attempt = Duration::from_secs(2);
    let created = Arc::new(Created::default());
    bench.simulator.add_preset("tricklex1").unwrap();
    let other = Export {
        holder: "tests/two".to_owned(),
        ..bench.export.clone()
    };
    let slow = process(&bench, &bench.export, &created);
    let quick = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        process(&bench, &other, &created).await
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(quick.complete, "{:?}", quick.troubles);
    assert!(slow.complete || held(&slow), "{:?}", slow.troubles);
    assert_eq!(faults_of(&bench, &created).await, Vec::<String>::new());
    assert_eq!(bench.simulator.ledger().opened, 2);
}
