//! A space shared with users: their sessions are not touched, and the export waits for a free one.

use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::export::snapshot::Snapshot;
use eventexport::simulator::{DEFAULT_PERSON, DEFAULT_USER};
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::crashes::archive_violations;
use super::faulty_store::CreationLog;
use super::fixture::{EngineFixture, SPACE, settings};
use crate::testkit::service::open_ids;

/// Exports the thirty days of June.
async fn june() -> EngineFixture {
    let mut settings = settings();
    settings.today = Some(date(2018, 7, 2));
    settings.volume.events_per_day = 48;
    EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 30)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_days_are_exported_beside_28_user_sessions() {
    // Another user's sessions are not listed; sessions of our user are, and may still be opened manually.
    for user in [DEFAULT_PERSON, DEFAULT_USER] {
        let fixture = june().await;
        let user_sessions = fixture.simulator.open_sessions_as(user, SPACE, 28);
        let snapshot = fixture.run().await;
        assert!(snapshot.complete, "{user}: {:?}", snapshot.problems);
        let ledger = fixture.simulator.ledger();
        assert_eq!(
            (
                ledger.other_users_open,
                ledger.other_users_deleted,
                ledger.open_now
            ),
            (28, 0, 0),
            "{user}"
        );
        assert!(ledger.max_open <= 30, "{user}: {}", ledger.max_open);
        assert_eq!((ledger.opened, ledger.deleted), (30, 30), "{user}");
        let left = open_ids(&fixture.simulator);
        assert!(user_sessions.iter().all(|id| left.contains(id)));
        assert_eq!(
            archive_violations(&fixture, &CreationLog::default()).await,
            Vec::<String>::new()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_space_is_reported_and_waited_for() {
    let mut fixture = june().await;
    fixture.export.end = Some(date(2018, 6, 3));
    let user_sessions = fixture.simulator.open_sessions_as(DEFAULT_USER, SPACE, 30);
    let (out, mut seen) = watch::channel(Arc::<Snapshot>::default());
    let engine = fixture.engine();
    let run = engine.run(
        Arc::new(fixture.export.clone()),
        fixture.peers(fixture.store()),
        &out,
        CancellationToken::new(),
    );
    let free_one = async {
        let full = |snapshot: &Arc<Snapshot>| {
            let mut problems = snapshot.problems.iter();
            snapshot.active == 0 && problems.any(|problem| problem.reason == Reason::SpaceFull)
        };
        let snapshot = seen.wait_for(full).await.unwrap().clone();
        assert_eq!((snapshot.stored, snapshot.waiting), (0, 3));
        assert!(snapshot.next_run_at.is_some());
        let asked = fixture.simulator.ledger().requests.values().sum::<u64>();
        // The user closes one session.
        let peers = fixture.peers(fixture.store());
        peers
            .tracker
            .delete_session(SPACE, &user_sessions[0])
            .await
            .unwrap();
        asked
    };
    let both = tokio::time::timeout(Duration::from_mins(1), async { tokio::join!(run, free_one) });
    let (snapshot, asked) = both.await.expect("it goes on when there is room");
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let ledger = fixture.simulator.ledger();
    assert_eq!(
        (ledger.other_users_open, ledger.open_now, ledger.max_open),
        (29, 0, 30)
    );
    assert!(
        asked < 20,
        "waiting is not asking again and again: {asked} requests"
    );
    assert!(
        ledger.requests.values().sum::<u64>() < 60,
        "{:?}",
        ledger.requests
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_respects_its_session_limit() {
    let mut fixture = june().await;
    fixture.export.end = Some(date(2018, 6, 8));
    fixture.export.parallelism = 8;
    fixture.limits.sessions_per_space = 2;
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (8, 0));
    assert!(ledger.max_open <= 2, "{} at once", ledger.max_open);
}
