//! Rejected requests, and those among them that violate the protocol.

use super::*;

#[tokio::test]
async fn protocol_violations_are_rejected_and_recorded() {
    let mut strict = settings();
    strict.spaces = vec![SPACE.to_owned()];
    let client = Client::new(strict).await;
    let good = || create_body(DAY, DAY, "");
    let with = |name: &str, value: Value| {
        let mut body = good();
        body[name] = value;
        body
    };
    let token = || format!("bearer {READY_TOKEN}");
    let sessions = || client.bare(Method::POST, "/v3/sessions");
    let headers = || {
        sessions()
            .header("X-Auth-Token", token())
            .header("X-Auth-Project-Id", SPACE)
    };
    let id = client.session(DAY, "").await;
    let persons = client.simulator.open_sessions_as(DEFAULT_PERSON, SPACE, 1);
    let no_bearer = sessions()
        .header("X-Auth-Token", READY_TOKEN)
        .header("X-Auth-Project-Id", SPACE);
    let other_space = sessions()
        .header("X-Auth-Token", token())
        .header("X-Auth-Project-Id", "elsewhere");
    let rejected: Vec<(u16, &str, RequestBuilder)> = vec![
        (
            401,
            "X-Auth-Token is missing",
            sessions().header("X-Auth-Project-Id", SPACE).json(&good()),
        ),
        (401, "bearer", no_bearer.json(&good())),
        (
            400,
            "X-Auth-Project-Id",
            sessions().header("X-Auth-Token", token()).json(&good()),
        ),
        (403, "unknown space", other_space.json(&good())),
        (
            400,
            "more than once",
            headers().header("X-Auth-Token", token()).json(&good()),
        ),
        (415, "Content-Type", headers().body(good().to_string())),
        (
            400,
            "not JSON",
            headers().header("Content-Type", "application/json").body("{"),
        ),
        (400, "not a JSON object", client.create(&json!([]))),
        (
            400,
            "unknown field",
            client.create(&with("Start", json!("2018-06-28"))),
        ),
        (
            400,
            "start is not a date",
            client.create(&with("start", json!("2018-6-28"))),
        ),
        (
            400,
            "start is not a date",
            client.create(&with("start", json!("2018-02-30"))),
        ),
        (
            400,
            "end is not a date",
            client.create(&json!({"start": "2018-06-28"})),
        ),
        (
            400,
            "before start",
            client.create(&with("end", json!("2018-06-27"))),
        ),
        (400, "16 days", client.create(&with("start", json!("2018-06-13")))),
        (
            400,
            "AtAccountLevel",
            client.create(&with("AtAccountLevel", json!("true"))),
        ),
        (400, "SearchTime", client.create(&with("SearchTime", json!("07")))),
        (400, "SearchTime", client.create(&with("SearchTime", json!("24")))),
        (400, "SearchTime", client.create(&with("SearchTime", json!(7)))),
        (
            400,
            "SESSIONID",
            client.request(Method::GET, "/v3/events/download"),
        ),
        (400, "bytes=N-", client.download(&id).header("Range", "bytes=-5")),
        (
            400,
            "does not accept a body",
            client.request(Method::GET, "/v3/sessions").json(&good()),
        ),
        (405, "PUT", client.request(Method::PUT, "/v3/sessions")),
        (404, "unknown path", client.request(Method::GET, "/v3/nothing")),
        (
            403,
            "of another user",
            client.request(Method::DELETE, &format!("/v3/sessions/{}", persons[0])),
        ),
        (
            401,
            "cf",
            client
                .bare(Method::POST, "/oauth/token")
                .form(&[("grant_type", "password")]),
        ),
    ];
    let count = rejected.len() as u64;
    for (status, text, request) in rejected {
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), status, "{text}");
        let message: Value = reply.json().await.unwrap();
        assert!(message["message"].as_str().unwrap().contains(text), "{message}");
    }
    let ledger = client.simulator.ledger();
    assert_eq!(ledger.violation_count, count, "{:?}", ledger.violations);
    assert_eq!(
        (ledger.opened, ledger.other_users_open, ledger.other_users_deleted),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn rejected_valid_requests_are_not_violations() {
    let mut restricted = settings();
    restricted.users[0].account = false;
    restricted.users[1].developer = false;
    let client = Client::new(restricted).await;
    let mut account = create_body(DAY, DAY, "");
    account["AtAccountLevel"] = json!(true);
    assert_eq!(client.create(&account).send().await.unwrap().status(), 403);
    let other_token = client.simulator.token_of(DEFAULT_PERSON);
    let list = |token: &str| {
        let request = client
            .bare(Method::GET, "/v3/sessions")
            .header("X-Auth-Project-Id", SPACE);
        request.header("X-Auth-Token", format!("bearer {token}")).send()
    };
    assert_eq!(list(&other_token).await.unwrap().status(), 403, "not a developer");
    assert_eq!(list("stale").await.unwrap().status(), 401);
    assert_eq!(client.simulator.ledger().violation_count, 0);
}
