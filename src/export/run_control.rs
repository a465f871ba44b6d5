//! Control of a run from outside: signals, a newer spec, and what is remembered of an earlier run. No I/O.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::retry_state::RetryState;
use super::session_permission::SessionPermission;
use super::spec::ExportSpec;
use crate::archive::manifest::HeadRecord;

/// Signals to a run, and what it must know from outside the bucket.
#[derive(Clone, Debug)]
pub struct RunControl {
    /// Stops the run.
    pub stop: CancellationToken,
    /// Number of requests to look again: a change ends all waits and lists the bucket and the service again. Transfers
    /// go on.
    pub look: watch::Receiver<u64>,
    /// Newest manifest of the chain, as it is remembered outside the bucket.
    pub head: Option<HeadRecord>,
    /// Newer spec of the export, with the same source, destination and holder. Transfers go on.
    pub updates: watch::Receiver<SpecUpdate>,
    /// Permission to open sessions.
    pub sessions: SessionPermission,
    /// Failures with which a run of the same spec ended to wait.
    pub retry_state: Option<Arc<RetryState>>,
}

/// Newer spec of a running export.
#[derive(Clone, Debug, Default)]
pub struct SpecUpdate {
    /// Number of the update, from 1.
    pub number: u64,
    /// The spec; `None` before the first update.
    pub export: Option<Arc<ExportSpec>>,
}

impl From<CancellationToken> for RunControl {
    fn from(stop: CancellationToken) -> Self {
        // Nobody requests anything.
        let (_, look) = watch::channel(0);
        let (_, updates) = watch::channel(SpecUpdate::default());
        Self {
            stop,
            look,
            head: None,
            updates,
            sessions: SessionPermission::given(),
            retry_state: None,
        }
    }
}
