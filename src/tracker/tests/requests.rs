//! Sessions and the listing: requests, retries, and hosts that never receive a token.

use super::scripted_server::ScriptedReply;
use super::*;

const SESSIONS: &str = "/v3/sessions";

#[tokio::test]
async fn a_create_request_matches_the_documentation() {
    let server = ScriptedServer::new(|_, _| ScriptedReply::new(201, r#"{"id":"b08cb740"}"#)).await;
    let tracker = tracker(&server);
    let hour = SessionRequest {
        hour: Some(7),
        account: false,
        ..request()
    };
    assert_eq!(
        tracker.create_session(SPACE, &request()).await.unwrap().id,
        "b08cb740"
    );
    tracker.create_session(SPACE, &hour).await.unwrap();
    let seen = server.requests();
    let received: Vec<_> = seen
        .iter()
        .filter(|seen| seen.matches("POST", SESSIONS))
        .collect();
    let body = |at: usize| serde_json::from_str::<serde_json::Value>(&received[at].body).unwrap();
    assert_eq!(
        body(0),
        serde_json::json!({"start": "2018-06-28", "end": "2018-06-28", "AtAccountLevel": true, "SearchTime": ""})
    );
    assert_eq!(body(1)["SearchTime"], "7");
    assert_eq!(received[0].headers["content-type"], "application/json");
    assert_eq!(received[0].headers["x-auth-project-id"], SPACE);
    assert_eq!(received[0].token(), "bearer token-1");
}

#[tokio::test]
async fn an_ambiguous_create_is_never_retried() {
    for reply in [
        ScriptedReply::new(502, "<html>Bad Gateway</html>"),
        ScriptedReply::new(200, "<html>"),
        ScriptedReply::new(201, r#"{"id":"a"}"#).cut(3),
        ScriptedReply::new(200, "").cut(0).delayed(Duration::from_secs(2)),
    ] {
        let server = ScriptedServer::new(move |_, _| reply.clone()).await;
        let mut config = config(&server);
        config.timeouts.request = Duration::from_millis(500);
        let tracker = Tracker::new(config, &TokenCache::new()).unwrap();
        let error = tracker.create_session(SPACE, &request()).await.unwrap_err();
        assert!(error.may_have_executed(), "{error}");
        assert_eq!(server.count("POST", SESSIONS), 1, "{error}");
    }
    let stopped = ScriptedServer::new(|_, _| ScriptedReply::new(200, "")).await;
    let tracker = tracker(&stopped);
    tracker.login().await.unwrap();
    drop(stopped);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = tracker.create_session(SPACE, &request()).await.unwrap_err();
    assert!(!error.may_have_executed(), "{error:?}");
}

#[tokio::test]
async fn a_403_on_create_is_a_capacity_error() {
    let server = ScriptedServer::new(|request, _| match request.method.as_str() {
        "POST" => ScriptedReply::new(403, r#"{"message":"Forbidden"}"#),
        _ => ScriptedReply::new(200, r#"[{"id":"x"}]"#),
    })
    .await;
    let tracker = tracker(&server);
    let error = tracker.create_session(SPACE, &request()).await.unwrap_err();
    assert!(
        matches!(error, TrackerError::Capacity { status: 403, .. })
            && error.class() == TrackerErrorClass::Wait,
        "{error:?}"
    );
    assert_eq!(tracker.list_sessions(SPACE).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_missing_session_is_not_an_error() {
    let server = ScriptedServer::new(|_, _| ScriptedReply::new(404, "gone")).await;
    let tracker = tracker(&server);
    assert_eq!(tracker.get_session(SPACE, "id").await.unwrap(), None);
    tracker.delete_session(SPACE, "id").await.unwrap();
    assert!(matches!(
        tracker.list_sessions(SPACE).await,
        Err(TrackerError::NotFound { .. })
    ));
    let before = server.requests().len();
    for id in ["", "..", "a b"] {
        tracker.delete_session(SPACE, id).await.unwrap_err();
    }
    assert_eq!(server.requests().len(), before, "an invalid id must not be sent");
}

#[tokio::test]
async fn a_router_404_does_not_count_as_deleted() {
    let server = ScriptedServer::new(|_, _| {
        ScriptedReply::new(404, "no route").with("X-Cf-RouterError", "unknown_route")
    })
    .await;
    let error = tracker(&server).delete_session(SPACE, "id").await.unwrap_err();
    assert!(
        matches!(error, TrackerError::Server { status: 404, .. }),
        "{error:?}"
    );
    assert_eq!(server.count("DELETE", "/v3/sessions/id"), 5);
}

#[tokio::test]
async fn idempotent_requests_are_retried() {
    let server = ScriptedServer::new(|_, number| match number {
        0 => ScriptedReply::new(503, "").with("Retry-After", "1"),
        1 => ScriptedReply::new(429, ""),
        2 => ScriptedReply::new(200, "[]").cut(1),
        _ => ScriptedReply::new(200, "[]"),
    })
    .await;
    assert_eq!(tracker(&server).list_sessions(SPACE).await.unwrap(), []);
    assert_eq!(server.count("GET", SESSIONS), 4);
}

#[tokio::test]
async fn the_listing_may_be_refused_or_of_any_shape() {
    let (start, end) = ("2018-06-01".parse().unwrap(), "2018-06-30".parse().unwrap());
    for status in [400, 403, 404, 405, 501] {
        let server = ScriptedServer::new(move |_, _| ScriptedReply::new(status, "")).await;
        let error = tracker(&server)
            .list_days(SPACE, start, end, true)
            .await
            .unwrap_err();
        assert!(matches!(error, TrackerError::ListingRefused { .. }), "{error:?}");
        assert_eq!(server.count("GET", "/v3/events"), 1);
    }
    let server = ScriptedServer::new(|_, _| {
        ScriptedReply::new(
            200,
            r#"{"events":[{"DATE":"2018-06-28","COUNT":"16","SIZE":"3020"}]}"#,
        )
    })
    .await;
    let days = tracker(&server).list_days(SPACE, start, end, true).await.unwrap();
    assert_eq!(
        (days.len(), days[0].count, days[0].size),
        (1, Some(16), Some(3020))
    );
    // At most 15 days in each request, and no day outside of its range.
    let requests = server.requests().into_iter();
    let bodies: Vec<serde_json::Value> = requests
        .filter(|request| request.matches("GET", "/v3/events"))
        .map(|request| serde_json::from_str(&request.body).unwrap())
        .collect();
    assert_eq!(
        bodies,
        [
            serde_json::json!({"start": "2018-06-01", "end": "2018-06-15", "AtAccountLevel": true}),
            serde_json::json!({"start": "2018-06-16", "end": "2018-06-30", "AtAccountLevel": true}),
        ]
    );
}

#[tokio::test]
async fn a_token_never_follows_a_redirect_to_another_host() {
    let other = ScriptedServer::bare(|_| ScriptedReply::new(200, "[]")).await;
    let elsewhere = other.url().port().unwrap();
    for status in [301, 302, 303, 307, 308] {
        for target in [
            // Another port of the same host; another name of it; no scheme; the token in the URL.
            format!("http://127.0.0.1:{elsewhere}/v3/sessions"),
            format!("http://localhost:{elsewhere}/v3/sessions"),
            format!("//127.0.0.1:{elsewhere}/v3/sessions"),
            format!("http://token-1@127.0.0.1:{elsewhere}/token-1?t=token-1"),
            "https://127.0.0.1/v3/sessions".to_owned(),
            "ftp://127.0.0.1/".to_owned(),
        ] {
            let location = target.clone();
            let server =
                ScriptedServer::new(move |_, _| ScriptedReply::new(status, "").with("Location", &location))
                    .await;
            let tracker = tracker(&server);
            for error in [
                tracker.list_sessions(SPACE).await.unwrap_err(),
                tracker.create_session(SPACE, &request()).await.unwrap_err(),
                tracker.delete_session(SPACE, "id").await.unwrap_err(),
                tracker.download(SPACE, "id").await.unwrap_err(),
            ] {
                assert!(
                    matches!(error, TrackerError::Redirected { .. }),
                    "{status} {target}: {error:?}"
                );
                assert!(!error.to_string().contains("token-1"), "{error}");
            }
        }
    }
    // Credentials follow no redirect, not even on the same host.
    let uaa = ScriptedServer::bare(|_| ScriptedReply::new(307, "").with("Location", "/oauth/token2")).await;
    assert!(tracker(&uaa).list_sessions(SPACE).await.is_err());
    assert_eq!(uaa.count("POST", "/oauth/token2"), 0);
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_same_host_redirect_is_followed_for_get_only_and_bounded() {
    let server = ScriptedServer::new(|request, _| match request.path.as_str() {
        "/moved" => ScriptedReply::new(200, "[]"),
        "/v3/sessions/loop" => ScriptedReply::new(302, "").with("Location", "/v3/sessions/loop"),
        _ => ScriptedReply::new(302, "").with("Location", "/moved"),
    })
    .await;
    let tracker = tracker(&server);
    assert_eq!(tracker.list_sessions(SPACE).await.unwrap(), []);
    assert!(tracker.create_session(SPACE, &request()).await.is_err());
    assert!(tracker.get_session(SPACE, "loop").await.is_err());
    assert_eq!(server.count("GET", "/v3/sessions/loop"), 4);
}

#[tokio::test]
async fn a_host_off_the_allow_list_is_never_contacted() {
    let server = ScriptedServer::new(|_, _| ScriptedReply::new(200, "[]")).await;
    let mut config = config(&server);
    config.hosts = HostPolicy::allow(&["127.0.0.1:1".to_owned()]).unwrap();
    let error = Tracker::new(config.clone(), &TokenCache::new()).unwrap_err();
    assert!(matches!(error, TrackerError::Egress(_)) && error.class() == TrackerErrorClass::Wait);
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_name_that_resolves_to_a_denied_address_is_denied() {
    let policy = HostPolicy::allow(&["a.example".to_owned()]).unwrap();
    let resolver = crate::egress::CheckedResolver::new(policy);
    let client = reqwest::Client::builder()
        .no_proxy()
        .dns_resolver(resolver)
        .build()
        .unwrap();
    let url: url::Url = "http://localhost:1/".parse().unwrap();
    let error = http::transport_error(client.get(url.clone()).send().await.unwrap_err(), &url);
    assert!(matches!(error, TrackerError::Egress(_)), "{error:?}");
}
