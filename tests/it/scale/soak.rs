//! Thousands of exports at once, a service and a store that fail, and an operator that is killed again and again:
//! everything gets stored, once, and nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::api::EventExport;
use eventexport::simulator::{BodyOffset, DEFAULT_PERSON, Effect, Fault, Ledger, NoReplyMode, RequestKind};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;

use super::bucket::PagedBucket;
use super::fixture::{ExportParams, LoadFixture, program};
use super::flaky_store::FlakyStore;
use super::operator::MeasuredOperator;
use super::results::{LoadResults, setting};

const BUCKET: &str = "audit";

/// Sessions of people in each space, which must be there at the end.
const USER_SESSIONS: usize = 1;

/// Days that the exports are spread over.
const DAYS: usize = 20;

/// The longest that it may take to complete what is left, once nobody kills any more.
const TIMEOUT: Duration = Duration::from_mins(20);

/// A lease that is soon known to be gone, and long enough for a busy machine.
const LEASE_FLAGS: [&str; 6] = [
    "--lease-duration",
    "6s",
    "--lease-deadline",
    "4s",
    "--lease-renew",
    "1s",
];

/// That of the last one, whose memory is compared with its own: it is not to lose it.
const LONG_LEASE_FLAGS: [&str; 4] = ["--lease-duration", "60s", "--lease-deadline", "50s"];

struct SoakPlan {
    exports: usize,
    spaces: usize,
    /// How long processes are killed.
    killing: Duration,
    /// How long each lives, from when it leads.
    life: Duration,
    /// Rounds of work without kills at the end, after which memory is compared.
    rounds: usize,
    windows: usize,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a quarter of an hour of load: `make soak` runs it"]
async fn thousands_of_exports_get_through_kills_and_faults() -> Result<()> {
    let plan = SoakPlan {
        exports: setting("EVENTEXPORT_SOAK_EXPORTS", 2000),
        spaces: setting("EVENTEXPORT_SOAK_SPACES", 4),
        killing: Duration::from_secs(setting("EVENTEXPORT_SOAK_SECONDS", 600)),
        life: Duration::from_secs(setting("EVENTEXPORT_SOAK_LIFE", 14)),
        rounds: setting("EVENTEXPORT_SOAK_ROUNDS", 4),
        windows: 64,
    };
    soak(&plan).await
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_get_through_kills_and_faults() -> Result<()> {
    let plan = SoakPlan {
        exports: 40,
        spaces: 2,
        killing: Duration::from_secs(30),
        life: Duration::from_secs(2),
        rounds: 0,
        windows: 32,
    };
    soak(&plan).await
}

/// One request in ten fails: half of them are carried out all the same, and nobody hears of it. One download in ten
/// breaks off.
fn faults() -> Vec<Fault> {
    let unwell = Effect::Status {
        status: 503,
        retry_after: None,
        message: "a fault of the test".to_owned(),
    };
    let lost = Effect::NoReply {
        done: true,
        how: NoReplyMode::Reset,
    };
    let cut = Effect::Cut {
        at: BodyOffset::Permille(500),
        reset: false,
        vanish: false,
    };
    let others = [
        RequestKind::Create,
        RequestKind::List,
        RequestKind::Show,
        RequestKind::Delete,
        RequestKind::Events,
    ];
    vec![
        Fault::new("unwell", unwell, &[]).every(20),
        Fault::new("lost", lost, &others).every(20),
        Fault::new("cut", cut, &[RequestKind::Download]).every(10),
    ]
}

fn space(number: usize) -> String {
    format!("c1234567-6d55-4193-a9de-{number:012x}")
}

fn day(number: usize) -> String {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let ago = i64::try_from(number % DAYS).unwrap_or(0) + 3;
    today.saturating_sub(ago.days()).to_string()
}

/// An export, by its number: which space, day and place in the bucket.
struct SoakFixture {
    fixture: LoadFixture,
    bucket: PagedBucket,
    store: FlakyStore,
    spaces: usize,
}

impl SoakFixture {
    fn space(&self, number: usize) -> usize {
        // The first one has more than all others, so that it is full.
        if number.is_multiple_of(2) {
            0
        } else {
            (number / 2) % self.spaces
        }
    }

    fn name(number: usize) -> String {
        format!("export-{number:05}")
    }

    async fn create(&self, metrics: std::ops::Range<usize>) -> Result<()> {
        let store = self.store.endpoint();
        let all = metrics.map(|number| {
            let (name, space, day) = (Self::name(number), space(self.space(number)), day(number));
            let prefix = format!("soak/{name}");
            let params = ExportParams {
                name: &name,
                space: &space,
                start: &day,
                end: Some(&day),
                bucket: BUCKET,
                prefix: &prefix,
                source: &self.fixture.service.url,
                store: &store,
                suspend: false,
            };
            (namespace(self.space(number)), params.manifest())
        });
        self.fixture.create(all.collect()).await
    }

    async fn delete(&self, metrics: std::ops::Range<usize>) -> Result<()> {
        for number in metrics {
            let exports = self.fixture.exports(&namespace(self.space(number)));
            exports
                .delete(&Self::name(number), &DeleteParams::default())
                .await?;
        }
        Ok(())
    }
}

fn namespace(space: usize) -> String {
    format!("tenant-{space}")
}

fn is_complete(export: &EventExport) -> bool {
    let conditions = export.status.as_ref().map(|status| &status.conditions);
    conditions
        .into_iter()
        .flatten()
        .any(|one| one.type_ == "Complete" && one.status == "True")
}

async fn soak(plan: &SoakPlan) -> Result<()> {
    let mut results = LoadResults::new();
    let fixture = LoadFixture::start(&["--retention", "30", "--events-per-day", "40"]).await?;
    let bucket = PagedBucket::create(&fixture.gateway, BUCKET, true).await?;
    let store = FlakyStore::start(&fixture.gateway.endpoint(), 50).await?;
    let mut people = BTreeSet::new();
    for number in 0..plan.spaces {
        fixture.namespace(&namespace(number)).await?;
        let ask = json!({ "user": DEFAULT_PERSON, "space": space(number), "count": USER_SESSIONS });
        let made = fixture
            .service
            .admin(reqwest::Method::POST, "sessions", &ask)
            .await?;
        let ids: Vec<String> = serde_json::from_value(made)?;
        people.extend(ids);
    }
    let faults = serde_json::to_value(faults())?;
    fixture
        .service
        .admin(reqwest::Method::PUT, "faults", &faults)
        .await?;
    let fixture = SoakFixture {
        fixture,
        bucket,
        store,
        spaces: plan.spaces,
    };
    let outcome = run(plan, &fixture, &people, &mut results).await;
    if outcome.is_err() {
        show(&fixture).await;
    }
    outcome
}

async fn run(
    plan: &SoakPlan,
    fixture: &SoakFixture,
    people: &BTreeSet<String>,
    results: &mut LoadResults,
) -> Result<()> {
    let mut add = |metric: &str, unit: &str, value: f64| {
        results.add(plan.exports, "soak", metric, unit, value);
    };
    let began = Instant::now();
    let windows = plan.windows.to_string();
    let args = [
        &LEASE_FLAGS[..],
        &[
            "--session-quiet",
            "2s",
            "--windows",
            &windows,
            "--pool-mib",
            "512",
        ],
    ]
    .concat();
    let (mut lives, mut ended) = (0, 0);
    let mut operator = MeasuredOperator::start(&fixture.fixture, "0.log", &args).await?;
    fixture.create(0..plan.exports).await?;
    let mut created = plan.exports;
    let (mut peak, mut completed) = (0.0_f64, None);
    while began.elapsed() < plan.killing {
        let mut led = None;
        while led.is_none_or(|led: Instant| led.elapsed() < plan.life) {
            sleep(Duration::from_millis(200)).await;
            let Ok(usage) = operator.usage() else { break };
            peak = peak.max(usage.peak_kib);
            if led.is_none() && operator.leads_now().await {
                led = Some(Instant::now());
            }
        }
        // A machine that is busy enough makes a process lose its lease and end.
        ended += u32::from(operator.kill().await?);
        lives += 1;
        let done = complete(fixture).await?;
        println!(
            "{:>5.0} s: {done} of {created} complete",
            began.elapsed().as_secs_f64()
        );
        if done == created {
            completed.get_or_insert(began.elapsed());
            // The kills must meet work.
            let more = plan.exports / 4;
            fixture.create(created..created + more).await?;
            created += more;
        }
        let log = format!("{lives}.log");
        operator = MeasuredOperator::start(&fixture.fixture, &log, &args).await?;
    }
    operator.kill().await?;
    let last = [&LONG_LEASE_FLAGS[..], &args[LEASE_FLAGS.len()..]].concat();
    operator = MeasuredOperator::start(&fixture.fixture, "last.log", &last).await?;
    add("kills", "1", f64::from(lives + 1 - ended));
    add("ended_by_themselves", "1", f64::from(ended));
    wait(fixture, &mut operator, &last, created).await?;
    let took = completed.unwrap_or_else(|| began.elapsed());
    add("all_complete", "s", took.as_secs_f64());
    add("exports", "1", created as f64);
    add("rss_peak", "KiB", peak);

    // Memory after equal work, with equally many resources.
    sleep(Duration::from_secs(2)).await;
    let kept = created;
    for round in 0..plan.rounds {
        // Others than before, or they would find their work done.
        let more = created..created + plan.exports / 4;
        created = more.end;
        fixture.create(more.clone()).await?;
        wait(fixture, &mut operator, &last, kept + more.len()).await?;
        fixture.delete(more).await?;
        wait(fixture, &mut operator, &last, kept).await?;
        sleep(Duration::from_secs(10)).await;
        let usage = operator.usage()?;
        add(&format!("rss_after_round_{}", round + 1), "KiB", usage.rss_kib);
    }
    let metrics = operator.scrape().await?;
    add(
        "status_writes_of_last_process",
        "1",
        metrics.sum_of("eventexport_status_writes_total"),
    );
    ensure!(
        metrics.sum_of("eventexport_run_panics_total") == 0.0,
        "an export panicked"
    );
    ensure!(operator.stop().await?.success(), "it did not stop well");
    check_results(fixture, people, created, &mut add).await?;
    results.add_load(plan.exports, "soak");
    results.write()
}

async fn complete(fixture: &SoakFixture) -> Result<usize> {
    let all = fixture.fixture.all().await?;
    Ok(all.iter().filter(|export| is_complete(export)).count())
}

/// Waits until there are so many, and all complete. An operator that lost its lease is started again, as a Deployment
/// does it.
async fn wait(
    fixture: &SoakFixture,
    operator: &mut MeasuredOperator,
    args: &[&str],
    wanted: usize,
) -> Result<()> {
    let began = Instant::now();
    loop {
        if operator.has_ended()? {
            println!("the operator ended by itself: the machine is too busy for its lease");
            *operator = MeasuredOperator::start(&fixture.fixture, "again.log", args).await?;
        }
        let all = fixture.fixture.all().await?;
        let done = all.iter().filter(|export| is_complete(export)).count();
        if done == wanted && all.len() == wanted {
            return Ok(());
        }
        ensure!(
            began.elapsed() < TIMEOUT,
            "{done} of {} are complete, {wanted} wanted",
            all.len()
        );
        sleep(Duration::from_secs(1)).await;
    }
}

/// What must hold at the end, asked of service, store and archive themselves.
async fn check_results(
    fixture: &SoakFixture,
    people: &BTreeSet<String>,
    created: usize,
    add: &mut impl FnMut(&str, &str, f64),
) -> Result<()> {
    let ledger = fixture.fixture.service.ledger().await?;
    let [asked, refused, denied] = fixture.store.counts();
    let Ledger {
        opened,
        deleted,
        open_now,
        max_open,
        people_open,
        people_deleted,
        refused_full,
        ..
    } = ledger;
    let number = |count: u64| count as f64;
    let requests: u64 = ledger.requests.values().sum();
    let faults: u64 = ledger.faults.values().sum();
    for (metric, value) in [
        ("sessions_opened", opened),
        ("sessions_deleted", deleted),
        ("sessions_open_at_the_end", open_now),
        ("sessions_most_in_a_space_with_a_persons", max_open),
        ("creates_refused_by_a_full_space", refused_full),
        ("peoples_sessions_deleted", people_deleted),
        ("tracker_requests", requests),
        ("tracker_faults", faults),
        ("store_requests", asked),
        ("store_refused", refused),
        ("store_done_but_denied", denied),
    ] {
        add(metric, "1", number(value));
    }
    ensure!(
        open_now == 0 && opened == deleted + ledger.vanished,
        "{ledger:#?}"
    );
    ensure!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
    ensure!(
        people_deleted == 0,
        "{people_deleted} sessions of people were deleted"
    );
    ensure!(people_open == people.len() as u64, "{ledger:#?}");
    let text = fixture.fixture.service.sessions().await?.to_string();
    ensure!(people.iter().all(|id| text.contains(id.as_str())), "{text}");
    // How many were open at most is told, not judged: a process holds 28 at most, but takes the last of the 30 when it has
    // none, as after a start that finds 28 which a killed one has left.
    ensure!(
        refused_full == 0,
        "{refused_full} sessions were asked for of a full space"
    );

    let uploads = fixture.bucket.uploads().await?;
    ensure!(uploads.is_empty(), "uploads left: {uploads:?}");
    let (mut keys, mut versions) = (0, 0);
    for number in 0..created {
        let [there, ever] = versions_of(fixture, number).await?;
        keys += there;
        versions += ever;
    }
    add("keys", "1", keys as f64);
    add("versions_of_evidence", "1", versions as f64);
    let report = verify(fixture).await?;
    let proved = report["archives"][0]["roots"].as_array().map_or(0, Vec::len);
    add("archives_proved", "1", proved as f64);
    ensure!(
        proved >= created,
        "{proved} archives were proved, {created} exports"
    );
    Ok(())
}

/// Object, receipt and manifest of an export, each created once, and no working papers: how many keys there are, and
/// how many versions they have.
async fn versions_of(fixture: &SoakFixture, number: usize) -> Result<[usize; 2]> {
    let day = day(number);
    let space = space(fixture.space(number));
    let root = format!("soak/{}/space={space}/scope=space/", SoakFixture::name(number));
    let wanted: BTreeSet<String> = [
        format!("{root}date={day}/events.json.gz"),
        format!("{root}_journal/{day}.receipt.json"),
        format!("{root}_manifests/00000001.json"),
    ]
    .into();
    let keys: BTreeSet<String> = fixture.bucket.keys(&root).await?.into_iter().collect();
    ensure!(keys == wanted, "not as wanted: {keys:#?}");
    let versions: BTreeMap<String, usize> = fixture.bucket.versions(&root).await?;
    for key in &wanted {
        ensure!(
            versions.get(key) == Some(&1),
            "{key} has {:?} versions",
            versions.get(key)
        );
    }
    Ok([keys.len(), wanted.len()])
}

/// As an auditor does it, over all archives of the bucket.
async fn verify(fixture: &SoakFixture) -> Result<Value> {
    let gateway = &fixture.fixture.gateway;
    let output = Command::new(program())
        .args(["verify", &format!("s3://{BUCKET}/soak"), "--output", "json"])
        .args(["--s3-endpoint", &gateway.endpoint()])
        .env("AWS_ACCESS_KEY_ID", gateway.access_key())
        .env("AWS_SECRET_ACCESS_KEY", gateway.secret_key())
        .env("AWS_REGION", crate::bed::Gateway::REGION)
        .stdin(Stdio::null())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "verify: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(&said).with_context(|| said.into_owned())
}

/// What is not complete, and why; and what the last processes said.
async fn show(fixture: &SoakFixture) {
    let all = fixture.fixture.all().await.unwrap_or_default();
    for export in all.iter().filter(|export| !is_complete(export)).take(5) {
        let status = serde_json::to_string(&export.status).unwrap_or_default();
        println!("{:?}: {status}", export.metadata.name);
    }
    let logs = std::fs::read_dir(fixture.fixture.folder.path());
    let mut logs: Vec<_> = logs.into_iter().flatten().flatten().collect();
    logs.sort_by_key(|log| log.metadata().and_then(|data| data.modified()).ok());
    for log in logs.iter().rev().take(2) {
        let text = std::fs::read_to_string(log.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        println!(
            "{}\n{}",
            log.path().display(),
            lines[lines.len().saturating_sub(40)..].join("\n")
        );
    }
}
