//! `eventexport plan`: shows the actions of a run without opening a session. Reads the destination only; the decisions
//! are in [`planner`](super::planner), without I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::exit::{CliError, Exit};
use super::human;
use super::job::{self, RunOptions};
use super::manifest::{ExportResource, ResourceManifest};
use super::output::{OutputFormat, merge, write_stdout};
use super::planner::{DestinationListing, REQUESTS_PER_RUN, REQUESTS_PER_WINDOW, RunPlan, plan};
use super::run_summary;
use super::settings;
use super::settings::destination::{DestinationOverride, S3Args};
use super::settings::export::{ExportArgs, LoadedExports, SourceCredentials};
use super::settings::location::{ARCHIVE_VALUE, ArchiveLocation};
use crate::api::SettingNames;
use crate::archive::coverage::WindowState;
use crate::archive::layout::ArchiveRoot;
use crate::archive::read::{ReadOptions, read_journal};
use crate::archive::window::{HourSet, Window};
use crate::export::shard::Shard;
use crate::export::spec::ExportSpec;
use crate::storage::{Store, StoreError};
use crate::tracker::TokenCache;

/// Maximum time to list the destination and to read its receipts: 2 min.
const LIST_TIMEOUT: Duration = Duration::from_mins(2);

/// Maximum number of ranges in the text output; JSON lists every window.
const RANGES_SHOWN: usize = 12;

/// Show what a run would do, without opening a session.
///
/// Prints the missing windows, and the sessions and requests that a run would need for them. Lists the destination and
/// reads its receipts, if it is reachable; sends no request to the service, so it cannot show which stored days have grown
/// (`inspect --ask-service` does): a run downloads those again. Exit code 0: a run can complete by itself;
/// 1: the destination cannot be listed, or a window needs manual action; 2: the manifest is invalid.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PlanArgs {
    /// Destination: a directory, or `s3://bucket/prefix`. With -f: instead of the bucket of the manifest
    #[arg(long, alias = "to", value_name = ARCHIVE_VALUE, value_parser = ArchiveLocation::parser())]
    pub archive: Option<ArchiveLocation>,
    /// Do not list the destination; plan as if nothing were stored
    #[arg(long)]
    pub offline: bool,
    /// Plan only part I of N (counted from 0), as `run --shard` would run it
    #[arg(long, env = "EVENTEXPORT_SHARD", value_name = "I/N", default_value_t = Shard::SINGLE, hide_default_value = true)]
    pub shard: Shard,
    /// Output format: text for people, json for programs
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub export: ExportArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub s3: S3Args,
}

const EXAMPLES: &str = "\
Examples:
  The windows, sessions and requests of a run:
    eventexport plan -f audit.yaml
  Of an export without a manifest:
    eventexport plan --region us-south --space ID --start 2018-06-01 --archive s3://audit/tracker
  As JSON, with every window, without listing the bucket:
    eventexport plan -f audit.yaml --offline --output json";

/// Prints the plan.
pub async fn run(args: PlanArgs) -> Result<Exit, CliError> {
    let loaded = args
        .export
        .load(args.archive.as_ref(), &args.s3, SourceCredentials::Unused)?;
    let LoadedExports { manifest, archive } = loaded;
    let (mut objects, mut blocked) = (Vec::new(), false);
    for resource in &manifest.exports {
        let options = RunOptions {
            archive: archive.as_ref().map(|location| DestinationOverride {
                location,
                s3: &args.s3,
                context: None,
            }),
            parallelism: None,
            single_writer: false,
            shard: args.shard,
            max_sessions: super::run::max_sessions(args.shard, None),
        };
        let adjusted = job::apply_options(resource, &options, None);
        let process_context = job::process_context(&adjusted, "plan", &TokenCache::new(), &options);
        let export = job::export_spec(&adjusted, &process_context, &options, false)?;
        let destination = archive
            .as_ref()
            .map_or_else(|| bucket_url(&adjusted), ArchiveLocation::store_name);
        let listing = if args.offline {
            DestinationListing::Unavailable("--offline was given".to_owned())
        } else if is_missing_directory(archive.as_ref()) {
            DestinationListing::Listed(Box::default())
        } else {
            match open(&adjusted, &manifest, &options).await {
                Ok((store, names)) => list_destination(&*store, &names, &export.root).await,
                Err(error) => DestinationListing::Unavailable(error.to_string()),
            }
        };
        let plan = plan(&export, &listing, Timestamp::now());
        let unlisted = matches!(listing, DestinationListing::Unavailable(_)) && !args.offline;
        blocked |=
            unlisted || plan.needs_manual_action() || listing.warning(&export).is_some() && !args.offline;
        match args.output {
            OutputFormat::Text | OutputFormat::Wide => {
                write_stdout(&render_text(&export, &destination, &listing, &plan))?;
            }
            OutputFormat::Json => objects.push(plan_json(&export, &destination, &listing, &plan)),
        }
    }
    if args.output == OutputFormat::Json {
        let document = json!({"schema": "eventexport.io/plan/v2", "exports": objects});
        write_stdout(&format!("{document}\n"))?;
    }
    Ok(if blocked { Exit::Failed } else { Exit::Done })
}

/// Opens the destination, and returns it with the names of its settings.
async fn open(
    resource: &ExportResource,
    manifest: &ResourceManifest,
    options: &RunOptions<'_>,
) -> Result<(Arc<dyn Store>, SettingNames), CliError> {
    let destination = settings::destination_of(resource, manifest, options.archive)?;
    let store = job::open_for_reading(resource, &destination).await?;
    Ok((store, destination.names))
}

fn bucket_url(resource: &ExportResource) -> String {
    format!("s3://{}", resource.spec.destination.s3.bucket)
}

/// True for a directory that does not exist: a run creates it, a plan does not.
fn is_missing_directory(to: Option<&ArchiveLocation>) -> bool {
    matches!(to, Some(ArchiveLocation::Directory(path)) if !path.exists())
}

async fn list_destination(store: &dyn Store, names: &SettingNames, root: &ArchiveRoot) -> DestinationListing {
    let list = async {
        let (journal, _) = read_journal(store, root, &ReadOptions::default()).await?;
        Ok::<_, StoreError>(DestinationListing::Listed(Box::new(journal)))
    };
    match tokio::time::timeout(LIST_TIMEOUT, list).await {
        Ok(Ok(listing)) => listing,
        Ok(Err(error)) => DestinationListing::Unavailable(error.describe(names)),
        Err(_) => {
            DestinationListing::Unavailable(format!("{} did not answer within 2 minutes", store.identity()))
        }
    }
}

fn render_text(
    export: &ExportSpec,
    destination: &str,
    listing: &DestinationListing,
    plan: &RunPlan,
) -> String {
    let windows_with = |wanted: fn(&WindowState) -> bool| {
        plan.windows
            .iter()
            .filter(|(_, state)| wanted(state))
            .map(|(window, _)| *window)
            .collect::<Vec<_>>()
    };
    let ranges = |windows: &[Window]| {
        windows
            .iter()
            .copied()
            .collect::<HourSet>()
            .ranges(RANGES_SHOWN)
            .join(", ")
    };
    let mut lines = vec![
        format!(
            "{}{}: {} {} → {destination}/{}",
            export.name,
            run_summary::shard_suffix(export),
            export.scope.as_key(),
            export.space,
            export.root.as_str()
        ),
        format!("  source        {}", export.source),
    ];
    if let Some(warning) = listing.warning(export) {
        lines.push(format!("  destination   {warning}"));
    }
    lines.push(format!(
        "  windows       {}",
        human::count(plan.windows.len() as u64)
    ));
    for (label, windows) in [
        (
            "to export",
            windows_with(|state| matches!(state, WindowState::Missing | WindowState::Partial(_))),
        ),
        ("stored", windows_with(|state| *state == WindowState::Covered)),
        (
            "accepted gaps",
            windows_with(|state| *state == WindowState::Accepted),
        ),
        ("not due yet", windows_with(|state| *state == WindowState::NotDue)),
        ("expired", windows_with(|state| *state == WindowState::Expired)),
    ] {
        if !windows.is_empty() {
            lines.push(format!(
                "    {label}: {} ({})",
                human::count(windows.len() as u64),
                ranges(&windows)
            ));
        }
    }
    let damaged = plan.windows.iter().filter_map(|(window, state)| match state {
        WindowState::Damaged(damage) => Some((window, damage)),
        _ => None,
    });
    for (window, damage) in damaged.clone().take(RANGES_SHOWN) {
        lines.push(format!("    {}: {window}: {damage}", damage.as_str()));
    }
    for (window, message) in plan.changed.iter().take(RANGES_SHOWN) {
        lines.push(format!("    DayChanged: {window}: {message}"));
    }
    let more = damaged.count().saturating_sub(RANGES_SHOWN);
    if more > 0 {
        lines.push(format!("    … and {more} more damaged windows"));
    }
    if plan.sessions.is_empty() {
        let needed = if listing.warning(export).is_some() {
            "none: see the destination above"
        } else if plan.needs_manual_action() {
            "none: the windows above need manual action"
        } else {
            // The service is not asked.
            "none, unless a stored day has grown (`eventexport status` shows it)"
        };
        lines.push(format!("  sessions      {needed}"));
        return lines.join("\n") + "\n";
    }
    let sessions = human::count(plan.sessions.len() as u64);
    lines.push(format!(
        "  sessions      {sessions}, at most {} open at once",
        plan.concurrency
    ));
    lines.push(format!(
        "  requests      about {} to the service if nothing fails ({REQUESTS_PER_RUN} for the run, \
         {REQUESTS_PER_WINDOW} for each session)",
        human::count(plan.requests)
    ));
    lines.join("\n") + "\n"
}

fn plan_json(export: &ExportSpec, destination: &str, listing: &DestinationListing, plan: &RunPlan) -> Value {
    let window = |(window, state): &(Window, WindowState)| {
        let mut object = json!({"window": window.to_string(), "state": state.as_str()});
        match state {
            WindowState::NotDue => merge(&mut object, json!({"dueAt": export.due_at(*window)})),
            WindowState::Damaged(damage) => {
                merge(&mut object, json!({"message": damage.to_string()}));
            }
            _ => {}
        }
        object
    };
    json!({
        "export": export.name,
        "space": export.space,
        "scope": export.scope.as_str(),
        "shard": (!export.shard.is_single()).then(|| export.shard.to_string()),
        "source": export.source,
        "destination": destination,
        "root": export.root.as_str(),
        "destinationListed": matches!(listing, DestinationListing::Listed(_)),
        "destinationWarning": listing.warning(export),
        "windows": plan.windows.iter().map(window).collect::<Vec<_>>(),
        "changed": plan.changed.iter().map(|(window, message)| json!({
            "window": window.to_string(), "message": message,
        })).collect::<Vec<_>>(),
        "sessions": plan.sessions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "parallelSessions": plan.concurrency,
        "requests": plan.requests,
    })
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::cli::outcome::tests::export;

    fn day(day: i8) -> Window {
        Window::day(date(2018, 6, day))
    }

    fn later() -> Timestamp {
        "2019-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn an_unreachable_destination_is_reported_and_planned_as_empty() {
        let listing = DestinationListing::Unavailable("no answer".to_owned());
        let plan = plan(&export(3), &listing, later());
        assert_eq!(plan.sessions, [day(1), day(2), day(3)]);
        let text = render_text(&export(3), "s3://audit", &listing, &plan);
        for expected in [
            "no answer",
            "to export: 3 (2018-06-01/2018-06-03)",
            "about 21 to the service",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
        let object = plan_json(&export(3), "s3://audit", &listing, &plan);
        assert_eq!(object["destinationListed"], false);
        assert_eq!(
            object["windows"][2],
            json!({"window": "2018-06-03", "state": "Missing"})
        );
    }
}
