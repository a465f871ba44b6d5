//! Name resolution by the allow-list, for reqwest and for the AWS SDK. Uses the resolver of the system.
//!
//! Connections use the checked addresses, so a name cannot change between check and use.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{HostDenied, HostPolicy, proxy};

/// Resolves names and keeps only the addresses that the policy allows. Returns [`HostDenied`] if none is left. Exempts
/// the hosts of the standard proxy variables, which the operator configures.
#[derive(Clone, Debug)]
pub struct CheckedResolver {
    policy: HostPolicy,
    proxies: Arc<[String]>,
}

#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error(transparent)]
    HostDenied(#[from] HostDenied),
    #[error("cannot resolve {0}: {1}")]
    Lookup(String, #[source] io::Error),
}

impl CheckedResolver {
    /// Creates a resolver for this policy; reads the proxy variables once.
    pub fn new(policy: HostPolicy) -> Self {
        Self {
            policy,
            proxies: proxy::hosts_from_env().into(),
        }
    }

    async fn lookup(&self, name: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let found = tokio::net::lookup_host((name, 0))
            .await
            .map_err(|error| ResolveError::Lookup(name.to_owned(), error))?;
        Ok(self.filter_addresses(name, found.collect())?)
    }

    /// Returns the addresses that the policy allows.
    fn filter_addresses(
        &self,
        name: &str,
        mut found: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, HostDenied> {
        let normalized = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if self.proxies.contains(&normalized) {
            return Ok(found);
        }
        let mut refused = None;
        found.retain(|address| match self.policy.check_address(name, address.ip()) {
            Ok(()) => true,
            Err(denied) => {
                refused.get_or_insert(denied);
                false
            }
        });
        match refused {
            Some(denied) if found.is_empty() => Err(denied),
            _ => Ok(found),
        }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            match resolver.lookup(name.as_str()).await {
                Ok(found) => Ok(Box::new(found.into_iter()) as Addrs),
                // Not wrapped, so that a search through the causes finds the denial itself.
                Err(ResolveError::HostDenied(denied)) => Err(denied.into()),
                Err(failed @ ResolveError::Lookup(..)) => Err(failed.into()),
            }
        })
    }
}

impl ResolveDns for CheckedResolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            match self.lookup(name).await {
                Ok(found) => Ok(found.iter().map(SocketAddr::ip).collect::<Vec<IpAddr>>()),
                Err(ResolveError::HostDenied(denied)) => Err(ResolveDnsError::new(denied)),
                Err(failed @ ResolveError::Lookup(..)) => Err(ResolveDnsError::new(failed)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(entries: &[&str], proxies: &[&str]) -> CheckedResolver {
        let entries: Vec<_> = entries.iter().map(ToString::to_string).collect();
        CheckedResolver {
            policy: HostPolicy::allow(&entries).unwrap(),
            proxies: proxies.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn denied_addresses_are_dropped_and_none_left_is_denied() {
        let resolver = resolver(&["a.example"], &[]);
        let good: SocketAddr = "203.0.113.9:0".parse().unwrap();
        let bad: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert_eq!(
            resolver.filter_addresses("a.example", vec![bad, good]).unwrap(),
            [good]
        );
        assert!(
            resolver
                .filter_addresses("a.example", vec![bad])
                .unwrap_err()
                .why
                .contains("127.0.0.1")
        );
        assert!(resolver.filter_addresses("b.example", vec![good]).is_err());
    }

    #[test]
    fn every_dns_answer_is_checked() {
        let resolver = resolver(&["*.example"], &[]);
        for (address, good) in [
            ("203.0.113.9", true),
            ("169.254.169.254", false),
            ("203.0.113.9", true),
            ("::1", false),
        ] {
            let found = vec![SocketAddr::new(address.parse().unwrap(), 0)];
            assert_eq!(
                resolver.filter_addresses("rebound.example", found).is_ok(),
                good,
                "{address}"
            );
        }
    }

    #[test]
    fn the_operators_proxy_is_exempt() {
        let resolver = resolver(&["a.example"], &["proxy.local"]);
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert!(resolver.filter_addresses("Proxy.local.", vec![address]).is_ok());
    }

    #[tokio::test]
    async fn both_clients_receive_the_denial() {
        let resolver = resolver(&["a.example"], &[]);
        let error = resolver
            .resolve("localhost".parse().unwrap())
            .await
            .err()
            .unwrap();
        assert!(error.is::<HostDenied>());
        let error = resolver.resolve_dns("localhost").await.unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().is::<HostDenied>());
    }
}
