//! Days in one command: the sessions are its own, and none stays open.

use std::fs;

use eventexport::simulator::{Effect, Fault, Kind};
use jiff::civil::date;

use super::scene::{Scene, gunzip, said, settings, signal};

const FILE: &str = "events.json.gz";
const DAYS: [&str; 4] = ["--start", "2018-06-25", "--end", "2018-06-27"];

/// The arguments of three days into a file, and more.
fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&DAYS[..], &["-o", FILE], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn session_download_and_delete_are_one_command() {
    let scene = Scene::new(settings()).await;
    let told = scene
        .download(&with(&["--account", "--output", "json"]))
        .await
        .ended(0)
        .document();
    assert_eq!(
        (&told["events"], &told["sessions"][0]["verdict"]),
        (&1440.into(), &"Matched".into())
    );
    let ledger = scene.simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.open_now), (1, 1, 0));
    let key = format!("{}/account/2018-06-25/2018-06-27", super::scene::SPACE);
    assert_eq!(ledger.downloads[&key].completed, 1);
    assert_eq!(scene.files(), [FILE]);

    let hour = ["--start", "2018-06-28", "--hour", "7", "-o", "hour.json.gz"];
    scene.download(&hour).await.ended(0);
    let body = scene
        .simulator
        .body_of(super::scene::SPACE, false, date(2018, 6, 28), Some(7));
    let expected: Vec<u8> = body.flat_map(|piece| piece.to_vec()).collect();
    assert!(fs::read(scene.path("hour.json.gz")).unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_days_than_a_session_takes_are_several_in_one_file() {
    let scene = Scene::new(settings()).await;
    let arguments = ["--start", "2018-05-20", "--end", "2018-06-20", "-o", FILE];
    let text = scene.download(&arguments).await.ended(0).text();
    for words in [
        "2018-05-20 to 2018-06-03",
        "2018-06-19 to 2018-06-20",
        "7,680 events",
    ] {
        assert!(text.contains(words), "{words} is not in: {text}");
    }
    let bytes = fs::read(scene.path(FILE)).unwrap();
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
    let ledger = scene.simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.max_open), (3, 3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_end_of_the_command_leaves_the_session_open() {
    let mut slow = settings();
    slow.bandwidth = Some(30_000);
    for (name, code) in [("INT", 1), ("TERM", 1)] {
        let scene = Scene::new(slow.clone()).await;
        let child = scene.command(&with(&[])).spawn().unwrap();
        scene.until("events.json.gz.part", 8_000).await;
        signal(&child, name).await;
        said(child).await.ended(code);
        assert_eq!(
            (
                scene.simulator.ledger().deleted,
                scene.simulator.ledger().open_now
            ),
            (1, 0),
            "{name}"
        );
        assert_eq!(
            scene.files(),
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
        let scene = Scene::new(settings()).await;
        scene.misbehave(&[preset]);
        scene.download(&with(&[])).await.ended(1);
        let ledger = scene.simulator.ledger();
        assert!(ledger.opened > 0, "{preset}");
        assert_eq!(ledger.open_now, 0, "{preset}");
        assert!(!scene.path(FILE).exists(), "{preset}");
    }
    let scene = Scene::new(settings()).await;
    let days = DAYS.join(" ");
    scene
        .shell(&format!("\"$E\" download {days} >/dev/full"))
        .await
        .ended(1);
    scene
        .shell(&format!("\"$E\" download {days} | head -c 9 >/dev/null"))
        .await
        .ended(0);
    assert_eq!(
        (scene.simulator.ledger().opened, scene.simulator.ledger().open_now),
        (2, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn days_of_another_answer_are_refused() {
    for preset in ["range-differs", "range-differs-in-name"] {
        let scene = Scene::new(settings()).await;
        scene.misbehave(&[preset]);
        let ended = scene.download(&with(&[])).await.ended(1);
        let words = "asked for 2018-06-25 to 2018-06-27, the service answered 2018-06-24 to 2018-06-26";
        assert!(ended.err.contains(words), "{}", ended.err);
        assert_eq!(scene.simulator.ledger().requests_of(Kind::Download), 0);
        assert_eq!(scene.files(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_deleted_is_named_with_the_way_to_delete_it() {
    let scene = Scene::new(settings()).await;
    let refuse = Effect::Status {
        status: 403,
        retry_after: None,
        message: "not now".to_owned(),
    };
    scene
        .simulator
        .set_faults(vec![Fault::new("stuck", refuse, &[Kind::Delete])]);
    let ended = scene.download(&with(&[])).await.ended(1);
    let id = scene.simulator.open_sessions()[0].id.clone();
    let words = format!("eventexport session delete {id}");
    assert!(
        ended.text().contains(&words) && ended.text().contains("not now"),
        "{}",
        ended.text()
    );
    assert!(scene.path(FILE).exists(), "the events are whole all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_may_have_worked_is_not_passed_over() {
    let scene = Scene::new(settings()).await;
    scene.misbehave(&["create-reply-lost"]);
    let ended = scene.download(&with(&[])).await.ended(1);
    let id = scene.simulator.open_sessions()[0].id.clone();
    assert!(
        ended.err.contains(&format!("eventexport session delete {id}")),
        "{}",
        ended.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_goes_away_is_opened_anew() {
    let scene = Scene::new(settings()).await;
    scene.misbehave(&["session-vanishes"]);
    scene
        .download(&["--start", "2018-06-28", "-o", FILE])
        .await
        .ended(0);
    assert!(fs::read(scene.path(FILE)).unwrap() == scene.served(date(2018, 6, 28)));
    assert_eq!(
        (scene.simulator.ledger().opened, scene.simulator.ledger().open_now),
        (2, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_session_is_gone_on_with_by_the_same_command() {
    let mut slow = settings();
    slow.bandwidth = Some(30_000);
    let scene = Scene::new(slow).await;
    let arguments = ["--start", "2018-06-28", "-o", FILE, "--keep-session"];
    let child = scene.command(&arguments).spawn().unwrap();
    scene.until("events.json.gz.part", 8_000).await;
    signal(&child, "TERM").await;
    let stopped = said(child).await.ended(1);
    let id = scene.simulator.open_sessions()[0].id.clone();
    assert!(stopped.text().contains(&id), "{}", stopped.text());

    scene.download(&arguments).await.ended(0);
    assert!(fs::read(scene.path(FILE)).unwrap() == scene.served(date(2018, 6, 28)));
    let ledger = scene.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (1, 1));
    assert_eq!(ledger.downloads_of("2018-06-28").resumed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_command_is_gone_on_with_in_its_session_and_whole_sessions_stay() {
    let mut slow = settings();
    slow.bandwidth = Some(30_000);
    let scene = Scene::new(slow).await;
    let arguments = with(&["--days-per-session", "1"]);
    let first = scene.served(date(2018, 6, 25)).len() as u64;
    let mut child = scene.command(&arguments).spawn().unwrap();
    scene.until("events.json.gz.part", first + 8_000).await;
    child.kill().await.unwrap();
    assert_eq!(scene.simulator.ledger().open_now, 1);

    scene.simulator.set_faults(Vec::new());
    let told = scene
        .download(&[&arguments[..], &["--output", "json"]].concat())
        .await
        .ended(0)
        .document();
    let expected = [25, 26, 27].map(|day| scene.served(date(2018, 6, day))).concat();
    assert!(fs::read(scene.path(FILE)).unwrap() == expected);
    assert!(told["bytesOfEarlierRuns"].as_u64().unwrap() >= first + 8_000);
    assert_eq!(
        (&told["events"], told["sessions"].as_array().unwrap().len()),
        (&720.into(), 3)
    );
    let ledger = scene.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (3, 0));
    assert_eq!(ledger.downloads_of("2018-06-25").answers, 1);
    assert_eq!(ledger.downloads_of("2018-06-26").resumed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_keeps_the_sessions_that_are_whole_and_force_begins_anew() {
    let mut slow = settings();
    slow.bandwidth = Some(60_000);
    let scene = Scene::new(slow).await;
    let arguments = with(&["--days-per-session", "1"]);
    let first = scene.served(date(2018, 6, 25)).len() as u64;
    let child = scene.command(&arguments).spawn().unwrap();
    scene.until("events.json.gz.part", first + 8_000).await;
    signal(&child, "INT").await;
    said(child).await.ended(1);
    assert_eq!(scene.simulator.ledger().open_now, 0);
    let kept = fs::metadata(scene.path("events.json.gz.part")).unwrap().len();
    assert_eq!(kept, first, "the session that was cut short is gone");

    let mut child = scene.command(&arguments).spawn().unwrap();
    scene.until("events.json.gz.part", first + 8_000).await;
    child.kill().await.unwrap();
    assert_eq!(scene.simulator.ledger().open_now, 1);
    let other = ["--start", "2018-06-28", "-o", FILE];
    let refused = scene.download(&other).await.ended(2);
    assert!(
        refused.err.contains("2018-06-25 to 2018-06-27"),
        "{}",
        refused.err
    );
    scene
        .download(&[&other[..], &["--force"]].concat())
        .await
        .ended(0);
    assert!(fs::read(scene.path(FILE)).unwrap() == scene.served(date(2018, 6, 28)));
    let ledger = scene.simulator.ledger();
    assert_eq!(
        (ledger.downloads_of("2018-06-25").answers, ledger.open_now),
        (1, 0),
        "the session of the part that was thrown away is deleted with it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn days_without_events_are_a_gzip_of_nothing_where_the_listing_proves_it() {
    for preset in ["empty-404", "empty-204", "empty-zero-length", "empty-gzip"] {
        let mut quiet = settings();
        quiet.volume.days.insert(date(2018, 6, 23), 0);
        let scene = Scene::new(quiet).await;
        scene.misbehave(&[preset]);
        let day = ["--start", "2018-06-23"];
        let text = scene
            .download(&[&day[..], &["-o", FILE]].concat())
            .await
            .ended(0)
            .text();
        assert!(
            text.contains("0 events") && text.contains("Empty"),
            "{preset}: {text}"
        );
        assert!(
            gunzip(&fs::read(scene.path(FILE)).unwrap()).is_empty(),
            "{preset}"
        );
        let piped = scene
            .shell(&format!(
                "set -o pipefail; \"$E\" download {} | gunzip | wc -l",
                day.join(" ")
            ))
            .await
            .ended(0);
        assert_eq!(piped.text().trim(), "0", "{preset}");

        fs::remove_file(scene.path(FILE)).unwrap();
        scene.misbehave(&[preset, "events-403"]);
        let doubted = scene.download(&[&day[..], &["-o", FILE]].concat()).await.ended(1);
        let said = doubted.text() + &doubted.err;
        assert!(
            said.contains("nothing proves that nothing happened"),
            "{preset}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn days_that_cannot_be_meant_end_with_2_and_open_nothing() {
    let scene = Scene::new(settings()).await;
    for (arguments, named) in [
        (
            &["--start", "2018-06-28", "--end", "2018-06-27", "-o", FILE][..],
            "--end 2018-06-27",
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
        (&["--start", "2018-06-28", "-o", "."], "no regular file"),
    ] {
        let ended = scene.download(arguments).await.ended(2);
        assert!(ended.err.contains(named), "{arguments:?}: {}", ended.err);
    }
    assert_eq!(scene.simulator.ledger().opened, 0);
    assert_eq!(scene.files(), Vec::<String>::new());
}
