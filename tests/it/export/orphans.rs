//! A session whose creation got no reply is deleted when it is provably of this export, and reported until then.

use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::archive::layout::ArchiveRoot;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::{ExportSpec, RetryPolicy};
use eventexport::storage::Store;
use jiff::SignedDuration;
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::crashes::archive_violations;
use super::faulty_store::{CreationLog, FaultyStore};
use super::fixture::{EngineFixture, SPACE, settings};
use crate::testkit::service::open_ids;

/// One day, and a service that loses the reply to the first request for a session.
async fn lost_reply() -> EngineFixture {
    let mut fixture = EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 2)).await;
    // Longer than a run.
    fixture.limits.session_quiet = Duration::from_secs(4);
    fixture.simulator.add_preset("create-reply-lost").unwrap();
    fixture
}

/// Runs a process whose store has another clock.
async fn process(fixture: &EngineFixture, created: &Arc<CreationLog>, skew: SignedDuration) -> Arc<Snapshot> {
    let store = FaultyStore::with_clock(fixture.store(), created, skew);
    let peers = fixture.peers(store as Arc<dyn Store>);
    fixture.run_with(peers, CancellationToken::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_another_clock_hides_no_session() {
    for minutes in [10, -10] {
        let skew = SignedDuration::from_mins(minutes);
        let fixture = lost_reply().await;
        let created = Arc::new(CreationLog::default());
        let first = process(&fixture, &created, skew).await;
        assert!(
            !first.complete && !first.finished,
            "{minutes}: {:?}",
            first.problems
        );
        assert_eq!((first.stored, first.open_attempts.len()), (1, 1), "{minutes}");
        let open = open_ids(&fixture.simulator);
        assert_eq!(first.suspected_sessions, open, "{minutes}: it is named");
        let problem = first.problems.first().expect("a problem");
        assert_eq!(problem.reason, Reason::OrphanSessionSuspected);
        tokio::time::sleep(fixture.limits.session_quiet).await;
        let second = process(&fixture, &created, skew).await;
        assert!(second.complete, "{minutes}: {:?}", second.problems);
        assert_eq!(
            archive_violations(&fixture, &created).await,
            Vec::<String>::new(),
            "{minutes}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_fits_everything_but_the_time_is_reported_and_kept() {
    let fixture = lost_reply().await;
    let created = Arc::new(CreationLog::default());
    let no_skew = SignedDuration::ZERO;
    let first = process(&fixture, &created, no_skew).await;
    assert!(!first.complete, "{:?}", first.problems);
    fixture.simulator.age_sessions(3_600);
    tokio::time::sleep(fixture.limits.session_quiet).await;
    let run = process(&fixture, &created, no_skew);
    let Err(_) = tokio::time::timeout(Duration::from_secs(5), run).await else {
        panic!("it is checked again for a while");
    };
    let ledger = fixture.simulator.ledger();
    assert_eq!(
        (ledger.open_now, ledger.deleted),
        (1, 1),
        "the session is not deleted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_exports_that_lose_a_reply_for_the_same_day_delete_both_sessions() {
    let mut fixture = EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 2)).await;
    fixture.limits.session_quiet = Duration::from_secs(4);
    // Opened by the same user at the same time: nothing but their number tells the sessions apart.
    for _ in 0..2 {
        fixture.simulator.add_preset("create-reply-lost").unwrap();
    }
    let (engine, stop) = (fixture.engine(), CancellationToken::new());
    let run = |name: &str| {
        let export = Arc::new(ExportSpec {
            name: name.to_owned(),
            root: ArchiveRoot::new(name, SPACE, "space"),
            holder: name.to_owned(),
            retry_policy: RetryPolicy::Forever,
            ..fixture.export.clone()
        });
        let (engine, peers, stop) = (engine.clone(), fixture.peers(fixture.store()), stop.clone());
        async move {
            let (out, _) = watch::channel(Arc::default());
            engine.run(export, peers, &out, stop).await
        }
    };
    let both = async { tokio::join!(run("a/first"), run("b/second")) };
    let (first, second) = tokio::time::timeout(Duration::from_mins(1), both)
        .await
        .expect("no person is asked");
    for snapshot in [first, second] {
        assert!(snapshot.complete && snapshot.finished, "{:?}", snapshot.problems);
    }
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.open_now), (4, 4, 0));
}
