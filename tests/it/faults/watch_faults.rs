//! What a watch shows may be late, old, doubled, or never come. Whatever it is: no second run, nothing done to a resource
//! by the view of one that is gone, no status taken back, and in the end the right state and no further write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use eventexport::controller::WatchConfig;
use serde_json::{Value, json};

use super::watch_proxy::{ApiRequest, WatchProxy, WatchedKind, list_exports};
use crate::bed::Cluster;
use crate::operator::scripted_exporter::ScriptedExporter;
use crate::operator::{
    Operator, apply, event_reasons, eventually, get, has_finalizer, kubectl, manifest, patch, secret,
    wait_conditions,
};

/// How long nothing may be written at the end.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// As operators have it, only that what a dead connection hides comes to light in 8 s.
const SHORT_WATCH: WatchConfig = WatchConfig {
    timeout_seconds: 3,
    relist_interval: Duration::from_hours(12),
};

/// Conditions of an export that is under way, of one that is suspended, and of one that is complete.
const BUSY: [&str; 4] = ["True/Exporting", "False", "False/Accepted", "False"];
const SUSPENDED: [&str; 4] = ["False/Suspended", "", "False/Suspended", "False"];
const COMPLETE: [&str; 4] = ["True/Complete", "True/Complete", "False/Accepted", "False"];

struct WatchFixture {
    cluster: &'static Cluster,
    namespace: String,
    proxy: WatchProxy,
    exporter: Arc<ScriptedExporter>,
}

impl WatchFixture {
    /// With the Secret `tracker`, and no operator.
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

    /// What the script takes the space for decides what happens.
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

    /// As somebody does who takes the finalizer away by hand; returns when it is gone.
    async fn force_delete(&self, name: &str) -> Result<()> {
        let delete = [
            "delete",
            "eventexport",
            name,
            "-n",
            &self.namespace,
            "--wait=false",
        ];
        kubectl(self.cluster, &delete).await?;
        let unfinalized = json!({ "metadata": { "finalizers": null } });
        // It may be gone already.
        let _ = patch(self.cluster, &self.namespace, name, &unfinalized).await;
        eventually("it is gone", async || {
            Ok(get(self.cluster, &self.namespace, name).await?.is_none())
        })
        .await
    }

    /// Waits until runs of that name are under way.
    async fn wait_running(&self, name: &str, runs: usize) -> Result<()> {
        eventually(&format!("{runs} runs of {name}"), async || {
            Ok(self.exporter.activity(name).running == runs)
        })
        .await
    }

    /// What must hold at the end, whatever the operator was shown: nothing changes any more, and nothing went back.
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
        // The operator deletes nothing in the cluster, but Events are merged by patches.
        let deleted: Vec<ApiRequest> = self
            .proxy
            .writes()
            .into_iter()
            .filter(|write| write.method == Method::DELETE)
            .collect();
        ensure!(deleted.is_empty(), "{deleted:#?}");
        Ok(())
    }
}

/// No status that was accepted is of an older generation than one before it.
fn ensure_generations_increase(writes: &[ApiRequest]) -> Result<()> {
    let mut last: HashMap<String, i64> = HashMap::new();
    for write in writes {
        let generation = write.body["status"]["observedGeneration"].as_i64();
        let Some(generation) = generation.filter(|_| write.status == 200) else {
            continue;
        };
        let uid = write.body["metadata"]["uid"]
            .as_str()
            .context("a status without uid")?;
        let before = last.insert(uid.to_owned(), generation).unwrap_or(i64::MIN);
        ensure!(
            before <= generation,
            "{}: a status of generation {generation} over one of {before}",
            write.path
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
    let scene = WatchFixture::start("frozen").await?;
    scene.export("june", "busy").await?;
    let operator = scene.operator(SHORT_WATCH)?;
    scene.wait_conditions("june", BUSY).await?;
    for kind in [WatchedKind::Exports, WatchedKind::Secrets] {
        scene.proxy.freeze(kind);
    }
    // While nobody hears of it.
    scene.export("july", "complete").await?;
    apply(scene.cluster, &secret(&scene.namespace, "two")).await?;
    scene.wait_conditions("july", COMPLETE).await?;
    eventually("it begins again with the new key", async || {
        Ok(scene.exporter.activity("june").started_with == ["one", "two"])
    })
    .await?;
    scene.wait_running("june", 1).await?;
    scene.ensure_quiet().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_list_that_is_never_answered_is_asked_for_again() -> Result<()> {
    let scene = WatchFixture::start("unanswered").await?;
    scene.export("june", "busy").await?;
    for kind in [WatchedKind::Exports, WatchedKind::Secrets] {
        scene.proxy.update_rules(kind, |rules| rules.unanswered_lists = 2);
    }
    let operator = scene.operator(SHORT_WATCH)?;
    scene.wait_conditions("june", BUSY).await?;
    apply(scene.cluster, &secret(&scene.namespace, "two")).await?;
    eventually("it begins again with the new key", async || {
        Ok(scene.exporter.activity("june").started_with == ["one", "two"])
    })
    .await?;
    scene.ensure_quiet().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_broken_watch_is_restarted() -> Result<()> {
    let scene = WatchFixture::start("gone").await?;
    scene.export("june", "busy").await?;
    let operator = scene.operator(WatchConfig::default())?;
    scene.wait_conditions("june", BUSY).await?;
    let kinds = [WatchedKind::Exports, WatchedKind::Secrets];
    for (round, key) in ["two", "three", "four", "five", "six"].into_iter().enumerate() {
        let each = |does: &dyn Fn(WatchedKind)| kinds.into_iter().for_each(does);
        match round {
            // By the status of the answer, for as long as the same is asked for.
            0 => each(&|kind| {
                scene
                    .proxy
                    .update_rules(kind, |rules| rules.watch_error = Some(410));
                scene.proxy.cut(kind);
            }),
            // What is said before the end is lost, see below.
            1 => each(&|kind| scene.proxy.update_rules(kind, |rules| rules.events_to_drop = 1)),
            2 => each(&|kind| scene.proxy.send_error(kind, 500)),
            3 => each(&|kind| scene.proxy.send_text(kind, "{\"type\": \"MODIF")),
            _ => each(&|kind| scene.proxy.cut(kind)),
        }
        let suspend = round % 2 == 0;
        scene.suspend("june", suspend).await?;
        apply(scene.cluster, &secret(&scene.namespace, key)).await?;
        if round == 1 {
            eventually("it is lost", async || {
                Ok(kinds
                    .into_iter()
                    .all(|kind| scene.proxy.events_to_drop(kind) == 0))
            })
            .await?;
            // In the stream, as the API server says it.
            each(&|kind| scene.proxy.send_error(kind, 410));
        }
        let states = if suspend { SUSPENDED } else { BUSY };
        scene.wait_conditions("june", states).await?;
        scene.wait_running("june", usize::from(!suspend)).await?;
    }
    scene.suspend("june", false).await?;
    scene.wait_conditions("june", BUSY).await?;
    eventually("it runs with the last key", async || {
        Ok(scene
            .exporter
            .activity("june")
            .started_with
            .last()
            .map(String::as_str)
            == Some("six"))
    })
    .await?;
    scene.ensure_quiet().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_resource_replaced_between_events_leaves_no_stale_run() -> Result<()> {
    let scene = WatchFixture::start("replaced").await?;
    scene.export("june", "busy").await?;
    let operator = scene.operator(WatchConfig::default())?;
    let first = uid(&scene.wait_conditions("june", BUSY).await?)?;
    // A list is enough to be busy; what is lost below is lost on a watch.
    eventually("the watch has caught up", async || {
        let heard = scene.proxy.received_events(WatchedKind::Exports);
        Ok(heard.iter().any(|event| event["type"] == "MODIFIED"))
    })
    .await?;
    scene
        .proxy
        .update_rules(WatchedKind::Exports, |rules| rules.events_to_drop = usize::MAX);
    scene.force_delete("june").await?;
    eventually("its deletion is lost", async || {
        let heard = scene.proxy.received_events(WatchedKind::Exports);
        Ok(heard.iter().any(|event| event["type"] == "DELETED"))
    })
    .await?;
    scene
        .proxy
        .update_rules(WatchedKind::Exports, |rules| rules.events_to_drop = 0);
    scene.export("june", "busy").await?;
    let second = uid(&scene.wait_conditions("june", BUSY).await?)?;
    ensure!(first != second);
    scene.wait_running("june", 1).await?;
    let seen = scene.exporter.activity("june");
    ensure!((seen.started_with.len(), seen.stopped) == (2, 1), "{seen:?}");
    scene.ensure_quiet().await?;
    ensure!(scene.exporter.activity("june").running == 1);
    operator.stop().await
}

#[tokio::test]
async fn lost_events_are_recovered_by_relisting() -> Result<()> {
    let scene = WatchFixture::start("lost").await?;
    scene.export("june", "busy").await?;
    scene.export("july", "busy").await?;
    scene.export("august", "busy").await?;
    let operator = scene.operator(WatchConfig {
        relist_interval: Duration::from_secs(12),
        ..SHORT_WATCH
    })?;
    for name in ["june", "july", "august"] {
        scene.wait_conditions(name, BUSY).await?;
    }
    for kind in [WatchedKind::Exports, WatchedKind::Secrets] {
        scene
            .proxy
            .update_rules(kind, |rules| rules.events_to_drop = usize::MAX);
    }
    scene.suspend("june", true).await?;
    scene.force_delete("july").await?;
    scene.export("september", "complete").await?;
    apply(scene.cluster, &secret(&scene.namespace, "two")).await?;
    scene.wait_conditions("june", SUSPENDED).await?;
    scene.wait_conditions("september", COMPLETE).await?;
    scene.wait_running("july", 0).await?;
    eventually("it begins again with the new key", async || {
        Ok(scene.exporter.activity("august").started_with == ["one", "two"])
    })
    .await?;
    scene.wait_running("august", 1).await?;
    scene.ensure_quiet().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_delayed_status_does_not_overwrite_a_newer_one() -> Result<()> {
    let scene = WatchFixture::start("overtaken").await?;
    scene.export("june", "busy").await?;
    let operator = scene.operator(SHORT_WATCH)?;
    scene.wait_conditions("june", BUSY).await?;
    scene
        .proxy
        .update_rules(WatchedKind::Exports, |rules| rules.hold_status_writes = true);
    scene.suspend("june", true).await?;
    eventually("its status is on the way", async || {
        Ok(scene.proxy.held_status_writes(WatchedKind::Exports) > 0)
    })
    .await?;

    // Meanwhile somebody else, as the next leader would, writes what it knows of a later generation.
    scene.suspend("june", false).await?;
    let later = json!({ "status": { "observedGeneration": 3 } }).to_string();
    let namespace = scene.namespace.as_str();
    let write = [
        "patch",
        "eventexport",
        "june",
        "-n",
        namespace,
        "--subresource=status",
    ];
    kubectl(
        scene.cluster,
        &[&write[..], &["--type=merge", "-p", &later]].concat(),
    )
    .await?;
    scene
        .proxy
        .update_rules(WatchedKind::Exports, |rules| rules.hold_status_writes = false);
    let of_second = || {
        let mut writes = scene.proxy.writes();
        writes.retain(|write| write.body["status"]["observedGeneration"] == 2);
        writes
    };
    eventually("it has arrived", async || Ok(!of_second().is_empty())).await?;
    scene.wait_conditions("june", BUSY).await?;
    scene.ensure_quiet().await?;
    let accepted: Vec<_> = of_second()
        .into_iter()
        .filter(|write| write.status == 200)
        .collect();
    ensure!(accepted.is_empty(), "a status was taken back: {accepted:#?}");
    operator.stop().await
}

#[tokio::test]
async fn a_stale_view_reverts_nothing() -> Result<()> {
    let scene = WatchFixture::start("past").await?;
    scene.export("june", "busy").await?;
    scene.export("july", "busy").await?;
    let past = list_exports(scene.cluster, &scene.namespace).await?;
    let first = scene.operator(SHORT_WATCH)?;
    for name in ["june", "july"] {
        scene.wait_conditions(name, BUSY).await?;
    }
    let finalized = list_exports(scene.cluster, &scene.namespace).await?;
    scene.suspend("june", true).await?;
    scene.wait_conditions("june", SUSPENDED).await?;
    scene.force_delete("july").await?;
    scene.export("july", "complete").await?;
    let third = uid(&scene.wait_conditions("july", COMPLETE).await?)?;
    scene.wait_running("june", 0).await?;

    // The same process hears it all again, from the beginning.
    let begun = |name: &str| scene.exporter.activity(name).started_with.len();
    let before = (begun("june"), begun("july"));
    let heard = scene.proxy.received_events(WatchedKind::Exports);
    for half in heard.chunks(heard.len().div_ceil(2)) {
        for event in half {
            scene.proxy.send_event(WatchedKind::Exports, event);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    scene.ensure_quiet().await?;
    ensure!(
        (begun("june"), begun("july")) == before,
        "it began by an old view: june and july {before:?} times before, then {:?}",
        (begun("june"), begun("july"))
    );
    scene.wait_conditions("june", SUSPENDED).await?;
    scene.wait_conditions("july", COMPLETE).await?;
    ensure!(scene.exporter.activity("june").running == 0 && scene.exporter.activity("july").running == 0);
    first.stop().await?;

    // A new one begins with what was, and hears nothing else for a while.
    for view in [past, finalized] {
        let before = (begun("june"), begun("july"));
        scene.proxy.update_rules(WatchedKind::Exports, |rules| {
            rules.canned_lists.push_back(view);
            rules.paused = true;
        });
        let (written, asked) = (scene.proxy.writes().len(), scene.proxy.requests().len());
        let operator = scene.operator(WatchConfig::default())?;
        eventually("it acts", async || {
            let asked = scene.proxy.requests().split_off(asked);
            let is_about = |name: &str| asked.iter().any(|asked| asked.path.ends_with(name));
            Ok(is_about("/eventexports/june") && is_about("/eventexports/july"))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let refused = scene.proxy.writes().split_off(written);
        ensure!(
            refused.iter().all(|write| matches!(write.status, 404 | 409)),
            "written by an old view: {refused:#?}"
        );
        ensure!(refused.len() < 30, "{} writes in vain", refused.len());
        ensure!(
            (begun("june"), begun("july")) == before,
            "something began by an old view"
        );
        let object = get(scene.cluster, &scene.namespace, "july")
            .await?
            .context("july")?;
        ensure!(uid(&object)? == third && !has_finalizer(&object), "{object:#}");
        scene
            .proxy
            .update_rules(WatchedKind::Exports, |rules| rules.paused = false);
        scene.ensure_quiet().await?;
        scene.wait_conditions("june", SUSPENDED).await?;
        scene.wait_conditions("july", COMPLETE).await?;
        ensure!(scene.exporter.activity("june").running == 0 && scene.exporter.activity("july").running == 0);
        operator.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn duplicate_and_late_events_are_handled_once() -> Result<()> {
    let scene = WatchFixture::start("twice").await?;
    for kind in [WatchedKind::Exports, WatchedKind::Secrets] {
        scene.proxy.update_rules(kind, |rules| rules.duplicates = 2);
    }
    let operator = scene.operator(SHORT_WATCH)?;
    scene.export("june", "complete").await?;
    scene.export("july", "busy").await?;
    scene.wait_conditions("june", COMPLETE).await?;
    scene.wait_conditions("july", BUSY).await?;
    // Late: several changes come at once, in the end.
    for kind in [WatchedKind::Exports, WatchedKind::Secrets] {
        scene.proxy.update_rules(kind, |rules| rules.paused = true);
    }
    for suspend in [true, false, true] {
        scene.suspend("july", suspend).await?;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(scene.exporter.activity("july").running == 1, "nobody told it yet");
    for kind in [WatchedKind::Exports, WatchedKind::Secrets] {
        scene.proxy.update_rules(kind, |rules| rules.paused = false);
    }
    scene.wait_conditions("july", SUSPENDED).await?;
    scene.ensure_quiet().await?;
    let (june, july) = (scene.exporter.activity("june"), scene.exporter.activity("july"));
    ensure!((june.started_with.len(), june.running) == (1, 0), "{june:?}");
    ensure!(
        july.running == 0 && july.stopped == july.started_with.len() && july.stopped <= 2,
        "{july:?}"
    );
    ensure!(event_reasons(scene.cluster, &scene.namespace, "june").await? == ["Accepted", "Complete"]);
    operator.stop().await
}
