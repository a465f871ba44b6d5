//! Leader election by a Lease: the requests of the old and the new leader, recorded on the connections to service and
//! store, for each way to end the old one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::Settings;
use jiff::civil::date;
use serde_json::json;

use super::eventually;
use crate::testkit::environment::Environment;
use crate::testkit::operator::{LeaseTimes, SHORT_LEASE};
use crate::testkit::process::Process;
use crate::testkit::proxy::{Proxy, RecordedRequest, Rules};

/// Starts long exports of a slow service, so that the old leader always has requests to send.
async fn fixture(name: &str) -> Result<Environment> {
    let settings = Settings {
        today: Some(date(2018, 8, 1)),
        latency: Duration::from_millis(100),
        ..Settings::default()
    };
    let fixture = Environment::builder(name).service(settings).start().await?;
    fixture
        .create("june", ["2018-06-01", "2018-06-30"], &json!({ "parallelism": 4 }))
        .await?;
    Ok(fixture)
}

/// Starts two processes; the first leads and has started to transfer.
async fn pair(fixture: &Environment, lease: Option<LeaseTimes>) -> Result<(Arc<Process>, Arc<Process>)> {
    let operator = || lease.map_or(fixture.operator(), |lease| fixture.operator().lease(lease));
    let first = operator().start().await?;
    eventually("the first leads", async || Ok(first.leads().await)).await?;
    let second = operator().start().await?;
    wait_standby(&second).await?;
    wait_busy(fixture, &first).await?;
    Ok((first, second))
}

async fn wait_standby(process: &Process) -> Result<()> {
    eventually("who stands by is ready", async || {
        Ok(process.get("/readyz").await?.0 == 200)
    })
    .await?;
    ensure!(!process.leads().await, "only one may lead");
    Ok(())
}

async fn wait_busy(fixture: &Environment, process: &Process) -> Result<()> {
    eventually("it has stored a day", async || {
        let puts = |request: &RecordedRequest| {
            request.line.starts_with("PUT ") && request.line.contains("receipt.json")
        };
        Ok(fixture.store.requests_from(process.id).iter().any(puts))
    })
    .await
}

/// Checks that no other process sends after the first request of the new leader. Requests of a process that ended at
/// once cannot be attributed and count as the old leader's.
fn ensure_no_overlap(fixture: &Environment, old: u32, new: u32) -> Result<()> {
    let begun = first_of(fixture, new).context("the new one sent nothing")?;
    for line in [&fixture.tracker, &fixture.store] {
        ensure!(
            !line.requests_from(old).is_empty(),
            "the old one was not seen at all"
        );
        for request in line.requests() {
            ensure!(
                request.process == Some(new) || request.at < begun,
                "{} was sent {:?} after the new one began, by process {:?} (the old one is {old}, the new one {new})",
                request.line,
                request.at - begun,
                request.process
            );
        }
    }
    Ok(())
}

fn first_of(fixture: &Environment, process: u32) -> Option<Instant> {
    let requests = fixture.rules.requests_from(process).into_iter();
    requests.map(|request| request.at).min()
}

#[tokio::test]
async fn a_process_paused_past_its_lease_sends_nothing_when_resumed() -> Result<()> {
    let fixture = fixture("asleep").await?;
    // Many exports, so that some are between two requests at any time.
    for space in ["two", "three", "four", "five", "six"] {
        let change = json!({ "space": space, "parallelism": 4 });
        fixture
            .create(space, ["2018-06-01", "2018-06-30"], &change)
            .await?;
    }
    let (first, second) = pair(&fixture, Some(SHORT_LEASE)).await?;
    // Idle except for awaited replies: no request is in flight when it is stopped, nor one after a first pause of 2 s.
    let held = fixture.rules.hold_replies();
    let request_count = || fixture.rules.requests_from(first.id).len();
    let mut quiet = (request_count(), Instant::now());
    eventually("all of the first waits", async || {
        if request_count() != quiet.0 {
            quiet = (request_count(), Instant::now());
        }
        Ok(quiet.1.elapsed() > Duration::from_millis(3_500))
    })
    .await?;
    first.signal("-STOP").await?;
    drop(held);
    eventually("the second exports", async || {
        Ok(first_of(&fixture, second.id).is_some())
    })
    .await?;
    // Replies wait for it, its timers have expired, and it believes that it leads.
    first.signal("-CONT").await?;
    let ended = first.wait(Duration::from_mins(1)).await?;
    ensure!(ended.code() == Some(1), "to be started again: {ended}");
    wait_busy(&fixture, &second).await?;
    ensure_no_overlap(&fixture, first.id, second.id)
}

#[tokio::test]
async fn a_leader_cut_off_from_the_api_server_stops_before_another_starts() -> Result<()> {
    let fixture = fixture("cut-off").await?;
    let cable = Proxy::cluster(fixture.cluster, &Rules::new()).await?;
    let path = cable.write_kubeconfig(fixture.folder.path())?;

    let operator = || fixture.operator().lease(SHORT_LEASE);
    let first = operator().kubeconfig(&path).start().await?;
    eventually("the first leads", async || Ok(first.leads().await)).await?;
    let second = operator().start().await?;
    wait_standby(&second).await?;
    wait_busy(&fixture, &first).await?;
    let _cut = cable.stop_traffic();
    let ended = first.wait(Duration::from_mins(1)).await?;
    ensure!(ended.code() == Some(1), "to be started again: {ended}");
    wait_busy(&fixture, &second).await?;
    ensure_no_overlap(&fixture, first.id, second.id)
}

/// With the default lease times.
#[tokio::test]
async fn an_orderly_shutdown_hands_over_within_five_seconds_with_nothing_left_open() -> Result<()> {
    let fixture = fixture("orderly").await?;
    let (first, second) = pair(&fixture, None).await?;
    let begun = Instant::now();
    first.signal("-TERM").await?;
    while !second.leads().await {
        ensure!(begun.elapsed() < Duration::from_mins(1), "nobody leads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed();
    println!("from SIGTERM to the other's leadership: {took:?}");
    ensure!(took < Duration::from_secs(5), "{took:?}");
    let ended = first.wait(Duration::from_mins(1)).await?;
    ensure!(ended.success(), "{ended}");
    wait_busy(&fixture, &second).await?;
    ensure_no_overlap(&fixture, first.id, second.id)?;
    // The new leader had nothing to clean up.
    let deletes = |process: u32, before: Instant| {
        let requests = fixture.tracker.requests_from(process).into_iter();
        requests
            .filter(|request| request.at < before && request.line.starts_with("DELETE /v3/sessions"))
            .count()
    };
    let creates = |process: u32| {
        let requests = fixture.tracker.requests_from(process).into_iter();
        requests
            .filter(|request| request.line.starts_with("POST /v3/sessions"))
            .count()
    };
    let end = Instant::now();
    ensure!(
        deletes(first.id, end) >= creates(first.id),
        "a session was left open"
    );
    Ok(())
}

/// With the default lease times.
#[tokio::test]
async fn a_crash_is_noticed_within_the_lease_and_its_sessions_are_deleted() -> Result<()> {
    let fixture = fixture("crashed").await?;
    let (first, second) = pair(&fixture, None).await?;
    let begun = Instant::now();
    first.signal("-KILL").await?;
    while !second.leads().await {
        ensure!(begun.elapsed() < Duration::from_mins(2), "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = begun.elapsed();
    println!("from SIGKILL to the other's leadership: {took:?}");
    // 15 s after the last renewal that the second saw, plus one poll before and one after, on a busy machine.
    ensure!(took < Duration::from_secs(25), "{took:?}");
    fixture.wait_complete("june").await?;
    ensure!(fixture.simulator.open_sessions().is_empty(), "sessions are left");
    ensure_no_overlap(&fixture, first.id, second.id)
}
