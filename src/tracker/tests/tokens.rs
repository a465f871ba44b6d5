//! Tokens: one login for all requests, one renewal, and no token in any output.

use std::fmt::Write;

use super::scripted_server::{ScriptedReply, token_reply};
use super::*;

const LOGIN: &str = "/oauth/token";

#[tokio::test]
async fn concurrent_requests_cause_one_login() {
    let server = ScriptedServer::new(|_, _| ScriptedReply::new(200, "[]")).await;
    let cache = TokenCache::new();
    let trackers = [(); 4].map(|()| Tracker::new(config(&server), &cache).unwrap());
    let requests = (0..20).map(|number| trackers[number % 4].list_sessions(SPACE));
    for reply in futures::future::join_all(requests).await {
        reply.unwrap();
    }
    assert_eq!(server.count("POST", LOGIN), 1);
    let login = server
        .requests()
        .into_iter()
        .find(|request| request.matches("POST", LOGIN))
        .unwrap();
    assert_eq!(login.headers["authorization"], "Basic Y2Y6");
    assert_eq!(
        login.body,
        format!("grant_type=password&username=apikey&password={KEY}")
    );
}

#[tokio::test]
async fn an_expired_token_is_renewed_once_for_all_requests() {
    let server = ScriptedServer::new(|request, _| match request.token() {
        "bearer token-1" => ScriptedReply::new(401, "").delayed(Duration::from_millis(20)),
        _ => ScriptedReply::new(200, "[]"),
    })
    .await;
    let tracker = tracker(&server);
    for reply in futures::future::join_all((0..8).map(|_| tracker.list_sessions(SPACE))).await {
        reply.unwrap();
    }
    assert_eq!(server.count("POST", LOGIN), 2);
    let logins: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.matches("POST", LOGIN))
        .collect();
    assert_eq!(logins[1].body, "grant_type=refresh_token&refresh_token=refresh-1");
}

#[tokio::test]
async fn a_401_is_retried_once_with_a_fresh_token() {
    let server = ScriptedServer::new(|_, _| ScriptedReply::new(401, r#"{"message":"who?"}"#)).await;
    let tracker = tracker(&server);
    let error = tracker.create_session(SPACE, &request()).await.unwrap_err();
    assert!(
        matches!(error, TrackerError::Unauthorized { .. }) && error.to_string().contains("apiKey"),
        "{error}"
    );
    assert!(!error.may_have_executed());
    assert_eq!(
        (server.count("POST", "/v3/sessions"), server.count("POST", LOGIN)),
        (2, 2)
    );
}

#[tokio::test]
async fn a_refresh_token_rotates_and_a_spent_one_falls_back() {
    let server = ScriptedServer::bare(|request| match (request.path.as_str(), request.body.as_str()) {
        (LOGIN, "grant_type=refresh_token&refresh_token=refresh-0") => token_reply(1),
        (LOGIN, "grant_type=refresh_token&refresh_token=refresh-1") => token_reply(2),
        (LOGIN, body) if body.contains("refresh_token") => ScriptedReply::new(
            401,
            r#"{"error":"invalid_token","error_description":"spent: refresh-2"}"#,
        ),
        (LOGIN, _) => token_reply(9),
        _ if request.token() == "bearer token-2" || request.token() == "bearer token-9" => {
            ScriptedReply::new(200, "[]")
        }
        _ => ScriptedReply::new(401, ""),
    })
    .await;
    let mut by_refresh = config(&server);
    by_refresh.credentials = Credentials::RefreshToken("refresh-0\n".trim().into());
    Tracker::new(by_refresh, &TokenCache::new())
        .unwrap()
        .list_sessions(SPACE)
        .await
        .unwrap();
    assert_eq!(server.count("POST", LOGIN), 2);

    let server = ScriptedServer::bare(|request| match (request.path.as_str(), request.body.as_str()) {
        (LOGIN, body) if body.contains("grant_type=refresh_token") => {
            ScriptedReply::new(400, r#"{"error":"invalid_grant"}"#)
        }
        (LOGIN, _) => token_reply(1),
        _ => ScriptedReply::new(401, ""),
    })
    .await;
    tracker(&server).list_sessions(SPACE).await.unwrap_err();
    let bodies: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.matches("POST", LOGIN))
        .map(|request| request.body)
        .collect();
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    assert!(bodies[2].contains("username=apikey"));
}

#[tokio::test]
async fn a_rotated_refresh_token_is_kept_and_its_limit_is_named() {
    // Each refresh token works once; a reply may leave out the next one, then the last one stays valid.
    let server = ScriptedServer::bare(|request| match (request.path.as_str(), request.body.as_str()) {
        (LOGIN, "grant_type=refresh_token&refresh_token=refresh-0") => token_reply(1),
        (LOGIN, "grant_type=refresh_token&refresh_token=refresh-1") => {
            ScriptedReply::new(200, r#"{"access_token":"token-2","expires_in":"0"}"#)
        }
        (LOGIN, _) => ScriptedReply::new(401, r#"{"error":"invalid_token"}"#),
        _ if request.token() == "bearer token-2" => ScriptedReply::new(200, "[]"),
        _ => ScriptedReply::new(401, ""),
    })
    .await;
    let mut by_refresh = config(&server);
    by_refresh.credentials = Credentials::RefreshToken("refresh-0".into());
    let tracker = Tracker::new(by_refresh, &TokenCache::new()).unwrap();
    for _ in 0..3 {
        tracker.list_sessions(SPACE).await.unwrap();
    }
    let mut spent = config(&server);
    spent.credentials = Credentials::RefreshToken("refresh-9".into());
    let error = Tracker::new(spent, &TokenCache::new())
        .unwrap()
        .list_sessions(SPACE)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("accepts each once, also after a restart"),
        "{error}"
    );
}

#[tokio::test]
async fn refused_credentials_are_named_and_not_retried_at_once() {
    let server = ScriptedServer::bare(|request| {
        ScriptedReply::new(
            401,
            format!(
                r#"{{"error":"unauthorized","error_description":"bad: {}"}}"#,
                request.body
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
                ..config(&server)
            },
            &TokenCache::new(),
        )
        .unwrap();
        let before = server.requests().len();
        let error = tracker.login().await.unwrap_err();
        assert!(
            error.to_string().contains(key) && error.class() == TrackerErrorClass::Wait,
            "{error}"
        );
        assert!(
            !format!("{error} {error:?} {tracker:?}").contains(KEY),
            "{error:?}"
        );
        assert_eq!(tracker.list_sessions(SPACE).await.unwrap_err(), error);
        assert_eq!(
            server.requests().len(),
            before + 1,
            "a UAA locks users who try too often"
        );
    }
}

#[tokio::test]
async fn a_token_about_to_expire_is_not_used() {
    let server = ScriptedServer::bare(|request| match request.path.as_str() {
        LOGIN => ScriptedReply::new(200, r#"{"access_token":"brief","expires_in":1}"#),
        _ => ScriptedReply::new(200, "[]"),
    })
    .await;
    let tracker = tracker(&server);
    tracker.list_sessions(SPACE).await.unwrap();
    tracker.list_sessions(SPACE).await.unwrap();
    assert_eq!(server.count("POST", LOGIN), 1);
    tokio::time::sleep(Duration::from_millis(850)).await;
    tracker.list_sessions(SPACE).await.unwrap();
    assert_eq!(server.count("POST", LOGIN), 2);
}

#[tokio::test]
async fn a_ready_token_is_used_as_it_is() {
    let server = ScriptedServer::bare(|_| ScriptedReply::new(401, "you sent bearer ready-token-1")).await;
    let mut config = config(&server);
    config.credentials = Credentials::Token("ready-token-1".into());
    let tracker = Tracker::new(config, &TokenCache::new()).unwrap();
    tracker.login().await.unwrap();
    let error = tracker.list_sessions(SPACE).await.unwrap_err();
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
    assert_eq!((server.requests().len(), server.count("POST", LOGIN)), (1, 0));
}

#[tokio::test]
async fn a_discovered_uaa_must_be_on_the_allow_list() {
    let uaa = ScriptedServer::new(|_, _| ScriptedReply::new(200, "[]")).await;
    let named = uaa.url().to_string();
    let api = ScriptedServer::bare(move |request| {
        assert!(request.matches("GET", "/v2/info") && request.token().is_empty());
        ScriptedReply::new(200, format!(r#"{{"authorization_endpoint":"{named}"}}"#))
    })
    .await;
    let mut config = config(&uaa);
    config.uaa = UaaSource::Discover { api: api.url() };
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
async fn a_failing_uaa_is_retried_and_no_session_request_is_sent() {
    let server = ScriptedServer::bare(|request| match request.path.as_str() {
        LOGIN => ScriptedReply::new(503, ""),
        _ => ScriptedReply::new(200, "[]"),
    })
    .await;
    let error = tracker(&server)
        .create_session(SPACE, &request())
        .await
        .unwrap_err();
    assert!(
        matches!(error.class(), TrackerErrorClass::Retry { .. }) && !error.may_have_executed(),
        "{error:?}"
    );
    assert_eq!(
        (server.count("POST", LOGIN), server.count("POST", "/v3/sessions")),
        (5, 0)
    );
}

#[tokio::test]
async fn a_uaa_404_does_not_count_as_a_missing_session() {
    let server = ScriptedServer::bare(|_| ScriptedReply::new(404, "")).await;
    let tracker = tracker(&server);
    for error in [
        tracker.delete_session(SPACE, "id").await.unwrap_err(),
        tracker.get_session(SPACE, "id").await.unwrap_err(),
        tracker.download(SPACE, "id").await.unwrap_err(),
    ] {
        assert!(matches!(error, TrackerError::NoToken(_)), "{error:?}");
    }
    assert_eq!(server.count("DELETE", "/v3/sessions/id"), 0);
}

#[tokio::test]
async fn an_error_of_the_uaa_names_the_setting_of_the_uaa() {
    for status in [404, 302] {
        let server = ScriptedServer::bare(move |_| {
            ScriptedReply::new(status, "").with("Location", "https://login.example/")
        });
        let error = tracker(&server.await).get_session(SPACE, "id").await.unwrap_err();
        let text = error.describe(&crate::api::SettingNames::default());
        assert!(text.contains("spec.source.uaaEndpoint"), "{status}: {text}");
    }
}

#[tokio::test]
async fn only_400_and_401_of_the_uaa_blame_the_credentials() {
    for (status, blamed) in [(400, true), (401, true), (403, false), (415, false), (422, false)] {
        let server = ScriptedServer::bare(move |_| ScriptedReply::new(status, "not for this address")).await;
        let error = tracker(&server).get_session(SPACE, "id").await.unwrap_err();
        let refused = format!("{error:?}").contains("CredentialsRefused");
        assert_eq!(refused, blamed, "{status}: {error:?}");
        let text = error.describe(&crate::api::SettingNames::default());
        assert!(text.contains("not for this address"), "{status}: {text}");
        let setting = ["spec.source.uaaEndpoint", "credentialsSecretRef"][usize::from(blamed)];
        assert!(text.contains(setting), "{status}: {text}");
    }
}

#[tokio::test]
async fn no_secret_is_in_any_error_or_debug() {
    let server = ScriptedServer::new(|request, _| {
        ScriptedReply::new(
            400,
            format!("echo: {} {KEY} {:?}", request.token(), request.headers),
        )
    })
    .await;
    let cache = TokenCache::new();
    let config = config(&server);
    let tracker = Tracker::new(config.clone(), &cache).unwrap();
    let mut shown = format!("{tracker:?} {cache:?} {config:?}");
    for error in [
        tracker.list_sessions(SPACE).await.unwrap_err(),
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
