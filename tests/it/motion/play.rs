//! One resource to which one thing happens at one phase, from its beginning to its end.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use eventexport::simulator::{DEFAULT_API_KEY, Effect, Fault, Kind, Simulator};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::phases::{Phase, at_rest};
use super::rows::{Deed, Place, Proof, Row, base};
use super::stage::{Stage, person, service};
use super::{merge, oracle};
use crate::bed::Wiretap;
use crate::operator::{condition, has_finalizer};

/// How late a download's answer is that is to be under way for a while: shorter than the client's patience.
const LATE: u64 = 25_000;

/// How late the service is in deleting a session, so that the end of a run takes a while.
const SLOW_END: u64 = 2_000;

/// Changes of labels in a row.
const CHURN: usize = 40;

pub(super) struct Play<'a> {
    stage: &'a Stage,
    row: &'a Row,
    phase: Phase,
    pub(super) name: String,
    pub(super) simulator: Simulator,
    elsewhere: Wiretap,
    /// What it was made with.
    spec: Value,
}

impl<'a> Play<'a> {
    /// Makes the resource, which is looked at as soon as there is an operator.
    pub(super) async fn begin(stage: &'a Stage, row: &'a Row, phase: Phase, index: usize) -> Result<Self> {
        let name = format!("{}-{index}", phase.word());
        let simulator = Simulator::start(service()).await?;
        let port = simulator.url().port().context("no port")?;
        let elsewhere = Wiretap::before(port).await?;
        let url = simulator.url().as_str().trim_end_matches('/').to_owned();
        let mut spec = base(stage.days);
        let own = json!({
            "space": name,
            "source": { "endpoint": url, "uaaEndpoint": url, "credentialsSecretRef": { "name": format!("own-{name}") } },
            "destination": { "s3": {
                "bucket": stage.namespace(), "prefix": name, "endpoint": stage.scene.store.url(),
                "credentialsSecretRef": { "name": "bucket" },
            }},
        });
        merge(&mut spec, &own);
        merge(&mut spec, &phase.spec(stage.days));
        let mut play = Self {
            stage,
            row,
            phase,
            name,
            simulator,
            elsewhere,
            spec,
        };
        let before = (row.before)(&play.place(&play.elsewhere.url()));
        merge(&mut play.spec, &before);
        if phase.downloads() {
            let late = Effect::Delay { millis: LATE };
            play.simulator
                .add_fault(Fault::new("late", late, &[Kind::Download]));
        }
        if phase == Phase::Deleting {
            let (message, status) = ("not now".to_owned(), 500);
            let refuses = Effect::Status {
                status,
                retry_after: None,
                message,
            };
            play.simulator
                .add_fault(Fault::new("kept", refuses, &[Kind::Delete]));
        }
        if matches!(row.deed, Deed::BackAndForth | Deed::Blink | Deed::ReplaceByForce) {
            let slow = Effect::Delay { millis: SLOW_END };
            play.simulator
                .add_fault(Fault::new("slow", slow, &[Kind::Delete]));
        }
        if phase != Phase::Failed {
            play.own_secret().await?;
        }
        stage.create(&play.name, &play.spec).await?;
        Ok(play)
    }

    fn place<'b>(&self, elsewhere: &'b str) -> Place<'b>
    where
        'a: 'b,
    {
        Place {
            days: self.stage.days,
            phase: self.phase,
            namespace: self.stage.namespace(),
            elsewhere,
        }
    }

    fn secret_name(&self) -> String {
        format!("own-{}", self.name)
    }

    async fn own_secret(&self) -> Result<()> {
        let key = json!({ "apiKey": DEFAULT_API_KEY });
        self.stage.secret(&self.secret_name(), &key).await
    }

    /// What happens before there is an operator.
    pub(super) async fn before_the_operator(&self) -> Result<()> {
        if self.phase == Phase::Pending {
            self.happen().await?;
        }
        Ok(())
    }

    /// From the phase to the end; what came of it, for the table.
    pub(super) async fn go_on(&self) -> Result<String> {
        let mut refused = None;
        if self.phase == Phase::Pending {
            refused = self.refusal();
        } else {
            self.enter().await?;
            self.happen().await?;
            refused = refused.or(self.refusal());
        }
        let goes = matches!(self.row.deed, Deed::Delete)
            || self.phase == Phase::Deleting
                && !matches!(self.row.deed, Deed::Another | Deed::ReplaceByForce);
        if !goes {
            self.follow().await?;
        }
        self.at_once().await?;
        self.release(goes).await?;
        let said = if goes {
            self.stage
                .history
                .until(&self.name, "it goes", |live| live.is_none())
                .await?;
            match (refused, self.row.deed) {
                (Some(_), _) => "refused",
                (None, Deed::Unfinalize) => "goes at once",
                (None, _) => "goes",
            }
            .to_owned()
        } else {
            let blocked = self.mend().await?;
            let last = self.end().await?;
            oracle::is_whole(self.stage, self, &last).await?;
            self.prove(&last).await?;
            match (refused, blocked, self.row.proof) {
                (Some(_), ..) => "refused".to_owned(),
                (_, Some(reason), _) => format!("`{reason}` until mended"),
                (_, _, Proof::Acted) if !matches!(self.row.deed, Deed::Spec(_)) => "goes on".to_owned(),
                _ => "in effect".to_owned(),
            }
        };
        // Who takes the finalizer away does not wait for a service that refuses to delete a session.
        let cut_off = goes && matches!(self.row.deed, Deed::Unfinalize);
        if !cut_off {
            oracle::no_session_is_left(&self.simulator)?;
        }
        let tampers = matches!(
            self.row.deed,
            Deed::Wipe | Deed::WipePart | Deed::Nonsense | Deed::Huge
        );
        oracle::history_is_sane(&self.stage.history.versions(&self.name), tampers)?;
        Ok(said)
    }

    fn refusal(&self) -> Option<&'static str> {
        match self.row.proof {
            Proof::Refused(field) => Some(field),
            _ => None,
        }
    }

    /// Waits until it is at its phase.
    async fn enter(&self) -> Result<()> {
        let history = &self.stage.history;
        if self.phase == Phase::Deleting {
            let there = |live: Option<&Value>| live.is_some_and(|live| Phase::Transferring.is(live));
            history.until(&self.name, "a session is open", there).await?;
            self.stage.delete(&self.name, &DeleteParams::default()).await?;
        }
        let there = |live: Option<&Value>| live.is_some_and(|live| self.phase.is(live));
        history.until(&self.name, self.phase.title(), there).await?;
        Ok(())
    }

    async fn change(&self, patch: &Value) -> Result<()> {
        let patched = self.stage.patch(&self.name, patch).await?;
        patched.map(drop).map_err(anyhow::Error::msg)
    }

    #[allow(clippy::too_many_lines)] // one arm for each deed
    async fn happen(&self) -> Result<()> {
        let (stage, name) = (self.stage, &self.name);
        match self.row.deed {
            Deed::Spec(after) => {
                let url = self.elsewhere.url();
                let patch = json!({ "spec": after(&self.place(&url)) });
                match (stage.patch(name, &patch).await?, self.row.proof) {
                    (Err(words), Proof::Refused(field)) => {
                        let named = format!("{field}: ");
                        let remedy = "cannot be changed";
                        ensure!(
                            words.contains(&named)
                                && words.contains(remedy)
                                && words.contains("make another EventExport"),
                            "{words}"
                        );
                    }
                    (Ok(_), Proof::Refused(_)) => bail!("{patch} was not refused"),
                    (Err(words), _) => bail!("{patch}: {words}"),
                    (Ok(_), _) => {}
                }
            }
            Deed::Delete => stage.delete(name, &DeleteParams::default()).await?,
            Deed::ReplaceByForce => {
                let uid = self.uid();
                stage.delete(name, &DeleteParams::orphan()).await?;
                // The garbage collector has a finalizer of its own on it for a moment.
                while let Some(live) = stage.exports.get_opt(name).await? {
                    ensure!(live.metadata.uid == uid || uid.is_none(), "another one already");
                    let patch = json!({ "metadata": { "finalizers": null } });
                    let _ = stage.patch(name, &patch).await;
                }
                stage.create(name, &self.spec).await?;
            }
            Deed::Another => {
                self.let_sessions_go();
                stage.delete(name, &DeleteParams::default()).await?;
                if self.phase != Phase::Pending {
                    stage
                        .history
                        .until(name, "it goes", |live| live.is_none())
                        .await?;
                }
                let mut spec = self.spec.clone();
                merge(
                    &mut spec,
                    &json!({ "destination": { "s3": { "prefix": format!("{name}/again") } } }),
                );
                stage.create(name, &spec).await?;
            }
            Deed::Unfinalize => {
                self.change(&json!({ "metadata": { "finalizers": null } }))
                    .await?;
            }
            Deed::Wipe => stage.patch_status(name, &json!({ "status": null })).await?,
            Deed::WipePart => {
                let part = json!({ "status": { "conditions": null, "covered": null, "windows": null } });
                stage.patch_status(name, &part).await?;
            }
            Deed::Nonsense => stage.patch_status(name, &nonsense()).await?,
            Deed::Huge => {
                let huge = 1_u64 << 40;
                let windows = json!({ "wanted": huge, "stored": huge, "active": huge, "waiting": huge, "failed": huge });
                stage
                    .patch_status(name, &json!({ "status": { "windows": windows } }))
                    .await?;
            }
            Deed::Blink => {
                self.change(&json!({ "spec": { "suspend": true } })).await?;
                if self.phase != Phase::Pending && self.phase != Phase::Deleting {
                    let seen = |live: Option<&Value>| {
                        live.is_some_and(|live| condition(live, "Ready") == "False/Suspended")
                    };
                    stage.history.until(name, "it is suspended", seen).await?;
                }
                self.change(&json!({ "spec": { "suspend": self.phase == Phase::Suspended } }))
                    .await?;
            }
            Deed::BackAndForth => {
                self.change(&json!({ "spec": { "parallelism": 3 } })).await?;
                if self.phase != Phase::Pending && self.phase != Phase::Deleting {
                    stage.history.until(name, "it is seen", acted).await?;
                }
                self.change(&json!({ "spec": { "parallelism": 1 } })).await?;
            }
            Deed::Churn => {
                for round in 0..CHURN {
                    let text = round.to_string();
                    let metadata = json!({ "labels": { "round": text }, "annotations": { "round": text } });
                    self.change(&json!({ "metadata": metadata })).await?;
                }
            }
            Deed::SecretReplaced => stage.secret(&self.secret_name(), &person()).await?,
            Deed::SecretAgain => {
                if self.phase == Phase::Failed {
                    return Ok(());
                }
                stage
                    .secrets
                    .delete(&self.secret_name(), &DeleteParams::default())
                    .await?;
                if matches!(self.phase, Phase::Transferring | Phase::Complete) {
                    let missing = |live: Option<&Value>| {
                        live.is_some_and(|live| condition(live, "Ready") == "False/CredentialsMissing")
                    };
                    stage.history.until(name, "its Secret is missed", missing).await?;
                }
                self.own_secret().await?;
            }
        }
        Ok(())
    }

    fn uid(&self) -> Option<String> {
        let live = self.stage.history.live(&self.name)?;
        live["metadata"]["uid"].as_str().map(str::to_owned)
    }

    /// The newest generation is acted upon.
    async fn follow(&self) -> Result<()> {
        let name = &self.name;
        let now = self.stage.exports.get(name).await?;
        let (uid, generation) = (now.metadata.uid, now.metadata.generation);
        let followed = |live: Option<&Value>| {
            live.is_some_and(|live| {
                live["metadata"]["uid"].as_str() == uid.as_deref()
                    && live["status"]["observedGeneration"].as_i64() >= generation
                    && !condition(live, "Ready").ends_with('-')
            })
        };
        self.stage
            .history
            .until(name, "its generation is acted upon", followed)
            .await?;
        Ok(())
    }

    /// Where so many windows are to be transferred at once, they are, while downloads take long.
    async fn at_once(&self) -> Result<()> {
        let (Proof::AtOnce(windows), Phase::Transferring) = (self.row.proof, self.phase) else {
            return Ok(());
        };
        let so =
            |live: Option<&Value>| live.is_some_and(|live| live["status"]["windows"]["active"] == windows);
        self.stage
            .history
            .until(&self.name, "as many at once as asked", so)
            .await?;
        Ok(())
    }

    fn let_sessions_go(&self) {
        self.simulator.set_faults(Vec::new());
    }

    /// Lets it go on from its phase.
    async fn release(&self, goes: bool) -> Result<()> {
        self.let_sessions_go();
        if goes {
            return Ok(());
        }
        if self.phase == Phase::Failed && self.stage.secrets.get_opt(&self.secret_name()).await?.is_none() {
            self.own_secret().await?;
        }
        if matches!(self.phase, Phase::Complete | Phase::CaughtUp) && self.suspends().is_none() {
            // First what was asked is there, and nothing was downloaded for it twice.
            if !matches!(self.row.proof, Proof::Blocks(..)) {
                self.end().await?;
            }
        }
        let spec = self.spec_now().await?;
        if let Some(patch) = self.phase.release(self.stage.days, &spec)
            && !(self.row.what == "spec.settleAfter" && self.phase == Phase::Settling)
        {
            self.change(&json!({ "spec": patch })).await?;
        }
        Ok(())
    }

    async fn spec_now(&self) -> Result<Value> {
        let now = self.stage.exports.get(&self.name).await?;
        Ok(now.data["spec"].clone())
    }

    /// A change that suspends it, and what undoes that.
    fn suspends(&self) -> Option<Value> {
        (self.row.what == "spec.suspend" && self.phase != Phase::Suspended)
            .then(|| json!({ "suspend": false }))
    }

    /// Where the change keeps it from going on, it says why, and goes on when that is mended.
    async fn mend(&self) -> Result<Option<&'static str>> {
        let url = self.elsewhere.url();
        let (reason, words, patch) = match (self.suspends(), self.row.proof) {
            (Some(patch), _) => ("Suspended", "spec.suspend", patch),
            (None, Proof::Blocks(reason, words, mend)) => (reason, words, mend(&self.place(&url))),
            _ => return Ok(None),
        };
        let ready = format!("False/{reason}");
        // The reason may be the same as before, for another thing.
        let blocked = |live: Option<&Value>| {
            live.is_some_and(|live| {
                condition(live, "Ready") == ready && live["status"]["conditions"].to_string().contains(words)
            })
        };
        let what = format!("Ready is {ready}, saying {words}");
        self.stage.history.until(&self.name, &what, blocked).await?;
        self.change(&json!({ "spec": patch })).await?;
        Ok(Some(reason))
    }

    /// Waits until it has done what its spec asks for.
    async fn end(&self) -> Result<Value> {
        let spec = self.spec_now().await?;
        let finite = spec["dateRange"]["end"].is_string();
        let ready = if finite { "True/Complete" } else { "True/CaughtUp" };
        let covered = oracle::ranges(&self.stage.days.of(&spec));
        let done = |live: Option<&Value>| {
            live.is_some_and(|live| {
                acted(Some(live))
                    && condition(live, "Ready") == ready
                    && condition(live, "Complete").starts_with("True") == finite
                    && condition(live, "Reconciling").starts_with("False")
                    && condition(live, "Stalled").starts_with("False")
                    && at_rest(live)
                    && live["status"]["sessions"].is_null()
                    && live["status"]["lastError"].is_null()
                    && (spec["dateRange"]["hour"].is_number()
                        || oracle::holds(&live["status"]["covered"], &covered))
            })
        };
        let what = format!("Ready is {ready}, and {covered:?} is covered");
        let live = self.stage.history.until(&self.name, &what, done).await?;
        live.context("it is gone")
    }

    async fn prove(&self, last: &Value) -> Result<()> {
        ensure!(!has_finalizer(last));
        let (bucket, prefix) = oracle::place(last)?;
        let keys = self.stage.keys(&bucket, &format!("{prefix}/")).await?;
        let proved = match self.row.proof {
            Proof::Acted | Proof::Refused(_) | Proof::Blocks(..) | Proof::AtOnce(_) => true,
            Proof::Store(text) => {
                let text = text.to_ascii_lowercase();
                let own = format!("/{prefix}/");
                let said = self.stage.scene.store.said();
                said.iter().any(|said| {
                    (said.line.contains(&own) || said.line.contains(&own.replace('/', "%2F")))
                        && said.head.to_ascii_lowercase().contains(&text)
                })
            }
            Proof::Receipt(pointer, value) => {
                let mut found = false;
                for key in keys.keys().filter(|key| key.ends_with(".receipt.json")) {
                    let receipt: Value = serde_json::from_slice(&self.stage.object(&bucket, key).await?)?;
                    found |= receipt.pointer(pointer).is_some_and(|there| there == value);
                }
                found
            }
            Proof::LogsInElsewhere => self
                .elsewhere
                .said()
                .iter()
                .any(|said| said.line.contains("/oauth/token")),
            // Manifests of a continuous export are written when a month is over.
            Proof::Signed => keys.keys().any(|key| key.ends_with(".json.sig")) || is_continuous(last),
            Proof::Manifest(text) => {
                let mut found = false;
                for key in keys.keys().filter(|key| key.contains("/_manifests/")) {
                    found |= String::from_utf8(self.stage.object(&bucket, key).await?)?.contains(text);
                }
                found || is_continuous(last)
            }
        };
        ensure!(
            proved,
            "{}: nothing shows that it took effect; there are {keys:?}",
            self.row.title()
        );
        Ok(())
    }
}

fn is_continuous(object: &Value) -> bool {
    object["spec"]["dateRange"]["end"].is_null()
}

/// Its generation is acted upon.
fn acted(live: Option<&Value>) -> bool {
    live.is_some_and(|live| live["status"]["observedGeneration"] == live["metadata"]["generation"])
}

/// What no operator would write.
fn nonsense() -> Value {
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
        "covered": ["for ever"],
        "missing": ["never"],
        "sessions": [{ "id": "not-ours", "window": "2018-06-28" }],
        "completionTime": "2024-02-03T04:05:06Z",
        "nextRunTime": "2097-02-03T04:05:06Z",
        "lastError": { "reason": "Nonsense", "message": "nonsense" },
    }})
}

/// A short wait, where nothing says that something was not done.
pub(super) async fn a_moment() {
    tokio::time::sleep(Duration::from_secs(6)).await;
}
