//! `eventexport inspect`: shows the coverage of an archive, gaps, and count mismatches. Reads keys, receipts and
//! manifests; asks the service only with `--ask-service`.

use std::io::IsTerminal as _;

use serde_json::{Value, json};

use super::exit::{CliError, Exit};
use super::human;
use super::open_archive::{LocationArgs, OpenArchive};
use super::output::{OutputArgs, use_color};
use super::settings;
use crate::api::{Scope, escape};
use crate::archive::counts::DayListing;
use crate::archive::coverage::WindowState;
use crate::archive::inspect::{Inspection, inspect};
use crate::archive::range::format_ranges;
use crate::archive::read::{ReadOptions, read_roots};
use crate::archive::report::text;
use crate::archive::window::Window;
use crate::storage::StoreError;
use crate::tracker::TokenCache;

/// Name and version of the JSON document.
const SCHEMA: &str = "eventexport.io/inspect/v2";

/// Maximum number of windows in `uncovered`: 1,000.
const UNCOVERED_LISTED: usize = 1000;

/// Maximum number of entries of a list in text output: 10. JSON output has all.
const ENTRIES_SHOWN: usize = 10;

/// Show what an archive covers and what is missing, without reading the events.
///
/// Reads keys, receipts and manifests. Prints merged ranges of covered, missing, accepted and expired windows; windows
/// that were stored late; and windows with another count than the service reported. Use `verify` to check the events.
/// Exit code 0: nothing is missing; 1: something is missing or unreadable; 2: the arguments are invalid; 3: the archive
/// could not be read, for example because the store is unreachable or the credentials are rejected.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct InspectArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub location: LocationArgs,
    /// Report a window as late if it was stored more than this number of days after its end
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    pub late_after: u32,
    /// Ask the service for its current counts, and show days that have grown since they were stored (with -f)
    #[arg(long, requires = "files")]
    pub ask_service: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  The coverage of a directory:
    eventexport inspect ./export
  The gaps of a bucket in the range of a manifest, and the days that have grown since:
    eventexport inspect -f audit.yaml --ask-service
  Only the missing ranges:
    eventexport inspect s3://audit/tracker --output json | jq '.archives[].roots[].range.missing'";

/// Inspects every given archive.
pub async fn run(args: InspectArgs) -> Result<Exit, CliError> {
    let result = inspect_all(&args).await;
    args.output.finish(SCHEMA, result.map_err(CliError::unchecked))
}

async fn inspect_all(args: &InspectArgs) -> Result<Exit, CliError> {
    args.output.start_log()?;
    let mut archives = Vec::new();
    for location in args.location.open().await? {
        let roots = inspect_archive(args, &location).await?;
        archives.push((location, roots));
    }
    let complete = archives
        .iter()
        .all(|(_, roots)| !roots.is_empty() && roots.iter().all(|(_, root)| !root.is_incomplete()));
    let exit = if complete { Exit::Done } else { Exit::Failed };
    let document = json!({
        "complete": complete,
        "exitCode": exit.code(),
        "archives": archives.iter().map(|(location, roots)| json!({
            "location": location.name,
            "export": location.export.as_ref().map(|export| &export.name),
            "roots": roots.iter().map(|(root, inspection)| root_json(root, inspection)).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    });
    args.output.print(SCHEMA, document, || {
        archives
            .iter()
            .map(|(location, roots)| render_text(&location.name, roots, args.late_after, calendar_color()))
            .collect()
    })?;
    Ok(exit)
}

async fn inspect_archive(
    args: &InspectArgs,
    location: &OpenArchive,
) -> Result<Vec<(String, Inspection)>, CliError> {
    let expectation = location.expectation();
    let options = ReadOptions {
        days: None,
        all_manifests: expectation.is_none(),
        ..ReadOptions::default()
    };
    let store_error =
        |error: StoreError| anyhow::anyhow!("{}: {}", location.name, error.describe(&location.setting_names));
    let read = read_roots(&*location.store, &location.prefix, &options).await;
    let mut roots = Vec::new();
    for (root, journal, sealed) in read.map_err(store_error)? {
        let mut inspection = inspect(&journal, &sealed, expectation.as_ref(), args.late_after);
        if args.ask_service {
            let days = journal.receipts.keys().map(|window| window.date());
            if let Some((first, last)) = days.clone().min().zip(days.max()) {
                inspection.compare_listing(&journal, &listing(location, first, last).await?);
            }
        }
        roots.push((root.as_str().to_owned(), inspection));
    }
    Ok(roots)
}

/// Returns the current listing of the service for the days of an export.
async fn listing(
    location: &OpenArchive,
    first: jiff::civil::Date,
    last: jiff::civil::Date,
) -> Result<DayListing, CliError> {
    let (Some((resource, manifest)), Some(export)) = (&location.declared, &location.export) else {
        return Err(CliError::usage(
            "--ask-service: use -f FILE to give a manifest with the service",
        ));
    };
    let source = settings::source_of(resource, manifest)?;
    let names = &source.names;
    let tracker = source.connect(&TokenCache::new()).map_err(|failure| {
        CliError::usage(format!(
            "EventExport {}: {}",
            export.name,
            failure.describe(names)
        ))
    })?;
    let days = tracker
        .list_days(&export.space, first, last, export.scope == Scope::Account)
        .await
        .map_err(|error| anyhow::anyhow!("EventExport {}: {}", export.name, error.describe(names)))?;
    Ok(DayListing::new(days))
}

fn root_json(root: &str, inspection: &Inspection) -> Value {
    json!({
        "root": root,
        "range": {
            "from": inspection.basis.as_str(),
            "wanted": inspection.wanted,
            "covered": inspection.covered,
            "missing": inspection.missing,
            "acceptedGaps": inspection.accepted,
            "expired": inspection.expired,
        },
        "splitDays": inspection.split,
        "windows": inspection.windows,
        "empty": inspection.empty,
        "uncounted": inspection.uncounted,
        "events": inspection.events,
        "lateEvents": inspection.late_events,
        "revised": inspection.revised,
        "bytes": inspection.bytes,
        "manifests": inspection.manifests,
        "head": inspection.head.as_ref().map(ToString::to_string),
        "uncovered": inspection.uncovered.iter().take(UNCOVERED_LISTED).map(window_json).collect::<Vec<_>>(),
        "late": inspection.late.iter().map(|late| json!({
            "window": late.window.to_string(), "storedAt": late.stored_at, "daysAfterEnd": late.days,
        })).collect::<Vec<_>>(),
        "countMismatches": inspection.mismatches.iter().map(|one| json!({
            "window": one.window.to_string(), "events": one.events, "reportedBefore": one.before,
            "reportedAfter": one.after, "reason": one.kind.as_str(),
        })).collect::<Vec<_>>(),
        "openSessions": inspection.sessions.iter().map(|(window, session)| json!({
            "window": window.to_string(), "session": session,
        })).collect::<Vec<_>>(),
        "grown": inspection.grown.as_ref().map(|grown| grown.iter().map(|day| json!({
            "date": day.date, "stored": day.stored, "reported": day.reported,
        })).collect::<Vec<_>>()),
    })
}

/// Returns the JSON object of a window that is not covered.
fn window_json((window, state): &(Window, WindowState)) -> Value {
    json!({"window": window.to_string(), "state": state.as_str(), "message": state.message()})
}

/// Returns true for a calendar in color, false for one without; `None`: standard output is no terminal, and has none.
fn calendar_color() -> Option<bool> {
    std::io::stdout().is_terminal().then(use_color)
}

fn render_text(name: &str, roots: &[(String, Inspection)], late_after: u32, color: Option<bool>) -> String {
    if roots.is_empty() {
        return format!(
            "{name}: no archive found (no receipts, objects or manifests): check the bucket, prefix or directory\n"
        );
    }
    let mut lines = vec![format!("{name}:")];
    for (root, inspection) in roots {
        lines.push(if root.is_empty() {
            "(the root itself)".to_owned()
        } else {
            escape(root).into_owned()
        });
        let mut line = |label: &str, value: String| lines.push(format!("  {label:13} {}", escape(&value)));
        line(
            "range",
            format!(
                "{} ({})",
                format_ranges(&inspection.wanted, ENTRIES_SHOWN),
                inspection.basis.description()
            ),
        );
        line("covered", format_ranges(&inspection.covered, ENTRIES_SHOWN));
        for (label, runs) in [
            ("missing", &inspection.missing),
            ("accepted gaps", &inspection.accepted),
            ("expired", &inspection.expired),
        ] {
            if !runs.is_empty() {
                line(label, format_ranges(runs, ENTRIES_SHOWN));
            }
        }
        let split: Vec<String> = inspection.split.iter().map(ToString::to_string).collect();
        if !split.is_empty() {
            line("in hours", format_ranges(&split, ENTRIES_SHOWN));
        }
        line(
            "windows",
            format!(
                "{}, {} of them proved empty, {} without a count from the service; {}, {}",
                human::count(inspection.windows),
                human::count(inspection.empty),
                human::count(inspection.uncounted),
                human::plural(inspection.events, "event"),
                human::bytes(inspection.bytes)
            ),
        );
        if inspection.revised > 0 {
            line(
                "late events",
                format!(
                    "{}, of {} with later revisions",
                    human::count(inspection.late_events),
                    human::plural(inspection.revised, "window")
                ),
            );
        }
        line("manifests", human::count(inspection.manifests));
        if let Some(head) = &inspection.head {
            line("head", head.to_string());
        }
        let late = inspection.late.iter().map(|late| {
            format!(
                "{} stored {}, {} after its end",
                late.window,
                human::time(late.stored_at),
                human::plural(late.days.unsigned_abs(), "day")
            )
        });
        write_list(
            &mut line,
            &format!("late by over {}", human::plural(late_after.into(), "day")),
            late.collect(),
        );
        let reported = |number: Option<u64>| number.map_or("no count".to_owned(), human::count);
        let mismatches = inspection.mismatches.iter().map(|one| {
            format!(
                "{}: {} stored, {} reported before, {} after: {}",
                one.window,
                human::count(one.events),
                reported(one.before),
                reported(one.after),
                one.kind.description()
            )
        });
        write_list(&mut line, "count mismatches", mismatches.collect());
        let damaged = inspection
            .uncovered
            .iter()
            .filter_map(|(window, state)| match state {
                WindowState::Damaged(damage) => Some(format!("{window}: {}: {damage}", damage.as_str())),
                _ => None,
            });
        write_list(&mut line, "damaged", damaged.collect());
        let sessions = inspection
            .sessions
            .iter()
            .map(|(window, session)| format!("{window}: {session}"));
        write_list(&mut line, "sessions that may be open", sessions.collect());
        if let Some(grown) = &inspection.grown {
            let days = grown.iter().map(|day| {
                let (now, stored) = (human::count(day.reported), human::count(day.stored));
                format!("{}: {stored} stored, {now} reported now", day.date)
            });
            if grown.is_empty() {
                line(
                    "now",
                    "the service reports no more events for any stored day than are stored".to_owned(),
                );
            }
            write_list(&mut line, "grown since", days.collect());
        }
        if let Some(color) = color {
            lines.push(format!("\n{}", text::calendar(&inspection.calendar, color)));
        }
    }
    lines.join("\n") + "\n"
}

/// Writes a heading with at most [`ENTRIES_SHOWN`] entries; nothing without entries.
fn write_list(line: &mut impl FnMut(&str, String), heading: &str, entries: Vec<String>) {
    if entries.is_empty() {
        return;
    }
    let more = entries.len().saturating_sub(ENTRIES_SHOWN);
    line(heading, human::count(entries.len() as u64));
    for entry in entries.into_iter().take(ENTRIES_SHOWN) {
        line("", entry);
    }
    if more > 0 {
        line("", format!("and {more} more: use --output json to list all"));
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::counts::Verdict;
    use crate::archive::listing::Journal;
    use crate::archive::manifest::chain::SealedPeriods;
    use crate::cli::archived::tests::receipt;

    #[test]
    fn a_terminal_shows_the_calendar_too() {
        let window = Window::day(date(2018, 6, 1));
        let mut journal = Journal::default();
        journal.objects.insert(window, 50);
        let facts = receipt("https://a", 5, Verdict::Matched, true);
        journal.receipts.insert(window, Some(Box::new(facts)));
        let inspection = inspect(&journal, &SealedPeriods::default(), None, 7);
        let roots = [("t/".to_owned(), inspection)];
        let piped = render_text("export", &roots, 7, None);
        let shown = render_text("export", &roots, 7, Some(false));
        let calendar = shown.strip_prefix(&piped).unwrap();
        assert!(
            calendar.contains("June 2018") && calendar.contains(" 1="),
            "{shown}"
        );
        assert!(render_text("export", &roots, 7, Some(true)).contains("\u{1b}[32m 1="));
    }
}
