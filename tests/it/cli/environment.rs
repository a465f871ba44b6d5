//! Proxy variables, AWS profiles, and usage errors of commands.

use std::process::{Output, Stdio};

use futures::future::join_all;
use tokio::process::Command;

use crate::storage::quirks;

/// Runs `eventexport` with these variables only.
async fn run(arguments: &[&str], variables: &[(&str, &str)], stdout: Stdio) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventexport"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped());
    command.output().await.unwrap()
}

const KEYS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "AKID"),
    ("AWS_SECRET_ACCESS_KEY", "the-secret"),
];

/// Lists a bucket of the fake store; returns the exit code and the messages.
async fn inspect(variables: &[(&str, &str)]) -> (i32, String) {
    let fake = quirks::start(&[]).await;
    inspect_at(&fake.endpoint(), variables).await
}

async fn inspect_at(endpoint: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let arguments = ["inspect", "s3://audit", "--s3-endpoint", endpoint];
    let output = run(&arguments, variables, Stdio::piped()).await;
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[tokio::test]
async fn proxy_variables_follow_curl_and_are_named() {
    let dead = "http://user:hunter2@127.0.0.1:1";
    let with = |more: &[(&'static str, &'static str)]| {
        let proxies = [("HTTPS_PROXY", dead), ("HTTP_PROXY", dead), ("ALL_PROXY", dead)];
        [&KEYS[..], &proxies, more].concat()
    };
    // An address that is not exempt as this machine, and that leads nowhere else.
    let address = "https://0.0.0.0:1";
    let cases = [
        (address, "*", true),
        (address, "0.0.0.0", true),
        (address, "0.0.0.0/8", true),
        (address, "a.example, 0.0.0.0", true),
        (address, "a.example", false),
        (address, "", false),
        ("https://store.invalid", "store.invalid", true),
        ("https://store.invalid", ".INVALID", true),
        ("https://store.invalid", "invalid", true),
        ("https://store.invalid", "re.invalid", false),
    ];
    // All at once: each waits for its retries.
    let checks = cases.map(async |(endpoint, no_proxy, exempt)| {
        let (code, text) = inspect_at(endpoint, &with(&[("NO_PROXY", no_proxy)])).await;
        assert_eq!(code, 3, "{text}");
        let proxied = text.contains("through proxy 127.0.0.1:1");
        assert_eq!(proxied, !exempt, "{endpoint} {no_proxy}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    });
    join_all(checks).await;
    // Requests to this machine may be in the clear, and no proxy gets them.
    let (_, direct) = inspect(&KEYS).await;
    let (_, text) = inspect(&with(&[])).await;
    assert_eq!(text, direct);
    let invalid = [&KEYS[..], &[("HTTPS_PROXY", "htp//user:hunter2@x")]].concat();
    let (code, text) = inspect_at("https://store.invalid", &invalid).await;
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("HTTPS_PROXY is not the URL of a proxy") && !text.contains("hunter2"),
        "{text}"
    );
}

#[tokio::test]
async fn aws_profiles_work_or_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let keys = r#"{"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "the-secret"}"#;
    let script = folder.path().join("keys.json");
    std::fs::write(&script, keys).unwrap();
    std::fs::write(
        &config,
        format!(
            "[profile process]\ncredential_process = /bin/cat {}\n[profile sso]\nsso_start_url = https://a.example\n\
             sso_region = us-east-1\nsso_account_id = 123456789012\nsso_role_name = reader\n",
            script.display()
        ),
    )
    .unwrap();
    let path = config.to_str().unwrap();
    let of = |profile: &'static str| [("AWS_CONFIG_FILE", path), ("AWS_PROFILE", profile)];
    let (_, by_keys) = inspect(&KEYS).await;
    let (_, text) = inspect(&of("process")).await;
    assert_eq!(text, by_keys);
    let (code, text) = inspect(&of("sso")).await;
    assert_ne!(code, 0);
    assert!(text.contains("aws configure export-credentials"), "{text}");
}

#[tokio::test]
async fn a_usage_error_demands_no_exclusive_arguments() {
    for (arguments, words, not) in [
        (&["download"][..], "--start", "required"),
        (&["download", "--end", "2018-06-30"], "--start <DATE>", "<ID>\n"),
        (
            &["download", "--start", "30.06.2018"],
            "must be a calendar date from 1970-01-01 to 2099-12-31",
            "jiff",
        ),
        (&["session", "delete"], "--all-mine-older-than", "required"),
        (
            &["session", "delete", "--dry-run"],
            "--all-mine-older-than <DURATION>",
            "<ID>...\n",
        ),
    ] {
        let output = run(arguments, &[], Stdio::null()).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words), "{text}");
        assert!(!text.contains(not), "{text}");
    }
}

#[tokio::test]
async fn every_command_checks_days_by_the_same_rules() {
    let source = ["--endpoint", "http://127.0.0.1:9", "--space", "s"];
    let archive = ["--archive", "nowhere"];
    for (command, place) in [
        (&["run"][..], &[&source[..], &archive].concat()[..]),
        (&["plan"], &[&source[..], &archive].concat()),
        (&["status"], &source),
        (&["session", "create"], &source),
        (&["download"], &source),
        (&["verify"], &archive),
        (&["report"], &archive),
        (&["cat"], &archive),
        (&["accept-gap"], &["export", "--reason", "lost"]),
    ] {
        for (days, words) in [
            (
                ["--start", "2018-06-25", "--end", "2018-06-20"],
                "--end: 2018-06-20 is before --start 2018-06-25: swap the two",
            ),
            (
                ["--start", "2018-06-25", "--end", "2100-01-01"],
                "must be a calendar date from 1970-01-01 to 2099-12-31, as YYYY-MM-DD",
            ),
        ] {
            let arguments = [command, place, &days].concat();
            let output = run(&arguments, &[("EVENTEXPORT_API_KEY", "key")], Stdio::null()).await;
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
            assert!(text.contains(words), "{arguments:?}: {text}");
        }
    }
}
