//! Runs many cases concurrently and writes the table of outcomes: docs/reference/spec-changes.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use eventexport::simulator::Simulator;
use futures::future::join_all;

use super::cases::{ChangeCase, ResourceChange, all};
use super::fixture::ChangeFixture;
use super::phases::LifecyclePhase;
use super::runner::ChangeCaseRunner;
use super::{cases, invariants};
use crate::docs::with_part;

const DOCUMENT: &str = "docs/reference/spec-changes.md";

/// Maximum API server writes per resource over its lifetime, which needs about fifteen.
const MAX_WRITES: u64 = 60;

/// Maximum reconciles per resource.
const MAX_RECONCILES: u64 = 150;

/// Outcomes by case and phase.
type CaseOutcomes = BTreeMap<(usize, LifecyclePhase), String>;

/// Runs these cases at these phases, all at once with one operator.
async fn sweep(name: &str, cases: &[ChangeCase], cells: &[(usize, LifecyclePhase)]) -> Result<CaseOutcomes> {
    let started = Instant::now();
    let fixture = ChangeFixture::start(name).await?;
    let made = cells
        .iter()
        .map(|(index, phase)| ChangeCaseRunner::start(&fixture, &cases[*index], *phase, *index));
    let mut runners = Vec::new();
    for runner in join_all(made).await {
        runners.push(runner?);
    }
    for done in join_all(runners.iter().map(ChangeCaseRunner::run_before_operator)).await {
        done?;
    }
    // Enough capacity to keep all of them downloading at once.
    let capacity = ["--windows", "128", "--pool-mib", "1024"];
    let operator = fixture.operator().args(&capacity).start().await?;
    let outcome = join_all(runners.iter().map(ChangeCaseRunner::run)).await;
    let mut outcomes = CaseOutcomes::new();
    let mut wrong = String::new();
    for ((cell, runner), outcome) in cells.iter().zip(&runners).zip(outcome) {
        match outcome {
            Ok(outcome_text) => {
                println!("{}, {}: {outcome_text}", cases[cell.0].title(), cell.1.title());
                outcomes.insert(*cell, outcome_text);
            }
            Err(error) => {
                let (case, phase) = (cases[cell.0].title(), cell.1.title());
                let _ = writeln!(wrong, "{case}, {phase} ({}): {error:#}", runner.name);
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{wrong}");
    }
    let services: Vec<&Simulator> = runners.iter().map(|runner| &runner.simulator).collect();
    invariants::ensure_quiet(&fixture, &operator, &services).await?;
    let load = invariants::operator_load(&operator).await?;
    let each = |count: u64| count / cells.len().max(1) as u64;
    println!(
        "{name}: {} transitions in {:.0?}, {} writes and {} reconciles each",
        cells.len(),
        started.elapsed(),
        each(load.writes),
        each(load.reconciles)
    );
    ensure!(
        each(load.writes) <= MAX_WRITES && each(load.reconciles) <= MAX_RECONCILES,
        "{load:?}"
    );
    Ok(outcomes)
}

fn read_document() -> Result<String> {
    Ok(std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT),
    )?)
}

/// Runs each case at one phase, in turn, so that all cases and all phases occur.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_takes_effect_without_loss_or_duplication() -> Result<()> {
    let cases = all();
    let fields = cases
        .iter()
        .filter(|case| matches!(case.change, ResourceChange::Spec(_)))
        .count();
    let in_turn =
        (0..fields).map(|index| LifecyclePhase::ALL[(index * 3 + index / 8) % LifecyclePhase::ALL.len()]);
    // Events at their most critical phases.
    let events = cases[fields..].iter().map(|case| match case.change {
        ResourceChange::ClearStatus | ResourceChange::InvalidStatus => LifecyclePhase::CaughtUp,
        ResourceChange::ClearConditions | ResourceChange::HugeStatus | ResourceChange::Recreate => {
            LifecyclePhase::Complete
        }
        ResourceChange::ReplaceSecret => LifecyclePhase::Settling,
        _ => LifecyclePhase::Transferring,
    });
    let cells: Vec<_> = in_turn.chain(events).enumerate().collect();
    let outcomes = sweep("sample", &cases, &cells).await?;
    // The documented table must agree.
    let document = read_document()?;
    for ((index, phase), outcome_text) in outcomes {
        let title = cases[index].title();
        let written = cell_of(&document, &title, phase);
        ensure!(
            written == Some(&outcome_text),
            "{DOCUMENT}: {title}, {}: {written:?}, and the outcome is {outcome_text:?}: UPDATE_DOCS=1 make spec-changes",
            phase.title()
        );
    }
    Ok(())
}

fn cell_of<'a>(document: &'a str, title: &str, phase: LifecyclePhase) -> Option<&'a str> {
    let line = document
        .lines()
        .find(|line| line.starts_with(&format!("| {title} |")))?;
    let column = LifecyclePhase::ALL.iter().position(|one| *one == phase)?;
    line.split('|').nth(column + 2).map(str::trim)
}

/// Runs all cases at one phase: one column of the table.
async fn column(phase: LifecyclePhase) -> Result<()> {
    let cases = all();
    let cells: Vec<_> = (0..cases.len()).map(|index| (index, phase)).collect();
    let outcomes = sweep(phase.name_part(), &cases, &cells).await?;
    let count = |wanted: &dyn Fn(usize, &str) -> bool| {
        let seen = outcomes
            .iter()
            .filter(|((index, _), outcome_text)| wanted(*index, outcome_text));
        seen.count()
    };
    let is_field = |index: usize| matches!(cases[index].change, ResourceChange::Spec(_));
    println!(
        "{}: {} changes of the spec, of which {} were refused; {} other events",
        phase.title(),
        count(&|index, _| is_field(index)),
        count(&|_, outcome_text| outcome_text == "refused"),
        count(&|index, _| !is_field(index)),
    );
    let document = read_document()?;
    let wanted = with_part(&document, "transitions", &table(&cases, &document, &outcomes));
    if document != wanted {
        ensure!(
            std::env::var_os("UPDATE_DOCS").is_some(),
            "{DOCUMENT} is out of date: UPDATE_DOCS=1 make spec-changes\n{wanted}"
        );
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT), wanted)?;
    }
    Ok(())
}

macro_rules! columns {
    ($($name:ident: $phase:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "takes minutes: make spec-changes"]
            async fn $name() -> Result<()> {
                column(LifecyclePhase::$phase).await
            }
        )*
    };
}

columns! {
    everything_while_pending: Pending;
    everything_while_transferring: Transferring;
    everything_while_not_settled: Settling;
    everything_while_manual_action_is_needed: Failed;
    everything_while_suspended: Suspended;
    everything_when_complete: Complete;
    everything_when_caught_up: CaughtUp;
    everything_while_being_deleted: Deleting;
}

/// Returns the table with these outcomes; other phases keep their text.
fn table(cases: &[ChangeCase], document: &str, outcomes: &CaseOutcomes) -> String {
    let mut text = String::new();
    let titles = LifecyclePhase::ALL.map(LifecyclePhase::title);
    let _ = writeln!(text, "| what changes | {} |", titles.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(titles.len()));
    for (index, case) in cases.iter().enumerate() {
        let title = case.title();
        let cell = |phase: LifecyclePhase| {
            let seen = outcomes.get(&(index, phase)).map(String::as_str);
            seen.or_else(|| cell_of(document, &title, phase))
                .unwrap_or_default()
        };
        let _ = writeln!(
            text,
            "| {title} | {} |",
            LifecyclePhase::ALL.map(cell).join(" | ")
        );
    }
    text
}

/// A case without a row in the document was never run.
#[test]
fn the_table_has_every_case() -> Result<()> {
    let document = read_document()?;
    for case in cases::all() {
        for phase in LifecyclePhase::ALL {
            let title = case.title();
            let cell = cell_of(&document, &title, phase);
            ensure!(
                cell.is_some_and(|cell| !cell.is_empty()),
                "{DOCUMENT} has no cell for {title}, {}: UPDATE_DOCS=1 make spec-changes",
                phase.title()
            );
        }
    }
    Ok(())
}
