//! Tokens: one login for all, renewed once, and shown to nobody.

use std::fmt::Write;

use super::peer::{Answer, granted};
use super::*;

const LOGIN: &str = "/oauth/token";

#[tokio::test]
async fn concurrent_requests_cause_one_login() {
    let peer = Peer::new(|_, _| Answer::new(200, "[]")).await;
    let cache = TokenCache::new();
    let trackers = [(); 4].map(|()| Tracker::new(config(&peer), &cache).unwrap());
    let asks = (0..20).map(|number| trackers[number % 4].sessions(SPACE));
    for answer in futures::future::join_all(asks).await {
        answer.unwrap();
    }
    assert_eq!(peer.count("POST", LOGIN), 1);
    let login = peer
        .seen()
        .into_iter()
        .find(|seen| seen.is("POST", LOGIN))
        .unwrap();
    assert_eq!(login.headers["authorization"], "Basic Y2Y6");
    assert_eq!(
        login.body,
        format!("grant_type=password&username=apikey&password={KEY}")
    );
}

#[tokio::test]
async fn a_token_that_expired_for_many_is_renewed_once() {
    let peer = Peer::new(|seen, _| match seen.token() {
        "bearer token-1" => Answer::new(401, "").delayed(Duration::from_millis(20)),
        _ => Answer::new(200, "[]"),
    })
    .await;
    let tracker = tracker(&peer);
    for answer in futures::future::join_all((0..8).map(|_| tracker.sessions(SPACE))).await {
        answer.unwrap();
    }
    assert_eq!(peer.count("POST", LOGIN), 2);
    let logins: Vec<_> = peer
        .seen()
        .into_iter()
        .filter(|seen| seen.is("POST", LOGIN))
        .collect();
    assert_eq!(logins[1].body, "grant_type=refresh_token&refresh_token=refresh-1");
}

#[tokio::test]
async fn a_401_means_one_refresh_and_one_repeat_then_an_error() {
    let peer = Peer::new(|_, _| Answer::new(401, r#"{"message":"who?"}"#)).await;
    let tracker = tracker(&peer);
    let error = tracker.create_session(SPACE, &request()).await.unwrap_err();
    assert!(
        matches!(error, TrackerError::Unauthorized { .. }) && error.to_string().contains("apiKey"),
        "{error}"
    );
    assert!(!error.may_have_executed());
    assert_eq!(
        (peer.count("POST", "/v3/sessions"), peer.count("POST", LOGIN)),
        (2, 2)
    );
}

#[tokio::test]
async fn a_refresh_token_rotates_and_a_spent_one_falls_back() {
    let peer = Peer::bare(|seen| match (seen.path.as_str(), seen.body.as_str()) {
        (LOGIN, "grant_type=refresh_token&refresh_token=refresh-0") => granted(1),
        (LOGIN, "grant_type=refresh_token&refresh_token=refresh-1") => granted(2),
        (LOGIN, body) if body.contains("refresh_token") => Answer::new(
            401,
            r#"{"error":"invalid_token","error_description":"spent: refresh-2"}"#,
        ),
        (LOGIN, _) => granted(9),
        _ if seen.token() == "bearer token-2" || seen.token() == "bearer token-9" => Answer::new(200, "[]"),
        _ => Answer::new(401, ""),
    })
    .await;
    let mut by_refresh = config(&peer);
    by_refresh.credentials = Credentials::RefreshToken("refresh-0\n".trim().into());
    Tracker::new(by_refresh, &TokenCache::new())
        .unwrap()
        .sessions(SPACE)
        .await
        .unwrap();
    assert_eq!(peer.count("POST", LOGIN), 2);

    let peer = Peer::bare(|seen| match (seen.path.as_str(), seen.body.as_str()) {
        (LOGIN, body) if body.contains("grant_type=refresh_token") => {
            Answer::new(400, r#"{"error":"invalid_grant"}"#)
        }
        (LOGIN, _) => granted(1),
        _ => Answer::new(401, ""),
    })
    .await;
    tracker(&peer).sessions(SPACE).await.unwrap_err();
    let bodies: Vec<_> = peer
        .seen()
        .into_iter()
        .filter(|seen| seen.is("POST", LOGIN))
        .map(|seen| seen.body)
        .collect();
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    assert!(bodies[2].contains("username=apikey"));
}

#[tokio::test]
async fn wrong_credentials_are_named_by_their_key_and_not_tried_at_once_again() {
    let peer = Peer::bare(|seen| {
        Answer::new(
            401,
            format!(
                r#"{{"error":"unauthorized","error_description":"bad: {}"}}"#,
                seen.body
            ),
        )
    })
    .await;
    for (credentials, key) in [
        (Credentials::ApiKey(KEY.into()), "apiKey"),
        (
            Credentials::Password {
                username: "me@example.com".to_owned(),
                password: KEY.into(),
            },
            "username and password",
        ),
        (Credentials::RefreshToken(KEY.into()), "refreshToken"),
    ] {
        let tracker = Tracker::new(
            TrackerConfig {
                credentials,
                ..config(&peer)
            },
            &TokenCache::new(),
        )
        .unwrap();
        let before = peer.seen().len();
        let error = tracker.login().await.unwrap_err();
        assert!(
            error.to_string().contains(key) && error.class() == Class::Wait,
            "{error}"
        );
        assert!(
            !format!("{error} {error:?} {tracker:?}").contains(KEY),
            "{error:?}"
        );
        assert_eq!(tracker.sessions(SPACE).await.unwrap_err(), error);
        assert_eq!(
            peer.seen().len(),
            before + 1,
            "a UAA locks users who try too often"
        );
    }
}

#[tokio::test]
async fn a_token_shortly_before_its_end_is_not_used() {
    let peer = Peer::bare(|seen| match seen.path.as_str() {
        LOGIN => Answer::new(200, r#"{"access_token":"brief","expires_in":1}"#),
        _ => Answer::new(200, "[]"),
    })
    .await;
    let tracker = tracker(&peer);
    tracker.sessions(SPACE).await.unwrap();
    tracker.sessions(SPACE).await.unwrap();
    assert_eq!(peer.count("POST", LOGIN), 1);
    tokio::time::sleep(Duration::from_millis(850)).await;
    tracker.sessions(SPACE).await.unwrap();
    assert_eq!(peer.count("POST", LOGIN), 2);
}

#[tokio::test]
async fn a_ready_token_is_used_as_it_is() {
    let peer = Peer::bare(|_| Answer::new(401, "you sent bearer ready-token-1")).await;
    let mut config = config(&peer);
    config.credentials = Credentials::Token("ready-token-1".into());
    let tracker = Tracker::new(config, &TokenCache::new()).unwrap();
    tracker.login().await.unwrap();
    let error = tracker.sessions(SPACE).await.unwrap_err();
    assert!(
        matches!(
            error,
            TrackerError::Unauthorized {
                key: CredentialsKey::Token,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!format!("{error} {error:?}").contains("ready-token"), "{error:?}");
    assert_eq!((peer.seen().len(), peer.count("POST", LOGIN)), (1, 0));
}

#[tokio::test]
async fn the_uaa_is_discovered_and_judged_by_the_list_of_hosts() {
    let uaa = Peer::new(|_, _| Answer::new(200, "[]")).await;
    let named = uaa.url().to_string();
    let api = Peer::bare(move |seen| {
        assert!(seen.is("GET", "/v2/info") && seen.token().is_empty());
        Answer::new(200, format!(r#"{{"authorization_endpoint":"{named}"}}"#))
    })
    .await;
    let mut config = config(&uaa);
    config.uaa = Uaa::Discover { api: api.url() };
    Tracker::new(config.clone(), &TokenCache::new())
        .unwrap()
        .login()
        .await
        .unwrap();
    assert_eq!(uaa.count("POST", LOGIN), 1);

    let api_only = api.url();
    config.endpoint = api_only.clone();
    config.hosts = HostPolicy::allow(&[format!("127.0.0.1:{}", api_only.port().unwrap())]).unwrap();
    let error = Tracker::new(config, &TokenCache::new())
        .unwrap()
        .login()
        .await
        .unwrap_err();
    assert!(matches!(error, TrackerError::Egress(_)), "{error:?}");
    assert_eq!(uaa.count("POST", LOGIN), 1);
}

#[tokio::test]
async fn a_uaa_that_fails_is_asked_again_and_sends_no_session_request() {
    let peer = Peer::bare(|seen| match seen.path.as_str() {
        LOGIN => Answer::new(503, ""),
        _ => Answer::new(200, "[]"),
    })
    .await;
    let error = tracker(&peer)
        .create_session(SPACE, &request())
        .await
        .unwrap_err();
    assert!(
        matches!(error.class(), Class::Retry { .. }) && !error.may_have_executed(),
        "{error:?}"
    );
    assert_eq!(
        (peer.count("POST", LOGIN), peer.count("POST", "/v3/sessions")),
        (5, 0)
    );
}

#[tokio::test]
async fn a_uaa_that_is_not_found_is_not_a_session_gone() {
    let peer = Peer::bare(|_| Answer::new(404, "")).await;
    let tracker = tracker(&peer);
    for error in [
        tracker.delete_session(SPACE, "id").await.unwrap_err(),
        tracker.session(SPACE, "id").await.unwrap_err(),
        tracker.download(SPACE, "id").await.unwrap_err(),
    ] {
        assert!(matches!(error, TrackerError::NoToken(_)), "{error:?}");
    }
    assert_eq!(peer.count("DELETE", "/v3/sessions/id"), 0);
}

#[tokio::test]
async fn no_secret_is_in_any_error_or_debug() {
    let peer =
        Peer::new(|seen, _| Answer::new(400, format!("echo: {} {KEY} {:?}", seen.token(), seen.headers)))
            .await;
    let cache = TokenCache::new();
    let config = config(&peer);
    let tracker = Tracker::new(config.clone(), &cache).unwrap();
    let mut shown = format!("{tracker:?} {cache:?} {config:?}");
    for error in [
        tracker.sessions(SPACE).await.unwrap_err(),
        tracker.create_session(SPACE, &request()).await.unwrap_err(),
        tracker.download(SPACE, "id").await.unwrap_err(),
    ] {
        let _ = write!(shown, "{error} {error:?}");
    }
    assert!(
        shown.contains("echo") && !shown.contains(KEY) && !shown.contains("token-1"),
        "{shown}"
    );
}
