//! Archive objects that differ from what was written: they are reported, never overwritten, never downloaded again,
//! and never cause a busy loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::{ExportSpec, RetryPolicy};
use eventexport::storage::{Crc64, ObjectClass, PutMode, PutOptions, Segments, Store};
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::crashes::archive_violations;
use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, gap, settings};

/// Maximum store calls of a run over three days; a busy loop makes thousands.
const CALLS_MAX: usize = 150;

async fn fixture() -> EngineFixture {
    EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 4)).await
}

async fn run(fixture: &EngineFixture) -> Arc<Snapshot> {
    let created = Arc::new(CreationLog::default());
    let store = FaultyStore::new(fixture.store(), &created, 0, StoreFault::Fail);
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let snapshot = fixture.run_with(peers, CancellationToken::new()).await;
    // The operator checks the same object repeatedly, with as few calls.
    let stop = CancellationToken::new();
    let forever = ExportSpec {
        retry_policy: RetryPolicy::Forever,
        ..fixture.export.clone()
    };
    let (out, _) = watch::channel(Arc::default());
    let engine = fixture.engine();
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let run = engine.run(Arc::new(forever), peers, &out, stop.clone());
    let while_looked_at = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        stop.cancel();
    };
    tokio::join!(run, while_looked_at);
    let log = store.log.lock().unwrap().join("\n");
    assert!(store.calls() < CALLS_MAX, "{} calls:\n{log}", store.calls());
    assert_eq!(archive_violations(fixture, &created).await, Vec::<String>::new());
    snapshot
}

fn object(fixture: &EngineFixture, name: &str) -> PathBuf {
    let path = fixture.root().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

fn edit_receipt(fixture: &EngineFixture, from: &str, to: &str) {
    let path = fixture.root().join("_journal/2018-06-03.receipt.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

fn ensure_reported(snapshot: &Arc<Snapshot>, reason: Reason, words: &str) {
    let problems = &snapshot.problems;
    let found = problems
        .iter()
        .any(|problem| problem.reason == reason && problem.message.contains(words));
    assert!(
        found && !snapshot.complete,
        "{reason} with {words:?}: {problems:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_object_is_neither_overwritten_nor_downloaded_again() {
    for name in [
        "date=2018-06-03/events.json.gz",
        "date=2018-06-03/events-h07.json.gz",
    ] {
        let mut fixture = fixture().await;
        let path = object(&fixture, name);
        std::fs::write(&path, "foreign").unwrap();
        let snapshot = run(&fixture).await;
        ensure_reported(&snapshot, Reason::ForeignObject, name);
        assert_eq!((snapshot.stored, snapshot.failed), (2, 1));
        assert_eq!(std::fs::read(&path).unwrap(), b"foreign");
        assert_eq!(fixture.simulator.ledger().opened, 2);
        fixture.export.accepted_gaps = vec![gap(date(2018, 6, 3), date(2018, 6, 3))];
        let accepted = run(&fixture).await;
        assert!(
            accepted.complete && accepted.problems.is_empty(),
            "{:?}",
            accepted.problems
        );
        fixture.export.accepted_gaps.clear();
        std::fs::remove_file(&path).unwrap();
        assert!(run(&fixture).await.complete, "moved away, it goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_carries_its_receipt_is_adopted_without_a_download() {
    let fixture = fixture().await;
    assert!(run(&fixture).await.complete);
    std::fs::remove_file(fixture.root().join("_journal/2018-06-03.receipt.json")).unwrap();
    assert!(run(&fixture).await.complete);
    assert_eq!(fixture.simulator.ledger().opened, 3);
    // A receipt copied to another day counts for no day.
    std::fs::remove_file(fixture.root().join("_journal/2018-06-03.receipt.json")).unwrap();
    let copy = std::fs::read(object(&fixture, "date=2018-06-02/events.json.gz")).unwrap();
    std::fs::write(object(&fixture, "date=2018-06-03/events.json.gz"), copy).unwrap();
    ensure_reported(&run(&fixture).await, Reason::ForeignObject, "2018-06-03");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_does_not_match_its_receipt_is_not_adopted() {
    let fixture = fixture().await;
    assert!(run(&fixture).await.complete);
    let (store, key) = (fixture.store(), "date=2018-06-03/events.json.gz");
    let whole = format!("{}/{key}", fixture.export.root.as_str().trim_end_matches('/'));
    let carried = store.head(&whole).await.unwrap().unwrap().metadata;
    std::fs::remove_file(fixture.root().join("_journal/2018-06-03.receipt.json")).unwrap();
    let options = PutOptions {
        mode: PutMode::Overwrite,
        crc64: Crc64::of(b"foreign"),
        metadata: carried,
        content_type: "application/gzip",
        class: ObjectClass::Events,
    };
    let body = Segments::from(bytes::Bytes::from_static(b"foreign"));
    store.put(&whole, body, &options).await.unwrap();
    ensure_reported(&run(&fixture).await, Reason::ForeignObject, key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_object_that_appears_during_a_transfer_is_not_adopted() {
    let mut settings = settings();
    settings.latency = Duration::from_millis(300);
    let fixture = EngineFixture::start(settings, date(2018, 6, 3), date(2018, 6, 3)).await;
    let path = object(&fixture, "date=2018-06-03/events.json.gz");
    let appears = async {
        while fixture.simulator.open_sessions().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::write(&path, "foreign").unwrap();
    };
    let (snapshot, ()) = tokio::join!(fixture.run(), appears);
    ensure_reported(&snapshot, Reason::ForeignObject, "2018-06-03");
    assert_eq!(std::fs::read(&path).unwrap(), b"foreign");
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.open_now, ledger.opened), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mismatched_receipt_covers_nothing_and_gives_a_remedy() {
    let fixture = fixture().await;
    assert!(run(&fixture).await.complete);
    let path = object(&fixture, "date=2018-06-03/events.json.gz");
    let bytes = std::fs::read(&path).unwrap();

    std::fs::write(&path, [&bytes[..], b"!"].concat()).unwrap();
    ensure_reported(
        &run(&fixture).await,
        Reason::ObjectSizeMismatch,
        "its receipt states",
    );
    std::fs::remove_file(&path).unwrap();
    ensure_reported(&run(&fixture).await, Reason::ObjectMissing, "is missing");
    std::fs::write(&path, &bytes).unwrap();
    assert!(run(&fixture).await.complete, "restored, all is well");

    edit_receipt(&fixture, "http://simulator.invalid", "https://elsewhere.invalid");
    ensure_reported(
        &run(&fixture).await,
        Reason::SourceMismatch,
        "https://elsewhere.invalid",
    );
    edit_receipt(&fixture, "https://elsewhere.invalid", "http://simulator.invalid");
    edit_receipt(&fixture, "receipt/v1", "receipt/v9");
    ensure_reported(
        &run(&fixture).await,
        Reason::UnsupportedSchema,
        "2018-06-03.receipt.json",
    );
    assert_eq!(
        fixture.simulator.ledger().opened,
        3,
        "nothing was downloaded beside"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_receipt_from_another_source_is_not_coverage_and_causes_no_busy_loop() {
    let mut settings = settings();
    settings.volume.days.insert(date(2018, 6, 3), 0);
    let fixture = EngineFixture::start(settings, date(2018, 6, 2), date(2018, 6, 4)).await;
    assert!(run(&fixture).await.complete);
    edit_receipt(&fixture, "http://simulator.invalid", "https://elsewhere.invalid");
    let snapshot = run(&fixture).await;
    ensure_reported(&snapshot, Reason::SourceMismatch, "https://elsewhere.invalid");
    assert_eq!(fixture.simulator.ledger().opened, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_a_listing_leaves_out_is_asked_for_before_it_is_missing() {
    let fixture = fixture().await;
    assert!(run(&fixture).await.complete);
    let created = Arc::new(CreationLog::default());
    let store = FaultyStore::new(fixture.store(), &created, 0, StoreFault::Fail);
    store.hide("date=2018-06-03/events.json.gz", usize::MAX, true);
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let snapshot = fixture.run_with(peers, CancellationToken::new()).await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let heads = store
        .log
        .lock()
        .unwrap()
        .iter()
        .filter(|call| call.contains("head date="))
        .count();
    assert_eq!(heads, 1, "once for each look");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_receipt_concerns_its_window_and_archived_events_stop_nothing() {
    let mut fixture = fixture().await;
    assert!(run(&fixture).await.complete);
    let created = Arc::new(CreationLog::default());
    let store = FaultyStore::new(fixture.store(), &created, 0, StoreFault::Fail);
    store.archive("events.json.gz");
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let snapshot = fixture.run_with(peers, CancellationToken::new()).await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);

    store.archive("_journal/2018-06-03.receipt.json");
    fixture.export.end = Some(date(2018, 6, 5));
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let snapshot = fixture.run_with(peers, CancellationToken::new()).await;
    ensure_reported(
        &snapshot,
        Reason::ObjectArchived,
        "_journal/2018-06-03.receipt.json",
    );
    ensure_reported(&snapshot, Reason::ObjectArchived, "restore it");
    assert_eq!((snapshot.wanted, snapshot.stored), (4, 3), "the other days go on");
    assert_eq!(
        fixture.simulator.ledger().opened,
        4,
        "nothing is downloaded again"
    );
}
