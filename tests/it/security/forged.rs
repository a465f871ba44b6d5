//! Attacks of a client that may write below the prefix or to the status of a resource. The journal is trusted: these
//! tests show where it must not be, and where it is, as documented in docs/security.md.

use std::fs;

use eventexport::api::Reason;
use eventexport::archive::counts::{EmptyAnswer, Verdict};
use eventexport::archive::records::{ArchiveRecord as _, AttemptRecord, Receipt, decode, encode};
use eventexport::tracker::SessionRequest;
use jiff::Timestamp;
use jiff::civil::{Date, date};
use serde_json::json;

use crate::export::fixture::{EngineFixture, SPACE, settings};
use crate::operator::{condition, eventually, patch_status, wait_conditions};
use crate::testkit::command::run_in;
use crate::testkit::environment::Environment;
use crate::testkit::operator::SHORT_LEASE;

/// Opens a session manually.
async fn foreign(fixture: &EngineFixture, day: Date, hour: Option<u8>) -> String {
    let tracker = fixture.peers(fixture.store()).tracker;
    let ask = SessionRequest {
        start: day,
        end: day,
        hour,
        account: false,
    };
    tracker.create_session(SPACE, &ask).await.unwrap().id
}

/// Forges a journal entry that claims a session for one of our attempts.
fn claim(fixture: &EngineFixture, window: &str, ulid: &str, session: &str) {
    let journal = fixture.root().join("_journal");
    fs::create_dir_all(&journal).unwrap();
    let now = Timestamp::now();
    let attempt = AttemptRecord {
        schema: AttemptRecord::SCHEMA.to_owned(),
        holder: fixture.export.holder.clone(),
        process: None,
        source: fixture.export.source.clone(),
        started_at: now,
        deadline: now,
        tracker_user: None,
        open_before: Vec::new(),
    };
    fs::write(
        journal.join(format!("{window}.{ulid}.attempt.json")),
        encode(&attempt),
    )
    .unwrap();
    fs::write(
        journal.join(format!("{window}.{ulid}.session.{session}.json")),
        "{}",
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_journal_cannot_delete_a_foreign_session() {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
    let ids = [
        foreign(&fixture, date(2018, 6, 7), None).await,
        foreign(&fixture, date(2018, 6, 2), Some(7)).await,
    ];
    claim(&fixture, "2018-06-02", "01ARZ3NDEKTSV4RRFFQ69G5FAV", &ids[0]);
    claim(&fixture, "2018-06-02", "01ARZ3NDEKTSV4RRFFQ69G5FAW", &ids[1]);
    // Not a session id: neither the list of all sessions nor another header.
    claim(&fixture, "2018-06-02", "01ARZ3NDEKTSV4RRFFQ69G5FAX", "%2E%2E");
    claim(
        &fixture,
        "2018-06-02",
        "01ARZ3NDEKTSV4RRFFQ69G5FAY",
        "x%0D%0AX-Evil:%201",
    );
    let snapshot = fixture.run().await;
    let open: Vec<String> = fixture
        .simulator
        .open_sessions()
        .iter()
        .map(|open| open.id.clone())
        .collect();
    assert!(ids.iter().all(|id| open.contains(id)), "{open:?}");
    assert_eq!(open.len(), 2, "nor is one left of ours");
    let is_reported = |id: &str| {
        let about = |problem: &&eventexport::export::failure::Problem| {
            problem.reason == Reason::OrphanSessionSuspected && problem.message.contains(id)
        };
        snapshot.problems.iter().find(about).is_some()
    };
    assert!(ids.iter().all(|id| is_reported(id)), "{:#?}", snapshot.problems);
    assert!(!snapshot.complete);
    assert_eq!(fixture.simulator.ledger().violations, Vec::<String>::new());
}

/// Documents the limit of the protection: only object lock or write permissions prevent this.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_receipt_is_trusted_only_if_its_object_matches() {
    // A forged empty day is downloaded after all, as late events, while the service lists it.
    for (forgery, believed, sessions) in [
        ("no object", false, 2),
        ("its object", true, 2),
        ("proved empty", true, 3),
    ] {
        let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
        // Another export provides a receipt of the right form.
        let other = EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 2)).await;
        other.run().await;
        let (name, object) = (
            "_journal/2018-06-02.receipt.json",
            "date=2018-06-02/events.json.gz",
        );
        let mut receipt: Receipt = decode("receipt", &fs::read(other.root().join(name)).unwrap()).unwrap();
        for folder in ["_journal", "date=2018-06-02"] {
            fs::create_dir_all(fixture.root().join(folder)).unwrap();
        }
        if forgery == "its object" {
            fs::copy(other.root().join(object), fixture.root().join(object)).unwrap();
        }
        if forgery == "proved empty" {
            receipt.object = None;
            receipt.verdict = Verdict::Empty;
            receipt.empty_answer = Some(EmptyAnswer::NotFound);
            (receipt.events, receipt.reported_before, receipt.reported_after) = (0, Some(0), Some(0));
        }
        fs::write(fixture.root().join(name), encode(&receipt)).unwrap();
        let snapshot = fixture.run().await;
        let covered = snapshot.covered.contains("2018-06-02".parse().unwrap());
        assert_eq!(covered, believed, "{forgery}: {:#?}", snapshot.problems);
        assert_eq!(fixture.simulator.ledger().opened, sessions, "{forgery}");
        assert_eq!(snapshot.complete, believed, "{forgery}: {:#?}", snapshot.problems);
        let verified = run_in(fixture.folder.path(), &["verify", ".", "--output", "json"]).await;
        assert_eq!(
            verified.code,
            Some(i32::from(!believed)),
            "{forgery}: {verified:?}"
        );
    }
}

#[tokio::test]
async fn a_forged_status_triggers_no_action_and_is_corrected() {
    let env = Environment::builder("forged-status").start().await.unwrap();
    env.create("june", ["2018-06-04", "2018-06-07"], &json!({}))
        .await
        .unwrap();
    let operator = env.operator().lease(SHORT_LEASE).start().await.unwrap();
    let complete = ["True/Complete", "True/Complete", "", ""];
    wait_conditions(env.cluster, &env.namespace, "june", complete)
        .await
        .unwrap();
    let downloads = env.simulator.ledger().opened;
    let forged = json!({ "status": {
        "sessions": [{ "id": "foreign", "window": "2018-06-04" }],
        "covered": [{ "start": "2000-01-01", "end": "2030-01-01" }],
        "missing": [{ "start": "2018-06-04", "end": "2018-06-07" }],
        "windows": { "wanted": 9, "stored": 9, "active": 9, "waiting": 9, "failed": 9 },
    }});
    patch_status(env.cluster, &env.namespace, "june", &forged)
        .await
        .unwrap();
    eventually("the status is put right", async || {
        let object = env.object("june").await?;
        let right = object["status"]["windows"]["wanted"] == 4
            && object["status"]["sessions"].as_array().is_none_or(Vec::is_empty)
            && condition(&object, "Complete") == "True/Complete";
        Ok(right)
    })
    .await
    .unwrap();
    let ledger = env.simulator.ledger();
    assert_eq!(ledger.opened, downloads, "nothing is downloaded because of it");
    let deleted = env
        .tracker
        .requests()
        .iter()
        .any(|request| request.line.contains("foreign"));
    assert!(!deleted, "a session was deleted that only the status names");
    operator.signal("-TERM").await.unwrap();
    operator.wait(crate::operator::TIMEOUT).await.unwrap();
}
