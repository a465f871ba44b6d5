//! The standard proxy variables. They apply to a process, so the client runs in a child process of the test.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::Command;

use super::*;

/// Variable with the URL of the tracker, instead of one that does not exist.
const ENDPOINT: &str = "EVENTEXPORT_TEST_ENDPOINT";

/// Runs [`request_with_the_environment`] in a process with these variables.
async fn child(variables: &[(&str, &str)]) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "tracker::tests::proxy::request_with_the_environment",
        ])
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.await.unwrap().success());
}

#[tokio::test]
async fn the_proxy_variables_are_honored() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // A name that resolves to this machine: denied for a target, allowed for the proxy of the operator.
    let proxy = format!("http://localhost:{}", listener.local_addr().unwrap().port());
    let seen = Arc::new(Mutex::new(String::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            log.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&head[..length]));
        }
    });
    child(&[("HTTPS_PROXY", &proxy), ("NO_PROXY", "tracker.invalid")]).await;
    assert_eq!(*seen.lock().unwrap(), "");
    child(&[("HTTPS_PROXY", &proxy)]).await;
    {
        let mut seen = seen.lock().unwrap();
        assert!(seen.starts_with("CONNECT tracker.invalid:443 "), "{seen}");
        assert!(!seen.contains("ready-token"), "{seen}");
        seen.clear();
    }
    // A request in the clear is one to this machine, and no proxy gets it.
    child(&[
        ("HTTPS_PROXY", &proxy),
        ("HTTP_PROXY", &proxy),
        (ENDPOINT, "http://127.0.0.1:1"),
    ])
    .await;
    assert_eq!(*seen.lock().unwrap(), "");
}

#[tokio::test]
#[ignore = "run by the test above, with proxy variables"]
async fn request_with_the_environment() {
    let uaa: url::Url = "https://tracker.invalid".parse().unwrap();
    let endpoint = std::env::var(ENDPOINT).map_or(uaa.clone(), |url| url.parse().unwrap());
    let config = TrackerConfig {
        endpoint,
        uaa: UaaSource::Endpoint(uaa),
        credentials: Credentials::Token("ready-token".into()),
        ca_pem: None,
        traffic: crate::egress::Traffic::default(),
        hosts: HostPolicy::allow(&["tracker.invalid".to_owned(), "127.0.0.1".to_owned()]).unwrap(),
        timeouts: Timeouts::default(),
        retry: RetryConfig {
            attempts: 1,
            ..RetryConfig::default()
        },
    };
    let error = Tracker::new(config, &TokenCache::new())
        .unwrap()
        .list_sessions(SPACE)
        .await
        .unwrap_err();
    assert!(
        matches!(error, TrackerError::Network { sent: false, .. }),
        "{error:?}"
    );
}
