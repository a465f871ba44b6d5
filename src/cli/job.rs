//! From a resource of the manifest to something that can be run: the export, its peers, and the lock's name.
//! Builds clients, opens directories; sends nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use ulid::Ulid;

use super::exit::Fault;
use super::manifest::{Manifest, ManifestError, Resource};
use super::secrets::{self, Purpose};
use super::simulation::{SOURCE, Simulation};
use crate::api::{FieldError, Reason};
use crate::egress::{HostPolicy, Traffic};
use crate::export::connect::{self, Secrets, Surroundings};
use crate::export::engine::Peers;
use crate::export::failure::Failure;
use crate::export::shard::Shard;
use crate::export::wish::{Export, Persistence, Tenure};
use crate::storage::{DirectoryStore, Store};
use crate::tracker::TokenCache;

/// How often a window is tried before `run` gives it up: 5 times.
const TRIES: u32 = 5;

/// What was typed, as far as it changes the exports of the manifest.
#[derive(Clone, Copy, Debug)]
pub struct Wishes<'a> {
    /// A directory in the place of the bucket.
    pub to: Option<&'a Path>,
    /// Windows at a time, in the place of `spec.parallelism`.
    pub parallelism: Option<u8>,
    /// The part of each export that is done.
    pub shard: Shard,
    /// Sessions that may be held in one space, 1–29: no more windows at a time than that.
    pub sessions: u8,
    /// Whether a store that ignores `If-None-Match` may be written to.
    pub single_writer: bool,
}

impl<'a> Wishes<'a> {
    /// Of who only looks at an archive.
    pub const fn to_look(to: Option<&'a Path>) -> Self {
        Self {
            to,
            parallelism: None,
            shard: Shard::WHOLE,
            sessions: 1,
            single_writer: false,
        }
    }
}

/// One export, ready to run.
#[derive(Debug)]
pub struct Job {
    /// What it wants.
    pub export: Arc<Export>,
    /// Where events come from and go to.
    pub peers: Peers,
}

impl Job {
    /// Store and root: exports that share them run one after the other.
    pub fn identity(&self) -> String {
        format!("{} {}", self.peers.store.name(), self.export.root.as_str())
    }
}

/// The resource as it is to be run: with what was typed in the place of what is written.
pub fn adjusted(resource: &Resource, wishes: &Wishes<'_>, simulation: Option<&Simulation>) -> Resource {
    let mut resource = resource.clone();
    if let Some(simulation) = simulation {
        simulation.redirect(&mut resource);
    }
    if wishes.to.is_some() {
        // A directory needs no keys, so none are asked for.
        let s3 = &mut resource.spec.destination.s3;
        (s3.credentials_secret_ref, s3.ca_secret_ref) = (None, None);
    }
    if let Some(parallelism) = wishes.parallelism {
        resource.spec.parallelism = parallelism;
    }
    resource.spec.parallelism = resource.spec.parallelism.min(wishes.sessions);
    resource
}

/// The wish of an adjusted resource.
pub fn export(resource: &Resource, around: &Surroundings, simulated: bool) -> Result<Export, Fault> {
    let mut export = connect::export(&resource.spec, around).map_err(|failure| failed(resource, &failure))?;
    if simulated {
        SOURCE.clone_into(&mut export.source);
    }
    Ok(export)
}

/// What a process adds to a resource's spec.
pub fn surroundings(
    resource: &Resource,
    holder: &str,
    tokens: &TokenCache,
    wishes: &Wishes<'_>,
) -> Surroundings {
    Surroundings {
        name: resource.full_name(),
        hosts: HostPolicy::any(),
        store_hosts: HostPolicy::any(),
        traffic: Traffic::default(),
        tokens: tokens.clone(),
        pod_identity: true,
        holder: holder.to_owned(),
        tenure: None,
        single_writer: wishes.single_writer,
        persistence: Persistence::Tries(TRIES),
        shard: wishes.shard,
    }
}

/// Everything that the manifest wants, ready to run; or all that is wrong.
pub async fn all(
    manifest: &Manifest,
    wishes: &Wishes<'_>,
    simulation: Option<&Simulation>,
    holder: &str,
) -> Result<Vec<Job>, Fault> {
    let tokens = TokenCache::new();
    let tenure = Tenure::new(Ulid::generate().to_string(), Timestamp::now());
    let mut jobs = Vec::new();
    for resource in &manifest.exports {
        if resource.spec.suspend {
            return Err(at_fault(
                resource,
                "spec.suspend is true: set it to false to export",
            ));
        }
        let resource = adjusted(resource, wishes, simulation);
        let secrets = match simulation {
            Some(_) => {
                let mut secrets = secrets_of(&resource, manifest, &[Purpose::Signing])?;
                secrets.0.extend(Simulation::secrets().0);
                secrets
            }
            None => secrets_of(
                &resource,
                manifest,
                &[Purpose::Source, Purpose::Bucket, Purpose::Signing],
            )?,
        };
        let around = Surroundings {
            tenure: Some(tenure.clone()),
            ..surroundings(&resource, holder, &tokens, wishes)
        };
        let export = export(&resource, &around, simulation.is_some())?;
        let tracker = connect::tracker(&resource.spec, &secrets, &around)
            .map_err(|failure| failed(&resource, &failure))?;
        let store = match wishes.to {
            Some(folder) => directory(folder)?,
            None => bucket(&resource, &secrets, &around).await?,
        };
        jobs.push(Job {
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
pub async fn bucket(
    resource: &Resource,
    secrets: &Secrets,
    around: &Surroundings,
) -> Result<Arc<dyn Store>, Fault> {
    connect::s3(&resource.spec, secrets, around)
        .await
        .map_err(|failure| failed(resource, &failure))
}

/// The directory of `--to`, made where it is missing.
fn directory(folder: &Path) -> Result<Arc<dyn Store>, Fault> {
    let store = DirectoryStore::open(folder).map_err(|error| Fault::usage(format!("--to: {error}")))?;
    Ok(Arc::new(store))
}

/// The Secrets of an adjusted resource for these purposes, from the manifest or the environment.
pub fn secrets_of(resource: &Resource, manifest: &Manifest, purposes: &[Purpose]) -> Result<Secrets, Fault> {
    secrets::of(resource, manifest, purposes, &secrets::environment).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .map(|error| format!("{}: {error}", resource.full_name()))
            .collect();
        Fault::usage(lines.join("\n"))
    })
}

/// Numbers of jobs that may run together: each inner list is run one after the other.
pub fn groups(jobs: &[Job]) -> Vec<(String, Vec<usize>)> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, job) in jobs.iter().enumerate() {
        groups.entry(job.identity()).or_default().push(number);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, numbers)| numbers.first().copied());
    groups
}

/// What cannot be meant is for the person who typed it; what fails now may work later.
fn failed(resource: &Resource, failure: &Failure) -> Fault {
    match failure.reason {
        Reason::InvalidSpec | Reason::CredentialsMissing => at_fault(resource, &failure.message),
        reason => Fault::from(anyhow::anyhow!(
            "EventExport {}: {reason}: {}",
            resource.full_name(),
            failure.message
        )),
    }
}

fn at_fault(resource: &Resource, message: &str) -> Fault {
    Fault::usage(format!("EventExport {}: {message}", resource.full_name()))
}

/// All that is wrong with a manifest, a line each.
pub fn wrong_manifest(origin: &str, errors: &[ManifestError]) -> Fault {
    let lines: Vec<String> = errors.iter().map(|error| format!("{origin}: {error}")).collect();
    Fault::usage(lines.join("\n"))
}

/// First and last day of a resource whose spec keeps every rule.
pub fn range(resource: &Resource) -> Result<(jiff::civil::Date, Option<jiff::civil::Date>), Fault> {
    let checked = resource.spec.checked().map_err(|errors: Vec<FieldError>| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        at_fault(resource, &lines.join("; "))
    })?;
    Ok((checked.range.start, checked.range.end))
}
