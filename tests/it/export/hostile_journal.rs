//! Archives that ask for more memory than their share.

use std::sync::Arc;

use eventexport::api::Reason;
use eventexport::archive::memory::JournalMemory;
use eventexport::archive::read::{ReadOptions, read_journal};
use eventexport::export::failure::Failure;
use eventexport::storage::StoreError;
use jiff::civil::date;

use super::fixture::{EngineFixture, settings};

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_beyond_its_share_is_refused_and_leaves_nothing_taken() {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
    assert!(fixture.run().await.complete);
    let (store, root) = (fixture.store(), &fixture.export.root);
    let memory = JournalMemory::new(512);
    let options = |memory: &JournalMemory| ReadOptions {
        memory: Arc::new(memory.alone()),
        ..ReadOptions::default()
    };
    let (journal, _) = read_journal(&*store, root, &options(&memory)).await.unwrap();
    assert_eq!(journal.receipts.len(), 3);
    drop(journal);
    let journal_folder = fixture.root().join("_journal");
    for number in 0..1500 {
        let name = format!("2018-06-04.{}.attempt.json", ulid::Ulid::from_parts(number, 1));
        std::fs::write(journal_folder.join(name), "{}").unwrap();
    }
    let refused = read_journal(&*store, root, &options(&memory)).await.unwrap_err();
    assert!(matches!(refused, StoreError::ArchiveTooLarge { .. }), "{refused}");
    assert_eq!(Failure::from(&refused).reason, Reason::ArchiveTooLarge);
    // Keys that are not of the archive take nothing.
    for entry in std::fs::read_dir(&journal_folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("attempt") {
            std::fs::rename(&path, path.with_extension("txt")).unwrap();
        }
    }
    let (journal, _) = read_journal(&*store, root, &options(&memory)).await.unwrap();
    assert_eq!((journal.receipts.len(), journal.attempts.len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_with_a_long_text_is_a_finding_of_its_window_only() {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
    assert!(fixture.run().await.complete);
    let receipt = fixture.root().join("_journal/2018-06-02.receipt.json");
    let text = std::fs::read_to_string(&receipt).unwrap();
    let long = format!("\"source\":\"{}", "x".repeat(200_000));
    std::fs::write(&receipt, text.replace("\"source\":\"", &long)).unwrap();
    let (journal, _) = read_journal(&*fixture.store(), &fixture.export.root, &ReadOptions::default())
        .await
        .unwrap();
    let unreadable: Vec<String> = journal.unreadable.keys().map(ToString::to_string).collect();
    assert_eq!(unreadable, ["2018-06-02"]);
    let message = journal.unreadable.values().next().unwrap().to_string();
    assert!(
        message.len() < 300 && message.contains("a text is longer than"),
        "{message}"
    );
}
