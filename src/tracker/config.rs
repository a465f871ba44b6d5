//! Configuration of a client: endpoints, credentials, limits. No I/O.

use std::time::Duration;

use url::Url;

use super::{Credentials, RetryConfig, TrackerError};
use crate::api::Setting;
use crate::egress::{HostPolicy, Traffic};

/// Configuration of a [`super::Tracker`].
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// Base URL of the service, such as `https://activity-tracker.ng.bluemix.net`.
    pub endpoint: Url,
    /// Location of the UAA, which issues tokens.
    pub uaa: UaaSource,
    /// Credentials for tokens.
    pub credentials: Credentials,
    /// Additional certificate authorities, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Allow-list of hosts, which also applies to a discovered UAA.
    pub hosts: HostPolicy,
    /// Timeouts of requests.
    pub timeouts: Timeouts,
    /// Limits of retries.
    pub retry: RetryConfig,
    /// Sender of requests: counts them, and holds them back behind a fence.
    pub traffic: Traffic,
}

/// Location of the UAA.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UaaSource {
    /// Discover it through the Cloud Foundry API at `api` (`GET /v2/info`).
    Discover {
        /// URL of the API, such as `https://api.ng.bluemix.net`.
        api: Url,
    },
    /// URL of the UAA: tokens are at `/oauth/token` below it.
    Endpoint(Url),
}

/// Timeouts of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Time to connect, including name resolution and TLS.
    pub connect: Duration,
    /// Time for a complete request, except downloads.
    pub request: Duration,
    /// Time for the head of a download, and for each further chunk. The duration of a download is not limited.
    pub idle_read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_mins(1),
            idle_read: Duration::from_mins(1),
        }
    }
}

/// Returns the URL with `segments` appended to its path, each escaped.
pub(super) fn join_path(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Only a URL without a host has no path, and those are rejected before.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// Returns the endpoint as receipts name it: no trailing slash, no default port, lowercase host.
pub(super) fn source_name(endpoint: &Url) -> Result<String, TrackerError> {
    let invalid = |why: &str| TrackerError::Config {
        setting: Setting::SourceEndpoint,
        why: why.to_owned(),
    };
    if endpoint.host().is_none() {
        return Err(invalid("the URL has no host"));
    }
    if endpoint.query().is_some() || endpoint.fragment().is_some() {
        return Err(invalid("the URL must not have a query or fragment"));
    }
    Ok(endpoint.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Region;

    #[test]
    fn the_default_allow_list_contains_every_public_region() {
        let list: Vec<_> = crate::egress::PUBLIC_REGIONS
            .iter()
            .map(ToString::to_string)
            .collect();
        let policy = HostPolicy::allow(&list).unwrap();
        for region in Region::ALL {
            for host in [region.tracker_host(), region.api_host()] {
                policy
                    .check_url(&format!("https://{host}").parse().unwrap())
                    .unwrap();
            }
        }
    }

    #[test]
    fn equivalent_endpoints_have_one_source_name() {
        for text in [
            "https://Tracker.example",
            "https://tracker.example:443/",
            "https://tracker.example//",
        ] {
            assert_eq!(
                source_name(&text.parse().unwrap()).unwrap(),
                "https://tracker.example"
            );
        }
        assert!(source_name(&"https://tracker.example/?a=b".parse().unwrap()).is_err());
        let below = join_path(
            &"https://t.example/at/".parse().unwrap(),
            &["v3", "sessions", "a/b"],
        );
        assert_eq!(below.as_str(), "https://t.example/at/v3/sessions/a%2Fb");
    }
}
