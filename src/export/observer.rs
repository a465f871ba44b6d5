//! Observer of the exports of a process, for metrics. No I/O.

use std::fmt;
use std::time::Duration;

use crate::api::Reason;
use crate::session::budget::SpaceLoad;

/// Result of one attempt at a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowResult {
    /// The window was stored.
    Stored {
        /// Events counted.
        events: u64,
        /// Bytes of the object.
        bytes: u64,
    },
    /// Late events of a stored window were stored.
    Revised {
        /// Late events.
        events: u64,
        /// Bytes of the full body.
        bytes: u64,
    },
    /// A stored window was downloaded again and has no more events than before.
    Unchanged,
    /// The window was proved to have no events.
    Empty,
    /// Another holder stored it meanwhile.
    Covered,
    /// The service no longer has it.
    Expired,
    /// The attempt failed, or waits for an external change.
    Failed(Reason),
    /// Its session was asked back for an export without one.
    Yielded,
    /// The run was stopped.
    Stopped,
}

/// Receives the results of the engine. Called on the byte path: implementations must not block.
pub trait EngineObserver: fmt::Debug + Send + Sync {
    /// Called when a window ends, with the time since it got its slot.
    fn window_finished(&self, result: WindowResult, elapsed: Duration);
    /// Called when more bytes of a download arrived.
    fn bytes_downloaded(&self, bytes: u64);
}

/// Observer that ignores everything.
#[derive(Clone, Copy, Debug)]
pub struct NoopObserver;

impl EngineObserver for NoopObserver {
    fn window_finished(&self, _: WindowResult, _: Duration) {}
    fn bytes_downloaded(&self, _: u64) {}
}

/// Load of a process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Maximum concurrent windows.
    pub windows: usize,
    /// Windows that have a slot.
    pub active_windows: usize,
    /// Windows that wait for a slot.
    pub waiting_for_slot: usize,
    /// Windows that have a slot and wait for memory.
    pub waiting_for_memory: usize,
    /// Windows that wait for their turn to open a session.
    pub waiting_for_session: usize,
    /// Size of the memory pool for parts, in bytes.
    pub pool_bytes: u64,
    /// Bytes of the pool in use.
    pub pool_used_bytes: u64,
    /// Load of every space that is exported from.
    pub spaces: Vec<SpaceLoad>,
}
