//! Properties of the allow-list for any entry, any address in a resource, and any redirect. For tests and fuzzing. No
//! I/O.

// These functions panic if a property does not hold.
#![allow(clippy::missing_panics_doc, clippy::needless_for_each)]

use std::net::IpAddr;

use url::Url;

use super::HostPolicy;
use crate::api::parse_url;

/// Checks entries, one per line, followed by an address: the validation of the resource, the client and the allow-list
/// agree on its host; a name never resolves to this machine, and nothing resolves to cloud metadata.
pub fn hosts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (entries, address) = text.rsplit_once('\n').unwrap_or(("", text));
    let entries: Vec<String> = entries.lines().map(str::to_owned).collect();
    let any = HostPolicy::any();
    if let Some(url) = parse_url(address) {
        // The client accepts every address that the validation accepts.
        assert!(any.check_url(&url).is_ok(), "{url}");
        assert!(
            url.username().is_empty() && url.password().is_none() && url.query().is_none(),
            "{url}"
        );
        // Parsing the serialized address yields the same address.
        assert_eq!(Url::parse(url.as_str()).as_ref(), Ok(&url));
    }
    let url = Url::parse(address).ok();
    if let Some(url) = &url
        && any.check_url(url).is_ok()
    {
        assert!(url.scheme() == "https" || super::is_loopback(url), "{url}");
        assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    }
    let policy = match HostPolicy::allow(&entries) {
        Ok(policy) => policy,
        Err(bad) => {
            assert!(entries.contains(&bad.entry));
            return;
        }
    };
    if let Some(url) = url.filter(|url| policy.check_url(url).is_ok()) {
        assert!(any.check_url(&url).is_ok(), "{url}");
        let host = url.host_str().unwrap_or_default().to_owned();
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let listed = |address: &str| {
            address
                .parse()
                .is_ok_and(|address: IpAddr| policy.check_address(&host, address).is_ok())
        };
        if !literal {
            for never in [
                "169.254.169.254",
                "100.100.100.200",
                "fd00:ec2::254",
                "0.0.0.0",
                "224.0.0.1",
            ] {
                assert!(!listed(never), "{host} may lead to {never}");
            }
            if !super::is_loopback(&url) {
                assert!(!listed("127.0.0.1") && !listed("::1"), "{host} may lead here");
            }
        }
    }
}
