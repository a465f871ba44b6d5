//! The bucket identity of a tenant: a ServiceAccount of the namespace, whose token a fake STS exchanges.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{apply, eventually, get, kubectl};
use crate::testkit::environment::Environment;
use crate::testkit::manifest::{Manifest, tracker_keys};
use crate::testkit::operator::OperatorCommand;
use crate::testkit::process::Process;
use crate::testkit::sts::{FakeSts, StsReply};

const ROLE: &str = "arn:aws:iam::111122223333:role/archive";
const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";

struct Tenant {
    env: Environment,
    sts: FakeSts,
}

impl Tenant {
    async fn new(name: &str) -> Result<Self> {
        let env = Environment::builder(name).start().await?;
        let sts = FakeSts::start(env.gateway.access_key(), env.gateway.secret_key()).await?;
        Ok(Self { env, sts })
    }

    /// Lets the operator use the STS, and no other identity.
    async fn start(&self, operator: OperatorCommand) -> Result<Arc<Process>> {
        operator
            .env("AWS_ENDPOINT_URL_STS", &self.sts.url())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .start()
            .await
    }

    fn export(&self, name: &str, account: &str) -> Manifest {
        self.env
            .export(name)
            .days("2018-06-05", "2018-06-05")
            .set("destination.s3.prefix", name)
            .set("destination.s3.credentialsSecretRef", Value::Null)
            .set("destination.s3.serviceAccountName", account)
    }

    async fn account(&self, namespace: &str, name: &str, role: Option<&str>) -> Result<()> {
        let annotations = role.map(|role| json!({ ROLE_ANNOTATION: role }));
        let metadata = json!({ "namespace": namespace, "name": name, "annotations": annotations });
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata });
        apply(self.env.cluster, &account).await
    }

    /// Waits for the reason; returns the message.
    async fn wait_reason(&self, namespace: &str, name: &str, reason: &str, part: &str) -> Result<String> {
        let mut last = Value::Null;
        eventually(reason, async || {
            let object = get(self.env.cluster, namespace, name).await?;
            last = object.context("it is gone")?["status"].take();
            let message = last["lastError"]["message"].as_str().unwrap_or_default();
            Ok(last["lastError"]["reason"] == reason && message.contains(part))
        })
        .await
        .with_context(|| format!("{part}: {last}"))?;
        Ok(last["lastError"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }
}

#[tokio::test]
async fn exports_use_the_role_of_their_service_account() -> Result<()> {
    let tenant = Tenant::new("tenant-role").await?;
    let (env, namespace) = (&tenant.env, tenant.env.namespace.as_str());
    let subject = format!("system:serviceaccount:{namespace}:archive");
    tenant.sts.trust_only(&subject);
    tenant.account(namespace, "archive", Some(ROLE)).await?;
    let operator = tenant.start(env.operator()).await?;
    for name in ["june", "again"] {
        env.apply(&tenant.export(name, "archive")).await?;
    }
    for name in ["june", "again"] {
        env.wait_complete(name).await?;
    }
    let calls = tenant.sts.calls();
    ensure!(calls.len() == 1, "{} calls", calls.len());
    let call = calls.first().context("no call")?;
    let claims = call.claims()?;
    ensure!(call.role == ROLE, "{call:?}");
    ensure!(
        call.session == format!("eventexport@{namespace}@archive"),
        "{}",
        call.session
    );
    ensure!(claims["sub"] == subject.as_str(), "{claims}");
    ensure!(claims["aud"] == json!(["sts.amazonaws.com"]), "{claims}");
    let life = claims["exp"].as_i64().zip(claims["iat"].as_i64());
    ensure!(life.is_some_and(|(end, start)| end - start == 600), "{claims}");
    // No secret is shown.
    let events = kubectl(env.cluster, &["get", "events", "-n", namespace, "-o", "json"]).await?;
    let status = env.object("june").await?.to_string();
    for text in [operator.log(), events, status] {
        for secret in [call.token.as_str(), env.gateway.secret_key()] {
            ensure!(!text.contains(secret), "a secret is shown");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_tenant_cannot_use_the_service_account_of_another() -> Result<()> {
    let tenant = Tenant::new("tenant-first").await?;
    let (env, first) = (&tenant.env, tenant.env.namespace.as_str());
    let second = env.cluster.namespace("tenant-second").await;
    tenant
        .sts
        .trust_only(&format!("system:serviceaccount:{first}:archive"));
    tenant.account(first, "archive", Some(ROLE)).await?;
    apply(
        env.cluster,
        &crate::testkit::manifest::secret(&second, "tracker", &tracker_keys()),
    )
    .await?;
    let lease = ["--lease-namespace", first, "--lease-name", "tenants"];
    let operator = OperatorCommand::new(env.cluster)
        .args(&[
            "--namespace",
            first,
            "--namespace",
            &second,
            "--session-quiet",
            "1s",
        ])
        .args(&lease);
    let _operator = tenant.start(operator).await?;
    env.apply(&tenant.export("june", "archive")).await?;
    env.wait_complete("june").await?;

    // No account of that name in its own namespace.
    apply(
        env.cluster,
        &tenant.export("theirs", "archive").namespace(&second).export(),
    )
    .await?;
    let message = tenant
        .wait_reason(&second, "theirs", "CredentialsMissing", "does not exist")
        .await?;
    ensure!(
        message.contains(&format!("archive in namespace {second}")),
        "{message}"
    );
    // The same name and the same role: the token is that of the second tenant.
    tenant.account(&second, "forged", Some(ROLE)).await?;
    apply(
        env.cluster,
        &tenant.export("forged", "forged").namespace(&second).export(),
    )
    .await?;
    let message = tenant
        .wait_reason(&second, "forged", "CredentialsRefused", "AccessDenied")
        .await?;
    ensure!(
        message.contains(ROLE) && message.contains("spec.destination.s3.serviceAccountName"),
        "{message}"
    );
    let token = tenant.sts.calls().pop().context("no call")?.claims()?;
    ensure!(
        token["sub"] == format!("system:serviceaccount:{second}:forged").as_str(),
        "{token}"
    );
    // A namespace in the name.
    let path = tenant
        .export("path", &format!("{first}/archive"))
        .namespace(&second);
    let output = env
        .cluster
        .kubectl(&["create", "-f", "-"], Some(&path.export().to_string()))
        .await;
    ensure!(
        !output.status.success() && output.stderr.contains("ServiceAccount"),
        "{}",
        output.stderr
    );
    Ok(())
}

#[tokio::test]
async fn each_failure_of_a_service_account_names_its_cause_and_remedy() -> Result<()> {
    let tenant = Tenant::new("tenant-failures").await?;
    let (env, namespace) = (&tenant.env, tenant.env.namespace.as_str());
    let _operator = tenant.start(env.operator()).await?;
    let keys = StsReply::Keys(SignedDuration::from_hours(1));
    let error = |status, code| StsReply::Error(status, code, "of the test");
    for (name, role, reply, reason, parts) in [
        (
            "absent",
            None,
            keys.clone(),
            "CredentialsMissing",
            ["does not exist", "create the ServiceAccount"],
        ),
        (
            "plain",
            Some(None),
            keys.clone(),
            "CredentialsMissing",
            ["no annotation", ROLE_ANNOTATION],
        ),
        (
            "user",
            Some(Some("arn:aws:iam::111122223333:user/x")),
            keys.clone(),
            "CredentialsMissing",
            ["no annotation", "arn:aws:iam::ACCOUNT:role/NAME"],
        ),
        (
            "denied",
            Some(Some(ROLE)),
            error(403, "AccessDenied"),
            "CredentialsRefused",
            ["AccessDenied", "trust policy"],
        ),
        (
            "invalid",
            Some(Some(ROLE)),
            error(400, "InvalidIdentityToken"),
            "CredentialsRefused",
            ["InvalidIdentityToken", "trust policy"],
        ),
        (
            "expired",
            Some(Some(ROLE)),
            error(400, "ExpiredTokenException"),
            "CredentialsRefused",
            ["ExpiredTokenException", ROLE],
        ),
        (
            "outage",
            Some(Some(ROLE)),
            error(500, "InternalFailure"),
            "DestinationUnreachable",
            ["cannot reach STS", "500"],
        ),
        (
            "unreadable",
            Some(Some(ROLE)),
            error(400, "IDPCommunicationError"),
            "DestinationUnreachable",
            ["cannot reach STS", "IDPCommunicationError"],
        ),
    ] {
        if let Some(role) = role {
            tenant.account(namespace, name, role).await?;
        }
        tenant.sts.reply(reply);
        env.apply(&tenant.export(name, name)).await?;
        let message = tenant.wait_reason(namespace, name, reason, parts[0]).await?;
        ensure!(message.contains(parts[1]), "{name}: {message}");
        ensure!(!message.contains("Secret "), "{name}: {message}");
    }
    // What passes by itself is retried.
    tenant.sts.reply(keys);
    env.wait_complete("outage").await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_permission_names_the_verb_and_the_value_of_the_chart() -> Result<()> {
    let tenant = Tenant::new("tenant-rights").await?;
    let (env, namespace) = (&tenant.env, tenant.env.namespace.as_str());
    let user = format!("operator-{namespace}");
    let kubeconfig = env.cluster.kubeconfig_for_user(&user, None)?;
    let role = |name: &str, rules: Value| {
        let metadata = json!({ "namespace": namespace, "name": name });
        let api = "rbac.authorization.k8s.io";
        let version = format!("{api}/v1");
        [
            json!({ "apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules }),
            json!({
                "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
                "roleRef": { "apiGroup": api, "kind": "Role", "name": name },
                "subjects": [{ "apiGroup": api, "kind": "User", "name": user }],
            }),
        ]
    };
    let accounts = |resource: &str, verb: &str| json!({ "apiGroups": [""], "resources": [resource], "resourceNames": ["archive"], "verbs": [verb] });
    let everything = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["*"] });
    let grant = async |name: &str, rules: Value| -> Result<()> {
        for object in role(name, rules) {
            apply(env.cluster, &object).await?;
        }
        Ok(())
    };
    let base = json!([
        everything("eventexport.io", &["*"]),
        everything("", &["secrets"]),
        everything("events.k8s.io", &["events"]),
        everything("coordination.k8s.io", &["leases"]),
    ]);
    grant("base", base).await?;
    tenant.account(namespace, "archive", Some(ROLE)).await?;
    let operator = env
        .operator()
        .kubeconfig(&kubeconfig)
        .args(&["--cluster-id", "test"]);
    let _operator = tenant.start(operator).await?;
    env.apply(&tenant.export("june", "archive")).await?;
    let value = "rbac.serviceAccountNames";
    let message = tenant
        .wait_reason(namespace, "june", "CredentialsMissing", "get serviceaccounts of")
        .await?;
    ensure!(
        message.contains(value) && message.contains("archive"),
        "{message}"
    );
    grant("read", json!([accounts("serviceaccounts", "get")])).await?;
    env.request_reconcile("june", "read").await?;
    let message = tenant
        .wait_reason(
            namespace,
            "june",
            "CredentialsMissing",
            "create serviceaccounts/token of",
        )
        .await?;
    ensure!(
        message.contains(value) && message.contains("archive"),
        "{message}"
    );
    grant("token", json!([accounts("serviceaccounts/token", "create")])).await?;
    // The pause after a failure to get credentials.
    tokio::time::sleep(Duration::from_secs(5)).await;
    env.request_reconcile("june", "token").await?;
    env.wait_complete("june").await?;
    Ok(())
}
