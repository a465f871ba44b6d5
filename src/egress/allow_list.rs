//! The allow-list: hosts, ports and addresses. No I/O.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use url::{Host, Url};

use super::HostDenied;
use super::reserved::{is_private, reserved};

/// Hosts of S3 for a spec without an endpoint.
pub const AWS_S3: [&str; 1] = ["*.amazonaws.com"];

/// Names of endpoints in a private network of AWS, which have private addresses.
const VPC_ENDPOINTS: &str = ".vpce.amazonaws.com";

/// Port of the default hosts.
const HTTPS_PORT: u16 = 443;

/// Hosts of the public service: the tracker, the API that names the UAA, and the UAA, in each region.
pub const PUBLIC_REGIONS: [&str; 16] = [
    "activity-tracker.ng.bluemix.net",
    "api.ng.bluemix.net",
    "login.ng.bluemix.net",
    "uaa.ng.bluemix.net",
    "activity-tracker.eu-de.bluemix.net",
    "api.eu-de.bluemix.net",
    "login.eu-de.bluemix.net",
    "uaa.eu-de.bluemix.net",
    "activity-tracker.au-syd.bluemix.net",
    "api.au-syd.bluemix.net",
    "login.au-syd.bluemix.net",
    "uaa.au-syd.bluemix.net",
    "activity-tracker.eu-gb.bluemix.net",
    "api.eu-gb.bluemix.net",
    "login.eu-gb.bluemix.net",
    "uaa.eu-gb.bluemix.net",
];

/// Hosts that requests may be sent to. Cheap to clone; clones share the rules, also when they are replaced.
#[derive(Clone)]
pub struct HostPolicy(Arc<RwLock<RulesInUse>>);

struct RulesInUse {
    current: Arc<HostRules>,
    /// Rules before the last replacement, while sessions are deleted at hosts that only they allow.
    former: Option<Arc<HostRules>>,
}

enum HostRules {
    /// Any host. A UAA that a service names must share the domain of the service, unless it is one of these.
    Any(Vec<AllowedHost>),
    Allow(Vec<AllowedHost>),
}

#[derive(Debug, PartialEq, Eq)]
struct AllowedHost {
    host: HostPattern,
    /// `None`: any port.
    port: Option<u16>,
    /// True for a default host: nobody named it, so it must have a public address.
    public_only: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum HostPattern {
    Name(String),
    /// Suffix with its leading dot, so that `*.example.com` matches neither `badexample.com` nor `example.com`.
    Suffix(String),
    Address(IpAddr),
}

/// Invalid entry of an allow-list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid allow-list entry {entry:?}: {why} (expected host, host:port, *.suffix or an IP address, without a scheme)"
)]
pub struct InvalidHostEntry {
    /// The entry as given.
    pub entry: String,
    /// Violated rule.
    pub why: &'static str,
}

impl HostPolicy {
    /// Allows any host, for the command line: the user chooses the hosts.
    pub fn any() -> Self {
        Self::new(Arc::new(HostRules::Any(Vec::new())))
    }

    fn new(current: Arc<HostRules>) -> Self {
        Self(Arc::new(RwLock::new(RulesInUse {
            current,
            former: None,
        })))
    }

    fn rules(&self) -> RwLockReadGuard<'_, RulesInUse> {
        // Nothing panics under this lock.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the address of the policy, which identifies it while somebody holds it. Replaced rules do not change it.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Returns a policy with the same rules, which no replacement changes.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self::new(self.rules().current.clone())
    }

    /// Replaces the rules, also for all clones, by those of `newer`. Each request that starts from now on follows them. The
    /// former rules stay known until [`HostPolicy::forget_former`].
    pub fn replace(&self, newer: &Self) {
        let newer = newer.rules().current.clone();
        let mut rules = self.0.write().unwrap_or_else(PoisonError::into_inner);
        rules.former = Some(std::mem::replace(&mut rules.current, newer));
    }

    /// Forgets the rules before the last replacement.
    pub fn forget_former(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).former = None;
    }

    /// Allows any host, and these as a UAA that a service of another domain names. Entries as in
    /// [`HostPolicy::allow`].
    pub fn any_with(named: &[String]) -> Result<Self, InvalidHostEntry> {
        Ok(Self::new(Arc::new(HostRules::Any(parse_all(named)?))))
    }

    /// Allows only these: `host`, `host:port`, `*.suffix` (one or more labels in front), or an IP address. An entry
    /// without a port allows all ports; an empty list allows nothing.
    pub fn allow(entries: &[String]) -> Result<Self, InvalidHostEntry> {
        Self::allow_with_defaults(entries, &[])
    }

    /// As [`HostPolicy::allow`], and these default hosts, which nobody named: on port 443, with public addresses only.
    /// Endpoints in a private network of AWS have private ones.
    pub fn allow_with_defaults(named: &[String], defaults: &[&str]) -> Result<Self, InvalidHostEntry> {
        let mut entries = parse_all(named)?;
        let defaults: Vec<String> = defaults.iter().map(ToString::to_string).collect();
        entries.extend(parse_all(&defaults)?.into_iter().map(|entry| AllowedHost {
            port: Some(HTTPS_PORT),
            public_only: true,
            ..entry
        }));
        Ok(Self::new(Arc::new(HostRules::Allow(entries))))
    }

    /// Returns true if credentials may be sent to a UAA that was not configured, but is named by the API of a service.
    /// It must be on the list, if there is one. Otherwise it must belong to the same registrable domain (by the Public
    /// Suffix List), be on this machine like the API, or be named by the user.
    pub fn trusts_discovered(&self, api: &Url, uaa: &Url) -> bool {
        let rules = self.rules();
        match &*rules.current {
            HostRules::Allow(_) => rules.current.check_url(uaa).is_ok(),
            HostRules::Any(named) => {
                is_same_site(api, uaa) || named.iter().any(|entry| entry.matches_url(uaa))
            }
        }
    }

    /// Checks a URL: it must be `https` (or `http` for this machine), have no credentials, and name an allowed host and
    /// port. IP addresses are checked here, because they do not pass the resolver.
    pub fn check_url(&self, url: &Url) -> Result<(), HostDenied> {
        self.rules().current.check_url(url)
    }

    /// Checks the URL of a request that deletes a session: a host that was allowed when the session was opened may get it
    /// after its removal, so that no session stays open.
    pub fn check_deletion(&self, url: &Url) -> Result<(), HostDenied> {
        let rules = self.rules();
        let denied = rules.current.check_url(url);
        match &rules.former {
            Some(former) if denied.is_err() => former.check_url(url).or(denied),
            _ => denied,
        }
    }

    /// Checks an address for a connection to `host`, a name or an address. With an allow-list, a name never resolves to
    /// this machine, or to a link-local, metadata or multicast address, regardless of DNS. `localhost` may be this
    /// machine if the list contains `localhost`. Private ranges are allowed for the hosts that the operator names. Former
    /// rules count as well while they are known: the URL of each request was checked before.
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), HostDenied> {
        let rules = self.rules();
        let denied = rules.current.check_address(host, address);
        match &rules.former {
            Some(former) if denied.is_err() => former.check_address(host, address).or(denied),
            _ => denied,
        }
    }
}

impl HostRules {
    fn check_url(&self, url: &Url) -> Result<(), HostDenied> {
        let Some(host) = url.host() else {
            return Err(denied(url.scheme(), "the URL has no host"));
        };
        let shown = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(denied(
                &shown,
                "the URL must not contain a user or password; put them in the Secret",
            ));
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(url) => {}
            "http" => {
                return Err(denied(
                    &shown,
                    "plain http is allowed only for this machine; use https",
                ));
            }
            _ => return Err(denied(&shown, "only https is supported")),
        }
        match self {
            Self::Any(_) => Ok(()),
            Self::Allow(entries) => entries
                .iter()
                .any(|entry| entry.matches_url(url))
                .then_some(())
                .ok_or_else(|| denied(&shown, NOT_LISTED)),
        }
    }

    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), HostDenied> {
        let Self::Allow(entries) = self else {
            return Ok(());
        };
        let name = normalize_host(host);
        if let Ok(literal) = name.parse::<IpAddr>() {
            let listed = entries
                .iter()
                .any(|entry| entry.host == HostPattern::Address(literal.to_canonical()));
            return (listed && literal.to_canonical() == address.to_canonical())
                .then_some(())
                .ok_or_else(|| denied(host, NOT_LISTED));
        }
        let parsed = Host::Domain(name.as_str());
        let mut matching = entries.iter().filter(|entry| entry.matches(&parsed)).peekable();
        if matching.peek().is_none() {
            return Err(denied(host, NOT_LISTED));
        }
        let address = address.to_canonical();
        if name == "localhost" && address.is_loopback() {
            return Ok(());
        }
        if let Some(what) = reserved(address) {
            return Err(denied(
                host,
                &format!(
                    "it resolves to {address} ({what}); if this is intended, the allow-list of the operator must contain the address itself"
                ),
            ));
        }
        if is_private(address) && matching.all(|entry| entry.public_only) && !name.ends_with(VPC_ENDPOINTS) {
            return Err(denied(
                host,
                &format!(
                    "it resolves to {address} (a private address), which is allowed only for hosts that the operator names (--allow-host)"
                ),
            ));
        }
        Ok(())
    }
}

const NOT_LISTED: &str =
    "it is not on the allow-list of the operator; ask the administrator to add it (--allow-host)";

fn denied(host: &str, why: &str) -> HostDenied {
    HostDenied {
        host: host.to_owned(),
        why: why.to_owned(),
    }
}

/// Returns the host in lower case, without a trailing dot and without the brackets of an IPv6 address.
fn normalize_host(host: &str) -> String {
    let host = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn parse_all(entries: &[String]) -> Result<Vec<AllowedHost>, InvalidHostEntry> {
    let parse = |entry: &String| {
        AllowedHost::parse(entry).map_err(|why| InvalidHostEntry {
            entry: entry.clone(),
            why,
        })
    };
    entries.iter().map(parse).collect()
}

/// Returns true if both URLs are of one registrable domain, one address, or this machine.
fn is_same_site(one: &Url, other: &Url) -> bool {
    if is_loopback(one) || is_loopback(other) {
        return is_loopback(one) && is_loopback(other);
    }
    match (one.host(), other.host()) {
        (Some(Host::Domain(one)), Some(Host::Domain(other))) => {
            let (one, other) = (normalize_host(one), normalize_host(other));
            let domain = psl::domain_str(&one);
            one == other || (domain.is_some() && domain == psl::domain_str(&other))
        }
        (one, other) => one.is_some() && one == other,
    }
}

/// Returns true if the host of the URL is this machine, as an address or as `localhost`.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => normalize_host(name) == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        None => false,
    }
}

impl AllowedHost {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("it is empty");
        }
        if text.contains(['/', '@', ' ']) {
            return Err("it contains more than a host");
        }
        // An IPv6 address without brackets contains colons.
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self {
                host: HostPattern::Address(address.to_canonical()),
                port: None,
                public_only: false,
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or("the port is not 1–65535")?;
                (host, Some(port))
            }
            _ => (text, None),
        };
        let (suffix, name) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.contains('*') {
            return Err("a star is allowed only as the first label, as in *.example.com");
        }
        let host = match Host::parse(name).map_err(|_| "the host is malformed")? {
            Host::Domain(name) if suffix => HostPattern::Suffix(format!(".{name}")),
            Host::Domain(name) => HostPattern::Name(name),
            Host::Ipv4(_) | Host::Ipv6(_) if suffix => {
                return Err("a star cannot be combined with an IP address");
            }
            Host::Ipv4(address) => HostPattern::Address(IpAddr::V4(address)),
            Host::Ipv6(address) => HostPattern::Address(IpAddr::V6(address).to_canonical()),
        };
        Ok(Self {
            host,
            port,
            public_only: false,
        })
    }

    fn matches_url(&self, url: &Url) -> bool {
        url.host().is_some_and(|host| self.matches(&host))
            && self
                .port
                .is_none_or(|port| url.port_or_known_default() == Some(port))
    }

    fn matches<S: AsRef<str>>(&self, host: &Host<S>) -> bool {
        match (&self.host, host) {
            (HostPattern::Name(name), Host::Domain(host)) => *name == normalize_host(host.as_ref()),
            (HostPattern::Suffix(suffix), Host::Domain(host)) => {
                let host = normalize_host(host.as_ref());
                host.len() > suffix.len() && host.ends_with(suffix.as_str())
            }
            (HostPattern::Address(address), Host::Ipv4(host)) => *address == IpAddr::V4(*host),
            (HostPattern::Address(address), Host::Ipv6(host)) => *address == IpAddr::V6(*host).to_canonical(),
            _ => false,
        }
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Name(name) => f.write_str(name)?,
            HostPattern::Suffix(suffix) => write!(f, "*{suffix}")?,
            HostPattern::Address(address) => write!(f, "{address}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for HostPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.rules().current {
            HostRules::Any(_) => f.write_str("HostPolicy(any)"),
            HostRules::Allow(entries) => f
                .debug_list()
                .entries(entries.iter().map(ToString::to_string))
                .finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(entries: &[&str]) -> HostPolicy {
        HostPolicy::allow(&entries.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_url_is_checked_by_scheme_host_and_port() {
        let policy = allow(&[
            "a.example",
            "b.example:8443",
            "*.c.example",
            "192.0.2.7",
            "[::1]:90",
            "localhost",
        ]);
        for (url, allowed) in [
            ("https://a.example/x", true),
            ("https://A.EXAMPLE./x", true),
            ("https://a.example:444/", true),
            ("http://a.example/", false),
            ("ftp://a.example/", false),
            ("https://x.a.example/", false),
            ("https://user:pw@a.example/", false),
            ("https://b.example:8443/", true),
            ("https://b.example/", false),
            ("https://x.y.c.example/", true),
            ("https://c.example/", false),
            ("https://badc.example/", false),
            ("https://192.0.2.7/", true),
            ("https://0xc0.0.2.7/", true),
            ("https://[::ffff:192.0.2.7]/", true),
            ("http://192.0.2.7/", false),
            ("http://[::1]:90/", true),
            ("http://[::1]:91/", false),
            ("http://127.0.0.1/", false),
            ("http://localhost:5000/", true),
            ("https://169.254.169.254/latest/meta-data", false),
            ("https://2852039166/latest/meta-data", false),
            ("https://0251.0376.0251.0376/", false),
            ("https://0xa9fea9fe/", false),
            ("https://169.254.43518/", false),
            ("https://0300.0.2.7/", true),
            ("https://[::ffff:169.254.169.254]/", false),
            ("https://[64:ff9b::c000:207]/", false),
            ("https://\u{430}.example/", false),
            ("https://xn--80a.example/", false),
            ("https://a.example%2eevil.example/", false),
            ("https://a.example.evil.example/", false),
            // URL parsers read a backslash as a slash, so the host is a.example.
            ("https://a.example\\@evil.example/", true),
            ("https://evil.example#a.example/", false),
            ("https://evil.example?a.example/", false),
            ("https://@evil.example/", false),
        ] {
            assert_eq!(policy.check_url(&url.parse().unwrap()).is_ok(), allowed, "{url}");
        }
        let any = HostPolicy::any();
        assert!(
            any.check_url(&"https://whatever.example".parse().unwrap())
                .is_ok()
        );
        assert!(any.check_url(&"http://127.0.0.1:1".parse().unwrap()).is_ok());
        assert!(
            any.check_url(&"http://whatever.example".parse().unwrap())
                .is_err()
        );
    }

    #[test]
    fn a_name_never_resolves_to_loopback_or_metadata() {
        let policy = allow(&["a.example", "localhost", "127.0.0.1"]);
        for (host, address, allowed) in [
            ("a.example", "203.0.113.9", true),
            ("a.example", "10.1.2.3", true),
            ("a.example", "fd12::1", true),
            ("a.example", "127.0.0.1", false),
            ("a.example", "0.0.0.0", false),
            ("a.example", "169.254.169.254", false),
            ("a.example", "224.0.0.1", false),
            ("a.example", "255.255.255.255", false),
            ("a.example", "100.100.100.200", false),
            ("a.example", "::1", false),
            ("a.example", "::", false),
            ("a.example", "fe80::1", false),
            ("a.example", "ff02::1", false),
            ("a.example", "fd00:ec2::254", false),
            ("a.example", "::ffff:169.254.169.254", false),
            ("a.example", "64:ff9b::a9fe:a9fe", false),
            ("a.example", "2002:7f00:1::", false),
            ("a.example", "::127.0.0.1", false),
            ("a.example", "::ffff:0:169.254.169.254", false),
            ("a.example", "64:ff9b:1::a9fe:a9fe", false),
            ("a.example", "64:ff9b::cb00:7109", true),
            ("a.example", "168.63.129.16", false),
            ("a.example", "::ffff:168.63.129.16", false),
            ("a.example", "64:ff9b::a83f:8110", false),
            ("a.example", "fd00:ec2::23", false),
            ("a.example", "fd20:ce::254", false),
            ("b.example", "203.0.113.9", false),
            ("localhost", "127.0.0.1", true),
            ("localhost", "::1", true),
            ("localhost", "169.254.169.254", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.2", "127.0.0.2", false),
        ] {
            assert_eq!(
                policy.check_address(host, address.parse().unwrap()).is_ok(),
                allowed,
                "{host} {address}"
            );
        }
        assert!(
            HostPolicy::any()
                .check_address("a.example", "127.0.0.1".parse().unwrap())
                .is_ok()
        );
    }

    #[test]
    fn default_hosts_have_port_443_and_public_addresses() {
        let named = ["*.private.amazonaws.com".to_owned()];
        let policy = HostPolicy::allow_with_defaults(&named, &AWS_S3).unwrap();
        for (url, allowed) in [
            ("https://audit.s3.eu-central-1.amazonaws.com/", true),
            ("https://audit.s3.eu-central-1.amazonaws.com:443/", true),
            ("https://x.elb.eu-central-1.amazonaws.com:8443/", false),
            ("https://x.private.amazonaws.com:8443/", true),
            ("https://amazonaws.com/", false),
            ("https://audit.s3.amazonaws.com./", true),
            ("https://audit.s3.amazonaws.com:8443/", false),
            ("https://user@audit.s3.amazonaws.com/", false),
            ("https://audit.s3.amazonaws.com.evil.example/", false),
            ("https://s3.\u{430}mazonaws.com/", false),
            ("https://s3.cn-north-1.amazonaws.com.cn/", false),
            ("https://[::ffff:10.0.0.1]/", false),
            ("http://audit.s3.eu-central-1.amazonaws.com/", false),
        ] {
            assert_eq!(policy.check_url(&url.parse().unwrap()).is_ok(), allowed, "{url}");
        }
        let public = "s3.eu-central-1.amazonaws.com";
        let vpc = "bucket.vpce-1a2b-5e6f.s3.eu-central-1.vpce.amazonaws.com";
        for (host, address, allowed) in [
            (public, "52.219.1.1", true),
            (public, "2a05:d07a::1", true),
            (public, "10.0.0.1", false),
            (public, "172.31.0.1", false),
            (public, "192.168.1.1", false),
            (public, "100.64.0.1", false),
            (public, "fd12::1", false),
            (public, "::ffff:10.0.0.1", false),
            (public, "64:ff9b::a00:1", false),
            (public, "169.254.169.254", false),
            ("x.elb.eu-central-1.amazonaws.com", "10.0.0.1", false),
            (vpc, "10.0.0.1", true),
            (vpc, "127.0.0.1", false),
            ("vpce.amazonaws.com", "10.0.0.1", false),
            ("evilvpce.amazonaws.com", "10.0.0.1", false),
            ("x.private.amazonaws.com", "10.0.0.1", true),
        ] {
            let checked = policy.check_address(host, address.parse().unwrap());
            assert_eq!(checked.is_ok(), allowed, "{host} {address}: {checked:?}");
        }
    }

    #[test]
    fn a_discovered_uaa_shares_the_domain_or_is_named() {
        let named = HostPolicy::any_with(&["login.other.example:8443".to_owned()]).unwrap();
        for (api, uaa, trusted) in [
            (
                "https://api.ng.bluemix.net",
                "https://login.ng.bluemix.net/UAALoginServerWAR",
                true,
            ),
            ("https://tracker.example.com", "https://UAA.Example.com.", true),
            (
                "https://tracker.example.com",
                "https://tracker.example.com:8443",
                true,
            ),
            ("https://tracker.example.com", "https://uaa.example.org", false),
            (
                "https://tracker.example.com",
                "https://example.com.evil.net",
                false,
            ),
            ("https://tracker.example.com", "https://badexample.com", false),
            // The letter a of another script, a name in Punycode, and dots at the end.
            ("https://tracker.example.com", "https://ex\u{430}mple.com", false),
            (
                "https://tracker.b\u{fc}cher.example",
                "https://uaa.xn--bcher-kva.example",
                true,
            ),
            (
                "https://tracker.example.com.",
                "https://uaa.example.com:8443",
                true,
            ),
            (
                "https://tracker.example.com",
                "https://example.com.evil.net.",
                false,
            ),
            ("https://com", "https://evil.com", false),
            ("https://tracker.com..", "https://evil.com..", false),
            (
                "https://one.s3.amazonaws.com",
                "https://two.s3.amazonaws.com",
                false,
            ),
            ("https://[2001:db8::7]", "https://[2001:db8:0::7]:8443", true),
            ("https://[2001:db8::7]", "https://[2001:db8::8]", false),
            ("https://192.0.2.7", "https://[::ffff:192.0.2.7]", false),
            // Public suffixes: anyone can have a name below them.
            ("https://tracker.example.co.uk", "https://evil.co.uk", false),
            ("https://one.github.io", "https://two.github.io", false),
            (
                "https://a.execute-api.us-east-1.amazonaws.com",
                "https://b.execute-api.us-east-1.amazonaws.com",
                false,
            ),
            ("https://tracker.corp", "https://uaa.corp", false),
            ("https://tracker.corp", "https://tracker.corp:8443", true),
            ("https://tracker", "https://uaa", false),
            ("https://192.0.2.7", "https://192.0.2.7:8443", true),
            ("https://192.0.2.7", "https://192.0.2.8", false),
            ("https://tracker.example.com", "https://192.0.2.7", false),
            ("http://127.0.0.1:1", "http://127.0.0.1:2", true),
            ("http://127.0.0.1:1", "http://localhost:2", true),
            ("https://tracker.example.com", "http://127.0.0.1:2", false),
            ("http://127.0.0.1:1", "https://uaa.example.com", false),
            (
                "https://tracker.example.com",
                "https://login.other.example:8443/x",
                true,
            ),
            (
                "https://tracker.example.com",
                "https://login.other.example",
                false,
            ),
        ] {
            let (api, uaa) = (api.parse().unwrap(), uaa.parse().unwrap());
            assert_eq!(named.trusts_discovered(&api, &uaa), trusted, "{api} {uaa}");
        }
        let listed = allow(&["uaa.example.org"]);
        let api = "https://tracker.example.com".parse().unwrap();
        for (uaa, trusted) in [
            ("https://uaa.example.org", true),
            ("https://uaa.example.com", false),
        ] {
            assert_eq!(
                listed.trusts_discovered(&api, &uaa.parse().unwrap()),
                trusted,
                "{uaa}"
            );
        }
    }

    #[test]
    fn replaced_rules_hold_for_all_clones_and_sessions_are_still_deleted() {
        let policy = allow(&["a.example", "b.example"]);
        let (clone, before) = (policy.clone(), policy.detached());
        let (a, b): (Url, Url) = (
            "https://a.example".parse().unwrap(),
            "https://b.example".parse().unwrap(),
        );
        let public = "203.0.113.9".parse().unwrap();
        policy.replace(&allow(&["b.example", "c.example"]));
        assert!(clone.check_url(&a).is_err() && clone.check_url(&b).is_ok());
        assert!(clone.check_deletion(&a).is_ok() && clone.check_deletion(&b).is_ok());
        assert!(
            clone
                .check_deletion(&"https://d.example".parse().unwrap())
                .is_err()
        );
        assert!(clone.check_address("a.example", public).is_ok());
        assert!(clone.check_address("d.example", public).is_err());
        assert_eq!(clone.address(), policy.address());
        policy.forget_former();
        assert!(clone.check_deletion(&a).is_err());
        assert!(clone.check_address("a.example", public).is_err());
        assert!(before.check_url(&a).is_ok());
    }

    #[test]
    fn an_invalid_entry_is_named() {
        for entry in [
            "",
            "https://a.example",
            "a.example:0",
            "a.example:70000",
            "*",
            "a.*.example",
            "*.192.0.2.1",
            "a b",
        ] {
            let error = HostPolicy::allow(&[entry.to_owned()]).unwrap_err();
            assert_eq!(error.entry, entry);
        }
    }

    #[test]
    fn the_public_regions_are_valid_entries() {
        allow(&PUBLIC_REGIONS);
    }
}
