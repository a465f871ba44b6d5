//! All requests of an export are documented in docs/requests.md, and no others are sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use eventexport::egress::Traffic;
use eventexport::export::manifest::sign::Signing;
use eventexport::simulator::Settings;
use jiff::civil::{Date, date};

use super::{PeerAddresses, WindowFixture};
use crate::export::fixture::{SPACE, settings};
use crate::testkit::proxy::Wire;
use crate::testkit::service::service_on;

/// Runs the export of a column of the table.
async fn scenario(name: &str) -> (u64, BTreeMap<String, u64>) {
    let days = |first: Date, last: Date, hour| WindowFixture::start(settings(), first, last, hour);
    let mut windows = match name {
        "a day" => days(date(2018, 6, 2), date(2018, 6, 2), None).await,
        "an hour" => days(date(2018, 6, 2), date(2018, 6, 2), Some(7)).await,
        // A Sunday, without events in the simulator, and the days around it.
        "an empty day" => {
            let quiet = service_on(date(2018, 6, 9));
            WindowFixture::start(quiet, date(2018, 6, 3), date(2018, 6, 3), None).await
        }
        "30 days" => {
            let late = Settings {
                today: Some(date(2018, 7, 2)),
                ..settings()
            };
            WindowFixture::start(late, date(2018, 5, 31), date(2018, 6, 29), None).await
        }
        // As an earlier process leaves it after the day timed out twice.
        "a day in hours" => {
            let split = days(date(2018, 6, 2), date(2018, 6, 2), None).await;
            let record =
                r#"{"schema":"eventexport.io/split/v1","why":"timed out","at":"2018-06-09T00:00:00Z"}"#;
            split.put("_journal/2018-06-02.split.json", record).await;
            split
        }
        other => panic!("no scenario {other}"),
    };
    // One at a time, so that no two windows share a request.
    windows.export.parallelism = 1;
    windows.signing = Signing::Disabled;
    let (snapshot, _, count) = windows.run(&windows.direct()).await;
    assert!(snapshot.complete, "{name}: {:#?}", snapshot.problems);
    let ledger = windows.simulator.ledger();
    assert_eq!(ledger.violations, Vec::<String>::new());
    let count = count.0.lock().unwrap();
    let asked: BTreeMap<String, u64> = count
        .iter()
        .map(|((peer, operation), times)| (format!("{peer} {operation}"), *times))
        .collect();
    // The counted requests are those that arrived.
    let sent: u64 = count
        .iter()
        .filter(|((peer, _), _)| *peer != "s3")
        .map(|(_, times)| times)
        .sum();
    assert_eq!(
        sent,
        ledger.requests.values().sum::<u64>(),
        "{asked:?} {:?}",
        ledger.requests
    );
    (snapshot.wanted, asked)
}

/// Parses the table of the documentation: counts of each request by column.
fn table(text: &str) -> (Vec<String>, BTreeMap<String, Vec<u64>>) {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect()
    };
    let mut rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| peer | request |"));
    let heading = cells(rows.next().expect("a table of requests"));
    let scenarios = heading[2..heading.len() - 1].to_vec();
    let mut counts = BTreeMap::new();
    for row in rows.skip(1).take_while(|line| line.starts_with('|')) {
        let row = cells(row);
        let numbers = row[2..row.len() - 1]
            .iter()
            .map(|cell| cell.parse().unwrap_or(0))
            .collect();
        counts.insert(format!("{} {}", row[0], row[1]), numbers);
    }
    (scenarios, counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_that_is_sent_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/requests.md");
    let text = fs::read_to_string(path).unwrap();
    let (scenarios, written) = table(&text);
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (column, name) in scenarios.iter().enumerate() {
        let (_, asked) = scenario(name).await;
        let all: BTreeSet<&String> = written.keys().chain(asked.keys()).collect();
        for request in all {
            let counts = found
                .entry(request.clone())
                .or_insert_with(|| vec![0; scenarios.len()]);
            counts[column] = asked.get(request).copied().unwrap_or(0);
        }
    }
    found.retain(|_, counts| counts.iter().any(|count| *count > 0));
    assert_eq!(found, written, "{scenarios:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_reused_at_once_but_not_after_idling() {
    let windows = WindowFixture::start(settings(), date(2018, 6, 2), date(2018, 6, 2), None).await;
    let proxies = windows.remote(|| Wire::new(Duration::ZERO, false)).await;
    let peers = PeerAddresses::of(&proxies);
    let [service, store] = proxies;
    let (snapshot, _, _) = windows.run(&peers).await;
    assert!(snapshot.complete, "{:#?}", snapshot.problems);
    // Seven requests and sixteen; on a slow machine one connection may time out.
    assert!(service.connections() <= 3, "{}", service.connections());
    assert!(store.connections() <= 4, "{}", store.connections());

    // A separate client: requests that must not be ambiguous never use an idle connection, which the service might
    // close.
    let before = service.connections();
    let tracker = WindowFixture::tracker(&peers, Traffic::default());
    tracker.list_sessions(SPACE).await.unwrap();
    let between = service.connections();
    // Three requests; one may start just before the previous connection is free.
    assert!(between - before <= 2, "{before} and {between}");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    tracker.list_sessions(SPACE).await.unwrap();
    assert!(service.connections() > between, "{between}");
}
