//! A session into a file: whole or not there, and never in the place of another.

use std::fs;

use eventexport::simulator::{Effect, Fault, Framing, JsonShape, Kind, Members};
use jiff::civil::date;

use super::scene::{Scene, gunzip, said, settings, signal};

const FILE: &str = "events.json.gz";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_becomes_a_file_and_stays_open() {
    let scene = Scene::new(settings()).await;
    let day = date(2018, 6, 28);
    let id = scene.session(day).await;
    let told = scene
        .download(&["-o", FILE, &id, "--output", "json"])
        .await
        .ended(0)
        .document();
    let served = scene.served(day);
    assert!(fs::read(scene.path(FILE)).unwrap() == served);
    assert_eq!(scene.files(), [FILE]);
    let expected = [
        ("schema", "eventexport.io/download/v1".into()),
        ("whole", true.into()),
        ("bytes", served.len().into()),
        ("events", 240.into()),
        ("members", 1.into()),
        ("exitCode", 0.into()),
    ];
    for (field, value) in expected {
        let value: serde_json::Value = value;
        assert_eq!(told[field], value, "{field}");
    }
    let session = &told["sessions"][0];
    assert_eq!(
        (&session["verdict"], &session["reportedAfter"]),
        (&"Matched".into(), &240.into())
    );
    let sum = std::process::Command::new("sha256sum")
        .arg(scene.path(FILE))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(told["sha256"].as_str().unwrap()));
    let ledger = scene.simulator.ledger();
    assert_eq!((ledger.open_now, ledger.deleted), (1, 0));
    assert_eq!(ledger.violations, Vec::<String>::new());

    // The same again: not over it, and not without being told to.
    let refused = scene.download(&["-o", FILE, &id]).await.ended(2);
    assert!(
        refused.err.contains("exists") && refused.err.contains("--force"),
        "{}",
        refused.err
    );
    let text = scene
        .download(&["-o", FILE, &id, "--force"])
        .await
        .ended(0)
        .text();
    for words in ["240 events", told["sha256"].as_str().unwrap(), "Matched"] {
        assert!(text.contains(words), "{words} is not in: {text}");
    }

    let plain = ["-o", "events.json", &id, "--decompress"];
    scene.download(&plain).await.ended(0);
    assert!(fs::read(scene.path("events.json")).unwrap() == gunzip(&served));
    assert_eq!(scene.files(), ["events.json", FILE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_gzip_of_events_is_refused_and_says_why() {
    for (preset, words, left) in [
        ("not-gzip", "does not begin as gzip", &[][..]),
        ("end-early", "ends inside member", &["events.json.gz.broken"]),
        (
            "trailing-bytes",
            "behind the last member",
            &["events.json.gz.broken"],
        ),
        ("wrong-crc", "checksum", &["events.json.gz.broken"]),
        ("download-404", "nothing is written", &[]),
        ("second-refused#2", "", &[FILE]),
    ] {
        let scene = Scene::new(settings()).await;
        scene.misbehave(&[preset]);
        let id = scene.session(date(2018, 6, 28)).await;
        let ended = scene
            .download(&["-o", FILE, &id])
            .await
            .ended(i32::from(!words.is_empty()));
        assert!(ended.err.contains(words), "{preset}: {}", ended.err);
        assert_eq!(scene.files(), left, "{preset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_events_than_the_service_reports_are_not_taken_for_complete() {
    let scene = Scene::new(settings()).await;
    scene.misbehave(&["end-early-at-member-end"]);
    let id = scene.session(date(2018, 6, 28)).await;
    let ended = scene.download(&["-o", FILE, &id]).await.ended(1);
    assert!(
        ended.text().contains("the service reports 240"),
        "{}",
        ended.text()
    );
    assert_eq!(
        scene.files(),
        [FILE],
        "what came is whole as HTTP and gzip say it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_a_body_comes_whole() {
    for (framing, members, json) in [
        (Framing::Chunked, Members::Hours, JsonShape::Lines),
        (Framing::Close, Members::One, JsonShape::Array),
        (Framing::Length, Members::Blocks, JsonShape::Array),
    ] {
        let mut settings = settings();
        (settings.framing, settings.gzip.members, settings.json) = (framing, members, json);
        let scene = Scene::new(settings).await;
        scene.misbehave(&["encoding-label"]);
        let day = date(2018, 6, 28);
        let id = scene.session(day).await;
        let told = scene
            .download(&["-o", FILE, &id, "--output", "json"])
            .await
            .ended(0)
            .document();
        assert!(
            fs::read(scene.path(FILE)).unwrap() == scene.served(day),
            "{framing:?}"
        );
        assert_eq!(told["events"], 240, "{framing:?} {json:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_not_there_is_said_and_leaves_nothing() {
    let scene = Scene::new(settings()).await;
    let ended = scene.download(&["-o", FILE, "nobodys"]).await.ended(1);
    assert!(
        ended.err.contains("no session nobodys") && ended.err.contains("session list"),
        "{}",
        ended.err
    );
    assert_eq!(scene.files(), Vec::<String>::new());

    scene.misbehave(&["session-vanishes"]);
    let id = scene.session(date(2018, 6, 28)).await;
    let ended = scene.download(&["-o", FILE, &id]).await.ended(1);
    assert!(
        ended.err.contains("is gone") && ended.err.contains("events.json.gz.part"),
        "{}",
        ended.err
    );
    assert!(!scene.path(FILE).exists());
    // Another session must not be mixed with it.
    let id = scene.session(date(2018, 6, 28)).await;
    let refused = scene.download(&["-o", FILE, &id]).await.ended(2);
    assert!(
        refused.err.contains("part of another download"),
        "{}",
        refused.err
    );
    scene.download(&["-o", FILE, &id, "--force"]).await.ended(0);
    assert_eq!(scene.files(), [FILE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_in_the_middle_is_renewed() {
    let scene = Scene::new(settings()).await;
    scene.misbehave(&["token-expires-mid-download"]);
    let day = date(2018, 6, 28);
    let id = scene.session(day).await;
    scene.download(&["-o", FILE, &id]).await.ended(0);
    assert!(fs::read(scene.path(FILE)).unwrap() == scene.served(day));
    assert_eq!(
        scene.simulator.ledger().logins + scene.simulator.ledger().refreshes,
        3,
        "one is the test's own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_the_same_command_goes_on() {
    let scene = Scene::new(settings()).await;
    let day = date(2018, 6, 28);
    let id = scene.session(day).await;
    // Files of at most 16 KiB; the signal that comes with it is ignored, so that writing fails as on a full disk.
    let line = format!("trap '' XFSZ; ulimit -f 16; exec \"$E\" download -o {FILE} {id}");
    let ended = scene.shell(&line).await.ended(1);
    assert!(
        ended.err.contains("events.json.gz.part cannot be written") && ended.err.contains("goes on behind"),
        "{}",
        ended.err
    );
    assert_eq!(scene.files(), ["events.json.gz.part", "events.json.gz.part.json"]);
    let before = scene.simulator.ledger().downloads_of("2018-06-28");
    scene.download(&["-o", FILE, &id]).await.ended(0);
    assert!(fs::read(scene.path(FILE)).unwrap() == scene.served(day));
    let after = scene.simulator.ledger().downloads_of("2018-06-28");
    assert_eq!((after.answers - before.answers, after.resumed), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_keeps_what_came_and_the_same_command_goes_on() {
    let mut settings = settings();
    settings.bandwidth = Some(30_000);
    let scene = Scene::new(settings).await;
    let day = date(2018, 6, 28);
    let id = scene.session(day).await;
    let child = scene.command(&["-o", FILE, &id]).spawn().unwrap();
    scene.until("events.json.gz.part", 8_000).await;
    // Nobody else may fill the same file meanwhile.
    let second = scene.download(&["-o", FILE, &id]).await.ended(2);
    assert!(second.err.contains("another process"), "{}", second.err);
    signal(&child, "INT").await;
    let stopped = said(child).await.ended(1);
    assert!(stopped.err.contains("goes on behind"), "{}", stopped.err);
    assert!(!scene.path(FILE).exists());
    assert_eq!(scene.simulator.ledger().open_now, 1, "it is the person's");
    scene.download(&["-o", FILE, &id]).await.ended(0);
    assert!(fs::read(scene.path(FILE)).unwrap() == scene.served(day));
    let downloads = scene.simulator.ledger().downloads_of("2018-06-28");
    assert_eq!((downloads.answers, downloads.resumed), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_is_named_and_nothing_is_left() {
    let scene = Scene::new(settings()).await;
    let id = scene.session(date(2018, 6, 28)).await;
    let refuse = Effect::Status {
        status: 403,
        retry_after: None,
        message: "not you".to_owned(),
    };
    scene
        .simulator
        .set_faults(vec![Fault::new("refused", refuse, &[Kind::Download])]);
    let ended = scene.download(&["-o", FILE, &id]).await.ended(1);
    assert!(
        ended.err.contains("not you") && ended.err.contains("developer role"),
        "{}",
        ended.err
    );
    let json = scene
        .download(&["-o", FILE, &id, "--output", "json"])
        .await
        .ended(1)
        .document();
    assert_eq!(
        (&json["whole"], &json["error"]["exitCode"]),
        (&false.into(), &1.into())
    );
    assert_eq!(scene.files(), Vec::<String>::new());
}
