//! Interface between controller and engine: tests of the controller need neither a service nor a bucket.
//! [`EngineExporter`] creates clients and sends nothing until the export runs.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

use super::access::AccessPolicy;
use super::service_account::ServiceAccountIdentity;
use crate::api::{EventExportSpec, SettingNames};
use crate::archive::manifest::signature::PublicKey;
use crate::egress::Traffic;
use crate::export::connect::{self, ProcessContext, Secrets};
use crate::export::engine::{Engine, Peers, ReleaseReport, RunControl};
use crate::export::failure::Failure;
use crate::export::manifest::sign::SigningKeys;
use crate::export::shard::Shard;
use crate::export::snapshot::Snapshot;
use crate::export::spec::{ExportSpec, HolderEpoch, RetryPolicy};
use crate::storage::{AccountName, AwsIdentities, Store, WebIdentity};
use crate::tracker::TokenCache;

/// Resource that owns an export.
#[derive(Clone, Debug)]
pub struct Owner {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Time since which this process alone serves the resource.
    pub since: Timestamp,
}

/// Creates exports from specs.
#[async_trait]
pub trait Exporter: Send + Sync + 'static {
    /// Creates the export of a spec and its Secrets. Fails if manual action is needed first.
    async fn prepare(
        &self,
        spec: &EventExportSpec,
        secrets: &Secrets,
        owner: &Owner,
    ) -> Result<Arc<dyn ExportRunner>, Failure>;

    /// Returns the export of a newer spec, for a runner with the same peers.
    fn export_spec(&self, spec: &EventExportSpec, owner: &Owner) -> Result<ExportSpec, Failure>;

    /// Opens the archive of a spec. Needs the Secrets of the bucket and the signing key only.
    async fn open_archive(
        &self,
        spec: &EventExportSpec,
        secrets: &Secrets,
        owner: &Owner,
    ) -> Result<OpenedArchive, Failure>;
}

/// Archive of an export, opened for verification.
pub struct OpenedArchive {
    /// The export.
    pub export: ExportSpec,
    /// Store of the archive.
    pub store: Arc<dyn Store>,
    /// Public halves of the signing key and the keys before it, as the Secret has them.
    pub keys: Vec<PublicKey>,
}

/// Export with its peers. Holds credentials, so keep it only while it is needed.
#[async_trait]
pub trait ExportRunner: Send + Sync + 'static {
    /// Returns the spec of the export.
    fn export(&self) -> &Arc<ExportSpec>;

    /// Returns a runner with a newer spec and the same peers.
    fn with_export(&self, export: &Arc<ExportSpec>) -> Arc<dyn ExportRunner>;

    /// Runs the export, see [`Engine::run`].
    async fn run(&self, out: &watch::Sender<Arc<Snapshot>>, control: RunControl) -> Arc<Snapshot>;

    /// Deletes the sessions of the export, see [`Engine::release`].
    async fn release(&self) -> ReleaseReport;
}

/// [`Exporter`] that uses the engine.
pub struct EngineExporter {
    /// Engine that all exports of the process share.
    pub engine: Engine,
    /// Allowed hosts, and grants of the operator's own bucket identity.
    pub access: AccessPolicy,
    /// Metrics and fence of outgoing requests.
    pub traffic: Traffic,
    /// Tokens of all exports.
    pub tokens: TokenCache,
    /// The operator's own identity for buckets, and those of ServiceAccounts.
    pub identities: AwsIdentities,
    /// Client for the tokens of ServiceAccounts.
    pub kubernetes: Client,
    /// Name of this cluster, different from those of other clusters.
    pub cluster: String,
    /// Name of this process, different from those of other processes.
    pub process: String,
}

struct EngineRunner {
    engine: Engine,
    export: Arc<ExportSpec>,
    peers: Peers,
}

impl EngineExporter {
    fn process_context(&self, spec: &EventExportSpec, owner: &Owner) -> ProcessContext {
        let (access, namespace) = (self.access.clone(), owner.namespace.clone());
        let destination = spec.destination.s3.clone();
        ProcessContext {
            name: format!("{}/{}", owner.namespace, owner.name),
            hosts: self.access.hosts().service.clone(),
            store_hosts: self.access.hosts().stores.clone(),
            traffic: self.traffic.clone(),
            tokens: self.tokens.clone(),
            identities: self.identities.clone(),
            service_account: spec.destination.s3.service_account_name.as_ref().map(|name| {
                let account = AccountName {
                    namespace: owner.namespace.clone(),
                    name: name.clone(),
                };
                let identity: Arc<dyn WebIdentity> =
                    Arc::new(ServiceAccountIdentity::new(self.kubernetes.clone(), account));
                identity
            }),
            pod_identity: Arc::new(move || access.identity(&namespace, &destination)),
            // Not the UID: a resource that was deleted by force and recreated resumes at once.
            holder: format!("{}/{}/{}", self.cluster, owner.namespace, owner.name),
            holder_epoch: Some(HolderEpoch::new(self.process.clone(), owner.since)),
            // Only the holder of the lease runs exports.
            single_writer: true,
            retry_policy: RetryPolicy::Forever,
            setting_names: SettingNames::default(),
            shard: Shard::SINGLE,
        }
    }
}

#[async_trait]
impl Exporter for EngineExporter {
    async fn prepare(
        &self,
        spec: &EventExportSpec,
        secrets: &Secrets,
        owner: &Owner,
    ) -> Result<Arc<dyn ExportRunner>, Failure> {
        let process_context = self.process_context(spec, owner);
        let export = Arc::new(connect::export_spec(spec, &process_context)?);
        let peers = connect::peers(spec, secrets, &process_context).await?;
        Ok(Arc::new(EngineRunner {
            engine: self.engine.clone(),
            export,
            peers,
        }))
    }

    fn export_spec(&self, spec: &EventExportSpec, owner: &Owner) -> Result<ExportSpec, Failure> {
        connect::export_spec(spec, &self.process_context(spec, owner))
    }

    async fn open_archive(
        &self,
        spec: &EventExportSpec,
        secrets: &Secrets,
        owner: &Owner,
    ) -> Result<OpenedArchive, Failure> {
        let process_context = self.process_context(spec, owner);
        let signing = connect::signing(spec, secrets);
        Ok(OpenedArchive {
            export: connect::export_spec(spec, &process_context)?,
            store: connect::s3(&spec.destination.s3, secrets, &process_context).await?,
            // The export itself reports a key that cannot be used.
            keys: signing
                .available()
                .map(SigningKeys::trusted)
                .unwrap_or_default()
                .to_vec(),
        })
    }
}

#[async_trait]
impl ExportRunner for EngineRunner {
    fn export(&self) -> &Arc<ExportSpec> {
        &self.export
    }

    fn with_export(&self, export: &Arc<ExportSpec>) -> Arc<dyn ExportRunner> {
        Arc::new(Self {
            engine: self.engine.clone(),
            export: export.clone(),
            peers: self.peers.clone(),
        })
    }

    async fn run(&self, out: &watch::Sender<Arc<Snapshot>>, control: RunControl) -> Arc<Snapshot> {
        self.engine
            .run(self.export.clone(), self.peers.clone(), out, control)
            .await
    }

    async fn release(&self) -> ReleaseReport {
        self.engine.release(&self.export, &self.peers).await
    }
}
