//! Daily checkpoints of a continuous export: written once a day, signed, and missed by `verify` like what they count.

use std::sync::Arc;
use std::time::Instant;

use eventexport::archive::checkpoint::{Checkpoint, parse_checkpoint};
use eventexport::archive::finding::FindingKind;
use eventexport::archive::verify::archive::{VerifyOptions, VerifyProgress, verify};
use eventexport::archive::verify::options::Recheck;
use eventexport::export::snapshot::Snapshot;
use jiff::Timestamp;
use jiff::civil::{Date, date};
use tokio_util::sync::CancellationToken;

use super::chain::{sha256, signing};
use super::faulty_store::{CreationLog, FaultyStore};
use super::fixture::{EngineFixture, settings};

const FIRST: &str = "_checkpoints/2018-07-02.json";
const SECOND: &str = "_checkpoints/2018-07-03.json";

/// Continuous export from the 29th of June on.
async fn continuous() -> EngineFixture {
    let mut settings = settings();
    settings.today = Some(date(2018, 7, 4));
    settings.volume.events_per_day = 24;
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 29), date(2018, 6, 29)).await;
    fixture.export.end = None;
    fixture.signing = signing();
    fixture
}

/// Runs with the clocks of this process and of the store at this time.
async fn run_at(fixture: &mut EngineFixture, now: &str) -> Arc<Snapshot> {
    let now: Timestamp = now.parse().unwrap();
    let started = Instant::now();
    fixture.clock = Arc::new(move || now.checked_add(started.elapsed()).unwrap());
    let offset = now.duration_since(Timestamp::now());
    let store = FaultyStore::with_clock(fixture.store(), &Arc::new(CreationLog::default()), offset);
    let peers = fixture.peers(store);
    let snapshot = fixture.run_with(peers, CancellationToken::new()).await;
    fixture.head.clone_from(&snapshot.head);
    snapshot
}

fn read(fixture: &EngineFixture, key: &str) -> Vec<u8> {
    std::fs::read(fixture.root().join(key)).unwrap()
}

fn checkpoint(fixture: &EngineFixture, key: &str, day: Date) -> Checkpoint {
    parse_checkpoint(key, day, &read(fixture, key)).unwrap()
}

/// Verifies the archive with the public key. Returns the errors.
async fn errors(fixture: &EngineFixture) -> Vec<(FindingKind, String)> {
    let options = VerifyOptions {
        keys: fixture.signing.available().unwrap().trusted().to_vec(),
        recheck: Recheck {
            listings: 0,
            ..Recheck::default()
        },
        ..VerifyOptions::new(fixture.store(), fixture.export.root.as_str())
    };
    let report = verify(&options, &Arc::new(VerifyProgress::default()))
        .await
        .unwrap();
    let findings = report.roots.iter().flat_map(|root| &root.findings);
    findings
        .chain(&report.findings)
        .filter(|finding| finding.kind.is_error())
        .map(|finding| {
            let key = finding.key.strip_prefix(fixture.export.root.as_str());
            (finding.kind, key.unwrap_or(&finding.key).to_owned())
        })
        .collect()
}

/// Archive with two checkpoints.
async fn two_days() -> EngineFixture {
    let mut fixture = continuous().await;
    for now in ["2018-07-02T12:00:00Z", "2018-07-03T12:00:00Z"] {
        let snapshot = run_at(&mut fixture, now).await;
        assert!(snapshot.missing.is_empty(), "{:?}", snapshot.problems);
    }
    fixture
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuous_export_states_its_head_and_open_receipts_each_day() {
    let mut fixture = continuous().await;
    run_at(&mut fixture, "2018-07-02T12:00:00Z").await;
    let first = checkpoint(&fixture, FIRST, date(2018, 7, 2));
    assert_eq!(first.windows, ["2018-07-01"], "June has a manifest");
    assert_eq!((first.events, &first.previous), (24, &None));
    let head = first.head.as_ref().unwrap();
    let manifest = sha256(&read(&fixture, "_manifests/00000001.json"));
    assert_eq!((head.sequence, &head.sha256), (1, &manifest));
    let receipt = sha256(&read(&fixture, "_journal/2018-07-01.receipt.json"));
    let line = format!("{receipt}  _journal/2018-07-01.receipt.json\n");
    assert_eq!(first.root.digest, sha256(line.as_bytes()));
    let keys = fixture.signing.available().unwrap();
    let signature = read(&fixture, &format!("{FIRST}.sig"));
    assert_eq!(
        keys.verify(&read(&fixture, FIRST), &signature).as_deref(),
        Some(keys.key_id())
    );
    assert_eq!(first.key_id.as_deref(), Some(keys.key_id()));

    // Once a day, also by another process.
    let files = fixture.files();
    run_at(&mut fixture, "2018-07-02T13:00:00Z").await;
    assert_eq!(fixture.files(), files);
    run_at(&mut fixture, "2018-07-03T12:00:00Z").await;
    let second = checkpoint(&fixture, SECOND, date(2018, 7, 3));
    assert_eq!(second.windows, ["2018-07-01", "2018-07-02"]);
    let previous = second.previous.unwrap();
    assert_eq!(
        (previous.key.as_str(), previous.sha256),
        (FIRST, sha256(&read(&fixture, FIRST)))
    );
    assert_eq!(errors(&fixture).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_written_without_news_and_from_noon_on_without_everything() {
    let mut fixture = continuous().await;
    // Yesterday cannot be stored.
    fixture.simulator.add_preset("download-404@2018-07-01").unwrap();
    let snapshot = run_at(&mut fixture, "2018-07-02T09:00:00Z").await;
    assert!(!snapshot.missing.is_empty() && !fixture.root().join(FIRST).exists());
    run_at(&mut fixture, "2018-07-02T12:30:00Z").await;
    assert_eq!(checkpoint(&fixture, FIRST, date(2018, 7, 2)).windows, [""; 0]);
    // Nothing is due for days.
    fixture.simulator.set_faults(Vec::new());
    fixture.export.settle_after = jiff::SignedDuration::from_hours(400);
    run_at(&mut fixture, "2018-07-03T01:00:00Z").await;
    let second = checkpoint(&fixture, SECOND, date(2018, 7, 3));
    assert_eq!(second.head.unwrap().sequence, 1);
    assert_eq!(errors(&fixture).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_from_the_end_of_an_archive_is_missed_within_a_day() {
    use FindingKind::{CheckpointMissing, ManifestMissing, ReceiptMissing, SignatureMissing};
    type Removed<'a> = (&'a [&'a str], Vec<(FindingKind, &'a str)>);
    let last = [
        "_journal/2018-07-02.receipt.json",
        "_journal/2018-07-02.receipt.json.sig",
        "date=2018-07-02/events.json.gz",
    ];
    let cases: [Removed<'_>; 4] = [
        (&last, vec![(ReceiptMissing, last[0])]),
        (
            &["_manifests/00000001.json", "_manifests/00000001.json.sig"],
            vec![(ManifestMissing, "_manifests/00000001.json")],
        ),
        (
            &[FIRST, "_checkpoints/2018-07-02.json.sig"],
            vec![(CheckpointMissing, FIRST)],
        ),
        (
            &["_checkpoints/2018-07-03.json.sig"],
            vec![(SignatureMissing, SECOND)],
        ),
    ];
    for (removed, expected) in cases {
        let fixture = two_days().await;
        assert_eq!(errors(&fixture).await, []);
        for key in removed {
            std::fs::remove_file(fixture.root().join(key)).unwrap();
        }
        let found = errors(&fixture).await;
        let expected = expected.into_iter().map(|(kind, key)| (kind, key.to_owned()));
        for finding in expected {
            assert!(
                found.contains(&finding),
                "{removed:?}: {finding:?} is not in {found:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_lost_its_signature_in_a_crash_is_signed_only_as_it_was() {
    let mut fixture = continuous().await;
    run_at(&mut fixture, "2018-07-02T12:00:00Z").await;
    let (path, signature) = (
        fixture.root().join(FIRST),
        fixture.root().join(format!("{FIRST}.sig")),
    );
    let genuine = std::fs::read(&signature).unwrap();
    std::fs::remove_file(&signature).unwrap();
    run_at(&mut fixture, "2018-07-02T13:00:00Z").await;
    assert_eq!(std::fs::read(&signature).unwrap(), genuine);

    std::fs::remove_file(&signature).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"events\":24", "\"events\":1", 1)).unwrap();
    run_at(&mut fixture, "2018-07-02T14:00:00Z").await;
    assert!(!signature.exists());
    assert!(std::fs::read_to_string(&path).unwrap().contains("\"events\":1,"));
}
