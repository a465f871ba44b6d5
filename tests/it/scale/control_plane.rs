//! Cost of an operator with thousands of idle resources, and its latency for one that needs work.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::Value;
use tokio::time::sleep;

use super::fixture::{ExportParams, LoadFixture, ProcessUsage};
use super::operator::{MeasuredOperator, ScrapedMetrics};
use super::results::{LoadResults, counts, setting};

/// Namespaces of the resources, each with its own Secrets.
const NAMESPACES: usize = 10;

const BUCKET: &str = "audit";

const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";

/// Maximum time of a step.
const TIMEOUT: Duration = Duration::from_hours(1);

/// Time without load before the memory of a process is read.
const QUIET_PERIOD: Duration = Duration::from_secs(5);

/// Generous lease, because the machine also runs everything else.
const LEASE_FLAGS: [&str; 4] = ["--lease-duration", "60s", "--lease-deadline", "50s"];

/// Number of lists that are kept to determine the size of an object.
const COPIES: usize = 3;

/// Time after which the allocator has returned free memory.
const MEMORY_RELEASE_TIME: Duration = Duration::from_mins(1);

/// Number of measurements of the time to the first action.
const ROUNDS: usize = 5;

/// State of the idle resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoadState {
    Complete,
    Continuous,
    Suspended,
}

impl LoadState {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "complete" => Self::Complete,
            "continuous" => Self::Continuous,
            "suspended" => Self::Suspended,
            _ => anyhow::bail!("no such state: {text} (complete, continuous, suspended)"),
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Continuous => "continuous",
            Self::Suspended => "suspended",
        }
    }

    /// Reason of `Ready` when nothing is left to do.
    const fn reason(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Continuous => "CaughtUp",
            Self::Suspended => "Suspended",
        }
    }

    /// True if a new process lists its bucket.
    const fn is_listed(self) -> bool {
        !matches!(self, Self::Suspended)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load: bench/control-plane runs it"]
async fn operator_cost_of_thousands_of_resources() -> Result<()> {
    let mut results = LoadResults::new();
    let states: String = setting(
        "EVENTEXPORT_BENCH_STATES",
        "complete,continuous,suspended".to_owned(),
    );
    for count in counts("1000,10000")? {
        for state in states.split(',') {
            let state = LoadState::parse(state.trim())?;
            let measured = measure(&mut results, count, state).await;
            results.write()?;
            measured.with_context(|| format!("{count} resources, {state:?}"))?;
        }
    }
    Ok(())
}

/// Day of this many days ago, such as `2018-06-28`.
fn day(ago: i64) -> String {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    today.saturating_sub(ago.days()).to_string()
}

struct LoadSpec {
    fixture: LoadFixture,
    start: String,
    end: Option<String>,
    suspend: bool,
}

impl LoadSpec {
    /// Returns one of the many resources. All share one archive, so that storing it again takes no time.
    fn manifest(&self, name: &str, prefix: &str) -> Value {
        ExportParams {
            name,
            space: SPACE,
            start: &self.start,
            end: self.end.as_deref(),
            bucket: BUCKET,
            prefix,
            source: &self.fixture.service.url,
            store: &self.fixture.gateway.endpoint(),
            suspend: self.suspend,
        }
        .manifest()
    }
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

async fn measure(results: &mut LoadResults, count: usize, state: LoadState) -> Result<()> {
    let fixture = LoadFixture::start(&["--retention", "30", "--events-per-day", "50"]).await?;
    fixture.gateway.create_bucket(BUCKET).await?;
    for number in 0..NAMESPACES {
        fixture.namespace(&namespace(number)).await?;
    }
    let load = LoadSpec {
        fixture,
        start: day(if state == LoadState::Complete { 3 } else { 2 }),
        end: (state == LoadState::Complete).then(|| day(3)),
        suspend: state == LoadState::Suspended,
    };
    let fixture = &load.fixture;
    let mut add = |metric: &str, unit: &str, value: f64| {
        results.add(count, state.name(), metric, unit, value);
    };

    let operator = MeasuredOperator::start(fixture, "first.log", &LEASE_FLAGS).await?;
    operator.leads().await?;
    sleep(QUIET_PERIOD).await;
    let empty = operator.usage()?;
    add("rss_without_resources", "KiB", empty.rss_kib);

    // The archive that all others find complete.
    fixture
        .create(vec![(namespace(0), load.manifest("many-0", "many"))])
        .await?;
    settled(&operator, state, 1).await?;
    let began = Instant::now();
    let all = (1..count).map(|number| {
        let name = format!("many-{number}");
        (namespace(number), load.manifest(&name, "many"))
    });
    fixture.create(all.collect()).await?;
    add("apply_all", "s", began.elapsed().as_secs_f64());
    let metrics = settled(&operator, state, count).await?;
    add("apply_all_and_reconcile", "s", began.elapsed().as_secs_f64());
    let spent = operator.usage()?.cpu_seconds - empty.cpu_seconds;
    add("cpu_to_reconcile_per_resource", "ms", spent * 1e3 / count as f64);
    let each = |name: &str| metrics.sum_of(name) / count as f64;
    add(
        "reconciles_per_resource",
        "1",
        each("eventexport_reconciles_total"),
    );
    add(
        "status_writes_per_resource",
        "1",
        each("eventexport_status_writes_total"),
    );
    for (operation, requests) in metrics.requests("kubernetes") {
        add(
            &format!("kubernetes_{}_per_resource", operation.to_lowercase()),
            "1",
            requests / count as f64,
        );
    }
    add("series", "1", metrics.series() as f64);
    add("scrape_size", "KiB", metrics.0.len() as f64 / 1024.0);
    let before = operator.usage()?.cpu_seconds;
    let began = Instant::now();
    for _ in 0..ROUNDS {
        operator.scrape().await?;
    }
    add(
        "scrape_wall",
        "ms",
        began.elapsed().as_secs_f64() * 1e3 / ROUNDS as f64,
    );
    let spent = operator.usage()?.cpu_seconds - before;
    add("scrape_cpu", "ms", spent * 1e3 / ROUNDS as f64);
    add("rss_after_work", "KiB", operator.usage()?.rss_kib);

    idle(&mut add, &operator).await?;
    if state != LoadState::Suspended {
        add(
            "first_action_beside_others",
            "s",
            first_action(&load, "beside").await?,
        );
    }
    ensure!(operator.stop().await?, "it did not stop well");
    restart(&mut add, &load, state, count, empty).await?;

    // Each list reuses the memory that the previous one left, so from the second on only objects grow.
    let mut lists = vec![fixture.all().await?, fixture.all().await?];
    let before = own_rss()?;
    for _ in 0..COPIES {
        lists.push(fixture.all().await?);
    }
    let objects: usize = lists.iter().rev().take(COPIES).map(Vec::len).sum();
    add("cached_object", "KiB", (own_rss()? - before) / objects as f64);
    results.add_load(count, state.name());
    Ok(())
}

fn own_rss() -> Result<f64> {
    Ok(ProcessUsage::of(std::process::id())?.rss_kib)
}

/// Cost of an idle hour, extrapolated from some seconds.
async fn idle(add: &mut impl FnMut(&str, &str, f64), operator: &MeasuredOperator) -> Result<()> {
    let seconds: u64 = setting("EVENTEXPORT_BENCH_IDLE", 30);
    sleep(QUIET_PERIOD).await;
    let before = operator.scrape().await?;
    // Measured after the scrape, which costs more than an idle minute.
    let (began, spent) = (Instant::now(), operator.usage()?.cpu_seconds);
    sleep(Duration::from_secs(seconds)).await;
    let spent = operator.usage()?.cpu_seconds - spent;
    let after = operator.scrape().await?;
    let hours = began.elapsed().as_secs_f64() / 3600.0;
    add("idle_cpu_per_hour", "s", spent / hours);
    for peer in ["kubernetes", "s3", "tracker", "uaa"] {
        let of = |metrics: &ScrapedMetrics| metrics.requests(peer).values().sum::<f64>();
        add(
            &format!("idle_{peer}_requests_per_hour"),
            "1",
            (of(&after) - of(&before)) / hours,
        );
    }
    let reconciles = |metrics: &ScrapedMetrics| metrics.sum_of("eventexport_reconciles_total");
    add(
        "idle_reconciles_per_hour",
        "1",
        (reconciles(&after) - reconciles(&before)) / hours,
    );
    Ok(())
}

/// Median time from applying a resource until its session is open.
async fn first_action(load: &LoadSpec, name: &str) -> Result<f64> {
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("{name}-{round}");
        let manifest = load.manifest(&name, &name);
        let opened = load.fixture.ledger().await?.opened;
        let began = Instant::now();
        load.fixture.create(vec![(namespace(round), manifest)]).await?;
        opened_after(load, opened, began).await?;
        took.push(began.elapsed().as_secs_f64());
        // All its sessions are open before the next one is applied.
        sleep(Duration::from_secs(3)).await;
    }
    took.sort_by(f64::total_cmp);
    Ok(took[ROUNDS / 2])
}

async fn opened_after(load: &LoadSpec, opened: u64, began: Instant) -> Result<()> {
    while load.fixture.ledger().await?.opened <= opened {
        ensure!(began.elapsed() < TIMEOUT, "no session is opened");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Restart: time until the new process leads, works on unfinished resources, and has reconciled all others.
async fn restart(
    add: &mut impl FnMut(&str, &str, f64),
    load: &LoadSpec,
    state: LoadState,
    count: usize,
    empty: ProcessUsage,
) -> Result<()> {
    // Created while no operator runs; it must not wait for the many.
    let mut manifest = load.manifest("urgent", "urgent");
    manifest["spec"]["suspend"] = false.into();
    load.fixture.create(vec![(namespace(0), manifest)]).await?;
    let opened = load.fixture.ledger().await?.opened;
    let operator = MeasuredOperator::start(&load.fixture, "second.log", &LEASE_FLAGS).await?;
    opened_after(load, opened, operator.started).await?;
    add(
        "first_action_after_restart",
        "s",
        operator.started.elapsed().as_secs_f64(),
    );
    let metrics = if state.is_listed() {
        listed(&operator, count).await?
    } else {
        settled(&operator, state, count).await?
    };
    add(
        "restart_reconciled",
        "s",
        operator.started.elapsed().as_secs_f64(),
    );
    let usage = operator.usage()?;
    add(
        "restart_cpu_per_resource",
        "ms",
        usage.cpu_seconds * 1e3 / count as f64,
    );
    add("restart_rss_peak", "KiB", usage.peak_kib);
    add(
        "restart_status_writes",
        "1",
        metrics.sum_of("eventexport_status_writes_total"),
    );
    for peer in ["kubernetes", "s3", "tracker"] {
        for (operation, requests) in metrics.requests(peer) {
            add(
                &format!("restart_{peer}_{}", operation.to_lowercase()),
                "1",
                requests,
            );
        }
    }
    sleep(QUIET_PERIOD).await;
    let rest = operator.usage()?.rss_kib;
    add("rss_at_rest", "KiB", rest);
    add("rss_per_resource", "KiB", (rest - empty.rss_kib) / count as f64);
    sleep(MEMORY_RELEASE_TIME).await;
    add("rss_given_back", "KiB", operator.usage()?.rss_kib);
    ensure!(operator.stop().await?, "it did not stop well");
    Ok(())
}

/// Returns the number of resources with that reason.
fn with_reason(metrics: &ScrapedMetrics, reason: &str) -> f64 {
    let total = metrics.sum_of(&format!("eventexport_resources_by_reason{{reason=\"{reason}\"}}"));
    if total > 0.0 {
        return total;
    }
    let label = format!("reason=\"{reason}\"}}");
    let series = metrics
        .0
        .lines()
        .filter(|line| line.starts_with("eventexport_resource_reason{"));
    series.filter(|line| line.contains(&label)).count() as f64
}

/// Waits until this many resources are in their state and no run is active.
async fn settled(operator: &MeasuredOperator, state: LoadState, count: usize) -> Result<ScrapedMetrics> {
    let began = Instant::now();
    loop {
        let metrics = operator.scrape().await?;
        let there = with_reason(&metrics, state.reason());
        if there >= count as f64 && metrics.sum_of("eventexport_runs ") == 0.0 {
            return Ok(metrics);
        }
        ensure!(began.elapsed() < TIMEOUT, "{there} of {count} are {state:?}");
        // A scrape costs as much as many reconciles.
        sleep(Duration::from_millis(if count > 100 { 2000 } else { 100 })).await;
    }
}

/// Waits until each bucket has been listed and no run is active.
async fn listed(operator: &MeasuredOperator, count: usize) -> Result<ScrapedMetrics> {
    let began = Instant::now();
    loop {
        let metrics = operator.scrape().await?;
        let lists = metrics
            .requests("s3")
            .get("ListObjectsV2")
            .copied()
            .unwrap_or(0.0);
        if lists >= count as f64 && metrics.sum_of("eventexport_runs ") == 0.0 {
            return Ok(metrics);
        }
        ensure!(began.elapsed() < TIMEOUT, "{lists} lists for {count} resources");
        sleep(Duration::from_millis(if count > 100 { 2000 } else { 100 })).await;
    }
}
