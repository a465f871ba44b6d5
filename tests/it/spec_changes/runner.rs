//! Runs one case: one change of one resource at one phase, from creation to deletion.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, RequestKind, Simulator};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::cases::{CaseContext, ChangeCase, Expectation, ResourceChange};
use super::fixture::{ChangeFixture, other_credentials, service_settings};
use super::phases::{LifecyclePhase, is_at_rest};
use super::{invariants, merge};
use crate::operator::{condition, has_finalizer};
use crate::testkit::environment::no_session_left;
use crate::testkit::proxy::{ProxiedPeer, Proxy, Rules};
use crate::testkit::service::{delay, refuse};

/// Delay of a download that has to be in progress for a while: shorter than the client's timeout.
const DOWNLOAD_DELAY_MS: u64 = 25_000;

/// Delay of the deletion of a session, so that the end of a run takes a while.
const DELETE_DELAY_MS: u64 = 2_000;

/// Label changes in a row.
const LABEL_CHANGES: usize = 40;

pub(super) struct ChangeCaseRunner<'a> {
    fixture: &'a ChangeFixture,
    case: &'a ChangeCase,
    phase: LifecyclePhase,
    pub(super) name: String,
    pub(super) simulator: Simulator,
    other_endpoint: Proxy,
    /// Initial spec.
    spec: Value,
}

impl<'a> ChangeCaseRunner<'a> {
    /// Creates the resource; an operator reconciles it once one runs.
    pub(super) async fn start(
        fixture: &'a ChangeFixture,
        case: &'a ChangeCase,
        phase: LifecyclePhase,
        index: usize,
    ) -> Result<Self> {
        let name = format!("{}-{index}", phase.name_part());
        let simulator = Simulator::start(service_settings()).await?;
        let service = simulator.url().as_str();
        let other_endpoint = Proxy::start(ProxiedPeer::Tracker, service, &Rules::new()).await?;
        let own = json!({ "source": { "credentialsSecretRef": { "name": format!("own-{name}") } } });
        let mut spec = fixture.spec(&name, &simulator, &own);
        merge(&mut spec, &phase.spec(fixture.days));
        let mut runner = Self {
            fixture,
            case,
            phase,
            name,
            simulator,
            other_endpoint,
            spec,
        };
        let before = (case.setup)(&runner.context(&runner.other_endpoint.endpoint()));
        merge(&mut runner.spec, &before);
        if phase.downloads() {
            let late = delay(DOWNLOAD_DELAY_MS, &[RequestKind::Download]);
            runner.simulator.add_fault(late);
        }
        if phase == LifecyclePhase::Deleting {
            let kept = refuse(500, "not now", &[RequestKind::Delete]);
            runner.simulator.add_fault(kept);
        }
        if matches!(
            case.change,
            ResourceChange::ChangeAndRevert | ResourceChange::SuspendAndResume | ResourceChange::ForceReplace
        ) {
            let slow = delay(DELETE_DELAY_MS, &[RequestKind::Delete]);
            runner.simulator.add_fault(slow);
        }
        if phase != LifecyclePhase::Failed {
            runner.own_secret().await?;
        }
        fixture.create(&runner.name, &runner.spec).await?;
        Ok(runner)
    }

    fn context<'b>(&self, other_endpoint: &'b str) -> CaseContext<'b>
    where
        'a: 'b,
    {
        CaseContext {
            days: self.fixture.days,
            phase: self.phase,
            namespace: self.fixture.namespace(),
            other_endpoint,
        }
    }

    fn secret_name(&self) -> String {
        format!("own-{}", self.name)
    }

    async fn own_secret(&self) -> Result<()> {
        let key = json!({ "apiKey": DEFAULT_API_KEY });
        self.fixture.secret(&self.secret_name(), &key).await
    }

    /// Makes the change if it comes before the first operator.
    pub(super) async fn run_before_operator(&self) -> Result<()> {
        if self.phase == LifecyclePhase::Pending {
            self.apply_change().await?;
        }
        Ok(())
    }

    /// Runs the case from the phase to the end; returns the outcome for the table.
    pub(super) async fn run(&self) -> Result<String> {
        let mut refused = None;
        if self.phase == LifecyclePhase::Pending {
            refused = self.rejected_field();
        } else {
            self.reach_phase().await?;
            self.apply_change().await?;
            refused = refused.or(self.rejected_field());
        }
        let removed = matches!(self.case.change, ResourceChange::Delete)
            || self.phase == LifecyclePhase::Deleting
                && !matches!(
                    self.case.change,
                    ResourceChange::Recreate | ResourceChange::ForceReplace
                );
        if !removed {
            self.wait_observed().await?;
        }
        self.wait_active_windows().await?;
        self.leave_phase(removed).await?;
        let outcome = if removed {
            self.fixture
                .history
                .wait_until(&self.name, "it is removed", |live| live.is_none())
                .await?;
            match (refused, self.case.change) {
                (Some(_), _) => "refused",
                (None, ResourceChange::RemoveFinalizer) => "removed at once",
                (None, _) => "removed",
            }
            .to_owned()
        } else {
            let blocked = self.unblock().await?;
            let last = self.wait_done().await?;
            invariants::check_archive(self.fixture, self, &last).await?;
            self.check_effect(&last).await?;
            match (refused, blocked, self.case.expected) {
                (Some(_), ..) => "refused".to_owned(),
                (_, Some(reason), _) => format!("`{reason}` until fixed"),
                (_, _, Expectation::Applied) if !matches!(self.case.change, ResourceChange::Spec(_)) => {
                    "unaffected".to_owned()
                }
                _ => "in effect".to_owned(),
            }
        };
        // A manually removed finalizer does not wait for a service that refuses to delete a session.
        let cut_off = removed && matches!(self.case.change, ResourceChange::RemoveFinalizer);
        if !cut_off {
            no_session_left(&self.simulator)?;
        }
        let tampers = matches!(
            self.case.change,
            ResourceChange::ClearStatus
                | ResourceChange::ClearConditions
                | ResourceChange::InvalidStatus
                | ResourceChange::HugeStatus
        );
        invariants::check_history(&self.fixture.history.versions(&self.name), tampers)?;
        Ok(outcome)
    }

    fn rejected_field(&self) -> Option<&'static str> {
        match self.case.expected {
            Expectation::Rejected(field) => Some(field),
            _ => None,
        }
    }

    /// Waits until it reaches its phase.
    async fn reach_phase(&self) -> Result<()> {
        let history = &self.fixture.history;
        if self.phase == LifecyclePhase::Deleting {
            let in_phase =
                |live: Option<&Value>| live.is_some_and(|live| LifecyclePhase::Transferring.is(live));
            history
                .wait_until(&self.name, "a session is open", in_phase)
                .await?;
            self.fixture.delete(&self.name, &DeleteParams::default()).await?;
        }
        let in_phase = |live: Option<&Value>| live.is_some_and(|live| self.phase.is(live));
        history
            .wait_until(&self.name, self.phase.title(), in_phase)
            .await?;
        Ok(())
    }

    async fn patch(&self, patch: &Value) -> Result<()> {
        let patched = self.fixture.patch(&self.name, patch).await?;
        patched.map(drop).map_err(anyhow::Error::msg)
    }

    #[allow(clippy::too_many_lines)] // one arm per change
    async fn apply_change(&self) -> Result<()> {
        let (fixture, name) = (self.fixture, &self.name);
        match self.case.change {
            ResourceChange::Spec(after) => {
                let url = self.other_endpoint.endpoint();
                let patch = json!({ "spec": after(&self.context(&url)) });
                match (fixture.patch(name, &patch).await?, self.case.expected) {
                    (Err(words), Expectation::Rejected(field)) => {
                        let named = format!("{field}: ");
                        let class = "cannot be changed";
                        ensure!(
                            words.contains(&named)
                                && words.contains(class)
                                && words.contains("create another EventExport"),
                            "{words}"
                        );
                    }
                    (Ok(_), Expectation::Rejected(_)) => bail!("{patch} was not refused"),
                    (Err(words), _) => bail!("{patch}: {words}"),
                    (Ok(_), _) => {}
                }
            }
            ResourceChange::Delete => fixture.delete(name, &DeleteParams::default()).await?,
            ResourceChange::ForceReplace => {
                let uid = self.uid();
                fixture.delete(name, &DeleteParams::orphan()).await?;
                // The garbage collector briefly adds its own finalizer.
                while let Some(live) = fixture.exports.get_opt(name).await? {
                    ensure!(live.metadata.uid == uid || uid.is_none(), "another one already");
                    let patch = json!({ "metadata": { "finalizers": null } });
                    let _ = fixture.patch(name, &patch).await;
                }
                fixture.create(name, &self.spec).await?;
            }
            ResourceChange::Recreate => {
                self.clear_faults();
                fixture.delete(name, &DeleteParams::default()).await?;
                if self.phase != LifecyclePhase::Pending {
                    fixture
                        .history
                        .wait_until(name, "it is removed", |live| live.is_none())
                        .await?;
                }
                let mut spec = self.spec.clone();
                merge(
                    &mut spec,
                    &json!({ "destination": { "s3": { "prefix": format!("{name}/again") } } }),
                );
                fixture.create(name, &spec).await?;
            }
            ResourceChange::RemoveFinalizer => {
                self.patch(&json!({ "metadata": { "finalizers": null } })).await?;
            }
            ResourceChange::ClearStatus => fixture.patch_status(name, &json!({ "status": null })).await?,
            ResourceChange::ClearConditions => {
                let part = json!({ "status": { "conditions": null, "covered": null, "windows": null } });
                fixture.patch_status(name, &part).await?;
            }
            ResourceChange::InvalidStatus => fixture.patch_status(name, &invalid_status()).await?,
            ResourceChange::HugeStatus => {
                let huge = 1_u64 << 40;
                let windows = json!({ "wanted": huge, "stored": huge, "active": huge, "waiting": huge, "failed": huge });
                fixture
                    .patch_status(name, &json!({ "status": { "windows": windows } }))
                    .await?;
            }
            ResourceChange::SuspendAndResume => {
                self.patch(&json!({ "spec": { "suspend": true } })).await?;
                if self.phase != LifecyclePhase::Pending && self.phase != LifecyclePhase::Deleting {
                    let seen = |live: Option<&Value>| {
                        live.is_some_and(|live| condition(live, "Ready") == "False/Suspended")
                    };
                    fixture.history.wait_until(name, "it is suspended", seen).await?;
                }
                self.patch(&json!({ "spec": { "suspend": self.phase == LifecyclePhase::Suspended } }))
                    .await?;
            }
            ResourceChange::ChangeAndRevert => {
                self.patch(&json!({ "spec": { "parallelism": 3 } })).await?;
                if self.phase != LifecyclePhase::Pending && self.phase != LifecyclePhase::Deleting {
                    fixture
                        .history
                        .wait_until(name, "it is seen", generation_observed)
                        .await?;
                }
                self.patch(&json!({ "spec": { "parallelism": 1 } })).await?;
            }
            ResourceChange::LabelChurn => {
                for round in 0..LABEL_CHANGES {
                    let text = round.to_string();
                    let metadata = json!({ "labels": { "round": text }, "annotations": { "round": text } });
                    self.patch(&json!({ "metadata": metadata })).await?;
                }
            }
            ResourceChange::ReplaceSecret => {
                fixture.secret(&self.secret_name(), &other_credentials()).await?;
            }
            ResourceChange::RecreateSecret => {
                if self.phase == LifecyclePhase::Failed {
                    return Ok(());
                }
                fixture
                    .secrets
                    .delete(&self.secret_name(), &DeleteParams::default())
                    .await?;
                if matches!(
                    self.phase,
                    LifecyclePhase::Transferring | LifecyclePhase::Complete
                ) {
                    let missing = |live: Option<&Value>| {
                        live.is_some_and(|live| condition(live, "Ready") == "False/CredentialsMissing")
                    };
                    fixture
                        .history
                        .wait_until(name, "its Secret is missed", missing)
                        .await?;
                }
                self.own_secret().await?;
            }
        }
        Ok(())
    }

    fn uid(&self) -> Option<String> {
        let live = self.fixture.history.live(&self.name)?;
        live["metadata"]["uid"].as_str().map(str::to_owned)
    }

    /// Waits until the latest generation is observed.
    async fn wait_observed(&self) -> Result<()> {
        let name = &self.name;
        let now = self.fixture.exports.get(name).await?;
        let (uid, generation) = (now.metadata.uid, now.metadata.generation);
        let followed = |live: Option<&Value>| {
            live.is_some_and(|live| {
                live["metadata"]["uid"].as_str() == uid.as_deref()
                    && live["status"]["observedGeneration"].as_i64() >= generation
                    && !condition(live, "Ready").ends_with('-')
            })
        };
        self.fixture
            .history
            .wait_until(name, "its generation is acted upon", followed)
            .await?;
        Ok(())
    }

    /// Waits until the expected number of windows is transferred, while downloads are slow.
    async fn wait_active_windows(&self) -> Result<()> {
        let (Expectation::AtOnce(windows), LifecyclePhase::Transferring) = (self.case.expected, self.phase)
        else {
            return Ok(());
        };
        let so =
            |live: Option<&Value>| live.is_some_and(|live| live["status"]["windows"]["active"] == windows);
        self.fixture
            .history
            .wait_until(&self.name, "as many at once as asked", so)
            .await?;
        Ok(())
    }

    fn clear_faults(&self) {
        self.simulator.set_faults(Vec::new());
    }

    /// Lets it leave its phase.
    async fn leave_phase(&self, removed: bool) -> Result<()> {
        self.clear_faults();
        if removed {
            return Ok(());
        }
        if self.phase == LifecyclePhase::Failed
            && self.fixture.secrets.get_opt(&self.secret_name()).await?.is_none()
        {
            self.own_secret().await?;
        }
        if matches!(self.phase, LifecyclePhase::Complete | LifecyclePhase::CaughtUp)
            && self.resume_patch().is_none()
        {
            // First the requested data exist, and nothing was downloaded twice for them.
            if !matches!(self.case.expected, Expectation::Blocks(..)) {
                self.wait_done().await?;
            }
        }
        let spec = self.current_spec().await?;
        if let Some(patch) = self.phase.release_patch(self.fixture.days, &spec)
            && !(self.case.subject == "spec.settleAfter" && self.phase == LifecyclePhase::Settling)
        {
            self.patch(&json!({ "spec": patch })).await?;
        }
        Ok(())
    }

    async fn current_spec(&self) -> Result<Value> {
        let now = self.fixture.exports.get(&self.name).await?;
        Ok(now.data["spec"].clone())
    }

    /// Returns the patch that undoes a change which suspends it.
    fn resume_patch(&self) -> Option<Value> {
        (self.case.subject == "spec.suspend" && self.phase != LifecyclePhase::Suspended)
            .then(|| json!({ "suspend": false }))
    }

    /// If the change stalls it, checks the message and the recovery after the fix.
    async fn unblock(&self) -> Result<Option<&'static str>> {
        let url = self.other_endpoint.endpoint();
        let (reason, words, patch) = match (self.resume_patch(), self.case.expected) {
            (Some(patch), _) => ("Suspended", "spec.suspend", patch),
            (None, Expectation::Blocks(reason, words, fix)) => (reason, words, fix(&self.context(&url))),
            _ => return Ok(None),
        };
        let ready = format!("False/{reason}");
        // The reason may be the same as before for another cause.
        let blocked = |live: Option<&Value>| {
            live.is_some_and(|live| {
                condition(live, "Ready") == ready && live["status"]["conditions"].to_string().contains(words)
            })
        };
        let what = format!("Ready is {ready}, saying {words}");
        self.fixture
            .history
            .wait_until(&self.name, &what, blocked)
            .await?;
        self.patch(&json!({ "spec": patch })).await?;
        Ok(Some(reason))
    }

    /// Waits until the spec is fulfilled.
    async fn wait_done(&self) -> Result<Value> {
        let spec = self.current_spec().await?;
        let finite = spec["dateRange"]["end"].is_string();
        let ready = if finite { "True/Complete" } else { "True/CaughtUp" };
        let covered = invariants::ranges(&self.fixture.days.exported_in(&spec));
        let done = |live: Option<&Value>| {
            live.is_some_and(|live| {
                generation_observed(Some(live))
                    && condition(live, "Ready") == ready
                    && condition(live, "Complete").starts_with("True") == finite
                    && condition(live, "Reconciling").starts_with("False")
                    && condition(live, "Stalled").starts_with("False")
                    && is_at_rest(live)
                    && live["status"]["sessions"].is_null()
                    && live["status"]["lastError"].is_null()
                    && (spec["dateRange"]["hour"].is_number()
                        || invariants::covers(&live["status"]["covered"], &covered))
            })
        };
        let what = format!("Ready is {ready}, and {covered:?} is covered");
        let live = self.fixture.history.wait_until(&self.name, &what, done).await?;
        live.context("it is gone")
    }

    async fn check_effect(&self, last: &Value) -> Result<()> {
        ensure!(!has_finalizer(last));
        let (bucket, prefix) = invariants::destination(last)?;
        let keys = self.fixture.keys(&bucket, &format!("{prefix}/")).await?;
        let proved = match self.case.expected {
            Expectation::Applied
            | Expectation::Rejected(_)
            | Expectation::Blocks(..)
            | Expectation::AtOnce(_) => true,
            Expectation::Store(text) => {
                let text = text.to_ascii_lowercase();
                let own = format!("/{prefix}/");
                let requests = self.fixture.env.store.requests();
                requests.iter().any(|request| {
                    (request.line.contains(&own) || request.line.contains(&own.replace('/', "%2F")))
                        && request.headers.to_ascii_lowercase().contains(&text)
                })
            }
            Expectation::Receipt(pointer, value) => {
                let mut found = false;
                for key in keys.keys().filter(|key| key.ends_with(".receipt.json")) {
                    let receipt: Value =
                        serde_json::from_slice(&self.fixture.bucket(&bucket).get(key).await?)?;
                    found |= receipt.pointer(pointer).is_some_and(|there| there == value);
                }
                found
            }
            Expectation::LoginAtOtherEndpoint => self
                .other_endpoint
                .requests()
                .iter()
                .any(|request| request.line.contains("/oauth/token")),
            // Manifests of a continuous export are written at the end of a month.
            Expectation::Signed => keys.keys().any(|key| key.ends_with(".json.sig")) || is_continuous(last),
            Expectation::Manifest(text) => {
                let mut found = false;
                for key in keys.keys().filter(|key| key.contains("/_manifests/")) {
                    found |= String::from_utf8(self.fixture.bucket(&bucket).get(key).await?)?.contains(text);
                }
                found || is_continuous(last)
            }
        };
        ensure!(
            proved,
            "{}: nothing shows that it took effect; there are {keys:?}",
            self.case.title()
        );
        Ok(())
    }
}

fn is_continuous(object: &Value) -> bool {
    object["spec"]["dateRange"]["end"].is_null()
}

/// True if its generation is observed.
fn generation_observed(live: Option<&Value>) -> bool {
    live.is_some_and(|live| live["status"]["observedGeneration"] == live["metadata"]["generation"])
}

/// Returns a status that no operator writes.
fn invalid_status() -> Value {
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": "Nonsense", "message": "", "observedGeneration": 77,
            "lastTransitionTime": "2024-02-03T04:05:06Z",
        })
    };
    let conditions = ["Ready", "Complete", "Reconciling", "Stalled"].map(condition);
    json!({ "status": {
        "observedGeneration": 77,
        "conditions": conditions,
        "windows": { "wanted": 1, "stored": 2, "active": 3, "waiting": 4, "failed": 5 },
        "events": -1,
        "covered": [{ "start": "2001-01-01", "end": "2001-01-02" }],
        "missing": [{ "start": "forever", "end": "never" }],
        "sessions": [{ "id": "not-ours", "window": "2018-06-28" }],
        "completionTime": "2024-02-03T04:05:06Z",
        "nextRunTime": "2097-02-03T04:05:06Z",
        "lastError": { "reason": "Nonsense", "message": "nonsense" },
    }})
}

/// Waits briefly for effects that no event announces.
pub(super) async fn settle_delay() {
    tokio::time::sleep(Duration::from_secs(6)).await;
}
