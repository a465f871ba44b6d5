//! Malicious tracker and UAA: hostile replies to each request of the client.

use std::time::{Duration, Instant};

use eventexport::tracker::{
    Credentials, RetryConfig, SessionRequest, Timeouts, TokenCache, Tracker, TrackerConfig, TrackerError,
    UaaSource,
};
use futures::future::join_all;
use jiff::civil::date;

use super::assert_displayable;
use super::payloads::malicious_payloads;
use super::peer::{MaliciousPeer, Payload, PeerAction};
use crate::testkit::engine::tracker_config;

const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";
const KEY: &str = "the-api-key-that-nobody-may-see";
const TOKEN: &str = "the-token-that-nobody-may-see";
/// Timeout of one attempt; there are two.
const REQUEST: Duration = Duration::from_secs(2);
/// Far more than two attempts and their pause, because the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Maximum bytes of one attempt that the client and the socket buffers may accept.
const MAX_READ_BYTES: u64 = 2 * 1024 * 1024 + 12 * 1024 * 1024;

/// Start of the request line of each endpoint.
const ENDPOINTS: [&str; 5] = [
    "POST /oauth/token ",
    "GET /v3/sessions ",
    "POST /v3/sessions ",
    "DELETE /v3/sessions/",
    "GET /v3/events ",
];

fn granted() -> Payload {
    Payload::reply(
        "200 OK",
        format!(r#"{{"access_token":"{TOKEN}","token_type":"bearer","expires_in":3600}}"#),
    )
}

fn tracker(peer: &MaliciousPeer) -> Tracker {
    let url: url::Url = peer.url().parse().unwrap();
    let config = TrackerConfig {
        uaa: UaaSource::Endpoint(url.clone()),
        credentials: Credentials::ApiKey(KEY.to_owned().into()),
        timeouts: Timeouts {
            connect: REQUEST,
            request: REQUEST,
            idle_read: REQUEST,
        },
        retry: RetryConfig {
            attempts: 2,
            base: Duration::from_millis(1),
            retry_after_cap: Duration::from_millis(10),
            ..RetryConfig::default()
        },
        ..tracker_config(&url)
    };
    Tracker::new(config, &TokenCache::new()).unwrap()
}

async fn call(tracker: &Tracker, endpoint: &str) -> Result<(), TrackerError> {
    let day = date(2018, 6, 28);
    match endpoint {
        "POST /oauth/token " => tracker.login().await,
        "GET /v3/sessions " => tracker.list_sessions(SPACE).await.map(drop),
        "POST /v3/sessions " => {
            let ask = SessionRequest {
                start: day,
                end: day,
                hour: None,
                account: false,
            };
            tracker.create_session(SPACE, &ask).await.map(drop)
        }
        "DELETE /v3/sessions/" => tracker.delete_session(SPACE, "b08cb740").await,
        _ => tracker.list_days(SPACE, day, day, false).await.map(drop),
    }
}

async fn check_payload(endpoint: &'static str, what: &'static str, payload: Payload) {
    let endless = payload.times == u64::MAX;
    let peer = MaliciousPeer::start(None, move |line| {
        PeerAction::Send(if line.starts_with(endpoint) {
            payload.clone()
        } else {
            granted()
        })
    })
    .await;
    let name = format!("{what}, to {endpoint}");
    let begun = Instant::now();
    let answer = tokio::time::timeout(TIMEOUT, call(&tracker(&peer), endpoint)).await;
    let answer = answer.unwrap_or_else(|_| panic!("{name}: no end after {:?}", begun.elapsed()));
    match answer {
        Err(error) => {
            // The error of a full space names the space.
            let at_fault = if matches!(error, TrackerError::Capacity { .. }) {
                SPACE
            } else {
                "127.0.0.1"
            };
            assert_displayable(&name, &error.to_string(), at_fault, &[KEY, TOKEN]);
            // A session may be open unless the reply was a refusal.
            if endpoint.starts_with("POST /v3") && !error.may_have_executed() {
                let refused = matches!(
                    error,
                    TrackerError::Refused { .. }
                        | TrackerError::Capacity { .. }
                        | TrackerError::Redirected { .. }
                );
                assert!(refused, "{name}: {error:?}");
            }
        }
        // Any success is accepted for a delete; its body is ignored.
        Ok(()) => assert!(endpoint.starts_with("DELETE"), "{name} was taken for an answer"),
    }
    if endless {
        assert!(
            peer.written() <= 2 * MAX_READ_BYTES,
            "{name}: {} bytes were taken",
            peer.written()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tracker_response_hangs_overflows_or_leaks() {
    let asked = ENDPOINTS.into_iter().flat_map(|endpoint| {
        malicious_payloads()
            .into_iter()
            .map(move |(what, payload)| check_payload(endpoint, what, payload))
    });
    join_all(asked.map(tokio::spawn))
        .await
        .into_iter()
        .for_each(|ended| ended.unwrap());
}

#[tokio::test]
async fn unusual_but_valid_responses_are_accepted() {
    let list = r#"[{"id":"one","id":"two"}]"#;
    for (what, payload) in [
        (
            "a header of 64 KiB",
            Payload::raw(format!(
                "HTTP/1.1 200 OK\r\nX-L: {}\r\nContent-Length: {}\r\n\r\n{list}",
                "a".repeat(64 << 10),
                list.len()
            )),
        ),
        ("HTTP/1.0", Payload::raw(format!("HTTP/1.0 200 OK\r\n\r\n{list}"))),
        (
            "interim answers before it",
            Payload::raw(format!(
                "{}HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{list}",
                "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n".repeat(20)
            )),
        ),
        (
            "chunks of a byte",
            Payload::raw(format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\nX-Trailer: t\r\n\r\n",
                list.split("")
                    .filter(|byte| !byte.is_empty())
                    .collect::<Vec<_>>()
                    .join("\r\n1;x=y\r\n")
                    .replacen('[', "1;x=y\r\n[", 1)
                    + "\r\n"
            )),
        ),
    ] {
        let peer = MaliciousPeer::start(None, move |line| {
            PeerAction::Send(if line.starts_with("POST /oauth") {
                granted()
            } else {
                payload.clone()
            })
        })
        .await;
        let sessions = tracker(&peer)
            .list_sessions(SPACE)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        // The last of duplicate keys wins, as in common JSON parsers.
        assert_eq!(
            sessions
                .iter()
                .map(|session| session.id.as_str())
                .collect::<Vec<_>>(),
            ["two"],
            "{what}"
        );
    }
}

#[tokio::test]
async fn invalid_rows_and_oversized_lists_are_refused() {
    let many = |rows: usize| {
        format!(
            "[{}]",
            (0..rows)
                .map(|n| format!(r#"{{"id":"s{n}"}}"#))
                .collect::<Vec<_>>()
                .join(",")
        )
    };
    for (endpoint, body, expected) in [
        (
            "GET /v3/events ",
            r#"[{"DATE":"9999-99-99","COUNT":1}]"#.to_owned(),
            "without a valid DATE",
        ),
        (
            "GET /v3/events ",
            r#"[{"DATE":"2018-06-28","COUNT":1e400}]"#.to_owned(),
            "not JSON",
        ),
        ("GET /v3/sessions ", many(1001), "more than 1000 rows"),
        (
            "GET /v3/sessions ",
            r#"[{"id":"a/../b c"}]"#.to_owned(),
            "without a valid id",
        ),
    ] {
        let peer = MaliciousPeer::start(None, move |line| {
            PeerAction::Send(if line.starts_with(endpoint) {
                Payload::reply("200 OK", &body)
            } else {
                granted()
            })
        })
        .await;
        let error = call(&tracker(&peer), endpoint).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // Impossible counts and overlong names are dropped.
    let rows = r#"[{"DATE":"2018-06-28","COUNT":-5,"SIZE":18446744073709551616}]"#;
    let book = format!(r#"[{{"id":"a","username":"{}"}}]"#, "u".repeat(300_000));
    let peer = MaliciousPeer::start(None, move |line| {
        PeerAction::Send(match line {
            _ if line.starts_with("GET /v3/events ") => Payload::reply("200 OK", rows),
            _ if line.starts_with("GET /v3/sessions ") => Payload::reply("200 OK", &book),
            _ => granted(),
        })
    })
    .await;
    let (tracker, day) = (tracker(&peer), date(2018, 6, 28));
    let days = tracker.list_days(SPACE, day, day, false).await.unwrap();
    assert_eq!((days[0].count, days[0].size), (None, None));
    assert_eq!(tracker.list_sessions(SPACE).await.unwrap()[0].username, None);
}
