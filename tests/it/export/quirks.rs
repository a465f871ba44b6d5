//! Exports into stores with peculiarities, imitated by the fake of `tests/testkit`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventexport::api::Reason;
use eventexport::export::manifest::sign::{Signing, SigningKey, SigningKeys};
use eventexport::export::snapshot::Snapshot;
use eventexport::storage::{Crc64, ObjectClass, PutMode, PutOptions, S3Store, Segments, Store};
use jiff::civil::date;
use tokio_util::sync::CancellationToken;

use super::fixture::{EngineFixture, settings};
use crate::storage::quirks;
use crate::testkit::quirky_s3::QuirkyS3;

async fn two_days() -> EngineFixture {
    EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 2)).await
}

async fn run(fixture: &EngineFixture, fake: &QuirkyS3) -> Arc<Snapshot> {
    let store: Arc<dyn Store> = Arc::new(S3Store::connect(quirks::settings(fake)).unwrap());
    fixture
        .run_with(fixture.peers(store), CancellationToken::new())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_behind_costs_no_session_and_no_download() {
    for lag in ["list-lag=3s", "list-lag=1d"] {
        let fixture = two_days().await;
        let fake = quirks::start(&[lag]).await;
        let first = run(&fixture, &fake).await;
        assert!(first.complete, "{lag}: {:#?}", first.problems);
        let opened = fixture.simulator.ledger().opened;
        assert_eq!(opened, 2, "{lag}: one session for each day");
        // Another process, to which the listing shows nothing.
        let second = run(&fixture, &fake).await;
        assert!(second.complete, "{lag}: {:#?}", second.problems);
        assert_eq!(second.stored, 2);
        let ledger = fixture.simulator.ledger();
        assert_eq!((ledger.opened, ledger.open_now), (2, 0), "{lag}");
        assert!(
            ledger.downloads.values().all(|download| download.replies == 1),
            "{lag}"
        );
    }
}

/// What exists can neither be listed nor read: another process cannot take it over.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_contradicts_itself_costs_few_sessions_and_is_named() {
    let fixture = two_days().await;
    let fake = quirks::start(&["list-lag=1d", "read-lag=1d"]).await;
    let first = run(&fixture, &fake).await;
    assert!(first.complete, "{:#?}", first.problems);
    assert_eq!(fixture.simulator.ledger().opened, 2);
    let second = run(&fixture, &fake).await;
    assert!(!second.complete);
    let named = |reason| second.problems.iter().any(|problem| problem.reason == reason);
    assert!(
        named(Reason::ForeignObject) || named(Reason::ListingIncomplete),
        "{:#?}",
        second.problems
    );
    let ledger = fixture.simulator.ledger();
    let tries = 2 * 5;
    assert!(ledger.opened <= 2 + tries, "{}", ledger.opened);
    assert_eq!(ledger.open_now, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_completes_where_a_store_refuses_deletes() {
    for refusal in [
        "451:UnavailableForLegalReasons",
        "405:MethodNotAllowed",
        "403:ObjectLocked",
    ] {
        let fixture = two_days().await;
        let fake = quirks::start(&[&format!("delete-refused={refusal}:under retention")]).await;
        for round in 0..2 {
            let snapshot = run(&fixture, &fake).await;
            assert!(snapshot.complete, "{refusal}, {round}: {:#?}", snapshot.problems);
            assert!(snapshot.open_attempts.is_empty(), "{refusal}, {round}");
        }
        assert_eq!(fixture.simulator.ledger().opened, 2, "{refusal}");
        // The keys that stay are not deleted again and again.
        let requests = fake.requests();
        let deletes = requests
            .iter()
            .filter(|request| request.starts_with("POST") && request.contains("delete"));
        assert!(deletes.count() <= 4, "{refusal}: {requests:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_adapts_to_a_store_with_few_features() {
    let fixture = two_days().await;
    let fake = quirks::start(&[
        "no-crc64nvme",
        "content-md5-required",
        "no-list-uploads",
        "empty-list-404",
        "batch-delete-refused",
        "iso-last-modified",
        "blanks-before-xml",
    ])
    .await;
    let snapshot = run(&fixture, &fake).await;
    assert!(snapshot.complete, "{:#?}", snapshot.problems);
    assert_eq!(fixture.simulator.ledger().opened, 2);
}

/// The store evaluates the statements that versitygw does not know: no overwrite of evidence, no delete of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_needs_no_overwrite_and_no_delete_of_evidence() {
    let mut settings = settings();
    // Uploaded in parts.
    settings.volume.days = BTreeMap::from([(date(2018, 6, 2), 20_000)]);
    settings.gzip.level = 0;
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 3)).await;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let key = SigningKey::from_pem(key.serialize_pem().as_bytes()).unwrap();
    fixture.signing = Signing::With(Arc::new(SigningKeys::new(key, Vec::new())));
    let fake = quirks::start(&["example-policy"]).await;
    for _ in 0..2 {
        let snapshot = run(&fixture, &fake).await;
        assert!(snapshot.complete, "{:#?}", snapshot.problems);
    }
    let requests = fake.requests();
    assert!(
        !requests.iter().any(|request| request.ends_with(" 403")),
        "{requests:#?}"
    );
    let completed = |request: &&String| {
        request.starts_with("POST") && request.contains("/date%3D") && request.contains("uploadId")
    };
    assert_eq!(requests.iter().filter(completed).count(), 1, "{requests:#?}");
    // The fake refuses what the policy forbids.
    let store = S3Store::connect(quirks::settings(&fake)).unwrap();
    let written = requests.iter().filter(|request| request.starts_with("PUT"));
    let keys = written.filter_map(|request| {
        Some(
            request
                .split_once("/audit/")?
                .1
                .split([' ', '?'])
                .next()?
                .to_owned(),
        )
    });
    let keys: Vec<String> = keys
        .map(|key| {
            percent_encoding::percent_decode_str(&key)
                .decode_utf8_lossy()
                .into_owned()
        })
        .collect();
    let evidence: Vec<String> = keys
        .into_iter()
        .filter(|key| !key.contains("_journal/") || key.contains(".receipt.json"))
        .collect();
    assert!(evidence.len() >= 7, "{evidence:?}");
    for key in &evidence {
        let body = Segments::from(bytes::Bytes::from_static(b"{}"));
        let options = PutOptions {
            mode: PutMode::Overwrite,
            crc64: Crc64::of_segments(&body),
            metadata: Vec::new(),
            content_type: "application/json",
            class: ObjectClass::Proof,
        };
        assert!(store.put(key, body, &options).await.is_err(), "{key}");
    }
    assert_eq!(store.delete(&evidence).await.unwrap().len(), evidence.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_interrupts_a_listing() {
    let fixture = two_days().await;
    let fake = quirks::start(&["slow-list=1h"]).await;
    let store: Arc<dyn Store> = Arc::new(S3Store::connect(quirks::settings(&fake)).unwrap());
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stopper.cancel();
    });
    let begun = Instant::now();
    fixture.run_with(fixture.peers(store), stop).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
