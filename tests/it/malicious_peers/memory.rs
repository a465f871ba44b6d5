//! Peak memory (`VmHWM`) of the real program while a service sends decompression bombs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use eventexport::simulator::{DEFAULT_API_KEY, Simulator};
use jiff::civil::date;
use serde_json::Value;

use super::assert_displayable;
use super::peer::{MaliciousPeer, Payload, PeerAction};
use crate::testkit::command::Home;
use crate::testkit::manifest::{Manifest, SPACE};
use crate::testkit::service::service_on;

const MIB: u64 = 1024 * 1024;
/// Inflated bytes of one gzip member.
const MEMBER_BYTES: u64 = 16 * MIB;
/// Bytes of an event and its line.
const LINE_BYTES: u64 = 256;
/// Maximum memory of the program for any input: parts, a gzip window, code. A buffered bomb would be many times
/// larger.
const MEMORY_BYTES: u64 = 224 * MIB;
/// Generous, because the machine may be busy.
const TIMEOUT: Duration = Duration::from_mins(20);

/// Exit status and peak memory of a program.
struct MeasuredRun {
    output: Output,
    peak: u64,
    took: Duration,
}

struct MemoryFixture {
    simulator: Simulator,
    home: Home,
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn member(pattern: &[u8]) -> Vec<u8> {
    let times = usize::try_from(MEMBER_BYTES).unwrap() / pattern.len();
    gzip(&pattern.repeat(times))
}

/// Returns a body: a beginning, a repeated member, and an end.
fn body(begin: &[u8], member: Vec<u8>, times: u64, end: &[u8]) -> Payload {
    let length = begin.len() as u64 + member.len() as u64 * times + end.len() as u64;
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    Payload::raw([head.as_bytes(), begin].concat())
        .repeat(member, times)
        .end_with(end)
}

impl MemoryFixture {
    async fn new() -> Self {
        let mut settings = service_on(date(2018, 7, 2));
        settings.volume.quiet.clear();
        Self {
            simulator: Simulator::start(settings).await.unwrap(),
            home: Home::new()
                .env("EVENTEXPORT_SPACE", SPACE)
                .env("EVENTEXPORT_API_KEY", DEFAULT_API_KEY),
        }
    }

    /// Starts a peer that sends the payload to requests that start with `endpoint` and forwards others to the
    /// simulator.
    async fn peer(&self, endpoint: &'static str, payload: Payload) -> MaliciousPeer {
        let upstream = self.simulator.url().socket_addrs(|| None).unwrap()[0];
        MaliciousPeer::start(Some(upstream), move |line| {
            if line.starts_with(endpoint) {
                PeerAction::Send(payload.clone())
            } else {
                PeerAction::Forward
            }
        })
        .await
    }

    async fn program(&self, peer: &MaliciousPeer, arguments: &[&str]) -> MeasuredRun {
        let mut command = self.home.command(arguments);
        command.env("EVENTEXPORT_ENDPOINT", peer.url());
        let begun = Instant::now();
        let child = command.spawn().unwrap();
        let id = child.id().unwrap();
        let mut ended = std::pin::pin!(tokio::time::timeout(TIMEOUT, child.wait_with_output()));
        let mut peak = 0;
        let output = loop {
            tokio::select! {
                output = &mut ended => break output.expect("it ends in time").unwrap(),
                () = tokio::time::sleep(Duration::from_millis(20)) => peak = peak.max(peak_memory(id)),
            }
        };
        MeasuredRun {
            output,
            peak,
            took: begun.elapsed(),
        }
    }

    /// Runs `eventexport run` for one day with a manifest that names the peer.
    async fn run(&self, peer: &MaliciousPeer) -> MeasuredRun {
        Manifest::new("bomb", &peer.url())
            .days("2018-06-28", "2018-06-28")
            .uaa()
            .set("destination.s3", serde_json::json!({ "bucket": "audit" }))
            .write(self.home.path("m.yaml"));
        self.program(peer, &["run", "-f", "m.yaml", "--archive", "archive"])
            .await
    }

    fn receipt(&self) -> Option<Value> {
        let path = self.root().join("_journal/2018-06-28.receipt.json");
        Some(serde_json::from_slice(&fs::read(path).ok()?).unwrap())
    }

    fn root(&self) -> PathBuf {
        self.home.path(&format!("archive/space={SPACE}/scope=space"))
    }
}

/// Returns the peak memory of a process in bytes; 0 after its end.
fn peak_memory(id: u32) -> u64 {
    let status =
        fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// Payloads by name, with their number of events; `None` if the body has no events.
fn bombs(bytes: u64) -> Vec<(&'static str, Payload, Option<u64>)> {
    let times = bytes / MEMBER_BYTES;
    let filled = usize::try_from(LINE_BYTES).unwrap() - r#"{"event":""}"#.len() - 1;
    let line = format!("{{\"event\":\"{}\"}}\n", "x".repeat(filled)).into_bytes();
    let empties = 20_000;
    vec![
        (
            "lines",
            body(&[], member(&line), times, &[]),
            Some(bytes / LINE_BYTES),
        ),
        (
            "one line",
            body(
                &gzip(b"{\"event\":\""),
                member(&[b'x'; 1024]),
                times,
                &gzip(b"\"}\n"),
            ),
            Some(1),
        ),
        (
            "blank lines",
            body(&[], member(&[b'\n'; 1024]), times, &gzip(b"{}\n")),
            Some(1),
        ),
        (
            "empty members",
            body(&gzip(b"{}\n"), gzip(b"").repeat(32), bytes / MIB * 16, &[]),
            Some(1),
        ),
        (
            "a name in the header",
            body(
                b"\x1f\x8b\x08\x08\0\0\0\0\0\xff",
                vec![b'n'; 64 * 1024],
                times * 2,
                &[],
            ),
            None,
        ),
        (
            "rubbish behind the end",
            body(&gzip(b"{}\n"), vec![0; empties], times, &[]),
            None,
        ),
    ]
}

/// Sends each payload to `run` and `download`: it is classified correctly in bounded memory, and no session stays
/// open.
async fn check_bombs(bytes: u64) {
    for (name, payload, events) in bombs(bytes) {
        let sent = payload.piece.len() as u64 * payload.times;
        let fixture = MemoryFixture::new().await;
        let peer = fixture.peer("GET /v3/events/download ", payload).await;
        let run = fixture.run(&peer).await;
        let stderr = String::from_utf8_lossy(&run.output.stderr).into_owned();
        println!(
            "run, {name}: {} MiB of {} KiB sent, {:.1} s, {} MiB of memory at most",
            bytes / MIB,
            sent >> 10,
            run.took.as_secs_f64(),
            run.peak / MIB
        );
        let receipt = fixture.receipt();
        let counted = receipt
            .as_ref()
            .map(|receipt| receipt["events"].as_u64().unwrap());
        // Fewer events than the service reports are not accepted for the day.
        assert_eq!(
            counted,
            events.filter(|events| *events >= 240),
            "{name}: {stderr}"
        );
        assert!(
            run.peak > 0 && run.peak <= MEMORY_BYTES,
            "{name}: {} MiB",
            run.peak / MIB
        );

        let download = fixture
            .program(&peer, &["download", "--start", "2018-06-28", "-o", "day.json.gz"])
            .await;
        println!(
            "download, {name}: {:.1} s, {} MiB of memory at most",
            download.took.as_secs_f64(),
            download.peak / MIB
        );
        assert!(
            download.peak > 0 && download.peak <= MEMORY_BYTES,
            "{name}: {} MiB",
            download.peak / MIB
        );
        assert_eq!(fixture.simulator.ledger().open_now, 0, "{name}: a session stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decompression_bombs_of_256_mib_use_bounded_memory() {
    check_bombs(256 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make decompression-bombs"]
async fn decompression_bombs_of_ten_gib_use_bounded_memory() {
    check_bombs(10 * 1024 * MIB).await;
}

/// Parsed JSON is larger than its text: that growth is bounded for a list of two MiB.
#[tokio::test(flavor = "multi_thread")]
async fn parsing_large_lists_uses_bounded_memory() {
    let full = 2 * 1024 * 1024 - 16;
    for (name, payload) in [
        (
            "empty objects",
            Payload::reply("200 OK", format!("[{}{{}}]", "{},".repeat(full / 3))),
        ),
        (
            "numbers",
            Payload::reply(
                "200 OK",
                format!("{{\"x\":1,\"sessions\":[{}0]}}", "0,".repeat(full / 2 - 20)),
            ),
        ),
        (
            "strings",
            Payload::reply("200 OK", format!("[{}\"\"]", "\"\",".repeat(full / 3))),
        ),
        (
            "without end",
            Payload::raw("HTTP/1.1 200 OK\r\n\r\n[").repeat("{},".repeat(10_000), u64::MAX),
        ),
    ] {
        let fixture = MemoryFixture::new().await;
        let peer = fixture.peer("GET /v3/sessions ", payload).await;
        let list = fixture.program(&peer, &["session", "list"]).await;
        let stderr = String::from_utf8_lossy(&list.output.stderr).into_owned();
        println!(
            "{name}: {:.1} s, {} MiB at most: {stderr}",
            list.took.as_secs_f64(),
            list.peak / MIB
        );
        assert_eq!(list.output.status.code(), Some(1), "{name}: {stderr}");
        assert_displayable(name, stderr.trim_end(), "127.0.0.1", &[DEFAULT_API_KEY]);
        assert!(
            list.peak > 0 && list.peak <= MEMORY_BYTES,
            "{name}: {} MiB",
            list.peak / MIB
        );
    }
}
