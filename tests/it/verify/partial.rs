//! Parts of an archive, as the operator verifies them: each reads its own days only, and together they find what a whole
//! verification finds.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventexport::archive::coverage::Expectation;
use eventexport::archive::finding::FindingKind;
use eventexport::archive::manifest::signature::PublicKey;
use eventexport::archive::memory::JournalMemory;
use eventexport::archive::verify::archive::{VerifyOptions, VerifyProgress, verify};
use eventexport::archive::verify::attestation::Unsigned;
use eventexport::archive::verify::options::Recheck;
use eventexport::archive::verify::report::VerifyReport;
use eventexport::storage::{DirectoryStore, StoreError};
use jiff::civil::{Date, date};

const ROOT: &str = "tracker/space=c1/scope=space/";

/// The archive that version 0.1.0 wrote: 30 May to 7 June 2018, with two manifests.
fn archive() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/archive-0.1.0")
}

fn options(folder: &Path, days: Option<(Date, Date)>) -> VerifyOptions {
    let key = std::fs::read(archive().join("public-key.pem")).unwrap();
    let store = Arc::new(DirectoryStore::open_read_only(folder).unwrap());
    VerifyOptions {
        expectation: days.map(|_| Expectation::default()),
        keys: vec![PublicKey::from_pem(&key).unwrap()],
        unsigned: Unsigned::Allowed,
        since: days.map(|(since, _)| since),
        until: days.map(|(_, until)| until),
        partial: days.is_some(),
        recheck: Recheck {
            listings: 0,
            ..Recheck::default()
        },
        ..VerifyOptions::new(store, ROOT)
    }
}

async fn report(options: &VerifyOptions) -> VerifyReport {
    verify(options, &Arc::new(VerifyProgress::default()))
        .await
        .unwrap()
}

fn errors(report: &VerifyReport) -> Vec<(FindingKind, String)> {
    let errors = report.all().into_iter().filter(|finding| finding.kind.is_error());
    errors
        .map(|finding| (finding.kind, finding.key.clone()))
        .collect()
}

const MAY: (Date, Date) = (date(2018, 5, 1), date(2018, 5, 31));
const JUNE: (Date, Date) = (date(2018, 6, 1), date(2018, 6, 30));

#[tokio::test]
async fn parts_of_an_archive_are_proved_one_by_one() {
    let whole = report(&options(&archive(), None)).await;
    let (may, june) = (
        report(&options(&archive(), Some(MAY))).await,
        report(&options(&archive(), Some(JUNE))).await,
    );
    for report in [&may, &june] {
        assert_eq!(errors(report), [], "{report:?}");
        assert_eq!(report.roots[0].manifests.verified, 2);
    }
    let totals = |report: &VerifyReport| {
        let totals = report.roots[0].totals;
        [totals.windows, totals.proved, totals.bytes, totals.events]
    };
    let sum: Vec<u64> = totals(&may)
        .iter()
        .zip(totals(&june))
        .map(|(one, other)| one + other)
        .collect();
    assert_eq!(sum, totals(&whole));
    assert!(totals(&may)[0] > 0 && totals(&june)[0] > 0);
}

#[tokio::test]
async fn damage_is_found_in_its_own_part() {
    let folder = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-R", "--preserve=timestamps"])
        .arg(archive().join("tracker"))
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(copied.success());
    let root = folder.path().join(ROOT);
    let events = |day: &str| format!("date={day}/events.json.gz");
    std::fs::write(root.join(events("2018-06-05")), b"other bytes").unwrap();
    std::fs::remove_file(root.join(events("2018-05-31"))).unwrap();
    std::fs::remove_file(root.join("_journal/2018-05-31.receipt.json")).unwrap();
    let stray = "date=2018-06-07/notes.txt";
    std::fs::write(root.join(stray), b"notes").unwrap();
    let key = |below: &str| format!("{ROOT}{below}");
    let may = report(&options(folder.path(), Some(MAY))).await;
    assert_eq!(
        errors(&may),
        [
            (
                FindingKind::ReceiptMissing,
                key("_journal/2018-05-31.receipt.json")
            ),
            (FindingKind::ObjectMissing, key(&events("2018-05-31"))),
        ]
    );
    let first_days = report(&options(folder.path(), Some((JUNE.0, date(2018, 6, 4))))).await;
    assert_eq!(errors(&first_days), []);
    let june = report(&options(folder.path(), Some(JUNE))).await;
    assert_eq!(
        errors(&june),
        [
            (FindingKind::StrayFile, key(stray)),
            (FindingKind::ObjectSize, key(&events("2018-06-05"))),
        ]
    );
}

#[tokio::test]
async fn an_archive_that_needs_more_memory_than_its_share_is_refused() {
    let mut options = options(&archive(), None);
    options.quick = true;
    options.memory = Some(Arc::new(JournalMemory::default().alone()));
    assert_eq!(errors(&report(&options).await), []);
    // A journal has 64 KiB of its own, and nothing is left beyond.
    options.memory = Some(Arc::new(JournalMemory::new(1).alone()));
    let refused = verify(&options, &Arc::new(VerifyProgress::default())).await;
    assert!(
        matches!(refused, Err(StoreError::ArchiveTooLarge { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn reads_keep_to_their_bytes_per_second() {
    let mut options = options(&archive(), Some(JUNE));
    let rate = 65_536;
    options.bytes_per_second = NonZeroU64::new(rate);
    let start = Instant::now();
    let slow = report(&options).await;
    assert_eq!(errors(&slow), []);
    // The last object need not be waited for.
    let least = slow.roots[0].totals.bytes.saturating_sub(rate) / rate;
    assert!(
        least > 0 && start.elapsed() >= Duration::from_secs(least),
        "{:?}",
        start.elapsed()
    );
}
