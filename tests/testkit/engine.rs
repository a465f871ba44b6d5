//! Exports by the engine in this process: its spec, and the client of the service. No I/O.

use eventexport::egress::{HostPolicy, Traffic};
use eventexport::export::spec::{ExportSpec, RetryPolicy};
use eventexport::simulator::DEFAULT_API_KEY;
use eventexport::tracker::{Credentials, RetryConfig, Timeouts, TrackerConfig, UaaSource};
use jiff::civil::Date;

use super::manifest::SPACE;

/// Returns an export of these days, both inclusive.
pub(crate) fn export_spec(start: Date, end: Option<Date>) -> ExportSpec {
    ExportSpec {
        end,
        retry_policy: RetryPolicy::MaxAttempts(4),
        ..ExportSpec::new("tests/one", SPACE, "http://simulator.invalid", "tracker", start)
    }
}

/// Returns the settings of a client of the service at that address.
pub(crate) fn tracker_config(service: &url::Url) -> TrackerConfig {
    TrackerConfig {
        endpoint: service.clone(),
        uaa: UaaSource::Discover { api: service.clone() },
        credentials: Credentials::ApiKey(DEFAULT_API_KEY.to_owned().into()),
        ca_pem: None,
        hosts: HostPolicy::any(),
        timeouts: Timeouts::default(),
        retry: RetryConfig::default(),
        traffic: Traffic::default(),
    }
}
