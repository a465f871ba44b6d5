//! A session whose creation got no reply is deleted when it is provably of this export, and reported until then.

use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::export::snapshot::Snapshot;
use eventexport::storage::Store;
use jiff::SignedDuration;
use jiff::civil::date;
use tokio_util::sync::CancellationToken;

use super::crashes::archive_violations;
use super::faulty_store::{CreationLog, FaultyStore};
use super::fixture::{EngineFixture, settings};
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
