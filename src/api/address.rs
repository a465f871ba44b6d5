//! Addresses in the spec: public regions, and the validation of URLs. No I/O.

use std::net::{Ipv4Addr, Ipv6Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::rules;

/// Public region of the service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// US South, by its old name.
    Ng,
    /// US South.
    UsSouth,
    /// Germany.
    EuDe,
    /// Sydney.
    AuSyd,
    /// United Kingdom.
    EuGb,
}

impl Region {
    /// All regions.
    pub const ALL: [Self; 5] = [Self::Ng, Self::UsSouth, Self::EuDe, Self::AuSyd, Self::EuGb];

    /// Returns the region of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|region| region.name() == name)
    }

    /// Returns the name of the region in a spec.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UsSouth => "us-south",
            Self::Ng | Self::EuDe | Self::AuSyd | Self::EuGb => self.label(),
        }
    }

    /// Returns the label of the region in host names: `ng` for US South.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ng | Self::UsSouth => "ng",
            Self::EuDe => "eu-de",
            Self::AuSyd => "au-syd",
            Self::EuGb => "eu-gb",
        }
    }

    /// Returns the host of the Activity Tracker, `activity-tracker.<region>.bluemix.net`.
    pub fn tracker_host(self) -> String {
        format!("activity-tracker.{}.bluemix.net", self.label())
    }

    /// Returns the host with the `/v2/info` that names the UAA, `api.<region>.bluemix.net`.
    pub fn api_host(self) -> String {
        format!("api.{}.bluemix.net", self.label())
    }
}

/// Location of the UAA, which issues tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UaaAddress {
    /// URL of the UAA; `/oauth/token` is appended.
    Endpoint(Url),
    /// URL of the API with the `/v2/info` that names the UAA.
    DiscoverFrom(Url),
}

/// Parses a URL that satisfies the rule [`super::rules::URL`].
pub fn parse_url(text: &str) -> Option<Url> {
    let (secure, rest) = match text.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("http://")?),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = if let Some(inside) = authority.strip_prefix('[') {
        let (address, port) = inside.split_once(']')?;
        is_port(port).then_some(())?;
        // Only the usual notation of the loopback address.
        is_ipv6(address) && (secure || address == "::1")
    } else {
        let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
        is_port(port).then_some(())?;
        if secure {
            is_host_name(host) || is_ipv4(host)
        } else {
            host == "localhost" || host == "127.0.0.1"
        }
    };
    let path_is_valid = path.bytes().all(|byte| byte == b'/' || is_path_byte(byte));
    // Finally the parser of the HTTP client, which also rejects bad Punycode labels.
    (host && path_is_valid).then(|| Url::parse(text).ok())?
}

/// Parses a URL by [`parse_url`]. The error is the rule, and quotes nothing: the text may contain a password.
pub fn parse_endpoint(text: &str) -> Result<Url, &'static str> {
    parse_url(text).ok_or(rules::URL.message)
}

/// Returns true for the characters that a segment of a URL path allows unescaped (RFC 3986, `pchar` without `%`).
pub(super) fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

/// Accepts an empty text, or a colon and 1 to 65535 without leading zeros.
fn is_port(text: &str) -> bool {
    let Some(digits) = text.strip_prefix(':') else {
        return text.is_empty();
    };
    !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && digits.parse::<u16>().is_ok()
}

/// Accepts labels of letters, digits and inner hyphens. The last label begins with a letter, so that no parser reads it
/// as a number.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.split('.').all(label) && last.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn is_ipv4(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok()
}

/// Accepts hexadecimal notation only: no zone, no IPv4 notation.
fn is_ipv6(text: &str) -> bool {
    let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    hexadecimal && text.parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_the_name_of_the_schema() {
        for region in Region::ALL {
            assert_eq!(serde_json::to_value(region).unwrap(), region.name());
            assert_eq!(Region::from_name(region.name()), Some(region));
        }
        assert_eq!(Region::from_name("mars"), None);
        assert_eq!(Region::UsSouth.tracker_host(), Region::Ng.tracker_host());
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for text in [
            "http://127.0.0.1:8080",
            "http://[::1]:1/x",
            "http://localhost/",
            "https://a.b-c.net:65535/p/q",
        ] {
            assert!(parse_url(text).is_some(), "{text}");
        }
        for text in [
            "http://127.0.0.2",
            "http://localhost.example.com",
            "http://127.0.0.1@example.com",
            "http://[::2]",
            "http://127.0.0.1.example.com",
            "http://[0:0::1]",
            "HTTP://localhost",
        ] {
            assert!(parse_url(text).is_none(), "{text}");
        }
    }
}
