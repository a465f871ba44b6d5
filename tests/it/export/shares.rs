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
async fn an_export_with_parallelism_30_leaves_sessions_of_its_space_to_newcomers() {
    let mut settings = settings();
    settings.today = Some(date(2018, 7, 2));
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 30)).await;
    fixture.export.parallelism = 30;
    let (store, engine, stop) = (store(&fixture), fixture.engine(), CancellationToken::new());
    // None of its windows ends.
    store.stall(Some("put date="));
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let first = spawn(&engine, export(&fixture, "a/first", SPACE), peers, &stop);
    let opened = timeout(Duration::from_secs(10), async {
        while fixture.simulator.open_sessions().len() < 26 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let opened = opened.await;
    assert!(opened.is_ok(), "{}", fixture.simulator.open_sessions().len());
    // It would open more at once.
    sleep(Duration::from_secs(1)).await;
    // Another export of its namespace, and one of another namespace.
    let newcomers = ["a/second", "b/third"].map(|name| {
        let newcomer = ExportSpec {
            parallelism: 4,
            end: Some(date(2018, 6, 3)),
            ..export(&fixture, name, SPACE)
        };
        spawn(&engine, newcomer, fixture.peers(fixture.store()), &stop)
    });
    for newcomer in newcomers {
        completes(newcomer, 10).await;
    }
    assert_eq!(fixture.simulator.open_sessions().len(), 26);
    store.stall(None);
    completes(first, 60).await;
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (36, 0));
    assert!(ledger.max_open <= 28, "{}", ledger.max_open);
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
