//! `eventexport plan`: what a run would do, without opening a session. Asks the destination at most; decides
//! purely in [`forecast`](super::forecast).

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::exit::{Exit, Fault};
use super::forecast::{Fate, Plan, REQUESTS_PER_RUN, REQUESTS_PER_WINDOW, Seen, plan};
use super::job::{self, Wishes};
use super::load;
use super::manifest::{Manifest, Resource};
use super::output::Output;
use super::progress::events;
use super::secrets::Purpose;
use super::size;
use super::summary;
use crate::export::keys::{Key, Root};
use crate::export::record::{self, RECORD_MAX_BYTES, Receipt};
use crate::export::shard::Shard;
use crate::export::window::{Cells, Window};
use crate::export::wish::Export;
use crate::storage::{DirectoryStore, Store, StoreError};
use crate::tracker::TokenCache;

/// The longest that the destination is waited for: 20 s.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// Ranges that are printed for people; programs get every window.
const RANGES_SHOWN: usize = 12;

/// Show what a run would do, without opening any session.
///
/// Prints the windows that are missing, and the sessions and requests that a run would take for them. Looks at the
/// destination to know what is stored, where it can be reached; asks the service nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PlanArgs {
    /// Manifest with `EventExport` resources and their Secrets, YAML or JSON; `-` reads standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Look at this directory instead of the bucket of the manifest
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Do not look at the destination: plan as if nothing were stored
    #[arg(long)]
    pub offline: bool,
    /// Plan one part of several only, as `run --shard` would do it: part I of N, counted from 0
    #[arg(long, env = "EVENTEXPORT_SHARD", value_name = "I/N", default_value_t = Shard::WHOLE, hide_default_value = true)]
    pub shard: Shard,
    /// What is printed: text for people, json for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    pub output: Output,
}

const EXAMPLES: &str = "\
Examples:
  What would be done, and how much of it:
    eventexport plan -f audit.yaml
  As JSON, with every window, without asking the bucket:
    eventexport plan -f audit.yaml --offline --output json";

/// Prints the plan.
pub async fn run(args: PlanArgs) -> Result<Exit, Fault> {
    let manifest = load::manifest(&args.files)?;
    let mut objects = Vec::new();
    for resource in &manifest.exports {
        let wishes = Wishes {
            to: args.to.as_deref(),
            parallelism: None,
            single_writer: false,
            shard: args.shard,
            sessions: super::run::sessions(args.shard, None),
        };
        let adjusted = job::adjusted(resource, &wishes, None);
        let around = job::surroundings(&adjusted, "plan", &TokenCache::new(), &wishes);
        let export = job::export(&adjusted, &around, false)?;
        let (place, seen) = match (args.offline, args.to.as_deref()) {
            (true, _) => (place(&adjusted), Seen::Nothing("--offline was given".to_owned())),
            (false, Some(folder)) => look_at_folder(folder, &export.root).await,
            (false, None) => {
                let seen = look_at_bucket(&adjusted, &manifest, &wishes, &export.root).await;
                (place(&adjusted), seen)
            }
        };
        let plan = plan(&export, &seen, Timestamp::now());
        match args.output {
            Output::Text => print!("{}", text(&export, &place, &seen, &plan)),
            Output::Json => objects.push(object(&export, &place, &seen, &plan)),
        }
    }
    if args.output == Output::Json {
        println!(
            "{}",
            json!({"schema": "eventexport.io/plan/v1", "exports": objects})
        );
    }
    Ok(Exit::Done)
}

fn place(resource: &Resource) -> String {
    format!("s3://{}", resource.spec.destination.s3.bucket)
}

async fn look_at_folder(folder: &Path, root: &Root) -> (String, Seen) {
    let place = folder.display().to_string();
    if !folder.exists() {
        // A look must not make it.
        return (
            place,
            Seen::Keys {
                keys: Vec::new(),
                source: None,
            },
        );
    }
    let seen = match DirectoryStore::open(folder) {
        Ok(store) => look(&store, root).await,
        Err(error) => Seen::Nothing(error.to_string()),
    };
    (place, seen)
}

async fn look_at_bucket(resource: &Resource, manifest: &Manifest, wishes: &Wishes<'_>, root: &Root) -> Seen {
    // Only the bucket is asked, so only its keys are needed.
    let around = job::surroundings(resource, "plan", &TokenCache::new(), wishes);
    let store = match job::secrets_of(resource, manifest, &[Purpose::Bucket]) {
        Ok(secrets) => job::bucket(resource, &secrets, &around).await,
        Err(fault) => Err(fault),
    };
    match store {
        Ok(store) => look(&*store, root).await,
        Err(fault) => Seen::Nothing(fault.to_string()),
    }
}

async fn look(store: &dyn Store, root: &Root) -> Seen {
    let looked = async {
        let listed = store.list(root.as_str()).await?;
        let keys: Vec<Key> = listed.iter().map(|object| root.parse(&object.key)).collect();
        let newest = keys
            .iter()
            .rev()
            .find(|key| matches!(key, Key::Receipt(_)))
            .and_then(|key| root.key(key));
        let source = match newest {
            None => None,
            Some(key) => store.get(&key, RECORD_MAX_BYTES).await?.and_then(|bytes| {
                let receipt = record::decode::<Receipt>(&key, &bytes);
                receipt.ok().map(|receipt| receipt.source)
            }),
        };
        Ok::<Seen, StoreError>(Seen::Keys { keys, source })
    };
    match tokio::time::timeout(LOOK_MAX, looked).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => Seen::Nothing(error.to_string()),
        Err(_) => Seen::Nothing(format!("{} did not answer within 20 s", store.name())),
    }
}

fn text(export: &Export, place: &str, seen: &Seen, plan: &Plan) -> String {
    let of = |wanted: fn(&Fate) -> bool| {
        plan.windows
            .iter()
            .filter(|(_, fate)| wanted(fate))
            .map(|(window, _)| *window)
            .collect::<Vec<_>>()
    };
    let ranges = |windows: &[Window]| {
        windows
            .iter()
            .copied()
            .collect::<Cells>()
            .ranges(RANGES_SHOWN)
            .join(", ")
    };
    let mut lines = vec![
        format!(
            "{}{}: {} {} → {place}/{}",
            export.name,
            summary::part(export),
            export.scope.as_key(),
            export.space,
            export.root.as_str()
        ),
        format!("  source        {}", export.source),
    ];
    if let Some(doubt) = seen.doubt(export) {
        lines.push(format!("  destination   {doubt}"));
    }
    lines.push(format!(
        "  windows       {}",
        size::count(plan.windows.len() as u64)
    ));
    for (label, windows) in [
        ("to export", of(|fate| *fate == Fate::Export)),
        ("stored", of(|fate| *fate == Fate::Stored)),
        ("accepted gaps", of(|fate| *fate == Fate::Accepted)),
        ("not due yet", of(|fate| matches!(fate, Fate::NotDue(_)))),
        ("expired", of(|fate| *fate == Fate::Expired)),
        ("object without receipt", of(|fate| *fate == Fate::Adopt)),
    ] {
        if !windows.is_empty() {
            lines.push(format!(
                "    {label}: {} ({})",
                size::count(windows.len() as u64),
                ranges(&windows)
            ));
        }
    }
    if plan.sessions.is_empty() {
        lines.push("  sessions      none: nothing is to be done".to_owned());
        return lines.join("\n") + "\n";
    }
    let sessions = size::count(plan.sessions.len() as u64);
    lines.push(format!(
        "  sessions      {sessions}, at most {} open at once",
        plan.at_once
    ));
    lines.push(format!(
        "  requests      about {} to the service, when nothing fails ({REQUESTS_PER_RUN} for the run, \
         {REQUESTS_PER_WINDOW} for each session)",
        size::count(plan.requests)
    ));
    lines.join("\n") + "\n"
}

fn object(export: &Export, place: &str, seen: &Seen, plan: &Plan) -> Value {
    let window = |(window, fate): &(Window, Fate)| {
        let mut object = json!({"window": window.to_string(), "plan": fate.as_str()});
        if let Fate::NotDue(due) = fate {
            events::merge(&mut object, json!({"dueAt": due}));
        }
        object
    };
    json!({
        "export": export.name,
        "space": export.space,
        "scope": export.scope.as_str(),
        "shard": (!export.shard.is_whole()).then(|| export.shard.to_string()),
        "source": export.source,
        "destination": place,
        "root": export.root.as_str(),
        "destinationSeen": matches!(seen, Seen::Keys { .. }),
        "destinationDoubt": seen.doubt(export),
        "windows": plan.windows.iter().map(window).collect::<Vec<_>>(),
        "sessions": plan.sessions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "sessionsAtOnce": plan.at_once,
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
    fn an_unknown_destination_is_said_and_planned_as_empty() {
        let seen = Seen::Nothing("no answer".to_owned());
        let plan = plan(&export(3), &seen, later());
        assert_eq!(plan.sessions, [day(1), day(2), day(3)]);
        let text = text(&export(3), "s3://audit", &seen, &plan);
        for words in [
            "no answer",
            "to export: 3 (2018-06-01/2018-06-03)",
            "about 18 to the service",
        ] {
            assert!(text.contains(words), "{words} is not in:\n{text}");
        }
        let object = object(&export(3), "s3://audit", &seen, &plan);
        assert_eq!(object["destinationSeen"], false);
        assert_eq!(
            object["windows"][2],
            json!({"window": "2018-06-03", "plan": "Export"})
        );
    }
}
