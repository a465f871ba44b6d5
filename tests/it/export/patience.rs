//! What waits does so quietly: under the operator a run goes on for ever, and must not ask, write or tell all
//! the time.

use std::sync::Arc;
use std::time::Duration;

use eventexport::export::snapshot::Snapshot;
use eventexport::export::wish::{Export, Persistence};
use eventexport::storage::Store;
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, settings};
use super::saboteur::{Saboteur, Strike};

/// How long a run is watched.
const WATCHED: Duration = Duration::from_secs(6);

/// What a run of three days did while it was watched.
#[derive(Debug)]
struct Seen {
    snapshot: Arc<Snapshot>,
    told: usize,
    calls: usize,
    requests: u64,
}

async fn watch_of(bench: &Bench, strike_at: usize) -> Seen {
    let store = Saboteur::new(bench.store(), &Arc::default(), strike_at, Strike::Refuse);
    let forever = Export {
        persistence: Persistence::Forever,
        ..bench.export.clone()
    };
    let (out, mut seen) = watch::channel(Arc::<Snapshot>::default());
    let stop = CancellationToken::new();
    let engine = bench.engine();
    let peers = bench.peers(Arc::clone(&store) as Arc<dyn Store>);
    let run = async {
        let snapshot = engine.run(Arc::new(forever), peers, &out, stop.clone()).await;
        drop(out);
        snapshot
    };
    let ends = async {
        tokio::time::sleep(WATCHED).await;
        stop.cancel();
    };
    let listens = async {
        let mut told = 0;
        while seen.changed().await.is_ok() {
            told += 1;
        }
        told
    };
    let (snapshot, told) = tokio::select! {
        both = async { tokio::join!(run, listens) } => both,
        never = async { ends.await; std::future::pending().await } => never,
    };
    Seen {
        snapshot,
        told,
        calls: store.calls(),
        requests: bench.simulator.ledger().requests.values().sum(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_keeps_going_wrong_is_not_asked_for_all_the_time() {
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
        let mut bench = Bench::start(settings(), date(2018, 6, 2), date(2018, 6, 4)).await;
        bench.export.parallelism = 2;
        bench.timeouts.request = Duration::from_secs(1);
        bench.simulator.add_preset(preset).unwrap();
        let seen = watch_of(&bench, 0).await;
        // Three days by two tries in this time, each some requests, each of those tried three times.
        let quiet = seen.told < 60 && seen.calls < 150 && seen.requests < 120;
        assert!(quiet && !seen.snapshot.complete, "{preset}: {seen:#?}");
    });
    futures::future::join_all(watched).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_away_at_first_is_forgotten_when_all_is_well() {
    let bench = Bench::start(settings(), date(2018, 6, 2), date(2018, 6, 4)).await;
    assert!(bench.run().await.complete);
    let seen = watch_of(&bench, 1).await;
    assert!(
        seen.snapshot.complete && seen.snapshot.troubles.is_empty(),
        "{seen:#?}"
    );
    assert!(seen.calls < 20 && seen.told < 20, "{seen:#?}");
}
