//! Settings of a command: flags, environment, context and manifest become `spec.source`, `spec.destination` and Secrets, and
//! these become clients. Reads variables and files, may prompt on a terminal; sends no request.
//!
//! Each setting has the value of the first layer that has one: flag, variable, context, default ([`layers`]). A manifest
//! (`-f`) takes the place of the context: of the flags only `--archive` and its connection replace its fields, and its
//! Secrets may be in variables ([`secrets`]). Each value knows its layer, and errors name that.
//!
//! [`source`] and [`destination`] resolve the two peers, and [`export`] makes an `EventExport` of both for a command without a
//! manifest. There is one way from there to a client: that of
//! [`crate::export::connect`], which the operator uses too.

pub mod context;
pub mod destination;
pub mod environment;
pub mod export;
pub mod layers;
pub mod location;
pub mod secrets;
pub mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::destination::{Access, DestinationOverride, ResolvedDestination};
use self::secrets::SecretPurpose;
use self::source::ResolvedSource;
use super::exit::CliError;
use super::manifest::{ExportResource, ResourceManifest};
use super::simulation::Simulation;
use crate::api::SettingNames;
use crate::egress::{HostPolicy, Traffic};
use crate::export::connect::{self, PodIdentity, ProcessContext};
use crate::export::engine::Peers;
use crate::export::failure::Failure;
use crate::export::manifest::sign::Signing;
use crate::export::shard::Shard;
use crate::export::spec::RetryPolicy;
use crate::storage::AwsIdentities;
use crate::tracker::{TimestampAuthority, TokenCache};

/// Settings of an export of a manifest.
pub struct ExportSettings {
    /// Source of the events.
    pub source: ResolvedSource,
    /// Destination of the events.
    pub destination: ResolvedDestination,
    signing: Signing,
    signing_names: SettingNames,
    timestamps: Option<Result<TimestampAuthority, Failure>>,
}

impl ExportSettings {
    /// Resolves the settings of a resource. The error names every missing Secret.
    pub fn resolve(
        resource: &ExportResource,
        manifest: &ResourceManifest,
        archive: Option<DestinationOverride<'_>>,
        simulation: Option<&Simulation>,
    ) -> Result<Self, CliError> {
        let mut purposes = vec![SecretPurpose::Signing];
        if simulation.is_none() {
            purposes.push(SecretPurpose::Source);
        }
        if archive.is_none() {
            purposes.push(SecretPurpose::Bucket);
        }
        let resolved = secrets::of_resource(resource, manifest, &purposes, &environment::env_value)?;
        Ok(Self {
            source: match simulation {
                Some(_) => ResolvedSource::new(
                    &resource.spec.source,
                    Simulation::secrets(),
                    SettingNames::default(),
                    None,
                ),
                None => ResolvedSource::new(
                    &resource.spec.source,
                    resolved.secrets.clone(),
                    resolved.setting_names.clone(),
                    manifest.hosts.as_ref(),
                ),
            },
            signing: connect::signing(&resource.spec, &resolved.secrets),
            signing_names: resolved.setting_names.clone(),
            timestamps: connect::timestamps(&resource.spec, &process_context(String::new())),
            destination: match archive {
                Some(archive) => archive.resolve(&resource.spec.destination.s3)?,
                None => ResolvedDestination::of_spec(&resource.spec.destination.s3, resolved),
            },
        })
    }

    /// Returns the names of the settings in errors.
    pub fn names(&self) -> SettingNames {
        self.signing_names
            .clone()
            .merge(self.source.names.clone())
            .merge(self.destination.names.clone())
    }

    /// Builds the clients of an export that runs.
    pub async fn connect(self, tokens: &TokenCache) -> Result<Peers, Failure> {
        Ok(Peers {
            tracker: self.source.connect(tokens)?,
            store: self.destination.open(Access::Write).await?,
            signing: self.signing,
            timestamps: self.timestamps,
        })
    }
}

/// Returns the source of a resource, for a command that only reads.
pub fn source_of(resource: &ExportResource, manifest: &ResourceManifest) -> Result<ResolvedSource, CliError> {
    let purposes = [SecretPurpose::Source];
    let resolved = secrets::of_resource(resource, manifest, &purposes, &environment::env_value)?;
    Ok(ResolvedSource::new(
        &resource.spec.source,
        resolved.secrets,
        resolved.setting_names,
        manifest.hosts.as_ref(),
    ))
}

/// Returns the destination of a resource, for a command that only reads: it needs only the Secrets of the bucket.
pub fn destination_of(
    resource: &ExportResource,
    manifest: &ResourceManifest,
    archive: Option<DestinationOverride<'_>>,
) -> Result<ResolvedDestination, CliError> {
    if let Some(archive) = archive {
        return archive.resolve(&resource.spec.destination.s3);
    }
    let purposes = [SecretPurpose::Bucket];
    let resolved = secrets::of_resource(resource, manifest, &purposes, &environment::env_value)?;
    Ok(ResolvedDestination::of_spec(
        &resource.spec.destination.s3,
        resolved,
    ))
}

/// Returns what a process of a user adds to a spec. A user may send their own credentials to any host.
pub fn process_context(name: String) -> ProcessContext {
    ProcessContext {
        name,
        hosts: HostPolicy::any(),
        store_hosts: HostPolicy::any(),
        traffic: Traffic::default(),
        tokens: TokenCache::new(),
        identities: AwsIdentities::new(Traffic::default()),
        service_account: None,
        pod_identity: Arc::new(|| PodIdentity::Granted),
        holder: String::new(),
        holder_epoch: None,
        single_writer: false,
        retry_policy: RetryPolicy::Forever,
        shard: Shard::SINGLE,
        setting_names: SettingNames::default(),
    }
}
