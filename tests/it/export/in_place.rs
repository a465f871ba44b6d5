//! A newer spec in a running export: its transfers go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use eventexport::export::engine::{RunControl, SpecUpdate};
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::ExportSpec;
use eventexport::storage::Store;
use jiff::civil::date;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, gap, settings};

async fn open_sessions(fixture: &EngineFixture, wanted: usize) -> BTreeSet<String> {
    let opened = timeout(Duration::from_secs(10), async {
        while fixture.simulator.open_sessions().len() < wanted {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let open = || fixture.simulator.open_sessions();
    assert!(opened.await.is_ok(), "{} sessions", open().len());
    open().into_iter().map(|open| open.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_parallelism_and_a_longer_range_leave_transfers_alone() {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 6)).await;
    let created = Arc::new(CreationLog::default());
    let store = FaultyStore::new(fixture.store(), &created, 0, StoreFault::Fail);
    store.stall(Some("put date="));
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let (out, mut seen) = watch::channel(Arc::<Snapshot>::default());
    let (newest_spec, updates) = watch::channel(SpecUpdate::default());
    let control = RunControl {
        updates,
        ..RunControl::from(CancellationToken::new())
    };
    let (engine, export) = (fixture.engine(), Arc::new(fixture.export.clone()));
    let run = tokio::spawn(async move { engine.run(export, peers, &out, control).await });
    let before = open_sessions(&fixture, 4).await;

    let newer = ExportSpec {
        end: Some(date(2018, 6, 7)),
        parallelism: 6,
        accepted_gaps: vec![gap(date(2018, 6, 5), date(2018, 6, 5))],
        ..fixture.export.clone()
    };
    newest_spec.send_replace(SpecUpdate {
        number: 1,
        export: Some(Arc::new(newer)),
    });
    let taken = seen.wait_for(|snapshot| snapshot.applied == 1);
    assert!(timeout(Duration::from_secs(10), taken).await.is_ok());
    let after = open_sessions(&fixture, 6).await;
    assert!(after.is_superset(&before), "{before:?} {after:?}");
    store.stall(None);

    let snapshot = timeout(Duration::from_mins(1), run).await.unwrap().unwrap();
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    assert_eq!((snapshot.stored, snapshot.applied), (6, 1));
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.open_now), (6, 6, 0));
    assert_eq!(created.duplicates(), Vec::<String>::new());
}
