//! Outgoing requests: the allow-list of hosts, checked again after name resolution; trusted certificate authorities;
//! metrics and the fence, which holds requests back.
//!
//! The allow-list belongs to the operator: tenants name endpoints, the operator decides about them.

mod allow_list;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod bad_input;
mod clients;
mod proxy;
mod reply_text;
mod reserved;
mod resolver;
mod tls;
mod traffic;

pub use allow_list::{AWS_S3, HostPolicy, InvalidHostEntry, PUBLIC_REGIONS};
pub use clients::{ClientSettings, SharedClients};
pub use resolver::CheckedResolver;
pub use tls::{CaError, ca_certificates, check_ca};
pub use traffic::{Fence, Peer, RequestLabel, RequestMetrics, Traffic};

pub(crate) use allow_list::is_loopback;
pub(crate) use proxy::{all_exempt, check_env as check_proxies, via_proxy};
pub(crate) use reply_text::reply_text;

/// A request that the allow-list forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is not allowed: {why}")]
pub struct HostDenied {
    /// Host of the request.
    pub host: String,
    /// Rule that forbids it, and remedy.
    pub why: String,
}
