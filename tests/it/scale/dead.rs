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
    /// The store of all such exports does not answer; each has a bucket of its own.
    SilentStoreOwnBucket,
    /// One of eight stores that do not answer.
    OneOfSilentStores,
    /// The UAA of all such exports does not answer; the service and the store work.
    SilentUaa,
}

/// Exports that cannot work.
struct DeadExports {
    count: usize,
    namespaces: usize,
    defects: &'static [Defect],
}

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

impl DeadExports {
    /// Returns the namespace of one of the exports.
    fn namespace(&self, number: usize) -> String {
        format!("team-{}", number % self.namespaces)
    }
}

struct Peers<'a> {
    fixture: &'a LoadFixture,
    silent: SocketAddr,
    silent_stores: Vec<SocketAddr>,
    refusing: SocketAddr,
}

impl Peers<'_> {
    /// Returns an export of a single day, of a space of its own.
    fn manifest(&self, name: &str, space: usize, defect: Option<Defect>) -> Value {
        let (mut source, mut store) = (self.fixture.service.url.clone(), self.fixture.gateway.endpoint());
        let (mut bucket, mut uaa) = (BUCKET.to_owned(), None);
        match defect {
            Some(Defect::SilentStore) => store = format!("http://{}", self.silent),
            Some(Defect::SilentStoreOwnBucket) => {
                (store, bucket) = (format!("http://{}", self.silent), format!("{BUCKET}-{space}"));
            }
            Some(Defect::OneOfSilentStores) => {
                store = format!("http://{}", self.silent_stores[space % self.silent_stores.len()]);
            }
            Some(Defect::SilentUaa) => uaa = Some(format!("http://{}", self.silent)),
            Some(Defect::SilentService) => source = format!("http://{}", self.silent),
            Some(Defect::RefusingStore) => store = format!("http://{}", self.refusing),
            None => {}
        }
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let day = today.saturating_sub(3.days()).to_string();
        let mut manifest = ExportParams {
            name,
            space: &format!("c1234567-6d55-4193-a9de-{space:012}"),
            start: &day,
            end: Some(&day),
            bucket: &bucket,
            prefix: name,
            source: &source,
            store: &store,
            suspend: false,
        }
        .manifest();
        if let Some(uaa) = uaa {
            manifest["spec"]["source"]["uaaEndpoint"] = uaa.into();
        }
        manifest
    }
}

/// Applies exports that cannot work, and in each round one that works in a namespace of its own and one in a
/// namespace of the others. Fails if these wait, or if the operator takes more memory than the chart allows.
async fn measure(dead: &DeadExports, rounds: usize) -> Result<()> {
    let count = dead.count;
    let fixture = LoadFixture::start(&["--retention", "30", "--events-per-day", "50"]).await?;
    fixture.gateway.create_bucket(BUCKET).await?;
    let mut silent_stores = Vec::new();
    for _ in 0..8 {
        silent_stores.push(silent_peer().await?);
    }
    let peers = Peers {
        fixture: &fixture,
        silent: silent_peer().await?,
        silent_stores,
        refusing: refusing_peer().await?,
    };
    for number in 0..dead.namespaces {
        fixture.namespace(&dead.namespace(number)).await?;
    }
    fixture.namespace("newcomer").await?;
    let all = (0..count).map(|number| {
        let defect = dead.defects[number % dead.defects.len()];
        (
            dead.namespace(number),
            peers.manifest(&format!("dead-{number}"), number, Some(defect)),
        )
    });
    fixture.create(all.collect()).await?;
    let operator = MeasuredOperator::start(&fixture, "operator.log", &LEASE_FLAGS).await?;
    operator.leads().await?;

    let mut results = LoadResults::new();
    for round in 0..rounds {
        for (kind, place) in [("other", "newcomer".to_owned()), ("same", dead.namespace(round))] {
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

const DEFECTS: &[Defect] = &[Defect::SilentStore, Defect::SilentService, Defect::RefusingStore];

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_works_does_not_wait_for_hundreds_that_cannot() -> Result<()> {
    let dead = DeadExports {
        count: 450,
        namespaces: 10,
        defects: DEFECTS,
    };
    measure(&dead, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_works_does_not_wait_for_hundreds_of_its_namespace_that_hang() -> Result<()> {
    let dead = DeadExports {
        count: 400,
        namespaces: 1,
        defects: &[Defect::SilentStoreOwnBucket, Defect::SilentUaa],
    };
    measure(&dead, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_works_does_not_wait_for_one_that_hangs_in_each_of_hundreds_of_namespaces()
-> Result<()> {
    let dead = DeadExports {
        count: 400,
        namespaces: 400,
        defects: &[Defect::SilentUaa],
    };
    measure(&dead, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_works_does_not_wait_for_hundreds_with_many_peers_that_hang() -> Result<()> {
    let dead = DeadExports {
        count: 400,
        namespaces: 400,
        defects: &[Defect::OneOfSilentStores],
    };
    measure(&dead, 2).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load: `cargo test --test it -- --ignored scale::dead`"]
async fn an_export_that_works_does_not_wait_for_thousands_that_cannot() -> Result<()> {
    let dead = DeadExports {
        count: setting("EVENTEXPORT_BENCH_RESOURCES", 5000),
        namespaces: 10,
        defects: DEFECTS,
    };
    measure(&dead, 6).await
}
