//! `eventexport report` of the archive that version 0.1.0 wrote: files, formats, signatures and exit codes.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::testkit::command::{CommandOutput, Home, run_command};
use crate::testkit::environment::simulator;
use crate::testkit::folder;
use crate::testkit::manifest::{Manifest, tracker_keys};

/// Root of the space below the archive.
const SPACE: &str = "tracker/space=c1/scope=space";

/// Folder with a copy of the archive.
struct ReportFixture(Home);

impl Deref for ReportFixture {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.0
    }
}

impl ReportFixture {
    fn new() -> Self {
        let fixture = Self(Home::new());
        folder::copy(&original().join("tracker"), &fixture.path("archive/tracker"));
        fs::copy(original().join("public-key.pem"), fixture.path("public-key.pem")).unwrap();
        fixture
    }

    async fn report(&self, arguments: &[&str]) -> CommandOutput {
        self.run(&[&["report"], arguments].concat()).await
    }
}

fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/archive-0.1.0")
}

#[tokio::test]
async fn a_page_replaces_an_earlier_one_at_once_or_not_at_all() {
    let fixture = ReportFixture::new();
    let page = fixture.path("report.html");
    let done = fixture
        .report(&["archive", "-o", "report.html"])
        .await
        .expect_exit(0);
    assert_eq!(
        (done.out.as_str(), done.err.as_str()),
        ("", "archive: no problem found\n")
    );
    let first = fs::read_to_string(&page).unwrap();
    assert!(
        first.starts_with("<!DOCTYPE html>") && first.ends_with("</html>\n"),
        "{first}"
    );
    for expected in [
        "<td>2018-05-29/2018-05-30<td>accepted gap<td>the service had dropped these days before we began",
        "title=\"2018-06-04 matched: 240 events, 240 reported\"",
        "title=\"2018-06-02 proved empty\"",
    ] {
        assert!(first.contains(expected), "{expected} is not in {first}");
    }

    fixture
        .report(&["archive", "-o", "./report.html", "-q"])
        .await
        .expect_exit(0);
    let printed = fixture.report(&["archive", "-o", "html"]).await.expect_exit(0);
    assert_eq!(
        fs::read_to_string(&page).unwrap(),
        first,
        "the same archive gives the same bytes"
    );
    assert_eq!(printed.out, first);

    // What cannot be read or written leaves the earlier page, and no draft.
    fixture
        .report(&["nowhere", "-o", "report.html"])
        .await
        .expect_failure(2, &["nowhere"]);
    fs::create_dir(fixture.path("folder.html")).unwrap();
    let refused = fixture.report(&["archive", "-o", "folder.html"]).await;
    refused.expect_failure(3, &["cannot write folder.html"]);
    assert_eq!(fs::read_to_string(&page).unwrap(), first);
    assert_eq!(
        fixture.files(),
        ["archive", "folder.html", "public-key.pem", "report.html"]
    );

    // A report with problems is written too.
    fs::remove_file(
        fixture
            .path("archive")
            .join(SPACE)
            .join("date=2018-06-05/events.json.gz"),
    )
    .unwrap();
    fixture
        .report(&["archive", "-o", "report.html"])
        .await
        .expect_exit(1);
    let second = fs::read_to_string(&page).unwrap();
    assert!(
        second.contains("<td class=damaged title=\"2018-06-05 damaged\">"),
        "{second}"
    );
    assert!(second.contains("NOT COMPLETE: "), "{second}");
}

#[tokio::test]
async fn a_format_is_distinguished_from_a_file() {
    let fixture = ReportFixture::new();
    let text = fixture.report(&["archive"]).await.expect_exit(0).out;
    for arguments in [["archive", "-o", "-"], ["archive", "--output", "text"]] {
        assert_eq!(fixture.report(&arguments).await.expect_exit(0).out, text);
    }
    let document = fixture
        .report(&["archive", "-o", "json"])
        .await
        .expect_exit(0)
        .json();
    assert_eq!(
        (&document["schema"], &document["exitCode"]),
        (&"eventexport.io/report/v1".into(), &0.into())
    );
    for wrong in ["report.pdf", "jsn", ""] {
        let refused = fixture.report(&["archive", "-o", wrong]).await;
        refused.expect_failure(2, &["ends in .html"]);
    }
    assert_eq!(fixture.files(), ["archive", "public-key.pem"]);
}

#[tokio::test]
async fn a_report_states_no_more_than_was_checked() {
    let fixture = ReportFixture::new();
    let report = async |more: &[&str]| fixture.report(&[&["archive"][..], more].concat()).await;
    let unsigned = report(&[]).await.expect_exit(0).out;
    for expected in [
        "not checked: whoever can write there",
        "No object was read",
        "none given: manifests",
    ] {
        assert!(
            unsigned
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(expected),
            "{unsigned}"
        );
    }
    assert!(!unsigned.to_lowercase().contains("proved:"), "{unsigned}");

    let head = "2:81ded9044b6690edd7c4eea9c3683b8565fd811083853708adfa8337240d51f3";
    let key = ["--public-key", "public-key.pem"];
    let signed = report(&[&key[..], &["--head", head]].concat())
        .await
        .expect_exit(0)
        .out;
    let signed = signed.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "2 of 2 valid, 2 of 2 signatures verified",
        "1 head found in the chain",
        "given keys",
    ] {
        assert!(signed.contains(expected), "{expected} is not in {signed}");
    }
    let other = format!("2:{}", "0".repeat(64));
    let lost = report(&[&key[..], &["--head", &other]].concat())
        .await
        .expect_exit(1);
    assert!(lost.out.contains("1 head NOT in the chain"), "{lost:?}");

    // A day that is asserted and missing is a gap.
    let asserted = report(&["--end", "2018-06-08", "-o", "json"])
        .await
        .expect_exit(1)
        .json();
    let roots = asserted["archives"][0]["roots"].as_array().unwrap();
    let space = roots.iter().find(|root| root["scope"] == "space").unwrap();
    let gaps = space["gaps"].as_array().unwrap();
    assert_eq!(gaps.last().unwrap()["state"], "Missing", "{gaps:?}");
    assert_eq!(gaps.last().unwrap()["start"], "2018-06-08");
}

#[tokio::test]
async fn run_writes_the_page_of_the_command_and_replaces_it_only_if_the_archive_has_changed() {
    let (service, home) = (simulator().await.unwrap(), Home::new());
    let manifest = |last: &str, report: bool| {
        Manifest::local("audit", service.url().as_str())
            .days("2018-06-03", last)
            .uaa()
            .set("destination.s3.prefix", "tracker")
            .set("report", report)
            .secret("tracker", tracker_keys())
            .write(home.path("audit.yaml"));
    };
    let run = async || {
        home.run(&["run", "-f", "audit.yaml", "--archive", "export"])
            .await
    };
    let root = home.path("export").join(SPACE);
    let page = root.join("_report/index.html");
    manifest("2018-06-05", false);
    run().await.expect_exit(0);
    assert!(!page.exists());

    manifest("2018-06-05", true);
    run().await.expect_exit(0);
    let first = fs::read(&page).unwrap();
    let printed = async || {
        let arguments = ["report", "-f", "audit.yaml", "--archive", "export", "-o", "html"];
        home.run(&arguments).await.expect_exit(0).bytes
    };
    assert!(first == printed().await);
    let written_at = || fs::metadata(&page).unwrap().modified().unwrap();
    let before = written_at();
    run().await.expect_exit(0);
    assert_eq!(written_at(), before);

    manifest("2018-06-06", true);
    run().await.expect_exit(0);
    let second = fs::read(&page).unwrap();
    assert!(second != first && second == printed().await);

    // Not a part of the archive, for no reader.
    let verified = home
        .run(&["verify", "export", "-o", "json"])
        .await
        .expect_exit(0)
        .json();
    assert_eq!(
        verified["archives"][0]["remarks"],
        serde_json::json!([]),
        "{verified}"
    );
    let audit = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.sh");
    let mut audit_sh = Command::new("sh");
    home.isolate(&mut audit_sh);
    audit_sh.arg(audit).arg(&root);
    let audited = run_command(audit_sh).await.expect_exit(0);
    assert!(!audited.out.contains("_report"), "{audited:?}");

    // A folder in its place: the run says so, and is complete.
    fs::remove_file(&page).unwrap();
    fs::create_dir_all(page.join("full")).unwrap();
    manifest("2018-06-07", true);
    let done = run().await.expect_exit(0);
    let text = format!("{}{}", done.out, done.err);
    assert!(
        text.contains("ReportNotWritten") && text.contains("spec.report"),
        "{text}"
    );
}
