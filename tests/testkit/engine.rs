//! Exports by the engine in this process: its spec, and the client of the service. No I/O.

use eventexport::api::{Scope, SettingNames};
use eventexport::archive::layout::ArchiveRoot;
use eventexport::egress::{HostPolicy, Traffic};
use eventexport::export::shard::Shard;
use eventexport::export::spec::{ExportSpec, RecheckPolicy, RetryPolicy};
use eventexport::simulator::DEFAULT_API_KEY;
use eventexport::tracker::{Credentials, RetryConfig, Timeouts, TrackerConfig, UaaSource};
use jiff::SignedDuration;
use jiff::civil::Date;

use super::manifest::SPACE;

/// Returns an export of these days, both inclusive.
pub(crate) fn export_spec(start: Date, end: Option<Date>) -> ExportSpec {
    ExportSpec {
        name: "tests/one".to_owned(),
        space: SPACE.to_owned(),
        scope: Scope::Space,
        start,
        end,
        hour: None,
        source: "http://simulator.invalid".to_owned(),
        root: ArchiveRoot::new("tracker", SPACE, "space"),
        shard: Shard::SINGLE,
        parallelism: 4,
        settle_after: SignedDuration::from_hours(6),
        accepted_gaps: Vec::new(),
        abandoned_head: None,
        unsigned_receipts_before: None,
        recheck: RecheckPolicy::WhileListed,
        report: false,
        holder: "tests/one".to_owned(),
        holder_epoch: None,
        single_writer: false,
        retry_policy: RetryPolicy::MaxAttempts(4),
        setting_names: SettingNames::default(),
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
