//! Contexts, which replace logging in and targeting a space, and the errors of contexts and secrets.

use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::fixture::{CliFixture, KEY, wait_output, write};
use crate::testkit::manifest::Manifest;

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
    let mut overridden = fixture.command(&["context", "show", "prod"]);
    overridden.env("EVENTEXPORT_SPACE", "c3");
    let overridden = wait_output(overridden).await;
    let row = "| space        | c1 (EVENTEXPORT_SPACE overrides it) ";
    assert!(overridden.out.contains(row), "{overridden:?}");
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
async fn a_config_file_that_others_may_change_is_refused_with_a_remedy() {
    let fixture = CliFixture::start(&[]).await;
    write(&fixture.config(), "[contexts.prod]\nspace = \"c1\"\n", 0o664);
    let words = ["config.toml", "mode is 0664", "chmod 600"];
    fixture.run(&["session", "list"]).await.expect_failure(2, &words);
    fixture
        .run_without_env(&["context", "list"])
        .await
        .expect_failure(2, &words);
    fixture
        .run_without_env(&["context", "set", "prod", "--space", "c2"])
        .await
        .expect_failure(2, &words);
    for mode in [0o600, 0o644] {
        write(&fixture.config(), "[contexts.prod]\nspace = \"c1\"\n", mode);
        assert_eq!(fixture.run(&["session", "list"]).await.code, Some(0));
    }
}

#[tokio::test]
async fn each_file_with_secrets_is_private_or_warned_about_by_name() {
    let fixture = CliFixture::start(&[]).await;
    let key = fixture.path("api.key");
    let context = format!(
        "current-context = \"prod\"\n[contexts.prod]\nspace = \"c1\"\nendpoint = {:?}\napi-key-file = {:?}\n",
        fixture.url,
        key.display().to_string()
    );
    write(&fixture.config(), &context, 0o644);
    let manifest = fixture.path("export.yaml");
    let text = Manifest::local("a", &fixture.url)
        .days("2018-06-01", "2018-06-01")
        .secret("tracker", json!({ "apiKey": "k" }))
        .text();
    let kubeconfig = fixture.path("kubeconfig");
    let cluster = r#"{"clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "current-context": "a",
        "users": [{"name": "a", "user": {"token": "t"}}]}"#;
    for (mode, warned) in [(0o600, false), (0o644, true), (0o640, true)] {
        write(&kubeconfig, cluster, mode);
        let arguments = ["get", "--kubeconfig", kubeconfig.to_str().unwrap()];
        let named = fixture.run_without_env(&arguments).await;
        let by_variable = {
            let mut command = fixture.command(&["get"]);
            command.env("KUBECONFIG", &kubeconfig);
            wait_output(command).await
        };
        for output in [named, by_variable] {
            let warning = format!("run `chmod 600 {}`", kubeconfig.display());
            assert_eq!(output.err.contains(&warning), warned, "{mode:o}: {output:?}");
        }
        write(&key, KEY, mode);
        write(&manifest, &text, mode);
        let by_variable = {
            let mut command =
                fixture.command(&["session", "list", "--space", "c1", "--endpoint", &fixture.url]);
            command.env("EVENTEXPORT_API_KEY_FILE", &key);
            wait_output(command).await
        };
        let by_context = fixture.run_without_env(&["session", "list", "--quiet"]).await;
        let plan = ["plan", "--offline", "-f", manifest.to_str().unwrap()];
        let by_manifest = fixture.run_without_env(&plan).await;
        for (file, output) in [(&key, by_variable), (&key, by_context), (&manifest, by_manifest)] {
            assert_eq!(output.code, Some(0), "{output:?}");
            let warning = format!("run `chmod 600 {}`", file.display());
            let lines = output.err.lines().filter(|line| line.contains(&warning)).count();
            assert_eq!(lines, usize::from(warned), "{mode:o}: {output:?}");
        }
    }
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
            "--endpoint: must be https://HOST",
        ),
        ("--ca-file", "none.pem", "--ca-file: cannot read none.pem"),
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

#[tokio::test]
async fn no_key_is_sent_to_a_uaa_of_another_domain() {
    let fixture = CliFixture::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::<Mutex<String>>::default();
    let log = received.clone();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            log.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&request[..length]));
            let body = r#"{"authorization_endpoint":"https://uaa.attacker.example/"}"#;
            let reply = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    }));
    let list = ["session", "list", "--space", "c1", "--endpoint", &url];
    let mut command = fixture.command(&list);
    command.env("EVENTEXPORT_API_KEY", KEY);
    wait_output(command).await.expect_failure(
        1,
        &[
            "uaa.attacker.example, which is of another domain",
            "--uaa-endpoint",
        ],
    );
    let received = received.lock().unwrap().clone();
    assert!(
        received.starts_with("GET /v2/info ") && !received.contains(KEY),
        "{received}"
    );

    for (arguments, words) in [
        (
            &["--allow-host", "https://uaa.example"][..],
            "--allow-host: invalid allow-list entry",
        ),
        (&["--allow-host", "*"], "--allow-host: invalid allow-list entry"),
    ] {
        let mut command = fixture.command(&[&list[..], arguments].concat());
        command.env("EVENTEXPORT_API_KEY", KEY);
        wait_output(command).await.expect_failure(2, &[words]);
    }
}

#[tokio::test]
async fn a_store_without_tls_is_refused_wherever_it_is_named() {
    let fixture = CliFixture::start(&[]).await;
    let plain = "http://store.example";
    let rule = "http:// is allowed only for 127.0.0.1, [::1] and localhost";
    let inspect = ["inspect", "s3://audit/t"];
    let flag = fixture.command(&[&inspect[..], &["--s3-endpoint", plain]].concat());
    let mut cases = vec![("--s3-endpoint", flag)];
    for (name, variable) in [
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_S3"),
        ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL"),
    ] {
        let mut command = fixture.command(&inspect);
        command.env(variable, plain);
        cases.push((name, command));
    }
    for (_, command) in &mut cases {
        command.env("AWS_ACCESS_KEY_ID", "AKID");
        command.env("AWS_SECRET_ACCESS_KEY", "k");
    }
    // The identity of the process is sent to STS.
    for variable in ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"] {
        let mut command =
            fixture.command(&[&inspect[..], &["--s3-endpoint", "https://127.0.0.1:1"]].concat());
        command.env(variable, plain);
        cases.push((variable, command));
    }
    // So is the endpoint of STS that a profile names.
    fixture.write("token", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwb2QifQ.x", 0o600);
    let role = format!(
        "role_arn = arn:aws:iam::111122223333:role/eventexport\nweb_identity_token_file = {}\n",
        fixture.path("token").display()
    );
    let profiles = format!(
        "[profile all]\nendpoint_url = {plain}\n{role}[profile sts]\nservices = plain\n{role}\
         [services plain]\nsts =\n  endpoint_url = {plain}\n"
    );
    fixture.write("aws", &profiles, 0o600);
    for profile in ["all", "sts"] {
        let mut command =
            fixture.command(&[&inspect[..], &["--s3-endpoint", "https://127.0.0.1:1"]].concat());
        command
            .env("AWS_CONFIG_FILE", fixture.path("aws"))
            .env("AWS_PROFILE", profile);
        cases.push(("endpoint_url of the AWS profile", command));
    }
    for (name, command) in cases {
        wait_output(command).await.expect_failure(2, &[rule, name]);
    }
    write(
        &fixture.config(),
        &format!("[contexts.prod]\ns3-endpoint = \"{plain}\"\n"),
        0o600,
    );
    fixture
        .run_without_env(&["context", "list"])
        .await
        .expect_failure(2, &[rule, "s3-endpoint"]);
    fs::remove_file(fixture.config()).unwrap();
    let manifest = fixture.path("export.yaml");
    let text = Manifest::local("a", "")
        .days("2018-06-01", "2018-06-01")
        .set(
            "source",
            json!({ "region": "ng", "credentialsSecretRef": { "name": "s" } }),
        )
        .set("destination.s3.endpoint", plain)
        .text();
    write(&manifest, &text, 0o644);
    fixture
        .run_without_env(&["plan", "-f", "export.yaml"])
        .await
        .expect_failure(2, &[rule, "spec.destination.s3.endpoint"]);
}

#[tokio::test]
async fn the_region_of_a_bucket_does_not_choose_the_sts() {
    let fixture = CliFixture::start(&[]).await;
    // A proxy that records the hosts it is asked for, and connects to none.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let log = asked.clone();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let host = request.split(' ').nth(1).unwrap_or_default().to_owned();
            log.lock().unwrap().push(host);
            let _ = stream
                .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    }));
    fixture.write("token", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwb2QifQ.x", 0o600);
    for (variables, expected) in [
        (
            &[("AWS_REGION", "eu-central-1")][..],
            "sts.eu-central-1.amazonaws.com:443",
        ),
        (&[], "sts.us-east-1.amazonaws.com:443"),
    ] {
        let inspect = ["inspect", "s3://audit/t", "--s3-region", "tenants-choice-1"];
        let mut command = fixture.command(&inspect);
        command
            .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/eventexport")
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", fixture.path("token"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HTTPS_PROXY", &proxy)
            .envs(variables.iter().copied());
        let output = wait_output(command).await;
        assert_eq!(output.code, Some(3), "{output:?}");
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        assert!(!asked.is_empty(), "{output:?}");
        assert!(asked.iter().all(|host| host == expected), "{asked:?}");
    }
}
