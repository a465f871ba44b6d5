//! Output of `inspect`: coverage, and suspicious counts.

use std::fs;

use serde_json::{Value, json};

use super::fixture::{ArchiveFixture, SPACE, simulator, text};

async fn root(fixture: &ArchiveFixture, arguments: &[&str], code: i32) -> Value {
    let mut all = vec!["inspect", "--output", "json"];
    all.extend(arguments);
    let output = fixture.program(&all, &[]).await;
    assert_eq!(output.code, Some(code), "{output:?}");
    let document = output.json();
    assert_eq!(document["schema"], "eventexport.io/inspect/v2");
    let roots = document["archives"][0]["roots"].as_array().unwrap().clone();
    roots.into_iter().find(|root| root["root"] == SPACE).unwrap()
}

#[tokio::test]
async fn inspect_prints_merged_coverage_and_the_missing_windows_of_a_spec() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let archive = text(copy.path());
    let all = root(fixture, &[archive], 0).await;
    assert_eq!(all["range"]["covered"], json!(["2018-06-01/2018-06-07"]));
    assert_eq!(all["range"]["missing"], json!([]));
    assert_eq!(all["splitDays"], json!(["2018-06-04"]));
    assert_eq!((&all["windows"], &all["empty"]), (&json!(30), &json!(2)));
    assert_eq!(all["events"], 5 * 240);
    // The events are of 2018 and were stored now.
    assert_eq!(all["late"].as_array().unwrap().len(), 30);
    let patient = root(fixture, &[archive, "--late-after", "1000000"], 0).await;
    assert_eq!(patient["late"], json!([]));
    assert_eq!(patient["countMismatches"], json!([]));

    let file = fs::read_to_string(fixture.file()).unwrap();
    let more = copy.path().join("more.yaml");
    let file = file.replacen("\"2018-06-05\"", "\"2018-06-09\"", 1);
    fs::write(&more, file).unwrap();
    fs::remove_file(
        copy.path()
            .join(SPACE)
            .join("_journal/2018-06-04T05.receipt.json"),
    )
    .unwrap();
    let wanted = root(fixture, &["-f", text(&more), "--archive", archive], 1).await;
    assert_eq!(
        wanted["range"]["missing"],
        json!(["2018-06-04T05", "2018-06-08/2018-06-09"])
    );
    assert_eq!(wanted["range"]["from"], "Spec");
}

#[tokio::test]
async fn a_window_without_its_object_is_missing_and_not_counted() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let space = copy.path().join(SPACE);
    // The last day of an archive without manifests still belongs to the range.
    fs::remove_dir_all(space.join("_manifests")).unwrap();
    fs::remove_file(space.join("date=2018-06-07/events.json.gz")).unwrap();
    let seen = root(fixture, &[text(copy.path())], 1).await;
    assert_eq!(seen["range"]["missing"], json!(["2018-06-07"]));
    assert_eq!((&seen["windows"], &seen["events"]), (&json!(29), &json!(4 * 240)));
}

#[tokio::test]
async fn mismatched_counts_and_grown_days_are_shown() {
    let fixture = ArchiveFixture::shared().await;
    let simulator = simulator().await;
    simulator.add_preset("events-lag").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.yaml");
    let exports = [("Space", "2018-06-04", "2018-06-05")];
    let destination = "s3: {bucket: audit, prefix: t}";
    fs::write(&file, fixture.manifest(&simulator, destination, &exports)).unwrap();
    let to = folder.path().join("archive");
    let run = fixture
        .program(&["run", "-f", text(&file), "--archive", text(&to)], &[])
        .await;
    assert_eq!(run.code, Some(0), "{run:?}");

    let arguments = ["-f", text(&file), "--archive", text(&to), "--ask-service"];
    let seen = root(fixture, &arguments, 0).await;
    let over = &seen["countMismatches"][1];
    assert_eq!(over["window"], "2018-06-05");
    assert_eq!(
        (&over["reason"], &over["events"], &over["reportedAfter"]),
        (&json!("Over"), &json!(240), &json!(120))
    );
    assert_eq!(seen["grown"], json!([]));

    simulator.set_faults(Vec::new());
    simulator.grow_day("2018-06-05".parse().unwrap(), 7);
    let seen = root(fixture, &arguments, 1).await;
    assert_eq!(
        seen["grown"],
        json!([{"date": "2018-06-05", "stored": 240, "reported": 247}])
    );
}
