//! Operators as processes, and one namespace for them: its lease, its proxies, and exports through these.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use eventexport::simulator::Settings;
use serde_json::Value;

use crate::testkit::environment::Environment;
use crate::testkit::operator::OperatorCommand;
use crate::testkit::process::Process;

/// Lease that is short enough for tests and long enough for a busy machine.
pub(crate) const SHORT_LEASE: [&str; 6] = [
    "--lease-duration",
    "6s",
    "--lease-deadline",
    "4s",
    "--lease-renew",
    "1s",
];

/// Running operator.
pub(crate) type OperatorProcess = Arc<Process>;

/// One namespace with its service and bucket.
pub(crate) struct OperatorFixture {
    environment: Environment,
    /// Namespace of the operators' lease: this one, unless a test deletes it.
    pub(crate) lease_namespace: String,
}

impl Deref for OperatorFixture {
    type Target = Environment;

    fn deref(&self) -> &Environment {
        &self.environment
    }
}

impl OperatorFixture {
    pub(crate) async fn start(name: &str, settings: Settings) -> Result<Self> {
        let environment = Environment::builder(name).service(settings).start().await?;
        Ok(Self {
            lease_namespace: environment.namespace.clone(),
            environment,
        })
    }

    /// Creates an export of these days; `change` is merged into its spec.
    pub(crate) async fn export(&self, name: &str, days: [&str; 2], change: &Value) -> Result<()> {
        let export = self
            .proxied_export(name)
            .days(days[0], days[1])
            .set("destination.s3.prefix", name)
            .merge(change);
        self.apply(&export).await
    }

    /// Starts an operator of this namespace with additional arguments and variables.
    pub(crate) async fn operator(&self, args: &[&str], env: &[(&str, &str)]) -> Result<OperatorProcess> {
        self.operator_with(&self.cluster.kubeconfig_path(), args, env)
            .await
    }

    /// Starts an operator that uses this kubeconfig.
    pub(crate) async fn operator_with(
        &self,
        kubeconfig: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<OperatorProcess> {
        let name = format!("eventexport-{}", self.namespace);
        let lease = ["--lease-namespace", &self.lease_namespace, "--lease-name", &name];
        let mut operator = OperatorCommand::new(self.cluster)
            .kubeconfig(kubeconfig)
            .args(&["--namespace", &self.namespace, "--session-quiet", "1s"])
            .args(&lease)
            .args(args)
            .watched_by(&self.rules);
        for (name, value) in env {
            operator = operator.env(name, value);
        }
        operator.start().await
    }
}
