//! Prepares the resources of a manifest to run: the export, its peers and the identity of its lock.
//! Builds clients and opens directories; sends no requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use ulid::Ulid;

use super::exit::CliError;
use super::manifest::{ExportResource, ResourceManifest};
use super::settings::destination::{Access, DestinationOverride, ResolvedDestination};
use super::settings::{self, ExportSettings};
use super::simulation::{SIMULATED_SOURCE, Simulation};
use crate::api::{FieldError, Reason, SettingNames};
use crate::export::connect::{self, ProcessContext};
use crate::export::engine::Peers;
use crate::export::failure::Failure;
use crate::export::shard::Shard;
use crate::export::spec::{ExportSpec, HolderEpoch, RetryPolicy};
use crate::storage::Store;
use crate::tracker::TokenCache;

/// Maximum number of attempts at a window before `run` gives up: 5.
const ATTEMPTS_MAX: u32 = 5;

/// Command-line options that change the exports of the manifest.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions<'a> {
    /// Destination to use instead of that of the manifest.
    pub archive: Option<DestinationOverride<'a>>,
    /// Maximum number of concurrent windows, instead of `spec.parallelism`.
    pub parallelism: Option<u8>,
    /// Shard of each export to run.
    pub shard: Shard,
    /// Maximum number of sessions in one space, 1–29; limits the concurrent windows.
    pub max_sessions: u8,
    /// True if a store that ignores `If-None-Match` is allowed.
    pub single_writer: bool,
}

impl<'a> RunOptions<'a> {
    /// Returns the options of a command that only reads an archive.
    pub const fn read_only(archive: Option<DestinationOverride<'a>>) -> Self {
        Self {
            archive,
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
    /// Validated spec.
    pub export: Arc<ExportSpec>,
    /// Source and destination of the events.
    pub peers: Peers,
}

impl PreparedExport {
    /// Returns store and root; exports with the same identity run in sequence.
    pub fn identity(&self) -> String {
        format!("{} {}", self.peers.store.identity(), self.export.root.as_str())
    }
}

/// Returns the resource with the command-line options applied.
pub fn apply_options(
    resource: &ExportResource,
    options: &RunOptions<'_>,
    simulation: Option<&Simulation>,
) -> ExportResource {
    let mut resource = resource.clone();
    if let Some(simulation) = simulation {
        simulation.redirect(&mut resource);
    }
    if let Some(parallelism) = options.parallelism {
        resource.spec.parallelism = parallelism;
    }
    resource.spec.parallelism = resource.spec.parallelism.min(options.max_sessions);
    resource
}

/// Validates the spec of a resource. Keys begin with the prefix of `--archive`.
pub fn export_spec(
    resource: &ExportResource,
    process_context: &ProcessContext,
    options: &RunOptions<'_>,
    simulated: bool,
) -> Result<ExportSpec, CliError> {
    let mut export = connect::export_spec(&resource.spec, process_context)
        .map_err(|failure| connect_error(resource, &process_context.setting_names, &failure))?;
    if let Some(archive) = options.archive {
        export.root = export.root.under(&archive.location.key_prefix());
    }
    if simulated {
        SIMULATED_SOURCE.clone_into(&mut export.source);
    }
    Ok(export)
}

/// Returns the settings of the process that complement the spec of a resource.
pub fn process_context(
    resource: &ExportResource,
    holder: &str,
    tokens: &TokenCache,
    options: &RunOptions<'_>,
) -> ProcessContext {
    ProcessContext {
        tokens: tokens.clone(),
        holder: holder.to_owned(),
        single_writer: options.single_writer,
        retry_policy: RetryPolicy::MaxAttempts(ATTEMPTS_MAX),
        shard: options.shard,
        ..settings::process_context(resource.full_name())
    }
}

/// Prepares every export of the manifest.
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
        let settings = ExportSettings::resolve(&resource, manifest, options.archive, simulation)?;
        let process_context = ProcessContext {
            holder_epoch: Some(holder_epoch.clone()),
            setting_names: settings.names(),
            ..process_context(&resource, holder, &tokens, options)
        };
        let export = export_spec(&resource, &process_context, options, simulation.is_some())?;
        let peers = settings.connect(&tokens).await;
        jobs.push(PreparedExport {
            export: Arc::new(export),
            peers: peers
                .map_err(|failure| connect_error(&resource, &process_context.setting_names, &failure))?,
        });
    }
    Ok(jobs)
}

/// Opens the destination of a resource for reading.
pub async fn open_for_reading(
    resource: &ExportResource,
    destination: &ResolvedDestination,
) -> Result<Arc<dyn Store>, CliError> {
    destination
        .open(Access::Read)
        .await
        .map_err(|failure| connect_error(resource, &destination.names, &failure))
}

/// Groups the jobs by identity. Groups may run concurrently; the jobs of a group run in sequence.
pub fn group_by_destination(jobs: &[PreparedExport]) -> Vec<(String, Vec<usize>)> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, job) in jobs.iter().enumerate() {
        groups.entry(job.identity()).or_default().push(number);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, numbers)| numbers.first().copied());
    groups
}

/// Converts a failure to build the clients. Only a setting that must be changed is a usage error.
fn connect_error(resource: &ExportResource, names: &SettingNames, failure: &Failure) -> CliError {
    let message = failure.describe(names);
    match failure.reason {
        Reason::InvalidSpec | Reason::CredentialsMissing => usage_error(resource, &message),
        reason => CliError::from(anyhow::anyhow!(
            "EventExport {}: {reason}: {message}",
            resource.full_name(),
        )),
    }
}

fn usage_error(resource: &ExportResource, message: &str) -> CliError {
    CliError::usage(format!("EventExport {}: {message}", resource.full_name()))
}

/// Returns the first and last day of a resource with a valid spec.
pub fn date_range(
    resource: &ExportResource,
) -> Result<(jiff::civil::Date, Option<jiff::civil::Date>), CliError> {
    let checked = resource.spec.checked().map_err(|errors: Vec<FieldError>| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        usage_error(resource, &lines.join("; "))
    })?;
    Ok((checked.range.start, checked.range.end))
}
