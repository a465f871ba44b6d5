//! Output on a terminal of 80 columns: what fits, what is left after Ctrl-C, and a terminal without control sequences.

use std::process::Stdio;
use std::time::Duration;

use regex::Regex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::fixture::{CliFixture, KEY, wait_output};
use crate::testkit::process::program;

/// Returns a command on a terminal of 80 columns.
fn terminal(fixture: &CliFixture, term: &str, line: &str) -> Command {
    let mut command = Command::new("script");
    fixture.isolate(&mut command);
    let line = format!("stty cols 80 rows 24; exec {} {line}", program().display());
    command
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", term)
        .env("EVENTEXPORT_SPACE", "c1234567-6d55-4193-a9de-378620d6fab5")
        .env("EVENTEXPORT_ENDPOINT", &fixture.url)
        .env("EVENTEXPORT_API_KEY", KEY)
        .env_remove("NO_COLOR");
    command
}

/// Removes the control sequences.
fn plain(text: &str) -> String {
    let sequence = Regex::new("\u{1b}\\[[0-9;?]*[a-zA-Z]").unwrap();
    sequence.replace_all(text, "").into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_bars_fit_80_columns() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    let days = "--start 2018-06-20 --end 2018-06-29 --archive archive";
    let nanoseconds = Regex::new(r"\d\.\d{4,9}Z").unwrap();
    for line in [
        "session create --start 2018-06-28 --end 2018-06-29".to_owned(),
        "session list".to_owned(),
        format!("run {days}"),
        format!("status {days}"),
        format!("plan {days}"),
    ] {
        let shown = wait_output(terminal(&fixture, "xterm", &line))
            .await
            .expect_exit(0);
        let shown = plain(&shown.out);
        // Sentences wrap; tables would be torn.
        let rows = shown
            .lines()
            .filter(|line| line.starts_with(['|', '+', '│', '┌', '└', '╞']));
        let widest = rows.map(|row| row.trim_end().chars().count()).max();
        assert!(widest.unwrap_or(0) <= 80, "{line}:\n{shown}");
        assert!(!nanoseconds.is_match(&shown), "{shown}");
        if line.starts_with("run") {
            for words in [
                "Newest manifest: 1:",
                "  eventexport verify --archive archive --start 2018-06-20 --end 2018-06-29 \\",
            ] {
                assert!(shown.contains(words), "{words} is not in:\n{shown}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_clears_the_bars_and_the_summary_follows() {
    let fixture = CliFixture::start(&["--today", "2018-07-02", "--fault", "trickle"]).await;
    let line = "run --start 2018-06-25 --end 2018-06-29 --archive archive";
    let mut command = terminal(&fixture, "xterm", line);
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    let dialog = async {
        while !String::from_utf8_lossy(&shown).contains("downloading") {
            assert!(output.read_buf(&mut shown).await.unwrap() > 0, "no transfer");
        }
        input.write_all(b"\x03").await.unwrap();
        while output.read_buf(&mut shown).await.unwrap() > 0 {}
    };
    tokio::time::timeout(Duration::from_mins(2), dialog)
        .await
        .unwrap();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert_eq!(child.wait().await.unwrap().code(), Some(1), "{shown}");
    let (_, after) = shown
        .split_once("Stopping: deleting sessions.")
        .expect("the line after Ctrl-C");
    let summary = plain(after);
    assert!(
        summary.contains("Stopped. Run the same command again to resume."),
        "{summary}"
    );
    // Nothing is drawn after the table begins.
    let (_, table) = after.split_once('┌').expect("a table");
    assert!(
        !plain(table).contains("downloading") && !table.contains("\u{1b}[2K"),
        "{after}"
    );
    assert_eq!(fixture.open_now().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dumb_terminal_gets_lines_without_control_sequences() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    let line = "run --start 2018-06-28 --end 2018-06-29 --archive archive";
    let shown = wait_output(terminal(&fixture, "dumb", line)).await.expect_exit(0);
    assert!(!shown.out.contains('\u{1b}'), "{:?}", shown.out);
    assert!(
        shown
            .out
            .contains("2018-06-28: stored 240 events of 240 reported"),
        "{}",
        shown.out
    );
}
