//! What a watch shows may be late, old, doubled, or never come. Whatever it is: no second run, nothing done to a resource
//! by the view of one that is gone, no status taken back, and in the end the right state and no further write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use eventexport::controller::Watching;
use serde_json::{Value, json};

use super::relay::{Kind, Noted, Relay, list};
use crate::bed::Cluster;
use crate::operator::script::Script;
use crate::operator::{
    Operator, apply, becomes, eventually, get, has_finalizer, kubectl, manifest, patch, secret, told,
};

/// How long nothing may be written at the end.
const IDLE: Duration = Duration::from_secs(10);

/// As operators have it, only that what a dead connection hides comes to light in 8 s.
const SHORT: Watching = Watching {
    seconds: 3,
    relist: Duration::from_hours(12),
};

/// Conditions of an export that is under way, of one that is suspended, and of one that is complete.
const BUSY: [&str; 4] = ["True/Exporting", "False", "False/Accepted", "False"];
const SUSPENDED: [&str; 4] = ["False/Suspended", "", "False/Suspended", "False"];
const COMPLETE: [&str; 4] = ["True/Complete", "True/Complete", "False/Accepted", "False"];

struct Scene {
    cluster: &'static Cluster,
    namespace: String,
    relay: Relay,
    script: Arc<Script>,
}

impl Scene {
    /// With the Secret `tracker`, and no operator.
    async fn start(name: &str) -> Result<Self> {
        let cluster = Cluster::shared().await;
        let namespace = cluster.namespace(name).await;
        apply(cluster, &secret(&namespace, "one")).await?;
        Ok(Self {
            relay: Relay::before(cluster).await?,
            cluster,
            namespace,
            script: Arc::default(),
        })
    }

    fn operator(&self, watching: Watching) -> Result<Operator> {
        Operator::start_by(
            self.relay.config()?,
            &self.namespace,
            Arc::clone(&self.script),
            watching,
        )
    }

    /// What the script takes the space for decides what happens.
    async fn export(&self, name: &str, space: &str) -> Result<()> {
        apply(self.cluster, &manifest(&self.namespace, name, space)).await
    }

    async fn becomes(&self, name: &str, states: [&str; 4]) -> Result<Value> {
        becomes(self.cluster, &self.namespace, name, states).await
    }

    async fn suspend(&self, name: &str, suspend: bool) -> Result<()> {
        let change = json!({ "spec": { "suspend": suspend } });
        patch(self.cluster, &self.namespace, name, &change).await
    }

    /// As somebody does who takes the finalizer away by hand; returns when it is gone.
    async fn delete_by_force(&self, name: &str) -> Result<()> {
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
    async fn running(&self, name: &str, runs: usize) -> Result<()> {
        eventually(&format!("{runs} runs of {name}"), async || {
            Ok(self.script.seen(name).running == runs)
        })
        .await
    }

    /// What must hold at the end, whatever the operator was shown: nothing changes any more, and nothing went back.
    async fn at_rest(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let last = self.relay.writes().last().map(|write| write.at.elapsed());
            if last.is_none_or(|last| last > IDLE) {
                break;
            }
            ensure!(
                start.elapsed() < 6 * IDLE,
                "it goes on writing: {:#?}",
                self.relay.writes().iter().rev().take(5).collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        nothing_goes_back(&self.relay.writes())?;
        // The operator deletes nothing in the cluster, but Events are merged by patches.
        let deleted: Vec<Noted> = self
            .relay
            .writes()
            .into_iter()
            .filter(|write| write.method == Method::DELETE)
            .collect();
        ensure!(deleted.is_empty(), "{deleted:#?}");
        Ok(())
    }
}

/// No status that was accepted is of an older generation than one before it.
fn nothing_goes_back(writes: &[Noted]) -> Result<()> {
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
async fn a_watch_that_stands_still_is_noticed_and_nothing_is_missed() -> Result<()> {
    let scene = Scene::start("frozen").await?;
    scene.export("june", "busy").await?;
    let operator = scene.operator(SHORT)?;
    scene.becomes("june", BUSY).await?;
    for kind in [Kind::Exports, Kind::Secrets] {
        scene.relay.freeze(kind);
    }
    // While nobody hears of it.
    scene.export("july", "complete").await?;
    apply(scene.cluster, &secret(&scene.namespace, "two")).await?;
    scene.becomes("july", COMPLETE).await?;
    eventually("it begins again with the new key", async || {
        Ok(scene.script.seen("june").begun == ["one", "two"])
    })
    .await?;
    scene.running("june", 1).await?;
    scene.at_rest().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_list_that_is_never_answered_is_asked_for_again() -> Result<()> {
    let scene = Scene::start("unanswered").await?;
    scene.export("june", "busy").await?;
    for kind in [Kind::Exports, Kind::Secrets] {
        scene.relay.rule(kind, |rules| rules.unanswered = 2);
    }
    let operator = scene.operator(SHORT)?;
    scene.becomes("june", BUSY).await?;
    apply(scene.cluster, &secret(&scene.namespace, "two")).await?;
    eventually("it begins again with the new key", async || {
        Ok(scene.script.seen("june").begun == ["one", "two"])
    })
    .await?;
    scene.at_rest().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_watch_that_cannot_go_on_is_begun_anew() -> Result<()> {
    let scene = Scene::start("gone").await?;
    scene.export("june", "busy").await?;
    let operator = scene.operator(Watching::default())?;
    scene.becomes("june", BUSY).await?;
    let kinds = [Kind::Exports, Kind::Secrets];
    for (round, key) in ["two", "three", "four", "five", "six"].into_iter().enumerate() {
        let each = |does: &dyn Fn(Kind)| kinds.into_iter().for_each(does);
        match round {
            // By the status of the answer, for as long as the same is asked for.
            0 => each(&|kind| {
                scene.relay.rule(kind, |rules| rules.refused = Some(410));
                scene.relay.cut(kind);
            }),
            // What is said before the end is lost, see below.
            1 => each(&|kind| scene.relay.rule(kind, |rules| rules.lost = 1)),
            2 => each(&|kind| scene.relay.say_error(kind, 500)),
            3 => each(&|kind| scene.relay.say_text(kind, "{\"type\": \"MODIF")),
            _ => each(&|kind| scene.relay.cut(kind)),
        }
        let suspend = round % 2 == 0;
        scene.suspend("june", suspend).await?;
        apply(scene.cluster, &secret(&scene.namespace, key)).await?;
        if round == 1 {
            eventually("it is lost", async || {
                Ok(kinds.into_iter().all(|kind| scene.relay.to_lose(kind) == 0))
            })
            .await?;
            // In the stream, as the API server says it.
            each(&|kind| scene.relay.say_error(kind, 410));
        }
        let states = if suspend { SUSPENDED } else { BUSY };
        scene.becomes("june", states).await?;
        scene.running("june", usize::from(!suspend)).await?;
    }
    scene.suspend("june", false).await?;
    scene.becomes("june", BUSY).await?;
    eventually("it runs with the last key", async || {
        Ok(scene.script.seen("june").begun.last().map(String::as_str) == Some("six"))
    })
    .await?;
    scene.at_rest().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_resource_that_was_replaced_unseen_leaves_no_run_behind() -> Result<()> {
    let scene = Scene::start("replaced").await?;
    scene.export("june", "busy").await?;
    let operator = scene.operator(Watching::default())?;
    let first = uid(&scene.becomes("june", BUSY).await?)?;
    // A list is enough to be busy; what is lost below is lost on a watch.
    eventually("the watch has caught up", async || {
        let heard = scene.relay.heard(Kind::Exports);
        Ok(heard.iter().any(|event| event["type"] == "MODIFIED"))
    })
    .await?;
    scene.relay.rule(Kind::Exports, |rules| rules.lost = usize::MAX);
    scene.delete_by_force("june").await?;
    eventually("its deletion is lost", async || {
        let heard = scene.relay.heard(Kind::Exports);
        Ok(heard.iter().any(|event| event["type"] == "DELETED"))
    })
    .await?;
    scene.relay.rule(Kind::Exports, |rules| rules.lost = 0);
    scene.export("june", "busy").await?;
    let second = uid(&scene.becomes("june", BUSY).await?)?;
    ensure!(first != second);
    scene.running("june", 1).await?;
    let seen = scene.script.seen("june");
    ensure!((seen.begun.len(), seen.stopped) == (2, 1), "{seen:?}");
    scene.at_rest().await?;
    ensure!(scene.script.seen("june").running == 1);
    operator.stop().await
}

#[tokio::test]
async fn what_was_lost_on_the_way_is_found_by_listing_again() -> Result<()> {
    let scene = Scene::start("lost").await?;
    scene.export("june", "busy").await?;
    scene.export("july", "busy").await?;
    scene.export("august", "busy").await?;
    let operator = scene.operator(Watching {
        relist: Duration::from_secs(12),
        ..SHORT
    })?;
    for name in ["june", "july", "august"] {
        scene.becomes(name, BUSY).await?;
    }
    for kind in [Kind::Exports, Kind::Secrets] {
        scene.relay.rule(kind, |rules| rules.lost = usize::MAX);
    }
    scene.suspend("june", true).await?;
    scene.delete_by_force("july").await?;
    scene.export("september", "complete").await?;
    apply(scene.cluster, &secret(&scene.namespace, "two")).await?;
    scene.becomes("june", SUSPENDED).await?;
    scene.becomes("september", COMPLETE).await?;
    scene.running("july", 0).await?;
    eventually("it begins again with the new key", async || {
        Ok(scene.script.seen("august").begun == ["one", "two"])
    })
    .await?;
    scene.running("august", 1).await?;
    scene.at_rest().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_status_that_was_held_up_is_not_written_over_a_newer_one() -> Result<()> {
    let scene = Scene::start("overtaken").await?;
    scene.export("june", "busy").await?;
    let operator = scene.operator(SHORT)?;
    scene.becomes("june", BUSY).await?;
    scene.relay.rule(Kind::Exports, |rules| rules.writes_held = true);
    scene.suspend("june", true).await?;
    eventually("its status is on the way", async || {
        Ok(scene.relay.held_up(Kind::Exports) > 0)
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
    scene.relay.rule(Kind::Exports, |rules| rules.writes_held = false);
    let of_second = || {
        let mut writes = scene.relay.writes();
        writes.retain(|write| write.body["status"]["observedGeneration"] == 2);
        writes
    };
    eventually("it has arrived", async || Ok(!of_second().is_empty())).await?;
    scene.becomes("june", BUSY).await?;
    scene.at_rest().await?;
    let accepted: Vec<_> = of_second()
        .into_iter()
        .filter(|write| write.status == 200)
        .collect();
    ensure!(accepted.is_empty(), "a status was taken back: {accepted:#?}");
    operator.stop().await
}

#[tokio::test]
async fn a_view_of_the_past_takes_nothing_back() -> Result<()> {
    let scene = Scene::start("past").await?;
    scene.export("june", "busy").await?;
    scene.export("july", "busy").await?;
    let past = list(scene.cluster, &scene.namespace).await?;
    let first = scene.operator(SHORT)?;
    for name in ["june", "july"] {
        scene.becomes(name, BUSY).await?;
    }
    let finalized = list(scene.cluster, &scene.namespace).await?;
    scene.suspend("june", true).await?;
    scene.becomes("june", SUSPENDED).await?;
    scene.delete_by_force("july").await?;
    scene.export("july", "complete").await?;
    let third = uid(&scene.becomes("july", COMPLETE).await?)?;
    scene.running("june", 0).await?;

    // The same process hears it all again, from the beginning.
    let begun = |name: &str| scene.script.seen(name).begun.len();
    let before = (begun("june"), begun("july"));
    let heard = scene.relay.heard(Kind::Exports);
    for half in heard.chunks(heard.len().div_ceil(2)) {
        for event in half {
            scene.relay.say(Kind::Exports, event);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    scene.at_rest().await?;
    ensure!(
        (begun("june"), begun("july")) == before,
        "it began by an old view: june and july {before:?} times before, then {:?}",
        (begun("june"), begun("july"))
    );
    scene.becomes("june", SUSPENDED).await?;
    scene.becomes("july", COMPLETE).await?;
    ensure!(scene.script.seen("june").running == 0 && scene.script.seen("july").running == 0);
    first.stop().await?;

    // A new one begins with what was, and hears nothing else for a while.
    for view in [past, finalized] {
        let before = (begun("june"), begun("july"));
        scene.relay.rule(Kind::Exports, |rules| {
            rules.lists.push_back(view);
            rules.held = true;
        });
        let (written, asked) = (scene.relay.writes().len(), scene.relay.noted().len());
        let operator = scene.operator(Watching::default())?;
        eventually("it acts", async || {
            let asked = scene.relay.noted().split_off(asked);
            let is_about = |name: &str| asked.iter().any(|asked| asked.path.ends_with(name));
            Ok(is_about("/eventexports/june") && is_about("/eventexports/july"))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let refused = scene.relay.writes().split_off(written);
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
        scene.relay.rule(Kind::Exports, |rules| rules.held = false);
        scene.at_rest().await?;
        scene.becomes("june", SUSPENDED).await?;
        scene.becomes("july", COMPLETE).await?;
        ensure!(scene.script.seen("june").running == 0 && scene.script.seen("july").running == 0);
        operator.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_comes_twice_or_late_is_done_once() -> Result<()> {
    let scene = Scene::start("twice").await?;
    for kind in [Kind::Exports, Kind::Secrets] {
        scene.relay.rule(kind, |rules| rules.again = 2);
    }
    let operator = scene.operator(SHORT)?;
    scene.export("june", "complete").await?;
    scene.export("july", "busy").await?;
    scene.becomes("june", COMPLETE).await?;
    scene.becomes("july", BUSY).await?;
    // Late: several changes come at once, in the end.
    for kind in [Kind::Exports, Kind::Secrets] {
        scene.relay.rule(kind, |rules| rules.held = true);
    }
    for suspend in [true, false, true] {
        scene.suspend("july", suspend).await?;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(scene.script.seen("july").running == 1, "nobody told it yet");
    for kind in [Kind::Exports, Kind::Secrets] {
        scene.relay.rule(kind, |rules| rules.held = false);
    }
    scene.becomes("july", SUSPENDED).await?;
    scene.at_rest().await?;
    let (june, july) = (scene.script.seen("june"), scene.script.seen("july"));
    ensure!((june.begun.len(), june.running) == (1, 0), "{june:?}");
    ensure!(
        july.running == 0 && july.stopped == july.begun.len() && july.stopped <= 2,
        "{july:?}"
    );
    ensure!(told(scene.cluster, &scene.namespace, "june").await? == ["Accepted", "Complete"]);
    operator.stop().await
}
