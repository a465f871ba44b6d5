//! Every condition reason, set by the real operator on a real API server, with the verdicts of kstatus and Argo CD.
//! This test writes the table in docs/reference/health.md or compares it.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use eventexport::api::Reason;
use eventexport::controller::export_health::needs_manual_action;
use eventexport::export::failure::{Failure, Problem, RetryClass};
use eventexport::export::snapshot::{SessionFacts, Snapshot};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{argo_health, file, kstatus, verdicts_agree};
use crate::bed::Cluster;
use crate::docs::with_part;
use crate::operator::scripted_exporter::{DAY, ScriptedExporter, ScriptedRun};
use crate::operator::{Operator, apply, condition, manifest, secret, wait_conditions};

/// Returns the run that causes the reason; `None` if `Ready` never has it. Exhaustive, so that a new reason must be
/// considered.
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
    let problem = |class, window| Snapshot {
        problems: vec![Problem {
            reason,
            message: reason.meaning().to_owned(),
            window,
            class,
            next_try: None,
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
            let waits = problem(RetryClass::Wait(Some(Timestamp::MAX)), Some(DAY)).problems;
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
        // Reasons to wait.
        Reason::Throttled | Reason::HeldByOther | Reason::NotListedYet => {
            problem(RetryClass::Wait(None), Some(DAY))
        }
        // Problems of all windows: the export waits for others or needs manual action.
        Reason::SpaceFull
        | Reason::SessionRefused
        | Reason::ConditionalWritesUnsupported
        | Reason::CredentialsRefused
        | Reason::RoleMissing
        | Reason::HostNotAllowed
        | Reason::BucketMissing
        | Reason::BucketForbidden
        | Reason::BucketFull
        | Reason::ObjectAttributesRejected
        | Reason::ArchiveTooLarge
        | Reason::SourceMismatch
        | Reason::ObjectMissing
        | Reason::ObjectSizeMismatch
        | Reason::ObjectArchived
        | Reason::ReceiptUnreadable
        | Reason::UnsupportedSchema
        | Reason::BucketInOtherRegion
        | Reason::SourceRefused
        | Reason::DestinationRefused
        | Reason::OrphanSessionSuspected => problem(RetryClass::Wait(None), None),
        // Everything is stored, and no manifest can be written or signed.
        Reason::SigningKeyInvalid
        | Reason::ManifestMissing
        | Reason::SignatureInvalid
        | Reason::ReceiptUnsigned => Snapshot {
            manifest_due: true,
            missing: settled.missing,
            waiting: 0,
            ..problem(RetryClass::Manual, None)
        },
        // Failures before the run starts.
        Reason::InvalidSpec | Reason::CredentialsMissing | Reason::IdentityNotGranted => {
            return Some(ScriptedRun::FailsToPrepare(
                Failure::wait(reason, reason.meaning(), None).export_wide(),
            ));
        }
        // Transient problems of all windows.
        Reason::SourceUnreachable
        | Reason::DestinationUnreachable
        | Reason::ListingIncomplete
        | Reason::Failed => problem(RetryClass::Retry(None), None),
        // Problems of one window that is retried.
        Reason::NotGzip | Reason::DownloadIncomplete | Reason::RangeMismatch | Reason::TransferSlow => {
            problem(RetryClass::Retry(None), Some(DAY))
        }
        // Problems of one window that need a manual decision.
        Reason::TooLarge
        | Reason::Short
        | Reason::DayChanged
        | Reason::EventsUncounted
        | Reason::EmptyUnproved
        | Reason::ForeignObject => problem(RetryClass::Manual, Some(DAY)),
        Reason::Expired => Snapshot {
            expired: [DAY].into_iter().collect(),
            ..missing
        },
        // Reasons of other conditions.
        Reason::Accepted
        | Reason::OperatorConflict
        | Reason::Proved
        | Reason::NotVerifiedYet
        | Reason::NotProved
        | Reason::VerificationFailed
        | Reason::TimestampMissing
        | Reason::ReportNotWritten => return None,
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
async fn kstatus_and_argo_cd_agree_on_every_reason() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = &cluster.namespace("reasons").await;
    let script = Arc::new(ScriptedExporter::default());
    apply(cluster, &secret(namespace, "one")).await?;
    let mut resources = vec![];
    for reason in Reason::ALL {
        if let Some(scripted) = scripted_run(*reason) {
            script.set_run(&name(*reason), scripted);
            resources.push(resource(namespace, *reason));
        }
    }
    apply(
        cluster,
        &json!({ "apiVersion": "v1", "kind": "List", "items": resources }),
    )
    .await?;
    let operator = Operator::start_with(cluster, namespace, script).await?;

    let (mut reasons, mut seen) = (vec![], vec![]);
    for reason in Reason::ALL
        .iter()
        .copied()
        .filter(|reason| scripted_run(*reason).is_some())
    {
        // Complete word: Complete is not CompleteNot.
        let wanted = ["True", "False", "Unknown"].map(|status| format!("{status}/{reason}"));
        let mut last = Value::Null;
        crate::operator::eventually(&format!("Ready has the reason {reason}"), async || {
            let all = crate::operator::get(cluster, namespace, &name(reason)).await?;
            last = all.context("it is gone")?;
            Ok(wanted.contains(&condition(&last, "Ready")))
        })
        .await
        .with_context(|| format!("{}", last["status"]))?;
        reasons.push(reason);
        seen.push(last);
    }
    // The state is stable, not transient.
    let busy = ["True/Exporting", "False/Exporting", "False/Accepted", "False"];
    wait_conditions(cluster, namespace, "exporting", busy).await?;

    let (flux, argo) = (kstatus(&seen).await?, argo_health(&seen).await?);
    let mut table = "| reason of `Ready` | `Ready` | `Stalled` | kstatus (Flux) | Argo CD | a wait |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    for (((reason, object), flux), argo) in reasons.iter().zip(&seen).zip(&flux).zip(&argo) {
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
        // Under the operator's lease a store without conditional writes is used with extra checks.
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
            _ => "continues",
        };
        let _ = writeln!(
            table,
            "| `{reason}` | {ready} | {stalled} | {} | {} | {wait} |",
            flux.status, argo.status
        );
    }
    let path = file("docs/reference/health.md");
    let text = std::fs::read_to_string(&path)?;
    let wanted = with_part(&text, "health", &table);
    if text != wanted {
        ensure!(
            std::env::var_os("UPDATE_DOCS").is_some(),
            "docs/reference/health.md: health is out of date: run `make generated`\n{table}"
        );
        std::fs::write(&path, wanted)?;
    }
    operator.stop().await
}
