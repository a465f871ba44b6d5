//! Fault campaign: each fault at each request of a reference export, pairs of crashes, and random pairs. A small
//! sample of it runs with every test run.
//!
//! `make faults` runs the campaign. `EVENTEXPORT_FAULT='three-days/lose-reply #1 tracker: POST /v3/sessions' make
//! faults` runs one case, as each failure prints it. Other variables: `EVENTEXPORT_FAULTS` (`singles`, `late`,
//! `continuous`, `cluster`, `crashes`, `pairs`; default all), `EVENTEXPORT_FAULTS_SEED`, `EVENTEXPORT_FAULTS_AT_ONCE`,
//! `EVENTEXPORT_FAULTS_ONLY` (part of the case's text), `EVENTEXPORT_FAULTS_REPORT` (file for the tables).

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, stream};
use jiff::civil::date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use rand::prelude::*;

use super::InjectedFault;
use super::case::{FaultCase, crash_pairs, random_pairs, single_faults};
use super::fixture::{ApiServerRoute, CampaignSpec};
use super::invariants::violations;
use super::report::CampaignReport;
use super::run_case::{CaseRun, run_case};
use crate::testkit::service::service_on;

/// Seed of the sample, and default seed of the campaign.
const SEED: u64 = 20_180_604;

/// Export for each fault at each request.
const SMALL: &str = "three-days";

/// Export for all pairs of crashes.
const SINGLE: &str = "one-day";

/// Export for random pairs.
const LARGER: &str = "eight-days";

/// Concurrent cases, which mostly wait.
const CONCURRENCY: usize = 12;

/// Cases of the sample.
const SAMPLE_SIZE: usize = 8;

/// Cases that broke an invariant once; they run with the sample.
const BROKEN_ONCE: [&str; 1] = ["cut-body #1 tracker: POST /v3/sessions"];

/// The same of [`LATE`].
const LATE_BROKEN_ONCE: [&str; 3] = [
    "cut-body #1 store: POST /tracker/space=ID/scope=space/_revisions/2018-06-05/1/events.json.gz?uploads",
    "answer-403 #1 store: GET /tracker/space=ID/scope=space/_manifests/00000001.json.sig?x-id=GetObject",
    "answer-410 #4 tracker: GET /v3/events",
];

/// Larger than the number of requests after a restart.
const MAX_CRASH_DISTANCE: usize = 99;

/// Number of random pairs.
const PAIR_COUNT: usize = 150;

/// Maximum distance of the second fault of a pair from the first, in requests.
const MAX_PAIR_DISTANCE: usize = 40;

/// Returns the export of that name.
fn campaign_spec(name: &str) -> Result<CampaignSpec> {
    let mut service = service_on(date(2018, 6, 9));
    let day = |day| date(2018, 6, day);
    let spec = |start, end, service| CampaignSpec {
        start: day(start),
        end: Some(day(end)),
        parallelism: 1,
        service,
        split: Vec::new(),
        late: Vec::new(),
        signed: false,
    };
    if name == "one-day" || name == CLUSTER {
        return Ok(spec(4, 4, service));
    }
    if name == CONTINUOUS {
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        service.today = None;
        service.volume.quiet = Vec::new();
        return Ok(CampaignSpec {
            start: today.checked_sub(3.days())?,
            end: None,
            signed: true,
            ..spec(4, 4, service)
        });
    }
    // Uncompressed, so that the two parts of 5 June are fast to make and to read. 2 and 3 June have no events.
    service.gzip.level = 0;
    service.volume.days.insert(day(5), 10_000);
    match name {
        "three-days" => Ok(spec(3, 5, service)),
        // The later body has two parts, and the export a second manifest.
        LATE => Ok(CampaignSpec {
            late: vec![(day(5), 1_300)],
            signed: true,
            ..spec(4, 5, service)
        }),
        // Three windows at a time; 7 June by the hour.
        "eight-days" => Ok(CampaignSpec {
            parallelism: 3,
            split: vec![day(7)],
            ..spec(1, 8, service)
        }),
        _ => bail!("{name} is no export of the campaign"),
    }
}

/// The day of one-day with a proxy before the API server.
const CLUSTER: &str = "api-server";

/// A stored day with late events, with signatures.
const LATE: &str = "late-events";

/// A continuous export with signatures, and so with a checkpoint.
const CONTINUOUS: &str = "continuous";

/// Cases of the sample at the API server.
const API_SERVER_SAMPLE_SIZE: usize = 8;

/// Cases, and the reference run that they are compared with.
struct Campaign {
    name: &'static str,
    spec: CampaignSpec,
    route: ApiServerRoute,
    reference: CaseRun,
    at_once: usize,
    started: Instant,
}

/// Parts of the campaign.
const PARTS: [&str; 6] = ["singles", "late", "continuous", "cluster", "crashes", "pairs"];

fn env_or<T: std::str::FromStr>(name: &str, otherwise: T) -> Result<T> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .ok()
            .with_context(|| format!("{name}={text} cannot be read")),
        Err(_) => Ok(otherwise),
    }
}

impl Campaign {
    async fn start(name: &'static str) -> Result<Self> {
        let started = Instant::now();
        let spec = campaign_spec(name)?;
        let route = if name == CLUSTER {
            ApiServerRoute::Proxied
        } else {
            ApiServerRoute::Direct
        };
        let reference = run_case(&spec, None, route).await?;
        let broken = violations(&reference.observed, &reference.observed);
        ensure!(
            broken.is_empty() && reference.restarts == 0,
            "the reference itself: {broken:#?}\n{}",
            reference.observed.log
        );
        println!(
            "{name}: {} requests to tracker, UAA and store in {:.1} s",
            reference.requests.len(),
            reference.took.as_secs_f32()
        );
        let requests = reference.requests.iter().chain(&reference.api_server_requests);
        for (number, request) in requests.enumerate() {
            println!("{:3} #{} {}", number + 1, request.nth, request.request);
        }
        Ok(Self {
            name,
            spec,
            route,
            reference,
            at_once: env_or("EVENTEXPORT_FAULTS_AT_ONCE", CONCURRENCY)?,
            started,
        })
    }

    /// Runs all cases and counts them.
    async fn run(&self, cases: Vec<FaultCase>, table: &mut CampaignReport) -> Result<()> {
        self.run_lists(cases.into_iter().map(|case| vec![case]).collect(), table)
            .await
    }

    /// Runs lists of cases. A list ends at the first case whose request did not occur, because later ones would not
    /// occur either.
    async fn run_lists(&self, lists: Vec<Vec<FaultCase>>, table: &mut CampaignReport) -> Result<()> {
        let only = std::env::var("EVENTEXPORT_FAULTS_ONLY").unwrap_or_default();
        let lists: Vec<Vec<FaultCase>> = lists
            .into_iter()
            .map(|mut cases| {
                cases.retain(|case| case.to_string().contains(&only));
                cases
            })
            .collect();
        let total: usize = lists.iter().map(Vec::len).sum();
        let one_by_one = |cases: Vec<FaultCase>| {
            stream::unfold(cases.into_iter(), async |mut left| {
                let case = left.next()?;
                let outcome = run_case(&self.spec, Some(&case), self.route).await;
                let all_struck = |run: &CaseRun| run.injected.len() == case.faults().count();
                if !outcome.as_ref().is_ok_and(all_struck) {
                    left = Vec::new().into_iter();
                }
                Some(((case, outcome), left))
            })
            .boxed_local()
        };
        let mut run = stream::iter(lists)
            .map(one_by_one)
            .flatten_unordered(self.at_once);
        let mut done = 0;
        while let Some((case, outcome)) = run.next().await {
            done += 1;
            let faults: Vec<InjectedFault> = case.faults().collect();
            let outcome = outcome.with_context(|| format!("the bed, at {case}"));
            let (all, broken, summary) = match &outcome {
                Ok(outcome) => {
                    let broken = violations(&outcome.observed, &self.reference.observed);
                    (outcome.injected.len() == faults.len(), broken, summary(outcome))
                }
                Err(error) => (
                    true,
                    vec![("the export completes", format!("{error:#}"))],
                    String::new(),
                ),
            };
            let names: Vec<&'static str> = broken.iter().map(|(name, _)| *name).collect();
            table.record_case(&case.row_label(), &faults, all, &names);
            let missed = if all { "" } else { " (a request did not come)" };
            if broken.is_empty() {
                println!("ok {done}/{total} {case}{missed}: {summary}");
                continue;
            }
            let mut text = format!("BROKEN {done}/{total} {case}{missed}: {summary}\n");
            for (name, wrong) in &broken {
                let _ = writeln!(text, "    {name}: {wrong}");
            }
            if let Ok(outcome) = &outcome {
                let file = save_failure(done, &case, outcome)?;
                let _ = writeln!(text, "    its log: {file}");
            }
            let _ = writeln!(
                text,
                "    again: EVENTEXPORT_FAULT='{}/{case}' make faults",
                self.name
            );
            print!("{text}");
        }
        println!(
            "{} after {:.0} s",
            table.summary(),
            self.started.elapsed().as_secs_f32()
        );
        Ok(())
    }
}

/// Summarizes a run in one line.
fn summary(run: &CaseRun) -> String {
    format!(
        "{:.1} s, {} requests, {} restarts, {:?}",
        run.took.as_secs_f32(),
        run.requests.len(),
        run.restarts,
        run.observed.ending
    )
}

/// Saves the material to analyze a failure; returns its path.
fn save_failure(number: usize, case: &FaultCase, run: &CaseRun) -> Result<String> {
    let folder = std::env::temp_dir().join("eventexport-faults");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}-{number}.log", std::process::id()));
    let mut text = format!("{case}\nstruck: {:#?}\n\n", run.injected);
    for request in &run.requests {
        let _ = writeln!(text, "#{} {}", request.nth, request.request);
    }
    let _ = write!(text, "\n{}\n\n{}", run.observed.log, run.observed.resource_text);
    std::fs::write(&file, text)?;
    Ok(file.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_faults_leaves_no_trace() -> Result<()> {
    let campaign = Campaign::start(SMALL).await?;
    let (mut cases, _) = single_faults(&campaign.reference.requests);
    // Each of these takes a minute.
    cases.retain(|case| case.faults().all(|fault| fault != InjectedFault::HangReply));
    let mut random = StdRng::seed_from_u64(env_or("EVENTEXPORT_FAULTS_SEED", SEED)?);
    let mut sample: Vec<FaultCase> = cases.sample(&mut random, SAMPLE_SIZE).cloned().collect();
    for case in BROKEN_ONCE {
        sample.push(case.parse()?);
    }
    let mut table = CampaignReport::default();
    campaign.run(sample, &mut table).await?;
    ensure!(table.is_clean(), "{}", table.summary());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn late_events_are_stored_after_faults_that_stopped_them_once() -> Result<()> {
    let campaign = Campaign::start(LATE).await?;
    let cases: Result<Vec<FaultCase>> = LATE_BROKEN_ONCE.iter().map(|case| case.parse()).collect();
    let mut table = CampaignReport::default();
    campaign.run(cases?, &mut table).await?;
    ensure!(table.is_clean(), "{}", table.summary());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_faults_at_the_api_server_leaves_no_trace() -> Result<()> {
    let campaign = Campaign::start(CLUSTER).await?;
    let (mut cases, _) = single_faults(&campaign.reference.api_server_requests);
    cases.retain(|case| case.faults().all(|fault| fault != InjectedFault::HangReply));
    let mut random = StdRng::seed_from_u64(env_or("EVENTEXPORT_FAULTS_SEED", SEED)?);
    let sample: Vec<FaultCase> = cases
        .sample(&mut random, API_SERVER_SAMPLE_SIZE)
        .cloned()
        .collect();
    let mut table = CampaignReport::default();
    campaign.run(sample, &mut table).await?;
    ensure!(table.is_clean(), "{}", table.summary());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "up to an hour: make faults"]
async fn every_fault_at_every_request_leaves_no_trace() -> Result<()> {
    let started = Instant::now();
    let mut table = CampaignReport::default();
    if let Ok(text) = std::env::var("EVENTEXPORT_FAULT") {
        for name in [SMALL, SINGLE, LARGER, CLUSTER, LATE, CONTINUOUS] {
            let of_export = text
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix('/'));
            let cases: Vec<FaultCase> = of_export
                .map(str::parse)
                .collect::<Result<_>>()
                .context("EVENTEXPORT_FAULT")?;
            if !cases.is_empty() {
                Campaign::start(name).await?.run(cases, &mut table).await?;
            }
        }
        ensure!(
            !table.is_empty(),
            "EVENTEXPORT_FAULT: write EXPORT/CASE, one in a line"
        );
        ensure!(table.is_clean(), "{}", table.summary());
        return Ok(());
    }
    let seed = env_or("EVENTEXPORT_FAULTS_SEED", SEED)?;
    println!("EVENTEXPORT_FAULTS_SEED={seed}");
    let wanted = env_or("EVENTEXPORT_FAULTS", PARTS.join(","))?;
    for part in wanted.split(',') {
        ensure!(
            PARTS.contains(&part),
            "EVENTEXPORT_FAULTS: no part {part:?}: give some of {PARTS:?}"
        );
    }
    let mut report = String::new();
    for (part, name) in [("singles", SMALL), ("late", LATE), ("continuous", CONTINUOUS)] {
        if !wanted.contains(part) {
            continue;
        }
        let campaign = Campaign::start(name).await?;
        let (cases, not_applicable) = single_faults(&campaign.reference.requests);
        for (fault, request, why) in not_applicable {
            table.not_applicable(fault, &request, why);
        }
        println!(
            "{} requests, {} faults: {} cases",
            campaign.reference.requests.len(),
            InjectedFault::all().len(),
            cases.len()
        );
        campaign.run(cases, &mut table).await?;
    }
    if wanted.contains("cluster") {
        let campaign = Campaign::start(CLUSTER).await?;
        let requests = &campaign.reference.api_server_requests;
        let (cases, not_applicable) = single_faults(requests);
        for (fault, request, why) in not_applicable {
            table.not_applicable(fault, &request, why);
        }
        println!(
            "{} requests to the API server: {} cases",
            requests.len(),
            cases.len()
        );
        campaign.run(cases, &mut table).await?;
    }
    if wanted.contains("crashes") {
        let campaign = Campaign::start(SINGLE).await?;
        let crashes = crash_pairs(&campaign.reference.requests, MAX_CRASH_DISTANCE);
        campaign.run_lists(crashes, &mut table).await?;
    }
    if wanted.contains("pairs") {
        let campaign = Campaign::start(LARGER).await?;
        let (mut cases, _) = single_faults(&campaign.reference.requests);
        cases.retain(|case| case.faults().all(|fault| fault != InjectedFault::HangReply));
        let mut random = StdRng::seed_from_u64(seed);
        let count = env_or("EVENTEXPORT_FAULTS_PAIRS", PAIR_COUNT)?;
        let pairs = random_pairs(&cases, MAX_PAIR_DISTANCE, count, &mut random);
        campaign.run(pairs, &mut table).await?;
    }
    let _ = writeln!(
        report,
        "{}; {:.0} min.\n\n{}",
        table.summary(),
        started.elapsed().as_secs_f32() / 60.0,
        table.markdown()
    );
    println!("{report}");
    if let Ok(file) = std::env::var("EVENTEXPORT_FAULTS_REPORT") {
        std::fs::write(file, report)?;
    }
    ensure!(
        table.is_clean() && table.hits_its_requests(),
        "{}",
        table.summary()
    );
    Ok(())
}
