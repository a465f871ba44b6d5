//! What somebody can do who may write below the prefix, or the status of a resource: the journal is believed, so what
//! it may not be believed in is tried here, and what it is believed in is shown, since docs/security.md says so.

use std::fs;

use eventexport::api::Reason;
use eventexport::export::record::{AttemptRecord, Receipt, Record as _, decode, encode};
use eventexport::export::verdict::{EmptyAnswer, Verdict};
use eventexport::simulator::Settings;
use eventexport::tracker::SessionRequest;
use jiff::Timestamp;
use jiff::civil::{Date, date};
use serde_json::json;
use tokio::process::Command;

use crate::export::bench::{Bench, SPACE, settings};
use crate::operator::process::{SHORT, Scene};
use crate::operator::{becomes, condition, eventually, get, kubectl};

/// A session that a person opened.
async fn foreign(bench: &Bench, day: Date, hour: Option<u8>) -> String {
    let tracker = bench.peers(bench.store()).tracker;
    let ask = SessionRequest {
        start: day,
        end: day,
        hour,
        account: false,
    };
    tracker.create_session(SPACE, &ask).await.unwrap().id
}

/// Says in the journal that a session is that of an attempt of ours.
fn claim(bench: &Bench, window: &str, ulid: &str, session: &str) {
    let journal = bench.root().join("_journal");
    fs::create_dir_all(&journal).unwrap();
    let now = Timestamp::now();
    let attempt = AttemptRecord {
        schema: AttemptRecord::SCHEMA.to_owned(),
        holder: bench.export.holder.clone(),
        process: None,
        source: bench.export.source.clone(),
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
async fn a_forged_journal_deletes_no_session_that_is_for_something_else() {
    let bench = Bench::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
    let ids = [
        foreign(&bench, date(2018, 6, 7), None).await,
        foreign(&bench, date(2018, 6, 2), Some(7)).await,
    ];
    claim(&bench, "2018-06-02", "01ARZ3NDEKTSV4RRFFQ69G5FAV", &ids[0]);
    claim(&bench, "2018-06-02", "01ARZ3NDEKTSV4RRFFQ69G5FAW", &ids[1]);
    // No id of a service: neither the list of all sessions nor a header of its own.
    claim(&bench, "2018-06-02", "01ARZ3NDEKTSV4RRFFQ69G5FAX", "%2E%2E");
    claim(
        &bench,
        "2018-06-02",
        "01ARZ3NDEKTSV4RRFFQ69G5FAY",
        "x%0D%0AX-Evil:%201",
    );
    let snapshot = bench.run().await;
    let open: Vec<String> = bench
        .simulator
        .open_sessions()
        .iter()
        .map(|open| open.id.clone())
        .collect();
    assert!(ids.iter().all(|id| open.contains(id)), "{open:?}");
    assert_eq!(open.len(), 2, "nor is one left of ours");
    let told = |id: &str| {
        let about = |trouble: &&eventexport::export::failure::Trouble| {
            trouble.reason == Reason::SessionUnaccounted && trouble.message.contains(id)
        };
        snapshot.troubles.iter().find(about).is_some()
    };
    assert!(ids.iter().all(|id| told(id)), "{:#?}", snapshot.troubles);
    assert!(!snapshot.complete);
    assert_eq!(bench.simulator.ledger().violations, Vec::<String>::new());
}

/// The truth about what is not prevented: object lock, and keeping others from writing, do.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_receipt_is_believed_with_a_fitting_object_or_none_and_not_without_its_own() {
    for (forgery, believed) in [("no object", false), ("its object", true), ("proved empty", true)] {
        let bench = Bench::start(settings(), date(2018, 6, 1), date(2018, 6, 3)).await;
        // From an export of its own, for a receipt of the right form.
        let other = Bench::start(settings(), date(2018, 6, 2), date(2018, 6, 2)).await;
        other.run().await;
        let (name, object) = (
            "_journal/2018-06-02.receipt.json",
            "date=2018-06-02/events.json.gz",
        );
        let mut receipt: Receipt = decode("receipt", &fs::read(other.root().join(name)).unwrap()).unwrap();
        for folder in ["_journal", "date=2018-06-02"] {
            fs::create_dir_all(bench.root().join(folder)).unwrap();
        }
        if forgery == "its object" {
            fs::copy(other.root().join(object), bench.root().join(object)).unwrap();
        }
        if forgery == "proved empty" {
            receipt.object = None;
            receipt.verdict = Verdict::Empty;
            receipt.empty_answer = Some(EmptyAnswer::NotFound);
            (receipt.events, receipt.reported_before, receipt.reported_after) = (0, Some(0), Some(0));
        }
        fs::write(bench.root().join(name), encode(&receipt)).unwrap();
        let snapshot = bench.run().await;
        let covered = snapshot.covered.contains("2018-06-02".parse().unwrap());
        assert_eq!(covered, believed, "{forgery}: {:#?}", snapshot.troubles);
        assert_eq!(
            bench.simulator.ledger().opened,
            2,
            "{forgery}: the day is not downloaded again"
        );
        assert_eq!(snapshot.complete, believed, "{forgery}: {:#?}", snapshot.troubles);
        let verified = Command::new(env!("CARGO_BIN_EXE_eventexport"))
            .args(["verify", "--output", "json"])
            .arg(bench.folder.path())
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert_eq!(
            verified.status.code(),
            Some(i32::from(!believed)),
            "{forgery}: {text}"
        );
    }
}

#[tokio::test]
async fn a_forged_status_makes_the_operator_do_nothing_and_is_put_right() {
    let settings = Settings {
        today: Some(date(2018, 6, 9)),
        ..Settings::default()
    };
    let scene = Scene::start("forged-status", settings).await.unwrap();
    scene
        .export("june", ["2018-06-04", "2018-06-07"], &json!({}))
        .await
        .unwrap();
    let mut operator = scene.operator(&SHORT, &[]).await.unwrap();
    let complete = ["True/Complete", "True/Complete", "", ""];
    becomes(scene.cluster, &scene.namespace, "june", complete)
        .await
        .unwrap();
    let downloads = scene.simulator.ledger().opened;
    let forged = json!({ "status": {
        "sessions": [{ "id": "somebody-elses", "window": "2018-06-04" }],
        "covered": ["2000-01-01/2030-01-01"],
        "missing": ["2018-06-04/2018-06-07"],
        "windows": { "wanted": 9, "stored": 9, "active": 9, "waiting": 9, "failed": 9 },
    }});
    let patch = forged.to_string();
    let args = [
        "patch",
        "eventexport",
        "june",
        "-n",
        &scene.namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    kubectl(scene.cluster, &args).await.unwrap();
    eventually("the status is put right", async || {
        let object = get(scene.cluster, &scene.namespace, "june")
            .await?
            .unwrap_or_default();
        let right = object["status"]["windows"]["wanted"] == 4
            && object["status"]["sessions"].as_array().is_none_or(Vec::is_empty)
            && condition(&object, "Complete") == "True/Complete";
        Ok(right)
    })
    .await
    .unwrap();
    let ledger = scene.simulator.ledger();
    assert_eq!(ledger.opened, downloads, "nothing is downloaded because of it");
    let deleted = scene
        .tracker
        .said()
        .iter()
        .any(|said| said.line.contains("somebody-elses"));
    assert!(!deleted, "a session was deleted that only the status names");
    operator.signal("-TERM").await.unwrap();
    operator.child.wait().await.unwrap();
}
