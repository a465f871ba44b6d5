//! Several writers of one resource, such as GitOps tools and users: they cause no work that the spec does not ask
//! for.

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::Simulator;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::fixture::{ChangeFixture, service_settings};
use super::invariants;
use super::phases::LifecyclePhase;
use crate::operator::apply;
use crate::testkit::environment::no_session_left;

const NAME: &str = "june";

struct WriterFixture {
    fixture: ChangeFixture,
    simulator: Simulator,
}

impl WriterFixture {
    /// Returns the manifest; `change` is merged into its spec.
    fn manifest(&self, change: &Value) -> Value {
        let mut spec = self
            .fixture
            .spec(NAME, &self.simulator, &json!({ "parallelism": null }));
        super::merge(&mut spec, change);
        json!({
            "apiVersion": "eventexport.io/v1alpha1", "kind": "EventExport",
            "metadata": { "name": NAME, "namespace": self.fixture.namespace() }, "spec": spec,
        })
    }

    /// Applies server-side; returns the API server's message if it is refused.
    async fn apply(&self, manager: &str, change: &Value, force: bool) -> Result<Result<i64, String>> {
        let mut params = PatchParams::apply(manager);
        params.force = force;
        let manifest = self.manifest(change);
        match self
            .fixture
            .exports
            .patch(NAME, &params, &Patch::Apply(&manifest))
            .await
        {
            Ok(object) => Ok(Ok(object.metadata.generation.unwrap_or_default())),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err(status.message.clone())),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until this generation is complete, and checks the number of sessions opened so far.
    async fn complete(&self, generation: i64, sessions: u64) -> Result<Value> {
        let done = |live: Option<&Value>| {
            live.is_some_and(|live| {
                live["metadata"]["generation"] == generation && LifecyclePhase::Complete.is(live)
            })
        };
        let live = self
            .fixture
            .history
            .wait_until(NAME, "it is complete", done)
            .await?;
        let opened = self.simulator.ledger().opened;
        ensure!(opened == sessions, "{opened} sessions, and not {sessions}");
        live.context("it is gone")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_field_managers_cause_no_extra_work() -> Result<()> {
    let fixture = ChangeFixture::start("writers").await?;
    let writers = WriterFixture {
        simulator: Simulator::start(service_settings()).await?,
        fixture,
    };
    let operator = writers.fixture.operator().start().await?;
    let two = json!({ "parallelism": 2 });
    let applied = async |manager: &str, change: &Value, force: bool| {
        writers
            .apply(manager, change, force)
            .await?
            .map_err(anyhow::Error::msg)
    };
    ensure!(applied("flux", &two, false).await? == 1);
    writers.complete(1, 2).await?;

    // The same manifest by another manager, and by client-side apply: nothing changes.
    ensure!(applied("argo", &two, false).await? == 1);
    let by_client = writers.manifest(&two);
    apply(writers.fixture.env.cluster, &by_client).await?;
    let live = writers.complete(1, 2).await?;
    ensure!(live["metadata"]["generation"] == 1);

    // Conflicting values are refused unless forced.
    let three = json!({ "parallelism": 3 });
    let words = writers.apply("argo", &three, false).await?;
    let words = words.err().context("no conflict")?;
    ensure!(
        words.contains("\"flux\"") && words.contains("parallelism"),
        "{words}"
    );
    ensure!(applied("argo", &three, true).await? == 2);
    writers.complete(2, 2).await?;
    // Flux drops the field, then all do: it returns to its default.
    ensure!(applied("flux", &json!({}), true).await? == 2);
    let bare = writers.manifest(&json!({}));
    apply(writers.fixture.env.cluster, &bare).await?;
    let generation = applied("argo", &json!({}), false).await?;
    let live = writers.complete(generation, 2).await?;
    ensure!(live["spec"]["parallelism"] == 4, "{}", live["spec"]);

    // A condition of another controller stays as it is, whatever the operator writes beside it.
    let foreign_condition = json!({
        "type": "Audited", "status": "True", "reason": "Signed", "message": "by the auditor",
        "lastTransitionTime": "2024-02-03T04:05:06Z",
    });
    let status = json!({
        "apiVersion": "eventexport.io/v1alpha1", "kind": "EventExport", "status": { "conditions": [foreign_condition] },
    });
    let auditor = PatchParams::apply("auditor");
    writers
        .fixture
        .exports
        .patch_status(NAME, &auditor, &Patch::Apply(&status))
        .await?;
    let wider = json!({ "dateRange": { "start": writers.fixture.days.ago(7) } });
    let generation = applied("flux", &wider, true).await?;
    let live = writers.complete(generation, 3).await?;
    let mut conditions = live["status"]["conditions"].as_array().into_iter().flatten();
    ensure!(
        conditions.any(|condition| *condition == foreign_condition),
        "{}",
        live["status"]
    );
    invariants::ensure_quiet(&writers.fixture, &operator, &[&writers.simulator]).await?;

    // Pruned and restored from Git: nothing is downloaded again.
    writers.fixture.delete(NAME, &DeleteParams::default()).await?;
    writers
        .fixture
        .history
        .wait_until(NAME, "it goes", |live| live.is_none())
        .await?;
    ensure!(applied("flux", &wider, false).await? == 1);
    let live = writers.complete(1, 3).await?;
    let covered = invariants::ranges(&writers.fixture.days.exported_in(&live["spec"]));
    ensure!(
        invariants::covers(&live["status"]["covered"], &covered),
        "{}",
        live["status"]
    );
    no_session_left(&writers.simulator)?;
    invariants::check_history(&writers.fixture.history.versions(NAME), true)
}
