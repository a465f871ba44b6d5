//! A waiting export is quiet: an operator run lasts indefinitely and must not send requests, write, or publish
//! continuously.

use std::sync::Arc;
use std::time::Duration;

use eventexport::export::engine::RunControl;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::{ExportSpec, RetryPolicy};
use eventexport::storage::Store;
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::faulty_store::{FaultyStore, StoreFault};
use super::fixture::{EngineFixture, settings};

/// Observation time of a run.
const OBSERVATION_PERIOD: Duration = Duration::from_secs(6);

/// Activity of a run of three days while observed.
#[derive(Debug)]
struct RunActivity {
    snapshot: Arc<Snapshot>,
    snapshots: usize,
    calls: usize,
    requests: u64,
}

async fn observe(fixture: &EngineFixture, strike_at: usize) -> RunActivity {
    let store = FaultyStore::new(fixture.store(), &Arc::default(), strike_at, StoreFault::Fail);
    let forever = ExportSpec {
        retry_policy: RetryPolicy::Forever,
        ..fixture.export.clone()
    };
    let (out, mut seen) = watch::channel(Arc::<Snapshot>::default());
    let stop = CancellationToken::new();
    let engine = fixture.engine();
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let run = async {
        let snapshot = engine.run(Arc::new(forever), peers, &out, stop.clone()).await;
        drop(out);
        snapshot
    };
    let ends = async {
        tokio::time::sleep(OBSERVATION_PERIOD).await;
        stop.cancel();
    };
    let listens = async {
        let mut snapshots = 0;
        while seen.changed().await.is_ok() {
            snapshots += 1;
        }
        snapshots
    };
    let (snapshot, snapshots) = tokio::select! {
        both = async { tokio::join!(run, listens) } => both,
        never = async { ends.await; std::future::pending().await } => never,
    };
    RunActivity {
        snapshot,
        snapshots,
        calls: store.calls(),
        requests: fixture.simulator.ledger().requests.values().sum(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_failures_are_retried_with_backoff() {
    let presets = [
        "http-500",
        "hang",
        "forbidden",
        "unauthorized",
        "uaa-401",
        "uaa-500",
        "list-500",
        "create-403",
        "create-500",
        "full",
        "range-differs@2018-06-03",
        "events-over@2018-06-03",
        "not-gzip@2018-06-03",
        "wrong-crc",
        "download-404@2018-06-03",
        "trickle",
        "redirect",
        "session-id-missing",
    ];
    let watched = presets.map(|preset| async move {
        let mut fixture = EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 4)).await;
        fixture.export.parallelism = 2;
        fixture.timeouts.request = Duration::from_secs(1);
        fixture.simulator.add_preset(preset).unwrap();
        let seen = observe(&fixture, 0).await;
        // Three days with two attempts each in this time, some requests per attempt, each tried three times. Each
        // attempt reads the records of those before it whose session may be open: 170 calls unless the machine is busy.
        let quiet = seen.snapshots < 60 && seen.calls < 220 && seen.requests < 120;
        assert!(quiet && !seen.snapshot.complete, "{preset}: {seen:#?}");
    });
    futures::future::join_all(watched).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initial_store_outage_is_cleared_after_recovery() {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 4)).await;
    assert!(fixture.run().await.complete);
    let seen = observe(&fixture, 1).await;
    assert!(
        seen.snapshot.complete && seen.snapshot.problems.is_empty(),
        "{seen:#?}"
    );
    assert!(seen.calls < 20 && seen.snapshots < 20, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_would_wait_for_long_ends_and_the_next_one_keeps_its_backoff() {
    let mut fixture = EngineFixture::start(settings(), date(2018, 6, 3), date(2018, 6, 4)).await;
    fixture.export.retry_policy = RetryPolicy::Forever;
    let store = FaultyStore::new(fixture.store(), &Arc::default(), 1, StoreFault::Forbid);
    let (engine, export) = (fixture.engine(), Arc::new(fixture.export.clone()));
    let run = async |retry_state| {
        let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
        let control = RunControl {
            retry_state,
            ..RunControl::from(CancellationToken::new())
        };
        let (out, _) = watch::channel(Arc::<Snapshot>::default());
        let run = engine.run(Arc::clone(&export), peers, &out, control);
        let ended = tokio::time::timeout(Duration::from_secs(30), run).await;
        ended.expect("the run ends")
    };
    let first = run(None).await;
    assert!(!first.observed && first.problems.len() == 1, "{first:#?}");
    let mut waits = first.retry_state.clone().expect("it waits");
    let retry_at = waits.export_backoff.as_ref().map(|entry| entry.retry_at);
    assert!(first.next_run_at.is_some() && first.next_run_at == retry_at);

    // Too early: nothing is sent.
    let calls = store.calls();
    let second = run(Some(Arc::clone(&waits))).await;
    assert_eq!(store.calls(), calls);
    assert_eq!(second.next_run_at, retry_at);
    assert_eq!(second.problems.len(), 1);

    Arc::make_mut(&mut waits).retry_all(jiff::Timestamp::now());
    let last = run(Some(waits)).await;
    assert!(last.complete && last.retry_state.is_none(), "{last:#?}");
}
