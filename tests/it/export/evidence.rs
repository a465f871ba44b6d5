//! What lies in the archive and is not as it was written: said, never overwritten, never downloaded beside, and
//! never a reason to spin.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::wish::{Export, Persistence};
use eventexport::storage::{Condition, Crc64, ObjectClass, PutOptions, Segments, Store};
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, gap, settings};
use super::crashes::faults_of;
use super::saboteur::{Created, Saboteur, Strike};

/// Calls of the store that a run of three days may take; one that spins takes thousands.
const CALLS_MAX: usize = 150;

async fn bench() -> Bench {
    Bench::start(settings(), date(2018, 6, 2), date(2018, 6, 4)).await
}

async fn run(bench: &Bench) -> Arc<Snapshot> {
    let created = Arc::new(Created::default());
    let store = Saboteur::new(bench.store(), &created, 0, Strike::Refuse);
    let peers = bench.peers(Arc::clone(&store) as Arc<dyn Store>);
    let snapshot = bench.run_with(peers, CancellationToken::new()).await;
    // Under the operator the same is looked at for ever, and as quietly.
    let stop = CancellationToken::new();
    let forever = Export {
        persistence: Persistence::Forever,
        ..bench.export.clone()
    };
    let (out, _) = watch::channel(Arc::default());
    let engine = bench.engine();
    let peers = bench.peers(Arc::clone(&store) as Arc<dyn Store>);
    let run = engine.run(Arc::new(forever), peers, &out, stop.clone());
    let while_looked_at = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        stop.cancel();
    };
    tokio::join!(run, while_looked_at);
    let log = store.log.lock().unwrap().join("\n");
    assert!(store.calls() < CALLS_MAX, "{} calls:\n{log}", store.calls());
    assert_eq!(faults_of(bench, &created).await, Vec::<String>::new());
    snapshot
}

fn object(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.root().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

fn edit_receipt(bench: &Bench, from: &str, to: &str) {
    let path = bench.root().join("_journal/2018-06-03.receipt.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

fn said(snapshot: &Arc<Snapshot>, reason: Reason, words: &str) {
    let troubles = &snapshot.troubles;
    let found = troubles
        .iter()
        .any(|trouble| trouble.reason == reason && trouble.message.contains(words));
    assert!(
        found && !snapshot.complete,
        "{reason} with {words:?}: {troubles:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_is_neither_overwritten_nor_downloaded_beside() {
    for name in [
        "date=2018-06-03/events.json.gz",
        "date=2018-06-03/events-h07.json.gz",
    ] {
        let mut bench = bench().await;
        let path = object(&bench, name);
        std::fs::write(&path, "somebody's").unwrap();
        let snapshot = run(&bench).await;
        said(&snapshot, Reason::ForeignObject, name);
        assert_eq!((snapshot.stored, snapshot.waiting), (2, 1));
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
        assert_eq!(bench.simulator.ledger().opened, 2);
        bench.export.accepted = vec![gap(date(2018, 6, 3), date(2018, 6, 3))];
        let accepted = run(&bench).await;
        assert!(
            accepted.complete && accepted.troubles.is_empty(),
            "{:?}",
            accepted.troubles
        );
        bench.export.accepted.clear();
        std::fs::remove_file(&path).unwrap();
        assert!(run(&bench).await.complete, "moved away, it goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_carries_its_receipt_is_adopted_without_a_download() {
    let bench = bench().await;
    assert!(run(&bench).await.complete);
    std::fs::remove_file(bench.root().join("_journal/2018-06-03.receipt.json")).unwrap();
    assert!(run(&bench).await.complete);
    assert_eq!(bench.simulator.ledger().opened, 3);
    // Copied to another day it is that day's for nobody.
    std::fs::remove_file(bench.root().join("_journal/2018-06-03.receipt.json")).unwrap();
    let copy = std::fs::read(object(&bench, "date=2018-06-02/events.json.gz")).unwrap();
    std::fs::write(object(&bench, "date=2018-06-03/events.json.gz"), copy).unwrap();
    said(&run(&bench).await, Reason::ForeignObject, "2018-06-03");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_that_carry_a_receipt_are_not_adopted_by_it() {
    let bench = bench().await;
    assert!(run(&bench).await.complete);
    let (store, key) = (bench.store(), "date=2018-06-03/events.json.gz");
    let whole = format!("{}/{key}", bench.export.root.as_str().trim_end_matches('/'));
    let carried = store.head(&whole).await.unwrap().unwrap().metadata;
    std::fs::remove_file(bench.root().join("_journal/2018-06-03.receipt.json")).unwrap();
    let options = PutOptions {
        condition: Condition::Overwrite,
        crc64: Crc64::of(b"somebody's"),
        metadata: carried,
        content_type: "application/gzip",
        class: ObjectClass::Evidence,
    };
    let body = Segments::from(bytes::Bytes::from_static(b"somebody's"));
    store.put(&whole, body, &options).await.unwrap();
    said(&run(&bench).await, Reason::ForeignObject, key);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_that_appears_meanwhile_is_not_taken_for_ours() {
    let mut settings = settings();
    settings.latency = Duration::from_millis(300);
    let bench = Bench::start(settings, date(2018, 6, 3), date(2018, 6, 3)).await;
    let path = object(&bench, "date=2018-06-03/events.json.gz");
    let appears = async {
        while bench.simulator.open_sessions().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::write(&path, "somebody's").unwrap();
    };
    let (snapshot, ()) = tokio::join!(bench.run(), appears);
    said(&snapshot, Reason::ForeignObject, "2018-06-03");
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
    let ledger = bench.simulator.ledger();
    assert_eq!((ledger.open_now, ledger.opened), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_does_not_fit_covers_nothing_and_says_what_to_do() {
    let bench = bench().await;
    assert!(run(&bench).await.complete);
    let path = object(&bench, "date=2018-06-03/events.json.gz");
    let bytes = std::fs::read(&path).unwrap();

    std::fs::write(&path, [&bytes[..], b"!"].concat()).unwrap();
    said(&run(&bench).await, Reason::JournalMismatch, "its receipt states");
    std::fs::remove_file(&path).unwrap();
    said(
        &run(&bench).await,
        Reason::JournalMismatch,
        "an object that is not there",
    );
    std::fs::write(&path, &bytes).unwrap();
    assert!(run(&bench).await.complete, "restored, all is well");

    edit_receipt(&bench, "http://simulator.invalid", "https://elsewhere.invalid");
    said(
        &run(&bench).await,
        Reason::JournalMismatch,
        "https://elsewhere.invalid",
    );
    edit_receipt(&bench, "https://elsewhere.invalid", "http://simulator.invalid");
    edit_receipt(&bench, "receipt/v1", "receipt/v9");
    said(
        &run(&bench).await,
        Reason::JournalMismatch,
        "2018-06-03.receipt.json",
    );
    assert_eq!(
        bench.simulator.ledger().opened,
        3,
        "nothing was downloaded beside"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_emptiness_from_another_source_is_no_coverage_and_no_reason_to_spin() {
    let mut settings = settings();
    settings.volume.days.insert(date(2018, 6, 3), 0);
    let bench = Bench::start(settings, date(2018, 6, 2), date(2018, 6, 4)).await;
    assert!(run(&bench).await.complete);
    edit_receipt(&bench, "http://simulator.invalid", "https://elsewhere.invalid");
    let snapshot = run(&bench).await;
    said(&snapshot, Reason::JournalMismatch, "https://elsewhere.invalid");
    assert_eq!(bench.simulator.ledger().opened, 3);
}
