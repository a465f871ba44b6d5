//! Several days in one command: it opens and deletes its own sessions.

use std::fs;

use eventexport::simulator::RequestKind;
use jiff::civil::date;

use super::fixture::{DownloadFixture, gunzip, settings, signal, wait_output};
use crate::testkit::service::refuse;

const FILE: &str = "events.json.gz";
const DAYS: [&str; 4] = ["--start", "2018-06-25", "--end", "2018-06-27"];

/// Returns the arguments that download three days into a file, plus `more`.
fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&DAYS[..], &["-o", FILE], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn session_download_and_delete_are_one_command() {
    let fixture = DownloadFixture::new(settings()).await;
    let summary = fixture
        .download(&with(&["--account", "--output", "json"]))
        .await
        .expect_exit(0)
        .json();
    assert_eq!(
        (&summary["events"], &summary["sessions"][0]["verdict"]),
        (&1440.into(), &"Matched".into())
    );
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.open_now), (1, 1, 0));
    let key = format!("{}/account/2018-06-25/2018-06-27", super::fixture::SPACE);
    assert_eq!(ledger.downloads[&key].completed, 1);
    assert_eq!(fixture.files(), [FILE]);

    let hour = ["--start", "2018-06-28", "--hour", "7", "-o", "hour.json.gz"];
    fixture.download(&hour).await.expect_exit(0);
    let body = fixture
        .simulator
        .body_of(super::fixture::SPACE, false, date(2018, 6, 28), Some(7));
    let expected: Vec<u8> = body.flat_map(|piece| piece.to_vec()).collect();
    assert!(fs::read(fixture.path("hour.json.gz")).unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_days_than_one_session_allows_become_several_sessions_in_one_file() {
    let fixture = DownloadFixture::new(settings()).await;
    let arguments = ["--start", "2018-05-20", "--end", "2018-06-20", "-o", FILE];
    let text = fixture.download(&arguments).await.expect_exit(0).out;
    for words in [
        "2018-05-20 to 2018-06-03",
        "2018-06-19 to 2018-06-20",
        "7,680 events",
    ] {
        assert!(text.contains(words), "{words} is not in: {text}");
    }
    let bytes = fs::read(fixture.path(FILE)).unwrap();
    let lines = String::from_utf8(gunzip(&bytes)).unwrap();
    let times: Vec<String> = lines
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["payload"]["eventTime"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(times.len(), 32 * 240);
    assert!(times.is_sorted(), "in order of time");
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.max_open), (3, 3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_always_deletes_its_session() {
    let mut slow = settings();
    slow.bandwidth = Some(30_000);
    for (name, code) in [("INT", 1), ("TERM", 1)] {
        let fixture = DownloadFixture::new(slow.clone()).await;
        let child = fixture.command(&with(&[])).spawn().unwrap();
        fixture.until("events.json.gz.part", 8_000).await;
        signal(&child, name).await;
        wait_output(child).await.expect_exit(code);
        assert_eq!(
            (
                fixture.simulator.ledger().deleted,
                fixture.simulator.ledger().open_now
            ),
            (1, 0),
            "{name}"
        );
        assert_eq!(
            fixture.files(),
            Vec::<String>::new(),
            "{name}: what is of no more use is gone"
        );
    }
    for preset in [
        "not-gzip",
        "trailing-bytes",
        "range-differs",
        "range-differs-in-name",
        "cut-at-start",
    ] {
        let fixture = DownloadFixture::new(settings()).await;
        fixture.set_faults(&[preset]);
        fixture.download(&with(&[])).await.expect_exit(1);
        let ledger = fixture.simulator.ledger();
        assert!(ledger.opened > 0, "{preset}");
        assert_eq!(ledger.open_now, 0, "{preset}");
        assert!(!fixture.path(FILE).exists(), "{preset}");
    }
    let fixture = DownloadFixture::new(settings()).await;
    let days = DAYS.join(" ");
    fixture
        .shell(&format!("\"$E\" download {days} >/dev/full"))
        .await
        .expect_exit(1);
    fixture
        .shell(&format!("\"$E\" download {days} | head -c 9 >/dev/null"))
        .await
        .expect_exit(0);
    assert_eq!(
        (
            fixture.simulator.ledger().opened,
            fixture.simulator.ledger().open_now
        ),
        (2, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_other_dates_is_refused() {
    for preset in ["range-differs", "range-differs-in-name"] {
        let fixture = DownloadFixture::new(settings()).await;
        fixture.set_faults(&[preset]);
        let ended = fixture.download(&with(&[])).await.expect_exit(1);
        let words = "requested 2018-06-25 to 2018-06-27, but the session is for 2018-06-24 to 2018-06-26";
        assert!(ended.err.contains(words), "{}", ended.err);
        assert_eq!(fixture.simulator.ledger().requests_of(RequestKind::Download), 0);
        assert_eq!(fixture.files(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undeleted_session_is_named_with_a_remedy() {
    let fixture = DownloadFixture::new(settings()).await;
    let stuck = refuse(403, "not now", &[RequestKind::Delete]);
    fixture.simulator.set_faults(vec![stuck]);
    let ended = fixture.download(&with(&[])).await.expect_exit(1);
    let id = fixture.simulator.open_sessions()[0].id.clone();
    let words = format!("eventexport session delete {id}");
    assert!(
        ended.out.contains(&words) && ended.out.contains("not now"),
        "{}",
        ended.out
    );
    assert!(fixture.path(FILE).exists(), "the events are whole all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_with_unknown_outcome_is_reported() {
    let fixture = DownloadFixture::new(settings()).await;
    fixture.set_faults(&["create-reply-lost"]);
    let ended = fixture.download(&with(&[])).await.expect_exit(1);
    let id = fixture.simulator.open_sessions()[0].id.clone();
    assert!(
        ended.err.contains(&format!("eventexport session delete {id}")),
        "{}",
        ended.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_session_is_reopened() {
    let fixture = DownloadFixture::new(settings()).await;
    fixture.set_faults(&["session-vanishes"]);
    fixture
        .download(&["--start", "2018-06-28", "-o", FILE])
        .await
        .expect_exit(0);
    assert!(fs::read(fixture.path(FILE)).unwrap() == fixture.served(date(2018, 6, 28)));
    assert_eq!(
        (
            fixture.simulator.ledger().opened,
            fixture.simulator.ledger().open_now
        ),
        (2, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_command_resumes_a_kept_session() {
    let mut slow = settings();
    slow.bandwidth = Some(30_000);
    let fixture = DownloadFixture::new(slow).await;
    let arguments = ["--start", "2018-06-28", "-o", FILE, "--keep-session"];
    let child = fixture.command(&arguments).spawn().unwrap();
    fixture.until("events.json.gz.part", 8_000).await;
    signal(&child, "TERM").await;
    let stopped = wait_output(child).await.expect_exit(1);
    let id = fixture.simulator.open_sessions()[0].id.clone();
    assert!(stopped.out.contains(&id), "{}", stopped.out);

    fixture.download(&arguments).await.expect_exit(0);
    assert!(fs::read(fixture.path(FILE)).unwrap() == fixture.served(date(2018, 6, 28)));
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (1, 1));
    assert_eq!(ledger.downloads_of("2018-06-28").resumed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_command_resumes_in_its_session_and_keeps_complete_ones() {
    let mut slow = settings();
    slow.bandwidth = Some(30_000);
    let fixture = DownloadFixture::new(slow).await;
    let arguments = with(&["--days-per-session", "1"]);
    let first = fixture.served(date(2018, 6, 25)).len() as u64;
    let mut child = fixture.command(&arguments).spawn().unwrap();
    fixture.until("events.json.gz.part", first + 8_000).await;
    child.kill().await.unwrap();
    assert_eq!(fixture.simulator.ledger().open_now, 1);

    fixture.simulator.set_faults(Vec::new());
    let summary = fixture
        .download(&[&arguments[..], &["--output", "json"]].concat())
        .await
        .expect_exit(0)
        .json();
    let expected = [25, 26, 27]
        .map(|day| fixture.served(date(2018, 6, day)))
        .concat();
    assert!(fs::read(fixture.path(FILE)).unwrap() == expected);
    assert!(summary["bytesOfEarlierRuns"].as_u64().unwrap() >= first + 8_000);
    assert_eq!(
        (&summary["events"], summary["sessions"].as_array().unwrap().len()),
        (&720.into(), 3)
    );
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (3, 0));
    assert_eq!(ledger.downloads_of("2018-06-25").replies, 1);
    assert_eq!(ledger.downloads_of("2018-06-26").resumed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_keeps_complete_sessions_and_force_restarts() {
    let mut slow = settings();
    slow.bandwidth = Some(60_000);
    let fixture = DownloadFixture::new(slow).await;
    let arguments = with(&["--days-per-session", "1"]);
    let first = fixture.served(date(2018, 6, 25)).len() as u64;
    let child = fixture.command(&arguments).spawn().unwrap();
    fixture.until("events.json.gz.part", first + 8_000).await;
    signal(&child, "INT").await;
    wait_output(child).await.expect_exit(1);
    assert_eq!(fixture.simulator.ledger().open_now, 0);
    let kept = fs::metadata(fixture.path("events.json.gz.part")).unwrap().len();
    assert_eq!(kept, first, "the session that was cut short is gone");

    let mut child = fixture.command(&arguments).spawn().unwrap();
    fixture.until("events.json.gz.part", first + 8_000).await;
    child.kill().await.unwrap();
    assert_eq!(fixture.simulator.ledger().open_now, 1);
    let other = ["--start", "2018-06-28", "-o", FILE];
    let refused = fixture.download(&other).await.expect_exit(2);
    assert!(
        refused.err.contains("2018-06-25 to 2018-06-27"),
        "{}",
        refused.err
    );
    fixture
        .download(&[&other[..], &["--force"]].concat())
        .await
        .expect_exit(0);
    assert!(fs::read(fixture.path(FILE)).unwrap() == fixture.served(date(2018, 6, 28)));
    let ledger = fixture.simulator.ledger();
    assert_eq!(
        (ledger.downloads_of("2018-06-25").replies, ledger.open_now),
        (1, 0),
        "the session of the part that was thrown away is deleted with it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_days_become_an_empty_gzip_if_the_listing_proves_it() {
    for preset in ["empty-404", "empty-204", "empty-zero-length", "empty-gzip"] {
        let mut quiet = settings();
        quiet.volume.days.insert(date(2018, 6, 23), 0);
        let fixture = DownloadFixture::new(quiet).await;
        fixture.set_faults(&[preset]);
        let day = ["--start", "2018-06-23"];
        let text = fixture
            .download(&[&day[..], &["-o", FILE]].concat())
            .await
            .expect_exit(0)
            .out;
        assert!(
            text.contains("0 events") && text.contains("Empty"),
            "{preset}: {text}"
        );
        assert!(
            gunzip(&fs::read(fixture.path(FILE)).unwrap()).is_empty(),
            "{preset}"
        );
        let piped = fixture
            .shell(&format!(
                "set -o pipefail; \"$E\" download {} | gunzip | wc -l",
                day.join(" ")
            ))
            .await
            .expect_exit(0);
        assert_eq!(piped.out.trim(), "0", "{preset}");

        fs::remove_file(fixture.path(FILE)).unwrap();
        fixture.set_faults(&[preset, "events-403"]);
        let doubted = fixture
            .download(&[&day[..], &["-o", FILE]].concat())
            .await
            .expect_exit(1);
        let printed = doubted.out + &doubted.err;
        assert!(
            printed.contains("nothing proves that there were none"),
            "{preset}: {printed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_days_exit_with_2_and_open_no_session() {
    let fixture = DownloadFixture::new(settings()).await;
    for (arguments, named) in [
        (
            &["--start", "2018-06-28", "--end", "2018-06-27", "-o", FILE][..],
            "--end: 2018-06-27",
        ),
        (
            &["--start", "2018-01-01", "--end", "2019-06-27", "-o", FILE],
            "366 days",
        ),
        (&["--start", "yesterday", "-o", FILE], "--start"),
        (&["--end", "2018-06-27", "-o", FILE], "--start"),
        (&["--start", "2018-06-28", "some-session", "-o", FILE], "--start"),
        (&["--keep-session", "some-session", "-o", FILE], "--keep-session"),
        (&["--start", "2018-06-28", "--hour", "24", "-o", FILE], "--hour"),
        (
            &["--start", "2018-06-28", "--days-per-session", "16", "-o", FILE],
            "--days-per-session",
        ),
        (&["-o", FILE], "ID"),
        (&["--start", "2018-06-28", "-o", "."], "not a regular file"),
    ] {
        let ended = fixture.download(arguments).await.expect_exit(2);
        assert!(ended.err.contains(named), "{arguments:?}: {}", ended.err);
    }
    assert_eq!(fixture.simulator.ledger().opened, 0);
    assert_eq!(fixture.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_terminal_leaves_no_session() {
    let mut slow = settings();
    slow.bandwidth = Some(60_000);
    let fixture = DownloadFixture::new(slow).await;
    let mut command = fixture.command(&with(&["--days-per-session", "1"]));
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    fixture.until("events.json.gz.part", 8_000).await;
    // Nobody reads what it prints from now on, and the shell repeats the signal.
    drop(child.stderr.take());
    drop(child.stdout.take());
    for _ in 0..2 {
        signal(&child, "HUP").await;
    }
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
    assert_eq!(fixture.simulator.ledger().open_now, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_resumed_is_downloaded_three_times_at_most() {
    let fixture = DownloadFixture::new(settings()).await;
    fixture.set_faults(&["resume-error", "cut-always"]);
    let day = ["--start", "2018-06-25", "-o", FILE];
    let output = fixture.download(&day).await.expect_exit(1);
    let restarts = output.err.matches("Downloading the session again from its start");
    assert_eq!(restarts.count(), 2, "{}", output.err);
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_asks_to_wait_is_asked_for_the_session_again() {
    let fixture = DownloadFixture::new(settings()).await;
    fixture.set_faults(&["fullx2"]);
    let day = ["--start", "2018-06-25", "-o", FILE];
    let output = fixture.download(&day).await.expect_exit(0);
    assert!(output.err.contains("will try again in 1 s"), "{}", output.err);
    // Not without end.
    fs::remove_file(fixture.path(FILE)).unwrap();
    fixture.set_faults(&["full"]);
    let refused = fixture.download(&day).await.expect_exit(1);
    assert!(refused.err.contains("will try again in 8 s"), "{}", refused.err);
    assert_eq!(
        refused.err.matches("will try again").count(),
        4,
        "{}",
        refused.err
    );
    assert_eq!(fixture.simulator.ledger().opened, 1);
}
