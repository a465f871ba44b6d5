//! Grants of the operator's own bucket identity to namespaces. Pure.
//!
//! An export that uses it writes with the permissions of the operator. A grant therefore names a namespace, a bucket, a
//! prefix and a store: an endpoint that a tenant chooses would receive the operator's session token. It also sets the
//! terms: a lock of a hundred years, or a key of someone else, would be set with the operator's permissions.

use std::fmt;
use std::str::FromStr;

use url::Url;

use crate::api::rules::limit;
use crate::api::{EncryptionType, LockMode, ObjectLock, S3Destination, parse_endpoint};
use crate::export::connect::PodIdentity;

/// Term for the key that the account uses by default.
const DEFAULT_KMS_KEY: &str = "default";

/// Grant of the operator's identity: a namespace may write below a prefix of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    namespace: String,
    bucket: String,
    /// Prefix without slashes at the ends. Empty: the complete bucket.
    prefix: String,
    /// Endpoint of the store. `None`: AWS.
    endpoint: Option<String>,
    terms: Vec<Term>,
}

/// Attribute of objects that a grant allows. An attribute without a term is not allowed: objects get the bucket's.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    /// Object lock in this mode, for at most this number of days.
    ObjectLock(LockMode, u32),
    /// Encryption with this KMS key; [`DEFAULT_KMS_KEY`] is the account's.
    KmsKey(String),
    /// Storage class of the events.
    StorageClass(String),
}

/// Invalid grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid grant {text:?}: {why}; write NAMESPACE=BUCKET, NAMESPACE=BUCKET/PREFIX or, for a store other than AWS, NAMESPACE=BUCKET/PREFIX@https://HOST, and the allowed attributes of objects behind spaces: objectLock=MODE:DAYS, kmsKeyId=ID, storageClass=NAME"
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
        let mut words = text.split_whitespace();
        let place = words.next().unwrap_or_default();
        let terms = words.map(Term::parse).collect::<Result<_, _>>().map_err(bad)?;
        let (namespace, rest) = place.split_once('=').ok_or_else(|| bad("= is missing"))?;
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
        if let Some(Err(rule)) = endpoint.map(parse_endpoint) {
            return Err(bad(rule));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.map(normalize_endpoint),
            terms,
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

impl Term {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, value) = text.split_once('=').ok_or("an attribute has no =")?;
        if value.is_empty() {
            return Err("an attribute has no value");
        }
        match name {
            "objectLock" => {
                let (mode, days) = value.split_once(':').ok_or("objectLock has no :DAYS")?;
                let mode = match mode {
                    "Governance" => LockMode::Governance,
                    "Compliance" => LockMode::Compliance,
                    _ => return Err("the mode of objectLock is not Governance or Compliance"),
                };
                let (least, most) = limit::RETAIN_DAYS;
                let days = days.parse().ok().filter(|days| (least..=most).contains(days));
                Ok(Self::ObjectLock(
                    mode,
                    days.ok_or("the days of objectLock are not 1 to 36500")?,
                ))
            }
            "kmsKeyId" => Ok(Self::KmsKey(value.to_owned())),
            "storageClass" => Ok(Self::StorageClass(value.to_owned())),
            _ => Err("an attribute is not objectLock, kmsKeyId or storageClass"),
        }
    }

    /// Returns the terms that a destination needs.
    fn needed_by(destination: &S3Destination) -> Vec<Self> {
        let lock = destination.object_lock.as_ref();
        let lock = lock.map(|ObjectLock { mode, retain_days }| Self::ObjectLock(*mode, *retain_days));
        // Keys of the store itself (AES256) lend nothing.
        let encryption = destination.server_side_encryption.as_ref();
        let key = encryption
            .filter(|encryption| encryption.kind == EncryptionType::AwsKms)
            .map(|encryption| encryption.kms_key_id.clone())
            .map(|key| Self::KmsKey(key.unwrap_or_else(|| DEFAULT_KMS_KEY.to_owned())));
        let class = destination.storage_class.clone().map(Self::StorageClass);
        [lock, key, class].into_iter().flatten().collect()
    }

    fn allows(&self, needed: &Self) -> bool {
        match (self, needed) {
            (Self::ObjectLock(mode, most), Self::ObjectLock(needed, days)) => mode == needed && days <= most,
            _ => self == needed,
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ObjectLock(mode, days) => write!(f, "objectLock={mode:?}:{days}"),
            Self::KmsKey(key) => write!(f, "kmsKeyId={key}"),
            Self::StorageClass(class) => write!(f, "storageClass={class}"),
        }
    }
}

/// Decides if an export of the namespace may use the operator's own identity for the destination: one grant must cover it
/// with all attributes of its objects.
pub fn decide_grant(grants: &[Grant], namespace: &str, destination: &S3Destination) -> PodIdentity {
    let needed = Term::needed_by(destination);
    let mut decision = PodIdentity::NotGranted;
    for grant in grants.iter().filter(|grant| grant.covers(namespace, destination)) {
        let missing = needed
            .iter()
            .find(|needed| !grant.terms.iter().any(|term| term.allows(needed)));
        match missing {
            None => return PodIdentity::Granted,
            Some(term) => decision = PodIdentity::TermMissing(term.to_string()),
        }
    }
    decision
}

/// Normalizes the case of the host and the default port. Leaves the path as it is.
fn normalize_endpoint(endpoint: &str) -> String {
    let normalized = Url::parse(endpoint).map_or_else(|_| endpoint.to_owned(), String::from);
    normalized.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse_grants(lines: &str) -> Vec<Grant> {
        lines.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn destination(bucket: &str, prefix: Option<&str>, endpoint: Option<&str>) -> S3Destination {
        let json = serde_json::json!({ "bucket": bucket, "prefix": prefix, "endpoint": endpoint });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_operator_identity_is_used_only_where_granted() {
        let grants = parse_grants(
            "audit=archive/tracker\nops=archive\nlab=box/a@b@https://S3.example.com/\nlab=path@https://s3.example.com/One\n",
        );
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
                decide_grant(&grants, namespace, &destination) == PodIdentity::Granted,
                expected,
                "{namespace} {destination:?}"
            );
        }
    }

    #[test]
    fn a_grant_sets_the_terms_of_locks_keys_and_storage_classes() {
        let grants = parse_grants(
            "plain=archive\nbound=archive/tracker objectLock=Governance:365 objectLock=Compliance:30 kmsKeyId=alias/audit storageClass=STANDARD_IA\nown=archive kmsKeyId=default\n",
        );
        let lock = |mode: &str, days: u32| json!({ "objectLock": { "mode": mode, "retainDays": days } });
        let kms =
            |key: Option<&str>| json!({ "serverSideEncryption": { "type": "aws:kms", "kmsKeyId": key } });
        let missing = |term: &str| PodIdentity::TermMissing(term.to_owned());
        for (namespace, attributes, expected) in [
            ("plain", json!({}), PodIdentity::Granted),
            (
                "plain",
                json!({ "serverSideEncryption": { "type": "AES256" } }),
                PodIdentity::Granted,
            ),
            ("plain", lock("Governance", 1), missing("objectLock=Governance:1")),
            (
                "plain",
                lock("Compliance", 36_500),
                missing("objectLock=Compliance:36500"),
            ),
            ("plain", kms(None), missing("kmsKeyId=default")),
            ("plain", kms(Some("alias/a")), missing("kmsKeyId=alias/a")),
            (
                "plain",
                json!({ "storageClass": "GLACIER" }),
                missing("storageClass=GLACIER"),
            ),
            ("bound", lock("Governance", 365), PodIdentity::Granted),
            (
                "bound",
                lock("Governance", 366),
                missing("objectLock=Governance:366"),
            ),
            ("bound", lock("Compliance", 30), PodIdentity::Granted),
            (
                "bound",
                lock("Compliance", 31),
                missing("objectLock=Compliance:31"),
            ),
            ("bound", kms(Some("alias/audit")), PodIdentity::Granted),
            ("bound", kms(Some("alias/other")), missing("kmsKeyId=alias/other")),
            ("bound", kms(None), missing("kmsKeyId=default")),
            (
                "bound",
                json!({ "storageClass": "STANDARD_IA" }),
                PodIdentity::Granted,
            ),
            ("own", kms(None), PodIdentity::Granted),
            ("other", json!({}), PodIdentity::NotGranted),
        ] {
            let mut document = json!({ "bucket": "archive", "prefix": "tracker" });
            document
                .as_object_mut()
                .unwrap()
                .extend(attributes.as_object().cloned().unwrap());
            let destination = serde_json::from_value(document).unwrap();
            let decision = decide_grant(&grants, namespace, &destination);
            assert_eq!(decision, expected, "{namespace} {attributes}");
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
            "a=b@http://store.example",
            "a=b objectLock",
            "a=b objectLock=Governance",
            "a=b objectLock=Weak:1",
            "a=b objectLock=Governance:0",
            "a=b objectLock=Governance:36501",
            "a=b kmsKeyId=",
            "a=b checksum=SHA256",
        ] {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
    }
}
