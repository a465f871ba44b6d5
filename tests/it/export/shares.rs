//! Shares of a process: what one export does not get done keeps nothing from the others.

use std::sync::Arc;
use std::time::Duration;

use eventexport::archive::layout::ArchiveRoot;
use eventexport::export::engine::{Engine, Peers};
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::{ExportSpec, RetryPolicy};
use eventexport::storage::Store;
use eventexport::tracker::{TokenCache, Tracker, TrackerConfig};
use jiff::civil::date;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, SPACE, settings};
use crate::testkit::engine::tracker_config;

/// Returns an export with a root and a holder of its own.
fn export(fixture: &EngineFixture, name: &str, space: &str) -> ExportSpec {
    ExportSpec {
        name: name.to_owned(),
        space: space.to_owned(),
        root: ArchiveRoot::new(name, space, "space"),
        holder: name.to_owned(),
        ..fixture.export.clone()
    }
}

fn store(fixture: &EngineFixture) -> Arc<FaultyStore> {
    FaultyStore::new(
        fixture.store(),
        &Arc::new(CreationLog::default()),
        0,
        StoreFault::Fail,
    )
}

fn spawn(
    engine: &Engine,
    export: ExportSpec,
    peers: Peers,
    stop: &CancellationToken,
) -> JoinHandle<Arc<Snapshot>> {
    let (engine, stop) = (engine.clone(), stop.clone());
    tokio::spawn(async move {
        let (out, _) = watch::channel(Arc::default());
        engine.run(Arc::new(export), peers, &out, stop).await
    })
}

async fn completes(run: JoinHandle<Arc<Snapshot>>, seconds: u64) {
    let ended = timeout(Duration::from_secs(seconds), run).await;
    let snapshot = ended.expect("the export ends in time").unwrap();
    assert!(snapshot.complete, "{:?}", snapshot.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_with_28_sessions_returns_them_to_newcomers_within_seconds() {
    let mut settings = settings();
    settings.today = Some(date(2018, 7, 2));
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 30)).await;
    fixture.export.parallelism = 30;
    let (slow, engine, stop) = (store(&fixture), fixture.engine(), CancellationToken::new());
    let open = || fixture.simulator.open_sessions().len();
    // None of its windows ends.
    slow.stall(Some("put date="));
    let peers = fixture.peers(Arc::clone(&slow) as Arc<dyn Store>);
    let first = spawn(&engine, export(&fixture, "a/first", SPACE), peers, &stop);
    wait_for(30, || open() == 28).await;
    // Another export of its namespace, and three of other namespaces: none of them ends either.
    let stores = ["a/second", "b/third", "c/fourth", "d/fifth"].map(|name| {
        let newcomer_store = store(&fixture);
        newcomer_store.stall(Some("put date="));
        let newcomer = ExportSpec {
            parallelism: 4,
            end: Some(date(2018, 6, 3)),
            ..export(&fixture, name, SPACE)
        };
        let peers = fixture.peers(Arc::clone(&newcomer_store) as Arc<dyn Store>);
        (newcomer_store, spawn(&engine, newcomer, peers, &stop))
    });
    let waits = |store: &FaultyStore| {
        let log = store.log.lock().unwrap();
        log.iter().any(|call| call.contains("put date="))
    };
    wait_for(10, || stores.iter().all(|(store, _)| waits(store))).await;
    assert!(open() <= 28, "{}", open());
    slow.stall(None);
    completes(first, 60).await;
    for (store, run) in stores {
        store.stall(None);
        completes(run, 60).await;
    }
    let ledger = fixture.simulator.ledger();
    // The windows whose sessions were asked back had another one: no more than one for each newcomer.
    let again = ledger.opened - 30 - 4 * 3;
    assert!((1..=4).contains(&again), "{again}");
    assert!(ledger.open_now == 0 && ledger.max_open <= 28, "{ledger:?}");
}

async fn wait_for(seconds: u64, condition: impl Fn() -> bool) {
    let reached = timeout(Duration::from_secs(seconds), async {
        while !condition() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(reached.await.is_ok(), "not within {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_keeps_no_turn_from_its_space() {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 8)).await;
    let (engine, stop) = (fixture.engine(), CancellationToken::new());
    // An attempt is written, or its session: before and after the turn. The other windows of the export wait for it.
    for (stalled, open) in [(".attempt.json", 0), (".session.", 1)] {
        let slow = store(&fixture);
        slow.stall(Some(stalled));
        let name = format!("tests/slow{open}");
        let peers = fixture.peers(Arc::clone(&slow) as Arc<dyn Store>);
        let stuck = spawn(&engine, export(&fixture, &name, SPACE), peers, &stop);
        let waits = timeout(Duration::from_secs(10), async {
            while slow
                .log
                .lock()
                .unwrap()
                .iter()
                .all(|call| !call.contains(stalled))
            {
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waits.await.is_ok());
        assert_eq!(fixture.simulator.open_sessions().len(), open);
        let peers = fixture.peers(fixture.store());
        let fast = export(&fixture, &format!("tests/fast{open}"), SPACE);
        completes(spawn(&engine, fast, peers, &stop), 20).await;
        slow.stall(None);
        completes(stuck, 60).await;
    }
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (32, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_part_keeps_no_memory_from_others() {
    let mut settings = settings();
    settings.today = Some(date(2018, 6, 14));
    settings.gzip.level = 0;
    // A day has more than one part.
    for day in 1..=12 {
        settings.volume.days.insert(date(2018, 6, day), 1_500);
    }
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 12)).await;
    fixture.export.parallelism = 30;
    // Three parts for all, and one more each for exports, spaces and namespaces without one.
    (fixture.limits.pool_mib, fixture.limits.part_mib) = (12, 1);
    let (engine, slow, stop) = (fixture.engine(), store(&fixture), CancellationToken::new());
    slow.stall(Some(" of date="));
    let peers = fixture.peers(Arc::clone(&slow) as Arc<dyn Store>);
    let stuck = spawn(&engine, export(&fixture, "a/slow", SPACE), peers, &stop);
    let full = timeout(Duration::from_mins(1), async {
        while engine.load().waiting_for_memory == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(full.await.is_ok(), "{:?}", engine.load());
    // Another export of the space, another space of the namespace, another namespace.
    let others = [("a/fast", SPACE), ("a/other", "s2"), ("b/fast", "s3")];
    let others = others.map(|(name, space)| {
        let other = ExportSpec {
            end: Some(date(2018, 6, 2)),
            ..export(&fixture, name, space)
        };
        spawn(&engine, other, fixture.peers(fixture.store()), &stop)
    });
    for other in others {
        completes(other, 60).await;
    }
    assert!(engine.load().pool_used_bytes <= engine.load().pool_bytes);
    stop.cancel();
    stuck.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_do_not_answer_keep_no_place_from_a_newcomer() {
    let mut fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
    fixture.limits.windows = 1;
    let (engine, stop) = (fixture.engine(), CancellationToken::new());
    // Accepts connections, and never replies.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", dead.local_addr().unwrap());
    let runs: Vec<_> = (0..40)
        .map(|number| {
            let config = TrackerConfig {
                timeouts: fixture.timeouts,
                ..tracker_config(&address.parse().unwrap())
            };
            let peers = Peers {
                tracker: Tracker::new(config, &TokenCache::new()).unwrap(),
                ..fixture.peers(fixture.store())
            };
            let forever = ExportSpec {
                retry_policy: RetryPolicy::Forever,
                ..export(&fixture, &format!("n{number}/dead"), &format!("dead{number}"))
            };
            spawn(&engine, forever, peers, &stop)
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    let newcomer = export(&fixture, "n0/new", SPACE);
    completes(
        spawn(&engine, newcomer, fixture.peers(fixture.store()), &stop),
        10,
    )
    .await;
    stop.cancel();
    for run in runs {
        run.await.unwrap();
    }
}
