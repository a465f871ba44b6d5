//! Thirty concurrent windows, with service and store 50 ms away: the time of each compared with its unavoidable round
//! trips. Too slow for every run: `bench/windows`.

use std::fmt::Write as _;
use std::time::Duration;

use eventexport::simulator::Settings;
use jiff::civil::date;

use super::{PeerAddresses, WindowFixture};
use crate::export::fixture::settings;
use crate::testkit::proxy::Wire;

/// Added latency per direction; 0 shows the time of this machine.
const ROUND_TRIPS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(50)];

/// Unavoidable sequential round trips of a window, without handshakes: see docs/requests.md.
const MIN_ROUND_TRIPS_PER_WINDOW: u32 = 11;
/// Those during which no other window of the space may be in the same step.
const MIN_ROUND_TRIPS_PER_TURN: u32 = 5;

async fn measured(rows: &mut String, round_trip: Duration, tls: bool, days: bool) -> f64 {
    let parallelism = if days { 30 } else { 1 };
    let name = format!(
        "{} {} {} ms",
        if days { "30 days at once" } else { "1 day" },
        if tls { "TLS" } else { "plain" },
        round_trip.as_millis()
    );
    let late = Settings {
        today: Some(date(2018, 7, 2)),
        ..settings()
    };
    let mut windows = if days {
        WindowFixture::start(late, date(2018, 5, 31), date(2018, 6, 29), None).await
    } else {
        WindowFixture::start(late, date(2018, 6, 1), date(2018, 6, 1), None).await
    };
    windows.export.parallelism = parallelism;
    let peers = windows.remote(|| Wire::new(round_trip, tls)).await;
    let addresses = PeerAddresses::of(&peers);
    let (snapshot, took, count) = windows.run(&addresses).await;
    assert!(snapshot.complete, "{name}: {:#?}", snapshot.problems);
    let windows = u32::try_from(snapshot.wanted).unwrap();
    let asked = |store: bool| -> u32 {
        let count = count.0.lock().unwrap();
        let of_peer = count.iter().filter(|((peer, _), _)| (*peer == "s3") == store);
        u32::try_from(of_peer.map(|(_, times)| times).sum::<u64>()).unwrap()
    };
    let number = |count: usize| f64::from(u32::try_from(count).unwrap());
    let each = took.as_secs_f64() / f64::from(windows);
    for (metric, unit, value) in [
        ("elapsed", "s", took.as_secs_f64()),
        ("per window", "s", each),
        ("requests to the service", "1", f64::from(asked(false))),
        ("requests to the store", "1", f64::from(asked(true))),
        ("connections to the service", "1", number(peers[0].connections())),
        ("connections to the store", "1", number(peers[1].connections())),
    ] {
        let _ = writeln!(rows, "{name},{metric},{unit},{value:.3}");
    }
    each
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: bench/windows"]
async fn window_duration_by_round_trip_time() {
    let mut rows = "scenario,metric,unit,value\n".to_owned();
    for (tls, days) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut each = Vec::new();
        for round_trip in ROUND_TRIPS {
            each.push(measured(&mut rows, round_trip, tls, days).await);
        }
        let trips = (each[1] - each[0]) / ROUND_TRIPS[1].as_secs_f64();
        let floor = if days {
            MIN_ROUND_TRIPS_PER_TURN
        } else {
            MIN_ROUND_TRIPS_PER_WINDOW
        };
        let name = format!(
            "{} {}",
            if days { "30 days at once" } else { "1 day" },
            if tls { "TLS" } else { "plain" }
        );
        let _ = writeln!(
            rows,
            "{name},round trips per window beside this machine's own time,1,{trips:.3}"
        );
        let _ = writeln!(rows, "{name},floor of a window once a process is going,1,{floor}");
    }
    println!("{rows}");
    if let Some(path) = std::env::var_os("WINDOWS_CSV") {
        std::fs::write(path, rows).unwrap();
    }
}
