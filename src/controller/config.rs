//! Validated configuration of the operator. No I/O.

use std::sync::Arc;
use std::time::Duration;

use super::access_watch::AccessConfig;
use super::exporter::Exporter;
use super::lease::LeaseSettings;
use super::watch_scope::WatchScope;
use crate::egress::Traffic;

/// Configuration of the operator.
#[derive(Clone)]
pub struct OperatorConfig {
    /// Address and credentials of the API server.
    pub kubernetes: kube::Config,
    /// Exports to serve.
    pub scope: WatchScope,
    /// Lease for leader election.
    pub lease: LeaseSettings,
    /// Maximum concurrent reconciles, 1–1,000. Default 16.
    pub concurrency: u16,
    /// Time for which changes of one resource are collected before a reconcile. Default 200 ms.
    pub debounce: Duration,
    /// Timeouts of watches.
    pub watch: WatchConfig,
    /// True to watch the metadata of Secrets and ConfigMaps, which needs `list` and `watch` on all of them. Default true.
    pub watch_secrets: bool,
    /// Maximum time for exports to stop and delete their sessions at shutdown: below the pod's
    /// `terminationGracePeriodSeconds`. Default 25 s.
    pub shutdown_timeout: Duration,
    /// Creates the exporter from a client and the names of the cluster and of this process.
    pub exporter: Arc<dyn Fn(kube::Client, String, String) -> Arc<dyn Exporter> + Send + Sync>,
    /// Allowed hosts and grants, which the exporter reads too.
    pub access: AccessConfig,
    /// Metrics and fence of outgoing requests. The fence closes when the lease expires.
    pub traffic: Traffic,
    /// Number of days for which the service keeps events, if known, of exports whose spec does not say it. Used only for a
    /// metric.
    pub retention_days: Option<u16>,
    /// Name of this cluster, different from those of other clusters. `None`: the UID of the namespace `kube-system`.
    pub cluster: Option<String>,
}

/// Default of [`OperatorConfig::concurrency`].
pub const DEFAULT_CONCURRENCY: u16 = 16;

/// Default of [`OperatorConfig::debounce`].
pub const DEFAULT_DEBOUNCE: Duration = Duration::from_millis(200);

/// Timeouts of watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchConfig {
    /// Time for which the API server keeps a watch open, in seconds. A dead connection is detected at most 5 s later.
    /// Default 60.
    pub timeout_seconds: u32,
    /// Interval between complete lists, in case events were lost. Default 12 h.
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
