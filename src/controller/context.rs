//! What every look at a resource needs.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client, ResourceExt as _};

use super::events::EventRecorder;
use super::exporter::{Exporter, Owner};
use super::registry::ExportRegistry;
use crate::api::EventExport;
use crate::telemetry::{Health, Metrics};

/// What every look at a resource needs.
pub(super) struct ReconcileContext {
    pub(super) client: Client,
    pub(super) registry: Arc<ExportRegistry>,
    pub(super) exporter: Arc<dyn Exporter>,
    pub(super) recorder: EventRecorder,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    /// What tells this operator from others of the cluster: its Lease.
    pub(super) operator: String,
    /// How long another operator may take to answer.
    pub(super) answer_timeout: Duration,
    /// Since when this process leads.
    pub(super) since: Timestamp,
    /// How long the service keeps events, as the operator was told.
    pub(super) retention: Option<SignedDuration>,
    pub(super) now: fn() -> Timestamp,
}

impl ReconcileContext {
    pub(super) fn api(&self, object: &EventExport) -> Api<EventExport> {
        // The kind is namespaced: the API server gives none without.
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }
}

pub(super) fn owner(context: &ReconcileContext, object: &EventExport) -> Owner {
    let uid = object.uid().unwrap_or_default();
    let taken = context
        .registry
        .with(&uid, |entry| entry.contention.since())
        .flatten();
    Owner {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid,
        since: taken.unwrap_or(context.since),
    }
}
