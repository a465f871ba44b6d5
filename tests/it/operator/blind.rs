//! An operator that may not list its resources says so: it is not ready, and a metric has the age of its view.

use anyhow::{Context as _, Result, ensure};
use jiff::civil::date;
use serde_json::json;

use super::{apply, condition, eventually, existing};
use crate::testkit::command::run_in;
use crate::testkit::environment::Environment;
use crate::testkit::operator::SHORT_LEASE;

#[tokio::test]
async fn an_operator_without_the_right_to_list_is_not_ready_and_recovers() -> Result<()> {
    let fixture = Environment::builder("blind")
        .today(date(2018, 7, 1))
        .start()
        .await?;
    let (cluster, namespace) = (fixture.cluster, fixture.namespace.as_str());
    let user = format!("{namespace}-operator");
    let role = |name: &str, rules: serde_json::Value| {
        let metadata = json!({ "namespace": namespace, "name": name });
        let subject = json!({ "kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io" });
        let reference = json!({ "kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io" });
        [
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules }),
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
                "roleRef": reference, "subjects": [subject] }),
        ]
    };
    let lease = json!([{ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update", "list"] }]);
    for document in role("lease", lease) {
        apply(cluster, &document).await?;
    }
    fixture
        .create("june", ["2018-06-01", "2018-06-03"], &json!({}))
        .await?;
    let kubeconfig = cluster.kubeconfig_for_user(&user, None)?;
    let operator = fixture.operator().lease(SHORT_LEASE).kubeconfig(&kubeconfig);
    let operator = operator.args(&["--cluster-id", "test"]).start().await?;
    let age = async || {
        let text = operator.metrics().await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("eventexport_resource_list_age_seconds "));
        Ok::<_, anyhow::Error>(line.map(str::to_owned))
    };
    eventually("the age grows", async || {
        let age = age().await?.unwrap_or_default();
        Ok(age.parse::<f64>().unwrap_or_default() > 3.0)
    })
    .await?;
    ensure!(operator.leads().await);
    let (status, text) = operator.get("/readyz").await?;
    ensure!(
        status == 503 && text.contains("EventExports not listed yet"),
        "{status} {text}"
    );
    let health = async || run_in(fixture.folder.path(), &["health", operator.address()]).await;
    let text = health().await.expect_exit(1).out;
    ensure!(text.contains("EventExports not listed yet"), "{text}");
    let lines = operator.lines();
    let refused = lines.iter().find(|line| {
        line["message"]
            .as_str()
            .unwrap_or_default()
            .starts_with("cannot watch")
    });
    let refused = refused.context("nothing in the log")?.to_string();
    ensure!(
        refused.contains("forbidden") || refused.contains("403"),
        "{refused}"
    );

    // The right is granted: nothing else is needed.
    let rights = json!([
        { "apiGroups": ["eventexport.io"], "resources": ["eventexports"], "verbs": ["get", "list", "watch", "patch"] },
        { "apiGroups": ["eventexport.io"], "resources": ["eventexports/status"], "verbs": ["patch"] },
        { "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] },
    ]);
    for document in role("operator", rights) {
        apply(cluster, &document).await?;
    }
    eventually(
        "it is ready",
        async || Ok(operator.get("/readyz").await?.0 == 200),
    )
    .await?;
    ensure!(age().await?.is_some_and(|age| age.parse() == Ok(0.0)));
    let text = health().await.expect_exit(0).out;
    ensure!(text.ends_with(": ready, leads\n"), "{text}");
    eventually("it serves the export", async || {
        let object = existing(cluster, namespace, "june").await?;
        Ok(condition(&object, "Complete") == "True/Complete")
    })
    .await
}
