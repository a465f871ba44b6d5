//! `eventexport session delete`. Speaks to the service, and asks on the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::exit::{Exit, Fault};
use super::super::output::{OutputArgs, table};
use super::super::size;
use super::super::source::{Source, SourceArgs};
use super::mine::{self, Fate};
use super::view;
use crate::api::parse_duration;
use crate::tracker::Session;

/// The document of a deletion.
pub const SCHEMA: &str = "eventexport.io/session-delete/v1";

/// Sessions that are deleted at a time: 4.
const AT_ONCE: usize = 4;

/// Most ids of one command: 1,000, more than a space can have open.
const IDS_MAX: usize = 1000;

/// Arguments of `session delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Ids of the sessions
    #[arg(
        value_name = "ID",
        required_unless_present = "all_mine_older_than",
        conflicts_with = "all_mine_older_than"
    )]
    pub ids: Vec<String>,
    /// All sessions that are provably yours and were made longer ago than this, as 2h or 90m
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub all_mine_older_than: Option<SignedDuration>,
    /// With --all-mine-older-than: also those that were used within the last ten minutes
    #[arg(long, requires = "all_mine_older_than")]
    pub including_touched: bool,
    /// With --all-mine-older-than: your user's name, where neither the token nor the context says it
    #[arg(long, value_name = "NAME", requires = "all_mine_older_than")]
    pub username: Option<String>,
    /// Do not ask for a confirmation
    #[arg(short, long)]
    pub yes: bool,
    /// Show what would be deleted, and delete nothing
    #[arg(long, requires = "all_mine_older_than", conflicts_with = "yes")]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
}

/// What `--help` shows.
pub const EXAMPLES: &str = "\
Examples:
  eventexport session delete 32c657c5-31c0-4a3c-a139-b380871c737a
  Several; one that is gone already is no error:
    eventexport session delete ID1 ID2 ID3
  What you left open: look first, then delete; in a script with --yes:
    eventexport session delete --all-mine-older-than 2h --dry-run
    eventexport session delete --all-mine-older-than 2h --yes

Ids that you name are deleted without a question. With --all-mine-older-than only sessions whose username is yours are
deleted; one that was used within the last ten minutes may be downloading, so it is told and left alone.";

fn age(text: &str) -> Result<SignedDuration, String> {
    parse_duration(text).ok_or_else(|| "is no duration as 2h, 90m or 1h30m".to_owned())
}

/// What became of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Became {
    Deleted,
    NotThere,
    Failed(String),
}

/// Deletes what was named, or what is provably ours and old.
pub async fn delete(args: &DeleteArgs) -> Result<Exit, Fault> {
    args.output.start_log()?;
    if args.ids.len() > IDS_MAX {
        return Err(Fault::usage(format!(
            "ID: {} are more than {IDS_MAX} at a time",
            args.ids.len()
        )));
    }
    let source = args.source.connect()?;
    let (ids, kept) = match args.all_mine_older_than {
        None => (unique(&args.ids), Vec::new()),
        Some(age) => {
            let chosen = choose(args, &source, age).await?;
            if args.dry_run || chosen.ids.is_empty() {
                report(args, &[], &chosen.ids, &chosen.kept);
                return Ok(Exit::Done);
            }
            confirm(args, chosen.ids.len())?;
            (chosen.ids, chosen.kept)
        }
    };
    let results: Vec<(String, Became)> = futures::stream::iter(ids)
        .map(|id| one(&source, id))
        .buffered(AT_ONCE)
        .collect()
        .await;
    report(args, &results, &[], &kept);
    let failed = results
        .iter()
        .any(|(_, result)| matches!(result, Became::Failed(_)));
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn unique(ids: &[String]) -> Vec<String> {
    let mut unique: Vec<String> = Vec::with_capacity(ids.len());
    for id in ids {
        if !unique.contains(id) {
            unique.push(id.clone());
        }
    }
    unique
}

async fn one(source: &Source, id: String) -> (String, Became) {
    let result = match source.tracker.delete_session_if_there(&source.space, &id).await {
        Ok(true) => Became::Deleted,
        Ok(false) => Became::NotThere,
        Err(error) => Became::Failed(view::of_one_worded(source, &id, &error)),
    };
    (id, result)
}

/// What is to be deleted, and what stays although it may be meant.
struct Chosen {
    ids: Vec<String>,
    kept: Vec<(Session, String)>,
}

async fn choose(args: &DeleteArgs, source: &Source, age: SignedDuration) -> Result<Chosen, Fault> {
    let told = source.user().await.map_err(|error| source.fault(&error))?;
    let user = match (told, &args.username) {
        (Some(told), Some(named)) if told != *named => {
            return Err(Fault::usage(format!(
                "--username: the credentials are {told}'s, not {named}'s"
            )));
        }
        (Some(user), _) => user,
        (None, Some(named)) => named.clone(),
        (None, None) => {
            return Err(Fault::usage(
                "which sessions are yours cannot be told: the token does not name its user; say --username NAME, as \
                 `eventexport session list` shows it",
            ));
        }
    };
    let sessions = source
        .tracker
        .sessions(&source.space)
        .await
        .map_err(|error| source.fault(&error))?;
    let now = Timestamp::now();
    let mut chosen = Chosen {
        ids: Vec::new(),
        kept: Vec::new(),
    };
    let mut rows = table(&["Id", "Username", "Age", "Last used", "Date-range", "What happens"]);
    let ago = |at: Option<Timestamp>| {
        at.map_or_else(|| "unknown".to_owned(), |at| mine::about(now.duration_since(at)))
    };
    for session in sessions {
        let fate = mine::fate(&session, &user, &source.space, age, now);
        let what = match &fate {
            Fate::Delete => "to be deleted".to_owned(),
            Fate::Touched(idle) if args.including_touched => {
                format!("to be deleted, though used {} ago", mine::about(*idle))
            }
            Fate::Touched(idle) => format!(
                "left alone: used {} ago, may be downloading (--including-touched deletes it too)",
                mine::about(*idle)
            ),
            Fate::Young => "left alone: younger".to_owned(),
            Fate::NotOurs => "left alone: another user's".to_owned(),
            Fate::Unproved(why) => format!("left alone: {why}"),
        };
        rows.add_row([
            session.id.clone(),
            session.username.clone().unwrap_or_else(|| "-".to_owned()),
            ago(session.created),
            ago(session.accessed),
            view::range(&session),
            what.clone(),
        ]);
        match fate {
            Fate::Delete => chosen.ids.push(session.id),
            Fate::Touched(_) if args.including_touched => chosen.ids.push(session.id),
            _ => chosen.kept.push((session, what)),
        }
    }
    if !args.output.json() && rows.row_count() > 0 {
        // What is asked about, or done, is shown first, wherever the result goes.
        eprintln!("{rows}");
    }
    Ok(chosen)
}

/// Asks a person; refuses where nobody can answer.
fn confirm(args: &DeleteArgs, number: usize) -> Result<(), Fault> {
    if args.yes {
        return Ok(());
    }
    let what = size::of(number as u64, "session");
    let stdin = std::io::stdin();
    if args.output.json() || !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Fault::usage(format!(
            "{what} would be deleted, and nobody is there to be asked: say --yes"
        )));
    }
    let mut answer = String::new();
    let asked = std::io::stderr()
        .write_all(format!("Delete {what}? [y/N] ").as_bytes())
        .and_then(|()| stdin.lock().read_line(&mut answer));
    asked.map_err(|error| anyhow::anyhow!("the answer cannot be read from the terminal: {error}"))?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Fault::Failed(anyhow::anyhow!("nothing was deleted")))
    }
}

fn report(args: &DeleteArgs, results: &[(String, Became)], planned: &[String], kept: &[(Session, String)]) {
    let result = |(id, result): &(String, Became)| match result {
        Became::Deleted => json!({"id": id, "result": "Deleted"}),
        Became::NotThere => json!({"id": id, "result": "NotThere"}),
        Became::Failed(why) => json!({"id": id, "result": "Failed", "message": why}),
    };
    let kept: Vec<Value> = kept
        .iter()
        .map(|(session, why)| json!({"session": view::object(session), "why": why}))
        .collect();
    let document = json!({
        "dryRun": args.dry_run,
        "wouldDelete": planned,
        "results": results.iter().map(result).collect::<Vec<_>>(),
        "leftAlone": kept,
    });
    args.output.print(SCHEMA, document, || {
        if results.is_empty() {
            return if planned.is_empty() {
                "Nothing to delete.".to_owned()
            } else {
                format!(
                    "{} would be deleted; nothing was.",
                    size::of(planned.len() as u64, "session")
                )
            };
        }
        let mut rows = table(&["Id", "Result"]);
        for (id, result) in results {
            let text = match result {
                Became::Deleted => "Delete session success".to_owned(),
                Became::NotThere => "was not there: nothing to delete".to_owned(),
                Became::Failed(why) => format!("FAILED: {why}"),
            };
            rows.add_row([id, &text]);
        }
        rows.to_string()
    });
}
