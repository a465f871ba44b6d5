//! `eventexport inspect`: what an archive covers, what is missing, and which counts need a look. Reads keys, receipts
//! and manifests, and asks the service only when told to.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::exit::{Exit, Fault};
use super::job::{self, Wishes};
use super::location::{Location, LocationArgs, Place, worded};
use super::output::OutputArgs;
use super::secrets::Purpose;
use super::size;
use crate::api::visible;
use crate::export::connect;
use crate::export::verdict::Listing;
use crate::export::wish::Scope;
use crate::tracker::TokenCache;
use crate::verify::archive::{self, Ask};
use crate::verify::inspect::{Inspection, inspect};

/// Name and version of the JSON document.
const SCHEMA: &str = "eventexport.io/inspect/v1";

/// Entries of a list that are shown to people: 10. Programs get all.
const SHOWN: usize = 10;

/// Show what an archive covers and what is missing, without reading the events.
///
/// Looks at keys, receipts and manifests: merged ranges of what is covered, missing, accepted as missing or expired;
/// windows that came late; windows whose count is not what the service reported. `verify` proves the events
/// themselves. Exit code 0: nothing is missing; 1: something is, or could not be read; 2: the arguments cannot be used.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct InspectArgs {
    /// The archive: a directory, or `s3://bucket/prefix`
    #[arg(value_name = "DIR|S3-URL", value_parser = Place::parser())]
    pub archive: Option<Place>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub location: LocationArgs,
    /// A window is late when it was stored more than so many days after its end
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    pub late_after: u32,
    /// Ask the service what it counts now, and show days that have grown since they were stored (with -f)
    #[arg(long, requires = "files")]
    pub ask_service: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  What a directory holds:
    eventexport inspect ./export
  What a bucket lacks of the range that the manifest wants, and which days have grown since:
    eventexport inspect -f audit.yaml --ask-service
  The missing ranges alone:
    eventexport inspect s3://audit/tracker --output json | jq '.archives[].roots[].range.missing'";

/// Inspects every archive that is named.
pub async fn run(args: InspectArgs) -> Result<Exit, Fault> {
    let ended = all(&args).await;
    args.output.ended(SCHEMA, ended)
}

async fn all(args: &InspectArgs) -> Result<Exit, Fault> {
    args.output.start_log()?;
    let mut seen = Vec::new();
    for location in args.location.open_to_read(args.archive.as_ref()).await? {
        let roots = one(args, &location).await?;
        seen.push((location, roots));
    }
    let complete = seen
        .iter()
        .all(|(_, roots)| !roots.is_empty() && roots.iter().all(|(_, root)| !root.is_incomplete()));
    let exit = if complete { Exit::Done } else { Exit::Failed };
    let document = json!({
        "complete": complete,
        "exitCode": exit.code(),
        "archives": seen.iter().map(|(location, roots)| json!({
            "location": location.name,
            "export": location.export.as_ref().map(|export| &export.name),
            "roots": roots.iter().map(|(root, seen)| object(root, seen)).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    });
    args.output.print(SCHEMA, document, || {
        seen.iter()
            .map(|(location, roots)| text(&location.name, roots, args.late_after))
            .collect()
    });
    Ok(exit)
}

async fn one(args: &InspectArgs, location: &Location) -> Result<Vec<(String, Inspection)>, Fault> {
    let ask = Ask {
        store: Arc::clone(&location.store),
        prefix: location.prefix.clone(),
        export: location.export.clone(),
        quick: true,
        keys: Vec::new(),
        signed: false,
        since: None,
        until: None,
        now: Timestamp::now(),
    };
    let failed = |error| anyhow::anyhow!("{}: {}", location.name, worded(&error));
    let mut roots = Vec::new();
    for contents in archive::look(&ask).await.map_err(failed)?.0 {
        let documents = archive::read_documents(&ask, &contents).await.map_err(failed)?;
        let mut seen = inspect(
            &contents,
            &documents,
            ask.export.as_ref(),
            ask.now,
            args.late_after,
        );
        if args.ask_service {
            let days = documents.receipts.keys().map(|window| window.date());
            if let Some((first, last)) = days.clone().min().zip(days.max()) {
                seen.compare(&documents, &listing(location, first, last).await?);
            }
        }
        roots.push((contents.root.as_str().to_owned(), seen));
    }
    Ok(roots)
}

/// What the service says now of the days of an export.
async fn listing(
    location: &Location,
    first: jiff::civil::Date,
    last: jiff::civil::Date,
) -> Result<Listing, Fault> {
    let (Some((resource, manifest)), Some(export)) = (&location.declared, &location.export) else {
        return Err(Fault::usage(
            "--ask-service: give the manifest that names the service by -f FILE",
        ));
    };
    let wishes = Wishes::to_look(None);
    let secrets = job::secrets_of(resource, manifest, &[Purpose::Source])?;
    let around = job::surroundings(resource, "reader", &TokenCache::new(), &wishes);
    let tracker = connect::tracker(&resource.spec, &secrets, &around)
        .map_err(|failure| Fault::usage(format!("EventExport {}: {}", export.name, failure.message)))?;
    let days = tracker
        .days(&export.space, first, last, export.scope == Scope::Account)
        .await
        .map_err(|error| anyhow::anyhow!("EventExport {}: {error}", export.name))?;
    Ok(Listing::new(days))
}

fn object(root: &str, seen: &Inspection) -> Value {
    json!({
        "root": root,
        "range": {
            "from": seen.basis.as_str(),
            "wanted": seen.wanted,
            "covered": seen.covered,
            "missing": seen.missing,
            "acceptedGaps": seen.accepted,
            "expired": seen.expired,
        },
        "splitDays": seen.split,
        "windows": seen.windows,
        "empty": seen.empty,
        "uncounted": seen.uncounted,
        "events": seen.events,
        "bytes": seen.bytes,
        "manifests": seen.manifests,
        "unreadableReceipts": seen.unreadable.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "late": seen.late.iter().map(|late| json!({
            "window": late.window.to_string(), "storedAt": late.stored_at, "daysAfterEnd": late.days,
        })).collect::<Vec<_>>(),
        "disagreeing": seen.disagreeing.iter().map(|one| json!({
            "window": one.window.to_string(), "events": one.events, "reportedBefore": one.before,
            "reportedAfter": one.after, "why": one.why.as_str(),
        })).collect::<Vec<_>>(),
        "openSessions": seen.sessions.iter().map(|(window, session)| json!({
            "window": window.to_string(), "session": session,
        })).collect::<Vec<_>>(),
        "grown": seen.now.as_ref().map(|grown| grown.iter().map(|day| json!({
            "date": day.date, "stored": day.stored, "reported": day.reported,
        })).collect::<Vec<_>>()),
    })
}

fn text(name: &str, roots: &[(String, Inspection)], late_after: u32) -> String {
    if roots.is_empty() {
        return format!(
            "{name}: there is no archive here (no receipts, objects or manifests): check the bucket, prefix or directory\n"
        );
    }
    let mut lines = vec![format!("{name}:")];
    for (root, seen) in roots {
        lines.push(if root.is_empty() {
            "(the root itself)".to_owned()
        } else {
            visible(root).into_owned()
        });
        let mut line = |label: &str, words: String| lines.push(format!("  {label:13} {}", visible(&words)));
        line(
            "range",
            format!("{} ({})", some(&seen.wanted), seen.basis.words()),
        );
        line("covered", some(&seen.covered));
        for (label, runs) in [
            ("missing", &seen.missing),
            ("accepted gaps", &seen.accepted),
            ("expired", &seen.expired),
        ] {
            if !runs.is_empty() {
                line(label, some(runs));
            }
        }
        let split: Vec<String> = seen.split.iter().map(ToString::to_string).collect();
        if !split.is_empty() {
            line("in hours", some(&split));
        }
        line(
            "windows",
            format!(
                "{}, {} of them proved empty, {} without a count of the service; {}, {}",
                size::count(seen.windows),
                size::count(seen.empty),
                size::count(seen.uncounted),
                size::of(seen.events, "event"),
                size::bytes(seen.bytes)
            ),
        );
        line("manifests", size::count(seen.manifests));
        let late = seen.late.iter().map(|late| {
            format!(
                "{} stored {}, {} after its end",
                late.window,
                late.stored_at,
                size::of(late.days.unsigned_abs(), "day")
            )
        });
        list(
            &mut line,
            &format!("late by over {}", size::of(late_after.into(), "day")),
            late.collect(),
        );
        let reported = |number: Option<u64>| number.map_or("nothing".to_owned(), size::count);
        let disagreeing = seen.disagreeing.iter().map(|one| {
            format!(
                "{}: {} stored, {} reported before, {} after: {}",
                one.window,
                size::count(one.events),
                reported(one.before),
                reported(one.after),
                one.why.words()
            )
        });
        list(&mut line, "counts that disagree", disagreeing.collect());
        let unreadable = seen.unreadable.iter().map(ToString::to_string);
        list(&mut line, "receipts that cannot be read", unreadable.collect());
        let sessions = seen
            .sessions
            .iter()
            .map(|(window, session)| format!("{window}: {session}"));
        list(&mut line, "sessions that may be open", sessions.collect());
        if let Some(grown) = &seen.now {
            let days = grown.iter().map(|day| {
                let (now, stored) = (size::count(day.reported), size::count(day.stored));
                format!("{}: {stored} stored, {now} reported now", day.date)
            });
            if grown.is_empty() {
                line(
                    "now",
                    "the service reports no more of any stored day than is stored".to_owned(),
                );
            }
            list(&mut line, "grown since", days.collect());
        }
    }
    lines.join("\n") + "\n"
}

/// A heading with its entries, as many as people read; nothing without entries.
fn list(line: &mut impl FnMut(&str, String), heading: &str, entries: Vec<String>) {
    if entries.is_empty() {
        return;
    }
    let more = entries.len().saturating_sub(SHOWN);
    line(heading, size::count(entries.len() as u64));
    for entry in entries.into_iter().take(SHOWN) {
        line("", entry);
    }
    if more > 0 {
        line("", format!("and {more} more: --output json has all"));
    }
}

fn some(runs: &[String]) -> String {
    match runs {
        [] => "nothing".to_owned(),
        all if all.len() <= SHOWN => all.join(", "),
        all => {
            let shown: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
            format!("{}, and {} more", shown.join(", "), all.len() - SHOWN)
        }
    }
}
