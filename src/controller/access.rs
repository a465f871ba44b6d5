//! Access that the operator allows its exports: hosts for requests, and its own bucket identity. One value that all clients
//! read at each request, and that can be replaced while they run. No I/O.

use std::sync::{Arc, PoisonError, RwLock};

use url::Url;

use super::grants::{Grant, decide_grant};
use crate::api::{EventExportSpec, S3Destination, UaaAddress};
use crate::egress::{AWS_S3, HostPolicy, InvalidHostEntry, PUBLIC_REGIONS};
use crate::export::connect::PodIdentity;
use crate::storage::bucket_address;

/// Keyword for the public regions of the service and AWS S3.
const PUBLIC_KEYWORD: &str = "public-regions";

/// Allowed hosts and grants. Cheap to clone; clones share the rules, also when they are replaced.
#[derive(Clone, Debug)]
pub struct AccessPolicy {
    hosts: AllowedHosts,
    grants: Arc<RwLock<Arc<[Grant]>>>,
}

/// Allowed hosts, by the kind of peer.
#[derive(Clone, Debug)]
pub struct AllowedHosts {
    /// Hosts for requests to trackers, their UAAs and time-stamp authorities.
    pub service: HostPolicy,
    /// Hosts for requests to stores.
    pub stores: HostPolicy,
}

/// Access of one export, to be compared with that under other rules.
#[derive(Debug, PartialEq, Eq)]
pub struct ExportAccess {
    /// Use of the operator's identity. `None`: the spec names other credentials.
    identity: Option<PodIdentity>,
    /// For each address that the spec names: true if it is allowed.
    allowed: Vec<bool>,
}

impl AllowedHosts {
    /// Parses entries of `--allow-host`. Named hosts are allowed for all peers. Of `public-regions`, the regions are
    /// allowed for the service and AWS is allowed for stores: anyone can get a host below amazonaws.com, and a service that
    /// names such a host as its UAA must not receive the API key there. Both on port 443 and with public addresses only.
    pub fn parse(entries: &[String]) -> Result<Self, InvalidHostEntry> {
        let named: Vec<String> = entries
            .iter()
            .filter(|entry| *entry != PUBLIC_KEYWORD)
            .cloned()
            .collect();
        let public = entries.is_empty() || named.len() < entries.len();
        let policy = |defaults: &[&str]| {
            let defaults = if public { defaults } else { &[] };
            HostPolicy::allow_with_defaults(&named, defaults)
        };
        Ok(Self {
            service: policy(&PUBLIC_REGIONS)?,
            stores: policy(&AWS_S3)?,
        })
    }
}

impl AccessPolicy {
    /// Creates a policy.
    pub fn new(hosts: AllowedHosts, grants: Vec<Grant>) -> Self {
        Self {
            hosts,
            grants: Arc::new(RwLock::new(grants.into())),
        }
    }

    /// Returns the allowed hosts, which follow each replacement.
    pub fn hosts(&self) -> &AllowedHosts {
        &self.hosts
    }

    /// Decides if an export of the namespace may use the operator's own identity for the destination.
    pub fn identity(&self, namespace: &str, destination: &S3Destination) -> PodIdentity {
        decide_grant(&self.grants(), namespace, destination)
    }

    /// Returns the access of an export. An invalid spec has none.
    pub fn of_export(&self, namespace: &str, spec: &EventExportSpec) -> ExportAccess {
        let destination = &spec.destination.s3;
        let own = destination.credentials_secret_ref.is_none() && destination.service_account_name.is_none();
        let identity = own.then(|| self.identity(namespace, destination));
        let Ok(checked) = spec.checked() else {
            return ExportAccess {
                identity: None,
                allowed: Vec::new(),
            };
        };
        let (UaaAddress::Endpoint(uaa) | UaaAddress::DiscoverFrom(uaa)) = checked.uaa;
        let service = [Some(checked.tracker), Some(uaa), checked.timestamp_authority];
        let store = bucket_address(
            checked.s3_endpoint.as_ref(),
            &destination.region,
            &destination.bucket,
            destination.path_style(),
        );
        let is_allowed = |hosts: &HostPolicy, url: &Url| hosts.check_url(url).is_ok();
        let service = service.iter().flatten();
        let service = service.map(|url| is_allowed(&self.hosts.service, url));
        let store = store.iter().map(|url| is_allowed(&self.hosts.stores, url));
        ExportAccess {
            identity,
            allowed: service.chain(store).collect(),
        }
    }

    /// Returns a policy with the same rules, which no replacement changes.
    pub(super) fn detached(&self) -> Self {
        Self {
            hosts: AllowedHosts {
                service: self.hosts.service.detached(),
                stores: self.hosts.stores.detached(),
            },
            grants: Arc::new(RwLock::new(self.grants())),
        }
    }

    /// Replaces the allowed hosts for all clones. Sessions may still be deleted at hosts of the former ones, until
    /// [`AccessPolicy::forget_former`].
    pub(super) fn replace_hosts(&self, hosts: &AllowedHosts) {
        self.hosts.service.replace(&hosts.service);
        self.hosts.stores.replace(&hosts.stores);
    }

    /// Replaces the grants for all clones.
    pub(super) fn replace_grants(&self, grants: Vec<Grant>) {
        *self.grants.write().unwrap_or_else(PoisonError::into_inner) = grants.into();
    }

    /// Forgets the hosts that were allowed before the last replacement.
    pub(super) fn forget_former(&self) {
        self.hosts.service.forget_former();
        self.hosts.stores.forget_former();
    }

    fn grants(&self) -> Arc<[Grant]> {
        // Nothing panics under this lock.
        self.grants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn default_uaa_hosts_exclude_amazonaws_com() {
        for entries in [
            &[][..],
            &[PUBLIC_KEYWORD.to_owned(), "uaa.example.com".to_owned()],
        ] {
            let AllowedHosts { service, stores } = AllowedHosts::parse(entries).unwrap();
            let check = |policy: &HostPolicy, url: &str| policy.check_url(&url.parse().unwrap()).is_ok();
            let third_party = "https://x.execute-api.us-east-1.amazonaws.com/oauth/token";
            assert!(!check(&service, third_party));
            assert!(check(&service, "https://login.ng.bluemix.net"));
            assert!(check(&stores, "https://audit.s3.eu-central-1.amazonaws.com"));
            assert!(!check(
                &stores,
                "https://audit.s3.eu-central-1.amazonaws.com:8443"
            ));
            assert!(!check(&service, "https://login.ng.bluemix.net:8443"));
            assert!(!check(&stores, "https://login.ng.bluemix.net"));
            let named = "https://uaa.example.com";
            assert_eq!(
                (check(&service, named), check(&stores, named)),
                (!entries.is_empty(), !entries.is_empty())
            );
        }
    }

    fn policy(hosts: &[&str], grants: &str) -> AccessPolicy {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let grants = grants.lines().map(|line| line.parse().unwrap()).collect();
        AccessPolicy::new(AllowedHosts::parse(&hosts).unwrap(), grants)
    }

    fn spec(endpoint: &str, s3: &Value) -> EventExportSpec {
        serde_json::from_value(json!({
            "space": "s", "dateRange": {"start": "2018-06-01"},
            "source": {"endpoint": endpoint, "uaaEndpoint": "https://uaa.example", "credentialsSecretRef": {"name": "t"}},
            "destination": {"s3": s3},
            "manifest": {"timestampAuthority": "https://tsa.example"},
        }))
        .unwrap()
    }

    #[test]
    fn a_replacement_changes_the_access_of_the_exports_concerned_only() {
        let hosts = ["tracker.example", "uaa.example", "tsa.example", "public-regions"];
        let own = json!({"bucket": "audit", "prefix": "a"});
        let keys = json!({"bucket": "audit", "prefix": "a", "credentialsSecretRef": {"name": "b"}});
        let path = json!({"bucket": "audit", "endpoint": "https://tracker.example", "credentialsSecretRef": {"name": "b"}});
        let specs = [&own, &keys, &path].map(|s3| spec("https://tracker.example", s3));
        let changed = |hosts: &[&str], grants: &str| {
            let live = policy(
                &["tracker.example", "uaa.example", "tsa.example", "public-regions"],
                "audit=audit/a",
            );
            let (clone, before) = (live.clone(), live.detached());
            let newer = policy(hosts, grants);
            live.replace_hosts(newer.hosts());
            live.replace_grants(newer.grants().to_vec());
            [0, 1, 2].map(|n| before.of_export("audit", &specs[n]) != clone.of_export("audit", &specs[n]))
        };
        assert_eq!(changed(&hosts, "audit=audit/a\nother=audit"), [false; 3]);
        assert_eq!(changed(&hosts, ""), [true, false, false]);
        assert_eq!(changed(&hosts, "audit=audit"), [false; 3]);
        // The store of the first two is AWS, with the bucket in the name.
        assert_eq!(changed(&hosts[..3], "audit=audit/a"), [true, true, false]);
        let exact = [
            "tracker.example",
            "uaa.example",
            "tsa.example",
            "audit.s3.us-east-1.amazonaws.com",
        ];
        assert_eq!(changed(&exact, "audit=audit/a"), [false; 3]);
        for left_out in 0..3 {
            let mut fewer = hosts.to_vec();
            fewer.remove(left_out);
            assert_eq!(changed(&fewer, "audit=audit/a"), [true; 3], "{left_out}");
        }
    }
}
