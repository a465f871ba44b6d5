//! The life of a release: installed, exporting, upgraded, rolled back, its leader killed, uninstalled and installed
//! again. The archive and the resources outlive all of it.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::stage::{AUDIT, IMAGE, SYSTEM, Stage};

const RELEASE: &str = "eventexport";

/// The chart as it is.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/eventexport");

/// The chart as it was when it was new, numbered 0.0.1.
const EARLIER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/node/eventexport-0.0.1.tgz");

const DEPLOYMENT: &str = "deployment/eventexport";

/// The days of the first export.
const JUNE: (i8, i8) = (1, 7);

/// What the release must not touch: names with their unique ids.
type Kept = BTreeMap<String, String>;

/// Of the first chart, with a resource that is exported; returns when the archive is proved.
pub(super) async fn install_and_export(stage: &Stage) -> Result<()> {
    stage.transcript.part("Installed by Helm, and an export");
    stage
        .node
        .tag(
            &format!("{IMAGE}:{}", env!("CARGO_PKG_VERSION")),
            &format!("{IMAGE}:0.0.1"),
        )
        .await?;
    let began = Instant::now();
    stage.helm(&arguments("install", EARLIER, &[])).await?;
    stage.apply(&stage.export("june", JUNE)).await?;
    stage
        .eventually(
            "a first window is stored",
            async || Ok(stage.receipts("june") > 0),
        )
        .await?;
    let first = began.elapsed().as_secs_f64();
    stage.transcript.say(&format!(
        "**{first:.1} s from `helm install` to the first stored window**"
    ));
    stage.complete("june").await?;
    let events = stage.prove("june", JUNE)?;
    stage.transcript.say(&format!(
        "7 days, {events} events: every receipt and object is as the service has it, and nothing else is there"
    ));
    stage.nothing_open().await?;
    rolled_out(stage).await?;
    stage.show(&["get", "eventexports", "-n", AUDIT]).await?;
    stage.show(&["get", "pods", "-n", SYSTEM, "-o", "wide"]).await?;
    let security = "{.spec.template.spec.securityContext}{.spec.template.spec.containers[0].securityContext}";
    let security = stage.part(&[DEPLOYMENT, "-n", SYSTEM], security).await?;
    stage.transcript.say(&format!(
        "admitted by a namespace that enforces the restricted policy: {security}"
    ));
    let leader = leader(stage).await?;
    stage.show(&["logs", "-n", SYSTEM, pod_of(&leader)]).await?;
    Ok(())
}

/// To today's chart while an export runs, and back.
pub(super) async fn upgrade_and_roll_back(stage: &Stage) -> Result<()> {
    stage
        .transcript
        .part("Upgraded while it exports, and rolled back");
    let kept = kept(stage).await?;
    let downloads = stage.downloads_of(JUNE);

    let before = stage.dawdle()?;
    stage.apply(&stage.export("upgraded", (11, 14))).await?;
    stage
        .eventually("four downloads run", async || Ok(stage.downloads() >= before + 4))
        .await?;
    stage.transcript.say("four downloads run, and would for a while");
    stage
        .helm(&arguments("upgrade", CHART, &["--wait", "--timeout=3m"]))
        .await?;
    stage.hurry();
    stage.complete("upgraded").await?;
    stage.prove("upgraded", (11, 14))?;
    stage.nothing_open().await?;
    unchanged(stage, &kept, downloads).await?;
    stage
        .show(&[
            "get",
            "pods",
            "-n",
            SYSTEM,
            "-o",
            "custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image",
        ])
        .await?;

    stage
        .helm(&[
            "rollback",
            RELEASE,
            "1",
            "--namespace",
            SYSTEM,
            "--wait",
            "--timeout=3m",
        ])
        .await?;
    stage.apply(&stage.export("back", (18, 19))).await?;
    stage.complete("back").await?;
    stage.prove("back", (18, 19))?;
    stage.nothing_open().await?;
    unchanged(stage, &kept, downloads).await?;
    stage
        .helm(&arguments("upgrade", CHART, &["--wait", "--timeout=3m"]))
        .await?;
    stage.helm(&["history", RELEASE, "--namespace", SYSTEM]).await?;
    Ok(())
}

/// The leader's process is killed in the middle of four downloads: another one goes on.
pub(super) async fn kill_the_leader(stage: &Stage) -> Result<()> {
    stage.transcript.part("The leader is killed");
    let before = stage.dawdle()?;
    stage.apply(&stage.export("killed", (25, 28))).await?;
    stage
        .eventually("four downloads run", async || Ok(stage.downloads() >= before + 4))
        .await?;
    let first = leader(stage).await?;
    stage.transcript.say(&format!(
        "{first} leads, with {} sessions open",
        stage.simulator.open_sessions().len()
    ));
    stage.kill(SYSTEM, pod_of(&first)).await?;
    stage.hurry();
    let took = stage
        .eventually("another process leads", async || {
            let now = leader(stage).await?;
            Ok(!now.is_empty() && now != first)
        })
        .await?;
    let second = leader(stage).await?;
    stage.transcript.say(&format!(
        "**{second} leads {:.1} s after the kill** (the lease lasts 15 s)",
        took.as_secs_f64()
    ));
    stage.complete("killed").await?;
    stage.prove("killed", (25, 28))?;
    stage.nothing_open().await?;
    stage
        .show(&["logs", "-n", SYSTEM, pod_of(&second), "--tail=20"])
        .await?;

    stage.transcript.say("now its Pod is deleted without grace");
    let delete = [
        "delete",
        "pod",
        "-n",
        SYSTEM,
        pod_of(&second),
        "--grace-period=0",
        "--force",
    ];
    stage.show(&delete).await?;
    stage.apply(&stage.export("deleted", (20, 21))).await?;
    stage.complete("deleted").await?;
    stage.prove("deleted", (20, 21))?;
    let third = leader(stage).await?;
    ensure!(third != second, "{second} still leads");
    stage
        .transcript
        .say(&format!("{third} leads, and the next export is complete"));
    stage.nothing_open().await
}

/// Takes only what the release made; installed again, it downloads nothing.
pub(super) async fn uninstall_and_install_again(stage: &Stage) -> Result<()> {
    stage.transcript.part("Uninstalled, and installed again");
    let kept = kept(stage).await?;
    let downloads = stage.downloads_of(JUNE);
    stage
        .helm(&[
            "uninstall",
            RELEASE,
            "--namespace",
            SYSTEM,
            "--wait",
            "--timeout=3m",
        ])
        .await?;
    let ours = [
        "get",
        "deployments,pods,services,serviceaccounts,roles,clusterroles,poddisruptionbudgets",
        "-n",
        SYSTEM,
        "-l",
        "app.kubernetes.io/instance=eventexport",
        "-o",
        "name",
    ];
    stage
        .eventually("nothing of the release is left", async || {
            Ok(stage.kubectl(&ours).await?.is_empty())
        })
        .await?;
    unchanged(stage, &kept, downloads).await?;
    stage.prove("june", JUNE)?;
    stage.show(&["get", "crds,eventexports", "-n", AUDIT]).await?;

    stage
        .helm(&arguments("install", CHART, &["--wait", "--timeout=3m"]))
        .await?;
    // A change of the spec is looked at by the new operator: the archive tells it that all is there.
    stage
        .kubectl(&[
            "patch",
            "eventexport",
            "june",
            "-n",
            AUDIT,
            "--type=merge",
            "--patch",
            r#"{"spec":{"parallelism":2}}"#,
        ])
        .await?;
    stage
        .eventually("the new operator has looked", async || {
            let path = "{.metadata.generation} {.status.observedGeneration}";
            let generations = stage.part(&["eventexport", "june", "-n", AUDIT], path).await?;
            Ok(generations
                .split_once(' ')
                .is_some_and(|(wanted, seen)| wanted == seen))
        })
        .await?;
    stage.complete("june").await?;
    unchanged(stage, &kept, downloads).await?;
    stage.transcript.say("nothing was downloaded again");
    stage.show(&["get", "eventexports", "-n", AUDIT]).await?;
    Ok(())
}

/// The arguments of an installation or upgrade with the values of this machine.
fn arguments<'a>(verb: &'a str, chart: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![verb, RELEASE, chart, "--namespace", SYSTEM];
    for value in [
        "image.repository=localhost/eventexport",
        "image.pullPolicy=Never",
        "replicas=2",
        "allowHosts={10.96.0.1}",
    ] {
        arguments.extend(["--set", value]);
    }
    arguments.extend(more);
    arguments
}

async fn rolled_out(stage: &Stage) -> Result<()> {
    stage
        .show(&["rollout", "status", DEPLOYMENT, "-n", SYSTEM, "--timeout=180s"])
        .await?;
    Ok(())
}

/// `<pod>_<number of the process>`; nothing while nobody leads.
async fn leader(stage: &Stage) -> Result<String> {
    stage
        .part(
            &["lease", "eventexport-operator", "-n", SYSTEM],
            "{.spec.holderIdentity}",
        )
        .await
}

fn pod_of(identity: &str) -> &str {
    identity.split('_').next().unwrap_or(identity)
}

/// The definition and every EventExport.
async fn kept(stage: &Stage) -> Result<Kept> {
    let path = "{range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let found = stage.part(&["eventexports,crds", "-n", AUDIT], path).await?;
    let pairs = found.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, uid)| (name.to_owned(), uid.to_owned()))
        .collect())
}

/// Fails unless all of it is there and the same, and the first export's days were not downloaded again.
async fn unchanged(stage: &Stage, before: &Kept, downloads: u64) -> Result<()> {
    let now = kept(stage).await?;
    for (name, uid) in before {
        ensure!(
            now.get(name) == Some(uid),
            "{name} was {uid}, is {:?}",
            now.get(name)
        );
    }
    let again = stage.downloads_of(JUNE) - downloads;
    ensure!(
        again == 0,
        "days that were stored were downloaded {again} times more"
    );
    stage.transcript.say(&format!(
        "the definition and {} exports are the same as before, and nothing stored was downloaded again",
        before.len() - 1
    ));
    Ok(())
}
