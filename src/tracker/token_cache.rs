//! Accounts shared by exports with the same credentials, so that they use the same token. No I/O.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::uaa::Account;
use super::{Credentials, UaaSource};

/// Maximum number of accounts in the cache.
const MAX_ACCOUNTS: usize = 256;

/// Tokens of all exports, shared by those with the same UAA and credentials. Cheap to clone; one per process.
#[derive(Clone, Default)]
pub struct TokenCache(Arc<Mutex<Accounts>>);

/// Accounts with the time of their last use.
type Accounts = HashMap<AccountKey, (Arc<Account>, Instant)>;

#[derive(PartialEq, Eq, Hash)]
struct AccountKey {
    uaa: UaaSource,
    fingerprint: [u8; 32],
}

impl TokenCache {
    /// Creates an empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn account(&self, uaa: &UaaSource, credentials: &Credentials) -> Arc<Account> {
        let key = AccountKey {
            uaa: uaa.clone(),
            fingerprint: credentials.fingerprint(),
        };
        let now = Instant::now();
        // A panic under the lock cannot leave the map in an inconsistent state.
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((account, last_used)) = accounts.get_mut(&key) {
            *last_used = now;
            return account.clone();
        }
        if accounts.len() >= MAX_ACCOUNTS {
            let oldest = accounts.values().map(|(_, last_used)| *last_used).min();
            accounts.retain(|_, (_, last_used)| Some(*last_used) != oldest);
        }
        let account = Arc::new(Account::new(uaa.clone(), credentials.clone()));
        accounts.insert(key, (account.clone(), now));
        account
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = self.0.lock().map_or(0, |accounts| accounts.len());
        write!(f, "TokenCache({accounts} accounts)")
    }
}
