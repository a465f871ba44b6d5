//! A session into a file: the file is complete or absent, and never replaces another one.

use std::fs;

use eventexport::simulator::{Framing, JsonShape, Members, RequestKind};
use jiff::civil::date;

use super::fixture::{DownloadFixture, gunzip, settings, signal, wait_output};
use crate::testkit::service::refuse;

const FILE: &str = "events.json.gz";
const INCOMPLETE: &str = "events.json.gz.incomplete";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_becomes_a_file_and_stays_open() {
    let fixture = DownloadFixture::new(settings()).await;
    let day = date(2018, 6, 28);
    let id = fixture.session(day).await;
    let summary = fixture
        .download(&["-o", FILE, &id, "--output", "json"])
        .await
        .expect_exit(0)
        .json();
    let served = fixture.served(day);
    assert!(fs::read(fixture.path(FILE)).unwrap() == served);
    assert_eq!(fixture.files(), [FILE]);
    let expected = [
        ("schema", "eventexport.io/download/v2".into()),
        ("complete", true.into()),
        ("bytes", served.len().into()),
        ("events", 240.into()),
        ("members", 1.into()),
        ("exitCode", 0.into()),
    ];
    for (field, value) in expected {
        let value: serde_json::Value = value;
        assert_eq!(summary[field], value, "{field}");
    }
    let session = &summary["sessions"][0];
    assert_eq!(
        (&session["verdict"], &session["reportedAfter"]),
        (&"Matched".into(), &240.into())
    );
    let sum = std::process::Command::new("sha256sum")
        .arg(fixture.path(FILE))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(summary["sha256"].as_str().unwrap()));
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.open_now, ledger.deleted), (1, 0));
    assert_eq!(ledger.violations, Vec::<String>::new());

    // A second download does not overwrite the file unless requested.
    let refused = fixture.download(&["-o", FILE, &id]).await.expect_exit(2);
    assert!(
        refused.err.contains("exists") && refused.err.contains("--force"),
        "{}",
        refused.err
    );
    let text = fixture
        .download(&["-o", FILE, &id, "--force"])
        .await
        .expect_exit(0)
        .out;
    for words in ["240 events", summary["sha256"].as_str().unwrap(), "Matched"] {
        assert!(text.contains(words), "{words} is not in: {text}");
    }

    let plain = ["-o", "events.json", &id, "--decompress"];
    fixture.download(&plain).await.expect_exit(0);
    assert!(fs::read(fixture.path("events.json")).unwrap() == gunzip(&served));
    assert_eq!(fixture.files(), ["events.json", FILE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_or_invalid_gzip_is_refused_with_the_reason() {
    for (preset, words, left) in [
        ("not-gzip", "is not gzip", &[][..]),
        ("end-early", "ends inside member", &["events.json.gz.broken"]),
        (
            "trailing-bytes",
            "after the last gzip member",
            &["events.json.gz.broken"],
        ),
        ("wrong-crc", "checksum", &["events.json.gz.broken"]),
        ("download-404", "nothing is written", &[]),
        ("second-refused#2", "", &[FILE]),
    ] {
        let fixture = DownloadFixture::new(settings()).await;
        fixture.set_faults(&[preset]);
        let id = fixture.session(date(2018, 6, 28)).await;
        let ended = fixture
            .download(&["-o", FILE, &id])
            .await
            .expect_exit(i32::from(!words.is_empty()));
        assert!(ended.err.contains(words), "{preset}: {}", ended.err);
        assert_eq!(fixture.files(), left, "{preset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_events_than_reported_are_incomplete() {
    let fixture = DownloadFixture::new(settings()).await;
    fixture.set_faults(&["end-early-at-member-end"]);
    let id = fixture.session(date(2018, 6, 28)).await;
    let ended = fixture.download(&["-o", FILE, &id]).await.expect_exit(1);
    assert!(ended.out.contains("the service reports 240"), "{}", ended.out);
    assert_eq!(fixture.files(), [INCOMPLETE], "no file looks complete");
    assert!(ended.out.contains(INCOMPLETE), "{}", ended.out);
    // An earlier complete file stays.
    fixture.set_faults(&[]);
    fixture.download(&["-o", FILE, &id]).await.expect_exit(0);
    fixture.set_faults(&["end-early-at-member-end"]);
    let complete = fs::read(fixture.path(FILE)).unwrap();
    fixture
        .download(&["-o", FILE, "--force", &id])
        .await
        .expect_exit(1);
    assert!(fs::read(fixture.path(FILE)).unwrap() == complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_cannot_be_counted_is_kept_and_not_called_complete() {
    let fixture = DownloadFixture::new(settings()).await;
    fixture.set_faults(&["json-envelope"]);
    let id = fixture.session(date(2018, 6, 28)).await;
    let ended = fixture
        .download(&["-o", FILE, &id, "--output", "json"])
        .await
        .expect_exit(1);
    let summary = ended.json();
    let session = &summary["sessions"][0];
    assert_eq!(
        (
            &session["verdict"],
            &session["uncounted"]["reason"],
            &session["events"]
        ),
        (&"Uncounted".into(), &"Envelope".into(), &1.into())
    );
    let warning = summary["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("only 1 event could be counted"), "{warning}");
    assert_eq!(fixture.files(), [INCOMPLETE], "the bytes are there");
    assert_eq!(summary["file"], INCOMPLETE);
    assert_eq!(
        fixture.simulator.ledger().requests_of(RequestKind::Download),
        1,
        "once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transfer_encoding_downloads_completely() {
    for (framing, members, json) in [
        (Framing::Chunked, Members::Hours, JsonShape::Lines),
        (Framing::Close, Members::One, JsonShape::Array),
        (Framing::Length, Members::Blocks, JsonShape::Array),
    ] {
        let mut settings = settings();
        (settings.framing, settings.gzip.members, settings.json) = (framing, members, json);
        let fixture = DownloadFixture::new(settings).await;
        fixture.set_faults(&["encoding-label"]);
        let day = date(2018, 6, 28);
        let id = fixture.session(day).await;
        let summary = fixture
            .download(&["-o", FILE, &id, "--output", "json"])
            .await
            .expect_exit(0)
            .json();
        assert!(
            fs::read(fixture.path(FILE)).unwrap() == fixture.served(day),
            "{framing:?}"
        );
        assert_eq!(summary["events"], 240, "{framing:?} {json:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_session_is_reported_and_leaves_no_file() {
    let fixture = DownloadFixture::new(settings()).await;
    let ended = fixture.download(&["-o", FILE, "nobodys"]).await.expect_exit(1);
    assert!(
        ended.err.contains("no session nobodys") && ended.err.contains("session list"),
        "{}",
        ended.err
    );
    assert_eq!(fixture.files(), Vec::<String>::new());

    fixture.set_faults(&["session-vanishes"]);
    let id = fixture.session(date(2018, 6, 28)).await;
    let ended = fixture.download(&["-o", FILE, &id]).await.expect_exit(1);
    assert!(
        ended.err.contains("is gone") && ended.err.contains("events.json.gz.part"),
        "{}",
        ended.err
    );
    assert!(!fixture.path(FILE).exists());
    // Another session must not be mixed with it.
    let id = fixture.session(date(2018, 6, 28)).await;
    let refused = fixture.download(&["-o", FILE, &id]).await.expect_exit(2);
    assert!(
        refused.err.contains("belongs to another download"),
        "{}",
        refused.err
    );
    fixture
        .download(&["-o", FILE, &id, "--force"])
        .await
        .expect_exit(0);
    assert_eq!(fixture.files(), [FILE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_in_the_middle_is_renewed() {
    let fixture = DownloadFixture::new(settings()).await;
    fixture.set_faults(&["token-expires-mid-download"]);
    let day = date(2018, 6, 28);
    let id = fixture.session(day).await;
    fixture.download(&["-o", FILE, &id]).await.expect_exit(0);
    assert!(fs::read(fixture.path(FILE)).unwrap() == fixture.served(day));
    assert_eq!(
        fixture.simulator.ledger().logins + fixture.simulator.ledger().refreshes,
        3,
        "one is the test's own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_the_same_command_resumes() {
    let fixture = DownloadFixture::new(settings()).await;
    let day = date(2018, 6, 28);
    let id = fixture.session(day).await;
    // Limits files to 16 KiB; the signal is ignored, so that a write fails as on a full disk.
    let line = format!("trap '' XFSZ; ulimit -f 16; exec \"$E\" download -o {FILE} {id}");
    let ended = fixture.shell(&line).await.expect_exit(1);
    assert!(
        ended.err.contains("cannot write events.json.gz.part")
            && ended.err.contains("run the same command to resume"),
        "{}",
        ended.err
    );
    assert_eq!(
        fixture.files(),
        ["events.json.gz.part", "events.json.gz.part.json"]
    );
    let before = fixture.simulator.ledger().downloads_of("2018-06-28");
    fixture.download(&["-o", FILE, &id]).await.expect_exit(0);
    assert!(fs::read(fixture.path(FILE)).unwrap() == fixture.served(day));
    let after = fixture.simulator.ledger().downloads_of("2018-06-28");
    assert_eq!((after.replies - before.replies, after.resumed), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_keeps_the_part_file_and_the_same_command_resumes() {
    let mut settings = settings();
    settings.bandwidth = Some(30_000);
    let fixture = DownloadFixture::new(settings).await;
    let day = date(2018, 6, 28);
    let id = fixture.session(day).await;
    let child = fixture.command(&["-o", FILE, &id]).spawn().unwrap();
    fixture.until("events.json.gz.part", 8_000).await;
    // A second process may not fill the same file concurrently.
    let second = fixture.download(&["-o", FILE, &id]).await.expect_exit(2);
    assert!(second.err.contains("another process"), "{}", second.err);
    signal(&child, "INT").await;
    let stopped = wait_output(child).await.expect_exit(1);
    assert!(
        stopped.err.contains("run the same command to resume"),
        "{}",
        stopped.err
    );
    assert!(!fixture.path(FILE).exists());
    assert_eq!(fixture.simulator.ledger().open_now, 1, "it belongs to the user");
    fixture.download(&["-o", FILE, &id]).await.expect_exit(0);
    assert!(fs::read(fixture.path(FILE)).unwrap() == fixture.served(day));
    let downloads = fixture.simulator.ledger().downloads_of("2018-06-28");
    assert_eq!((downloads.replies, downloads.resumed), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_is_named_and_nothing_is_left() {
    let fixture = DownloadFixture::new(settings()).await;
    let id = fixture.session(date(2018, 6, 28)).await;
    let refused = refuse(403, "not you", &[RequestKind::Download]);
    fixture.simulator.set_faults(vec![refused]);
    let ended = fixture.download(&["-o", FILE, &id]).await.expect_exit(1);
    assert!(
        ended.err.contains("not you") && ended.err.contains("developer role"),
        "{}",
        ended.err
    );
    let json = fixture
        .download(&["-o", FILE, &id, "--output", "json"])
        .await
        .expect_exit(1)
        .json();
    assert_eq!(
        (&json["complete"], &json["error"]["exitCode"]),
        (&false.into(), &1.into())
    );
    assert_eq!(fixture.files(), Vec::<String>::new());
}
