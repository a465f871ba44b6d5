//! Exports whose service or store does not answer, beside some that work.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::fixture::{ExportParams, LoadFixture};
use super::operator::MeasuredOperator;
use super::results::{LoadResults, setting};

const BUCKET: &str = "audit";

/// Namespaces of the exports that cannot work.
const NAMESPACES: usize = 10;

/// Maximum time until an export that works has a session, however many others do not. An unoptimized program beside other
/// tests takes seconds.
const SESSION_LIMIT: Duration = Duration::from_mins(1);

/// Maximum memory of the operator: the limit of the chart.
const MEMORY_LIMIT_KIB: f64 = 384.0 * 1024.0;

/// Pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_secs(5);

/// Generous lease, because the machine also runs everything else.
const LEASE_FLAGS: [&str; 4] = ["--lease-duration", "60s", "--lease-deadline", "50s"];

/// Why an export cannot work.
#[derive(Clone, Copy)]
enum Defect {
    SilentStore,
    SilentService,
    RefusingStore,
}

const DEFECTS: [Defect; 3] = [Defect::SilentStore, Defect::SilentService, Defect::RefusingStore];

/// Starts a peer that accepts connections and never answers.
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

/// Returns the address of a peer that refuses connections.
async fn refusing_peer() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?)
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

struct Peers<'a> {
    fixture: &'a LoadFixture,
    silent: SocketAddr,
    refusing: SocketAddr,
}

impl Peers<'_> {
    /// Returns an export of a single day, of a space of its own.
    fn manifest(&self, name: &str, space: usize, defect: Option<Defect>) -> Value {
        let (mut source, mut store) = (self.fixture.service.url.clone(), self.fixture.gateway.endpoint());
        match defect {
            Some(Defect::SilentStore) => store = format!("http://{}", self.silent),
            Some(Defect::SilentService) => source = format!("http://{}", self.silent),
            Some(Defect::RefusingStore) => store = format!("http://{}", self.refusing),
            None => {}
        }
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let day = today.saturating_sub(3.days()).to_string();
        ExportParams {
            name,
            space: &format!("c1234567-6d55-4193-a9de-{space:012}"),
            start: &day,
            end: Some(&day),
            bucket: BUCKET,
            prefix: name,
            source: &source,
            store: &store,
            suspend: false,
        }
        .manifest()
    }
}

/// Applies `count` exports that cannot work, and in each round one that works in a namespace of its own and one in a
/// namespace of the others. Fails if these wait, or if the operator takes more memory than the chart allows.
async fn measure(count: usize, rounds: usize) -> Result<()> {
    let fixture = LoadFixture::start(&["--retention", "30", "--events-per-day", "50"]).await?;
    fixture.gateway.create_bucket(BUCKET).await?;
    let peers = Peers {
        fixture: &fixture,
        silent: silent_peer().await?,
        refusing: refusing_peer().await?,
    };
    for number in 0..NAMESPACES {
        fixture.namespace(&namespace(number)).await?;
    }
    fixture.namespace("newcomer").await?;
    let all = (0..count).map(|number| {
        let defect = DEFECTS[number % DEFECTS.len()];
        (
            namespace(number),
            peers.manifest(&format!("dead-{number}"), number, Some(defect)),
        )
    });
    fixture.create(all.collect()).await?;
    let operator = MeasuredOperator::start(&fixture, "operator.log", &LEASE_FLAGS).await?;
    operator.leads().await?;

    let mut results = LoadResults::new();
    for round in 0..rounds {
        for (kind, place) in [("other", "newcomer".to_owned()), ("same", namespace(round))] {
            let name = format!("works-{round}");
            let manifest = peers.manifest(&name, count + 2 * round + kind.len(), None);
            let opened = fixture.ledger().await?.opened;
            let began = Instant::now();
            fixture.create(vec![(place.clone(), manifest)]).await?;
            while fixture.ledger().await?.opened <= opened {
                ensure!(
                    began.elapsed() < SESSION_LIMIT,
                    "no session after {SESSION_LIMIT:?} in {place}, round {round}"
                );
                sleep(Duration::from_millis(20)).await;
            }
            let took = began.elapsed().as_secs_f64();
            results.add(
                count,
                "dead",
                &format!("session_in_{kind}_namespace_{round}"),
                "s",
                took,
            );
        }
        sleep(ROUND_PAUSE).await;
    }
    let usage = operator.usage()?;
    results.add(count, "dead", "rss_peak", "KiB", usage.peak_kib);
    results.add(count, "dead", "cpu", "s", usage.cpu_seconds);
    results.add_load(count, "dead");
    results.write()?;
    ensure!(
        usage.peak_kib < MEMORY_LIMIT_KIB,
        "{:.0} MiB of memory",
        usage.peak_kib / 1024.0
    );
    ensure!(operator.stop().await?, "it did not stop well");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_works_does_not_wait_for_hundreds_that_cannot() -> Result<()> {
    measure(450, 2).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load: `cargo test --test it -- --ignored scale::dead`"]
async fn an_export_that_works_does_not_wait_for_thousands_that_cannot() -> Result<()> {
    measure(setting("EVENTEXPORT_BENCH_RESOURCES", 5000), 6).await
}
