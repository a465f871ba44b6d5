//! The operator as a process with the account, arguments and environment of a Deployment's Pods, because the test bed
//! has no node to run them.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::kubectl;
use crate::bed::Cluster;

/// Starts the Pod of the Deployment `eventexport` in that namespace.
pub(super) async fn start(cluster: &Cluster, namespace: &str) -> Result<Child> {
    let text = kubectl(
        cluster,
        &["get", "deployment", "eventexport", "-n", namespace, "-o", "json"],
    )
    .await?;
    let deployment: Value = serde_json::from_str(&text)?;
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let account = pod["serviceAccountName"].as_str().context("no account")?;
    let kubeconfig = cluster.kubeconfig_for_service_account(namespace, account).await?;
    let args = container["args"].as_array().context("no arguments")?;
    let args = args
        .iter()
        .filter_map(Value::as_str)
        .map(|arg| match arg.strip_prefix("--metrics-listen=") {
            Some(_) => "--metrics-listen=127.0.0.1:0".to_owned(),
            None => arg.replace("$(POD_NAMESPACE)", namespace),
        });
    let env = container["env"].as_array().into_iter().flatten();
    let env = env.filter_map(|one| Some((one["name"].as_str()?, one["value"].as_str()?)));
    let child = Command::new(env!("CARGO_BIN_EXE_eventexport"))
        .args(args)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .envs(env)
        // As in a company network: NO_PROXY exempts all peers, so nothing may use this proxy.
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// Stops it as the kubelet does; it must exit successfully.
pub(super) async fn stop(mut operator: Child) -> Result<()> {
    let id = operator.id().context("it ended")?.to_string();
    Command::new("kill").args(["-TERM", &id]).status().await?;
    let ended = operator.wait().await?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}
