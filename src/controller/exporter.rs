//! The seam between controller and engine: what the controller asks for, so that its own tests need neither a
//! service nor a bucket. The real one builds clients and sends nothing until it is run.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::grants::{Grant, is_granted};
use crate::api::EventExportSpec;
use crate::egress::{HostPolicy, Traffic};
use crate::export::connect::{self, ProcessContext, Secrets};
use crate::export::engine::{Engine, Peers, ReleaseReport};
use crate::export::failure::Failure;
use crate::export::shard::Shard;
use crate::export::snapshot::Snapshot;
use crate::export::spec::{ExportSpec, HolderEpoch, RetryPolicy};
use crate::tracker::TokenCache;

/// Whose export it is.
#[derive(Clone, Debug)]
pub struct Owner {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Since when this process alone serves it.
    pub since: Timestamp,
}

/// Makes exports out of specs.
#[async_trait]
pub trait Exporter: Send + Sync + 'static {
    /// The export that a spec and its Secrets describe, or what a person has to change.
    async fn prepare(
        &self,
        spec: &EventExportSpec,
        secrets: &Secrets,
        owner: &Owner,
    ) -> Result<Arc<dyn ExportRunner>, Failure>;
}

/// One export with its peers. Holds credentials: kept only while it is needed.
#[async_trait]
pub trait ExportRunner: Send + Sync + 'static {
    /// What it wants.
    fn export(&self) -> &Arc<ExportSpec>;

    /// As [`Engine::run`].
    async fn run(&self, out: &watch::Sender<Arc<Snapshot>>, stop: CancellationToken) -> Arc<Snapshot>;

    /// As [`Engine::release`].
    async fn release(&self) -> ReleaseReport;
}

/// The real one.
pub struct EngineExporter {
    /// What all exports of the process share.
    pub engine: Engine,
    /// Where requests to trackers and their UAAs may go.
    pub hosts: HostPolicy,
    /// Where requests to stores may go.
    pub store_hosts: HostPolicy,
    /// How requests leave.
    pub traffic: Traffic,
    /// Tokens of all exports.
    pub tokens: TokenCache,
    /// To whom the operator's own bucket identity is lent.
    pub grants: Vec<Grant>,
    /// What tells this cluster from others.
    pub cluster: String,
    /// What tells this process from others.
    pub process: String,
}

struct EngineRunner {
    engine: Engine,
    export: Arc<ExportSpec>,
    peers: Peers,
}

#[async_trait]
impl Exporter for EngineExporter {
    async fn prepare(
        &self,
        spec: &EventExportSpec,
        secrets: &Secrets,
        owner: &Owner,
    ) -> Result<Arc<dyn ExportRunner>, Failure> {
        let process_context = ProcessContext {
            name: format!("{}/{}", owner.namespace, owner.name),
            hosts: self.hosts.clone(),
            store_hosts: self.store_hosts.clone(),
            traffic: self.traffic.clone(),
            tokens: self.tokens.clone(),
            pod_identity: is_granted(&self.grants, &owner.namespace, &spec.destination.s3),
            // Not the UID: a resource that was removed by force and made again goes on at once.
            holder: format!("{}/{}/{}", self.cluster, owner.namespace, owner.name),
            holder_epoch: Some(HolderEpoch::new(self.process.clone(), owner.since)),
            // Only the holder of the lease runs exports.
            single_writer: true,
            retry_policy: RetryPolicy::Forever,
            shard: Shard::SINGLE,
        };
        let export = Arc::new(connect::export_spec(spec, &process_context)?);
        let peers = connect::peers(spec, secrets, &process_context).await?;
        Ok(Arc::new(EngineRunner {
            engine: self.engine.clone(),
            export,
            peers,
        }))
    }
}

#[async_trait]
impl ExportRunner for EngineRunner {
    fn export(&self) -> &Arc<ExportSpec> {
        &self.export
    }

    async fn run(&self, out: &watch::Sender<Arc<Snapshot>>, stop: CancellationToken) -> Arc<Snapshot> {
        self.engine
            .run(self.export.clone(), self.peers.clone(), out, stop)
            .await
    }

    async fn release(&self) -> ReleaseReport {
        self.engine.release(&self.export, &self.peers).await
    }
}
