//! What this process remembers of one resource. Small: a resource that rests costs no more than its entry.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::claim::Others;
use super::decide::{End, Observation, Work, deleting_since};
use super::events::Allowance;
use super::exporter::Job;
use super::secrets_in_use::SecretsInUse;
use super::status::own;
use crate::api::{ConditionType, EventExport, EventExportSpec, EventExportStatus};
use crate::export::engine::Released;
use crate::export::failure::Failure;
use crate::export::snapshot::Snapshot;
use crate::export::wish::Export;
use crate::telemetry::metrics::ResourceFacts;

/// Our finalizer: on a resource while sessions may be open because of it.
pub const FINALIZER: &str = "eventexport.io/sessions";

/// What is remembered of one resource.
pub(super) struct Entry {
    pub(super) object: Arc<ObjectRef<EventExport>>,
    /// The newest version of it that was looked at.
    newest: u64,
    pub(super) state: State,
    /// Whether sessions may be open; `None`: this process does not know, the finalizer does.
    pub(super) sessions: Option<bool>,
    /// The export with its credentials, while it runs or sessions may be open.
    pub(super) job: Option<Arc<dyn Job>>,
    pub(super) secrets: SecretsInUse,
    /// The work has to begin again, whatever else is the case.
    pub(super) afresh: bool,
    /// It was suspended when it was last looked at.
    pub(super) suspended: bool,
    /// Failures in a row, of runs and of releases.
    pub(super) failures: u32,
    /// Errors of the API server in a row.
    pub(super) errors: u32,
    /// Why it could not begin or broke down.
    pub(super) failure: Option<Failure>,
    /// What a run left, until the status says so.
    pub(super) last: Option<(Arc<Snapshot>, Arc<Export>)>,
    /// What a release left.
    pub(super) left: Option<Box<Released>>,
    /// The job was made anew for a release, from what the Secrets hold.
    pub(super) rebuilt: bool,
    /// Since when this process has known that it is being deleted.
    pub(super) deleting: Option<Instant>,
    /// It was told that sessions are left.
    pub(super) told_left: bool,
    pub(super) written: Written,
    /// What metrics show of it; `None`: it was not looked at yet.
    pub(super) facts: Option<Box<ResourceFacts>>,
    pub(super) allowance: Allowance,
    /// Other operators that would serve it.
    pub(super) others: Others,
}

/// What this process wrote to the status.
#[derive(Default)]
pub(super) struct Written {
    /// What was written last, until it is seen.
    pub(super) last: Option<Box<Sent>>,
    pub(super) at: Option<Instant>,
    /// The status of a resource that rests; another one is not ours.
    pub(super) resting: Option<u64>,
}

/// A status on its way to the watch.
pub(super) struct Sent {
    pub(super) status: EventExportStatus,
    /// The version of the resource that it was written over.
    pub(super) over: Option<String>,
    /// The version that came of it.
    pub(super) made: Option<String>,
}

/// The version of a resource. Versions are numbers that grow (KEP-5504).
fn version(object: &EventExport) -> Option<u64> {
    number(object.metadata.resource_version.as_deref())
}

fn number(version: Option<&str>) -> Option<u64> {
    version?.parse().ok()
}

impl Sent {
    /// Whether this version of the resource is older than the write.
    pub(super) fn is_later_than(&self, seen: Option<&str>) -> bool {
        // A write that changed nothing never comes.
        let is_coming = seen == self.over.as_deref() && self.made != self.over;
        is_coming
            || matches!((number(seen), number(self.made.as_deref())), (Some(seen), Some(made)) if seen < made)
    }
}

pub(super) enum State {
    Fresh,
    Live(Live),
    Ended { spec: u64, end: End },
}

/// Work under way.
pub(super) struct Live {
    /// Tells this work from what came before it.
    pub(super) serial: u64,
    pub(super) kind: Kind,
    pub(super) spec: u64,
    pub(super) stop: CancellationToken,
    pub(super) abort: AbortHandle,
    pub(super) seen: watch::Receiver<Arc<Snapshot>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Export,
    Release,
}

impl Entry {
    pub(super) fn new(object: Arc<ObjectRef<EventExport>>) -> Self {
        Self {
            object,
            newest: 0,
            state: State::Fresh,
            sessions: None,
            job: None,
            secrets: SecretsInUse::default(),
            afresh: false,
            suspended: false,
            failures: 0,
            errors: 0,
            failure: None,
            last: None,
            left: None,
            rebuilt: false,
            deleting: None,
            told_left: false,
            written: Written::default(),
            facts: None,
            allowance: Allowance::full(Instant::now()),
            others: Others::default(),
        }
    }

    /// Whether nothing newer of it was looked at; from now on nothing older is.
    pub(super) fn is_news(&mut self, object: &EventExport) -> bool {
        let version = version(object).unwrap_or(self.newest);
        let is_news = version >= self.newest;
        if is_news {
            self.newest = version;
        }
        is_news
    }

    /// What is there now is the newest, also where its number is lower: a cluster may be restored from a backup.
    pub(super) fn begin_anew_from(&mut self, object: &EventExport) {
        self.newest = version(object).unwrap_or_default();
    }

    /// Whether that is older than what was looked at of this one.
    pub(super) fn outlives(&self, object: &EventExport) -> bool {
        version(object).is_some_and(|version| version < self.newest)
    }

    /// What the decision needs to know.
    pub(super) fn observe(&mut self, object: &EventExport, now: Timestamp) -> Observation {
        let finalizer = has_finalizer(object);
        let resumed = self.suspended && !object.spec.suspend;
        self.suspended |= object.spec.suspend;
        let deleting = object.metadata.deletion_timestamp.as_ref().map(|at| {
            let known = self.deleting.get_or_insert_with(Instant::now).elapsed();
            let known = SignedDuration::try_from(known).unwrap_or(SignedDuration::MAX);
            deleting_since(now, at.0, known)
        });
        Observation {
            now,
            deleting,
            finalizer,
            suspended: object.spec.suspend,
            wanted: spec_digest(&object.spec),
            secrets_stale: self.secrets.stale,
            sessions: self.sessions.unwrap_or(finalizer),
            afresh: self.afresh || resumed || self.is_estranged(object),
            work: match &self.state {
                State::Fresh => Work::Fresh,
                State::Live(live) => match live.kind {
                    Kind::Export => Work::Exporting {
                        spec: live.spec,
                        stopping: live.stop.is_cancelled(),
                    },
                    Kind::Release => Work::Releasing,
                },
                State::Ended { spec, end } => Work::Ended {
                    spec: *spec,
                    end: *end,
                },
            },
        }
    }

    /// Whether the resource rests and its status is not the one that this process left there: then nobody here knows
    /// what it should say, and the bucket is asked.
    fn is_estranged(&self, object: &EventExport) -> bool {
        matches!(
            self.state,
            State::Ended {
                end: End::Rested(_),
                ..
            }
        ) && self.last.is_none()
            && self
                .written
                .resting
                .is_some_and(|ours| ours != resting_digest(object.status.as_ref()))
    }
}

/// Whether our finalizer is on it.
pub(super) fn has_finalizer(object: &EventExport) -> bool {
    object
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == FINALIZER)
}

/// Tells specs apart that want different work, within this process.
pub(super) fn spec_digest(spec: &EventExportSpec) -> u64 {
    digest(&EventExportSpec {
        suspend: false,
        ..spec.clone()
    })
}

/// Tells statuses that rest apart, within this process. Conditions of others do not count, nor what is said of other
/// operators, which comes and goes meanwhile.
pub(super) fn resting_digest(status: Option<&EventExportStatus>) -> u64 {
    let mut status = status.map(own);
    if let Some(status) = &mut status {
        let contended = ConditionType::Contended.as_str();
        status.conditions.retain(|condition| condition.type_ != contended);
    }
    digest(&status)
}

fn digest(value: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Our own types have string keys only and are always JSON.
    serde_json::to_vec(value).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_costs_little_memory() {
        // Beside it: two names, a UID, and the versions of at most four Secrets, below half a KiB together.
        let size = size_of::<Entry>() + size_of::<ResourceFacts>();
        assert!(size <= 640, "{size}");
    }
}
