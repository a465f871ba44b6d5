//! Where requests may go: the allow-list of hosts, checked again after name resolution.

/// A request that the allow-list forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is not allowed: {why}")]
pub struct Denied {
    /// The host as it was asked for.
    pub host: String,
    /// What forbids it, and what to do.
    pub why: String,
}
