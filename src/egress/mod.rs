//! Where requests may go: the allow-list of hosts, checked again after name resolution, and whom TLS trusts; and how
//! they leave: counted, and held back by a fence; and how much of a peer's words is shown.
//!
//! The list is the operator's: a tenant names endpoints, the operator says which of them may be spoken to.

mod allow_list;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
mod proxy;
mod redact;
mod reserved;
mod resolver;
mod tls;
mod traffic;

pub use allow_list::{HostPolicy, InvalidHostEntry, PUBLIC_REGIONS};
pub use resolver::CheckedResolver;
pub use tls::{CaError, ca_certificates, check_ca};
pub use traffic::{Fence, Peer, RequestLabel, RequestMetrics, Traffic};

pub(crate) use allow_list::is_loopback;
pub(crate) use redact::{REDACTED, redact_tokens};

/// A request that the allow-list forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is not allowed: {why}")]
pub struct HostDenied {
    /// The host as it was asked for.
    pub host: String,
    /// What forbids it, and what to do.
    pub why: String,
}
