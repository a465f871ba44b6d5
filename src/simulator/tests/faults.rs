//! Every fault affects a request, and has the described effect.

use futures::StreamExt as _;

use super::*;

/// Sends every request of an exporter once, and some again so that a fault can affect them.
async fn send_every_request(client: &Client) {
    let send = |request: RequestBuilder| async move {
        let mut reply = request.send().await.ok()?;
        let (status, mut body) = (reply.status(), Vec::new());
        while let Ok(Some(chunk)) = reply.chunk().await {
            body.extend_from_slice(&chunk);
        }
        Some((status.as_u16(), body))
    };
    let _ = send(client.bare(Method::GET, "/v2/info")).await;
    let _ = client
        .login(&[
            ("grant_type", "password"),
            ("username", "apikey"),
            ("password", DEFAULT_API_KEY),
        ])
        .await;
    let _ = client
        .login(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", READY_REFRESH_TOKEN),
        ])
        .await;
    let _ = client.listing().await;
    // All retained days.
    let _ = send(client.request(Method::GET, "/v3/events")).await;
    let quiet = date(2018, 6, 23);
    let gone = date(2018, 1, 4);
    for day in [DAY, quiet, gone] {
        let created = send(client.create(&create_body(day, day, ""))).await;
        // The session exists even if the reply was lost.
        let open = client.simulator.open_sessions();
        let Some(id) = open
            .iter()
            .find(|open| open.start == day)
            .map(|open| open.id.clone())
        else {
            assert!(created.is_none_or(|(status, _)| status >= 300));
            continue;
        };
        let _ = send(client.request(Method::GET, "/v3/sessions")).await;
        let _ = send(client.request(Method::GET, &format!("/v3/sessions/{id}"))).await;
        let _ = send(client.download(&id)).await;
        let _ = send(client.download(&id).header("Range", "bytes=900-")).await;
        let _ = send(client.download(&id)).await;
        let _ = send(client.request(Method::DELETE, &format!("/v3/sessions/{id}"))).await;
        let _ = send(client.request(Method::DELETE, &format!("/v3/sessions/{id}"))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_preset_affects_a_request_of_an_exporter() {
    const AT_ONCE: usize = 12;
    let each = |(name, _): (&'static str, _)| async move {
        let mut small = settings();
        small.volume.events_per_day = 48;
        let client = Client::with_timeout(small, Duration::from_millis(700)).await;
        if name.starts_with("capacity-") {
            client
                .simulator
                .open_sessions_as(DEFAULT_PERSON, SPACE, SESSION_LIMIT);
        }
        client.simulator.add_preset(name).unwrap();
        // On a busy machine a request can time out before its fault, so repeat.
        for _ in 0..4 {
            send_every_request(&client).await;
            if client.simulator.ledger().faults.contains_key(name) {
                break;
            }
        }
        let ledger = client.simulator.ledger();
        assert!(ledger.faults.contains_key(name), "{name}: {:?}", ledger.faults);
        assert_eq!(ledger.violations, Vec::<String>::new(), "{name}");
    };
    futures::stream::iter(presets())
        .for_each_concurrent(AT_ONCE, each)
        .await;
}

/// Checks the status, the bytes and the HTTP completeness of each interrupted body.
#[tokio::test]
async fn bodies_break_as_their_faults_describe() {
    let reference = Simulator::start(settings()).await.unwrap();
    let half = expected_body(&reference, None).len() / 2;
    let cases: [(&str, u16, Option<usize>, bool); 9] = [
        ("cut", 200, Some(half), false),
        ("cut-at-start", 200, Some(0), false),
        ("cut-always", 200, Some(512), false),
        ("cut-chunked", 200, Some(half), false),
        ("cut-close-delimited", 200, Some(half), true),
        ("end-early", 200, Some(half), true),
        ("chunked", 200, Some(half * 2), true),
        ("not-gzip", 200, None, true),
        ("stall", 200, Some(half), false),
    ];
    for (name, status, bytes, complete) in cases {
        let client = Client::with_timeout(settings(), Duration::from_millis(1500)).await;
        client.simulator.add_preset(name).unwrap();
        let id = client.session(DAY, "").await;
        let mut reply = client.download(&id).send().await.unwrap();
        assert_eq!(reply.status(), status, "{name}");
        let mut body = Vec::new();
        let found_complete = loop {
            match reply.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        assert_eq!(found_complete, complete, "{name}");
        if let Some(bytes) = bytes {
            assert!(
                body.len().abs_diff(bytes) <= 1,
                "{name}: {} of {bytes}",
                body.len()
            );
        }
    }
}

#[tokio::test]
async fn a_lost_response_leaves_its_session_and_a_leaked_token_is_detected() {
    let client = Client::new(settings()).await;
    client.simulator.add_preset("create-reply-lost").unwrap();
    assert!(client.create(&create_body(DAY, DAY, "")).send().await.is_err());
    assert_eq!(client.simulator.ledger().open_now, 1);

    client.simulator.add_preset("redirect").unwrap();
    let reply = client.request(Method::GET, "/v3/sessions").send().await.unwrap();
    let location = reply.headers()["location"].to_str().unwrap().to_owned();
    assert!(location.starts_with("http://localhost:"), "{location}");
    let mark = location.split_once('?').unwrap().1;
    let followed = client.request(Method::GET, &format!("/v3/sessions?{mark}"));
    assert_eq!(followed.send().await.unwrap().status(), 400);
    assert_eq!(client.simulator.ledger().violation_count, 1);
}
