//! `eventexport session`: sessions made, listed, shown and deleted by hand. Speaks to the service.

pub mod create;
pub mod delete;
pub mod mine;
pub mod view;

use super::exit::{Exit, Fault};
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
    Create(create::CreateArgs),
    /// List the open sessions that the service shows you.
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one session.
    #[command(visible_alias = "get", after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Delete sessions, by id or all of yours that are old.
    #[command(visible_alias = "rm", after_help = delete::EXAMPLES)]
    Delete(delete::DeleteArgs),
}

/// Arguments of `session list`.
#[derive(Debug, clap::Args)]
#[allow(missing_docs)]
pub struct ListArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Arguments of `session show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
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
pub async fn run(args: SessionArgs) -> Result<Exit, Fault> {
    match args.command {
        SessionCommand::Create(args) => args.output.ended(create::SCHEMA, create::create(&args).await),
        SessionCommand::List(args) => args.output.ended(LIST, list(&args).await),
        SessionCommand::Show(args) => args.output.ended(SHOW, show(&args).await),
        SessionCommand::Delete(args) => args.output.ended(delete::SCHEMA, delete::delete(&args).await),
    }
}

const LIST: &str = "eventexport.io/session-list/v1";
const SHOW: &str = "eventexport.io/session/v1";

async fn list(args: &ListArgs) -> Result<Exit, Fault> {
    args.output.start_log()?;
    let source = args.source.connect()?;
    let sessions = source
        .tracker
        .sessions(&source.space)
        .await
        .map_err(|error| source.fault(&error))?;
    let document = json!({
        "space": source.space,
        "limit": SESSIONS_PER_SPACE,
        "sessions": sessions.iter().map(view::object).collect::<Vec<_>>(),
    });
    args.output.print(LIST, document, || {
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
            rows.add_row(view::row(session));
        }
        rows.to_string()
    });
    args.output.remark(format!(
        "{} shown; a space may have {SESSIONS_PER_SPACE}, of all its users together, and the service may show you only your own.",
        super::size::of(sessions.len() as u64, "session")
    ));
    Ok(Exit::Done)
}

async fn show(args: &ShowArgs) -> Result<Exit, Fault> {
    args.output.start_log()?;
    let source = args.source.connect()?;
    let found = source.tracker.session(&source.space, &args.id).await;
    let found = found.map_err(|error| view::of_one(&source, &args.id, &error))?;
    let Some(session) = found else {
        return Err(Fault::Failed(anyhow::anyhow!(
            "there is no session {} in space {}: it was deleted, or it is of another space; `eventexport session list` shows \
             those that are open",
            args.id,
            source.space
        )));
    };
    args.output
        .print(SHOW, json!({"session": view::object(&session)}), || {
            view::name_and_value(&session)
        });
    Ok(Exit::Done)
}
