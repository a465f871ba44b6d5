//! Proxies of the process, from the standard variables, by the rules of curl. Reads the environment.

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::allow_list::is_loopback;
use crate::api::sanitize;

/// Variables that reqwest and the AWS SDK read too, in either case.
const VARIABLES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Variables that exempt hosts.
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A variable that the HTTP clients would ignore. The value of a proxy may hold a password, and is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidProxy {
    /// It names no proxy.
    #[error("{0} is not the URL of a proxy: write it as http://proxy.example:3128, or unset it")]
    Url(&'static str),
    /// It separates hosts by blanks alone.
    #[error("{0} separates hosts by blanks: separate them by commas, as in 10.0.0.0/8,.example.com")]
    Blanks(&'static str),
}

/// Checks the variables. The HTTP clients ignore one that they cannot parse, and connect directly, or through the proxy.
pub(crate) fn check_env() -> Result<(), InvalidProxy> {
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let set: Vec<_> = VARIABLES.into_iter().filter(set).collect();
    let valid = |name: &str| std::env::var(name).is_ok_and(|value| is_valid(&value));
    if let Some(invalid) = set.iter().find(|name| !valid(name)) {
        return Err(InvalidProxy::Url(invalid));
    }
    match no_proxy() {
        Some((name, value)) if !set.is_empty() && has_blanks(&value) => Err(InvalidProxy::Blanks(name)),
        _ => Ok(()),
    }
}

/// Returns true if `NO_PROXY` exempts every host, as for curl. The HTTP clients apply `*` to names, and not to addresses.
pub(crate) fn all_exempt() -> bool {
    no_proxy().is_some_and(|(_, value)| exempts_all(&value))
}

/// Returns the variable that the clients read, and its value.
fn no_proxy() -> Option<(&'static str, String)> {
    NO_PROXY
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok()?)))
}

/// Returns true if an entry is several hosts with blanks between them, which curl accepts and the clients take as one.
fn has_blanks(no_proxy: &str) -> bool {
    no_proxy
        .split(',')
        .any(|entry| entry.split_whitespace().nth(1).is_some())
}

fn exempts_all(no_proxy: &str) -> bool {
    no_proxy.split(',').any(|entry| entry.trim() == "*")
}

/// Returns host and port of the proxy for a URL, as the end of a message: ` (through proxy host:port)`. Empty without
/// proxy. The clients contact this machine directly: its addresses may be `http`.
pub(crate) fn via_proxy(url: &Url) -> String {
    let proxy = (!is_loopback(url) && !all_exempt())
        .then(Matcher::from_env)
        .and_then(|proxies| proxies.intercept(&url.as_str().parse().ok()?));
    proxy.map_or_else(String::new, |proxy| {
        format!(" (through proxy {})", name_of(proxy.uri()))
    })
}

/// Returns host and port of a proxy, without credentials, which may contain an `@` themselves.
fn name_of(proxy: &http::Uri) -> String {
    let host = sanitize(proxy.host().unwrap_or_default());
    proxy
        .port_u16()
        .map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

fn is_valid(value: &str) -> bool {
    let proxies = Matcher::builder().all(value).build();
    let Some(proxy) = proxies.intercept(&http::Uri::from_static("http://host.example")) else {
        return false;
    };
    let scheme = matches!(proxy.uri().scheme_str(), Some("http" | "https"));
    // A port that is no number is read as none.
    let port = proxy
        .uri()
        .authority()
        .is_some_and(|address| address.port_u16().is_some() || address.as_str().ends_with(address.host()));
    scheme && port
}

/// Returns the host names of the configured proxies, in lower case.
pub(super) fn hosts_from_env() -> Vec<String> {
    VARIABLES
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .filter_map(|value| host_of(&value))
        .collect()
}

/// Returns the host of a proxy setting, with or without scheme.
fn host_of(value: &str) -> Option<String> {
    let value = value.trim();
    let with_scheme = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    let host = Url::parse(&with_scheme).ok()?.host_str()?.to_ascii_lowercase();
    Some(host.strip_suffix('.').map_or(host.clone(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_names_no_proxy_is_invalid() {
        for (value, valid) in [
            ("http://proxy.example:3128", true),
            ("proxy.example:3128", true),
            ("https://user:secret@proxy.example", true),
            ("socks5://proxy.example:1080", false),
            (" http://proxy.example", false),
            ("http://proxy.example:port", false),
            ("htp//proxy.example", false),
        ] {
            assert_eq!(is_valid(value), valid, "{value}");
        }
        let shown = InvalidProxy::Url("HTTPS_PROXY").to_string();
        assert!(
            shown.starts_with("HTTPS_PROXY is not the URL of a proxy"),
            "{shown}"
        );
    }

    #[test]
    fn the_name_of_a_proxy_has_no_credentials() {
        for value in [
            "http://user:secret@proxy.example:3128",
            "http://user:a@secret@proxy.example:3128",
        ] {
            let proxies = Matcher::builder().all(value).build();
            let proxy = proxies.intercept(&http::Uri::from_static("http://host.example"));
            let name = proxy.map_or_else(String::new, |proxy| name_of(proxy.uri()));
            assert!(!name.contains("secret"), "{name}");
        }
    }

    #[test]
    fn a_star_exempts_every_host() {
        for (no_proxy, all) in [
            ("*", true),
            ("a.example, *", true),
            ("*.example", false),
            ("", false),
        ] {
            assert_eq!(exempts_all(no_proxy), all, "{no_proxy}");
        }
    }

    #[test]
    fn blanks_may_surround_hosts_and_not_separate_them() {
        for (no_proxy, blanks) in [
            ("a.example b.example", true),
            ("a.example,b.example c.example", true),
            (" a.example , b.example ", false),
            ("", false),
        ] {
            assert_eq!(has_blanks(no_proxy), blanks, "{no_proxy}");
        }
    }

    #[test]
    fn the_host_of_a_proxy_setting_is_parsed() {
        for (value, host) in [
            ("http://proxy.example:3128", Some("proxy.example")),
            ("proxy.example:3128", Some("proxy.example")),
            ("http://user:secret@Proxy.example./", Some("proxy.example")),
            ("", None),
        ] {
            assert_eq!(host_of(value).as_deref(), host, "{value}");
        }
    }
}
