//! From a resource of the manifest to something that can be run: the export, its peers, and the lock's name.
//! Builds clients, opens directories; sends nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use ulid::Ulid;

use super::exit::CliError;
use super::manifest::{ExportResource, ManifestError, ResourceManifest};
use super::secrets::{self, SecretPurpose};
use super::simulation::{SIMULATED_SOURCE, Simulation};
use crate::api::{FieldError, Reason};
use crate::egress::{HostPolicy, Traffic};
use crate::export::connect::{self, ProcessContext, Secrets};
use crate::export::engine::Peers;
use crate::export::failure::Failure;
use crate::export::shard::Shard;
use crate::export::spec::{ExportSpec, HolderEpoch, RetryPolicy};
use crate::storage::{DirectoryStore, Store};
use crate::tracker::TokenCache;

/// How often a window is tried before `run` gives it up: 5 times.
const TRIES_MAX: u32 = 5;

/// What was typed, as far as it changes the exports of the manifest.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions<'a> {
    /// A directory in the place of the bucket.
    pub to: Option<&'a Path>,
    /// Windows at a time, in the place of `spec.parallelism`.
    pub parallelism: Option<u8>,
    /// The part of each export that is done.
    pub shard: Shard,
    /// Sessions that may be held in one space, 1–29: no more windows at a time than that.
    pub max_sessions: u8,
    /// Whether a store that ignores `If-None-Match` may be written to.
    pub single_writer: bool,
}

impl<'a> RunOptions<'a> {
    /// Of who only looks at an archive.
    pub const fn read_only(to: Option<&'a Path>) -> Self {
        Self {
            to,
            parallelism: None,
            shard: Shard::SINGLE,
            max_sessions: 1,
            single_writer: false,
        }
    }
}

/// One export, ready to run.
#[derive(Debug)]
pub struct PreparedExport {
    /// What it wants.
    pub export: Arc<ExportSpec>,
    /// Where events come from and go to.
    pub peers: Peers,
}

impl PreparedExport {
    /// Store and root: exports that share them run one after the other.
    pub fn identity(&self) -> String {
        format!("{} {}", self.peers.store.name(), self.export.root.as_str())
    }
}

/// The resource as it is to be run: with what was typed in the place of what is written.
pub fn apply_options(
    resource: &ExportResource,
    options: &RunOptions<'_>,
    simulation: Option<&Simulation>,
) -> ExportResource {
    let mut resource = resource.clone();
    if let Some(simulation) = simulation {
        simulation.redirect(&mut resource);
    }
    if options.to.is_some() {
        // A directory needs no keys, so none are asked for.
        let s3 = &mut resource.spec.destination.s3;
        (s3.credentials_secret_ref, s3.ca_secret_ref) = (None, None);
    }
    if let Some(parallelism) = options.parallelism {
        resource.spec.parallelism = parallelism;
    }
    resource.spec.parallelism = resource.spec.parallelism.min(options.max_sessions);
    resource
}

/// The wish of an adjusted resource.
pub fn export_spec(
    resource: &ExportResource,
    process_context: &ProcessContext,
    simulated: bool,
) -> Result<ExportSpec, CliError> {
    let mut export = connect::export_spec(&resource.spec, process_context)
        .map_err(|failure| cli_error(resource, &failure))?;
    if simulated {
        SIMULATED_SOURCE.clone_into(&mut export.source);
    }
    Ok(export)
}

/// What a process adds to a resource's spec.
pub fn process_context(
    resource: &ExportResource,
    holder: &str,
    tokens: &TokenCache,
    options: &RunOptions<'_>,
) -> ProcessContext {
    ProcessContext {
        name: resource.full_name(),
        hosts: HostPolicy::any(),
        store_hosts: HostPolicy::any(),
        traffic: Traffic::default(),
        tokens: tokens.clone(),
        pod_identity: true,
        holder: holder.to_owned(),
        holder_epoch: None,
        single_writer: options.single_writer,
        retry_policy: RetryPolicy::MaxAttempts(TRIES_MAX),
        shard: options.shard,
    }
}

/// Everything that the manifest wants, ready to run; or all that is wrong.
pub async fn prepare_all(
    manifest: &ResourceManifest,
    options: &RunOptions<'_>,
    simulation: Option<&Simulation>,
    holder: &str,
) -> Result<Vec<PreparedExport>, CliError> {
    let tokens = TokenCache::new();
    let holder_epoch = HolderEpoch::new(Ulid::generate().to_string(), Timestamp::now());
    let mut jobs = Vec::new();
    for resource in &manifest.exports {
        if resource.spec.suspend {
            return Err(usage_error(
                resource,
                "spec.suspend is true: set it to false to export",
            ));
        }
        let resource = apply_options(resource, options, simulation);
        let secrets = match simulation {
            Some(_) => {
                let mut secrets = resolve_secrets(&resource, manifest, &[SecretPurpose::Signing])?;
                secrets.0.extend(Simulation::secrets().0);
                secrets
            }
            None => resolve_secrets(
                &resource,
                manifest,
                &[
                    SecretPurpose::Source,
                    SecretPurpose::Bucket,
                    SecretPurpose::Signing,
                ],
            )?,
        };
        let process_context = ProcessContext {
            holder_epoch: Some(holder_epoch.clone()),
            ..process_context(&resource, holder, &tokens, options)
        };
        let export = export_spec(&resource, &process_context, simulation.is_some())?;
        let tracker = connect::tracker(&resource.spec, &secrets, &process_context)
            .map_err(|failure| cli_error(&resource, &failure))?;
        let store = match options.to {
            Some(folder) => open_directory(folder)?,
            None => open_bucket(&resource, &secrets, &process_context).await?,
        };
        jobs.push(PreparedExport {
            export: Arc::new(export),
            peers: Peers {
                tracker,
                store,
                signing: connect::signing(&resource.spec, &secrets),
            },
        });
    }
    Ok(jobs)
}

/// The bucket of an adjusted resource.
pub async fn open_bucket(
    resource: &ExportResource,
    secrets: &Secrets,
    process_context: &ProcessContext,
) -> Result<Arc<dyn Store>, CliError> {
    connect::s3(&resource.spec, secrets, process_context)
        .await
        .map_err(|failure| cli_error(resource, &failure))
}

/// The directory of `--to`, made where it is missing.
fn open_directory(folder: &Path) -> Result<Arc<dyn Store>, CliError> {
    let store = DirectoryStore::open(folder).map_err(|error| CliError::usage(format!("--to: {error}")))?;
    Ok(Arc::new(store))
}

/// The Secrets of an adjusted resource for these purposes, from the manifest or the environment.
pub fn resolve_secrets(
    resource: &ExportResource,
    manifest: &ResourceManifest,
    purposes: &[SecretPurpose],
) -> Result<Secrets, CliError> {
    secrets::resolve(resource, manifest, purposes, &secrets::env_value).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .map(|error| format!("{}: {error}", resource.full_name()))
            .collect();
        CliError::usage(lines.join("\n"))
    })
}

/// Numbers of jobs that may run together: each inner list is run one after the other.
pub fn group_by_destination(jobs: &[PreparedExport]) -> Vec<(String, Vec<usize>)> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, job) in jobs.iter().enumerate() {
        groups.entry(job.identity()).or_default().push(number);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, numbers)| numbers.first().copied());
    groups
}

/// What cannot be meant is for the person who typed it; what fails now may work later.
fn cli_error(resource: &ExportResource, failure: &Failure) -> CliError {
    match failure.reason {
        Reason::InvalidSpec | Reason::CredentialsMissing => usage_error(resource, &failure.message),
        reason => CliError::from(anyhow::anyhow!(
            "EventExport {}: {reason}: {}",
            resource.full_name(),
            failure.message
        )),
    }
}

fn usage_error(resource: &ExportResource, message: &str) -> CliError {
    CliError::usage(format!("EventExport {}: {message}", resource.full_name()))
}

/// All that is wrong with a manifest, a line each.
pub fn invalid_manifest(origin: &str, errors: &[ManifestError]) -> CliError {
    let lines: Vec<String> = errors.iter().map(|error| format!("{origin}: {error}")).collect();
    CliError::usage(lines.join("\n"))
}

/// First and last day of a resource whose spec keeps every rule.
pub fn date_range(
    resource: &ExportResource,
) -> Result<(jiff::civil::Date, Option<jiff::civil::Date>), CliError> {
    let checked = resource.spec.checked().map_err(|errors: Vec<FieldError>| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        usage_error(resource, &lines.join("; "))
    })?;
    Ok((checked.range.start, checked.range.end))
}
