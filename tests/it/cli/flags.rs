//! `run` and `plan` without a manifest, and the manifest that the flags stand for.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::fixture::{CliFixture, KEY, wait_output};
use crate::testkit::process::program;

const DAYS: [&str; 4] = ["--start", "2018-06-25", "--end", "2018-06-27"];

/// Keys of a bucket that is not asked.
const BUCKET_KEYS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "AKID"),
    ("AWS_SECRET_ACCESS_KEY", "hunter2"),
];

#[tokio::test]
async fn flags_export_the_same_as_the_manifest_that_they_print() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    let archive = fixture.path("archive");
    let archive = archive.to_str().unwrap();
    let with = |command: &[&'static str], archive: &str| -> Vec<String> {
        let arguments = [command, &DAYS, &["--archive"]].concat();
        let arguments = arguments.into_iter().chain([archive]);
        arguments.map(str::to_owned).collect()
    };
    let run = async |arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        fixture.run(&arguments).await
    };
    let plan = run(with(&["plan", "--output", "json"], archive))
        .await
        .expect_exit(0)
        .json();
    assert_eq!(plan["exports"][0]["sessions"].as_array().unwrap().len(), 3);
    let stored = run(with(&["run"], archive)).await.expect_exit(0);
    assert!(
        stored.out.contains("3 of 3 days stored and proved"),
        "{}",
        stored.out
    );
    let directory = run(with(&["run", "--print-manifest"], archive)).await;
    directory.expect_failure(2, &["--print-manifest", "s3://BUCKET/PREFIX"]);

    let arguments = with(&["run", "--print-manifest"], "s3://audit");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut print = fixture.with_service(&arguments);
    print.envs(BUCKET_KEYS);
    let printed = wait_output(print).await.expect_exit(0).out;
    assert!(
        !printed.contains(KEY) && !printed.contains("hunter2"),
        "{printed}"
    );
    let file = fixture.write("audit.yaml", &printed, 0o600);
    let file = file.to_str().unwrap();
    let refused = fixture.run(&["run", "-f", file, "--archive", archive]).await;
    refused.expect_failure(2, &["apiKey", "spec.source.credentialsSecretRef"]);
    fixture.write(
        "audit.yaml",
        &printed.replace("replace with the apiKey", KEY),
        0o600,
    );
    let again = fixture
        .run(&["run", "-f", file, "--archive", archive])
        .await
        .expect_exit(0);
    assert!(again.out.contains("(0 stored now, 3 found)"), "{}", again.out);
    assert_eq!(fixture.open_now().await, 0);
}

#[tokio::test]
async fn the_simulator_needs_no_service_space_or_key() {
    let fixture = CliFixture::start(&[]).await;
    let archive = fixture.path("archive");
    let archive = archive.to_str().unwrap();
    let run = [&["run", "--simulate"][..], &DAYS, &["--archive", archive]].concat();
    let stored = wait_output(fixture.command(&run)).await.expect_exit(0);
    let text = [stored.out, stored.err].concat();
    assert!(text.contains("3 of 3 days stored and proved"), "{text}");
    let verify = fixture.command(&["verify", archive]);
    wait_output(verify).await.expect_exit(0);
    // The space of an environment counts as without the simulator.
    let mut other = fixture.command(&run);
    other
        .env("EVENTEXPORT_SPACE", "c2")
        .env("EVENTEXPORT_REGION", "us-south");
    wait_output(other).await.expect_exit(0);
    assert!(fixture.path("archive").join("space=c2").is_dir());
}

#[tokio::test]
async fn errors_of_a_run_without_a_manifest_name_its_flags() {
    let fixture = CliFixture::start(&[]).await;
    let archive = fixture.path("archive");
    let archive = archive.to_str().unwrap();
    for (more, code, named) in [
        (&["run"][..], 2, "--start <DATE>"),
        (&["run", "-f", "a.yaml", "--start", "2018-06-25"], 2, "--start"),
        (&["run", "-f", "a.yaml", "--space", "c2"], 2, "--space"),
        (&["run", "--start", "2018-06-25"], 2, "--archive"),
        (
            &[
                "plan",
                "--start",
                "2018-06-25",
                "--end",
                "2018-06-24",
                "--archive",
                archive,
            ],
            2,
            "--end",
        ),
        (
            &["run", "--start", "2018-06-25", "--archive", "s3://Audit/x"],
            2,
            "--archive: the bucket",
        ),
        (
            &["run", "--start", "2018-06-25", "--archive", "s3://audit/_x"],
            2,
            "--archive: the prefix",
        ),
        (
            &[
                "run",
                "--start",
                "2018-06-25",
                "--space",
                "my space",
                "--archive",
                archive,
            ],
            2,
            "--space",
        ),
    ] {
        fixture.run(more).await.expect_failure(code, &[named]);
    }
    let mut wrong_key = fixture.with_service(&[&["run"][..], &DAYS, &["--archive", archive]].concat());
    wrong_key.env("EVENTEXPORT_API_KEY", "another-key");
    let wrong_key = wait_output(wrong_key).await.expect_exit(1);
    assert!(wrong_key.out.contains("EVENTEXPORT_API_KEY"), "{}", wrong_key.out);
}

#[tokio::test]
async fn the_api_key_is_entered_on_the_terminal_and_not_shown() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    let line = format!("{} run {} --archive archive", program().display(), DAYS.join(" "));
    let mut terminal = Command::new("script");
    fixture.isolate(&mut terminal);
    terminal
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env("EVENTEXPORT_SPACE", "c1")
        .env("EVENTEXPORT_ENDPOINT", &fixture.url)
        .stdin(Stdio::piped());
    let mut child = terminal.spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    let dialog = async {
        while !String::from_utf8_lossy(&shown).contains("API key: ") {
            assert!(output.read_buf(&mut shown).await.unwrap() > 0, "no prompt");
        }
        // The program turns the echo off after it has shown the prompt.
        tokio::time::sleep(Duration::from_millis(500)).await;
        input.write_all(format!("{KEY}\n").as_bytes()).await.unwrap();
        while output.read_buf(&mut shown).await.unwrap() > 0 {}
    };
    tokio::time::timeout(Duration::from_mins(2), dialog)
        .await
        .unwrap();
    let shown = String::from_utf8_lossy(&shown);
    assert!(child.wait().await.unwrap().success(), "{shown}");
    assert!(
        shown.contains("3 of 3 days stored and proved") && !shown.contains(KEY),
        "{shown}"
    );
}
