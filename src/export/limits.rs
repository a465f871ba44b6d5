//! Limits and clock of a process. No I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// Clock of a process.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Limits of a process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory for parts in flight of all transfers, in MiB: at least one part. Default 96.
    pub pool_mib: u32,
    /// Minimum size of a part, in MiB. S3 takes parts of 5 MiB and more. Default 8.
    pub part_mib: u32,
    /// Concurrent windows of all exports that have one already, at most two for each MiB of the pool. As many more are kept
    /// for exports, for spaces and for namespaces that have none. Default 32.
    pub windows: usize,
    /// Maximum sessions that this process holds in one space, 1–29. Default 28.
    pub sessions_per_space: usize,
    /// Time without activity after which a session may count as a leftover of this holder. Default 10 min.
    pub session_quiet: Duration,
    /// Maximum duration of an attempt, after which it is abandoned. Default 6 h.
    pub attempt: Duration,
    /// Time between the two looks at a window that the service seems to have deleted. Default 5 min.
    pub second_look: Duration,
    /// Maximum age of the listing of all days while an export has work left. Default 24 h.
    pub listing_max_age: Duration,
    /// Maximum time that a run with a limit of retries waits for a session while it can open none. `None`: no limit,
    /// the default.
    pub session_wait: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pool_mib: 96,
            part_mib: 8,
            windows: 32,
            sessions_per_space: 28,
            session_quiet: Duration::from_mins(10),
            attempt: Duration::from_hours(6),
            second_look: Duration::from_mins(5),
            listing_max_age: Duration::from_hours(24),
            session_wait: None,
        }
    }
}
