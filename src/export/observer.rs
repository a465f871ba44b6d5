//! What a process tells of its exports as they go: to whoever counts. No I/O.

use std::fmt;
use std::time::Duration;

use crate::api::Reason;

/// How a window ended, one attempt at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowResult {
    /// Stored, with so many events in so many bytes.
    Stored {
        /// Events counted.
        events: u64,
        /// Bytes as stored.
        bytes: u64,
    },
    /// Proved to have no events.
    Empty,
    /// Somebody else stored it meanwhile.
    Covered,
    /// The service no longer has it.
    Expired,
    /// It failed, or waits for something outside.
    Failed(Reason),
    /// It was asked to stop.
    Stopped,
}

/// Is told. Called on the byte path: must not wait.
pub trait EngineObserver: fmt::Debug + Send + Sync {
    /// A window ended, so long after it got its place.
    fn window_finished(&self, end: WindowResult, took: Duration);
    /// So many further bytes of downloads arrived.
    fn bytes_downloaded(&self, bytes: u64);
}

/// Is told and forgets.
#[derive(Clone, Copy, Debug)]
pub struct NoopObserver;

impl EngineObserver for NoopObserver {
    fn window_finished(&self, _: WindowResult, _: Duration) {}
    fn bytes_downloaded(&self, _: u64) {}
}

/// How busy a process is, at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Windows that may be worked on at once.
    pub windows: usize,
    /// Windows that have a place.
    pub active_windows: usize,
    /// Windows that wait for a place.
    pub waiting_for_slot: usize,
    /// Windows that have a place and wait for memory.
    pub waiting_for_memory: usize,
    /// Windows that wait for their turn to open a session.
    pub waiting_for_session: usize,
    /// Bytes of the pool for data on its way.
    pub pool_bytes: u64,
    /// Bytes of it that are taken.
    pub pool_used_bytes: u64,
    /// Every space that is exported from.
    pub spaces: Vec<SpaceLoad>,
}

/// The sessions of one space, at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceLoad {
    /// The service, as receipts name it.
    pub source: String,
    /// The space's id.
    pub space: String,
    /// Sessions that this process holds open.
    pub held: usize,
    /// Sessions that it may hold at most.
    pub budget: usize,
    /// Sessions of everybody that the service listed when it was last asked; `None`: not asked yet.
    pub listed: Option<usize>,
}
