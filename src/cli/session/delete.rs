//! `eventexport session delete`. Speaks to the service, and asks on the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::exit::{CliError, Exit};
use super::super::human;
use super::super::output::{OutputArgs, table};
use super::super::source::{SourceArgs, SourceConnection};
use super::cleanup::{self, CleanupDecision};
use super::view;
use crate::api::parse_duration;
use crate::tracker::Session;

/// The document of a deletion.
pub const SCHEMA: &str = "eventexport.io/session-delete/v1";

/// Sessions that are deleted at a time: 4.
const CONCURRENT_DELETES: usize = 4;

/// Most ids of one command: 1,000, more than a space can have open.
const IDS_MAX: usize = 1000;

/// Arguments of `session delete`.
#[derive(Debug, clap::Args)]
pub struct SessionDeleteArgs {
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
enum DeleteResult {
    Deleted,
    NotFound,
    Failed(String),
}

/// Deletes what was named, or what is provably ours and old.
pub async fn delete(args: &SessionDeleteArgs) -> Result<Exit, CliError> {
    args.output.start_log()?;
    if args.ids.len() > IDS_MAX {
        return Err(CliError::usage(format!(
            "ID: {} are more than {IDS_MAX} at a time",
            args.ids.len()
        )));
    }
    let source = args.source.connect()?;
    let (ids, kept) = match args.all_mine_older_than {
        None => (dedup(&args.ids), Vec::new()),
        Some(age) => {
            let selection = select_sessions(args, &source, age).await?;
            if args.dry_run || selection.ids.is_empty() {
                report(args, &[], &selection.ids, &selection.kept);
                return Ok(Exit::Done);
            }
            confirm(args, selection.ids.len())?;
            (selection.ids, selection.kept)
        }
    };
    let results: Vec<(String, DeleteResult)> = futures::stream::iter(ids)
        .map(|id| delete_one(&source, id))
        .buffered(CONCURRENT_DELETES)
        .collect()
        .await;
    report(args, &results, &[], &kept);
    let failed = results
        .iter()
        .any(|(_, result)| matches!(result, DeleteResult::Failed(_)));
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn dedup(ids: &[String]) -> Vec<String> {
    let mut unique: Vec<String> = Vec::with_capacity(ids.len());
    for id in ids {
        if !unique.contains(id) {
            unique.push(id.clone());
        }
    }
    unique
}

async fn delete_one(source: &SourceConnection, id: String) -> (String, DeleteResult) {
    let result = match source.tracker.delete_session_if_exists(&source.space, &id).await {
        Ok(true) => DeleteResult::Deleted,
        Ok(false) => DeleteResult::NotFound,
        Err(error) => DeleteResult::Failed(view::session_error_text(source, &id, &error)),
    };
    (id, result)
}

/// What is to be deleted, and what stays although it may be meant.
struct SessionSelection {
    ids: Vec<String>,
    kept: Vec<(Session, String)>,
}

async fn select_sessions(
    args: &SessionDeleteArgs,
    source: &SourceConnection,
    age: SignedDuration,
) -> Result<SessionSelection, CliError> {
    let token_user = source
        .user()
        .await
        .map_err(|error| source.tracker_error(&error))?;
    let user = match (token_user, &args.username) {
        (Some(token_user), Some(named)) if token_user != *named => {
            return Err(CliError::usage(format!(
                "--username: the credentials are {token_user}'s, not {named}'s"
            )));
        }
        (Some(user), _) => user,
        (None, Some(named)) => named.clone(),
        (None, None) => {
            return Err(CliError::usage(
                "which sessions are yours cannot be told: the token does not name its user; say --username NAME, as \
                 `eventexport session list` shows it",
            ));
        }
    };
    let sessions = source
        .tracker
        .list_sessions(&source.space)
        .await
        .map_err(|error| source.tracker_error(&error))?;
    let now = Timestamp::now();
    let mut selection = SessionSelection {
        ids: Vec::new(),
        kept: Vec::new(),
    };
    let mut rows = table(&["Id", "Username", "Age", "Last used", "Date-range", "What happens"]);
    let ago = |at: Option<Timestamp>| {
        at.map_or_else(
            || "unknown".to_owned(),
            |at| cleanup::format_age(now.duration_since(at)),
        )
    };
    for session in sessions {
        let decision = cleanup::decide(&session, &user, &source.space, age, now);
        let what = match &decision {
            CleanupDecision::Delete => "to be deleted".to_owned(),
            CleanupDecision::RecentlyUsed(idle) if args.including_touched => {
                format!("to be deleted, though used {} ago", cleanup::format_age(*idle))
            }
            CleanupDecision::RecentlyUsed(idle) => format!(
                "left alone: used {} ago, may be downloading (--including-touched deletes it too)",
                cleanup::format_age(*idle)
            ),
            CleanupDecision::TooYoung => "left alone: younger".to_owned(),
            CleanupDecision::OtherUser => "left alone: another user's".to_owned(),
            CleanupDecision::Unverified(why) => format!("left alone: {why}"),
        };
        rows.add_row([
            session.id.clone(),
            session.username.clone().unwrap_or_else(|| "-".to_owned()),
            ago(session.created),
            ago(session.accessed),
            view::format_range(&session),
            what.clone(),
        ]);
        match decision {
            CleanupDecision::Delete => selection.ids.push(session.id),
            CleanupDecision::RecentlyUsed(_) if args.including_touched => selection.ids.push(session.id),
            _ => selection.kept.push((session, what)),
        }
    }
    if !args.output.is_json() && rows.row_count() > 0 {
        // What is asked about, or done, is shown first, wherever the result goes.
        eprintln!("{rows}");
    }
    Ok(selection)
}

/// Asks a person; refuses where nobody can answer.
fn confirm(args: &SessionDeleteArgs, number: usize) -> Result<(), CliError> {
    if args.yes {
        return Ok(());
    }
    let what = human::plural(number as u64, "session");
    let stdin = std::io::stdin();
    if args.output.is_json() || !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(CliError::usage(format!(
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
        Err(CliError::Failed(anyhow::anyhow!("nothing was deleted")))
    }
}

fn report(
    args: &SessionDeleteArgs,
    results: &[(String, DeleteResult)],
    planned: &[String],
    kept: &[(Session, String)],
) {
    let result = |(id, result): &(String, DeleteResult)| match result {
        DeleteResult::Deleted => json!({"id": id, "result": "Deleted"}),
        DeleteResult::NotFound => json!({"id": id, "result": "NotThere"}),
        DeleteResult::Failed(why) => json!({"id": id, "result": "Failed", "message": why}),
    };
    let kept: Vec<Value> = kept
        .iter()
        .map(|(session, why)| json!({"session": view::to_json(session), "why": why}))
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
                    human::plural(planned.len() as u64, "session")
                )
            };
        }
        let mut rows = table(&["Id", "Result"]);
        for (id, result) in results {
            let text = match result {
                DeleteResult::Deleted => "Delete session success".to_owned(),
                DeleteResult::NotFound => "was not there: nothing to delete".to_owned(),
                DeleteResult::Failed(why) => format!("FAILED: {why}"),
            };
            rows.add_row([id, &text]);
        }
        rows.to_string()
    });
}
