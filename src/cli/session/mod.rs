//! `eventexport session`: creates, lists, shows and deletes sessions of the service. Network I/O.

pub mod cleanup;
pub mod create;
pub mod delete;
pub mod view;

use super::exit::{CliError, Exit};
use super::output::OutputArgs;
use super::settings::source::SourceArgs;
use crate::session::SESSIONS_PER_SPACE;

use serde_json::json;

/// Create, list, show and delete sessions of the service.
///
/// A session selects the events of a download and keeps its position. A space can have at most 30 open sessions of all
/// its users, and sessions do not expire: delete the sessions that you create. `eventexport download` and
/// `eventexport run` create and delete their own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct SessionArgs {
    /// Subcommand.
    #[command(subcommand)]
    pub command: SessionCommand,
}

/// Subcommands of `session`.
#[derive(Debug, clap::Subcommand)]
pub enum SessionCommand {
    /// Create a session, by default for the current UTC day.
    #[command(visible_alias = "new", after_help = create::EXAMPLES)]
    Create(create::SessionCreateArgs),
    /// List the open sessions that are visible to you.
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(SessionListArgs),
    /// Show a session.
    #[command(visible_alias = "get", after_help = SHOW_EXAMPLES)]
    Show(SessionShowArgs),
    /// Delete sessions by ID, or all of your old sessions.
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
    /// ID of the session
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
  Create a session for today (UTC), show it, and delete it:
    eventexport session create
    eventexport session show 32c657c5-31c0-4a3c-a139-b380871c737a
    eventexport session delete 32c657c5-31c0-4a3c-a139-b380871c737a
  List the open sessions, and preview the deletion of your old ones:
    eventexport session list
    eventexport session delete --all-mine-older-than 2h --dry-run";

const LIST_EXAMPLES: &str = "\
Examples:
  List the open sessions:
    eventexport session list
  Print only the IDs:
    eventexport session list --output json | jq -r '.sessions[].id'";

const SHOW_EXAMPLES: &str = "\
Examples:
  Show a session:
    eventexport session show 32c657c5-31c0-4a3c-a139-b380871c737a
  Show a session as JSON:
    eventexport session show 32c657c5-31c0-4a3c-a139-b380871c737a --output json";

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
        view::list_table(&sessions, args.output.is_wide())
    })?;
    args.output.note(format!(
        "{} listed. A space can have {SESSIONS_PER_SPACE} of all its users; the service may list only yours.",
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
            "no session {} in space {}: it was deleted, or it belongs to another space; `eventexport session list` shows the \
             open sessions",
            args.id,
            source.space
        )));
    };
    args.output
        .print(SHOW_SCHEMA, json!({"session": view::to_json(&session)}), || {
            view::detail_table(&session)
        })?;
    Ok(Exit::Done)
}
