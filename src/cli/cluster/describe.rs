//! `kubectl eventexport describe`: one resource in full, with what to do about each problem.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::{Cluster, ClusterArgs};
use crate::api::{EventExport, EventExportStatus, Reason, StatusRange, escape};
use crate::cli::exit::{CliError, Exit};
use crate::cli::human;
use crate::cli::output::write_stdout;

/// Number of Events that are read and shown: 20.
const EVENTS_SHOWN: u32 = 20;

/// Maximum number of ranges of a list that are shown: 20.
const RANGES_SHOWN: usize = 20;

/// Show one `EventExport` of the cluster in full: its conditions with their remedies, what is missing, sessions, the head of its
/// manifests, and its Events.
///
/// For scripts, use `kubectl get eventexport NAME -o json`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eventexport describe audit-2018 -n audit")]
pub struct DescribeArgs {
    /// Name of the `EventExport`
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: ClusterArgs,
}

pub(super) async fn run(args: DescribeArgs) -> Result<Exit, CliError> {
    let cluster = args.cluster.connect().await?;
    let export = cluster.export(&args.name).await?;
    let events = events(&cluster, &export).await;
    write_stdout(&render(&export, &events))?;
    Ok(Exit::Done)
}

/// Returns the lines about the newest Events of the resource, oldest first.
async fn events(cluster: &Cluster, export: &EventExport) -> Vec<String> {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let about = format!(
        "involvedObject.kind=EventExport,involvedObject.name={}",
        export.name_any()
    );
    let listed = api.list(&ListParams::default().fields(&about).limit(500)).await;
    let mut events = match listed {
        Ok(listed) => listed.items,
        Err(error) => {
            return vec![format!(
                "cannot be listed: {}",
                crate::api::redact_error(&error, &[])
            )];
        }
    };
    let time = |event: &Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or_else(|| event.event_time.as_ref().map(|time| time.0))
            .unwrap_or_default()
    };
    events.sort_by_key(time);
    let newest = events.iter().rev().take(EVENTS_SHOWN as usize).rev();
    newest
        .map(|event| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let at = time(event).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            format!(
                "{at}  {} {}: {}",
                text(&event.type_),
                text(&event.reason),
                text(&event.message)
            )
        })
        .collect()
}

fn render(export: &EventExport, events: &[String]) -> String {
    let status = export.status.clone().unwrap_or_default();
    let spec = &export.spec;
    let mut lines = Vec::new();
    let mut line = |label: &str, value: String| lines.push(format!("{label:14} {}", escape(&value)));
    line(
        "Name:",
        format!("{}/{}", export.namespace().unwrap_or_default(), export.name_any()),
    );
    let end = spec.date_range.end.as_deref().unwrap_or("continuous");
    let hour = spec
        .date_range
        .hour
        .map(|hour| format!(", hour {hour} only"))
        .unwrap_or_default();
    line("Range:", format!("{} to {end}{hour}", spec.date_range.start));
    let s3 = &spec.destination.s3;
    let prefix = s3
        .prefix
        .as_ref()
        .map(|prefix| format!("/{prefix}"))
        .unwrap_or_default();
    line(
        "Archive:",
        format!("s3://{}{prefix}, space {}", s3.bucket, spec.space),
    );
    if spec.suspend {
        line(
            "Suspended:",
            "yes; `kubectl eventexport resume` lets it go on".to_owned(),
        );
    }
    facts(&status, &mut line);
    let omitted = status.omitted_ranges.unwrap_or_default();
    for (label, ranges, omitted) in [
        ("Missing:", &status.missing, omitted.missing),
        ("Expired:", &status.expired, omitted.expired),
    ] {
        if !ranges.is_empty() {
            line(label, shown_ranges(ranges, omitted));
        }
    }
    for session in &status.sessions {
        line("Session:", format!("{} for {}", session.id, session.window));
    }
    line(
        "Conditions:",
        if status.conditions.is_empty() {
            "none: no operator has seen it yet".to_owned()
        } else {
            String::new()
        },
    );
    for condition in &status.conditions {
        line(
            "",
            format!(
                "{} {} ({}): {}",
                condition.type_, condition.status, condition.reason, condition.message
            ),
        );
        if let Some(remedy) = remedy(&condition.type_, &condition.status, &condition.reason) {
            line("", format!("  what to do: {remedy}"));
        }
    }
    line(
        "Events:",
        if events.is_empty() {
            "none".to_owned()
        } else {
            String::new()
        },
    );
    for event in events {
        line("", event.clone());
    }
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n") + "\n"
}

fn facts(status: &EventExportStatus, line: &mut impl FnMut(&str, String)) {
    if let Some(windows) = status.windows {
        line(
            "Windows:",
            format!(
                "{} of {} stored, {} in transfer, {} waiting, {} need manual action",
                windows.stored, windows.wanted, windows.active, windows.waiting, windows.failed
            ),
        );
    }
    let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    if let Some(events) = number(status.events) {
        let late = number(status.late_events).map(|late| format!(", {} of them late", human::count(late)));
        let bytes = human::bytes(number(status.bytes).unwrap_or(0));
        line(
            "Stored:",
            format!(
                "{}{}, {bytes}",
                human::plural(events, "event"),
                late.unwrap_or_default()
            ),
        );
    }
    if let Some(manifest) = &status.manifest {
        line(
            "Head:",
            format!("{}:{} (write it down)", manifest.sequence, manifest.sha256),
        );
    }
    let time = |time: &Time| time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    if let Some(next) = &status.next_run_time {
        line("Next run:", time(next));
    }
    if let Some(done) = &status.completion_time {
        line("Completed:", time(done));
    }
}

fn shown_ranges(ranges: &[StatusRange], omitted: u32) -> String {
    let more = ranges.len().saturating_sub(RANGES_SHOWN) as u64 + u64::from(omitted);
    let more = (more > 0).then(|| format!("and {more} more"));
    let shown = ranges.iter().take(RANGES_SHOWN).map(ToString::to_string);
    shown.chain(more).collect::<Vec<_>>().join(", ")
}

/// Returns what a person does about a condition; `None` if it is good news, or its reason needs nothing.
fn remedy(kind: &str, status: &str, reason: &str) -> Option<&'static str> {
    let bad_if = match kind {
        "Ready" | "Complete" | "Verified" => "False",
        _ => "True",
    };
    let remedy = reason.parse::<Reason>().ok()?.remedy();
    (status == bad_if && !remedy.starts_with("Nothing; wait") && remedy != "Nothing.").then_some(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_condition_has_its_remedy_and_foreign_text_cannot_move_the_cursor() {
        let json = |day| serde_json::json!({ "start": day, "end": day });
        let export: EventExport = serde_json::from_value(serde_json::json!({
            "apiVersion": "eventexport.io/v1alpha1", "kind": "EventExport",
            "metadata": { "name": "audit", "namespace": "team" },
            "spec": {
                "space": "s", "dateRange": { "start": "2018-06-01" },
                "source": { "region": "us-south", "credentialsSecretRef": { "name": "tracker" } },
                "destination": { "s3": { "bucket": "audit", "prefix": "p", "region": "eu-de" } },
            },
            "status": {
                "observedGeneration": 1,
                "windows": { "wanted": 30, "stored": 28, "active": 0, "waiting": 0, "failed": 0 },
                "expired": (1..=25)
                    .map(|day| json(format!("2018-06-{day:02}")))
                    .collect::<Vec<_>>(),
                "omittedRanges": { "expired": 7 },
                "conditions": [
                    { "type": "Ready", "status": "False", "reason": "Expired", "message": "gone \u{1b}[2J",
                      "lastTransitionTime": "2018-06-01T00:00:00Z" },
                    { "type": "Reconciling", "status": "False", "reason": "Expired", "message": "m",
                      "lastTransitionTime": "2018-06-01T00:00:00Z" },
                ],
            },
        }))
        .unwrap();
        let text = render(
            &export,
            &["2018-06-01T00:00:00Z  Warning Expired: gone".to_owned()],
        );
        for wanted in [
            "Name:          team/audit\n",
            "Range:         2018-06-01 to continuous\n",
            "Archive:       s3://audit/p, space s\n",
            "28 of 30 stored",
            "2018-06-20, and 12 more",
            "what to do: Accept the gap in spec.acceptedGaps",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(
            !text.contains('\u{1b}') && text.matches("what to do").count() == 1,
            "{text}"
        );
    }
}
