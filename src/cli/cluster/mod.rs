//! Commands on the `EventExport` resources of a cluster, as `kubectl eventexport get`, `suspend` and so on. Talk to the
//! API server only: neither to the service nor to a bucket.

mod change;
mod describe;
mod get;
mod logs;

use std::path::PathBuf;

use http::{HeaderValue, header};
use kube::core::response::StatusDetails;
use kube::{Api, Client, Config};

pub use change::{AcceptGapArgs, RequestArgs, SuspendArgs};
pub use describe::DescribeArgs;
pub use get::GetArgs;
pub use logs::LogsArgs;

use super::exit::{CliError, Exit};
use super::kube_config::kube_config;
use crate::api::EventExport;

/// Commands on resources of a cluster. Those with arguments are documented on their argument structs.
#[derive(Debug, clap::Subcommand)]
#[allow(missing_docs)]
pub enum ClusterCommand {
    Get(GetArgs),
    Describe(DescribeArgs),
    /// Stop the transfers of an `EventExport` of the cluster, and start none until `resume`.
    ///
    /// Sessions are closed, and what is stored stays. Sets `spec.suspend`.
    #[command(after_help = "Examples:\n  eventexport suspend audit-2018 -n audit")]
    Suspend(SuspendArgs),
    /// Let a suspended `EventExport` of the cluster go on.
    #[command(after_help = "Examples:\n  eventexport resume audit-2018 -n audit")]
    Resume(SuspendArgs),
    Request(RequestArgs),
    AcceptGap(AcceptGapArgs),
    Logs(LogsArgs),
}

/// Cluster, and namespace in it.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArgs {
    /// Namespace (default: that of the kubeconfig context)
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Kubeconfig file (default: KUBECONFIG, ~/.kube/config)
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// Client of a cluster, with the namespace of the command.
pub(super) struct Cluster {
    client: Client,
    namespace: String,
}

impl ClusterArgs {
    /// Creates the client. Sends nothing.
    pub(super) async fn connect(&self) -> Result<Cluster, CliError> {
        let loaded = kube_config(self.kubeconfig.as_deref(), self.context.as_deref()).await;
        let mut config: Config = loaded.map_err(|error| {
            CliError::usage(format!("cannot load the configuration of the cluster: {error:#}"))
        })?;
        let agent = HeaderValue::from_static(concat!("kubectl-eventexport/", env!("CARGO_PKG_VERSION")));
        config.headers.push((header::USER_AGENT, agent));
        let namespace = self.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Cluster { client, namespace })
    }
}

impl Cluster {
    /// Returns the resources of the namespace.
    fn exports(&self) -> Api<EventExport> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Reads one resource.
    async fn export(&self, name: &str) -> Result<EventExport, CliError> {
        let found = self.exports().get(name).await;
        found.map_err(|error| self.error("get EventExport", name, &error))
    }

    /// Describes a failed request.
    fn error(&self, action: &str, name: &str, error: &kube::Error) -> CliError {
        let object = format!("{}/{name}", self.namespace);
        let is_named = |details: &StatusDetails| details.name == name;
        let why = match error {
            // The reply names the object only if the cluster knows the kind.
            kube::Error::Api(status) if status.code == 404 && status.details.as_ref().is_some_and(is_named) => {
                return CliError::Failed(anyhow::anyhow!(
                    "EventExport {object} does not exist; `kubectl get eventexports --all-namespaces` lists all"
                ));
            }
            kube::Error::Api(status) if status.code == 404 => {
                "the cluster does not know the resource: install it with `eventexport crd | kubectl apply -f -`".to_owned()
            }
            kube::Error::Api(status) => status.message.clone(),
            other => crate::api::redact_error(other, &[]),
        };
        CliError::Failed(anyhow::anyhow!("cannot {action} {object}: {why}"))
    }
}

/// Runs a command on resources of the cluster.
pub async fn run(command: ClusterCommand) -> Result<Exit, CliError> {
    match command {
        ClusterCommand::Get(args) => get::run(args).await,
        ClusterCommand::Describe(args) => describe::run(args).await,
        ClusterCommand::Suspend(args) => change::suspend(args, true).await,
        ClusterCommand::Resume(args) => change::suspend(args, false).await,
        ClusterCommand::Request(args) => change::request(args).await,
        ClusterCommand::AcceptGap(args) => change::accept_gap(args).await,
        ClusterCommand::Logs(args) => logs::run(args).await,
    }
}
