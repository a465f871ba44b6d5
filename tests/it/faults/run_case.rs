//! Runs one case: injects faults, lets the export recover, and records the final state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::case::{FaultCase, ReferenceRequest, api_server_requests, reference_requests};
use super::fixture::{ApiServerRoute, CampaignSpec, FaultFixture};
use super::invariants::is_temporary_entry;
use super::observation::{CaseObservation, CaseOutcome};
use super::{InjectedFault, InjectionReceiver, ProxiedPeer, RecordedRequest};
use crate::operator::find_condition;
use crate::testkit::process::Process;

/// Interval at which the state is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(400);

/// Time without requests to tracker, UAA and store after which a complete export counts as idle.
const QUIET_PERIOD: Duration = Duration::from_millis(1500);

/// Time that an export may be stalled before the manual action: longer than its first two retries (20 s, 40 s).
const STALLED_GRACE: Duration = Duration::from_secs(75);

/// Maximum wait for automatic recovery. Hanging requests time out after a minute, and are retried for two.
const RECOVERY_TIMEOUT: Duration = Duration::from_mins(4);

/// Same limit if the completion of an upload hangs, which the operator awaits for ten minutes.
const HUNG_COMPLETION_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum time that temporary entries may stay if their deletion was refused. They are ignored, and swept when the
/// journal is listed again: daily or at a start, which is triggered here.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum time of a case.
const CASE_TIMEOUT: Duration = Duration::from_mins(6);

/// Maximum time a process may take to stop; it gives its exports 25 s by default.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(40);

/// Result of a case.
pub(crate) struct CaseRun {
    pub(crate) observed: CaseObservation,
    /// Requests, in order.
    pub(crate) requests: Vec<ReferenceRequest>,
    /// First API server requests of each name, if there is a proxy.
    pub(crate) api_server_requests: Vec<ReferenceRequest>,
    /// Injected faults and their requests; missed ones are left out.
    pub(crate) injected: Vec<String>,
    /// Number of restarts.
    pub(crate) restarts: usize,
    pub(crate) took: Duration,
}

/// Runs a case; without faults, the reference.
pub(crate) async fn run_case(
    spec: &CampaignSpec,
    case: Option<&FaultCase>,
    route: ApiServerRoute,
) -> Result<CaseRun> {
    let fixture = FaultFixture::start(spec, route).await?;
    let mut rules = case.map(FaultCase::rules).unwrap_or_default();
    // Before the operator starts: its first requests are targets, too.
    let at_start = if spec.late.is_empty() {
        std::mem::take(&mut rules)
    } else {
        Vec::new()
    };
    let mut runner = CaseRunner {
        pending: fixture.rules.arm_sequence(at_start),
        completion_hangs: case.is_some_and(completion_hangs),
        waiting_for_cleanup_since: None,
        restarted_for_cleanup: false,
        operator: fixture.start_operator()?,
        fixture,
        started: Instant::now(),
        late_events: 0,
        injected: Vec::new(),
        restarts: 0,
        stopped_cleanly: true,
    };
    runner.fixture.apply(spec).await?;
    let before_faults = if spec.late.is_empty() {
        0
    } else {
        let first = runner.recover().await?;
        ensure!(
            first == CaseOutcome::Recovered && runner.stop().await?,
            "the first run: {first:?}"
        );
        let before_faults = runner.fixture.rules.count();
        runner.pending = runner.fixture.rules.arm_sequence(rules);
        runner.late_events = spec.late_events();
        runner.fixture.grow(spec).await?;
        runner.fixture.delete_lease().await?;
        runner.operator = runner.fixture.start_operator()?;
        runner.started = Instant::now();
        before_faults
    };
    let ending = runner.recover().await?;
    let ended = runner.stop().await?;
    // The very last request releases the lease. A process killed there counts as stopped.
    let kills = |case: &FaultCase| {
        matches!(
            case.faults().last(),
            Some(InjectedFault::KillBefore | InjectedFault::KillAfter)
        )
    };
    let killed = runner.collect_injections() && case.is_some_and(kills);
    let stopped = runner.stopped_cleanly && (ended || killed);
    let fixture = &runner.fixture;
    let requests = fixture.rules.requests().split_off(before_faults);
    Ok(CaseRun {
        observed: CaseObservation::collect(fixture, ending, stopped).await?,
        requests: reference_requests(&requests),
        api_server_requests: api_server_requests(&requests),
        injected: runner.injected,
        restarts: runner.restarts,
        took: runner.started.elapsed(),
    })
}

fn completion_hangs(case: &FaultCase) -> bool {
    let kind = case.row_label();
    kind.contains("CompleteMultipartUpload") && case.faults().any(|fault| fault == InjectedFault::HangReply)
}

struct CaseRunner {
    fixture: FaultFixture,
    operator: Arc<Process>,
    /// Faults that are not injected yet.
    pending: Vec<InjectionReceiver>,
    /// True if the completion of an upload hangs.
    completion_hangs: bool,
    /// Time since which only temporary entries are left.
    waiting_for_cleanup_since: Option<Instant>,
    /// True if the operator was restarted to sweep them.
    restarted_for_cleanup: bool,
    started: Instant,
    /// Late events that are stored in the end.
    late_events: u64,
    injected: Vec<String>,
    restarts: usize,
    stopped_cleanly: bool,
}

impl CaseRunner {
    /// Waits until the export is complete and idle.
    async fn recover(&mut self) -> Result<CaseOutcome> {
        let mut manual_action = None;
        let mut stalled: Option<Instant> = None;
        let mut last_progress = Instant::now();
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            if self.collect_injections() {
                last_progress = Instant::now();
            }
            if !self.operator.is_running().await? {
                // As a Deployment does.
                self.fixture.delete_lease().await?;
                self.operator = self.fixture.start_operator()?;
                self.restarts += 1;
                continue;
            }
            let resource = self.fixture.resource().await?;
            let status = &resource["status"];
            let stored = status["lateEvents"].as_u64().unwrap_or(0);
            if is_done(&resource) && stored == self.late_events && self.is_idle().await? {
                return Ok(manual_action.map_or(CaseOutcome::Recovered, CaseOutcome::ManualAction));
            }
            if self
                .waiting_for_cleanup_since
                .is_some_and(|since| since.elapsed() > CLEANUP_TIMEOUT)
                && !self.restarted_for_cleanup
            {
                self.restarted_for_cleanup = true;
                self.restart().await?;
                continue;
            }
            if condition_is_true(&resource, "Stalled") {
                stalled = stalled.or_else(|| Some(Instant::now()));
            } else {
                stalled = None;
            }
            if self.started.elapsed() > CASE_TIMEOUT {
                return Ok(CaseOutcome::Incomplete(status.to_string()));
            }
            let limit = if self.completion_hangs && !self.injected.is_empty() {
                HUNG_COMPLETION_TIMEOUT
            } else {
                RECOVERY_TIMEOUT
            };
            let acts = stalled.is_some_and(|since| since.elapsed() > STALLED_GRACE)
                || last_progress.elapsed() > limit;
            if acts && manual_action.is_none() {
                // The documented wait for a completion is no failure and needs no action.
                if !self.completion_hangs {
                    manual_action = Some(reason(&resource));
                }
                self.completion_hangs = false;
                (stalled, last_progress) = (None, Instant::now());
                self.restart().await?;
            }
        }
    }

    /// Restarts the operator, as `kubectl rollout restart` does.
    async fn restart(&mut self) -> Result<()> {
        self.stopped_cleanly &= self.stop().await?;
        self.fixture.delete_lease().await?;
        self.operator = self.fixture.start_operator()?;
        self.restarts += 1;
        Ok(())
    }

    /// True if a fault was injected since.
    fn collect_injections(&mut self) -> bool {
        let before = self.injected.len();
        while let Some(receiver) = self.pending.first_mut() {
            match receiver.try_recv() {
                Ok(Ok(injection)) => self.injected.push(injection),
                // It exited by itself at that moment and is restarted as if killed.
                Ok(Err(error)) => self.injected.push(format!("{error:#}")),
                Err(_) => break,
            }
            self.pending.remove(0);
        }
        self.injected.len() > before
    }

    /// True if no requests are sent and all temporary entries are gone, or will stay.
    async fn is_idle(&mut self) -> Result<bool> {
        let seen = self.fixture.rules.requests();
        let asks =
            |seen: &RecordedRequest| seen.peer != ProxiedPeer::ApiServer && seen.at.elapsed() < QUIET_PERIOD;
        if seen.iter().any(asks) {
            return Ok(false);
        }
        // If faults target the API server, the lease is held long enough to be renewed.
        let renews = |seen: &RecordedRequest| {
            seen.peer == ProxiedPeer::ApiServer
                && seen.contains(&["PUT ", "/leases/"])
                && seen.at.elapsed() > QUIET_PERIOD
        };
        if self.fixture.is_proxied() && !seen.iter().any(renews) {
            return Ok(false);
        }
        let keys = self.fixture.bucket.keys().await?;
        if !keys.iter().any(|key| is_temporary_entry(key)) {
            return Ok(true);
        }
        let since = *self.waiting_for_cleanup_since.get_or_insert_with(Instant::now);
        // The invariants report those that stay.
        Ok(self.restarted_for_cleanup && since.elapsed() > CLEANUP_TIMEOUT * 3)
    }

    async fn stop(&mut self) -> Result<bool> {
        self.operator.stop(SHUTDOWN_TIMEOUT).await.context("SIGTERM")
    }
}

fn condition_is_true(resource: &Value, kind: &str) -> bool {
    find_condition(resource, kind)["status"] == "True"
}

/// True if nothing is due: the export is complete, or a continuous one has caught up.
fn is_done(resource: &Value) -> bool {
    condition_is_true(resource, "Complete") || find_condition(resource, "Ready")["reason"] == "CaughtUp"
}

/// Returns the reason of `Ready` if it is false.
fn reason(resource: &Value) -> Option<eventexport::api::Reason> {
    find_condition(resource, "Ready")["reason"].as_str()?.parse().ok()
}
