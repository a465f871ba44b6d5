//! What a tracker client is made of: where, as whom, under which bounds. Pure, no I/O.

use std::time::Duration;

use url::Url;

use super::{Credentials, RetryConfig, TrackerError};
use crate::egress::{HostPolicy, Traffic};

/// Everything that a [`super::Tracker`] needs.
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// The tracker, such as `https://activity-tracker.ng.bluemix.net`.
    pub endpoint: Url,
    /// Where tokens come from.
    pub uaa: UaaSource,
    /// Whose tokens.
    pub credentials: Credentials,
    /// Further certificate authorities, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Which hosts may be spoken to; the discovered UAA too.
    pub hosts: HostPolicy,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How often to ask again.
    pub retry: RetryConfig,
    /// How requests leave.
    pub traffic: Traffic,
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UaaSource {
    /// Ask the Cloud Foundry API at `api` for it (`GET /v2/info`).
    Discover {
        /// The API, such as `https://api.ng.bluemix.net`.
        api: Url,
    },
    /// The UAA itself: tokens are at `/oauth/token` below it.
    Endpoint(Url),
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, name resolution and TLS included.
    pub connect: Duration,
    /// For a whole request that is no download.
    pub request: Duration,
    /// For a download's head, and for each further piece of it. There is no limit on the whole.
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

/// The tracker of a public region, and the API that knows its UAA. `us-south` is also called `ng`.
pub fn endpoint_of_region(region: &str) -> Option<(Url, Url)> {
    let name = match region {
        "us-south" | "ng" => "ng",
        "eu-de" => "eu-de",
        "au-syd" => "au-syd",
        "eu-gb" => "eu-gb",
        _ => return None,
    };
    let url = |service| Url::parse(&format!("https://{service}.{name}.bluemix.net")).ok();
    Some((url("activity-tracker")?, url("api")?))
}

/// The URL with `segments` below its path, each escaped.
pub(super) fn join_path(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Only a URL without a host has no path, and those were refused.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// The endpoint as a source is named in receipts: no trailing slash, no default port, a lower-case host.
pub(super) fn source_name(endpoint: &Url) -> Result<String, TrackerError> {
    let bad = |why: &str| TrackerError::Config {
        field: "spec.source.endpoint",
        why: why.to_owned(),
    };
    if endpoint.host().is_none() {
        return Err(bad("it names no host"));
    }
    if endpoint.query().is_some() || endpoint.fragment().is_some() {
        return Err(bad("it must end with its path, without ? or #"));
    }
    Ok(endpoint.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn us_south_and_ng_are_the_same_region() {
        assert_eq!(endpoint_of_region("us-south"), endpoint_of_region("ng"));
        let (tracker, api) = endpoint_of_region("eu-gb").unwrap();
        assert_eq!(tracker.as_str(), "https://activity-tracker.eu-gb.bluemix.net/");
        assert_eq!(api.as_str(), "https://api.eu-gb.bluemix.net/");
        assert_eq!(endpoint_of_region("mars"), None);
    }

    #[test]
    fn every_public_region_is_on_the_default_list() {
        let list: Vec<_> = crate::egress::PUBLIC_REGIONS
            .iter()
            .map(ToString::to_string)
            .collect();
        let policy = HostPolicy::allow(&list).unwrap();
        for region in ["ng", "eu-de", "au-syd", "eu-gb"] {
            let (tracker, api) = endpoint_of_region(region).unwrap();
            policy.check_url(&tracker).unwrap();
            policy.check_url(&api).unwrap();
        }
    }

    #[test]
    fn a_source_has_one_name() {
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
