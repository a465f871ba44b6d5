//! Hosts of the operator's proxies, from the standard variables. Reads the environment.

use url::Url;

/// Variables that reqwest and the AWS SDK read too, in either case.
const VARIABLES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

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
    use super::host_of;

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
