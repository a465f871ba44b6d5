//! Contexts in the place of logging in and targeting a space, and each way in which they and secrets can be wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::scene::{KEY, Scene, ended, write};

#[tokio::test]
async fn a_context_stands_in_the_place_of_login_and_target() {
    let scene = Scene::start(&["--today", "2018-07-02"]).await;
    scene.write("key", &format!("{KEY}\n"), 0o600);
    let made = scene
        .bare(&[
            "context",
            "set",
            "prod",
            "--endpoint",
            &scene.url,
            "--space",
            "c1",
            "--api-key-file",
            "key",
        ])
        .await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.out.contains("It is the current one."), "{made:?}");
    let permissions = fs::metadata(scene.config()).unwrap().permissions().mode();
    assert_eq!(permissions & 0o777, 0o600);

    let listed = scene.bare(&["session", "list", "--output", "json"]).await;
    assert_eq!(listed.json()["space"], "c1");

    // A flag and a variable win over it, for one command.
    let other = scene
        .bare(&["session", "list", "--space", "c2", "--output", "json"])
        .await;
    assert_eq!(other.json()["space"], "c2");
    let mut by_variable = scene.command(&["session", "list", "--output", "json"]);
    by_variable.env("EVENTEXPORT_SPACE", "c3");
    assert_eq!(ended(by_variable).await.json()["space"], "c3");

    // A second one is not the current one until it is used; what a person wrote into the file stays.
    let text = fs::read_to_string(scene.config()).unwrap();
    write(&scene.config(), &format!("# mine\n{text}"), 0o600);
    let account = ["context", "set", "account", "--account", "--space", "c9"];
    assert_eq!(scene.bare(&account).await.code, Some(0));
    assert_eq!(scene.bare(&["context", "use", "account"]).await.code, Some(0));
    assert!(
        fs::read_to_string(scene.config())
            .unwrap()
            .starts_with("# mine\n")
    );
    let listed = scene.bare(&["context", "list", "--output", "json"]).await.json();
    assert_eq!(listed["currentContext"], "account");
    assert_eq!(listed["contexts"][0]["account"], true);
    let named = scene
        .bare(&["session", "list", "--context", "prod", "--output", "json"])
        .await;
    assert_eq!(named.code, Some(0), "{named:?}");

    let shown = scene.bare(&["context", "show", "prod"]).await;
    assert!(shown.out.contains("| api-key-file | ~/key "), "{shown:?}");
    assert!(!shown.out.contains(KEY));
    assert_eq!(scene.bare(&["context", "delete", "account"]).await.code, Some(0));
    scene
        .bare(&["context", "show"])
        .await
        .failed_with(2, &["no context is the current one", "context use"]);
}

#[tokio::test]
async fn a_config_file_that_others_may_read_is_refused_with_the_way_to_mend_it() {
    let scene = Scene::start(&[]).await;
    write(&scene.config(), "[contexts.prod]\nspace = \"c1\"\n", 0o644);
    let words = ["config.toml", "mode is 0644", "chmod 600"];
    scene.run(&["session", "list"]).await.failed_with(2, &words);
    scene.bare(&["context", "list"]).await.failed_with(2, &words);
    scene
        .bare(&["context", "set", "prod", "--space", "c2"])
        .await
        .failed_with(2, &words);
    write(&scene.config(), "[contexts.prod]\nspace = \"c1\"\n", 0o600);
    assert_eq!(scene.run(&["session", "list"]).await.code, Some(0));
}

#[tokio::test]
async fn what_is_missing_or_wrong_in_the_connection_is_named_with_what_to_do() {
    let scene = Scene::start(&[]).await;
    let list = ["session", "list"];
    scene
        .bare(&list)
        .await
        .failed_with(2, &["no space", "--space", "EVENTEXPORT_SPACE", "context set"]);
    scene
        .bare(&["session", "list", "--space", "c1"])
        .await
        .failed_with(2, &["no service", "--region", "--endpoint"]);
    let connected = ["session", "list", "--space", "c1", "--endpoint", &scene.url];
    // Nobody can be asked here, so there is no prompt.
    scene.bare(&connected).await.failed_with(
        2,
        &["no credentials", "EVENTEXPORT_API_KEY", "_FILE", "--api-key-file"],
    );
    for (variable, value, words) in [
        (
            "EVENTEXPORT_API_KEY",
            "wrong",
            "refuses the API key of EVENTEXPORT_API_KEY",
        ),
        ("EVENTEXPORT_TOKEN", "wrong", "token of EVENTEXPORT_TOKEN"),
    ] {
        let mut command = scene.command(&connected);
        command.env(variable, value);
        ended(command).await.failed_with(1, &[words]);
    }
    let file = scene.path("none");
    let mut command = scene.command(&connected);
    command.env("EVENTEXPORT_API_KEY_FILE", &file);
    ended(command)
        .await
        .failed_with(2, &["EVENTEXPORT_API_KEY_FILE", "cannot be read"]);

    scene
        .run(&["session", "list", "--context", "prod"])
        .await
        .failed_with(2, &["no context \"prod\"", "context set"]);
    write(&scene.config(), "[contexts.test]\nspace = \"c1\"\n", 0o600);
    scene
        .run(&["session", "list", "--context", "prod"])
        .await
        .failed_with(2, &["no context \"prod\"", "it has test"]);
    let secret = "[contexts.test]\napi-key = \"hunter2\"\n";
    write(&scene.config(), secret, 0o600);
    let refused = scene.run(&list).await;
    refused.failed_with(2, &["line 2", "api-key", "secrets do not belong in it"]);
    assert!(!refused.err.contains("hunter2"), "{refused:?}");

    fs::remove_file(scene.config()).unwrap();
    scene.faults(&["forbidden"]).await;
    scene
        .run(&list)
        .await
        .failed_with(1, &["forbids this in space c1", "developer role"]);
    for (flag, value, words) in [
        ("--space", "my space", "--space: must be the id"),
        ("--region", "mars", "--region: \"mars\""),
        (
            "--endpoint",
            "http://tracker.example.com",
            "--endpoint: must be an address",
        ),
        ("--ca-file", "none.pem", "--ca-file: none.pem cannot be read"),
    ] {
        let mut command = scene.command(&["session", "list", flag, value]);
        command
            .env("EVENTEXPORT_API_KEY", KEY)
            .env("EVENTEXPORT_SPACE", "c1");
        if flag != "--region" && flag != "--endpoint" {
            command.env("EVENTEXPORT_ENDPOINT", &scene.url);
        }
        ended(command).await.failed_with(2, &[words]);
    }
}
