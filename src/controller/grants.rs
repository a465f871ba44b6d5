//! The operator's own bucket identity, and to whom it is lent. Pure.
//!
//! Whoever may use it writes with the operator's rights, so it is lent by namespace, bucket and prefix, and per
//! store: an endpoint of a tenant's choice would be sent the operator's session token.

use std::str::FromStr;

use url::Url;

use crate::api::S3Destination;

/// One line of the configuration: this namespace may write there with the operator's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    namespace: String,
    bucket: String,
    /// Folders, without slashes at the ends; empty: the whole bucket.
    prefix: String,
    /// `None`: AWS.
    endpoint: Option<String>,
}

/// A grant that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no grant: {why}; write NAMESPACE=BUCKET, NAMESPACE=BUCKET/PREFIX or, for a store other than AWS, NAMESPACE=BUCKET/PREFIX@https://HOST"
)]
pub struct GrantError {
    /// The grant as given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let bad = |why| GrantError {
            text: text.to_owned(),
            why,
        };
        let (namespace, rest) = text.trim().split_once('=').ok_or_else(|| bad("it has no ="))?;
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if namespace.is_empty() || !namespace.chars().all(label) {
            return Err(bad("what stands before = is not the name of a namespace"));
        }
        // A prefix may hold an @, but never a double slash.
        let split = ["@https://", "@http://"].iter().find_map(|mark| rest.find(mark));
        let (location, endpoint) = match split {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
            None => (rest, None),
        };
        let (bucket, prefix) = location.split_once('/').unwrap_or((location, ""));
        if bucket.is_empty() {
            return Err(bad("it names no bucket"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if location.contains('/') && (prefix.is_empty() || prefix.starts_with('/') || prefix.contains("//")) {
            return Err(bad("its prefix has empty folders"));
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
        let asked = destination.prefix.as_deref().unwrap_or_default();
        let inside = self.prefix.is_empty()
            || asked
                .strip_prefix(&self.prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.namespace == namespace
            && self.bucket == destination.bucket
            && inside
            && self.endpoint == destination.endpoint.as_deref().map(normalize_endpoint)
    }
}

/// Whether an export of that namespace may use the operator's own identity for that destination.
pub fn is_granted(grants: &[Grant], namespace: &str, destination: &S3Destination) -> bool {
    grants.iter().any(|grant| grant.covers(namespace, destination))
}

/// Host names have no case, and the usual port need not be said; paths are as they are.
fn normalize_endpoint(endpoint: &str) -> String {
    let read = Url::parse(endpoint).map_or_else(|_| endpoint.to_owned(), String::from);
    read.trim_end_matches('/').to_owned()
}

/// The grants of a file: one per line; empty lines and what follows `#` at a line's beginning do not count.
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
            "# who may write with our rights\naudit=archive/tracker\n\nops=archive\nlab=box/a@b@https://S3.example.com/\nlab=path@https://s3.example.com/One\n",
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
            let asked = destination(bucket, prefix, endpoint);
            assert_eq!(
                is_granted(&grants, namespace, &asked),
                expected,
                "{namespace} {asked:?}"
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
