//! `eventexport session`: sessions made, listed, shown and deleted by hand. Speaks to the service.

pub mod cleanup;
pub mod create;
pub mod delete;
pub mod view;

use super::exit::{CliError, Exit};
use super::output::{OutputArgs, table};
use super::source::SourceArgs;

use serde_json::json;

/// Make, list, show and delete sessions of the service.
///
/// A session defines which events a download gets, and keeps its place. At most 30 may be open in a space, of all its
/// users together, and none ends by itself: delete what you made. `eventexport download` and `eventexport run` make and
/// delete their own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct SessionArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SessionCommand,
}

/// What can be done with sessions.
#[derive(Debug, clap::Subcommand)]
pub enum SessionCommand {
    /// Open a session: for the current UTC day, unless dates are given.
    #[command(visible_alias = "new", after_help = create::EXAMPLES)]
    Create(create::SessionCreateArgs),
    /// List the open sessions that the service shows you.
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(SessionListArgs),
    /// Show one session.
    #[command(visible_alias = "get", after_help = SHOW_EXAMPLES)]
    Show(SessionShowArgs),
    /// Delete sessions, by id or all of yours that are old.
    #[command(visible_alias = "rm", after_help = delete::EXAMPLES)]
    Delete(delete::SessionDeleteArgs),
}

/// Arguments of `session list`.
#[derive(Debug, clap::Args)]
#[allow(missing_docs)]
pub struct SessionListArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Arguments of `session show`.
#[derive(Debug, clap::Args)]
pub struct SessionShowArgs {
    /// The session's id
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
}

const EXAMPLES: &str = "\
Examples:
  Open one for today (UTC), look at it, and delete it:
    eventexport session create
    eventexport session show 32c657c5-31c0-4a3c-a139-b380871c737a
    eventexport session delete 32c657c5-31c0-4a3c-a139-b380871c737a
  What is open, and what of it is old and yours:
    eventexport session list
    eventexport session delete --all-mine-older-than 2h --dry-run";

const LIST_EXAMPLES: &str = "\
Examples:
  eventexport session list
  Ids alone, for a script:
    eventexport session list --output json | jq -r '.sessions[].id'";

const SHOW_EXAMPLES: &str = "\
Examples:
  eventexport session show 32c657c5-31c0-4a3c-a139-b380871c737a
  eventexport session show 32c657c5-31c0-4a3c-a139-b380871c737a --output json";

/// Sessions that a space may have open at once (API page).
pub const SESSIONS_PER_SPACE: usize = 30;

/// Runs `eventexport session`.
pub async fn run(args: SessionArgs) -> Result<Exit, CliError> {
    match args.command {
        SessionCommand::Create(args) => args.output.finish(create::SCHEMA, create::create(&args).await),
        SessionCommand::List(args) => args.output.finish(LIST_SCHEMA, list(&args).await),
        SessionCommand::Show(args) => args.output.finish(SHOW_SCHEMA, show(&args).await),
        SessionCommand::Delete(args) => args.output.finish(delete::SCHEMA, delete::delete(&args).await),
    }
}

const LIST_SCHEMA: &str = "eventexport.io/session-list/v1";
const SHOW_SCHEMA: &str = "eventexport.io/session/v1";

async fn list(args: &SessionListArgs) -> Result<Exit, CliError> {
    args.output.start_log()?;
    let source = args.source.connect()?;
    let sessions = source
        .tracker
        .list_sessions(&source.space)
        .await
        .map_err(|error| source.tracker_error(&error))?;
    let document = json!({
        "space": source.space,
        "limit": SESSIONS_PER_SPACE,
        "sessions": sessions.iter().map(view::to_json).collect::<Vec<_>>(),
    });
    args.output.print(LIST_SCHEMA, document, || {
        let mut rows = table(&[
            "Id",
            "Space",
            "Username",
            "Create-time",
            "Access-time",
            "Date-range",
            "Scope",
        ]);
        for session in &sessions {
            rows.add_row(view::list_row(session));
        }
        rows.to_string()
    });
    args.output.note(format!(
        "{} shown; a space may have {SESSIONS_PER_SPACE}, of all its users together, and the service may show you only your own.",
        super::human::plural(sessions.len() as u64, "session")
    ));
    Ok(Exit::Done)
}

async fn show(args: &SessionShowArgs) -> Result<Exit, CliError> {
    args.output.start_log()?;
    let source = args.source.connect()?;
    let found = source.tracker.get_session(&source.space, &args.id).await;
    let found = found.map_err(|error| view::session_error(&source, &args.id, &error))?;
    let Some(session) = found else {
        return Err(CliError::Failed(anyhow::anyhow!(
            "there is no session {} in space {}: it was deleted, or it is of another space; `eventexport session list` shows \
             those that are open",
            args.id,
            source.space
        )));
    };
    args.output
        .print(SHOW_SCHEMA, json!({"session": view::to_json(&session)}), || {
            view::detail_table(&session)
        });
    Ok(Exit::Done)
}
