//! Every reason that a condition can have, brought about in a resource on a real API server by the real operator:
//! what kstatus and Argo CD make of it. The table in docs/gitops.md is written by this test and compared with it.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use eventexport::api::Reason;
use eventexport::controller::export_health::needs_manual_action;
use eventexport::export::failure::{Failure, Problem, Remedy};
use eventexport::export::snapshot::{SessionFacts, Snapshot};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{argo_health, file, kstatus, verdicts_agree};
use crate::bed::Cluster;
use crate::docs::with_part;
use crate::operator::scripted_exporter::{DAY, ScriptedExporter, ScriptedRun};
use crate::operator::{Operator, apply, condition, manifest, secret, wait_conditions};

/// How the reason comes about. `None`: `Ready` never has it. Exhaustive, so that a new reason is thought of.
#[allow(clippy::too_many_lines)]
fn scripted_run(reason: Reason) -> Option<ScriptedRun> {
    let settled = Snapshot {
        observed: true,
        wanted: 30,
        stored: 29,
        ..Snapshot::default()
    };
    let missing = Snapshot {
        missing: [DAY].into_iter().collect(),
        waiting: 1,
        ..settled.clone()
    };
    let problem = |remedy, window| Snapshot {
        problems: vec![Problem {
            reason,
            message: reason.meaning().to_owned(),
            window,
            remedy,
            retry_at: None,
        }],
        ..missing.clone()
    };
    let snapshot = match reason {
        Reason::Complete => Snapshot {
            stored: 30,
            complete: true,
            ..settled
        },
        Reason::Suspended => settled,
        // Of a range without an end and with one: the next day is waited for.
        Reason::CaughtUp | Reason::NotSettled => {
            let waits = problem(Remedy::Wait(Some(Timestamp::MAX)), Some(DAY)).problems;
            Snapshot {
                problems: waits
                    .into_iter()
                    .map(|one| Problem {
                        reason: Reason::NotSettled,
                        ..one
                    })
                    .collect(),
                ..settled
            }
        }
        Reason::Exporting => Snapshot {
            active: 1,
            waiting: 0,
            ..missing
        },
        Reason::NewGeneration => Snapshot {
            observed: false,
            active: 1,
            ..Snapshot::default()
        },
        Reason::SessionsOpen => Snapshot {
            sessions: vec![SessionFacts {
                id: "session-7".to_owned(),
                window: DAY,
            }],
            ..settled
        },
        // What is waited for.
        Reason::Throttled | Reason::HeldByOther => problem(Remedy::Wait(None), Some(DAY)),
        // What concerns every window: others are waited for, or a person is needed.
        Reason::SpaceFull
        | Reason::ConditionalWritesUnsupported
        | Reason::CredentialsRefused
        | Reason::RoleMissing
        | Reason::HostNotAllowed
        | Reason::BucketMissing
        | Reason::BucketForbidden
        | Reason::BucketFull
        | Reason::ObjectAttributesRejected
        | Reason::JournalMismatch
        | Reason::SourceRefused
        | Reason::DestinationRefused
        | Reason::OrphanSessionSuspected => problem(Remedy::Wait(None), None),
        // All is stored, and its manifest cannot be signed.
        Reason::SigningKeyInvalid => Snapshot {
            manifest_due: true,
            missing: settled.missing,
            waiting: 0,
            ..problem(Remedy::Manual, None)
        },
        // What is found before it begins.
        Reason::InvalidSpec | Reason::CredentialsMissing | Reason::IdentityNotGranted => {
            return Some(ScriptedRun::FailsToPrepare(
                Failure::wait(reason, reason.meaning(), None).export_wide(),
            ));
        }
        // What keeps every window back and passes.
        Reason::SourceUnreachable | Reason::DestinationUnreachable | Reason::Failed => {
            problem(Remedy::Retry(None), None)
        }
        // What happened to one window, which is tried again.
        Reason::NotGzip | Reason::DownloadIncomplete | Reason::InvalidEvents | Reason::RangeMismatch => {
            problem(Remedy::Retry(None), Some(DAY))
        }
        // What a person has to decide about one window.
        Reason::TooLarge | Reason::Short | Reason::EmptyUnproved | Reason::ForeignObject => {
            problem(Remedy::Manual, Some(DAY))
        }
        Reason::Expired => Snapshot {
            expired: [DAY].into_iter().collect(),
            ..missing
        },
        // Of conditions of their own.
        Reason::Accepted | Reason::OperatorConflict => return None,
    };
    Some(ScriptedRun::Reports(Box::new(snapshot)))
}

fn resource(namespace: &str, reason: Reason) -> Value {
    let mut made = manifest(namespace, &name(reason), "any");
    if reason == Reason::CaughtUp {
        made["spec"]["dateRange"] = json!({ "start": "2018-06-01" });
    }
    if reason == Reason::Suspended {
        made["spec"]["suspend"] = json!(true);
    }
    made
}

fn name(reason: Reason) -> String {
    reason.as_str().to_lowercase()
}

#[tokio::test]
async fn every_reason_means_the_same_to_kstatus_and_to_argo_cd() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("reasons").await;
    let script = Arc::new(ScriptedExporter::default());
    apply(cluster, &secret(namespace, "one")).await?;
    let mut resources = vec![];
    for reason in Reason::ALL {
        if let Some(play) = scripted_run(*reason) {
            script.set_run(&name(*reason), play);
            resources.push(resource(namespace, *reason));
        }
    }
    apply(
        cluster,
        &json!({ "apiVersion": "v1", "kind": "List", "items": resources }),
    )
    .await?;
    let operator = Operator::start_with(cluster, namespace, script).await?;

    let (mut shown, mut seen) = (vec![], vec![]);
    for reason in Reason::ALL
        .iter()
        .copied()
        .filter(|reason| scripted_run(*reason).is_some())
    {
        // The word, to its end: Complete is not CompleteNot.
        let wanted = ["True", "False", "Unknown"].map(|status| format!("{status}/{reason}"));
        let mut last = Value::Null;
        crate::operator::eventually(&format!("Ready has the reason {reason}"), async || {
            let all = crate::operator::get(cluster, namespace, &name(reason)).await?;
            last = all.context("it is gone")?;
            Ok(wanted.contains(&condition(&last, "Ready")))
        })
        .await
        .with_context(|| format!("{}", last["status"]))?;
        shown.push(reason);
        seen.push(last);
    }
    // It stays so: nothing above was a passing state.
    let busy = ["True/Exporting", "False/Exporting", "False/Accepted", "False"];
    wait_conditions(cluster, namespace, "exporting", busy).await?;

    let (flux, argo) = (kstatus(&seen).await?, argo_health(&seen).await?);
    let mut table = "| reason of `Ready` | `Ready` | `Stalled` | kstatus (Flux) | Argo CD | a wait |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    for (((reason, object), flux), argo) in shown.iter().zip(&seen).zip(&flux).zip(&argo) {
        let status = |kind| {
            condition(object, kind)
                .split('/')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let (ready, stalled) = (status("Ready"), status("Stalled"));
        ensure!(
            verdicts_agree(&flux.status, &argo.status),
            "{reason}: {flux:?} {argo:?}"
        );
        ensure!(
            (flux.status == "Failed") == (stalled == "True")
                && (flux.status == "Current") == (ready == "True"),
            "{reason}: {flux:?} {}",
            object["status"]
        );
        // A weak store is used under the operator's lease, with extra checks.
        if *reason != Reason::ConditionalWritesUnsupported {
            ensure!(
                needs_manual_action(*reason) == (flux.status == "Failed"),
                "{reason}: {flux:?}"
            );
        }
        if flux.status == "Failed" {
            ensure!(
                flux.message.contains(reason.meaning()) || *reason == Reason::Expired,
                "{reason}: {flux:?}"
            );
            ensure!(argo.message.starts_with(reason.as_str()), "{argo:?}");
        }
        let wait = match flux.status.as_str() {
            "Current" => "passes",
            "Failed" => "fails at once",
            _ => "goes on",
        };
        let _ = writeln!(
            table,
            "| `{reason}` | {ready} | {stalled} | {} | {} | {wait} |",
            flux.status, argo.status
        );
    }
    let path = file("docs/gitops.md");
    let text = std::fs::read_to_string(&path)?;
    let wanted = with_part(&text, "health", &table);
    if text != wanted {
        ensure!(
            std::env::var_os("UPDATE_DOCS").is_some(),
            "docs/gitops.md: health is not what would be generated: run `make generated`\n{table}"
        );
        std::fs::write(&path, wanted)?;
    }
    operator.stop().await
}
