//! Rights that are used, from the API server's audit log, and the rights needed to install an operator.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::helm::{CHART, Helm};
use super::{apply, eventually, kubectl, pod, wait_conditions};
use crate::bed::{Cluster, Gateway};
use crate::testkit::environment::{STOP_LIMIT, june, simulator};

#[tokio::test]
async fn a_namespace_admin_can_install_an_operator_for_it() -> Result<()> {
    let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
    for base in [
        concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kustomize/crds"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kustomize/delegation"),
    ] {
        kubectl(
            cluster,
            &["apply", "--server-side", "--force-conflicts", "-k", base],
        )
        .await?;
    }
    let namespace = cluster.namespace("tenant").await;
    let bind = [
        "create",
        "rolebinding",
        "admin",
        "--clusterrole=admin",
        "--user=ann",
        "-n",
        &namespace,
    ];
    kubectl(cluster, &bind).await?;
    eventually("the role admin is put together", async || {
        let may = [
            "auth",
            "can-i",
            "patch",
            "eventexports",
            "--subresource=status",
            "-n",
            &namespace,
            "--as=ann",
        ];
        Ok(cluster.kubectl(&may, None).await.status.success())
    })
    .await?;

    let ann = Helm::with(cluster, cluster.kubeconfig_for_user("ann", None)?)?;
    let values = Path::new(CHART)
        .join("ci/namespaced-values.yaml")
        .display()
        .to_string();
    let set = format!("scope.namespaces={{{namespace}}},allowHosts={{127.0.0.1}}");
    let install = [
        "install",
        "eventexport",
        CHART,
        "-n",
        &namespace,
        "--values",
        &values,
        "--set",
        &set,
    ];
    ann.run(&install).await?;

    let complete = ["True/Complete", "True/Complete", "", ""];
    let simulator = simulator().await?;
    gateway.create_bucket(&namespace).await?;
    let export = june(&simulator, &namespace, &namespace, gateway);
    for document in &export.documents() {
        apply(cluster, document).await?;
    }
    let process = pod::start(cluster, &namespace).await?;
    wait_conditions(cluster, &namespace, "june", complete).await?;
    ensure!(process.stop(STOP_LIMIT).await?, "it did not stop well");
    ann.run(&["uninstall", "eventexport", "-n", &namespace]).await?;
    wait_conditions(cluster, &namespace, "june", complete).await?;
    Ok(())
}

/// Returns the rights of the operator's roles that no request has used so far, from the audit log.
pub(super) async fn unused(cluster: &Cluster, namespace: &str) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    for line in fs::read_to_string(cluster.folder().join("audit.log"))?.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["user"]["username"] == format!("system:serviceaccount:{namespace}:eventexport") {
            let agent = event["userAgent"].as_str().unwrap_or_default();
            ensure!(
                agent.starts_with("eventexport/"),
                "the operator calls itself {agent:?}"
            );
            let (verb, object) = (&event["verb"], &event["objectRef"]);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let mut resource = text(&object["resource"]);
            if let Some(part) = object["subresource"].as_str() {
                resource = format!("{resource}/{part}");
            }
            used.insert(format!("{} {resource}", text(verb)));
        }
    }
    ensure!(!used.is_empty(), "the audit log names nothing of the operator");
    // Used only after a conflict.
    used.insert("get eventexports".to_owned());
    let args = [
        "get",
        "clusterrole/eventexport",
        "role/eventexport-lease",
        "-n",
        namespace,
        "-o",
        "json",
    ];
    let found: Value = serde_json::from_str(&kubectl(cluster, &args).await?)?;
    let rules = found["items"].as_array().context("no roles")?;
    let rules = rules
        .iter()
        .flat_map(|role| role["rules"].as_array().into_iter().flatten());
    let granted = rules.flat_map(|rule| {
        let list = |field: &str| rule[field].as_array().cloned().unwrap_or_default();
        let verbs = list("verbs");
        list("resources").into_iter().flat_map(move |resource| {
            let verbs = verbs.clone();
            verbs.into_iter().map(move |verb| {
                format!(
                    "{} {}",
                    verb.as_str().unwrap_or_default(),
                    resource.as_str().unwrap_or_default()
                )
            })
        })
    });
    Ok(granted.filter(|right| !used.contains(right)).collect())
}
