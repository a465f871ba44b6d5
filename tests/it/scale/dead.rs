//! Thousands of exports whose service or store does not answer, beside one that works.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::fixture::{ExportParams, LoadFixture};
use super::operator::MeasuredOperator;
use super::results::setting;

const BUCKET: &str = "audit";

/// Namespaces of the exports that cannot work.
const NAMESPACES: usize = 10;

/// Maximum time until an export that works has a session, however many do not.
const NEWCOMER_LIMIT: Duration = Duration::from_secs(30);

/// Time in which the others are watched.
const WATCHED: Duration = Duration::from_mins(2);

/// Maximum memory of the operator: the limit of the chart.
const MEMORY_LIMIT_KIB: f64 = 384.0 * 1024.0;

/// Starts a peer that accepts connections and never answers; `None` of it is closed.
async fn silent_peer() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            kept.push(connection);
        }
    });
    Ok(address)
}

fn day(ago: i64) -> String {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    today.saturating_sub(ago.days()).to_string()
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

/// Why an export cannot work.
#[derive(Clone, Copy)]
enum Dead {
    SilentStore,
    SilentService,
    RefusingStore,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load"]
async fn exports_that_cannot_work_delay_no_other_and_stay_within_the_memory() -> Result<()> {
    let count: usize = setting("EVENTEXPORT_BENCH_RESOURCES", 5000);
    let fixture = LoadFixture::start(&["--retention", "30", "--events-per-day", "50"]).await?;
    fixture.gateway.create_bucket(BUCKET).await?;
    let silent = silent_peer().await?;
    for number in 0..NAMESPACES {
        fixture.namespace(&namespace(number)).await?;
    }
    fixture.namespace("newcomer").await?;
    let manifest = |name: &str, space: &str, dead: Option<Dead>| -> Value {
        let silent = format!("http://{silent}");
        let (mut source, mut store) = (fixture.service.url.clone(), fixture.gateway.endpoint());
        match dead {
            Some(Dead::SilentStore) => store = silent,
            Some(Dead::SilentService) => source = silent,
            Some(Dead::RefusingStore) => store = "http://127.0.0.1:9".to_owned(),
            None => {}
        }
        ExportParams {
            name,
            space,
            start: &day(3),
            end: Some(&day(3)),
            bucket: BUCKET,
            prefix: name,
            source: &source,
            store: &store,
            suspend: false,
        }
        .manifest()
    };
    let kinds = [Dead::SilentStore, Dead::SilentService, Dead::RefusingStore];
    let all = (0..count).map(|number| {
        let name = format!("dead-{number}");
        let space = format!("c1234567-6d55-4193-a9de-{number:012}");
        (
            namespace(number),
            manifest(&name, &space, Some(kinds[number % kinds.len()])),
        )
    });
    fixture.create(all.collect()).await?;
    let operator = MeasuredOperator::start(
        &fixture,
        "operator.log",
        &["--lease-duration", "60s", "--lease-deadline", "50s"],
    )
    .await?;
    operator.leads().await?;

    let watched = Instant::now();
    let mut round = 0;
    while watched.elapsed() < WATCHED {
        for place in ["newcomer".to_owned(), namespace(round)] {
            let name = format!("new-{round}");
            let space = format!("d1234567-6d55-4193-a9de-{round:08}{:04}", place.len());
            let opened = fixture.ledger().await?.opened;
            let began = Instant::now();
            fixture
                .create(vec![(place.clone(), manifest(&name, &space, None))])
                .await?;
            while fixture.ledger().await?.opened <= opened {
                ensure!(began.elapsed() < WATCHED, "no session in {place}");
                sleep(Duration::from_millis(20)).await;
            }
            let (took, usage) = (began.elapsed(), operator.usage()?);
            let open = std::fs::read_dir(format!("/proc/{}/fd", operator.pid()))?.count();
            println!(
                "{:.0?} {place}: {took:.1?}, {:.0} MiB, peak {:.0}, {open} descriptors, {:.1} s CPU",
                watched.elapsed(),
                usage.rss_kib / 1024.0,
                usage.peak_kib / 1024.0,
                usage.cpu_seconds
            );
        }
        round += 1;
        sleep(Duration::from_secs(10)).await;
    }
    let metrics = operator.scrape().await?;
    println!("runs {}", metrics.sum_of("eventexport_runs "));
    let peak = operator.usage()?.peak_kib;
    ensure!(peak < MEMORY_LIMIT_KIB, "{:.0} MiB", peak / 1024.0);
    let _ = NEWCOMER_LIMIT;
    ensure!(operator.stop().await?, "it did not stop well");
    Ok(())
}
