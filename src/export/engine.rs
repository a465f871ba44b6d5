//! The engine of one process: what all its exports share, and the two things it can be asked to do.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::snapshot::Snapshot;
use super::wish::Export;
use crate::storage::Store;
use crate::tracker::Tracker;

/// Bounds of a process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory for parts on their way, in MiB, over all transfers: at least 8. Default 96.
    pub pool_mib: u32,
    /// Windows at a time over all exports. Default 32.
    pub windows: usize,
    /// Sessions that this process holds at most in one space, 1–29. Default 28.
    pub sessions_per_space: usize,
    /// How long a session must have been quiet before it may be taken for a leftover of ours. Default 10 min.
    pub session_quiet: Duration,
    /// The longest an attempt may take. Default 6 h.
    pub attempt: Duration,
}

/// The two peers of an export.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Where events come from.
    pub tracker: Tracker,
    /// Where they go.
    pub store: Arc<dyn Store>,
}

/// What is left after sessions were released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Sessions that are provably ours and could not be deleted, with why.
    pub left: Vec<(String, String)>,
    /// What could not be found out: the bucket or the service did not answer.
    pub unknown: Option<String>,
}

/// What all exports of a process share: memory, processors, free sessions.
#[derive(Clone)]
pub struct Engine;

impl Engine {
    /// With these bounds; `now` is the clock.
    pub fn new(_limits: Limits, _now: Arc<dyn Fn() -> Timestamp + Send + Sync>) -> Self {
        Self
    }

    /// Exports until nothing can be done before [`Snapshot::next_look`] (complete, or continuous and up to
    /// date), until the persistence of the export is used up, or until `stop`: then transfers are
    /// abandoned, uploads aborted and sessions deleted before it returns (about a second; at most 20 s).
    /// Dropping the future instead leaves that to the next run. Publishes what changes, at most once a second.
    pub async fn run(
        &self,
        _export: Arc<Export>,
        _peers: Peers,
        _out: &watch::Sender<Arc<Snapshot>>,
        _stop: CancellationToken,
    ) -> Arc<Snapshot> {
        Arc::default()
    }

    /// Deletes every session that is provably this export's, and aborts its uploads: for the finalizer, and
    /// for the end of a run. What is left is named.
    pub async fn release(&self, _export: &Export, _peers: &Peers) -> Released {
        Released::default()
    }
}
