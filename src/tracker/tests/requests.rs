//! Sessions and the listing: what is sent, what is tried again, and where a token never goes.

use super::peer::Answer;
use super::*;

const SESSIONS: &str = "/v3/sessions";

#[tokio::test]
async fn a_session_is_asked_for_as_documented() {
    let peer = Peer::new(|_, _| Answer::new(201, r#"{"id":"b08cb740"}"#)).await;
    let tracker = tracker(&peer);
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
    let seen = peer.seen();
    let asked: Vec<_> = seen.iter().filter(|seen| seen.is("POST", SESSIONS)).collect();
    let body = |at: usize| serde_json::from_str::<serde_json::Value>(&asked[at].body).unwrap();
    assert_eq!(
        body(0),
        serde_json::json!({"start": "2018-06-28", "end": "2018-06-28", "AtAccountLevel": true, "SearchTime": ""})
    );
    assert_eq!(body(1)["SearchTime"], "7");
    assert_eq!(asked[0].headers["content-type"], "application/json");
    assert_eq!(asked[0].headers["x-auth-project-id"], SPACE);
    assert_eq!(asked[0].token(), "bearer token-1");
}

#[tokio::test]
async fn an_unclear_create_is_never_sent_again() {
    for answer in [
        Answer::new(502, "<html>Bad Gateway</html>"),
        Answer::new(200, "<html>"),
        Answer::new(201, r#"{"id":"a"}"#).cut(3),
        Answer::new(200, "").cut(0).delayed(Duration::from_secs(2)),
    ] {
        let peer = Peer::new(move |_, _| answer.clone()).await;
        let mut config = config(&peer);
        config.timeouts.request = Duration::from_millis(500);
        let tracker = Tracker::new(config, &TokenCache::new()).unwrap();
        let error = tracker.create_session(SPACE, &request()).await.unwrap_err();
        assert!(error.may_have_executed(), "{error}");
        assert_eq!(peer.count("POST", SESSIONS), 1, "{error}");
    }
    let gone = Peer::new(|_, _| Answer::new(200, "")).await;
    let tracker = tracker(&gone);
    tracker.login().await.unwrap();
    drop(gone);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = tracker.create_session(SPACE, &request()).await.unwrap_err();
    assert!(!error.may_have_executed(), "{error:?}");
}

#[tokio::test]
async fn create_refused_while_the_list_answers() {
    let peer = Peer::new(|seen, _| match seen.method.as_str() {
        "POST" => Answer::new(403, r#"{"message":"Forbidden"}"#),
        _ => Answer::new(200, r#"[{"id":"x"}]"#),
    })
    .await;
    let tracker = tracker(&peer);
    let error = tracker.create_session(SPACE, &request()).await.unwrap_err();
    assert!(
        matches!(error, TrackerError::Capacity { status: 403, .. }) && error.class() == Class::Wait,
        "{error:?}"
    );
    assert_eq!(tracker.sessions(SPACE).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_gone_is_no_error() {
    let peer = Peer::new(|_, _| Answer::new(404, "gone")).await;
    let tracker = tracker(&peer);
    assert_eq!(tracker.session(SPACE, "id").await.unwrap(), None);
    tracker.delete_session(SPACE, "id").await.unwrap();
    assert!(matches!(
        tracker.sessions(SPACE).await,
        Err(TrackerError::NotFound { .. })
    ));
    let before = peer.seen().len();
    for id in ["", "..", "a b"] {
        tracker.delete_session(SPACE, id).await.unwrap_err();
    }
    assert_eq!(peer.seen().len(), before, "an id that is none must not be sent");
}

#[tokio::test]
async fn a_router_without_service_is_not_a_session_gone() {
    let peer = Peer::new(|_, _| Answer::new(404, "no route").with("X-Cf-RouterError", "unknown_route")).await;
    let error = tracker(&peer).delete_session(SPACE, "id").await.unwrap_err();
    assert!(
        matches!(error, TrackerError::Server { status: 404, .. }),
        "{error:?}"
    );
    assert_eq!(peer.count("DELETE", "/v3/sessions/id"), 5);
}

#[tokio::test]
async fn what_can_be_repeated_is_repeated() {
    let peer = Peer::new(|_, number| match number {
        0 => Answer::new(503, "").with("Retry-After", "1"),
        1 => Answer::new(429, ""),
        2 => Answer::new(200, "[]").cut(1),
        _ => Answer::new(200, "[]"),
    })
    .await;
    assert_eq!(tracker(&peer).sessions(SPACE).await.unwrap(), []);
    assert_eq!(peer.count("GET", SESSIONS), 4);
}

#[tokio::test]
async fn the_listing_may_be_refused_or_of_any_shape() {
    let (start, end) = ("2018-06-01".parse().unwrap(), "2018-06-30".parse().unwrap());
    for status in [400, 403, 404, 405, 501] {
        let peer = Peer::new(move |_, _| Answer::new(status, "")).await;
        let error = tracker(&peer).days(SPACE, start, end, true).await.unwrap_err();
        assert!(matches!(error, TrackerError::ListingRefused { .. }), "{error:?}");
        assert_eq!(peer.count("GET", "/v3/events"), 1);
    }
    let peer = Peer::new(|_, _| {
        Answer::new(
            200,
            r#"{"events":[{"DATE":"2018-06-28","COUNT":"16","SIZE":"3020"}]}"#,
        )
    })
    .await;
    let days = tracker(&peer).days(SPACE, start, end, true).await.unwrap();
    assert_eq!(
        (days.len(), days[0].count, days[0].size),
        (1, Some(16), Some(3020))
    );
    let asked = peer
        .seen()
        .into_iter()
        .find(|seen| seen.is("GET", "/v3/events"))
        .unwrap();
    let body: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({"start": "2018-06-01", "end": "2018-06-30", "AtAccountLevel": true})
    );
}

#[tokio::test]
async fn a_token_never_follows_a_redirect_to_another_host() {
    let other = Peer::bare(|_| Answer::new(200, "[]")).await;
    let elsewhere = other.url().port().unwrap();
    for status in [301, 302, 303, 307, 308] {
        for target in [
            // The same host at another port; another name of it; without a scheme; with the token in the address.
            format!("http://127.0.0.1:{elsewhere}/v3/sessions"),
            format!("http://localhost:{elsewhere}/v3/sessions"),
            format!("//127.0.0.1:{elsewhere}/v3/sessions"),
            format!("http://token-1@127.0.0.1:{elsewhere}/token-1?t=token-1"),
            "https://127.0.0.1/v3/sessions".to_owned(),
            "ftp://127.0.0.1/".to_owned(),
        ] {
            let said = target.clone();
            let peer = Peer::new(move |_, _| Answer::new(status, "").with("Location", &said)).await;
            let tracker = tracker(&peer);
            for error in [
                tracker.sessions(SPACE).await.unwrap_err(),
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
    // Credentials follow none at all, not even on the same host; nor does a downgrade of the same address.
    let uaa = Peer::bare(|_| Answer::new(307, "").with("Location", "/oauth/token2")).await;
    assert!(tracker(&uaa).sessions(SPACE).await.is_err());
    assert_eq!(uaa.count("POST", "/oauth/token2"), 0);
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed_for_get_only_and_ends() {
    let peer = Peer::new(|seen, _| match seen.path.as_str() {
        "/moved" => Answer::new(200, "[]"),
        "/v3/sessions/loop" => Answer::new(302, "").with("Location", "/v3/sessions/loop"),
        _ => Answer::new(302, "").with("Location", "/moved"),
    })
    .await;
    let tracker = tracker(&peer);
    assert_eq!(tracker.sessions(SPACE).await.unwrap(), []);
    assert!(tracker.create_session(SPACE, &request()).await.is_err());
    assert!(tracker.session(SPACE, "loop").await.is_err());
    assert_eq!(peer.count("GET", "/v3/sessions/loop"), 4);
}

#[tokio::test]
async fn a_host_off_the_list_is_never_asked() {
    let peer = Peer::new(|_, _| Answer::new(200, "[]")).await;
    let mut config = config(&peer);
    config.hosts = HostPolicy::allow(&["127.0.0.1:1".to_owned()]).unwrap();
    let error = Tracker::new(config.clone(), &TokenCache::new()).unwrap_err();
    assert!(matches!(error, TrackerError::Egress(_)) && error.class() == Class::Wait);
    assert!(peer.seen().is_empty());
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_than_allowed_is_denied_after_resolution() {
    let policy = HostPolicy::allow(&["a.example".to_owned()]).unwrap();
    let resolver = crate::egress::CheckedResolver::new(policy);
    let client = reqwest::Client::builder()
        .no_proxy()
        .dns_resolver(resolver)
        .build()
        .unwrap();
    let url: url::Url = "http://localhost:1/".parse().unwrap();
    let error = http::transport(client.get(url.clone()).send().await.unwrap_err(), &url);
    assert!(matches!(error, TrackerError::Egress(_)), "{error:?}");
}
