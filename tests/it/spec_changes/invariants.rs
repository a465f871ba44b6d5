//! Invariants of all cases: of the bucket, the service, the versions of the status, and the load on the API server.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use eventexport::archive::layout::{ArchiveRoot, Key};
use eventexport::simulator::Simulator;
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;

use super::fixture::ChangeFixture;
use super::runner::ChangeCaseRunner;
use crate::testkit::process::Process;

/// Returns bucket and prefix of a resource.
pub(super) fn destination(object: &Value) -> Result<(String, String)> {
    let s3 = &object["spec"]["destination"]["s3"];
    let text = |field: &str| s3[field].as_str().map(str::to_owned).context("no destination");
    Ok((text("bucket")?, text("prefix")?))
}

/// Merges days into ranges, as the status lists them.
pub(super) fn ranges(days: &[Date]) -> Vec<(Date, Date)> {
    let mut ranges: Vec<(Date, Date)> = Vec::new();
    for day in days {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1.days()).is_ok_and(|next| next == *day) => *last = *day,
            _ => ranges.push((*day, *day)),
        }
    }
    ranges
}

/// True if the status covers those days. Receipts of days outside the range may count or not.
pub(super) fn covers(covered: &Value, days: &[(Date, Date)]) -> bool {
    let there: Vec<(Date, Date)> = covered
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|range| {
            let day = |end: &str| range[end].as_str()?.parse().ok();
            Some((day("start")?, day("end")?))
        })
        .collect();
    days.iter()
        .all(|(first, last)| there.iter().any(|(from, to)| from <= first && last <= to))
}

/// Checks that each object was created once with its receipt, that only other evidence is beside them, and that no upload is
/// left.
pub(super) async fn check_archive(
    fixture: &ChangeFixture,
    runner: &ChangeCaseRunner<'_>,
    last: &Value,
) -> Result<()> {
    let (bucket, prefix) = destination(last)?;
    let below = format!("{prefix}/");
    let mut keys = BTreeMap::new();
    let only_evidence =
        |key: &String| ArchiveRoot::containing(key).is_some_and(|root| root.parse(key).is_evidence());
    // Temporary entries are deleted after the receipt.
    for _ in 0..100 {
        keys = fixture.keys(&bucket, &below).await?;
        // No evidence, and replaced.
        let report =
            |key: &String| ArchiveRoot::containing(key).is_some_and(|root| root.parse(key) == Key::Report);
        keys.retain(|key, _| !report(key));
        if keys.keys().all(only_evidence) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    for (key, versions) in &keys {
        ensure!(only_evidence(key), "{}: {key} is left", runner.name);
        ensure!(
            *versions == 1,
            "{}: {key} was written {versions} times",
            runner.name
        );
    }
    let count = |end: &str| keys.keys().filter(|key| key.ends_with(end)).count();
    let windows = fixture.days.exported_in(&last["spec"]).len();
    ensure!(
        count(".receipt.json") == count(".json.gz") && count(".json.gz") >= windows.min(1),
        "{}: {windows} windows, and {keys:?}",
        runner.name
    );
    let mut uploads = fixture.bucket(&bucket).uploads().await?;
    uploads.retain(|key| key.starts_with(&below));
    ensure!(uploads.is_empty(), "{}: {uploads:?}", runner.name);
    let status = &last["status"];
    let gaps: usize = usize::from(last["spec"]["acceptedGaps"].is_array());
    ensure!(
        gaps > 0 || status["windows"]["stored"].as_u64() >= Some(windows as u64),
        "{}: {status}",
        runner.name
    );
    ensure!(
        !status.to_string().contains("Nonsense"),
        "{}: {status}",
        runner.name
    );
    ensure!(
        status["missing"].is_null() && status["windows"]["active"] == 0,
        "{}: {status}",
        runner.name
    );
    Ok(())
}

/// Checks that the observed generation only increases, that conditions refer to it, and that transition times are
/// right. Cases that edit the status are exempt.
pub(super) fn check_history(versions: &[Value], tampered: bool) -> Result<()> {
    if tampered {
        return Ok(());
    }
    for (before, after) in versions.iter().zip(versions.iter().skip(1)) {
        if before["metadata"]["uid"] != after["metadata"]["uid"] {
            continue;
        }
        let (old, new) = (&before["status"], &after["status"]);
        let observed = |status: &Value| status["observedGeneration"].as_i64();
        ensure!(observed(old) <= observed(new), "{old:#} became {new:#}");
        ensure!(
            observed(new) <= after["metadata"]["generation"].as_i64(),
            "{after:#}"
        );
        // No manual action is needed for sessions, because all of them are ours. A new resource may wait for the session of
        // an earlier one of its name.
        let stalled = crate::operator::condition(after, "Stalled");
        ensure!(stalled != "True/OrphanSessionSuspected", "{new:#}");
        for condition in new["conditions"].as_array().into_iter().flatten() {
            ensure!(
                condition["observedGeneration"] == new["observedGeneration"],
                "{condition}"
            );
            let same_type = |one: &&Value| one["type"] == condition["type"];
            let Some(was) = old["conditions"].as_array().into_iter().flatten().find(same_type) else {
                continue;
            };
            let at = |condition: &Value| -> Result<Timestamp> {
                Ok(condition["lastTransitionTime"]
                    .as_str()
                    .context("no time")?
                    .parse()?)
            };
            if was["status"] == condition["status"] {
                ensure!(at(was)? == at(condition)?, "{was} became {condition}");
            } else {
                ensure!(at(was)? <= at(condition)?, "{was} became {condition}");
            }
        }
    }
    Ok(())
}

/// Load of an operator on the API server and itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OperatorLoad {
    /// Writes of resources and Events, without the Lease.
    pub(super) writes: u64,
    /// Reconciles.
    pub(super) reconciles: u64,
}

pub(super) async fn operator_load(operator: &Process) -> Result<OperatorLoad> {
    let text = operator.metrics().await?;
    let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        text.lines()
            .filter(|line| wanted(line))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum()
    };
    let writes = |line: &str| {
        line.starts_with("eventexport_requests_total{")
            && line.contains("peer=\"kubernetes\"")
            && ["Patch", "Create", "Delete"]
                .iter()
                .any(|operation| line.contains(operation))
    };
    let reconciles = |line: &str| line.starts_with("eventexport_reconciles_total{");
    Ok(OperatorLoad {
        writes: sum(&writes),
        reconciles: sum(&reconciles),
    })
}

/// Intervals within which there must be one without a write, reconcile or request.
const MAX_INTERVALS: usize = 8;

/// Checks that it comes to rest: that there is an interval without a write, reconcile or request.
pub(super) async fn ensure_quiet(
    fixture: &ChangeFixture,
    operator: &Process,
    services: &[&Simulator],
) -> Result<()> {
    let asked = || -> u64 {
        let requests = |simulator: &&Simulator| simulator.ledger().requests.values().sum::<u64>();
        services.iter().map(requests).sum()
    };
    // The last update may still be in flight.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let load = async || {
        Ok::<_, anyhow::Error>((
            operator_load(operator).await?,
            fixture.history.resource_versions(),
            asked(),
            fixture.env.store.requests().len(),
        ))
    };
    let mut before = load().await?;
    // Verifications are scheduled, and a time stamp whose authority is down is tried again after growing pauses.
    let mut changes = Vec::new();
    for _ in 0..MAX_INTERVALS {
        super::runner::settle_delay().await;
        let after = load().await?;
        if before == after {
            return Ok(());
        }
        changes.push(format!("{before:?} became {after:?}"));
        before = after;
    }
    bail!("not at rest: {changes:#?}")
}
