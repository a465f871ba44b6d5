//! `cat` prints the events of the real archive: each once, none that is not proved, and none that is silently left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::fixture::{ArchiveFixture, SPACE, text};
use crate::testkit::command::{CommandOutput, isolate, run_command};
use crate::testkit::process::program;

/// Runs a line of a shell, with the program as `$E` and the root of the space as `$ROOT`.
async fn shell(line: &str, folder: &Path) -> CommandOutput {
    let mut command = Command::new("bash");
    isolate(&mut command, folder);
    let root = folder.join(SPACE);
    command.args(["-c", line]).env("E", program()).env("ROOT", root);
    run_command(command).await
}

fn ids(output: &CommandOutput) -> BTreeSet<String> {
    let id = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["payload"]["id"].as_str().unwrap().to_owned()
    };
    output.out.lines().map(id).collect()
}

#[tokio::test]
async fn each_event_is_printed_once_with_the_day_that_is_stored_in_hours() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let root = copy.path().join(SPACE);
    let all = fixture.program(&["cat", text(&root)], &[]).await.expect_exit(0);
    assert_eq!((all.out.lines().count(), ids(&all).len()), (5 * 240, 5 * 240));
    // Five days with events, one of them in 24 hours, and a weekend without objects.
    assert!(
        all.err.contains("1,200 events in 28 objects of 30 windows"),
        "{}",
        all.err
    );

    // A day that was exported both ways is printed once.
    let day = root.join("date=2018-06-05");
    let receipts = root.join("_journal");
    let hour = root.join("date=2018-06-04");
    let moved = |name: &str| name.replace("2018-06-04", "2018-06-05");
    for entry in fs::read_dir(&receipts)
        .unwrap()
        .chain(fs::read_dir(&hour).unwrap())
    {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("events-h") {
            fs::copy(&path, day.join(&name)).unwrap();
        } else if name.starts_with("2018-06-04T")
            && path.extension().is_some_and(|extension| extension == "json")
        {
            let receipt = fs::read_to_string(&path).unwrap();
            fs::write(receipts.join(moved(&name)), moved(&receipt)).unwrap();
        }
    }
    let both = fixture.program(&["cat", text(&root)], &[]).await.expect_exit(0);
    assert!(both.out == all.out, "{}", both.err);
}

#[tokio::test]
async fn a_damaged_object_ends_the_output_and_the_error_states_what_is_proved() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let object = copy.path().join(SPACE).join("date=2018-06-06/events.json.gz");
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let output = shell("\"$E\" cat $ROOT", copy.path()).await.expect_exit(1);
    for words in [
        "date=2018-06-06/events.json.gz: ObjectChanged",
        "The first 720 lines of the output are proved",
    ] {
        assert!(output.err.contains(words), "{words} is not in: {}", output.err);
    }
    assert!(
        (720..960).contains(&output.out.lines().count()),
        "{}",
        output.out.lines().count()
    );
    let before = shell("\"$E\" cat $ROOT --end 2018-06-05", copy.path())
        .await
        .expect_exit(0);
    assert_eq!(before.out.lines().count(), 720);
}

#[tokio::test]
async fn windows_that_are_missing_or_not_proved_are_named_after_all_others_are_printed() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let root = copy.path().join(SPACE);
    fs::remove_file(root.join("date=2018-06-05/events.json.gz")).unwrap();
    let receipt = root.join("_journal/2018-06-06.receipt.json");
    let edited = fs::read_to_string(&receipt)
        .unwrap()
        .replace("\"events\":240", "\"events\":200");
    fs::write(receipt, edited).unwrap();
    let range = "--start 2018-05-31 --end 2018-06-07";
    let output = shell(&format!("\"$E\" cat $ROOT {range}"), copy.path())
        .await
        .expect_exit(1);
    assert_eq!(output.out.lines().count(), 3 * 240);
    for words in [
        "missing: 2018-05-31",
        "2018-06-05 is not covered: its receipt exists, but its object is missing",
        "2018-06-06.receipt.json: ReceiptChanged",
        "3 problems above",
    ] {
        assert!(output.err.contains(words), "{words} is not in: {}", output.err);
    }
    let stored = "\"$E\" cat $ROOT --start 2018-06-07 --end 2018-06-07";
    assert_eq!(
        shell(stored, copy.path())
            .await
            .expect_exit(0)
            .out
            .lines()
            .count(),
        240
    );
}

#[tokio::test]
async fn a_closed_pipe_is_quiet_and_a_full_disk_is_an_error() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let line = "\"$E\" cat $ROOT | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}";
    let closed = shell(line, copy.path()).await.expect_exit(0);
    assert_eq!((closed.out.trim(), closed.err.trim()), ("141", ""));
    let full = shell("\"$E\" cat $ROOT >/dev/full", copy.path())
        .await
        .expect_exit(1);
    assert!(
        full.err.contains("cannot write to standard output"),
        "{}",
        full.err
    );
}

#[tokio::test]
async fn an_account_beside_its_space_is_not_printed() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let both = shell("\"$E\" cat $HOME/t", copy.path()).await.expect_exit(2);
    assert!(
        both.out.is_empty() && both.err.contains("scope=account"),
        "{}",
        both.err
    );
    let none = shell("mkdir empty; \"$E\" cat empty", copy.path())
        .await
        .expect_exit(1);
    assert!(none.err.contains("no archive here"), "{}", none.err);
}
