//! A service, a UAA and a store that echo all credentials in bodies and headers, together with terminal escapes and
//! line breaks, and that redirect to hosts which must not get a token.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventexport::simulator::DEFAULT_API_KEY;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::bed::{Cluster, Gateway, http_client};
use crate::malicious_peers::certificate::ForgingPeer;
use crate::operator::traces::collector;
use crate::operator::{apply, condition, eventually, get, kubectl};
use crate::testkit::environment::simulator;
use crate::testkit::folder;
use crate::testkit::manifest::{self, Manifest, SPACE};
use crate::testkit::operator::OperatorCommand;

/// Part of each secret of this test, and of nothing else.
const SECRET_MARKER: &str = "hush";

/// Terminal escapes and a line break.
const INJECTED: &str = "\u{1b}[2J\u{9b}31m\r\nforged line \u{202e}";

/// Maximum length of a text in the status: our sentence, an excerpt of a reply, and the remedy.
const MAX_STATUS_CHARS: usize = 1500;

/// Answers a request for the peer that its first path segment names.
async fn answer(mut stream: TcpStream, seen: &Mutex<String>, elsewhere: &str) -> Option<()> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            });
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    seen.lock().unwrap().extend([head.as_str(), "\n", &body, "\n"]);
    let mut first = head.lines().next()?.split(' ');
    let (method, path) = (first.next()?, first.next()?);
    let mut folders = path.trim_start_matches('/').splitn(2, '/');
    let (mode, rest) = (folders.next()?, folders.next().unwrap_or_default());
    let echo = format!("{} {}", head.replace("\r\n", " "), form(&body));
    // Without characters that a header cannot hold.
    let header: String = echo.chars().filter(|c| !c.is_control()).collect();
    let token = format!("{SECRET_MARKER}-token-of-{mode}");
    let reply = |status: &str, more: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nX-Echo: {header}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n{body}"
        )
    };
    let granted = json!({ "access_token": token, "refresh_token": format!("{SECRET_MARKER}-refresh"), "expires_in": 3600 });
    let session = json!({
        "id": "s-1", "space": SPACE, "username": format!("ann{INJECTED}"),
        "date-range": { "Start": "2018-06-04", "End": "2018-06-04" },
    });
    let text = match (mode, method, rest) {
        ("uaa", "POST", "oauth/token") => {
            let words = json!({ "error_description": format!("{echo}{INJECTED}") });
            reply("401 No", "", &words.to_string())
        }
        (_, "POST", "oauth/token") => reply("200 Yes", "", &granted.to_string()),
        ("html", ..) => reply("400 No", "", &format!("<h1>{echo}</h1>{INJECTED}{echo}")),
        ("json", ..) => {
            let words = json!({ "error": { "message": format!("{INJECTED}{echo}") } });
            reply("403 No", "", &words.to_string())
        }
        ("moved", ..) => {
            let status = ["301", "302", "303", "307", "308"][path.len() % 5];
            reply(
                &format!("{status} Elsewhere"),
                &format!("Location: {elsewhere}/{token}?token={token}\r\n"),
                &echo,
            )
        }
        ("body", "GET", "v3/events") => reply("404 No", "", ""),
        ("body", "GET", "v3/sessions") => reply("200 Yes", "", "[]"),
        ("body", "GET", "v3/events/download") => reply(
            "200 Yes",
            &format!("Content-Type: text/{token}\u{9b}2J\r\n"),
            &format!("{INJECTED}{echo}"),
        ),
        ("body", "DELETE", _) => reply("200 Yes", "", "{}"),
        ("body", ..) => reply("200 Yes", "", &session.to_string()),
        ("s3moved", ..) => reply(
            "307 Elsewhere",
            &format!(
                "Location: {elsewhere}/\r\nx-amz-bucket-region: {INJECTED_REGION}{SECRET_MARKER}-session-token\r\n"
            ),
            "",
        ),
        // The code is also text from the store.
        _ => {
            let xml = |text: &str| {
                text.replace('&', "&amp;")
                    .replace('<', "&lt;")
                    .replace('"', "&quot;")
            };
            let plain: String = INJECTED.chars().filter(|c| *c != '\u{1b}').collect();
            let echo = xml(&echo);
            reply(
                "418 No",
                "Content-Type: application/xml\r\n",
                &format!("<Error><Code>{echo}{plain}</Code><Message>{plain}{echo}</Message></Error>"),
            )
        }
    };
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

const INJECTED_REGION: &str = "\u{9b}2Jeu ";

/// Returns a form as text, followed by its decoded values.
fn form(body: &str) -> String {
    let pairs = url::form_urlencoded::parse(body.as_bytes());
    let pairs: Vec<String> = pairs.map(|(_, value)| value.into_owned()).collect();
    format!("{body} {}", pairs.join(" "))
}

/// Starts a server that counts connections.
async fn catcher() -> (String, Arc<Mutex<usize>>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let came = Arc::<Mutex<usize>>::default();
    let count = came.clone();
    let task = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            *count.lock().unwrap() += 1;
        }
    });
    (url, came, AbortOnDropHandle::new(task))
}

/// Collects the strings of a document.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|value| texts(value, found)),
        Value::Object(map) => map.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

fn export(namespace: &str, name: &str, tracker: &str, store: &str, bucket: &str) -> Value {
    let keys = if bucket == "good-bucket" {
        "malicious"
    } else {
        "good"
    };
    Manifest::new(name, tracker)
        .namespace(namespace)
        .days("2018-06-04", "2018-06-04")
        .uaa()
        .set("source.credentialsSecretRef.name", keys)
        .bucket(namespace, name, store)
        .set("destination.s3.credentialsSecretRef.name", bucket)
        .export()
}

#[tokio::test]
async fn no_peer_can_leak_a_secret_or_forge_a_log_line() {
    let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
    let namespace = cluster.namespace("leaks").await;
    gateway.create_bucket(&namespace).await.unwrap();
    let simulator = simulator().await.unwrap();
    let good = simulator.url().as_str().trim_end_matches('/').to_owned();
    let (elsewhere, came, _catching) = catcher().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let malicious = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::<Mutex<String>>::default();
    let heard = seen.clone();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (heard, elsewhere) = (heard.clone(), elsewhere.clone());
            tokio::spawn(async move { answer(stream, &heard, &elsewhere).await });
        }
    }));
    let forging = ForgingPeer::start().await;
    let secret = |name: &str, data: Value| manifest::secret(&namespace, name, &data);
    let key = format!("{SECRET_MARKER}-api-key+\"&/");
    for document in [
        secret("malicious", json!({ "apiKey": key })),
        secret("good", json!({ "apiKey": DEFAULT_API_KEY })),
        secret("authority", json!({ "ca.crt": forging.pem })),
        secret(
            "good-bucket",
            json!({ "accessKeyId": gateway.access_key(), "secretAccessKey": gateway.secret_key() }),
        ),
        secret(
            "bucket",
            json!({
                "accessKeyId": "AKIAEXAMPLE", "secretAccessKey": format!("{SECRET_MARKER}-secret-key"),
                "sessionToken": format!("{SECRET_MARKER}-session-token"),
            }),
        ),
    ] {
        apply(cluster, &document).await.unwrap();
    }
    let at_service = ["uaa", "html", "json", "moved", "body"];
    let at_store = ["s3", "s3moved"];
    for mode in at_service {
        let tracker = format!("{malicious}/{mode}");
        let document = export(&namespace, mode, &tracker, &gateway.endpoint(), "good-bucket");
        apply(cluster, &document).await.unwrap();
    }
    for mode in at_store {
        let document = export(&namespace, mode, &good, &format!("{malicious}/{mode}"), "bucket");
        apply(cluster, &document).await.unwrap();
    }
    let by_certificate = ["certificate", "s3certificate"];
    let url = format!("https://127.0.0.1:{}", forging.port);
    let authority = json!({ "name": "authority" });
    let mut document = export(
        &namespace,
        "certificate",
        &url,
        &gateway.endpoint(),
        "good-bucket",
    );
    document["spec"]["source"]["caSecretRef"] = authority.clone();
    apply(cluster, &document).await.unwrap();
    let mut document = export(&namespace, "s3certificate", &good, &url, "bucket");
    document["spec"]["destination"]["s3"]["caSecretRef"] = authority;
    apply(cluster, &document).await.unwrap();

    let (otlp, received, _collecting) = collector().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let operator = OperatorCommand::new(cluster)
        .text_logs()
        .namespace(&namespace)
        .args(&["--otlp-endpoint", &otlp])
        .env("EVENTEXPORT_LOG", "trace")
        .spawn(&log)
        .unwrap();
    let process = Path::new("/proc").join(operator.id.to_string());
    let mut visible = BTreeMap::new();
    for mode in at_service.into_iter().chain(at_store).chain(by_certificate) {
        eventually(&format!("{mode} is said to fail"), async || {
            let object = get(cluster, &namespace, mode).await?.unwrap_or_default();
            let failed = object["status"]["lastError"]["message"].is_string();
            Ok(failed && condition(&object, "Ready").starts_with("False"))
        })
        .await
        .unwrap();
        let object = get(cluster, &namespace, mode).await.unwrap().unwrap();
        let mut found = Vec::new();
        texts(&object["status"], &mut found);
        for text in &found {
            let obeyed =
                |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}');
            assert!(!text.contains(obeyed), "{mode}: {text:?}");
            assert!(text.chars().count() <= MAX_STATUS_CHARS, "{mode}: {text:.300}");
        }
        visible.insert(format!("status of {mode}"), found.join("\n"));
    }
    let args = ["get", "events.events.k8s.io", "-n", &namespace, "-o", "json"];
    let events = kubectl(cluster, &args);
    visible.insert("events".to_owned(), events.await.unwrap());
    let log_text = std::fs::read_to_string(&log).unwrap();
    let address = log_text
        .lines()
        .find_map(|line| line.split_once("address=")?.1.split_whitespace().next());
    let metrics = http_client()
        .unwrap()
        .get(format!("http://{}/metrics", address.unwrap()))
        .timeout(Duration::from_secs(10))
        .send();
    visible.insert("metrics".to_owned(), metrics.await.unwrap().text().await.unwrap());
    for name in ["cmdline", "environ"] {
        let bytes = std::fs::read(process.join(name)).unwrap();
        visible.insert(name.to_owned(), String::from_utf8_lossy(&bytes).into_owned());
    }
    operator.kill().await.unwrap();
    visible.insert("traces".to_owned(), format!("{:?}", received.spans()));
    let log_text = std::fs::read_to_string(&log).unwrap();
    assert!(log_text.contains("TRACE"), "everything is logged");
    for line in log_text.lines() {
        assert!(!line.starts_with("forged"), "{line}");
        assert!(!line.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{line:?}");
    }
    visible.insert("log".to_owned(), log_text);
    let objects = gateway.folder().join("objects").join(&namespace);
    for file in folder::files(&objects) {
        let bytes = std::fs::read(objects.join(&file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        visible.insert(file.display().to_string(), text);
    }
    for (place, text) in &visible {
        let found: Vec<&str> = text
            .lines()
            .filter(|line| line.to_ascii_lowercase().contains(SECRET_MARKER))
            .collect();
        assert!(
            found.is_empty(),
            "{place}: {:#?}",
            found.iter().take(5).collect::<Vec<_>>()
        );
    }

    // The peers received all secrets.
    let seen = seen.lock().unwrap().clone();
    for secret in [
        "hush-api",
        "hush-token-of-html",
        "hush-token-of-body",
        "hush-session-token",
    ] {
        assert!(seen.contains(secret), "{secret} was never sent");
    }
    assert_eq!(*came.lock().unwrap(), 0, "no client follows a redirect");
}
