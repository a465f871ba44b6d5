//! `kubectl eventexport suspend`, `resume`, `request` and `accept-gap`: small changes of a resource.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Cluster, ClusterArgs};
use crate::api::{AcceptedGap, EventExport, FieldError};
use crate::cli::day::{check_order, day};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{write_stderr, write_stdout};
use crate::controller::REQUEST_ANNOTATIONS;

/// Name of these commands as a writer of fields.
const FIELD_MANAGER: &str = "kubectl-eventexport";

/// Attempts to write a change while others write the same resource: 5.
const WRITE_ATTEMPTS: u32 = 5;

/// Interval at which `request` looks for the answer: 1 s.
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// Labels and annotations by which GitOps tools mark what they apply.
const GITOPS_MARKS: [(&str, &str); 5] = [
    ("kustomize.toolkit.fluxcd.io/name", "Flux"),
    ("helm.toolkit.fluxcd.io/name", "Flux"),
    ("argocd.argoproj.io/instance", "Argo CD"),
    ("argocd.argoproj.io/tracking-id", "Argo CD"),
    ("meta.helm.sh/release-name", "Helm"),
];

/// Resource to suspend or resume.
#[derive(Debug, clap::Args)]
pub struct SuspendArgs {
    /// Names of `EventExport` resources
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: ClusterArgs,
}

/// Ask the operator to look at an `EventExport` now.
///
/// The operator lists the bucket and the days of the service again, and ends all waits for retries. Sets the annotation
/// eventexport.io/requestedAt; `status.lastHandledReconcileAt` answers. Exit code 1: no answer in time.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eventexport request audit-2018 -n audit --wait 300")]
pub struct RequestArgs {
    /// Name of the `EventExport`
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Maximum time to wait for the answer, in seconds; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub wait: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: ClusterArgs,
}

/// Accept lost days of an `EventExport` as a gap, with a reason for later readers.
///
/// Adds entries to `spec.acceptedGaps`. The events of these days are not exported any more, and manifests state the gap with its
/// reason. Give --start and --end, or --expired for all days that the service no longer has.
#[derive(Debug, clap::Args)]
#[command(after_help = ACCEPT_EXAMPLES)]
pub struct AcceptGapArgs {
    /// Name of the `EventExport`
    #[arg(value_name = "NAME")]
    pub name: String,
    /// First UTC day of the gap
    #[arg(short, long, value_name = "DATE", value_parser = day, required_unless_present = "expired")]
    pub start: Option<Date>,
    /// Last UTC day of the gap, inclusive (default: the first)
    #[arg(short, long, value_name = "DATE", value_parser = day, requires = "start")]
    pub end: Option<Date>,
    /// Accept all days that `status.expired` lists
    #[arg(long, conflicts_with_all = ["start", "end"])]
    pub expired: bool,
    /// Explanation of the gap, 1 to 512 characters on one line
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Print the entries for `spec.acceptedGaps`, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: ClusterArgs,
}

const ACCEPT_EXAMPLES: &str = "\
Examples:
  One day:
    eventexport accept-gap audit-2018 --start 2018-06-03 --reason 'expired before we began'
  Everything that the service no longer has, as YAML for Git:
    eventexport accept-gap audit-2018 --expired --reason 'expired before we began' --dry-run";

pub(super) async fn suspend(args: SuspendArgs, suspend: bool) -> Result<Exit, CliError> {
    let cluster = args.cluster.connect().await?;
    for name in &args.names {
        let export = cluster.export(name).await?;
        let state = if suspend { "suspended" } else { "resumed" };
        if export.spec.suspend == suspend {
            write_stdout(&format!("eventexport {name} is {state} already\n"))?;
            continue;
        }
        patch(
            &cluster,
            name,
            &Patch::Merge(json!({ "spec": { "suspend": suspend } })),
        )
        .await?;
        note_gitops(&export, "spec.suspend");
        write_stdout(&format!("eventexport {name} {state}\n"))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn request(args: RequestArgs) -> Result<Exit, CliError> {
    let cluster = args.cluster.connect().await?;
    let [annotation, _] = REQUEST_ANNOTATIONS;
    let value = Timestamp::now().to_string();
    let annotations = json!({ "metadata": { "annotations": { annotation: value } } });
    let mut export = patch(&cluster, &args.name, &Patch::Merge(annotations)).await?;
    let answered = |export: &EventExport| {
        let status = export.status.as_ref();
        status.and_then(|status| status.last_handled_reconcile_at.as_deref()) == Some(&*value)
    };
    for _ in 0..args.wait {
        if answered(&export) || export.spec.suspend {
            break;
        }
        tokio::time::sleep(ANSWER_INTERVAL).await;
        export = cluster.export(&args.name).await?;
    }
    if answered(&export) {
        write_stdout(&format!("eventexport {} was looked at\n", args.name))?;
    } else if args.wait == 0 {
        write_stdout(&format!("eventexport {} requested\n", args.name))?;
    } else if export.spec.suspend {
        return Err(CliError::Failed(anyhow::anyhow!(
            "EventExport {}/{} is suspended: the request is answered after `resume {}`",
            cluster.namespace,
            args.name,
            args.name
        )));
    } else {
        return Err(CliError::Failed(anyhow::anyhow!(
            "EventExport {}/{}: the operator did not answer within {} s; is one running that serves this namespace? The \
             request stays, and is answered when it runs",
            cluster.namespace,
            args.name,
            args.wait
        )));
    }
    Ok(Exit::Done)
}

pub(super) async fn accept_gap(args: AcceptGapArgs) -> Result<Exit, CliError> {
    check_order(args.start, args.end)?;
    let cluster = args.cluster.connect().await?;
    for _ in 0..WRITE_ATTEMPTS {
        let export = cluster.export(&args.name).await?;
        let gaps = new_gaps(&args, &export);
        note_omitted(&args, &export);
        if gaps.is_empty() {
            write_stdout(&format!("eventexport {}: nothing to accept\n", args.name))?;
            return Ok(Exit::Done);
        }
        let changed = with_gaps(&export, &gaps);
        changed.spec.validate().map_err(|errors| invalid(&errors))?;
        if args.dry_run {
            write_stdout(&gaps_yaml(&gaps))?;
            return Ok(Exit::Done);
        }
        // Fails if another writer was faster: its gaps are kept.
        let change = json!({
            "metadata": { "resourceVersion": export.resource_version() },
            "spec": { "acceptedGaps": changed.spec.accepted_gaps },
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match cluster
            .exports()
            .patch(&args.name, &params, &Patch::Merge(change))
            .await
        {
            Ok(_) => {
                note_gitops(&export, "spec.acceptedGaps");
                for gap in &gaps {
                    write_stdout(&format!(
                        "eventexport {}: accepted {} to {}\n",
                        args.name, gap.start, gap.end
                    ))?;
                }
                return Ok(Exit::Done);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(cluster.error("change EventExport", &args.name, &error)),
        }
    }
    Err(CliError::Failed(anyhow::anyhow!(
        "EventExport {}/{} is being changed by another writer; try again",
        cluster.namespace,
        args.name
    )))
}

/// Returns the gaps to add: the days of the wanted ranges that are not accepted yet, or a range that only overlaps. Each
/// starts on another day than all others, as the API server requires.
fn new_gaps(args: &AcceptGapArgs, export: &EventExport) -> Vec<AcceptedGap> {
    let ranges: Vec<(Date, Date)> = match args.start {
        Some(start) => vec![(start, args.end.unwrap_or(start))],
        None => expired_ranges(export),
    };
    let known: Vec<(Date, Date)> = export
        .spec
        .accepted_gaps
        .iter()
        .filter_map(|gap| Some((day(&gap.start).ok()?, day(&gap.end).ok()?)))
        .collect();
    let gap = |(start, end): (Date, Date)| AcceptedGap {
        start: start.to_string(),
        end: end.to_string(),
        reason: args.reason.clone(),
    };
    let open = |(mut start, end): (Date, Date)| {
        let is_accepted = |start: Date| {
            known
                .iter()
                .find(|(first, last)| *first <= start && start <= *last)
        };
        while let Some((_, last)) = is_accepted(start) {
            start = last.tomorrow().ok().filter(|next| *next <= end)?;
        }
        Some((start, end))
    };
    ranges.into_iter().filter_map(open).map(gap).collect()
}

/// Returns the days that the service no longer has. Earlier operators listed hours: then their days.
fn expired_ranges(export: &EventExport) -> Vec<(Date, Date)> {
    let expired = export.status.iter().flat_map(|status| &status.expired);
    let date = |text: &str| day(text.split('T').next().unwrap_or_default()).ok();
    let mut ranges: Vec<(Date, Date)> = expired
        .filter_map(|range| Some((date(&range.start)?, date(&range.end)?)))
        .collect();
    ranges.dedup();
    ranges
}

/// Prints the number of expired ranges that the status does not list.
fn note_omitted(args: &AcceptGapArgs, export: &EventExport) {
    let status = export.status.as_ref();
    let omitted = status
        .and_then(|status| status.omitted_ranges)
        .unwrap_or_default();
    if args.expired && omitted.expired > 0 {
        write_stderr(&format!(
            "note: status.expired does not list {} more ranges: run the command again when the operator has listed them",
            omitted.expired
        ));
    }
}

/// Returns the gaps as YAML, for the spec.
fn gaps_yaml(gaps: &[AcceptedGap]) -> String {
    let mut text = "acceptedGaps:\n".to_owned();
    for AcceptedGap { start, end, reason } in gaps {
        // Text in JSON is YAML.
        let _ = writeln!(
            text,
            "- start: \"{start}\"\n  end: \"{end}\"\n  reason: {}",
            json!(reason)
        );
    }
    text
}

fn with_gaps(export: &EventExport, gaps: &[AcceptedGap]) -> EventExport {
    let mut changed = export.clone();
    changed.spec.accepted_gaps.extend_from_slice(gaps);
    changed
}

fn invalid(errors: &[FieldError]) -> CliError {
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    CliError::usage(errors.join("; "))
}

async fn patch(cluster: &Cluster, name: &str, patch: &Patch<Value>) -> Result<EventExport, CliError> {
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = cluster.exports().patch(name, &params, patch).await;
    patched.map_err(|error| cluster.error("change EventExport", name, &error))
}

/// Prints a note if a GitOps tool applies the resource: it takes the change back.
fn note_gitops(export: &EventExport, field: &str) {
    if let Some(tool) = applied_by(export) {
        write_stderr(&format!(
            "note: {tool} applies this resource: change {field} in its source too, or {tool} may take this change back"
        ));
    }
}

fn applied_by(export: &EventExport) -> Option<&'static str> {
    let has = |mark: &str| export.labels().contains_key(mark) || export.annotations().contains_key(mark);
    GITOPS_MARKS
        .into_iter()
        .find(|(mark, _)| has(mark))
        .map(|(_, tool)| tool)
}
