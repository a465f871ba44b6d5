//! Files that are missing at first sight: in a listing that leaves them out, or beside an export that is writing them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use eventexport::archive::finding::FindingKind;
use eventexport::archive::verify::archive::{VerifyOptions, VerifyProgress, verify};
use eventexport::archive::verify::options::Recheck;
use eventexport::storage::{DirectoryStore, Store};
use jiff::civil::date;
use tempfile::TempDir;

use super::fixture::{ArchiveFixture, SPACE};
use crate::export::faulty_store::{CreationLog, FaultyStore, StoreFault};
use crate::export::fixture::{EngineFixture, settings};

const EVENTS: &str = "scope=space/date=2018-06-05/events.json.gz";
const RECEIPT: &str = "scope=space/_journal/2018-06-05.receipt.json";

fn options(store: Arc<dyn Store>) -> VerifyOptions {
    VerifyOptions {
        recheck: Recheck {
            pause: Duration::from_millis(200),
            ..Recheck::default()
        },
        ..VerifyOptions::new(store, "")
    }
}

/// Verifies, and returns the errors.
async fn errors(store: Arc<dyn Store>) -> Vec<(FindingKind, String)> {
    let report = verify(&options(store), &Arc::new(VerifyProgress::default()))
        .await
        .unwrap();
    let findings = report
        .roots
        .iter()
        .flat_map(|root| &root.findings)
        .chain(&report.findings);
    findings
        .filter(|finding| finding.kind.is_error())
        .map(|finding| (finding.kind, finding.key.clone()))
        .collect()
}

/// An archive behind a store that hides keys.
async fn archive() -> (TempDir, Arc<FaultyStore>) {
    let folder = ArchiveFixture::shared().await.copy();
    let inner = Arc::new(DirectoryStore::open(folder.path()).unwrap());
    let store = FaultyStore::new(inner, &Arc::new(CreationLog::default()), 0, StoreFault::Fail);
    (folder, store)
}

fn remove(folder: &Path, end: &str) {
    std::fs::remove_file(folder.join("t/space=c1").join(end)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_every_listing_leaves_out_is_asked_for_by_name() {
    for end in [EVENTS, RECEIPT, "scope=space/_manifests/00000001.json"] {
        let (_folder, store) = archive().await;
        store.hide(end, usize::MAX, true);
        assert_eq!(errors(store.clone()).await, [], "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_appears_meanwhile_is_not_missing() {
    // Written between the first listing and the next.
    let (_folder, store) = archive().await;
    store.hide(RECEIPT, 1, false);
    assert_eq!(errors(store.clone()).await, []);
    assert_eq!(store.listings(), 2);
    // An attempt is at work: later.
    let (folder, store) = archive().await;
    let attempt = folder
        .path()
        .join(SPACE)
        .join("_journal/2018-06-05.01CH2V0000000000000000000A.attempt.json");
    std::fs::write(attempt, "{}").unwrap();
    store.hide(RECEIPT, 2, false);
    let begun = std::time::Instant::now();
    assert_eq!(errors(store.clone()).await, []);
    assert_eq!(store.listings(), 3);
    assert!(begun.elapsed() >= Duration::from_millis(200), "with a pause");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_younger_than_the_first_listing_is_not_accused() {
    let (folder, store) = archive().await;
    let young = folder.path().join(SPACE).join("date=2018-06-09/events.json.gz");
    std::fs::create_dir_all(young.parent().unwrap()).unwrap();
    std::fs::write(young, "x").unwrap();
    store.hide("date=2018-06-09/events.json.gz", 1, false);
    store.hide(RECEIPT, 2, false);
    assert_eq!(errors(store.clone()).await, []);
    // One that was there all the time is.
    let (_, kind) = (store.listings(), FindingKind::ObjectWithoutReceipt);
    assert_eq!(
        errors(store).await,
        [(kind, format!("{SPACE}date=2018-06-09/events.json.gz"))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_missing_is_reported_without_a_pause() {
    let (folder, store) = archive().await;
    remove(folder.path(), RECEIPT);
    remove(folder.path(), "scope=space/date=2018-06-06/events.json.gz");
    let key = |end: &str| format!("t/space=c1/{end}");
    let mut found = errors(store.clone()).await;
    found.sort();
    let mut wanted = [
        (FindingKind::ReceiptMissing, key(RECEIPT)),
        (
            FindingKind::ObjectMissing,
            key("scope=space/date=2018-06-06/events.json.gz"),
        ),
    ];
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(store.listings(), 2, "nothing changed in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_an_archive_tier_is_a_finding_of_its_own() {
    for end in [
        EVENTS,
        RECEIPT,
        "scope=space/_manifests/00000002.json",
        "scope=space/_manifests/00000002.json.sig",
    ] {
        let (_folder, store) = archive().await;
        store.archive(end);
        let end = end.trim_end_matches(".sig");
        let wanted = [(FindingKind::ObjectArchived, format!("t/space=c1/{end}"))];
        assert_eq!(errors(store).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_beside_a_running_export_accuses_nobody() {
    let mut settings = settings();
    settings.latency = Duration::from_millis(30);
    let fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 8)).await;
    let mut found = Vec::new();
    let mut runs = 0;
    {
        let run = fixture.run();
        tokio::pin!(run);
        loop {
            tokio::select! {
                snapshot = &mut run => {
                    assert!(snapshot.complete, "{:?}", snapshot.problems);
                    break;
                }
                errors = errors(fixture.store()) => {
                    runs += 1;
                    // Days that are not stored yet, and the time before the first of them.
                    let expected = [FindingKind::Gap, FindingKind::NothingToProve];
                    found.extend(errors.into_iter().filter(|(kind, _)| !expected.contains(kind)));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
    assert_eq!(found, []);
    assert!(runs >= 3, "{runs} verifications beside the export");
    assert_eq!(errors(fixture.store()).await, []);
}
