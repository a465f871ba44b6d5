//! Many plays at once, and the table of what came of them: docs/transitions.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use eventexport::simulator::Simulator;
use futures::future::join_all;

use super::phases::Phase;
use super::play::Play;
use super::rows::{Deed, Row, all};
use super::stage::Stage;
use super::{oracle, rows};
use crate::docs::with_part;

const DOCUMENT: &str = "docs/transitions.md";

/// Writes to the API server for each resource, from its creation to its end: so many at most, for it is about fifteen.
const WRITES: u64 = 60;

/// Looks at each resource: so many at most.
const LOOKS: u64 = 150;

/// What came of a row at a phase.
type Outcomes = BTreeMap<(usize, Phase), String>;

/// Plays these rows at these phases, all at once under one operator.
async fn sweep(name: &str, rows: &[Row], cells: &[(usize, Phase)]) -> Result<Outcomes> {
    let begun = Instant::now();
    let stage = Stage::start(name).await?;
    let made = cells
        .iter()
        .map(|(index, phase)| Play::begin(&stage, &rows[*index], *phase, *index));
    let mut plays = Vec::new();
    for play in join_all(made).await {
        plays.push(play?);
    }
    for done in join_all(plays.iter().map(Play::before_the_operator)).await {
        done?;
    }
    // Room for all that are kept downloading at once.
    let operator = stage
        .operator(&["--windows", "128", "--pool-mib", "1024"])
        .await?;
    let went = join_all(plays.iter().map(Play::go_on)).await;
    let mut outcomes = Outcomes::new();
    let mut wrong = String::new();
    for ((cell, play), went) in cells.iter().zip(&plays).zip(went) {
        match went {
            Ok(said) => {
                println!("{}, {}: {said}", rows[cell.0].title(), cell.1.title());
                outcomes.insert(*cell, said);
            }
            Err(error) => {
                let (row, phase) = (rows[cell.0].title(), cell.1.title());
                let _ = writeln!(wrong, "{row}, {phase} ({}): {error:#}", play.name);
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{wrong}");
    }
    let services: Vec<&Simulator> = plays.iter().map(|play| &play.simulator).collect();
    oracle::is_quiet(&stage, &operator, &services).await?;
    let toll = oracle::toll(&operator).await?;
    let each = |count: u64| count / cells.len().max(1) as u64;
    println!(
        "{name}: {} transitions in {:.0?}, {} writes and {} looks for each",
        cells.len(),
        begun.elapsed(),
        each(toll.writes),
        each(toll.looks)
    );
    ensure!(
        each(toll.writes) <= WRITES && each(toll.looks) <= LOOKS,
        "{toll:?}"
    );
    Ok(outcomes)
}

fn read() -> Result<String> {
    Ok(std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT),
    )?)
}

/// Each row at one phase, in turn, so that all rows and all phases are played.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_befalls_a_resource_is_taken_up_and_nothing_is_lost_or_doubled() -> Result<()> {
    let rows = all();
    let fields = rows
        .iter()
        .filter(|row| matches!(row.deed, Deed::Spec(_)))
        .count();
    let in_turn = (0..fields).map(|index| Phase::ALL[(index * 3 + index / 8) % Phase::ALL.len()]);
    // Events where they are most dangerous.
    let events = rows[fields..].iter().map(|row| match row.deed {
        Deed::Wipe | Deed::Nonsense => Phase::CaughtUp,
        Deed::WipePart | Deed::Huge | Deed::Another => Phase::Complete,
        Deed::SecretReplaced => Phase::Settling,
        _ => Phase::Transferring,
    });
    let cells: Vec<_> = in_turn.chain(events).enumerate().collect();
    let outcomes = sweep("motion", &rows, &cells).await?;
    // The table that people read says so too.
    let document = read()?;
    for ((index, phase), said) in outcomes {
        let title = rows[index].title();
        let written = cell_of(&document, &title, phase);
        ensure!(
            written == Some(&said),
            "{DOCUMENT}: {title}, {}: {written:?}, and it is {said:?}: UPDATE_DOCS=1 make motion",
            phase.title()
        );
    }
    Ok(())
}

fn cell_of<'a>(document: &'a str, title: &str, phase: Phase) -> Option<&'a str> {
    let line = document
        .lines()
        .find(|line| line.starts_with(&format!("| {title} |")))?;
    let column = Phase::ALL.iter().position(|one| *one == phase)?;
    line.split('|').nth(column + 2).map(str::trim)
}

/// Every row at one phase: one column of the table.
async fn column(phase: Phase) -> Result<()> {
    let rows = all();
    let cells: Vec<_> = (0..rows.len()).map(|index| (index, phase)).collect();
    let outcomes = sweep(phase.word(), &rows, &cells).await?;
    let count = |wanted: &dyn Fn(usize, &str) -> bool| {
        let seen = outcomes.iter().filter(|((index, _), said)| wanted(*index, said));
        seen.count()
    };
    let is_field = |index: usize| matches!(rows[index].deed, Deed::Spec(_));
    println!(
        "{}: {} changes of the spec, of which {} were refused; {} other events",
        phase.title(),
        count(&|index, _| is_field(index)),
        count(&|_, said| said == "refused"),
        count(&|index, _| !is_field(index)),
    );
    let document = read()?;
    let wanted = with_part(&document, "transitions", &table(&rows, &document, &outcomes));
    if document != wanted {
        ensure!(
            std::env::var_os("UPDATE_DOCS").is_some(),
            "{DOCUMENT} is not what was seen: UPDATE_DOCS=1 make motion\n{wanted}"
        );
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT), wanted)?;
    }
    Ok(())
}

macro_rules! columns {
    ($($name:ident: $phase:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "takes minutes: make motion"]
            async fn $name() -> Result<()> {
                column(Phase::$phase).await
            }
        )*
    };
}

columns! {
    everything_while_pending: Pending;
    everything_while_transferring: Transferring;
    everything_while_not_settled: Settling;
    everything_while_waiting_for_a_person: Failed;
    everything_while_suspended: Suspended;
    everything_when_complete: Complete;
    everything_when_caught_up: CaughtUp;
    everything_while_being_deleted: Deleting;
}

/// The table with these outcomes; of other phases, what the document has.
fn table(rows: &[Row], document: &str, outcomes: &Outcomes) -> String {
    let mut text = String::new();
    let titles = Phase::ALL.map(Phase::title);
    let _ = writeln!(text, "| what changes | {} |", titles.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(titles.len()));
    for (index, row) in rows.iter().enumerate() {
        let title = row.title();
        let cell = |phase: Phase| {
            let seen = outcomes.get(&(index, phase)).map(String::as_str);
            seen.or_else(|| cell_of(document, &title, phase))
                .unwrap_or_default()
        };
        let _ = writeln!(text, "| {title} | {} |", Phase::ALL.map(cell).join(" | "));
    }
    text
}

/// A row that is not in the document was never played.
#[test]
fn the_table_has_every_row() -> Result<()> {
    let document = read()?;
    for row in rows::all() {
        for phase in Phase::ALL {
            let title = row.title();
            let cell = cell_of(&document, &title, phase);
            ensure!(
                cell.is_some_and(|cell| !cell.is_empty()),
                "{DOCUMENT} has nothing of {title}, {}: UPDATE_DOCS=1 make motion",
                phase.title()
            );
        }
    }
    Ok(())
}
