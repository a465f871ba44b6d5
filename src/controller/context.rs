//! State that all reconciles share.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _};

use super::entry::Handover;
use super::events::EventRecorder;
use super::export_cache::ExportCache;
use super::exporter::{Exporter, Owner};
use super::installations::Installations;
use super::registry::ExportRegistry;
use super::runs::Runs;
use crate::api::EventExport;
use crate::telemetry::{Health, Metrics};

/// Clients, registry and settings that all reconciles share.
pub(super) struct ReconcileContext {
    pub(super) client: Client,
    /// Exports as the watch delivered them last.
    pub(super) exports: ExportCache,
    pub(super) registry: Arc<ExportRegistry>,
    pub(super) runs: Arc<Runs>,
    pub(super) installations: Arc<Installations>,
    pub(super) exporter: Arc<dyn Exporter>,
    pub(super) recorder: EventRecorder,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    /// Time since which this process leads.
    pub(super) since: Timestamp,
    /// Configured number of days for which the service keeps events.
    pub(super) retention_days: Option<u16>,
    pub(super) now: fn() -> Timestamp,
}

impl ReconcileContext {
    pub(super) fn api(&self, object: &EventExport) -> Api<EventExport> {
        // The kind is namespaced, so the namespace is always set.
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }
}

pub(super) fn owner(context: &ReconcileContext, object: &EventExport) -> Owner {
    let uid = object.uid().unwrap_or_default();
    let taken_over = context
        .registry
        .with(&uid, |entry| match entry.handover.as_deref() {
            Some(Handover::TakenOver(at)) => Some(*at),
            Some(Handover::ServedBy(_)) | None => None,
        });
    let taken_over = taken_over.flatten();
    Owner {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid,
        since: taken_over.unwrap_or(context.since),
    }
}
