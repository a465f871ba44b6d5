//! The operator as a process with the account, arguments and environment of a Deployment's Pods, because the test bed
//! has no node to run them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::process::Command;

use super::kubectl;
use crate::bed::Cluster;
use crate::testkit::process::{Process, program};

/// Starts the Pod of the Deployment `eventexport` in that namespace.
pub(crate) async fn start(cluster: &Cluster, namespace: &str) -> Result<Arc<Process>> {
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
    let access = mount_access(cluster, namespace).await?;
    let args = container["args"].as_array().context("no arguments")?;
    let args = args
        .iter()
        .filter_map(Value::as_str)
        .map(|arg| match arg.strip_prefix("--metrics-listen=") {
            Some(_) => "--metrics-listen=127.0.0.1:0".to_owned(),
            None => arg
                .replace("$(POD_NAMESPACE)", namespace)
                .replace("/etc/eventexport/access", &access),
        });
    let env = container["env"].as_array().into_iter().flatten();
    let env = env.filter_map(|one| Some((one["name"].as_str()?, one["value"].as_str()?)));
    let mut command = Command::new(program());
    command
        .args(args)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .envs(env)
        // As in a company network: NO_PROXY exempts all peers, so nothing may use this proxy.
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .env("NO_PROXY", "127.0.0.1");
    Process::spawn_verbose(command)
}

/// Writes the ConfigMap of allowed hosts and grants to a folder, as the kubelet mounts it.
async fn mount_access(cluster: &Cluster, namespace: &str) -> Result<String> {
    let get = [
        "get",
        "configmap",
        "eventexport-access",
        "-n",
        namespace,
        "-o",
        "json",
    ];
    let config_map: Value = serde_json::from_str(&kubectl(cluster, &get).await?)?;
    let folder = cluster.folder().join(format!("access-{namespace}"));
    std::fs::create_dir_all(&folder)?;
    for (name, text) in config_map["data"].as_object().context("no data")? {
        std::fs::write(folder.join(name), text.as_str().context("no text")?)?;
    }
    Ok(folder.display().to_string())
}
