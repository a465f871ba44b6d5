//! The operator's own bucket identity: a web identity at a fake STS, granted to a namespace.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::SignedDuration;
use serde_json::Value;

use super::eventually;
use crate::testkit::environment::Environment;
use crate::testkit::manifest::Manifest;
use crate::testkit::operator::OPERATOR_ROLE;
use crate::testkit::process::Process;
use crate::testkit::sts::{FakeSts, StsReply};

struct OwnIdentity {
    env: Environment,
    sts: FakeSts,
    operator: Arc<Process>,
}

impl OwnIdentity {
    /// Starts an operator whose identity is that of the STS, and grants it the bucket.
    async fn start(name: &str, reply: StsReply) -> Result<Self> {
        let env = Environment::builder(name).start().await?;
        let sts = FakeSts::start(env.gateway.access_key(), env.gateway.secret_key()).await?;
        sts.reply(reply);
        let grant = format!("{0}={0}@{1}", env.namespace, env.gateway.endpoint());
        let operator = env
            .operator()
            .args(&["--grant-identity", &grant])
            .own_identity(&sts, &env.folder.path().join("token"))?
            .start()
            .await?;
        Ok(Self { env, sts, operator })
    }

    /// Returns an export of one day without a Secret for its bucket.
    fn export(&self, name: &str) -> Manifest {
        self.env
            .export(name)
            .days("2018-06-05", "2018-06-05")
            .set("destination.s3.prefix", name)
            .set("destination.s3.credentialsSecretRef", Value::Null)
    }
}

#[tokio::test]
async fn thirty_exports_ask_sts_once() -> Result<()> {
    let fixture = OwnIdentity::start("own-identity", StsReply::Keys(SignedDuration::from_hours(1))).await?;
    let names: Vec<String> = (0..30).map(|number| format!("e{number}")).collect();
    for name in &names {
        fixture.env.apply(&fixture.export(name)).await?;
    }
    for name in &names {
        fixture.env.wait_complete(name).await?;
    }
    let calls = fixture.sts.calls();
    ensure!(calls.len() == 1, "{} calls", calls.len());
    ensure!(calls.iter().all(|call| call.role == OPERATOR_ROLE), "{calls:?}");
    let metrics = fixture.operator.metrics().await?;
    let counted = |line: &str| line.contains("peer=\"sts\"") && line.contains("AssumeRoleWithWebIdentity");
    ensure!(metrics.lines().any(counted), "STS is in no metric");
    ensure!(!fixture.operator.log().contains(fixture.env.gateway.secret_key()));
    Ok(())
}

#[tokio::test]
async fn an_outage_of_sts_is_retried_and_a_refusal_names_the_role() -> Result<()> {
    let outage = StsReply::Error(503, "ServiceUnavailable", "try again");
    let fixture = OwnIdentity::start("own-identity-outage", outage).await?;
    let wait = async |reason: &str| -> Result<String> {
        let mut last = Value::Null;
        eventually(reason, async || {
            last = fixture.env.object("june").await?["status"].take();
            Ok(last["lastError"]["reason"] == reason)
        })
        .await
        .with_context(|| last.to_string())?;
        Ok(last["lastError"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    fixture.env.apply(&fixture.export("june")).await?;
    let message = wait("DestinationUnreachable").await?;
    ensure!(message.contains("STS") && message.contains("503"), "{message}");
    ensure!(!message.contains("Secret"), "{message}");
    fixture
        .sts
        .reply(StsReply::Error(403, "AccessDenied", "Not authorized"));
    let message = wait("CredentialsRefused").await?;
    ensure!(
        message.contains("AccessDenied") && message.contains("trust policy"),
        "{message}"
    );
    ensure!(!message.contains("check spec.destination"), "{message}");
    fixture.sts.reply(StsReply::Keys(SignedDuration::from_hours(1)));
    // The pause after a failure of the STS.
    tokio::time::sleep(Duration::from_secs(5)).await;
    fixture.env.request_reconcile("june", "refusal").await?;
    fixture.env.wait_complete("june").await?;
    Ok(())
}
