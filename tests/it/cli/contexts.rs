//! Contexts, which replace logging in and targeting a space, and the errors of contexts and secrets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::fixture::{CliFixture, KEY, wait_output, write};

#[tokio::test]
async fn a_context_replaces_login_and_target() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    fixture.write("key", &format!("{KEY}\n"), 0o600);
    let made = fixture
        .run_without_env(&[
            "context",
            "set",
            "prod",
            "--endpoint",
            &fixture.url,
            "--space",
            "c1",
            "--api-key-file",
            "key",
        ])
        .await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.out.contains("It is now the current context."), "{made:?}");
    let permissions = fs::metadata(fixture.config()).unwrap().permissions().mode();
    assert_eq!(permissions & 0o777, 0o600);

    let listed = fixture
        .run_without_env(&["session", "list", "--output", "json"])
        .await;
    assert_eq!(listed.json()["space"], "c1");

    // A flag and a variable override it for one command.
    let other = fixture
        .run_without_env(&["session", "list", "--space", "c2", "--output", "json"])
        .await;
    assert_eq!(other.json()["space"], "c2");
    let mut by_variable = fixture.command(&["session", "list", "--output", "json"]);
    by_variable.env("EVENTEXPORT_SPACE", "c3");
    assert_eq!(wait_output(by_variable).await.json()["space"], "c3");

    // A new context is not the current one until it is used; manual edits of the file stay.
    let text = fs::read_to_string(fixture.config()).unwrap();
    write(&fixture.config(), &format!("# mine\n{text}"), 0o600);
    let account = ["context", "set", "account", "--account", "--space", "c9"];
    assert_eq!(fixture.run_without_env(&account).await.code, Some(0));
    assert_eq!(
        fixture.run_without_env(&["context", "use", "account"]).await.code,
        Some(0)
    );
    assert!(
        fs::read_to_string(fixture.config())
            .unwrap()
            .starts_with("# mine\n")
    );
    let listed = fixture
        .run_without_env(&["context", "list", "--output", "json"])
        .await
        .json();
    assert_eq!(listed["currentContext"], "account");
    assert_eq!(listed["contexts"][0]["account"], true);
    let named = fixture
        .run_without_env(&["session", "list", "--context", "prod", "--output", "json"])
        .await;
    assert_eq!(named.code, Some(0), "{named:?}");

    let shown = fixture.run_without_env(&["context", "show", "prod"]).await;
    assert!(shown.out.contains("| api-key-file | ~/key "), "{shown:?}");
    assert!(!shown.out.contains(KEY));
    assert_eq!(
        fixture
            .run_without_env(&["context", "delete", "account"])
            .await
            .code,
        Some(0)
    );
    fixture
        .run_without_env(&["context", "show"])
        .await
        .expect_failure(2, &["no current context", "context use"]);
}

#[tokio::test]
async fn a_config_file_readable_by_others_is_refused_with_a_remedy() {
    let fixture = CliFixture::start(&[]).await;
    write(&fixture.config(), "[contexts.prod]\nspace = \"c1\"\n", 0o644);
    let words = ["config.toml", "mode is 0644", "chmod 600"];
    fixture.run(&["session", "list"]).await.expect_failure(2, &words);
    fixture
        .run_without_env(&["context", "list"])
        .await
        .expect_failure(2, &words);
    fixture
        .run_without_env(&["context", "set", "prod", "--space", "c2"])
        .await
        .expect_failure(2, &words);
    write(&fixture.config(), "[contexts.prod]\nspace = \"c1\"\n", 0o600);
    assert_eq!(fixture.run(&["session", "list"]).await.code, Some(0));
}

#[tokio::test]
async fn connection_errors_name_the_setting_and_the_remedy() {
    let fixture = CliFixture::start(&[]).await;
    let list = ["session", "list"];
    fixture
        .run_without_env(&list)
        .await
        .expect_failure(2, &["no space", "--space", "EVENTEXPORT_SPACE", "context set"]);
    fixture
        .run_without_env(&["session", "list", "--space", "c1"])
        .await
        .expect_failure(2, &["no service", "--region", "--endpoint"]);
    let connected = ["session", "list", "--space", "c1", "--endpoint", &fixture.url];
    // There is no terminal, so there is no prompt.
    fixture.run_without_env(&connected).await.expect_failure(
        2,
        &["no credentials", "EVENTEXPORT_API_KEY", "_FILE", "--api-key-file"],
    );
    for (variable, value, words) in [
        (
            "EVENTEXPORT_API_KEY",
            "wrong",
            "correct the API key of EVENTEXPORT_API_KEY",
        ),
        ("EVENTEXPORT_TOKEN", "wrong", "token of EVENTEXPORT_TOKEN"),
    ] {
        let mut command = fixture.command(&connected);
        command.env(variable, value);
        wait_output(command).await.expect_failure(1, &[words]);
    }
    let file = fixture.path("none");
    let mut command = fixture.command(&connected);
    command.env("EVENTEXPORT_API_KEY_FILE", &file);
    wait_output(command)
        .await
        .expect_failure(2, &["EVENTEXPORT_API_KEY_FILE", "cannot read"]);

    fixture
        .run(&["session", "list", "--context", "prod"])
        .await
        .expect_failure(2, &["no context \"prod\"", "context set"]);
    write(&fixture.config(), "[contexts.test]\nspace = \"c1\"\n", 0o600);
    fixture
        .run(&["session", "list", "--context", "prod"])
        .await
        .expect_failure(2, &["no context \"prod\"", "it has test"]);
    let secret = "[contexts.test]\napi-key = \"hunter2\"\n";
    write(&fixture.config(), secret, 0o600);
    let refused = fixture.run(&list).await;
    refused.expect_failure(2, &["line 2", "api-key", "must not contain secrets"]);
    assert!(!refused.err.contains("hunter2"), "{refused:?}");

    fs::remove_file(fixture.config()).unwrap();
    fixture.set_faults(&["forbidden"]).await;
    fixture
        .run(&list)
        .await
        .expect_failure(1, &["denies access to space c1", "developer role"]);
    for (flag, value, words) in [
        ("--space", "my space", "--space: must be the ID"),
        ("--region", "mars", "--region: \"mars\""),
        (
            "--endpoint",
            "http://tracker.example.com",
            "--endpoint: must be a URL",
        ),
        (
            "--ca-file",
            "none.pem",
            "--ca-file: none.pem: cannot read the file",
        ),
    ] {
        let mut command = fixture.command(&["session", "list", flag, value]);
        command
            .env("EVENTEXPORT_API_KEY", KEY)
            .env("EVENTEXPORT_SPACE", "c1");
        if flag != "--region" && flag != "--endpoint" {
            command.env("EVENTEXPORT_ENDPOINT", &fixture.url);
        }
        wait_output(command).await.expect_failure(2, &[words]);
    }
}
