//! From a resource's spec to an export and its peers: the one place where spec, Secrets and the process's
//! surroundings meet. Builds clients; sends nothing.

use std::collections::BTreeMap;

use super::engine::Peers;
use super::failure::Failure;
use super::wish::{Export, Persistence};
use crate::egress::HostPolicy;
use crate::tracker::TokenCache;

/// Secrets by name, each with its keys.
#[derive(Clone, Default)]
pub struct Secrets(pub BTreeMap<String, BTreeMap<String, Vec<u8>>>);

/// What a process adds to a spec.
#[derive(Clone)]
pub struct Surroundings {
    /// How logs name the export.
    pub name: String,
    /// Where requests may go.
    pub hosts: HostPolicy,
    /// Tokens, shared by all exports with the same credentials.
    pub tokens: TokenCache,
    /// Whether this export may use the identity of the process for its bucket.
    pub pod_identity: bool,
    /// Who exports, stable over restarts.
    pub holder: String,
    /// Whether a store that ignores `If-None-Match` may be written to.
    pub single_writer: bool,
    /// How long to go on.
    pub persistence: Persistence,
}

// pub fn secret_names(spec: &EventExportSpec) -> Vec<String>;
// pub fn export(spec: &EventExportSpec, around: &Surroundings) -> Result<Export, Failure>;
// pub fn peers(spec: &EventExportSpec, secrets: &Secrets, around: &Surroundings) -> Result<Peers, Failure>;
