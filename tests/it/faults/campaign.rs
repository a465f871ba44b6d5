//! The campaign: every fault at every request of a reference export, pairs of crashes, pairs at random; and a sample of
//! it for every day.
//!
//! `make faults` runs all of it. `EVENTEXPORT_FAULT='three-days/lose-reply #1 tracker: POST /v3/sessions' make faults` runs that
//! case alone, as each failure prints it. Further variables: `EVENTEXPORT_FAULTS` (`singles`, `cluster`, `crashes`, `pairs`; all
//! without it), `EVENTEXPORT_FAULTS_SEED`, `EVENTEXPORT_FAULTS_AT_ONCE`, `EVENTEXPORT_FAULTS_ONLY` (a part of the case's
//! text), `EVENTEXPORT_FAULTS_REPORT` (a file for the tables).

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use eventexport::simulator::Settings;
use futures::{StreamExt as _, stream};
use jiff::civil::date;
use rand::prelude::*;

use super::Fault;
use super::case::{Case, crashes, pairs, singles};
use super::oracle::judge;
use super::play::{Played, play};
use super::stage::{Way, Wish};
use super::table::Table;

/// Of the sample, and of the campaign unless another is given.
const SEED: u64 = 20_180_604;

/// Where every fault is tried at every request.
const SMALL: &str = "three-days";

/// Where all pairs of crashes are tried.
const SINGLE: &str = "one-day";

/// Where pairs are tried at random.
const LARGER: &str = "eight-days";

/// Cases at once: they mostly wait.
const AT_ONCE: usize = 12;

/// Cases of the sample.
const SAMPLE: usize = 8;

/// More requests than there are after a restart.
const CRASHES_APART: usize = 99;

/// Pairs at random.
const PAIRS: usize = 150;

/// How far the second fault of a pair is from the first, in requests.
const FAR: usize = 40;

/// An export that faults are tried on, by name.
fn export(name: &str) -> Result<Wish> {
    let mut service = Settings {
        today: Some(date(2018, 6, 9)),
        ..Settings::default()
    };
    let day = |day| date(2018, 6, day);
    let wish = |start, end, service| Wish {
        start: day(start),
        end: day(end),
        parallelism: 1,
        service,
        split: Vec::new(),
    };
    if name == "one-day" || name == CLUSTER {
        return Ok(wish(4, 4, service));
    }
    // Stored, so that the two parts of 5 June are quickly made and quickly read. 2 and 3 June have no events.
    service.gzip.level = 0;
    service.volume.days.insert(day(5), 10_000);
    match name {
        "three-days" => Ok(wish(3, 5, service)),
        // Three windows at a time; 7 June by the hour.
        "eight-days" => Ok(Wish {
            parallelism: 3,
            split: vec![day(7)],
            ..wish(1, 8, service)
        }),
        _ => bail!("{name} is no export of the campaign; there are one-day, three-days and eight-days"),
    }
}

/// The same day as that of one-day, with a proxy before the API server.
const CLUSTER: &str = "api-server";

/// Cases of the sample at the API server.
const SAMPLE_OF_CLUSTER: usize = 8;

/// What is played, against which reference.
struct Campaign {
    name: &'static str,
    wish: Wish,
    way: Way,
    reference: Played,
    at_once: usize,
    begun: Instant,
}

fn setting<T: std::str::FromStr>(name: &str, otherwise: T) -> Result<T> {
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
        let begun = Instant::now();
        let wish = export(name)?;
        let way = if name == CLUSTER {
            Way::Proxied
        } else {
            Way::Straight
        };
        let reference = play(&wish, None, way).await?;
        let broken = judge(&reference.observed, &reference.observed);
        ensure!(
            broken.is_empty() && reference.restarts == 0,
            "the reference itself: {broken:#?}\n{}",
            reference.observed.log
        );
        println!(
            "{name}: {} requests to tracker, UAA and store in {:.1} s",
            reference.steps.len(),
            reference.took.as_secs_f32()
        );
        let steps = reference.steps.iter().chain(&reference.cluster_steps);
        for (number, step) in steps.enumerate() {
            println!("{:3} #{} {}", number + 1, step.nth, step.request);
        }
        Ok(Self {
            name,
            wish,
            way,
            reference,
            at_once: setting("EVENTEXPORT_FAULTS_AT_ONCE", AT_ONCE)?,
            begun,
        })
    }

    /// Plays all these cases, and counts.
    async fn run(&self, cases: Vec<Case>, table: &mut Table) -> Result<()> {
        self.run_lists(cases.into_iter().map(|case| vec![case]).collect(), table)
            .await
    }

    /// Plays lists of cases, one case of a list after the other and no further than to the first whose request did not
    /// come: then none comes for those behind it either.
    async fn run_lists(&self, lists: Vec<Vec<Case>>, table: &mut Table) -> Result<()> {
        let only = std::env::var("EVENTEXPORT_FAULTS_ONLY").unwrap_or_default();
        let lists: Vec<Vec<Case>> = lists
            .into_iter()
            .map(|mut cases| {
                cases.retain(|case| case.to_string().contains(&only));
                cases
            })
            .collect();
        let total: usize = lists.iter().map(Vec::len).sum();
        let one_by_one = |cases: Vec<Case>| {
            stream::unfold(cases.into_iter(), async |mut left| {
                let case = left.next()?;
                let outcome = play(&self.wish, Some(&case), self.way).await;
                let all_struck = |played: &Played| played.struck.len() == case.faults().count();
                if !outcome.as_ref().is_ok_and(all_struck) {
                    left = Vec::new().into_iter();
                }
                Some(((case, outcome), left))
            })
            .boxed_local()
        };
        let mut played = stream::iter(lists)
            .map(one_by_one)
            .flatten_unordered(self.at_once);
        let mut done = 0;
        while let Some((case, outcome)) = played.next().await {
            done += 1;
            let faults: Vec<Fault> = case.faults().collect();
            let outcome = outcome.with_context(|| format!("the bed, at {case}"));
            let (all, broken, how) = match &outcome {
                Ok(outcome) => {
                    let broken = judge(&outcome.observed, &self.reference.observed);
                    (outcome.struck.len() == faults.len(), broken, how(outcome))
                }
                Err(error) => (true, vec![("it gets there", format!("{error:#}"))], String::new()),
            };
            let names: Vec<&'static str> = broken.iter().map(|(name, _)| *name).collect();
            table.played(&case.kind(), &faults, all, &names);
            let missed = if all { "" } else { " (a request did not come)" };
            if broken.is_empty() {
                println!("ok {done}/{total} {case}{missed}: {how}");
                continue;
            }
            let mut words = format!("BROKEN {done}/{total} {case}{missed}: {how}\n");
            for (name, wrong) in &broken {
                let _ = writeln!(words, "    {name}: {wrong}");
            }
            if let Ok(outcome) = &outcome {
                let file = keep(done, &case, outcome)?;
                let _ = writeln!(words, "    its log: {file}");
            }
            let _ = writeln!(
                words,
                "    again: EVENTEXPORT_FAULT='{}/{case}' make faults",
                self.name
            );
            print!("{words}");
        }
        println!(
            "{} after {:.0} s",
            table.line(),
            self.begun.elapsed().as_secs_f32()
        );
        Ok(())
    }
}

/// What happened, in a line.
fn how(played: &Played) -> String {
    format!(
        "{:.1} s, {} requests, {} restarts, {:?}",
        played.took.as_secs_f32(),
        played.steps.len(),
        played.restarts,
        played.observed.ending
    )
}

/// Keeps what a person needs to understand a failure; says where.
fn keep(number: usize, case: &Case, played: &Played) -> Result<String> {
    let folder = std::env::temp_dir().join("eventexport-faults");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}-{number}.log", std::process::id()));
    let mut text = format!("{case}\nstruck: {:#?}\n\n", played.struck);
    for step in &played.steps {
        let _ = writeln!(text, "#{} {}", step.nth, step.request);
    }
    let _ = write!(text, "\n{}\n\n{}", played.observed.log, played.observed.told);
    std::fs::write(&file, text)?;
    Ok(file.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_faults_leaves_no_trace() -> Result<()> {
    let campaign = Campaign::start(SMALL).await?;
    let (mut cases, _) = singles(&campaign.reference.steps);
    // Those take a minute each.
    cases.retain(|case| case.faults().all(|fault| fault != Fault::Hang));
    let mut random = StdRng::seed_from_u64(setting("EVENTEXPORT_FAULTS_SEED", SEED)?);
    let sample: Vec<Case> = cases.sample(&mut random, SAMPLE).cloned().collect();
    let mut table = Table::default();
    campaign.run(sample, &mut table).await?;
    ensure!(table.is_clean(), "{}", table.line());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_faults_at_the_api_server_leaves_no_trace() -> Result<()> {
    let campaign = Campaign::start(CLUSTER).await?;
    let (mut cases, _) = singles(&campaign.reference.cluster_steps);
    cases.retain(|case| case.faults().all(|fault| fault != Fault::Hang));
    let mut random = StdRng::seed_from_u64(setting("EVENTEXPORT_FAULTS_SEED", SEED)?);
    let sample: Vec<Case> = cases.sample(&mut random, SAMPLE_OF_CLUSTER).cloned().collect();
    let mut table = Table::default();
    campaign.run(sample, &mut table).await?;
    ensure!(table.is_clean(), "{}", table.line());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "up to an hour: make faults"]
async fn every_fault_at_every_request_leaves_no_trace() -> Result<()> {
    let begun = Instant::now();
    let mut table = Table::default();
    if let Ok(text) = std::env::var("EVENTEXPORT_FAULT") {
        for name in [SMALL, SINGLE, LARGER, CLUSTER] {
            let of_export = text
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix('/'));
            let cases: Vec<Case> = of_export
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
        ensure!(table.is_clean(), "{}", table.line());
        return Ok(());
    }
    let seed = setting("EVENTEXPORT_FAULTS_SEED", SEED)?;
    println!("EVENTEXPORT_FAULTS_SEED={seed}");
    let wanted = setting("EVENTEXPORT_FAULTS", "singles,cluster,crashes,pairs".to_owned())?;
    let mut report = String::new();
    if wanted.contains("singles") {
        let campaign = Campaign::start(SMALL).await?;
        let (cases, not_applicable) = singles(&campaign.reference.steps);
        for (fault, request, why) in not_applicable {
            table.not_applicable(fault, &request, why);
        }
        println!(
            "{} requests, {} faults: {} cases",
            campaign.reference.steps.len(),
            Fault::all().len(),
            cases.len()
        );
        campaign.run(cases, &mut table).await?;
    }
    if wanted.contains("cluster") {
        let campaign = Campaign::start(CLUSTER).await?;
        let steps = &campaign.reference.cluster_steps;
        let (cases, not_applicable) = singles(steps);
        for (fault, request, why) in not_applicable {
            table.not_applicable(fault, &request, why);
        }
        println!(
            "{} requests to the API server: {} cases",
            steps.len(),
            cases.len()
        );
        campaign.run(cases, &mut table).await?;
    }
    if wanted.contains("crashes") {
        let campaign = Campaign::start(SINGLE).await?;
        let crashes = crashes(&campaign.reference.steps, CRASHES_APART);
        campaign.run_lists(crashes, &mut table).await?;
    }
    if wanted.contains("pairs") {
        let campaign = Campaign::start(LARGER).await?;
        let (mut cases, _) = singles(&campaign.reference.steps);
        cases.retain(|case| case.faults().all(|fault| fault != Fault::Hang));
        let mut random = StdRng::seed_from_u64(seed);
        let count = setting("EVENTEXPORT_FAULTS_PAIRS", PAIRS)?;
        let pairs = pairs(&cases, FAR, count, &mut random);
        campaign.run(pairs, &mut table).await?;
    }
    let _ = writeln!(
        report,
        "{}; {:.0} min.\n\n{}",
        table.line(),
        begun.elapsed().as_secs_f32() / 60.0,
        table.markdown()
    );
    println!("{report}");
    if let Ok(file) = std::env::var("EVENTEXPORT_FAULTS_REPORT") {
        std::fs::write(file, report)?;
    }
    ensure!(table.is_clean(), "{}", table.line());
    Ok(())
}
