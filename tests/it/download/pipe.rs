//! Pipes events into other programs, through a real shell and from a simulator in a separate process.

use std::process::Stdio;

use jiff::civil::date;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::fixture::{
    CommandOutput, DownloadFixture, PROGRAM, TIMEOUT, configure_command, settings, wait_output,
};

/// `eventexport simulate` as a process.
pub(super) struct SimulatorProcess {
    child: Child,
    pub(super) url: String,
    pub(super) folder: tempfile::TempDir,
}

impl SimulatorProcess {
    pub(super) async fn start(more: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args([
                "simulate",
                "--listen",
                "127.0.0.1:0",
                "--today",
                "2018-07-02",
                "--weekends",
            ])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = tokio::time::timeout(TIMEOUT, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        Self {
            child,
            url: url.trim_end_matches('/').to_owned(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) async fn shell(&self, line: &str) -> CommandOutput {
        let mut command = Command::new("bash");
        configure_command(&mut command, &self.url, self.folder.path());
        command.args(["-c", line]).env("E", PROGRAM);
        wait_output(command.spawn().unwrap()).await
    }

    pub(super) async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_days_stream_through_gunzip_into_jq() {
    let service = SimulatorProcess::start(&["--events-per-day", "500"]).await;
    let days = "--start 2018-06-20 --end 2018-06-26";
    let line = format!(
        "set -o pipefail; \"$E\" download {days} | gunzip | jq -r '.payload.eventTime[:10]' | sort | uniq -c"
    );
    let counted = service.shell(&line).await.expect_exit(0);
    let rows: Vec<Vec<String>> = counted
        .text()
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    let expected: Vec<Vec<String>> = (20..=26)
        .map(|day| vec!["500".to_owned(), format!("2018-06-{day}")])
        .collect();
    assert_eq!(rows, expected);
    assert!(
        counted.err.contains("3,500 events") && counted.err.contains("Matched"),
        "{}",
        counted.err
    );

    let line = format!(
        "set -o pipefail; \"$E\" download {days} --decompress -o - | jq -r .payload.id | sort -u | wc -l"
    );
    assert_eq!(service.shell(&line).await.expect_exit(0).text().trim(), "3500");
    let open = service
        .shell("curl -s $EVENTEXPORT_ENDPOINT/simulator/ledger | jq .openNow")
        .await;
    assert_eq!(open.expect_exit(0).text().trim(), "0");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_the_command_quietly() {
    let fixture = DownloadFixture::new(settings()).await;
    for more in ["", "--decompress"] {
        let line = format!(
            "\"$E\" download --start 2018-06-01 --end 2018-06-28 {more} | head -c 100 >/dev/null; \
             echo \"${{PIPESTATUS[0]}}\"; cat /dev/zero | head -c 100 >/dev/null; echo \"${{PIPESTATUS[0]}}\""
        );
        let ended = fixture.shell(&line).await.expect_exit(0);
        let codes: Vec<_> = ended.text().lines().map(str::to_owned).collect();
        assert_eq!(codes[0], codes[1], "{}", ended.err);
        assert!(
            !ended.err.contains("panic") && !ended.err.contains("eventexport: "),
            "{}",
            ended.err
        );
    }
    assert_eq!(
        (
            fixture.simulator.ledger().opened,
            fixture.simulator.ledger().open_now
        ),
        (2, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_download_into_a_pipe_is_reported() {
    let fixture = DownloadFixture::new(settings()).await;
    for preset in [
        "trailing-bytes",
        "wrong-crc",
        "end-early",
        "resume-lie",
        "resume-remainder",
    ] {
        for more in ["", "--decompress"] {
            fixture.set_faults(&[preset]);
            let line = format!(
                "\"$E\" download --start 2018-06-28 {more} | cat >/dev/null; exit \"${{PIPESTATUS[0]}}\""
            );
            let ended = fixture.shell(&line).await.expect_exit(1);
            assert!(
                ended.err.contains("the data on standard output is incomplete"),
                "{preset}: {}",
                ended.err
            );
        }
    }
    fixture.set_faults(&["resume-whole"]);
    let line = "set -o pipefail; \"$E\" download --start 2018-06-28 | cat";
    assert!(fixture.shell(line).await.expect_exit(0).out == fixture.served(date(2018, 6, 28)));
    assert_eq!(fixture.simulator.ledger().open_now, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_goes_to_stderr_if_events_go_to_stdout() {
    let fixture = DownloadFixture::new(settings()).await;
    let ended = fixture
        .download(&["--start", "2018-06-28", "--output", "json"])
        .await
        .expect_exit(0);
    assert!(ended.out == fixture.served(date(2018, 6, 28)));
    let summary: serde_json::Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(
        (&summary["events"], &summary["file"]),
        (&240.into(), &serde_json::Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_is_refused_on_a_terminal_and_the_bar_shows_the_remaining_time() {
    let mut slow = settings();
    slow.bandwidth = Some(30_000);
    let fixture = DownloadFixture::new(slow).await;
    let terminal = |line: &str| format!("TERM=xterm script -qec '{line}' /dev/null </dev/null");
    let ended = fixture
        .shell(&terminal("\"$E\" download --start 2018-06-28"))
        .await
        .expect_exit(2);
    assert!(
        ended.text().contains("standard output is a terminal"),
        "{}",
        ended.text()
    );
    assert_eq!(fixture.simulator.ledger().opened, 0);

    let ended = fixture
        .shell(&terminal("\"$E\" download --start 2018-06-28 -o events.json.gz"))
        .await
        .expect_exit(0);
    let drawn = ended.text();
    for words in ["KiB of 4", "/s, ", "s left", "240 events"] {
        assert!(drawn.contains(words), "{words} is not in: {drawn}");
    }
    let plain = fixture
        .shell(&terminal("\"$E\" download --start 2018-06-28 --decompress"))
        .await
        .expect_exit(0);
    assert!(plain.text().contains("{\"payload\":"), "{}", plain.text());
}
