//! Lifecycle of a release: install, export, upgrade, rollback, leader kill, uninstall and reinstall. The archive and
//! the resources survive all of it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::fixture::{AUDIT, IMAGE, NodeFixture, SYSTEM};

const RELEASE: &str = "eventexport";

/// Current chart.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/eventexport");

/// Version of the chart that is installed first. Its definition of the resource has an older rule.
const PREVIOUS_VERSION: &str = "0.0.1";
const RULE: &str = "maximum: 30";
const PREVIOUS_RULE: &str = "maximum: 29";

const DEPLOYMENT: &str = "deployment/eventexport";

/// Days of the first export.
const JUNE: (i8, i8) = (1, 7);

/// State that the release must not change: names with their UIDs.
type PreservedState = BTreeMap<String, String>;

/// Installs the first chart and exports a resource; returns when the archive is verified.
pub(super) async fn install_and_export(fixture: &NodeFixture) -> Result<()> {
    fixture.transcript.part("Installed by Helm, and an export");
    fixture
        .node
        .tag(
            &format!("{IMAGE}:{}", env!("CARGO_PKG_VERSION")),
            &format!("{IMAGE}:{PREVIOUS_VERSION}"),
        )
        .await?;
    let began = Instant::now();
    let previous = previous_chart(fixture).await?;
    fixture.helm(&arguments("install", &previous, &[])).await?;
    ensure!(
        definition(fixture).await?.contains(PREVIOUS_RULE),
        "not the older definition"
    );
    fixture.apply(&fixture.export("june", JUNE)).await?;
    fixture
        .eventually("a first window is stored", async || {
            Ok(fixture.receipts("june") > 0)
        })
        .await?;
    let first = began.elapsed().as_secs_f64();
    fixture.transcript.say(&format!(
        "**{first:.1} s from `helm install` to the first stored window**"
    ));
    fixture.wait_complete("june").await?;
    let events = fixture.verify("june", JUNE)?;
    fixture.transcript.say(&format!(
        "7 days, {events} events: every receipt and object is as the service has it, and nothing else is there"
    ));
    fixture.no_session_open().await?;
    rolled_out(fixture).await?;
    fixture.show(&["get", "eventexports", "-n", AUDIT]).await?;
    fixture.show(&["get", "pods", "-n", SYSTEM, "-o", "wide"]).await?;
    let security = "{.spec.template.spec.securityContext}{.spec.template.spec.containers[0].securityContext}";
    let security = fixture.part(&[DEPLOYMENT, "-n", SYSTEM], security).await?;
    fixture.transcript.say(&format!(
        "admitted by a namespace that enforces the restricted policy: {security}"
    ));
    let leader = leader(fixture).await?;
    fixture.show(&["logs", "-n", SYSTEM, pod_of(&leader)]).await?;
    Ok(())
}

/// Upgrades to the current chart during an export, and rolls back.
pub(super) async fn upgrade_and_roll_back(fixture: &NodeFixture) -> Result<()> {
    fixture
        .transcript
        .part("Upgraded while it exports, and rolled back");
    let kept = preserved_state(fixture).await?;
    let downloads = fixture.downloads_of(JUNE);

    let before = fixture.slow_downloads()?;
    fixture.apply(&fixture.export("upgraded", (11, 14))).await?;
    fixture
        .eventually("four downloads run", async || {
            Ok(fixture.downloads() >= before + 4)
        })
        .await?;
    fixture
        .transcript
        .say("four downloads run, and would for a while");
    fixture
        .helm(&arguments("upgrade", CHART, &["--wait", "--timeout=3m"]))
        .await?;
    ensure!(
        definition(fixture).await?.contains(RULE),
        "the definition is not upgraded"
    );
    fixture.restore_downloads();
    fixture.wait_complete("upgraded").await?;
    fixture.verify("upgraded", (11, 14))?;
    fixture.no_session_open().await?;
    unchanged(fixture, &kept, downloads).await?;
    fixture
        .show(&[
            "get",
            "pods",
            "-n",
            SYSTEM,
            "-o",
            "custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image",
        ])
        .await?;

    fixture
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
    ensure!(
        definition(fixture).await?.contains(PREVIOUS_RULE),
        "the definition is not rolled back"
    );
    fixture.apply(&fixture.export("back", (18, 19))).await?;
    fixture.wait_complete("back").await?;
    fixture.verify("back", (18, 19))?;
    fixture.no_session_open().await?;
    unchanged(fixture, &kept, downloads).await?;
    fixture
        .helm(&arguments("upgrade", CHART, &["--wait", "--timeout=3m"]))
        .await?;
    fixture.helm(&["history", RELEASE, "--namespace", SYSTEM]).await?;
    Ok(())
}

/// Kills the leader during four downloads: another Pod continues.
pub(super) async fn kill_the_leader(fixture: &NodeFixture) -> Result<()> {
    fixture.transcript.part("The leader is killed");
    let before = fixture.slow_downloads()?;
    fixture.apply(&fixture.export("killed", (25, 28))).await?;
    fixture
        .eventually("four downloads run", async || {
            Ok(fixture.downloads() >= before + 4)
        })
        .await?;
    let first = leader(fixture).await?;
    fixture.transcript.say(&format!(
        "{first} leads, with {} sessions open",
        fixture.simulator.open_sessions().len()
    ));
    fixture.kill(SYSTEM, pod_of(&first)).await?;
    fixture.restore_downloads();
    let took = fixture
        .eventually("another process leads", async || {
            let now = leader(fixture).await?;
            Ok(!now.is_empty() && now != first)
        })
        .await?;
    let second = leader(fixture).await?;
    fixture.transcript.say(&format!(
        "**{second} leads {:.1} s after the kill** (the lease lasts 15 s)",
        took.as_secs_f64()
    ));
    fixture.wait_complete("killed").await?;
    fixture.verify("killed", (25, 28))?;
    fixture.no_session_open().await?;
    fixture
        .show(&["logs", "-n", SYSTEM, pod_of(&second), "--tail=20"])
        .await?;

    fixture.transcript.say("now its Pod is deleted without grace");
    let delete = [
        "delete",
        "pod",
        "-n",
        SYSTEM,
        pod_of(&second),
        "--grace-period=0",
        "--force",
    ];
    fixture.show(&delete).await?;
    fixture.apply(&fixture.export("deleted", (20, 21))).await?;
    fixture.wait_complete("deleted").await?;
    fixture.verify("deleted", (20, 21))?;
    let third = leader(fixture).await?;
    ensure!(third != second, "{second} still leads");
    fixture
        .transcript
        .say(&format!("{third} leads, and the next export is complete"));
    fixture.no_session_open().await
}

/// Uninstalls, which removes only the release's own objects, and reinstalls, which downloads nothing again.
pub(super) async fn uninstall_and_install_again(fixture: &NodeFixture) -> Result<()> {
    fixture.transcript.part("Uninstalled, and installed again");
    let kept = preserved_state(fixture).await?;
    let downloads = fixture.downloads_of(JUNE);
    fixture
        .helm(&[
            "uninstall",
            RELEASE,
            "--namespace",
            SYSTEM,
            "--wait",
            "--timeout=3m",
        ])
        .await?;
    let own_objects = [
        "get",
        "deployments,pods,services,serviceaccounts,roles,clusterroles,poddisruptionbudgets",
        "-n",
        SYSTEM,
        "-l",
        "app.kubernetes.io/instance=eventexport",
        "-o",
        "name",
    ];
    fixture
        .eventually("nothing of the release is left", async || {
            Ok(fixture.kubectl(&own_objects).await?.is_empty())
        })
        .await?;
    unchanged(fixture, &kept, downloads).await?;
    fixture.verify("june", JUNE)?;
    fixture.show(&["get", "crds,eventexports", "-n", AUDIT]).await?;

    fixture
        .helm(&arguments("install", CHART, &["--wait", "--timeout=3m"]))
        .await?;
    // A change of the spec triggers the new operator, which finds everything in the archive.
    fixture
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
    fixture
        .eventually("the new operator has looked", async || {
            let path = "{.metadata.generation} {.status.observedGeneration}";
            let generations = fixture.part(&["eventexport", "june", "-n", AUDIT], path).await?;
            Ok(generations
                .split_once(' ')
                .is_some_and(|(wanted, seen)| wanted == seen))
        })
        .await?;
    fixture.wait_complete("june").await?;
    unchanged(fixture, &kept, downloads).await?;
    fixture.transcript.say("nothing was downloaded again");
    fixture.show(&["get", "eventexports", "-n", AUDIT]).await?;
    Ok(())
}

/// Packages the chart as the previous version, with an older definition of the resource. Returns the path.
async fn previous_chart(fixture: &NodeFixture) -> Result<String> {
    let folder = fixture.node.folder().join("previous-chart");
    let copied = Command::new("cp")
        .arg("-r")
        .args([CHART.as_ref(), folder.as_os_str()])
        .status()?;
    ensure!(copied.success(), "cannot copy {CHART}");
    let definition = folder.join("files/crds/eventexports.yaml");
    let text = fs::read_to_string(&definition)?;
    let older = text.replace(RULE, PREVIOUS_RULE);
    ensure!(older != text, "{} has no {RULE}", definition.display());
    fs::write(&definition, older)?;
    let destination = fixture.node.folder().display().to_string();
    let folder = folder.display().to_string();
    let package = [
        "package",
        &folder,
        "--version",
        PREVIOUS_VERSION,
        "--app-version",
        PREVIOUS_VERSION,
        "--destination",
        &destination,
    ];
    fixture.helm(&package).await?;
    Ok(format!("{destination}/eventexport-{PREVIOUS_VERSION}.tgz"))
}

/// Returns the definition of the resource.
async fn definition(fixture: &NodeFixture) -> Result<String> {
    let definition = ["get", "crd", "eventexports.eventexport.io", "-o", "yaml"];
    fixture.kubectl(&definition).await
}

/// Returns the arguments of an install or upgrade with the values of this machine.
fn arguments<'a>(verb: &'a str, chart: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![verb, RELEASE, chart, "--namespace", SYSTEM];
    for value in [
        "image.repository=localhost/eventexport",
        "image.pullPolicy=Never",
        "replicaCount=2",
        "allowHosts={10.96.0.1}",
        // The node counts its copy of the image, and a build for development is large.
        "resources.limits.ephemeral-storage=1Gi",
    ] {
        arguments.extend(["--set", value]);
    }
    arguments.extend(more);
    arguments
}

async fn rolled_out(fixture: &NodeFixture) -> Result<()> {
    fixture
        .show(&["rollout", "status", DEPLOYMENT, "-n", SYSTEM, "--timeout=180s"])
        .await?;
    Ok(())
}

/// Returns `<pod>_<process number>` of the leader; empty without one.
async fn leader(fixture: &NodeFixture) -> Result<String> {
    fixture
        .part(
            &["lease", "eventexport-operator", "-n", SYSTEM],
            "{.spec.holderIdentity}",
        )
        .await
}

fn pod_of(identity: &str) -> &str {
    identity.split('_').next().unwrap_or(identity)
}

/// Returns the CRD and all `EventExports`.
async fn preserved_state(fixture: &NodeFixture) -> Result<PreservedState> {
    let path = "{range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let found = fixture.part(&["eventexports,crds", "-n", AUDIT], path).await?;
    let pairs = found.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, uid)| (name.to_owned(), uid.to_owned()))
        .collect())
}

/// Checks that all of it is unchanged and that the days of the first export were not downloaded again.
async fn unchanged(fixture: &NodeFixture, before: &PreservedState, downloads: u64) -> Result<()> {
    let now = preserved_state(fixture).await?;
    for (name, uid) in before {
        ensure!(
            now.get(name) == Some(uid),
            "{name} was {uid}, is {:?}",
            now.get(name)
        );
    }
    let again = fixture.downloads_of(JUNE) - downloads;
    ensure!(
        again == 0,
        "days that were stored were downloaded {again} times more"
    );
    fixture.transcript.say(&format!(
        "the definition and {} exports are the same as before, and nothing stored was downloaded again",
        before.len() - 1
    ));
    Ok(())
}
