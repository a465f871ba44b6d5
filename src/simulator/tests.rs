//! Tests of the simulator over HTTP.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use jiff::civil::{Date, date};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use super::*;

mod faults;
mod strictness;

const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";
/// A Thursday.
const DAY: Date = date(2018, 6, 28);
const TIMEOUT: Duration = Duration::from_secs(5);

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
        Self::with_timeout(settings, TIMEOUT).await
    }

    async fn with_timeout(settings: Settings, timeout: Duration) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(timeout)
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
        let reply = self.create(&create_body(day, day, hour)).send().await.unwrap();
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

fn create_body(start: Date, end: Date, hour: &str) -> Value {
    json!({"start": start.to_string(), "end": end.to_string(), "AtAccountLevel": false, "SearchTime": hour})
}

fn lines(body: &[u8]) -> Vec<String> {
    let mut text = String::new();
    MultiGzDecoder::new(body).read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn expected_body(simulator: &Simulator, hour: Option<u8>) -> Vec<u8> {
    simulator
        .body_of(SPACE, false, DAY, hour)
        .flat_map(|piece| piece.to_vec())
        .collect()
}

#[tokio::test]
async fn a_download_follows_the_seed_and_is_in_the_ledger() {
    let client = Client::new(settings()).await;
    let id = client.session(DAY, "").await;
    let reply = client.download(&id).send().await.unwrap();
    let body = reply.bytes().await.unwrap();
    assert_eq!(body, expected_body(&client.simulator, None));
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
    assert_eq!(ledger.deletes_not_found, 1);
    assert_eq!(ledger.requests_of(RequestKind::Download), 3);
    let download = ledger.downloads_of("2018-06-28");
    assert_eq!(
        (download.replies, download.resumed, download.completed),
        (2, 1, 2)
    );
    assert_eq!(download.bytes, 2 * body.len() as u64 - 1000);
    assert_eq!(ledger.violations, Vec::<String>::new());
    client.simulator.stop().await;
}

#[tokio::test]
async fn hours_add_up_to_the_day_and_match_the_listing() {
    let client = Client::new(settings()).await;
    let day: BTreeSet<String> = lines(&expected_body(&client.simulator, None))
        .into_iter()
        .collect();
    let hours: BTreeSet<String> = (0..24)
        .flat_map(|hour| lines(&expected_body(&client.simulator, Some(hour))))
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
    assert_eq!(dates, workdays, "days without events are omitted");
    let row = &rows[5];
    assert_eq!(row["COUNT"], 240);
    assert_eq!(row["SIZE"], expected_body(&client.simulator, None).len());
}

#[tokio::test]
async fn late_events_make_a_superset_and_another_seed_makes_other_bytes() {
    let one = Simulator::start(settings()).await.unwrap();
    let same = Simulator::start(settings()).await.unwrap();
    let other = Simulator::start(Settings {
        seed: 2,
        ..settings()
    })
    .await
    .unwrap();
    let before = expected_body(&one, None);
    assert_eq!(before, expected_body(&same, None));
    assert_ne!(before, expected_body(&other, None));
    one.grow_day(DAY, 100);
    let (before, after) = (lines(&before), lines(&expected_body(&one, None)));
    assert_eq!(after.len(), before.len() + 100);
    let after_set: BTreeSet<&String> = after.iter().collect();
    assert!(before.iter().all(|line| after_set.contains(line)));
    assert_ne!(before, after[..before.len()]);
}

#[tokio::test]
async fn expired_days_and_unfinished_hours_have_no_events() {
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
        "the account has more events"
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
    assert_eq!(one, other, "the account has the same events in every space");
}

#[tokio::test]
async fn users_log_in_refresh_and_expire() {
    let mut short = settings();
    // Longer than a request takes on a busy machine.
    short.token_lifetime = Duration::from_secs(2);
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
    tokio::time::sleep(Duration::from_millis(2_100)).await;
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
        "a rotated token is valid for one use"
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
    let full = client.create(&create_body(DAY, DAY, "")).send().await.unwrap();
    assert_eq!(
        (full.status().as_u16(), &full.headers()["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    let owned: Value = client
        .request(Method::GET, "/v3/sessions")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(owned.as_array().unwrap().len(), 1);
    assert_eq!(owned[0]["search-time"], "7");
    assert_eq!(
        owned[0]["date-range"],
        json!({"Start": "2018-06-28", "End": "2018-06-28"})
    );
    let ledger = client.simulator.ledger();
    assert_eq!(
        (
            ledger.max_open,
            ledger.open_now,
            ledger.other_users_open,
            ledger.refused_at_capacity
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
        .timeout(Duration::from_mins(1))
        .send()
        .await
        .unwrap();
    let mut bytes = 0;
    while let Some(chunk) = reply.chunk().await.unwrap() {
        bytes += chunk.len() as u64;
    }
    assert_eq!(bytes, body.len());
}

#[tokio::test]
async fn the_admin_api_reads_and_changes_the_simulator() {
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
