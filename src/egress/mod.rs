//! Where requests may go: the allow-list of hosts, checked again after name resolution, and whom TLS trusts; and how
//! they leave: counted, and held back by a fence; and how much of a peer's words is shown.
//!
//! The list is the operator's: a tenant names endpoints, the operator says which of them may be spoken to.

mod allow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
mod proxy;
mod reserved;
mod resolver;
mod tls;
mod traffic;
mod words;

pub use allow::{BadEntry, HostPolicy, PUBLIC_REGIONS};
pub use resolver::CheckedResolver;
pub use tls::{CaError, ca_certificates, check_ca};
pub use traffic::{Asked, Fence, Meter, Peer, Traffic};

pub(crate) use allow::is_loopback;
pub(crate) use words::{REDACTED, without_tokens};

/// A request that the allow-list forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is not allowed: {why}")]
pub struct Denied {
    /// The host as it was asked for.
    pub host: String,
    /// What forbids it, and what to do.
    pub why: String,
}
