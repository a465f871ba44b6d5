//! Bytes whose gzip is complete are stored whatever they contain, shown with what could be counted, and never downloaded
//! again and again.

use std::fs;

use eventexport::api::Reason;
use eventexport::archive::counts::Verdict;
use eventexport::archive::records::{Receipt, decode, encode};
use eventexport::simulator::Simulator;
use jiff::civil::{Date, date};

use super::fixture::{EngineFixture, gap, settings};
use crate::testkit::command::run_in;

const DAY: Date = date(2018, 6, 3);
const RECEIPT: &str = "_journal/2018-06-03.receipt.json";
const OBJECT: &str = "date=2018-06-03/events.json.gz";

async fn fixture(presets: &[&str]) -> EngineFixture {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 4)).await;
    add_presets(&fixture.simulator, presets);
    fixture
}

fn add_presets(simulator: &Simulator, presets: &[&str]) {
    for preset in presets {
        simulator.add_preset(preset).expect("a preset");
    }
}

fn receipt(fixture: &EngineFixture) -> Receipt {
    let bytes = fs::read(fixture.root().join(RECEIPT)).expect("a receipt");
    decode(RECEIPT, &bytes).expect("a receipt")
}

/// Verifies the archive with the program. Returns the exit code, and kind and key of findings and remarks.
async fn verify(fixture: &EngineFixture) -> (Option<i32>, Vec<String>, Vec<String>) {
    let output = run_in(fixture.folder.path(), &["verify", ".", "--output", "json"]).await;
    let document = output.json();
    let kinds = |list: &str| {
        let archives = document["archives"].as_array().expect("archives");
        let all = archives
            .iter()
            .flat_map(|archive| archive[list].as_array().expect("a list"));
        let mut kinds: Vec<String> = all
            .map(|one| one["kind"].as_str().unwrap_or_default().to_owned())
            .collect();
        kinds.dedup();
        kinds
    };
    (output.code, kinds("findings"), kinds("remarks"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_cannot_be_counted_is_stored_once_and_is_not_complete() {
    let mut fixture = fixture(&["json-broken-line@2018-06-03"]).await;
    let snapshot = fixture.run().await;
    assert!(!snapshot.complete);
    let problem = snapshot
        .problems
        .iter()
        .find(|problem| problem.reason == Reason::EventsUncounted)
        .expect("the problem is reported");
    for part in [
        "date=2018-06-03/events.json.gz",
        "NotAnObject at byte",
        "the service reported 240",
        "spec.acceptedGaps",
    ] {
        assert!(problem.message.contains(part), "{part}: {}", problem.message);
    }
    let stored = receipt(&fixture);
    let uncounted = stored.uncounted.clone().expect("the end of the count");
    assert_eq!(
        (stored.verdict, uncounted.reason.as_str()),
        (Verdict::Unknown, "NotAnObject")
    );
    assert!(stored.events > 0 && stored.events < 240 && uncounted.at_byte > 0);
    assert_eq!(stored.reported_after, Some(240));
    let opened = fixture.simulator.ledger().opened;
    assert_eq!(opened, 3);
    let (code, findings, _) = verify(&fixture).await;
    assert_eq!((code, findings), (Some(1), vec!["EventsUnproved".to_owned()]));

    let again = fixture.run().await;
    assert!(!again.complete);
    assert_eq!(
        fixture.simulator.ledger().opened,
        opened,
        "nothing is downloaded again"
    );

    fixture.export.accepted_gaps = vec![gap(DAY, DAY)];
    let accepted = fixture.run().await;
    assert!(accepted.complete, "{:#?}", accepted.problems);
    let (code, findings, remarks) = verify(&fixture).await;
    assert_eq!((code, findings), (Some(0), vec![]));
    assert!(remarks.contains(&"EventsUncounted".to_owned()), "{remarks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_count_of_the_service_such_a_day_is_complete_and_remarked() {
    for preset in ["json-broken-line@2018-06-03", "json-envelope@2018-06-03"] {
        let fixture = fixture(&[preset, "events-403"]).await;
        let snapshot = fixture.run().await;
        assert!(snapshot.complete, "{preset}: {:#?}", snapshot.problems);
        let facts = snapshot
            .windows
            .iter()
            .find(|(window, _)| window.date() == DAY)
            .map(|(_, facts)| facts);
        assert_eq!(facts.expect("the day").verdict, Verdict::Uncounted);
        let (code, findings, remarks) = verify(&fixture).await;
        assert_eq!((code, findings), (Some(0), vec![]), "{preset}");
        assert!(remarks.contains(&"EventsUncounted".to_owned()), "{remarks:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_hides_the_end_of_the_count_is_found() {
    let fixture = fixture(&["json-broken-line@2018-06-03", "events-403"]).await;
    assert!(fixture.run().await.complete);
    let forged = Receipt {
        uncounted: None,
        ..receipt(&fixture)
    };
    fs::write(fixture.root().join(RECEIPT), encode(&forged)).expect("written");
    fs::remove_dir_all(fixture.root().join("_manifests")).expect("removed");
    let (code, findings, _) = verify(&fixture).await;
    assert_eq!(
        (code, findings),
        (Some(1), vec!["ReceiptInconsistent".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_ends_inside_an_event_is_downloaded_once_more_and_then_stored() {
    // Cut at the end of a member, inside the array: once, and always.
    for times in ["x1", ""] {
        let early = format!("end-early-at-member-end@2018-06-03{times}");
        let fixture = fixture(&["json-array@2018-06-03", &early]).await;
        let snapshot = fixture.run().await;
        assert_eq!(snapshot.complete, times == "x1", "{:#?}", snapshot.problems);
        assert_eq!(fixture.simulator.ledger().opened, 4);
        assert!(fixture.root().join(OBJECT).exists());
        let reason = receipt(&fixture).uncounted.map(|uncounted| uncounted.reason);
        assert_eq!(reason.as_deref(), times.is_empty().then_some("Unfinished"));
    }
}
