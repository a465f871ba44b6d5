//! The Indexed Job of `examples/job.yaml`, with a Pod killed during the export.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::fixture::{AUDIT, IMAGE, NodeFixture};

/// Number of shards and concurrent Pods.
const SHARDS: usize = 3;

/// Days of June: four per shard, two of them without events.
const DAYS: (i8, i8) = (4, 15);

const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/job.yaml");

pub(super) async fn export_by_a_job(fixture: &NodeFixture) -> Result<()> {
    fixture
        .transcript
        .part("Shards: an Indexed Job without access to Kubernetes, a Pod killed in the middle");
    let before = fixture.slow_downloads()?;
    let objects = fixture
        .kubectl(&["create", "--dry-run=client", "-o", "json", "-n", AUDIT, "-f", JOB])
        .await?;
    for object in serde_json::Deserializer::from_str(&objects).into_iter::<Value>() {
        fixture.apply(&adapted(fixture, object?)?).await?;
    }
    fixture
        .eventually("every day is being downloaded", async || {
            Ok(fixture.downloads() >= before + 12)
        })
        .await?;
    fixture
        .show(&[
            "get",
            "pods",
            "-n",
            AUDIT,
            "-o",
            "wide",
            "-L",
            "batch.kubernetes.io/job-completion-index",
        ])
        .await?;
    let open = fixture.simulator.open_sessions().len();
    fixture.transcript.say(&format!("{open} sessions are open"));

    let pod = fixture
        .part(
            &[
                "pods",
                "-n",
                AUDIT,
                "-l",
                "batch.kubernetes.io/job-completion-index=1",
            ],
            "{.items[0].metadata.name}",
        )
        .await?;
    fixture.kill(AUDIT, &pod).await?;
    fixture.restore_downloads();
    fixture
        .kubectl(&[
            "wait",
            "-n",
            AUDIT,
            "job/audit-2018",
            "--for=condition=Complete",
            "--timeout=180s",
        ])
        .await?;
    fixture
        .show(&[
            "get",
            "pods",
            "-n",
            AUDIT,
            "-o",
            "wide",
            "-L",
            "batch.kubernetes.io/job-completion-index",
        ])
        .await?;
    let status = fixture
        .part(
            &["job", "audit-2018", "-n", AUDIT],
            "{.status.succeeded} {.status.failed} {.status.completedIndexes}",
        )
        .await?;
    ensure!(status == "3 1 0-2", "succeeded, failed, indexes: {status}");
    let events = fixture.verify("sharded", DAYS)?;
    fixture.transcript.say(&format!(
        "12 days, {events} events: complete, nothing doubled, nothing left in the journal"
    ));
    fixture.no_session_open().await?;
    let pods = fixture
        .part(
            &["pods", "-n", AUDIT, "-l", "app.kubernetes.io/component=shard"],
            "{range .items[*]}{.metadata.name} {end}",
        )
        .await?;
    for pod in pods.split_whitespace() {
        fixture.show(&["logs", "-n", AUDIT, pod]).await?;
    }
    Ok(())
}

/// Adapts the example to the image, service, bucket and number of shards of this test.
fn adapted(fixture: &NodeFixture, mut object: Value) -> Result<Value> {
    object["metadata"]["namespace"] = json!(AUDIT);
    if object["kind"] == "ConfigMap" {
        let mut export = fixture.export("sharded", DAYS);
        // A manifest in a file has no namespace.
        export["metadata"] = json!({"name": "sharded"});
        object["data"]["export.yaml"] = json!(export.to_string());
        return Ok(object);
    }
    object["spec"]["completions"] = json!(SHARDS);
    object["spec"]["parallelism"] = json!(SHARDS);
    object["spec"]["maxFailedIndexes"] = json!(SHARDS);
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!(format!("{IMAGE}:{}", env!("CARGO_PKG_VERSION")));
    container["imagePullPolicy"] = json!("Never");
    // The node counts its copy of the image, and a build for development is large.
    container["resources"]["limits"]["ephemeral-storage"] = json!("1Gi");
    let shard = container["args"].as_array_mut().context("no args")?;
    for argument in shard {
        *argument = json!(
            argument
                .as_str()
                .context("an argument")?
                .replace("/8", &format!("/{SHARDS}"))
        );
    }
    let env = container["env"].as_array_mut().context("no env")?;
    // Certificate authority of this fixture; production stores have public ones.
    env.push(json!({"name": "EVENTEXPORT_SECRET_AUTHORITY_CA_CRT_FILE", "value": "/etc/eventexport/authority/ca.crt"}));
    let mounts = container["volumeMounts"].as_array_mut().context("no mounts")?;
    mounts.push(json!({"name": "authority", "mountPath": "/etc/eventexport/authority", "readOnly": true}));
    let volumes = object["spec"]["template"]["spec"]["volumes"]
        .as_array_mut()
        .context("no volumes")?;
    volumes.push(json!({"name": "authority", "secret": {"secretName": "authority", "defaultMode": 0o440}}));
    Ok(object)
}
