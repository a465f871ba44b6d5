//! Grants of the operator's own bucket identity to namespaces. Pure.
//!
//! An export that uses it writes with the permissions of the operator. A grant therefore names a namespace, a bucket, a
//! prefix and a store: an endpoint that a tenant chooses would receive the operator's session token.

use std::str::FromStr;

use url::Url;

use crate::api::S3Destination;

/// Grant of the operator's identity: a namespace may write below a prefix of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    namespace: String,
    bucket: String,
    /// Prefix without slashes at the ends. Empty: the complete bucket.
    prefix: String,
    /// Endpoint of the store. `None`: AWS.
    endpoint: Option<String>,
}

/// Invalid grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid grant {text:?}: {why}; write NAMESPACE=BUCKET, NAMESPACE=BUCKET/PREFIX or, for a store other than AWS, NAMESPACE=BUCKET/PREFIX@https://HOST"
)]
pub struct GrantError {
    /// Text of the grant.
    pub text: String,
    /// Cause.
    pub why: &'static str,
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let bad = |why| GrantError {
            text: text.to_owned(),
            why,
        };
        let (namespace, rest) = text.trim().split_once('=').ok_or_else(|| bad("= is missing"))?;
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if namespace.is_empty() || !namespace.chars().all(label) {
            return Err(bad("the part before = is not a namespace name"));
        }
        // A prefix may contain @, but never a double slash.
        let split = ["@https://", "@http://"].iter().find_map(|mark| rest.find(mark));
        let (location, endpoint) = match split {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
            None => (rest, None),
        };
        let (bucket, prefix) = location.split_once('/').unwrap_or((location, ""));
        if bucket.is_empty() {
            return Err(bad("the bucket is missing"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if location.contains('/') && (prefix.is_empty() || prefix.starts_with('/') || prefix.contains("//")) {
            return Err(bad("the prefix has an empty segment"));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.map(normalize_endpoint),
        })
    }
}

impl Grant {
    fn covers(&self, namespace: &str, destination: &S3Destination) -> bool {
        let prefix = destination.prefix.as_deref().unwrap_or_default();
        let inside = self.prefix.is_empty()
            || prefix
                .strip_prefix(&self.prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.namespace == namespace
            && self.bucket == destination.bucket
            && inside
            && self.endpoint == destination.endpoint.as_deref().map(normalize_endpoint)
    }
}

/// Returns true if an export of the namespace may use the operator's own identity for the destination.
pub fn is_granted(grants: &[Grant], namespace: &str, destination: &S3Destination) -> bool {
    grants.iter().any(|grant| grant.covers(namespace, destination))
}

/// Normalizes the case of the host and the default port. Leaves the path as it is.
fn normalize_endpoint(endpoint: &str) -> String {
    let normalized = Url::parse(endpoint).map_or_else(|_| endpoint.to_owned(), String::from);
    normalized.trim_end_matches('/').to_owned()
}

/// Parses the grants of a file, one per line. Ignores empty lines and lines that begin with `#`.
pub fn parse_grants(text: &str) -> Result<Vec<Grant>, GrantError> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(bucket: &str, prefix: Option<&str>, endpoint: Option<&str>) -> S3Destination {
        let json = serde_json::json!({ "bucket": bucket, "prefix": prefix, "endpoint": endpoint });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_operator_identity_is_used_only_where_granted() {
        let grants = parse_grants(
            "# grants of the operator identity\naudit=archive/tracker\n\nops=archive\nlab=box/a@b@https://S3.example.com/\nlab=path@https://s3.example.com/One\n",
        )
        .unwrap();
        let s3 = Some("https://s3.example.com");
        for (namespace, bucket, prefix, endpoint, expected) in [
            ("audit", "archive", Some("tracker"), None, true),
            ("audit", "archive", Some("tracker/production"), None, true),
            ("audit", "archive", Some("trackers"), None, false),
            ("audit", "archive", Some("other"), None, false),
            ("audit", "archive", None, None, false),
            ("audit", "archive", Some("tracker"), s3, false),
            ("audit", "archives", Some("tracker"), None, false),
            ("audit2", "archive", Some("tracker"), None, false),
            ("ops", "archive", None, None, true),
            ("ops", "archive", Some("anything"), None, true),
            ("lab", "box", Some("a@b"), s3, true),
            ("lab", "box", Some("a@b"), None, false),
            (
                "lab",
                "box",
                Some("a@b"),
                Some("https://s3.example.com:443"),
                true,
            ),
            (
                "lab",
                "box",
                Some("a@b"),
                Some("https://s3.example.com:8443"),
                false,
            ),
            (
                "lab",
                "box",
                Some("a@b"),
                Some("https://s3.example.com/one"),
                false,
            ),
            ("lab", "path", None, Some("https://S3.EXAMPLE.com/One"), true),
            ("lab", "path", None, Some("https://s3.example.com/one"), false),
            ("audit", "archive", Some("tracker-evil"), None, false),
            ("audit", "archive", Some("Tracker"), None, false),
            ("audit", "archive", Some("trackerx/tracker"), None, false),
            ("audit", "Archive", Some("tracker"), None, false),
        ] {
            let destination = destination(bucket, prefix, endpoint);
            assert_eq!(
                is_granted(&grants, namespace, &destination),
                expected,
                "{namespace} {destination:?}"
            );
        }
    }

    #[test]
    fn invalid_grants_are_rejected() {
        for text in [
            "",
            "audit",
            "=b",
            "audit=",
            "Audit=b",
            "a*=b",
            "a=b/",
            "a=b//c",
            "a=b//",
            "a=@https://x",
            "a=/p",
        ] {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
    }
}
