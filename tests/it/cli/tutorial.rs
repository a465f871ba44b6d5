//! The tutorial is a transcript: each command runs against a simulator, and its output is compared. Times are masked.
//! Session ids of the page are replaced by those of the run. `UPDATE_DOCS=1` rewrites the outputs.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use regex::Regex;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::fixture::CliFixture;

/// Path of the tutorial.
const PAGE: &str = "docs/tutorial.md";
/// Address of the service in the tutorial.
const PORT: &str = "127.0.0.1:8030";
/// Day of the service in the tutorial, which also stands for today.
const DAY: &str = "2018-07-02";
/// Ports to try for a simulator address as long as the tutorial's, so that tables keep their width.
const PORTS_TRIED: u16 = 200;

/// Step of the transcript: the command and its output.
struct TutorialStep {
    command: String,
    output: String,
}

#[tokio::test]
async fn every_tutorial_command_prints_the_documented_output() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap();
    let served = format!("eventexport simulate --listen {PORT} --today {DAY}");
    assert!(
        page.contains(&served),
        "the page begins another service than its test: {served}"
    );
    let fixture = CliFixture::start(&[]).await;
    let (_simulator, address) = simulator().await;
    std::fs::create_dir(fixture.path("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_eventexport"), fixture.path("bin/eventexport")).unwrap();

    let mut written = String::new();
    let mut ids: HashMap<String, String> = HashMap::new();
    for (text, steps) in blocks(&page) {
        written.push_str(&text);
        if steps.is_empty() {
            continue;
        }
        written.push_str("```console\n");
        for step in steps {
            let shown = followed(&step.command, &ids);
            let typed = shown.replace(PORT, &address);
            let (code, output) = bash(&fixture, &typed).await;
            assert_eq!(code, Some(0), "$ {}\n{output}", step.command);
            let output = masked(&output, &address);
            ids.extend(uuids(&step.output).into_iter().zip(uuids(&output)));
            let _ = write!(written, "$ {}\n{output}", shown.replace('\n', "\n> "));
        }
        written.push_str("```\n");
    }
    let (was, is) = (comparable(&page), comparable(&written));
    if was == is {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, written).unwrap();
        return;
    }
    let differs = was.lines().zip(is.lines()).find(|(one, other)| one != other);
    panic!("{PAGE} is not what its commands print: run `make generated`; first: {differs:#?}");
}

/// Starts a simulator with an address as long as the tutorial's.
async fn simulator() -> (Child, String) {
    for _ in 0..PORTS_TRIED {
        let port: u16 = 2000 + rand::random::<u16>() % 8000;
        let address = format!("127.0.0.1:{port}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_eventexport"))
            .args(["simulate", "--listen", &address, "--today", DAY])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        if lines.next_line().await.unwrap().is_some() {
            return (child, address);
        }
    }
    panic!("no port is free");
}

/// Runs a command and returns both outputs interleaved, as a terminal shows them.
async fn bash(fixture: &CliFixture, typed: &str) -> (Option<i32>, String) {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("exec 2>&1; set -o pipefail; {typed}")]);
    fixture.isolate(&mut command);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", fixture.path("bin").display()));
    let output = super::fixture::wait_output(command).await;
    (output.code, output.out)
}

/// Splits the page into texts and the transcripts that follow them; the last text has none.
fn blocks(page: &str) -> Vec<(String, Vec<TutorialStep>)> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((text, after)) = rest.split_once("```console\n") {
        let (block, after) = after.split_once("```\n").unwrap();
        blocks.push((text.to_owned(), steps(block)));
        rest = after;
    }
    blocks.push((rest.to_owned(), Vec::new()));
    blocks
}

fn steps(block: &str) -> Vec<TutorialStep> {
    let mut steps: Vec<TutorialStep> = Vec::new();
    let mut open = false;
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(TutorialStep {
                command: command.to_owned(),
                output: String::new(),
            });
            open = true;
        } else if let (true, Some(more)) = (open, line.strip_prefix("> ")) {
            let step = steps.last_mut().unwrap();
            step.command.push('\n');
            step.command.push_str(more);
        } else {
            open = false;
            let step = steps.last_mut().unwrap();
            step.output.push_str(line);
            step.output.push('\n');
        }
    }
    steps
}

/// Replaces the parts that differ between runs by those of the page.
fn masked(output: &str, address: &str) -> String {
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
        .to_string();
    let mut text = output.replace(address, PORT);
    let time = Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(?:\.\d+)?)?Z").unwrap();
    let at = |found: &regex::Captures<'_>| match found.get(1).map(|seconds| seconds.len()) {
        None => "2018-07-02T10:29Z",
        Some(3) => "2018-07-02T10:29:28Z",
        Some(_) => "2018-07-02T10:29:28.541092735Z",
    };
    text = time
        .replace_all(&text, |found: &regex::Captures<'_>| at(found).to_owned())
        .into_owned();
    text.replace(&today, DAY)
}

/// Removes ids, which depend on earlier requests, and sizes, checksums and widths, which depend on how this processor
/// compresses.
fn comparable(text: &str) -> String {
    let mut text = uuid().replace_all(text, "id").into_owned();
    for (pattern, plain) in [
        (r"[0-9a-f]{64}", "digest"),
        (r"[\d.,]+ (KiB|bytes)", "size"),
        (r"\| +\d+ \| ActivityTracker", "| size | ActivityTracker"),
        (r" +", " "),
        (r"-+", "-"),
    ] {
        text = Regex::new(pattern)
            .unwrap()
            .replace_all(&text, plain)
            .into_owned();
    }
    text
}

/// Replaces the page's ids by those of this run.
fn followed(text: &str, ids: &HashMap<String, String>) -> String {
    let replacement =
        |found: &regex::Captures<'_>| ids.get(&found[0]).cloned().unwrap_or_else(|| found[0].to_owned());
    uuid().replace_all(text, replacement).into_owned()
}

fn uuid() -> Regex {
    Regex::new(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap()
}

fn uuids(text: &str) -> Vec<String> {
    uuid()
        .find_iter(text)
        .map(|found| found.as_str().to_owned())
        .collect()
}
