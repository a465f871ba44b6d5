//! Watch events may be late, stale, duplicated or lost. In all cases: no second run, no action on a resource from the
//! view of a deleted one, no status reverted, and in the end the right state without further writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::controller::WatchConfig;
use serde_json::{Value, json};

use super::watch_rules::{WatchProxy, WatchedKind, list_exports};
use crate::bed::Cluster;
use crate::operator::scripted_exporter::ScriptedExporter;
use crate::operator::{
    Operator, apply, event_reasons, eventually, existing, has_finalizer, manifest, patch, patch_status,
    secret, start_deletion, wait_conditions, wait_gone,
};
use crate::testkit::environment::COMPLETE;
use crate::testkit::proxy::{Action, Gate, ProxiedPeer, RecordedRequest, RequestMatcher, Rule};

/// Time without writes at the end.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// Operator defaults, except that a dead connection is detected within 8 s.
const SHORT_WATCH: WatchConfig = WatchConfig {
    timeout_seconds: 3,
    relist_interval: Duration::from_hours(12),
};

/// Conditions of an export that is running, and of a suspended one.
const BUSY: [&str; 4] = ["True/Exporting", "False", "False/Accepted", "False"];
const SUSPENDED: [&str; 4] = ["False/Suspended", "", "False/Suspended", "False"];

struct WatchFixture {
    cluster: &'static Cluster,
    namespace: String,
    proxy: WatchProxy,
    exporter: Arc<ScriptedExporter>,
}

impl WatchFixture {
    /// Starts with the Secret `tracker` and without an operator.
    async fn start(name: &str) -> Result<Self> {
        let cluster = Cluster::shared().await;
        let namespace = cluster.namespace(name).await;
        apply(cluster, &secret(&namespace, "one")).await?;
        Ok(Self {
            proxy: WatchProxy::start(cluster).await?,
            cluster,
            namespace,
            exporter: Arc::default(),
        })
    }

    fn operator(&self, watch: WatchConfig) -> Result<Operator> {
        Operator::start_watching(
            self.proxy.config()?,
            &self.namespace,
            Arc::clone(&self.exporter),
            watch,
        )
    }

    /// Applies an export; the script of its space decides its behavior.
    async fn export(&self, name: &str, space: &str) -> Result<()> {
        apply(self.cluster, &manifest(&self.namespace, name, space)).await
    }

    async fn wait_conditions(&self, name: &str, states: [&str; 4]) -> Result<Value> {
        wait_conditions(self.cluster, &self.namespace, name, states).await
    }

    async fn suspend(&self, name: &str, suspend: bool) -> Result<()> {
        let change = json!({ "spec": { "suspend": suspend } });
        patch(self.cluster, &self.namespace, name, &change).await
    }

    /// Removes the finalizer manually; returns when the export is gone.
    async fn force_delete(&self, name: &str) -> Result<()> {
        start_deletion(self.cluster, &self.namespace, name).await?;
        let unfinalized = json!({ "metadata": { "finalizers": null } });
        // It may be gone already.
        let _ = patch(self.cluster, &self.namespace, name, &unfinalized).await;
        wait_gone(self.cluster, &self.namespace, name).await
    }

    /// Waits for this number of runs of that name.
    async fn wait_running(&self, name: &str, runs: usize) -> Result<()> {
        eventually(&format!("{runs} runs of {name}"), async || {
            Ok(self.exporter.activity(name).running == runs)
        })
        .await
    }

    /// Checks the final state: nothing changes any more, and nothing was reverted.
    async fn ensure_quiet(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let last = self.proxy.writes().last().map(|write| write.at.elapsed());
            if last.is_none_or(|last| last > QUIET_PERIOD) {
                break;
            }
            ensure!(
                start.elapsed() < 6 * QUIET_PERIOD,
                "it goes on writing: {:#?}",
                self.proxy.writes().iter().rev().take(5).collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        ensure_generations_increase(&self.proxy.writes())?;
        // The operator deletes nothing in the cluster; Events are merged by patches.
        let deleted: Vec<RecordedRequest> = self
            .proxy
            .writes()
            .into_iter()
            .filter(|write| write.method() == "DELETE")
            .collect();
        ensure!(deleted.is_empty(), "{deleted:#?}");
        Ok(())
    }
}

/// Checks that no accepted status is of an older generation than an earlier one.
fn ensure_generations_increase(writes: &[RecordedRequest]) -> Result<()> {
    let mut last: HashMap<String, i64> = HashMap::new();
    for write in writes {
        let generation = write.body["status"]["observedGeneration"].as_i64();
        let Some(generation) = generation.filter(|_| write.succeeded()) else {
            continue;
        };
        let uid = write.body["metadata"]["uid"]
            .as_str()
            .context("a status without uid")?;
        let before = last.insert(uid.to_owned(), generation).unwrap_or(i64::MIN);
        ensure!(
            before <= generation,
            "{}: a status of generation {generation} over one of {before}",
            write.path()
        );
    }
    Ok(())
}

fn uid(object: &Value) -> Result<String> {
    let uid = object["metadata"]["uid"].as_str().context("no uid")?;
    Ok(uid.to_owned())
}

#[tokio::test]
async fn a_stalled_watch_is_detected_and_no_change_is_missed() -> Result<()> {
    let fixture = WatchFixture::start("frozen").await?;
    fixture.export("june", "busy").await?;
    let operator = fixture.operator(SHORT_WATCH)?;
    fixture.wait_conditions("june", BUSY).await?;
    // Their connections stay open.
    let _frozen = WatchedKind::ALL.map(|kind| fixture.proxy.proxy.hold_bodies(kind.watches(), true));
    // Unnoticed by the operator.
    fixture.export("july", "complete").await?;
    apply(fixture.cluster, &secret(&fixture.namespace, "two")).await?;
    fixture.wait_conditions("july", COMPLETE).await?;
    eventually("it begins again with the new key", async || {
        Ok(fixture.exporter.activity("june").started_with == ["one", "two"])
    })
    .await?;
    fixture.wait_running("june", 1).await?;
    fixture.ensure_quiet().await?;
    operator.stop().await
}

#[tokio::test]
async fn an_unanswered_list_is_retried() -> Result<()> {
    let fixture = WatchFixture::start("unanswered").await?;
    fixture.export("june", "busy").await?;
    for kind in WatchedKind::ALL {
        let unanswered = Rule::new(kind.lists(), Action::HangRequest).times(2);
        drop(fixture.proxy.proxy.arm(unanswered));
    }
    let operator = fixture.operator(SHORT_WATCH)?;
    fixture.wait_conditions("june", BUSY).await?;
    apply(fixture.cluster, &secret(&fixture.namespace, "two")).await?;
    eventually("it begins again with the new key", async || {
        Ok(fixture.exporter.activity("june").started_with == ["one", "two"])
    })
    .await?;
    fixture.ensure_quiet().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_broken_watch_is_restarted() -> Result<()> {
    let fixture = WatchFixture::start("gone").await?;
    fixture.export("june", "busy").await?;
    let operator = fixture.operator(WatchConfig::default())?;
    fixture.wait_conditions("june", BUSY).await?;
    let kinds = WatchedKind::ALL;
    let mut failing = Vec::new();
    for (round, key) in ["two", "three", "four", "five", "six"].into_iter().enumerate() {
        let proxy = &fixture.proxy;
        let each = |does: &mut dyn FnMut(WatchedKind)| kinds.into_iter().for_each(does);
        match round {
            // By the status of the reply, as long as the same version is requested.
            0 => each(&mut |kind| {
                failing.push(proxy.fail_watches(kind));
                proxy.proxy.break_replies(kind.watches());
            }),
            // The event before the end is lost, see below.
            1 => each(&mut |kind| proxy.events(kind).to_drop.store(1, SeqCst)),
            2 => each(&mut |kind| proxy.send_error(kind, 500)),
            3 => each(&mut |kind| proxy.proxy.send_line(kind.watches(), "{\"type\": \"MODIF")),
            _ => each(&mut |kind| proxy.proxy.break_replies(kind.watches())),
        }
        let suspend = round % 2 == 0;
        fixture.suspend("june", suspend).await?;
        apply(fixture.cluster, &secret(&fixture.namespace, key)).await?;
        if round == 1 {
            eventually("it is lost", async || {
                Ok(kinds
                    .into_iter()
                    .all(|kind| proxy.events(kind).to_drop.load(SeqCst) == 0))
            })
            .await?;
            // In the stream, as the API server sends it.
            each(&mut |kind| proxy.send_error(kind, 410));
        }
        let states = if suspend { SUSPENDED } else { BUSY };
        fixture.wait_conditions("june", states).await?;
        fixture.wait_running("june", usize::from(!suspend)).await?;
    }
    fixture.suspend("june", false).await?;
    fixture.wait_conditions("june", BUSY).await?;
    eventually("it runs with the last key", async || {
        Ok(fixture
            .exporter
            .activity("june")
            .started_with
            .last()
            .map(String::as_str)
            == Some("six"))
    })
    .await?;
    fixture.ensure_quiet().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_resource_replaced_between_events_leaves_no_stale_run() -> Result<()> {
    let fixture = WatchFixture::start("replaced").await?;
    fixture.export("june", "busy").await?;
    let operator = fixture.operator(WatchConfig::default())?;
    let first = uid(&fixture.wait_conditions("june", BUSY).await?)?;
    // A list suffices to start runs; the events below are lost on a watch.
    eventually("the watch has caught up", async || {
        let heard = fixture.proxy.exports.received();
        Ok(heard.iter().any(|event| event["type"] == "MODIFIED"))
    })
    .await?;
    fixture.proxy.exports.to_drop.store(usize::MAX, SeqCst);
    fixture.force_delete("june").await?;
    eventually("its deletion is lost", async || {
        let heard = fixture.proxy.exports.received();
        Ok(heard.iter().any(|event| event["type"] == "DELETED"))
    })
    .await?;
    fixture.proxy.exports.to_drop.store(0, SeqCst);
    fixture.export("june", "busy").await?;
    let second = uid(&fixture.wait_conditions("june", BUSY).await?)?;
    ensure!(first != second);
    fixture.wait_running("june", 1).await?;
    let seen = fixture.exporter.activity("june");
    ensure!((seen.started_with.len(), seen.stopped) == (2, 1), "{seen:?}");
    fixture.ensure_quiet().await?;
    ensure!(fixture.exporter.activity("june").running == 1);
    operator.stop().await
}

#[tokio::test]
async fn lost_events_are_recovered_by_relisting() -> Result<()> {
    let fixture = WatchFixture::start("lost").await?;
    fixture.export("june", "busy").await?;
    fixture.export("july", "busy").await?;
    fixture.export("august", "busy").await?;
    let operator = fixture.operator(WatchConfig {
        relist_interval: Duration::from_secs(12),
        ..SHORT_WATCH
    })?;
    for name in ["june", "july", "august"] {
        fixture.wait_conditions(name, BUSY).await?;
    }
    for kind in WatchedKind::ALL {
        fixture.proxy.events(kind).to_drop.store(usize::MAX, SeqCst);
    }
    fixture.suspend("june", true).await?;
    fixture.force_delete("july").await?;
    fixture.export("september", "complete").await?;
    apply(fixture.cluster, &secret(&fixture.namespace, "two")).await?;
    fixture.wait_conditions("june", SUSPENDED).await?;
    fixture.wait_conditions("september", COMPLETE).await?;
    fixture.wait_running("july", 0).await?;
    eventually("it begins again with the new key", async || {
        Ok(fixture.exporter.activity("august").started_with == ["one", "two"])
    })
    .await?;
    fixture.wait_running("august", 1).await?;
    fixture.ensure_quiet().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_delayed_status_does_not_overwrite_a_newer_one() -> Result<()> {
    let fixture = WatchFixture::start("overtaken").await?;
    fixture.export("june", "busy").await?;
    let operator = fixture.operator(SHORT_WATCH)?;
    fixture.wait_conditions("june", BUSY).await?;
    let gate = Arc::<Gate>::default();
    let status_writes = RequestMatcher::LineContains(
        ProxiedPeer::ApiServer,
        vec!["PATCH ", "/eventexports/", "/status"],
    );
    let hold = Rule::new(status_writes, Action::HoldRequest(Arc::clone(&gate)));
    let _held = fixture.proxy.proxy.keep(hold);
    fixture.suspend("june", true).await?;
    eventually("its status is on the way", async || Ok(gate.waiting() > 0)).await?;

    // Meanwhile another writer, as the next leader would, writes the status of a later generation.
    fixture.suspend("june", false).await?;
    let later = json!({ "status": { "observedGeneration": 3 } });
    patch_status(fixture.cluster, &fixture.namespace, "june", &later).await?;
    gate.open();
    let of_second = || {
        let mut writes = fixture.proxy.writes();
        writes.retain(|write| write.body["status"]["observedGeneration"] == 2);
        writes
    };
    eventually("it has arrived", async || Ok(!of_second().is_empty())).await?;
    fixture.wait_conditions("june", BUSY).await?;
    fixture.ensure_quiet().await?;
    let accepted: Vec<_> = of_second()
        .into_iter()
        .filter(RecordedRequest::succeeded)
        .collect();
    ensure!(accepted.is_empty(), "a status was taken back: {accepted:#?}");
    operator.stop().await
}

#[tokio::test]
async fn a_stale_view_reverts_nothing() -> Result<()> {
    let fixture = WatchFixture::start("past").await?;
    fixture.export("june", "busy").await?;
    fixture.export("july", "busy").await?;
    let past = list_exports(fixture.cluster, &fixture.namespace).await?;
    let first = fixture.operator(SHORT_WATCH)?;
    for name in ["june", "july"] {
        fixture.wait_conditions(name, BUSY).await?;
    }
    let finalized = list_exports(fixture.cluster, &fixture.namespace).await?;
    fixture.suspend("june", true).await?;
    fixture.wait_conditions("june", SUSPENDED).await?;
    fixture.force_delete("july").await?;
    fixture.export("july", "complete").await?;
    let third = uid(&fixture.wait_conditions("july", COMPLETE).await?)?;
    fixture.wait_running("june", 0).await?;

    // The same process gets all events again from the start.
    let begun = |name: &str| fixture.exporter.activity(name).started_with.len();
    let before = (begun("june"), begun("july"));
    let heard = fixture.proxy.exports.received();
    for half in heard.chunks(heard.len().div_ceil(2)) {
        for event in half {
            let watches = WatchedKind::Exports.watches();
            fixture.proxy.proxy.send_line(watches, &event.to_string());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    fixture.ensure_quiet().await?;
    ensure!(
        (begun("june"), begun("july")) == before,
        "it began by an old view: june and july {before:?} times before, then {:?}",
        (begun("june"), begun("july"))
    );
    fixture.wait_conditions("june", SUSPENDED).await?;
    fixture.wait_conditions("july", COMPLETE).await?;
    ensure!(fixture.exporter.activity("june").running == 0 && fixture.exporter.activity("july").running == 0);
    first.stop().await?;

    // A new process starts from a stale list and gets no events for a while.
    for view in [past, finalized] {
        let before = (begun("june"), begun("july"));
        let proxy = &fixture.proxy.proxy;
        drop(proxy.arm(Rule::new(WatchedKind::Exports.lists(), Action::JsonReply(view))));
        let paused = proxy.hold_bodies(WatchedKind::Exports.watches(), false);
        let (written, asked) = (fixture.proxy.writes().len(), proxy.requests().len());
        let operator = fixture.operator(WatchConfig::default())?;
        eventually("it acts", async || {
            let asked = proxy.requests().split_off(asked);
            let is_about = |name: &str| asked.iter().any(|asked| asked.path().ends_with(name));
            Ok(is_about("/eventexports/june") && is_about("/eventexports/july"))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let refused = fixture.proxy.writes().split_off(written);
        ensure!(
            refused.iter().all(|write| write
                .status
                .is_some_and(|status| matches!(status.as_u16(), 404 | 409))),
            "written by an old view: {refused:#?}"
        );
        ensure!(refused.len() < 30, "{} writes in vain", refused.len());
        ensure!(
            (begun("june"), begun("july")) == before,
            "something began by an old view"
        );
        let object = existing(fixture.cluster, &fixture.namespace, "july").await?;
        ensure!(uid(&object)? == third && !has_finalizer(&object), "{object:#}");
        drop(paused);
        fixture.ensure_quiet().await?;
        fixture.wait_conditions("june", SUSPENDED).await?;
        fixture.wait_conditions("july", COMPLETE).await?;
        ensure!(
            fixture.exporter.activity("june").running == 0 && fixture.exporter.activity("july").running == 0
        );
        operator.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn duplicate_and_late_events_are_handled_once() -> Result<()> {
    let fixture = WatchFixture::start("twice").await?;
    for kind in WatchedKind::ALL {
        fixture.proxy.events(kind).duplicates.store(2, SeqCst);
    }
    let operator = fixture.operator(SHORT_WATCH)?;
    fixture.export("june", "complete").await?;
    fixture.export("july", "busy").await?;
    fixture.wait_conditions("june", COMPLETE).await?;
    fixture.wait_conditions("july", BUSY).await?;
    // Late: several changes arrive at once at the end.
    let paused = WatchedKind::ALL.map(|kind| fixture.proxy.proxy.hold_bodies(kind.watches(), false));
    for suspend in [true, false, true] {
        fixture.suspend("july", suspend).await?;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(
        fixture.exporter.activity("july").running == 1,
        "no stop request yet"
    );
    drop(paused);
    fixture.wait_conditions("july", SUSPENDED).await?;
    fixture.ensure_quiet().await?;
    let (june, july) = (
        fixture.exporter.activity("june"),
        fixture.exporter.activity("july"),
    );
    ensure!((june.started_with.len(), june.running) == (1, 0), "{june:?}");
    ensure!(
        july.running == 0 && july.stopped == july.started_with.len() && july.stopped <= 2,
        "{july:?}"
    );
    ensure!(event_reasons(fixture.cluster, &fixture.namespace, "june").await? == ["Accepted", "Complete"]);
    operator.stop().await
}
