//! `eventexport operator` as a process: one builder of its command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use tokio::process::Command;

use super::process::{Process, program};
use super::proxy::Rules;
use super::sts::FakeSts;
use crate::bed::Cluster;

/// Duration, deadline and renewal of a Lease.
pub(crate) type LeaseTimes = [&'static str; 3];

/// Lease that is short enough for tests and long enough for a busy machine.
pub(crate) const SHORT_LEASE: LeaseTimes = ["6s", "4s", "1s"];

/// Lease that survives a very busy machine, where leader election is not tested.
pub(crate) const LONG_LEASE: LeaseTimes = ["60s", "50s", "5s"];

/// Role of an operator with an identity of its own.
pub(crate) const OPERATOR_ROLE: &str = "arn:aws:iam::111122223333:role/eventexport";

/// Operator to start. Without further calls: of all namespaces, with all rights, on 127.0.0.1, with JSON logs.
pub(crate) struct OperatorCommand {
    command: Command,
    kubeconfig: PathBuf,
    lease_namespace: Option<String>,
    lease: Option<LeaseTimes>,
    session_quiet: Option<String>,
    rules: Vec<Arc<Rules>>,
    json: bool,
}

impl OperatorCommand {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let mut command = Command::new(program());
        command
            .args([
                "operator",
                "--allow-host",
                "127.0.0.1",
                "--metrics-listen",
                "127.0.0.1:0",
            ])
            .env("NO_COLOR", "1");
        Self {
            command,
            kubeconfig: cluster.kubeconfig_path(),
            lease_namespace: None,
            lease: None,
            session_quiet: None,
            rules: Vec::new(),
            json: true,
        }
    }

    /// Uses this kubeconfig.
    pub(crate) fn kubeconfig(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.kubeconfig);
        self
    }

    /// Operates exports of that namespace, and holds its Lease there.
    pub(crate) fn namespace(self, namespace: &str) -> Self {
        self.args(&["--namespace", namespace]).lease_namespace(namespace)
    }

    /// Holds its Lease in that namespace.
    pub(crate) fn lease_namespace(mut self, namespace: &str) -> Self {
        self.lease_namespace = Some(namespace.to_owned());
        self
    }

    /// Sets the times of the Lease.
    pub(crate) fn lease(mut self, times: LeaseTimes) -> Self {
        self.lease = Some(times);
        self
    }

    /// Sets the time after which a session without a reply to its creation is looked for.
    pub(crate) fn session_quiet(mut self, quiet: &str) -> Self {
        self.session_quiet = Some(quiet.to_owned());
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives the process an identity of its own, which the fake STS turns into keys of the bucket. Writes the token of the Pod.
    pub(crate) fn own_identity(self, sts: &FakeSts, token: &Path) -> Result<Self> {
        std::fs::write(token, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwb2QifQ.x")?;
        Ok(self
            .env("AWS_ROLE_ARN", OPERATOR_ROLE)
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token.display().to_string())
            .env("AWS_ENDPOINT_URL_STS", &sts.url())
            .env("AWS_EC2_METADATA_DISABLED", "true"))
    }

    /// Logs text, as on a terminal. It cannot say then where it can be watched.
    pub(crate) fn text_logs(mut self) -> Self {
        self.json = false;
        self
    }

    /// Identifies its requests to these proxies.
    pub(crate) fn watched_by(mut self, rules: &Arc<Rules>) -> Self {
        self.rules.push(Arc::clone(rules));
        self
    }

    /// Starts it and returns when it says where it can be watched. Its log is shown if the test fails.
    pub(crate) async fn start(self) -> Result<Arc<Process>> {
        let (command, rules) = self.finish();
        let process = Process::spawn_verbose(command)?;
        for rules in rules {
            rules.watch(process.id);
        }
        process.ready().await?;
        Ok(process)
    }

    /// Starts it; its log is added to that file.
    pub(crate) fn spawn(self, log: &Path) -> Result<Arc<Process>> {
        Process::spawn(self.finish().0, log)
    }

    fn finish(mut self) -> (Command, Vec<Arc<Rules>>) {
        if self.json {
            self.command.args(["--log-format", "json"]);
        }
        if let Some([duration, deadline, renew]) = self.lease {
            self.command.args(["--lease-duration", duration]);
            self.command.args(["--lease-deadline", deadline]);
            self.command.args(["--lease-renew", renew]);
        }
        let namespace = self
            .lease_namespace
            .iter()
            .map(|name| ["--lease-namespace", name]);
        let quiet = self.session_quiet.iter().map(|quiet| ["--session-quiet", quiet]);
        self.command.args(namespace.chain(quiet).flatten());
        self.command.arg("--kubeconfig").arg(&self.kubeconfig);
        (self.command, self.rules)
    }
}
