//! Pipes events into other programs, through a real shell and from a simulator in a separate process.

use jiff::civil::date;

use super::fixture::{CommandOutput, DownloadFixture, Home, SimulatorProcess, home, settings};

/// Simulator in a process of its own, and a folder.
pub(super) struct PipeFixture {
    _service: SimulatorProcess,
    pub(super) home: Home,
}

impl PipeFixture {
    pub(super) async fn start(more: &[&str]) -> Self {
        let arguments = ["--today", "2018-07-02", "--weekends"];
        let service = SimulatorProcess::start(&[&arguments, more].concat()).await;
        Self {
            home: home(&service.url),
            _service: service,
        }
    }

    pub(super) async fn shell(&self, line: &str) -> CommandOutput {
        self.home.shell(line).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_days_stream_through_gunzip_into_jq() {
    let service = PipeFixture::start(&["--events-per-day", "500"]).await;
    let days = "--start 2018-06-20 --end 2018-06-26";
    let line = format!(
        "set -o pipefail; \"$E\" download {days} | gunzip | jq -r '.payload.eventTime[:10]' | sort | uniq -c"
    );
    let counted = service.shell(&line).await.expect_exit(0);
    let rows: Vec<Vec<String>> = counted
        .out
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
    assert_eq!(service.shell(&line).await.expect_exit(0).out.trim(), "3500");
    let open = service
        .shell("curl -s $EVENTEXPORT_ENDPOINT/simulator/ledger | jq .openNow")
        .await;
    assert_eq!(open.expect_exit(0).out.trim(), "0");
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
        let codes: Vec<_> = ended.out.lines().map(str::to_owned).collect();
        assert_eq!(codes[0], codes[1], "{}", ended.err);
        assert!(
            !ended.err.contains("panic") && !ended.err.contains("eventexport: "),
            "{}",
            ended.err
        );
    }
    // The pipe takes what fits into its buffer before `head` ends: a day or two, by the scheduler.
    let ledger = fixture.simulator.ledger();
    assert!(ledger.opened < 2 * 28 && ledger.open_now == 0, "{ledger:?}");
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
    assert!(fixture.shell(line).await.expect_exit(0).bytes == fixture.served(date(2018, 6, 28)));
    assert_eq!(fixture.simulator.ledger().open_now, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_goes_to_stderr_if_events_go_to_stdout() {
    let fixture = DownloadFixture::new(settings()).await;
    let ended = fixture
        .download(&["--start", "2018-06-28", "--output", "json"])
        .await
        .expect_exit(0);
    assert!(ended.bytes == fixture.served(date(2018, 6, 28)));
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
        ended.out.contains("standard output is a terminal"),
        "{}",
        ended.out
    );
    assert_eq!(fixture.simulator.ledger().opened, 0);

    let ended = fixture
        .shell(&terminal("\"$E\" download --start 2018-06-28 -o events.json.gz"))
        .await
        .expect_exit(0);
    let drawn = ended.out;
    for words in ["KiB of 4", "/s, ", "s left", "240 events"] {
        assert!(drawn.contains(words), "{words} is not in: {drawn}");
    }
    let plain = fixture
        .shell(&terminal("\"$E\" download --start 2018-06-28 --decompress"))
        .await
        .expect_exit(0);
    assert!(plain.out.contains("{\"payload\":"), "{}", plain.out);
}
