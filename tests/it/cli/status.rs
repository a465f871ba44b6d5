//! Compares the sessions at the service with the archive.

use std::fs;

use super::fixture::{CliFixture, KEY, wait_output};
use crate::testkit::manifest::Manifest;

/// Returns a manifest of some days at the fixture's service.
fn manifest(fixture: &CliFixture) -> String {
    let manifest = Manifest::local("audit", &fixture.url)
        .days("2018-06-25", "2018-06-30")
        .set("destination.s3.prefix", "deep");
    let path = manifest.write(fixture.path("audit.yaml"));
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn status_shows_the_sessions_beside_the_archive() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    let days = ["status", "--start", "2018-06-28", "--end", "2018-07-02"];
    let table = fixture.run(&days).await;
    assert_eq!(table.code, Some(0), "{table:?}");
    let header: Vec<&str> = table
        .out
        .lines()
        .nth(1)
        .unwrap()
        .split('|')
        .map(str::trim)
        .collect();
    assert_eq!(header, ["", "DATE", "COUNT", "SIZE", "TYPES", "SEARCHABLE", ""]);
    assert!(table.out.contains("| 2018-06-28 |   240 |"), "{table:?}");
    assert!(!table.out.contains("2018-06-30"), "a Saturday without events");
    assert!(table.err.contains("the unit of SIZE is unknown"), "{table:?}");

    let audit = manifest(&fixture);
    let run = fixture
        .run(&["run", "-f", &audit, "--archive", "export", "-q"])
        .await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let root = "export/deep/space=c1/scope=space";
    fs::remove_file(fixture.path(&format!("{root}/date=2018-06-27/events.json.gz"))).unwrap();
    fs::remove_file(fixture.path(&format!("{root}/_journal/2018-06-28.receipt.json"))).unwrap();

    let archive = [
        "status",
        "--start",
        "2018-06-26",
        "--end",
        "2018-07-02",
        "--archive",
        "export/deep",
    ];
    let both = fixture.run(&archive).await;
    assert_eq!(both.code, Some(0), "{both:?}");
    for (day, held) in [
        ("2018-06-26", "240 Matched"),
        (
            "2018-06-27",
            "ObjectMissing: its receipt exists, but its object is missing",
        ),
        ("2018-06-28", "Orphaned: its object has no receipt"),
        ("2018-06-29", "240 Matched"),
        ("2018-06-30", "0 Empty"),
        ("2018-07-01", "missing"),
    ] {
        let row = both.out.lines().find(|line| line.contains(day));
        assert!(
            row.is_some_and(|row| row.contains(held)),
            "{day} is not {held}: {both:?}"
        );
    }
    assert!(both.out.contains("3 of 7 days complete, 480 events"), "{both:?}");

    let json = fixture
        .run(&[&archive[..], &["--output", "json"]].concat())
        .await
        .json();
    assert_eq!(json["schema"], "eventexport.io/status/v2");
    assert_eq!(json["days"][4]["archived"]["state"], "Covered");
    assert_eq!(json["days"][4]["listed"], false);
    assert_eq!(json["days"][0]["archived"]["verdict"], "Matched");

    // Same archive, once by the manifest and once by a context.
    let by_manifest = fixture
        .run(&[
            "status",
            "--start",
            "2018-06-26",
            "--end",
            "2018-07-02",
            "--archive",
            "export",
            "-f",
            &audit,
        ])
        .await;
    assert!(
        by_manifest.out.contains("3 of 7 days complete"),
        "{by_manifest:?}"
    );
    let set = [
        "context",
        "set",
        "c",
        "--archive",
        "export/deep",
        "--space",
        "c1",
        "--endpoint",
        &fixture.url,
    ];
    assert_eq!(fixture.run_without_env(&set).await.code, Some(0));
    let mut by_context = fixture.command(&["status", "--start", "2018-06-26", "--end", "2018-07-02"]);
    by_context.env("EVENTEXPORT_API_KEY", KEY);
    let by_context = wait_output(by_context).await;
    assert!(by_context.out.contains("3 of 7 days complete"), "{by_context:?}");
}

#[tokio::test]
async fn status_reports_an_unavailable_listing_or_archive() {
    let fixture = CliFixture::start(&["--today", "2018-07-02", "--fault", "events-403"]).await;
    let days = ["status", "--start", "2018-06-28", "--end", "2018-07-02"];
    fixture
        .run(&days)
        .await
        .expect_failure(1, &["provides no daily listing"]);
    fs::create_dir(fixture.path("export")).unwrap();
    let beside = fixture.run(&[&days[..], &["--archive", "export"]].concat()).await;
    beside.expect_failure(1, &["provides no daily listing"]);
    assert!(beside.out.contains("| 2018-06-28 |     ? |"), "{beside:?}");
    fixture
        .run(&[&days[..], &["--archive", "none"]].concat())
        .await
        .expect_failure(2, &["none does not exist"]);
    fixture
        .run(&["status", "--start", "2018-06-31"])
        .await
        .expect_failure(2, &["--start"]);
    fixture
        .run(&["status", "--end", "2018-06-31"])
        .await
        .expect_failure(2, &["--end"]);
}
