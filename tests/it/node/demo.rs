//! The demo of `make demo`: an operator with a simulator and an S3 gateway in its Pod, and an export of a month.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::fixture::{IMAGE, image_archive};
use super::transcript::Transcript;
use crate::bed::{Cluster, Node, program};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo");

/// Maximum time of one command; the demo itself waits at most three minutes for each step.
const COMMAND_LIMIT: Duration = Duration::from_mins(12);

/// Context in the kubeconfig of the cluster.
const CONTEXT: &str = "bed";

/// Runs a shell command as the user of the cluster does, and adds it and its output to the transcript.
async fn sh(cluster: &Cluster, transcript: &Transcript, command: &str) -> Result<String> {
    let bin = program("kubectl")?.parent().context("no folder")?.to_owned();
    let began = Instant::now();
    let mut shell = Command::new("sh");
    let running = shell
        .args(["-c", command])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH")?))
        .env("KUBECONFIG", cluster.kubeconfig_path())
        .env("KUBERC", "off")
        .env("HOME", cluster.folder())
        .env("DEMO_CONTEXT", CONTEXT)
        .env("DEMO_IMAGE", format!("{IMAGE}:{}", env!("CARGO_PKG_VERSION")))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(COMMAND_LIMIT, running)
        .await
        .with_context(|| format!("not within {COMMAND_LIMIT:?}: {command}"))??;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    transcript.show(command, &format!("{stdout}{stderr}"));
    ensure!(output.status.success(), "{command}: {stdout}{stderr}");
    transcript.say(&format!("that took {:.1} s", began.elapsed().as_secs_f64()));
    Ok(stdout)
}

/// Returns the image of the demo with this name.
fn demo_image(name: &str) -> Result<String> {
    let manifest = fs::read_to_string(Path::new(DEMO).join("sidecars.yaml"))?;
    let mut images = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image: "));
    let image = images.find(|image| image.contains(&format!("{name}:")));
    let image = image.with_context(|| format!("the demo has no image {name}"))?;
    Ok(image.trim_matches('"').to_owned())
}

#[test]
fn the_demo_has_the_version_of_the_program_and_the_gateway_of_the_tests() -> Result<()> {
    ensure!(demo_image("eventexport")? == format!("eventexport:{}", env!("CARGO_PKG_VERSION")));
    let tools = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/tools/go.mod"))?;
    let version = tools
        .lines()
        .find_map(|line| line.trim().strip_prefix("github.com/versity/versitygw "))
        .and_then(|rest| rest.split_whitespace().next())
        .context("the test bed has no versitygw")?;
    ensure!(
        demo_image("versitygw")? == format!("versity/versitygw:{version}"),
        "{version}"
    );
    Ok(())
}

/// Imports the S3 gateway of the test bed as the image that the demo names.
async fn import_gateway(node: &Node) -> Result<()> {
    let image = demo_image("versitygw")?;
    let folder = node.folder().join("gateway-image");
    fs::create_dir(&folder)?;
    fs::copy(program("versitygw")?, folder.join("versitygw"))?;
    fs::write(
        folder.join("Dockerfile"),
        "FROM scratch\nCOPY versitygw /versitygw\nENTRYPOINT [\"/versitygw\"]\n",
    )?;
    let archive = node.folder().join("gateway.tar");
    let output = Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/image/pack"))
        .arg(&folder)
        .arg(format!("docker.io/{image}"))
        .arg(&archive)
        .output()
        .await?;
    ensure!(output.status.success(), "no image of the gateway: {output:?}");
    node.import(&archive).await
}

/// Starts the demo, runs every command that it prints, and removes it.
pub(super) async fn run_demo() -> Result<()> {
    let archive = image_archive()?;
    let transcript = Transcript::create("demo.md", "The demo on a real node")?;
    let cluster = Cluster::start().await?;
    // As in a cluster before the first installation.
    let crd = ["delete", "crd", "eventexports.eventexport.io"];
    cluster.kubectl(&crd, None).await.success()?;
    let node = Node::start(&cluster).await?;
    node.import(&archive).await?;
    import_gateway(&node).await?;

    let lived = start_look_and_remove(&cluster, &transcript).await;
    if let Err(error) = &lived {
        transcript.say(&format!("it failed: {error:#}"));
        for command in [
            "kubectl get pods -A -o wide",
            "kubectl get events -A --sort-by=.lastTimestamp",
            "kubectl -n eventexport-system logs deployment/eventexport --all-containers --prefix --tail=40",
        ] {
            let _ = sh(&cluster, &transcript, command).await;
        }
    }
    println!("the transcript is {}", transcript.path().display());
    lived
}

async fn start_look_and_remove(cluster: &Cluster, transcript: &Transcript) -> Result<()> {
    // A cluster that is not a local one needs a confirmation.
    let refused = sh(cluster, transcript, "DEMO_CONTEXT= examples/demo/demo up").await;
    let refused = refused.unwrap_err().to_string();
    ensure!(refused.contains("DEMO_CONTEXT=bed"), "{refused}");

    let printed = sh(cluster, transcript, "examples/demo/demo up").await?;
    let commands: Vec<&str> = printed
        .lines()
        .skip_while(|line| !line.starts_with("The archive is complete"))
        .filter(|line| line.starts_with("kubectl "))
        .collect();
    ensure!(commands.len() == 4, "{commands:?}");
    let mut outputs = Vec::new();
    for command in commands {
        outputs.push(sh(cluster, transcript, command).await?);
    }
    let shown = outputs.join("\n");
    for wanted in [
        "Complete",
        "Proved: 2018-06-01/2018-06-30: 30 windows with 5,040 events",
        "30 of 30 days covered",
    ] {
        ensure!(shown.contains(wanted), "no command shows {wanted:?}: {shown}");
    }
    // Once more, as after a change of the manifests.
    sh(cluster, transcript, "examples/demo/demo up").await?;

    sh(cluster, transcript, "examples/demo/demo down").await?;
    let left = sh(
        cluster,
        transcript,
        "kubectl get crds,clusterroles,clusterrolebindings,namespaces -o name",
    )
    .await?;
    ensure!(!left.contains("eventexport"), "{left}");
    Ok(())
}
