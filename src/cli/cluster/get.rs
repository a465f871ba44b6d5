//! `kubectl eventexport get`: a table of the resources with what they have and lack.

use jiff::{SignedDuration, Timestamp, Unit};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::{Cluster, ClusterArgs};
use crate::api::{ConditionType, EventExport, EventExportStatus, escape, find_condition};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{OutputArgs, table};

const SCHEMA: &str = "eventexport.io/cluster-exports/v1";

/// Number of resources that are read at once: 500.
const PAGE: u32 = 500;

/// Show the `EventExport` resources of a cluster: what is stored, what is missing, and why.
///
/// DAYS counts the windows that are stored of those that are wanted up to now. MISSING and EXPIRED are numbers of merged
/// ranges; `describe` lists them. Exit code 0: every shown export is Ready; 1: one is not, or the cluster cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct GetArgs {
    /// Names; all if none is given
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Show the resources of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "names"])]
    pub all_namespaces: bool,
    /// Show only resources with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "names")]
    pub selector: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  All exports of the cluster:
    eventexport get --all-namespaces
  Exports that are not Ready, for scripts:
    eventexport get -A --output json | jq -r '.exports[] | select(.ready != true) | .name'";

pub(super) async fn run(args: GetArgs) -> Result<Exit, CliError> {
    args.output.finish(SCHEMA, get(&args).await)
}

async fn get(args: &GetArgs) -> Result<Exit, CliError> {
    args.output.start_log()?;
    let cluster = args.cluster.connect().await?;
    let mut exports = Vec::new();
    for name in &args.names {
        exports.push(cluster.export(name).await?);
    }
    if args.names.is_empty() {
        exports = list(&cluster, args).await?;
    }
    let rows: Vec<Row> = exports.iter().map(Row::new).collect();
    let ready = rows.iter().all(|row| row.ready == Some(true));
    let exit = if ready { Exit::Done } else { Exit::Failed };
    let document = json!({
        "exitCode": exit.code(),
        "exports": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    args.output.print(SCHEMA, document, || {
        if rows.is_empty() {
            let place = if args.all_namespaces {
                "the cluster"
            } else {
                &*cluster.namespace
            };
            return format!("no EventExport in {place}");
        }
        render(&rows, args.all_namespaces, Timestamp::now())
    })?;
    Ok(exit)
}

/// Lists all resources, page by page.
async fn list(cluster: &Cluster, args: &GetArgs) -> Result<Vec<EventExport>, CliError> {
    let api = if args.all_namespaces {
        Api::all(cluster.client.clone())
    } else {
        cluster.exports()
    };
    let mut params = ListParams::default().limit(PAGE);
    params.label_selector.clone_from(&args.selector);
    let mut exports = Vec::new();
    loop {
        let page = api.list(&params).await;
        let page = page.map_err(|error| cluster.error("list EventExports of", "*", &error))?;
        let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
        exports.extend(page);
        match next {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(exports),
        }
    }
}

/// A resource in the table.
struct Row {
    namespace: String,
    name: String,
    /// `None`: the operator has not reported it.
    ready: Option<bool>,
    /// Reason of the condition that matters most.
    state: String,
    status: EventExportStatus,
}

impl Row {
    fn new(export: &EventExport) -> Self {
        let status = export.status.clone().unwrap_or_default();
        let condition = |kind| find_condition(&status.conditions, kind);
        let is_true = |kind| condition(kind).is_some_and(|condition| condition.status == "True");
        let ready = condition(ConditionType::Ready).and_then(|ready| match &*ready.status {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        });
        let shown = if is_true(ConditionType::Stalled) {
            condition(ConditionType::Stalled)
        } else if is_true(ConditionType::Complete) {
            condition(ConditionType::Complete)
        } else {
            condition(ConditionType::Ready)
        };
        Self {
            namespace: export.namespace().unwrap_or_default(),
            name: export.name_any(),
            ready,
            state: shown.map_or_else(|| "NotObserved".to_owned(), |shown| shown.reason.clone()),
            status,
        }
    }

    fn days(&self) -> String {
        let windows = self.status.windows;
        windows.map_or_else(
            || "-".to_owned(),
            |windows| format!("{}/{}", windows.stored, windows.wanted),
        )
    }

    fn json(&self) -> Value {
        json!({
            "namespace": self.namespace,
            "name": self.name,
            "ready": self.ready,
            "reason": self.state,
            "windows": self.status.windows,
            "missing": self.status.missing,
            "expired": self.status.expired,
            "omittedRanges": self.status.omitted_ranges,
            "sessions": self.status.sessions,
            "events": self.status.events,
            "lateEvents": self.status.late_events,
            "nextRunTime": self.status.next_run_time,
        })
    }
}

fn render(rows: &[Row], namespaces: bool, now: Timestamp) -> String {
    let columns = [
        "NAME", "READY", "STATE", "DAYS", "MISSING", "EXPIRED", "SESSIONS", "NEXT RUN",
    ];
    let header: Vec<&str> = namespaces
        .then_some("NAMESPACE")
        .into_iter()
        .chain(columns)
        .collect();
    let mut shown = table(&header);
    for row in rows {
        let ready = match row.ready {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let next = row.status.next_run_time.as_ref();
        let omitted = row.status.omitted_ranges.unwrap_or_default();
        let cells = [
            row.name.clone(),
            ready.to_owned(),
            escape(&row.state).into_owned(),
            row.days(),
            (row.status.missing.len() as u64 + u64::from(omitted.missing)).to_string(),
            (row.status.expired.len() as u64 + u64::from(omitted.expired)).to_string(),
            row.status.sessions.len().to_string(),
            next.map_or_else(|| "-".to_owned(), |next| duration_until(next.0, now)),
        ];
        shown.add_row(namespaces.then(|| row.namespace.clone()).into_iter().chain(cells));
    }
    shown.to_string()
}

/// Formats the time until a moment in its largest unit: `in 5h`, or `now`.
fn duration_until(at: Timestamp, now: Timestamp) -> String {
    let left = at.duration_since(now);
    if left <= SignedDuration::ZERO {
        return "now".to_owned();
    }
    let rounded = [(86_400, 'd', 2), (3_600, 'h', 2), (60, 'm', 2)];
    let unit = rounded
        .into_iter()
        .find(|(seconds, _, least)| left.as_secs() >= seconds * least);
    match unit {
        Some((seconds, unit, _)) => format!("in {}{unit}", left.as_secs() / seconds),
        None => format!(
            "in {}s",
            left.round(Unit::Second).map_or(1, |left| left.as_secs().max(1))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_the_condition_that_matters_most() {
        let export = |conditions: Value| -> EventExport {
            serde_json::from_value(json!({
                "apiVersion": "eventexport.io/v1alpha1", "kind": "EventExport",
                "metadata": { "name": "audit", "namespace": "team" },
                "spec": {
                    "space": "s", "dateRange": { "start": "2018-06-01" },
                    "source": { "region": "us-south", "credentialsSecretRef": { "name": "tracker" } },
                    "destination": { "s3": { "bucket": "audit", "region": "eu-de" } },
                },
                "status": { "observedGeneration": 1, "conditions": conditions,
                    "windows": { "wanted": 30, "stored": 28, "active": 1, "waiting": 1, "failed": 0 } },
            }))
            .unwrap()
        };
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({ "type": kind, "status": status, "reason": reason, "message": "m",
                "lastTransitionTime": "2018-06-01T00:00:00Z" })
        };
        for (conditions, ready, state) in [
            (json!([]), None, "NotObserved"),
            (
                json!([condition("Ready", "True", "Exporting")]),
                Some(true),
                "Exporting",
            ),
            (
                json!([
                    condition("Ready", "False", "Short"),
                    condition("Stalled", "True", "Expired")
                ]),
                Some(false),
                "Expired",
            ),
            (
                json!([
                    condition("Ready", "True", "Exporting"),
                    condition("Complete", "True", "Complete")
                ]),
                Some(true),
                "Complete",
            ),
        ] {
            let row = Row::new(&export(conditions));
            assert_eq!((row.ready, &*row.state, &*row.days()), (ready, state, "28/30"));
        }
    }

    #[test]
    fn the_next_run_is_shown_in_its_largest_unit() {
        let now = Timestamp::UNIX_EPOCH;
        for (seconds, text) in [
            (-5, "now"),
            (1, "in 1s"),
            (119, "in 119s"),
            (7_300, "in 2h"),
            (200_000, "in 2d"),
        ] {
            let at = now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
            assert_eq!(duration_until(at, now), text);
        }
    }
}
