//! `eventexport session delete`. Network I/O; asks for confirmation on the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::exit::{CliError, Exit};
use super::super::human;
use super::super::output::{OutputArgs, table, write_stderr};
use super::super::settings::source::{SourceArgs, SourceConnection};
use super::cleanup::{self, CleanupDecision};
use super::view;
use crate::api::parse_duration;
use crate::tracker::Session;

/// Schema version of the JSON document.
pub const SCHEMA: &str = "eventexport.io/session-delete/v2";

/// Number of concurrent deletions: 4.
const CONCURRENT_DELETES: usize = 4;

/// Maximum number of IDs: 1,000, more than a space can have open.
const IDS_MAX: usize = 1000;

/// Arguments of `session delete`.
#[derive(Debug, clap::Args)]
pub struct SessionDeleteArgs {
    /// IDs of the sessions
    #[arg(value_name = "ID", conflicts_with = "all_mine_older_than")]
    pub ids: Vec<String>,
    /// Delete all of your sessions that are older than DURATION, for example 2h or 90m
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub all_mine_older_than: Option<SignedDuration>,
    /// With --all-mine-older-than: also delete sessions that were used in the last 10 minutes
    #[arg(long, requires = "all_mine_older_than")]
    pub including_touched: bool,
    /// With --all-mine-older-than: your user name, if neither the token nor the context contains it
    #[arg(long, value_name = "NAME", requires = "all_mine_older_than")]
    pub username: Option<String>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub yes: bool,
    /// Only print the sessions that would be deleted
    #[arg(long, requires = "all_mine_older_than", conflicts_with = "yes")]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
}

/// Examples in `--help`.
pub const EXAMPLES: &str = "\
Examples:
  Delete a session:
    eventexport session delete 32c657c5-31c0-4a3c-a139-b380871c737a
  Delete several sessions; a session that does not exist is not an error:
    eventexport session delete ID1 ID2 ID3
  Preview and delete all of your old sessions; scripts need --yes:
    eventexport session delete --all-mine-older-than 2h --dry-run
    eventexport session delete --all-mine-older-than 2h --yes

Sessions given by ID are deleted without confirmation. --all-mine-older-than deletes only sessions with your user name.
It keeps and reports sessions that were used in the last 10 minutes, since a download may be in progress.";

fn age(text: &str) -> Result<SignedDuration, String> {
    parse_duration(text).ok_or_else(|| "expected a duration such as 2h, 90m or 1h30m".to_owned())
}

/// Result for a session ID.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DeleteResult {
    Deleted,
    NotFound,
    Failed(String),
}

/// Deletes the given sessions, or the old sessions of the user.
pub async fn delete(args: &SessionDeleteArgs) -> Result<Exit, CliError> {
    args.output.start_log()?;
    if args.ids.is_empty() && args.all_mine_older_than.is_none() {
        return Err(CliError::usage(
            "no sessions are selected: give their IDs, or --all-mine-older-than",
        ));
    }
    if args.ids.len() > IDS_MAX {
        return Err(CliError::usage(format!(
            "ID: {} IDs given, but at most {IDS_MAX} are allowed",
            args.ids.len()
        )));
    }
    let source = args.source.connect()?;
    let (ids, kept) = match args.all_mine_older_than {
        None => (dedup(&args.ids), Vec::new()),
        Some(age) => {
            let selection = select_sessions(args, &source, age).await?;
            if args.dry_run || selection.ids.is_empty() {
                report(args, &[], &selection.ids, &selection.kept)?;
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
    report(args, &results, &[], &kept)?;
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

/// Sessions to delete, and sessions to keep with the reason.
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
                "--username: the credentials belong to {token_user}, not to {named}"
            )));
        }
        (Some(user), _) => user,
        (None, Some(named)) => named.clone(),
        (None, None) => {
            return Err(CliError::usage(
                "cannot determine your user name: the token does not contain it; set --username NAME \
                 (`eventexport session list` shows it)",
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
    let mut rows = table(&["Id", "Username", "Age", "Last used", "Date-range", "Action"]);
    let ago = |at: Option<Timestamp>| {
        at.map_or_else(
            || "unknown".to_owned(),
            |at| cleanup::format_age(now.duration_since(at)),
        )
    };
    for session in sessions {
        let decision = cleanup::decide(&session, &user, &source.space, age, now);
        let action = match &decision {
            CleanupDecision::Delete => "delete".to_owned(),
            CleanupDecision::RecentlyUsed(idle) if args.including_touched => {
                format!("delete (used {} ago)", cleanup::format_age(*idle))
            }
            CleanupDecision::RecentlyUsed(idle) => format!(
                "keep: used {} ago, may be downloading (--including-touched deletes it)",
                cleanup::format_age(*idle)
            ),
            CleanupDecision::TooYoung => "keep: too young".to_owned(),
            CleanupDecision::OtherUser => "keep: owned by another user".to_owned(),
            CleanupDecision::Unverified(why) => format!("keep: {why}"),
        };
        rows.add_row([
            session.id.clone(),
            session.username.clone().unwrap_or_else(|| "-".to_owned()),
            ago(session.created),
            ago(session.accessed),
            view::format_range(&session),
            action.clone(),
        ]);
        match decision {
            CleanupDecision::Delete => selection.ids.push(session.id),
            CleanupDecision::RecentlyUsed(_) if args.including_touched => selection.ids.push(session.id),
            _ => selection.kept.push((session, action)),
        }
    }
    if !args.output.is_json() && rows.row_count() > 0 {
        // Printed before the confirmation and the result, wherever the result goes.
        write_stderr(&rows.to_string());
    }
    Ok(selection)
}

/// Asks for confirmation. Fails without a terminal.
fn confirm(args: &SessionDeleteArgs, number: usize) -> Result<(), CliError> {
    if args.yes {
        return Ok(());
    }
    let what = human::plural(number as u64, "session");
    let stdin = std::io::stdin();
    if args.output.is_json() || !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(CliError::usage(format!(
            "{what} would be deleted, but there is no terminal to confirm it: use --yes"
        )));
    }
    let mut answer = String::new();
    let read = std::io::stderr()
        .write_all(format!("Delete {what}? [y/N] ").as_bytes())
        .and_then(|()| stdin.lock().read_line(&mut answer));
    read.map_err(|error| anyhow::anyhow!("cannot read the answer from the terminal: {error}"))?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(CliError::Failed(anyhow::anyhow!("canceled: nothing was deleted")))
    }
}

fn report(
    args: &SessionDeleteArgs,
    results: &[(String, DeleteResult)],
    planned: &[String],
    kept: &[(Session, String)],
) -> Result<(), CliError> {
    let result = |(id, result): &(String, DeleteResult)| match result {
        DeleteResult::Deleted => json!({"id": id, "result": "Deleted"}),
        DeleteResult::NotFound => json!({"id": id, "result": "NotFound"}),
        DeleteResult::Failed(why) => json!({"id": id, "result": "Failed", "message": why}),
    };
    let kept: Vec<Value> = kept
        .iter()
        .map(|(session, reason)| json!({"session": view::to_json(session), "reason": reason}))
        .collect();
    let document = json!({
        "dryRun": args.dry_run,
        "wouldDelete": planned,
        "results": results.iter().map(result).collect::<Vec<_>>(),
        "kept": kept,
    });
    args.output.print(SCHEMA, document, || {
        if results.is_empty() {
            return if planned.is_empty() {
                "Nothing to delete.".to_owned()
            } else {
                format!(
                    "{} would be deleted (dry run).",
                    human::plural(planned.len() as u64, "session")
                )
            };
        }
        let mut rows = table(&["Id", "Result"]);
        for (id, result) in results {
            let text = match result {
                DeleteResult::Deleted => "Delete session success".to_owned(),
                DeleteResult::NotFound => "not found: nothing to delete".to_owned(),
                DeleteResult::Failed(why) => format!("FAILED: {why}"),
            };
            rows.add_row([id, &text]);
        }
        rows.to_string()
    })
}
