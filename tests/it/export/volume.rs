//! Days with many parts: bytes as served, memory within the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use eventexport::storage::Store;
use jiff::civil::date;
use tokio_util::sync::CancellationToken;

use super::crashes::archive_violations;
use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, settings};

const MIB: u64 = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn large_windows_upload_in_parts_within_the_memory_pool() {
    let mut settings = settings();
    settings.gzip.level = 0;
    settings.volume.days.insert(date(2018, 6, 1), 30_000);
    settings.volume.days.insert(date(2018, 6, 2), 45_000);
    settings.volume.days.insert(date(2018, 6, 3), 60_000);
    for (pool_mib, at_once) in [(8, 8), (20, 16), (96, 96)] {
        let mut fixture = EngineFixture::start(settings.clone(), date(2018, 6, 1), date(2018, 6, 3)).await;
        fixture.limits.pool_mib = pool_mib;
        let created = Arc::new(CreationLog::default());
        let store = FaultyStore::new(fixture.store(), &created, 0, StoreFault::Fail);
        let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
        let snapshot = fixture.run_with(peers, CancellationToken::new()).await;
        assert!(snapshot.complete, "{pool_mib} MiB: {:?}", snapshot.problems);
        let most = store.max_in_flight.load(Ordering::SeqCst);
        assert!(
            most > 0 && most <= at_once * MIB,
            "{most} bytes of parts at a time in {pool_mib} MiB"
        );
        for day in 1..=3 {
            let stored =
                std::fs::read(fixture.root().join(format!("date=2018-06-0{day}/events.json.gz"))).unwrap();
            assert!(stored.len() as u64 > 24 * MIB);
            assert!(
                stored == fixture.served(date(2018, 6, day)),
                "{pool_mib} MiB, day {day}"
            );
        }
        assert_eq!(archive_violations(&fixture, &created).await, Vec::<String>::new());
    }

    settings.volume.days.insert(date(2018, 6, 3), 300_000);
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 3), date(2018, 6, 3)).await;
    fixture.export.hour = Some(7);
    assert!(fixture.run().await.complete);
    let stored = std::fs::read(fixture.root().join("date=2018-06-03/events-h07.json.gz")).unwrap();
    assert!(stored.len() as u64 > 8 * MIB, "{}", stored.len());
    assert!(stored == fixture.served_hour(date(2018, 6, 3), 7));
}
