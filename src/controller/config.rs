//! What the operator is told, validated. No I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use super::exporter::Exporter;
use super::lease::LeaseSettings;
use crate::egress::Traffic;

/// How the operator works.
#[derive(Clone)]
pub struct OperatorConfig {
    /// The API server, and as whom.
    pub kubernetes: kube::Config,
    /// Only resources of this namespace; `None`: all.
    pub namespace: Option<String>,
    /// How one of several processes is the active one.
    pub lease: LeaseSettings,
    /// Looks at resources at once, 1–1,000. Default 16.
    pub concurrency: u16,
    /// How long changes of one resource are gathered before it is looked at. Default 200 ms.
    pub debounce: Duration,
    /// How changes are watched for.
    pub watch: WatchConfig,
    /// How long exports may take to end and to delete their sessions at shutdown: below the pod's
    /// `terminationGracePeriodSeconds`. Default 25 s.
    pub shutdown_timeout: Duration,
    /// What makes exports, once the names of the cluster and of this process are known.
    pub exporter: Arc<dyn Fn(String, String) -> Arc<dyn Exporter> + Send + Sync>,
    /// How requests leave; its fence is closed when the lease runs out.
    pub traffic: Traffic,
    /// How long the service keeps events, where that is known: for a metric only.
    pub retention: Option<SignedDuration>,
    /// What tells this cluster from others; `None`: the UID of the namespace `kube-system`.
    pub cluster: Option<String>,
}

/// Defaults of [`OperatorConfig::concurrency`].
pub const DEFAULT_CONCURRENCY: u16 = 16;

/// Default of [`OperatorConfig::debounce`].
pub const DEFAULT_DEBOUNCE: Duration = Duration::from_millis(200);

/// How changes in the cluster are watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchConfig {
    /// How long the API server is asked to keep a watch open, in seconds: what a dead connection hides comes to light at
    /// most 5 s after that. Default 60.
    pub timeout_seconds: u32,
    /// How long until everything is listed again, should events have been lost on the way. Default 12 h.
    pub relist_interval: Duration,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            timeout_seconds: 60,
            relist_interval: Duration::from_hours(12),
        }
    }
}
