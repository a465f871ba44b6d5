//! Each way to install, validated by the API server: no unknown field, no warning, and Pods are admitted into a
//! namespace that enforces the restricted policy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use eventexport::cli::Cli;
use serde_json::{Value, json};

use super::helm::{CHART, Helm};
use super::{apply, kubectl};
use crate::bed::Cluster;

/// Namespaces of the plain manifests, of kustomize, of the chart's values, and of the demo.
const NAMESPACES: [&str; 5] = [
    "eventexport-system",
    "eventexport",
    "judged",
    "audit",
    "eventexport-demo",
];

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Checks manifests by a server-side dry run; a warning is an error.
async fn ensure_accepted(cluster: &Cluster, manifests: &str) -> Result<()> {
    let args = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=judge",
        "--dry-run=server",
        "--validate=strict",
        "--warnings-as-errors",
        "-f",
        "-",
    ];
    cluster.kubectl(&args, Some(manifests)).await.success().map(drop)
}

/// Returns the Pods of the Deployments, with the default account of a namespace.
fn pods(manifests: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests)?;
    let deployments = documents.into_iter().filter(|one| one["kind"] == "Deployment");
    let pod = |deployment: Value| {
        let mut template = deployment["spec"]["template"].clone();
        template["spec"]
            .as_object_mut()
            .context("a Deployment without Pods")?
            .remove("serviceAccountName");
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!("judged");
        metadata["namespace"] = deployment["metadata"]["namespace"].clone();
        Ok(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] }))
    };
    deployments.map(pod).collect()
}

/// Checks that the program accepts the arguments of its containers.
fn takes_its_arguments(pod: &Value) -> Result<()> {
    let containers = pod["spec"]["containers"].as_array().context("no containers")?;
    let own = |container: &&Value| {
        container["image"]
            .as_str()
            .is_some_and(|image| image.contains("eventexport"))
    };
    let own: Vec<_> = containers.iter().filter(own).collect();
    ensure!(
        !own.is_empty(),
        "no container has the image of the program: {pod}"
    );
    for container in own {
        let args = container["args"].as_array().into_iter().flatten();
        let args = args.filter_map(Value::as_str);
        Cli::try_parse_from(std::iter::once("eventexport").chain(args))?;
    }
    Ok(())
}

/// Returns each way to install: its name and its manifests.
async fn install_methods(helm: &Helm, cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let mut ways = Vec::new();
    for entry in fs::read_dir(Path::new(CHART).join("ci"))? {
        let values = entry?.path();
        ways.push((values.display().to_string(), helm.template(&values, &[]).await?));
    }
    for name in [
        "deploy/kustomize/crds",
        "deploy/kustomize/default",
        "deploy/kustomize/namespaced",
        "examples/demo",
    ] {
        let folder = root(name).display().to_string();
        ways.push((folder.clone(), kubectl(cluster, &["kustomize", &folder]).await?));
    }
    let plain = root("deploy/operator.yaml");
    ways.push((plain.display().to_string(), fs::read_to_string(plain)?));
    Ok(ways)
}

#[tokio::test]
async fn every_install_method_is_accepted_without_a_warning() -> Result<()> {
    let cluster = Cluster::shared().await;
    let helm = Helm::new(cluster)?;
    for name in NAMESPACES {
        let labels = json!({
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/warn": "restricted",
        });
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
        apply(cluster, &namespace).await?;
        let account = [
            "wait",
            "--for=create",
            "serviceaccount/default",
            "--timeout=60s",
            "-n",
            name,
        ];
        kubectl(cluster, &account).await?;
    }
    // CRDs of the Prometheus operator.
    let definitions = root(".bed/definitions");
    ensure!(
        definitions.is_dir(),
        "{} is missing: run `make bed-charts`",
        definitions.display()
    );
    cluster.apply_crd(&definitions).await?;

    let ways = install_methods(&helm, cluster).await?;
    ensure!(ways.len() >= 8, "only {} ways to install", ways.len());
    let mut admitted = 0;
    for (name, manifests) in ways {
        ensure_accepted(cluster, &manifests)
            .await
            .with_context(|| name.clone())?;
        for pod in pods(&manifests)? {
            takes_its_arguments(&pod).with_context(|| name.clone())?;
            ensure_accepted(cluster, &pod.to_string())
                .await
                .with_context(|| format!("a Pod of {name}"))?;
            admitted += 1;
        }
    }
    ensure!(admitted >= 6, "only {admitted} Pods were judged");

    // Proves that the check can fail.
    let minimal = Path::new(CHART).join("ci/minimal-values.yaml");
    let lax = helm
        .template(
            &minimal,
            &["--set", "securityContext.allowPrivilegeEscalation=true"],
        )
        .await?;
    let Err(error) = ensure_accepted(cluster, &lax).await else {
        bail!("a Deployment that the policy forbids was taken");
    };
    ensure!(error.to_string().contains("PodSecurity"), "{error}");
    Ok(())
}

/// Fields of the schema without a default.
const WITHOUT_DEFAULT: [&str; 12] = [
    // Set by a parent chart.
    "global",
    "enabled",
    // The defaults are those of Kubernetes.
    "affinity.nodeAffinity",
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "resources.claims",
    "resources.requests",
    "resources.limits",
    "livenessProbe.initialDelaySeconds",
    "livenessProbe.successThreshold",
    "readinessProbe.initialDelaySeconds",
    "readinessProbe.successThreshold",
];

/// Collects the paths of all properties that the schema allows in objects of a fixed shape.
fn paths(schema: &Value, whole: &Value, above: &str, found: &mut Vec<String>) {
    let schema = match schema["$ref"].as_str().and_then(|to| to.strip_prefix('#')) {
        Some(pointer) => whole.pointer(pointer).unwrap_or(schema),
        None => schema,
    };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        paths(property, whole, &path, found);
        found.push(path);
    }
}

#[test]
fn every_chart_value_has_a_default_and_documentation() -> Result<()> {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(Path::new(CHART).join("values.schema.json"))?)?;
    let values: Value = serde_saphyr::from_str(&fs::read_to_string(Path::new(CHART).join("values.yaml"))?)?;
    let mut allowed = Vec::new();
    paths(&schema, &schema, "", &mut allowed);
    ensure!(allowed.len() > 90, "only {} values were found", allowed.len());
    let unknown: Vec<&String> = allowed
        .iter()
        .filter(|path| !WITHOUT_DEFAULT.contains(&path.as_str()))
        .filter(|path| values.pointer(&format!("/{}", path.replace('.', "/"))).is_none())
        .collect();
    ensure!(unknown.is_empty(), "not in values.yaml: {unknown:?}");
    Ok(())
}
