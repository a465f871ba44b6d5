//! Signed receipts, the remembered head, and keys that change: what the signing key vouches for, and what it does not.

use std::io::Write as _;
use std::sync::Arc;

use eventexport::api::Reason;
use eventexport::archive::manifest::signature::PublicKey;
use eventexport::archive::records::{Receipt, decode, encode};
use eventexport::export::manifest::sign::{Signing, SigningKey, SigningKeys};
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::RecheckPolicy;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::{Date, date};

use super::chain::{chain_violations, manifests, sha256, signing};
use super::fixture::{EngineFixture, gap, settings};

const DAY: &str = "2018-06-03";
const FIRST: &str = "_manifests/00000001.json";
const FIRST_SIGNATURE: &str = "_manifests/00000001.json.sig";

fn june(day: i8) -> Date {
    date(2018, 6, day)
}

/// Complete export of three days, signed.
async fn signed_export() -> EngineFixture {
    let mut fixture = EngineFixture::start(settings(), june(2), june(4)).await;
    fixture.signing = signing();
    let complete = fixture.run().await;
    assert!(complete.complete, "{:?}", complete.problems);
    fixture.head.clone_from(&complete.head);
    fixture
}

fn read(fixture: &EngineFixture, key: &str) -> Vec<u8> {
    std::fs::read(fixture.root().join(key)).unwrap()
}

fn remove(fixture: &EngineFixture, keys: &[&str]) {
    for key in keys {
        std::fs::remove_file(fixture.root().join(key)).unwrap();
    }
}

/// Replaces the events of a day by one event, and its receipt by one that fits.
fn forge_day(fixture: &EngineFixture) {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(b"{\"forged\":true}\n").unwrap();
    let object = gzip.finish().unwrap();
    let key = format!("_journal/{DAY}.receipt.json");
    let mut receipt: Receipt = decode("receipt", &read(fixture, &key)).unwrap();
    let stored = receipt.object.as_mut().unwrap();
    stored.bytes = object.len() as u64;
    stored.sha256 = sha256(&object);
    stored.decompressed_bytes = 16;
    receipt.events = 1;
    (receipt.reported_before, receipt.reported_after) = (Some(1), Some(1));
    std::fs::write(fixture.root().join(key), encode(&receipt)).unwrap();
    std::fs::write(fixture.root().join(format!("date={DAY}/events.json.gz")), object).unwrap();
}

/// Returns the only problem. A forged day has another, too: the service does not send the forged event.
fn only_problem(snapshot: &Arc<Snapshot>) -> (Reason, &str) {
    let problems = snapshot.problems.iter();
    let problems: Vec<_> = problems
        .filter(|problem| problem.reason != Reason::DayChanged)
        .collect();
    let [problem] = problems.as_slice() else {
        panic!("one problem: {:?}", snapshot.problems);
    };
    assert!(!snapshot.complete && snapshot.manifest_due, "{problem:?}");
    (problem.reason, &problem.message)
}

fn chain_files(fixture: &EngineFixture) -> Vec<String> {
    let files = fixture.files().into_iter();
    files.filter(|name| name.starts_with("_manifests/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_receipt_and_manifest_is_signed_and_names_its_key() {
    let fixture = signed_export().await;
    let signing = fixture.signing.available().unwrap();
    for key in ["_journal/2018-06-02.receipt.json", FIRST] {
        let signature = read(&fixture, &format!("{key}.sig"));
        let signer = signing.verify(&read(&fixture, key), &signature);
        assert_eq!(signer.as_deref(), Some(signing.key_id()), "{key}");
    }
    let head = fixture.head.clone().unwrap().head;
    let manifest = &manifests(&fixture.root())[0];
    assert_eq!(head.to_string(), format!("1:{}", sha256(&read(&fixture, FIRST))));
    assert_eq!(head.key_id.as_deref(), Some(signing.key_id()));
    assert_eq!(manifest.key_id.as_deref(), Some(signing.key_id()));
    // A directory has no name that another machine knows.
    assert_eq!((&manifest.bucket, &manifest.prefix), (&None, &None));
    // Again, nothing changes.
    let files = fixture.files();
    assert!(fixture.run().await.complete);
    assert_eq!(fixture.files(), files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_day_is_not_signed_after_the_manifest_was_deleted() {
    let mut fixture = signed_export().await;
    // The counts of the service would show that the day was changed.
    fixture.export.recheck = RecheckPolicy::Disabled;
    let head = fixture.head.clone().unwrap().head;
    forge_day(&fixture);
    remove(&fixture, &[FIRST, FIRST_SIGNATURE]);
    let snapshot = fixture.run().await;
    let (reason, message) = only_problem(&snapshot);
    assert_eq!(reason, Reason::ManifestMissing);
    assert!(
        message.contains(&head.to_string()) && message.contains("abandonedHead"),
        "{message}"
    );
    assert_eq!(chain_files(&fixture), Vec::<String>::new());
    assert_eq!(snapshot.head.as_ref().map(|record| &record.head), Some(&head));

    // Nobody remembers the head: the receipt alone is enough to refuse.
    fixture.head = None;
    assert_eq!(only_problem(&fixture.run().await).0, Reason::SignatureInvalid);
    remove(&fixture, &[&format!("_journal/{DAY}.receipt.json.sig")]);
    let snapshot = fixture.run().await;
    let (reason, message) = only_problem(&snapshot);
    assert_eq!(reason, Reason::ReceiptUnsigned);
    assert!(
        message.contains(DAY) && !message.contains("2018-06-02.receipt"),
        "{message}"
    );
    // A statement about earlier receipts does not cover it.
    fixture.export.unsigned_receipts_before = Some(june(3));
    assert_eq!(only_problem(&fixture.run().await).0, Reason::ReceiptUnsigned);
    assert_eq!(chain_files(&fixture), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_while_the_head_is_missing_and_a_person_gives_it_up() {
    let mut fixture = signed_export().await;
    let head = fixture.head.clone().unwrap();
    remove(&fixture, &[FIRST, FIRST_SIGNATURE]);
    fixture.export.end = Some(june(5));
    let snapshot = fixture.run().await;
    assert_eq!(only_problem(&snapshot).0, Reason::ManifestMissing);
    assert_eq!(snapshot.stored, 4);
    assert_eq!(chain_files(&fixture), Vec::<String>::new());
    // To give up another one changes nothing.
    let mut other = head.head.clone();
    other.sha256 = "0".repeat(64);
    fixture.export.abandoned_head = Some(other);
    assert_eq!(only_problem(&fixture.run().await).0, Reason::ManifestMissing);
    fixture.export.abandoned_head = Some(head.head.clone());
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let next = snapshot.head.clone().unwrap();
    assert!(next.head.sequence == 1 && next.head.sha256 != head.head.sha256);
    // The new head is remembered, whatever the spec still says.
    fixture.head = Some(next);
    assert!(fixture.run().await.complete);
    remove(&fixture, &[FIRST]);
    assert_eq!(only_problem(&fixture.run().await).0, Reason::ManifestMissing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_other_content_is_missing() {
    let fixture = signed_export().await;
    let text = String::from_utf8(read(&fixture, FIRST)).unwrap();
    let edited = text.replacen("\"software\":", "\"note\":1,\"software\":", 1);
    std::fs::write(fixture.root().join(FIRST), edited).unwrap();
    let snapshot = fixture.run().await;
    let (reason, message) = only_problem(&snapshot);
    assert!(
        reason == Reason::ManifestMissing && message.contains("has the SHA-256"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_that_lost_events_is_not_stated_again() {
    for signs in [false, true] {
        let mut fixture = EngineFixture::start(settings(), june(2), june(4)).await;
        if signs {
            fixture.signing = signing();
        }
        fixture.head.clone_from(&fixture.run().await.head);
        let head = format!("1:{}", sha256(&read(&fixture, FIRST)));
        let receipt = format!("_journal/{DAY}.receipt.json");
        remove(&fixture, &[&receipt, &format!("date={DAY}/events.json.gz")]);
        fixture.export.accepted_gaps = vec![gap(june(3), june(3))];
        let snapshot = fixture.run().await;
        let (reason, message) = only_problem(&snapshot);
        assert_eq!(reason, Reason::ManifestMissing);
        assert!(message.contains(&head), "{message}");
        assert_eq!(manifests(&fixture.root()).len(), 1);
        fixture.export.abandoned_head = Some(head.parse().unwrap());
        assert!(fixture.run().await.complete);
        assert_eq!(manifests(&fixture.root()).len(), 2);
        assert_eq!(chain_violations(&fixture.root()), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_place_of_a_signature_is_reported_and_left() {
    let receipt_signature = format!("_journal/{DAY}.receipt.json.sig");
    for (key, length) in [
        (FIRST_SIGNATURE, 64),
        (FIRST_SIGNATURE, 7),
        (FIRST_SIGNATURE, 100_000),
        (&receipt_signature, 64),
    ] {
        let mut fixture = signed_export().await;
        let path = fixture.root().join(key);
        let genuine = read(&fixture, key);
        std::fs::write(&path, vec![7; length]).unwrap();
        if key == receipt_signature {
            // No signed manifest states the receipt.
            fixture.head = None;
            remove(&fixture, &[FIRST, FIRST_SIGNATURE]);
        }
        let snapshot = fixture.run().await;
        let (reason, message) = only_problem(&snapshot);
        assert_eq!(reason, Reason::SignatureInvalid, "{key} {length}");
        assert!(
            message.contains(key) && message.contains("previousPublicKeys"),
            "{message}"
        );
        assert_eq!(read(&fixture, key), vec![7; length]);
        std::fs::write(&path, genuine).unwrap();
        assert!(fixture.run().await.complete, "{key} {length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_without_its_manifest_shows_that_the_manifest_was_deleted() {
    let mut fixture = signed_export().await;
    fixture.head = None;
    remove(&fixture, &[FIRST]);
    let snapshot = fixture.run().await;
    let (reason, message) = only_problem(&snapshot);
    assert!(
        reason == Reason::ManifestMissing && message.contains(FIRST_SIGNATURE),
        "{message}"
    );
    assert_eq!(chain_files(&fixture), [FIRST_SIGNATURE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_signs_and_earlier_signatures_count_only_with_the_earlier_key() {
    let pem = || {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .unwrap()
            .serialize_pem()
    };
    let key = |pem: &str| SigningKey::from_pem(pem.as_bytes()).unwrap();
    let with =
        |pem: &str, previous: Vec<PublicKey>| Signing::With(Arc::new(SigningKeys::new(key(pem), previous)));
    let (old, new) = (pem(), pem());
    let mut fixture = EngineFixture::start(settings(), june(2), june(3)).await;
    fixture.signing = with(&old, Vec::new());
    fixture.head.clone_from(&fixture.run().await.head);

    // The new key alone knows nothing of the earlier signatures, and replaces none.
    fixture.signing = with(&new, Vec::new());
    let files = fixture.files();
    assert_eq!(only_problem(&fixture.run().await).0, Reason::SignatureInvalid);
    assert_eq!(fixture.files(), files);

    fixture.signing = with(&new, vec![key(&old).public_key()]);
    assert!(fixture.run().await.complete);
    assert_eq!(fixture.files(), files);
    fixture.export.end = Some(june(4));
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let all = manifests(&fixture.root());
    let ids = all.iter().map(|manifest| manifest.key_id.clone().unwrap());
    let ids: Vec<String> = ids.collect();
    assert_eq!(ids, [&old, &new].map(|pem| key(pem).public_key().id()));
    assert_eq!(snapshot.head.clone().unwrap().head.key_id.as_ref(), ids.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_manifest_supersedes_no_signed_one_and_is_no_head() {
    let fixture = signed_export().await;
    // Anyone who can write can append a manifest.
    let text = String::from_utf8(read(&fixture, FIRST)).unwrap();
    let previous = format!(
        "\"previous\":{{\"key\":\"{FIRST}\",\"sha256\":\"{}\"}}",
        sha256(text.as_bytes())
    );
    let appended = text
        .replacen("\"sequence\":1,", "\"sequence\":2,", 1)
        .replacen("\"previous\":null", &previous, 1)
        .replacen("\"software\":\"eventexport/", "\"software\":\"other/", 1);
    std::fs::write(fixture.root().join("_manifests/00000002.json"), appended).unwrap();
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let head = snapshot.head.clone().unwrap().head;
    assert_eq!((head.sequence, chain_files(&fixture).len()), (3, 5));
}
