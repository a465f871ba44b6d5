//! GitOps tools: health according to kstatus and Argo CD, no drift of fields, and a real Flux that deploys, waits,
//! fails and prunes. `make bed-gitops` builds the tools.

mod drift;
mod flux;
mod phases;
mod reasons;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Health script of the documentation.
const HEALTH_SCRIPT: &str = "examples/argocd/health.lua";

/// Health of a resource according to a tool.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct HealthVerdict {
    status: String,
    message: String,
}

/// Returns the health according to kstatus, as Flux and others use it.
async fn kstatus(resources: &[Value]) -> Result<Vec<HealthVerdict>> {
    tool("kstatus", &[], resources).await
}

/// Returns the health according to Argo CD with our script.
async fn argo_health(resources: &[Value]) -> Result<Vec<HealthVerdict>> {
    let script = file(HEALTH_SCRIPT).display().to_string();
    tool("argocd", &["health", &script], resources).await
}

/// Runs a tool; returns one verdict per value.
async fn tool<T: for<'a> Deserialize<'a>>(name: &str, args: &[&str], values: &[Value]) -> Result<Vec<T>> {
    let mut child = Command::new(program(name)?)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut pipe = child.stdin.take().context("no standard input")?;
    let input: Vec<String> = values.iter().map(Value::to_string).collect();
    let input = input.join("\n");
    let feed = async move {
        let _ = pipe.write_all(input.as_bytes()).await;
        drop(pipe);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    ensure!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answers: Vec<T> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()?;
    ensure!(
        answers.len() == values.len(),
        "{name}: {} answers to {}",
        answers.len(),
        values.len()
    );
    Ok(answers)
}

fn program(name: &str) -> Result<PathBuf> {
    let path = file(".bed/bin").join(name);
    ensure!(
        path.is_file(),
        "the test bed's {name} is missing: run `make bed-gitops` first ({} does not exist)",
        path.display()
    );
    Ok(path)
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// True if both verdicts mean the same. Only Argo CD has a verdict for suspended exports.
fn verdicts_agree(kstatus: &str, argo: &str) -> bool {
    matches!(
        (kstatus, argo),
        ("Current", "Healthy") | ("Failed", "Degraded") | ("InProgress", "Progressing" | "Suspended")
    )
}

#[test]
fn the_config_map_holds_the_health_script() -> Result<()> {
    let script = std::fs::read_to_string(file(HEALTH_SCRIPT))?;
    let text = std::fs::read_to_string(file("examples/argocd/argocd-cm.yaml"))?;
    let map: Value = serde_saphyr::from_str(&text)?;
    let held = map["data"]["resource.customizations.health.eventexport.io_EventExport"].as_str();
    ensure!(
        held == Some(&script),
        "examples/argocd/argocd-cm.yaml does not hold the text of {HEALTH_SCRIPT}"
    );
    Ok(())
}
