//! HTTP clients that requests with the same settings share: each has the system's certificates, which take more memory than
//! all else of an export. No I/O.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::allow_list::HostPolicy;

/// Settings of a client. Clients with equal settings are equal, but for the type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientSettings {
    /// False: the client speaks plain HTTP only, and trusts no authority of the system.
    tls: bool,
    /// SHA-256 of a bundle of further authorities.
    bundle: Option<[u8; 32]>,
    /// True if the proxies of the environment are used.
    proxies: bool,
    connect_timeout: Duration,
    /// Address of the policy, which a client keeps alive and reads at each request.
    hosts: usize,
}

impl ClientSettings {
    /// Returns the settings of a client that applies `hosts` when it resolves names. `plain`: it uses no TLS.
    pub fn new(hosts: &HostPolicy, plain: bool, ca_pem: Option<&[u8]>, connect_timeout: Duration) -> Self {
        Self {
            tls: !plain,
            bundle: ca_pem.map(|pem| Sha256::digest(pem).into()),
            proxies: true,
            connect_timeout,
            hosts: hosts.address(),
        }
    }

    /// Returns the same settings without proxies.
    #[must_use]
    pub fn without_proxies(self) -> Self {
        Self {
            proxies: false,
            ..self
        }
    }

    /// Returns true if the proxies of the environment are used.
    pub const fn has_proxies(&self) -> bool {
        self.proxies
    }
}

type Known = HashMap<(TypeId, ClientSettings), Weak<dyn Any + Send + Sync>>;

/// Clients in use. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SharedClients(Arc<Mutex<Known>>);

impl SharedClients {
    /// Returns the client with these settings, which `build` creates if nobody uses one.
    pub fn get_or_build<C, E>(
        &self,
        settings: ClientSettings,
        build: impl FnOnce() -> Result<C, E>,
    ) -> Result<Arc<C>, E>
    where
        C: Send + Sync + 'static,
    {
        let key = (TypeId::of::<C>(), settings);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = known.get(&key).and_then(Weak::upgrade);
        if let Some(client) = shared.and_then(|client| client.downcast::<C>().ok()) {
            return Ok(client);
        }
        let client = Arc::new(build()?);
        // So there are at most as many entries as clients in use, and one.
        known.retain(|_, client| client.strong_count() > 0);
        let weak: Weak<C> = Arc::downgrade(&client);
        known.insert(key, weak);
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn number(clients: &SharedClients, settings: &ClientSettings, number: u32) -> Arc<u32> {
        clients
            .get_or_build(settings.clone(), || Ok::<_, Infallible>(number))
            .unwrap()
    }

    #[test]
    fn clients_are_shared_by_equal_settings_while_they_are_used() {
        let (clients, hosts) = (SharedClients::default(), HostPolicy::any());
        let connect = Duration::from_secs(5);
        let settings = ClientSettings::new(&hosts, false, None, connect);
        let first = number(&clients, &settings, 1);
        assert_eq!(*number(&clients, &settings, 2), 1);
        for other in [
            ClientSettings::new(&HostPolicy::any(), false, None, connect),
            ClientSettings::new(&hosts, true, None, connect),
            ClientSettings::new(&hosts, false, Some(b"a"), connect),
            ClientSettings::new(&hosts, false, Some(b"b"), connect),
            ClientSettings::new(&hosts, false, None, Duration::from_secs(6)),
            settings.clone().without_proxies(),
        ] {
            assert_eq!(*number(&clients, &other, 3), 3, "{other:?}");
        }
        let text: Result<Arc<String>, Infallible> =
            clients.get_or_build(settings.clone(), || Ok("another type".to_owned()));
        assert_eq!(*text.unwrap(), "another type");
        drop(first);
        let _last = number(&clients, &settings, 4);
        assert_eq!(*number(&clients, &settings, 5), 4);
        assert_eq!(clients.0.lock().unwrap().len(), 1);
    }
}
