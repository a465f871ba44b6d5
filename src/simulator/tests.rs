//! The promises of the simulator, met over sockets as its users do.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use futures::StreamExt as _;
use jiff::civil::{Date, date};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use super::*;

const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";
/// A Thursday.
const DAY: Date = date(2018, 6, 28);
const PATIENCE: Duration = Duration::from_secs(5);

fn settings() -> Settings {
    Settings {
        today: Some(date(2018, 7, 2)),
        retention_days: 30,
        ..Settings::default()
    }
}

struct Client {
    simulator: Simulator,
    http: reqwest::Client,
}

impl Client {
    async fn new(settings: Settings) -> Self {
        Self::patient(settings, PATIENCE).await
    }

    async fn patient(settings: Settings, patience: Duration) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(patience)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            simulator: Simulator::start(settings).await.unwrap(),
            http,
        }
    }

    fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, self.simulator.url().join(path).unwrap())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path)
            .header("X-Auth-Token", format!("bearer {READY_TOKEN}"))
            .header("X-Auth-Project-Id", SPACE)
    }

    fn create(&self, body: &Value) -> RequestBuilder {
        self.request(Method::POST, "/v3/sessions").json(body)
    }

    async fn session(&self, day: Date, hour: &str) -> String {
        let reply = self.create(&asked(day, day, hour)).send().await.unwrap();
        assert_eq!(reply.status(), 200);
        let session: Value = reply.json().await.unwrap();
        session["id"].as_str().unwrap().to_owned()
    }

    fn download(&self, id: &str) -> RequestBuilder {
        self.request(Method::GET, "/v3/events/download")
            .header("SESSIONID", id)
    }

    async fn listing(&self) -> Result<Response, reqwest::Error> {
        let body = json!({"start": "2018-06-21", "end": "2018-06-30", "AtAccountLevel": false});
        self.request(Method::GET, "/v3/events").json(&body).send().await
    }

    async fn login(&self, form: &[(&str, &str)]) -> Result<Response, reqwest::Error> {
        self.bare(Method::POST, "/oauth/token")
            .basic_auth("cf", Some(""))
            .form(form)
            .send()
            .await
    }
}

fn asked(start: Date, end: Date, hour: &str) -> Value {
    json!({"start": start.to_string(), "end": end.to_string(), "AtAccountLevel": false, "SearchTime": hour})
}

fn lines(body: &[u8]) -> Vec<String> {
    let mut text = String::new();
    MultiGzDecoder::new(body).read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn whole(simulator: &Simulator, hour: Option<u8>) -> Vec<u8> {
    simulator
        .body_of(SPACE, false, DAY, hour)
        .flat_map(|piece| piece.to_vec())
        .collect()
}

#[tokio::test]
async fn a_session_downloads_what_the_seed_says_and_the_ledger_knows() {
    let client = Client::new(settings()).await;
    let id = client.session(DAY, "").await;
    let reply = client.download(&id).send().await.unwrap();
    let body = reply.bytes().await.unwrap();
    assert_eq!(body, whole(&client.simulator, None));
    assert_eq!(lines(&body).len(), 240);

    let rest = client
        .download(&id)
        .header("Range", "bytes=1000-")
        .send()
        .await
        .unwrap();
    assert_eq!(rest.status(), 206);
    assert_eq!(
        rest.headers()["content-range"],
        format!("bytes 1000-{}/{}", body.len() - 1, body.len())
    );
    assert_eq!(rest.bytes().await.unwrap(), body[1000..]);
    let past = client
        .download(&id)
        .header("Range", format!("bytes={}-", body.len()))
        .send()
        .await
        .unwrap();
    assert_eq!(past.status(), 416);

    let path = format!("/v3/sessions/{id}");
    assert_eq!(
        client.request(Method::GET, &path).send().await.unwrap().status(),
        200
    );
    let deleted: Value = client
        .request(Method::DELETE, &path)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(deleted["message"], "Delete session success");
    assert_eq!(
        client
            .request(Method::DELETE, &path)
            .send()
            .await
            .unwrap()
            .status(),
        404
    );

    let ledger = client.simulator.ledger();
    assert_eq!(
        (ledger.opened, ledger.deleted, ledger.open_now, ledger.max_open),
        (1, 1, 0, 1)
    );
    assert_eq!(ledger.deletes_of_nothing, 1);
    assert_eq!(ledger.requests_of(Kind::Download), 3);
    let download = ledger.downloads_of("2018-06-28");
    assert_eq!(
        (download.answers, download.resumed, download.completed),
        (2, 1, 2)
    );
    assert_eq!(download.bytes, 2 * body.len() as u64 - 1000);
    assert_eq!(ledger.violations, Vec::<String>::new());
    client.simulator.stop().await;
}

#[tokio::test]
async fn hours_add_up_to_the_day_and_the_listing_says_so() {
    let client = Client::new(settings()).await;
    let day: BTreeSet<String> = lines(&whole(&client.simulator, None)).into_iter().collect();
    let hours: BTreeSet<String> = (0..24)
        .flat_map(|hour| lines(&whole(&client.simulator, Some(hour))))
        .collect();
    assert_eq!(day, hours);
    let rows: Value = client.listing().await.unwrap().json().await.unwrap();
    let dates: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["DATE"].as_str().unwrap())
        .collect();
    let workdays = ["21", "22", "25", "26", "27", "28", "29"].map(|day| format!("2018-06-{day}"));
    assert_eq!(dates, workdays, "days without events are left out");
    let row = &rows[5];
    assert_eq!(row["COUNT"], 240);
    assert_eq!(row["SIZE"], whole(&client.simulator, None).len());
}

#[tokio::test]
async fn late_events_make_a_superset_and_another_seed_other_bytes() {
    let one = Simulator::start(settings()).await.unwrap();
    let same = Simulator::start(settings()).await.unwrap();
    let other = Simulator::start(Settings {
        seed: 2,
        ..settings()
    })
    .await
    .unwrap();
    let before = whole(&one, None);
    assert_eq!(before, whole(&same, None));
    assert_ne!(before, whole(&other, None));
    one.grow_day(DAY, 100);
    let (before, after) = (lines(&before), lines(&whole(&one, None)));
    assert_eq!(after.len(), before.len() + 100);
    let after_set: BTreeSet<&String> = after.iter().collect();
    assert!(before.iter().all(|line| after_set.contains(line)));
    assert_ne!(before, after[..before.len()]);
}

#[tokio::test]
async fn days_that_are_gone_or_not_over_have_no_events() {
    let client = Client::new(settings()).await;
    let events = |day, hour| client.simulator.body_of(SPACE, false, day, hour).events();
    assert_eq!(events(date(2018, 6, 2), None), 0, "31 days ago");
    assert_eq!(events(date(2018, 6, 4), None), 240);
    assert!(events(date(2018, 7, 2), Some(11)) > 0, "today, before noon");
    assert_eq!(events(date(2018, 7, 2), Some(12)), 0, "today, from noon on");
    assert_eq!(events(date(2018, 7, 3), None), 0);
    assert_eq!(
        client.simulator.body_of(SPACE, true, DAY, None).events(),
        480,
        "the account has more"
    );
    let other = client
        .simulator
        .body_of("another", true, DAY, None)
        .collect::<Vec<_>>()
        .concat();
    let one = client
        .simulator
        .body_of(SPACE, true, DAY, None)
        .collect::<Vec<_>>()
        .concat();
    assert_eq!(one, other, "the account is the same through every space");
}

#[tokio::test]
async fn a_request_that_breaks_the_protocol_is_refused_and_noted() {
    let mut strict = settings();
    strict.spaces = vec![SPACE.to_owned()];
    let client = Client::new(strict).await;
    let good = || asked(DAY, DAY, "");
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
    let refused: Vec<(u16, &str, RequestBuilder)> = vec![
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
        (403, "no space", other_space.json(&good())),
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
            "takes no body",
            client.request(Method::GET, "/v3/sessions").json(&good()),
        ),
        (405, "PUT", client.request(Method::PUT, "/v3/sessions")),
        (404, "there is no", client.request(Method::GET, "/v3/nothing")),
        (
            403,
            "another user's",
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
    let count = refused.len() as u64;
    for (status, words, request) in refused {
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), status, "{words}");
        let message: Value = reply.json().await.unwrap();
        assert!(message["message"].as_str().unwrap().contains(words), "{message}");
    }
    let ledger = client.simulator.ledger();
    assert_eq!(ledger.violation_count, count, "{:?}", ledger.violations);
    assert_eq!(
        (ledger.opened, ledger.people_open, ledger.people_deleted),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn sound_requests_that_are_refused_are_no_violations() {
    let mut restricted = settings();
    restricted.users[0].account = false;
    restricted.users[1].developer = false;
    let client = Client::new(restricted).await;
    let mut account = asked(DAY, DAY, "");
    account["AtAccountLevel"] = json!(true);
    assert_eq!(client.create(&account).send().await.unwrap().status(), 403);
    let theirs = client.simulator.token_of(DEFAULT_PERSON);
    let list = |token: &str| {
        let request = client
            .bare(Method::GET, "/v3/sessions")
            .header("X-Auth-Project-Id", SPACE);
        request.header("X-Auth-Token", format!("bearer {token}")).send()
    };
    assert_eq!(list(&theirs).await.unwrap().status(), 403, "not a developer");
    assert_eq!(list("stale").await.unwrap().status(), 401);
    assert_eq!(client.simulator.ledger().violation_count, 0);
}

#[tokio::test]
async fn users_log_in_refresh_and_expire() {
    let mut short = settings();
    short.token_lifetime = Duration::from_millis(80);
    let client = Client::new(short).await;
    let info: Value = client
        .bare(Method::GET, "/v2/info")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        format!("{}/", info["authorization_endpoint"].as_str().unwrap()),
        client.simulator.url().as_str()
    );
    let key = [
        ("grant_type", "password"),
        ("username", "apikey"),
        ("password", DEFAULT_API_KEY),
    ];
    let by_key: Value = client.login(&key).await.unwrap().json().await.unwrap();
    let password = [
        ("grant_type", "password"),
        ("username", DEFAULT_USER),
        ("password", DEFAULT_PASSWORD),
    ];
    assert_eq!(client.login(&password).await.unwrap().status(), 200);
    let wrong = [
        ("grant_type", "password"),
        ("username", DEFAULT_USER),
        ("password", "wrong"),
    ];
    assert_eq!(client.login(&wrong).await.unwrap().status(), 401);

    let list = |token: &Value| {
        let request = client
            .bare(Method::GET, "/v3/sessions")
            .header("X-Auth-Project-Id", SPACE);
        request
            .header(
                "X-Auth-Token",
                format!("bearer {}", token["access_token"].as_str().unwrap()),
            )
            .send()
    };
    assert_eq!(list(&by_key).await.unwrap().status(), 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(list(&by_key).await.unwrap().status(), 401);

    client.simulator.add_preset("uaa-rotates").unwrap();
    let refresh = [
        ("grant_type", "refresh_token"),
        ("refresh_token", by_key["refresh_token"].as_str().unwrap()),
    ];
    let fresh: Value = client.login(&refresh).await.unwrap().json().await.unwrap();
    assert_eq!(list(&fresh).await.unwrap().status(), 200);
    assert_ne!(fresh["refresh_token"], by_key["refresh_token"]);
    assert_eq!(
        client.login(&refresh).await.unwrap().status(),
        401,
        "a rotated token is good for one use"
    );
    let ledger = client.simulator.ledger();
    assert_eq!(
        (ledger.logins, ledger.refreshes, ledger.logins_refused),
        (2, 1, 2)
    );
}

#[tokio::test]
async fn a_space_holds_thirty_sessions_of_all_users() {
    let client = Client::new(settings()).await;
    client.simulator.open_sessions_as(DEFAULT_PERSON, SPACE, 29);
    client.session(DAY, "7").await;
    let full = client.create(&asked(DAY, DAY, "")).send().await.unwrap();
    assert_eq!(
        (full.status().as_u16(), &full.headers()["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    let mine: Value = client
        .request(Method::GET, "/v3/sessions")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(mine.as_array().unwrap().len(), 1);
    assert_eq!(mine[0]["search-time"], "7");
    assert_eq!(
        mine[0]["date-range"],
        json!({"Start": "2018-06-28", "End": "2018-06-28"})
    );
    let ledger = client.simulator.ledger();
    assert_eq!(
        (
            ledger.max_open,
            ledger.open_now,
            ledger.people_open,
            ledger.refused_full
        ),
        (30, 1, 29, 1)
    );
}

#[tokio::test]
async fn a_large_day_streams_from_few_bytes() {
    let mut large = settings();
    large.volume.days.insert(DAY, 3_000_000);
    large.gzip.level = 1;
    let client = Client::new(large).await;
    let body = client.simulator.body_of(SPACE, false, DAY, None);
    assert_eq!(body.events(), 3_000_000);
    assert!(body.len() > 200 << 20, "{}", body.len());
    let id = client.session(DAY, "").await;
    let mut reply = client
        .download(&id)
        .timeout(Duration::from_secs(60))
        .send()
        .await
        .unwrap();
    let mut bytes = 0;
    while let Some(chunk) = reply.chunk().await.unwrap() {
        bytes += chunk.len() as u64;
    }
    assert_eq!(bytes, body.len());
}

/// Makes every request once, as an exporter would, and again where that gives a fault its chance.
async fn rounds(client: &Client) {
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
    let quiet = date(2018, 6, 23);
    let gone = date(2018, 1, 4);
    for day in [DAY, quiet, gone] {
        let created = send(client.create(&asked(day, day, ""))).await;
        // Where the reply was lost, the session is known all the same.
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
async fn every_preset_befalls_a_request_of_an_exporter() {
    const AT_ONCE: usize = 12;
    let each = |(name, _): (&'static str, _)| async move {
        let mut small = settings();
        small.volume.events_per_day = 48;
        let client = Client::patient(small, Duration::from_millis(700)).await;
        if name.starts_with("capacity-") {
            client
                .simulator
                .open_sessions_as(DEFAULT_PERSON, SPACE, SESSION_LIMIT);
        }
        client.simulator.add_preset(name).unwrap();
        // On a busy machine a request may run out of time before its fault: another round.
        for _ in 0..4 {
            rounds(&client).await;
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

/// What each way to break a body looks like from outside: status, bytes, and whether HTTP calls it whole.
#[tokio::test]
async fn bodies_break_as_their_faults_say() {
    let reference = Simulator::start(settings()).await.unwrap();
    let half = whole(&reference, None).len() / 2;
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
    for (name, status, bytes, ended_well) in cases {
        let client = Client::patient(settings(), Duration::from_millis(1500)).await;
        client.simulator.add_preset(name).unwrap();
        let id = client.session(DAY, "").await;
        let mut reply = client.download(&id).send().await.unwrap();
        assert_eq!(reply.status(), status, "{name}");
        let mut body = Vec::new();
        let ended = loop {
            match reply.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        assert_eq!(ended, ended_well, "{name}");
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
async fn a_lost_answer_leaves_its_session_and_a_redirect_betrays_a_token() {
    let client = Client::new(settings()).await;
    client.simulator.add_preset("create-reply-lost").unwrap();
    assert!(client.create(&asked(DAY, DAY, "")).send().await.is_err());
    assert_eq!(client.simulator.ledger().open_now, 1);

    client.simulator.add_preset("redirect").unwrap();
    let reply = client.request(Method::GET, "/v3/sessions").send().await.unwrap();
    let there = reply.headers()["location"].to_str().unwrap().to_owned();
    assert!(there.starts_with("http://localhost:"), "{there}");
    let mark = there.split_once('?').unwrap().1;
    let followed = client.request(Method::GET, &format!("/v3/sessions?{mark}"));
    assert_eq!(followed.send().await.unwrap().status(), 400);
    assert_eq!(client.simulator.ledger().violation_count, 1);
}

#[tokio::test]
async fn another_process_reads_and_changes_it_over_http() {
    let client = Client::new(settings()).await;
    let put = client.bare(Method::PUT, "/simulator/faults").json(&json!([
        "cut@2018-06-28x2",
        {"effect": {"status": {"status": 503, "message": "m"}}, "on": ["show"], "times": 1},
        {"effect": "login-page"}
    ]));
    assert_eq!(
        put.send().await.unwrap().json::<Value>().await.unwrap(),
        json!({"faults": 3})
    );
    let bad = client
        .bare(Method::PUT, "/simulator/faults")
        .json(&json!(["cutt"]))
        .send()
        .await
        .unwrap();
    assert!(bad.text().await.unwrap().contains("cutt"));
    let persons = json!({"user": DEFAULT_PERSON, "space": SPACE, "count": 3});
    let ids = client
        .bare(Method::POST, "/simulator/sessions")
        .json(&persons)
        .send()
        .await
        .unwrap();
    assert_eq!(ids.json::<Vec<String>>().await.unwrap().len(), 3);
    let grown = json!({"date": "2018-06-28", "events": 5});
    assert_eq!(
        client
            .bare(Method::POST, "/simulator/grow")
            .json(&grown)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(client.simulator.body_of(SPACE, false, DAY, None).events(), 245);
    let ledger = client
        .bare(Method::GET, "/simulator/ledger")
        .send()
        .await
        .unwrap();
    assert_eq!(ledger.json::<Ledger>().await.unwrap(), client.simulator.ledger());
}
