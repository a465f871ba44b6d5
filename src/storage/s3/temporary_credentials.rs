//! Temporary credentials that many stores share: fetched once, renewed before they end, and not asked for again at once
//! after a failure. Its source does the I/O.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::Credentials;
use secrecy::SecretString;
use tokio::time::Instant;

use crate::storage::{CredentialsOrigin, IdentityError};

/// Maximum time before their end at which credentials are renewed: 5 minutes. Shorter ones at half of their life.
const RENEW_BEFORE_END: Duration = Duration::from_mins(5);
/// Time before their end at which credentials are no longer used.
const UNUSABLE_BEFORE_END: Duration = Duration::from_secs(10);
/// Time after a failure in which the source is not asked again.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// Maximum time of one request to the source, with its retries.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Minimum age of credentials that a store rejects, for them to be fetched again.
const DISCARD_MIN_AGE: Duration = Duration::from_mins(1);

/// Source of temporary credentials.
#[async_trait]
pub(super) trait CredentialsSource: Send + Sync {
    /// Fetches new credentials.
    async fn fetch(&self) -> Result<Credentials, IdentityError>;
}

/// Permission to use credentials, asked before each request.
pub type UsePermission = Arc<dyn Fn() -> Result<(), IdentityError> + Send + Sync>;

/// Temporary credentials, shared by clones.
#[derive(Clone)]
pub struct TemporaryCredentials(Arc<Shared>, Option<UsePermission>);

struct Shared {
    origin: CredentialsOrigin,
    source: Box<dyn CredentialsSource>,
    current: Mutex<Option<Current>>,
    /// Held by the one that fetches; time and cause of the last failure.
    fetching: tokio::sync::Mutex<Option<(Instant, IdentityError)>>,
}

#[derive(Clone)]
struct Current {
    credentials: Credentials,
    fetched_at: Instant,
    /// Time to renew them; `None`: they have no end.
    renew_at: Option<SystemTime>,
}

impl Current {
    fn new(credentials: Credentials, now: SystemTime) -> Self {
        let renew_at = credentials.expiry().map(|end| {
            let life = end.duration_since(now).unwrap_or_default();
            now + life.saturating_sub(RENEW_BEFORE_END).max(life / 2)
        });
        Self {
            credentials,
            fetched_at: Instant::now(),
            renew_at,
        }
    }

    fn is_fresh(&self, now: SystemTime) -> bool {
        self.renew_at.is_none_or(|at| now < at)
    }

    fn is_usable(&self, now: SystemTime) -> bool {
        let end = self.credentials.expiry();
        end.is_none_or(|end| now + UNUSABLE_BEFORE_END < end)
    }
}

impl TemporaryCredentials {
    pub(super) fn new(origin: CredentialsOrigin, source: impl CredentialsSource + 'static) -> Self {
        let shared = Arc::new(Shared {
            origin,
            source: Box::new(source),
            current: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        });
        Self(shared, None)
    }

    /// Returns the same credentials for a user that needs a permission.
    #[must_use]
    pub fn with_permission(self, permission: UsePermission) -> Self {
        Self(self.0, Some(permission))
    }

    /// True if a store uses them.
    pub(super) fn is_used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Returns where the credentials come from.
    pub fn origin(&self) -> CredentialsOrigin {
        self.0.origin
    }

    /// Returns the secrets in use, to remove them from texts.
    pub(super) fn secrets(&self) -> Vec<SecretString> {
        let current = self.current();
        let credentials = current.iter().map(|current| &current.credentials);
        let texts = credentials.flat_map(|credentials| {
            let key = [credentials.access_key_id(), credentials.secret_access_key()];
            key.into_iter().chain(credentials.session_token())
        });
        texts.map(|text| text.to_owned().into()).collect()
    }

    /// Forgets credentials that a store rejects, unless they are new.
    pub(super) fn discard(&self) {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|current| current.fetched_at.elapsed() >= DISCARD_MIN_AGE);
    }

    fn current(&self) -> Option<Current> {
        let current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Returns valid credentials. While one caller renews them, the others use the old ones until they end.
    async fn get(&self) -> Result<Credentials, IdentityError> {
        if let Some(permission) = &self.1 {
            permission()?;
        }
        let usable = |now| self.current().filter(|current| current.is_usable(now));
        let now = SystemTime::now();
        let mut last_failure = match usable(now) {
            Some(current) if current.is_fresh(now) => return Ok(current.credentials),
            Some(current) => match self.0.fetching.try_lock() {
                Ok(fetching) => fetching,
                Err(_) => return Ok(current.credentials),
            },
            None => self.0.fetching.lock().await,
        };
        // Another caller may have fetched them meanwhile.
        let now = SystemTime::now();
        let old = usable(now);
        if let Some(current) = old.as_ref().filter(|current| current.is_fresh(now)) {
            return Ok(current.credentials.clone());
        }
        let paused = last_failure
            .as_ref()
            .filter(|(at, _)| at.elapsed() < FAILURE_PAUSE);
        let fetched = if let Some((_, error)) = paused {
            Err(error.clone())
        } else {
            let fetched = self.fetch().await;
            *last_failure = fetched
                .as_ref()
                .err()
                .map(|error| (Instant::now(), error.clone()));
            fetched
        };
        match (fetched, old) {
            (Ok(credentials), _) => {
                let current = Current::new(credentials.clone(), SystemTime::now());
                *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(current);
                Ok(credentials)
            }
            (Err(error), Some(current)) if error.is_transient() => {
                tracing::warn!(%error, "cannot renew temporary credentials, using the current ones");
                Ok(current.credentials)
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn fetch(&self) -> Result<Credentials, IdentityError> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.0.source.fetch()).await;
        fetched.unwrap_or_else(|_| {
            Err(IdentityError::Unreachable {
                peer: "the source of temporary credentials",
                message: format!("no answer within {} s", FETCH_TIMEOUT.as_secs()),
            })
        })
    }
}

impl ProvideCredentials for TemporaryCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(
            async move { self.get().await.map_err(CredentialsError::provider_error) },
        )
    }
}

impl fmt::Debug for TemporaryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TemporaryCredentials")
            .field(&self.0.origin)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;

    use super::*;

    /// Source that counts its calls; each reply is valid for that time, or fails.
    struct Counting {
        calls: Arc<AtomicU32>,
        replies: Arc<Mutex<Result<Option<Duration>, IdentityError>>>,
    }

    #[async_trait]
    impl CredentialsSource for Counting {
        async fn fetch(&self) -> Result<Credentials, IdentityError> {
            let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            let life = self.replies.lock().unwrap().clone()?;
            let end = life.map(|life| SystemTime::now() + life);
            Ok(Credentials::new(
                format!("AKID{number}"),
                "hush",
                Some("token".into()),
                end,
                "test",
            ))
        }
    }

    type Replies = Arc<Mutex<Result<Option<Duration>, IdentityError>>>;

    fn counting(life: Option<Duration>) -> (TemporaryCredentials, Arc<AtomicU32>, Replies) {
        let calls = Arc::<AtomicU32>::default();
        let replies = Arc::new(Mutex::new(Ok(life)));
        let source = Counting {
            calls: calls.clone(),
            replies: replies.clone(),
        };
        let credentials = TemporaryCredentials::new(CredentialsOrigin::Process, source);
        (credentials, calls, replies)
    }

    fn outage() -> IdentityError {
        IdentityError::Unreachable {
            peer: "STS",
            message: "down".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_fetch_once_and_share_a_failure() {
        let (credentials, calls, replies) = counting(Some(Duration::from_hours(1)));
        *replies.lock().unwrap() = Err(outage());
        let all = join_all((0..30).map(|_| credentials.get())).await;
        assert!(all.iter().all(|got| *got.as_ref().unwrap_err() == outage()));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        tokio::time::sleep(FAILURE_PAUSE).await;
        *replies.lock().unwrap() = Ok(Some(Duration::from_hours(1)));
        let all = join_all((0..30).map(|_| credentials.get())).await;
        assert!(
            all.iter()
                .all(|got| got.as_ref().unwrap().access_key_id() == "AKID2")
        );
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_does_not_end_credentials_that_are_valid() {
        // To be renewed after half of their life, of which nothing passes: the clock of the machine decides.
        let (credentials, calls, replies) = counting(Some(Duration::ZERO));
        assert!(credentials.get().await.is_ok());
        *replies.lock().unwrap() = Ok(Some(Duration::from_mins(2)));
        assert_eq!(credentials.get().await.unwrap().access_key_id(), "AKID2");
        let renew_now = |current: &mut Option<Current>| {
            if let Some(current) = current {
                current.renew_at = Some(SystemTime::UNIX_EPOCH);
            }
        };
        renew_now(&mut credentials.0.current.lock().unwrap());
        *replies.lock().unwrap() = Err(outage());
        for _ in 0..3 {
            assert_eq!(credentials.get().await.unwrap().access_key_id(), "AKID2");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 3);
        // A refusal is no outage.
        tokio::time::sleep(FAILURE_PAUSE).await;
        let refused = IdentityError::ProcessRefused {
            message: "AccessDenied".to_owned(),
        };
        *replies.lock().unwrap() = Err(refused.clone());
        assert_eq!(credentials.get().await.unwrap_err(), refused);
    }

    #[tokio::test(start_paused = true)]
    async fn rejected_credentials_are_fetched_again_at_most_once_a_minute() {
        let (credentials, calls, _) = counting(None);
        for _ in 0..3 {
            credentials.get().await.unwrap();
            credentials.discard();
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        tokio::time::sleep(DISCARD_MIN_AGE).await;
        credentials.discard();
        credentials.get().await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        assert!(!format!("{credentials:?}").contains("hush"));
        assert_eq!(credentials.secrets().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_permission_ends_the_use_by_its_holder_only() {
        let (credentials, _, _) = counting(Some(Duration::from_hours(1)));
        let permitted = Arc::new(Mutex::new(true));
        let asked = permitted.clone();
        let holder = credentials.clone().with_permission(Arc::new(move || {
            let bucket = "audit".to_owned();
            let denied = IdentityError::NotGranted { bucket };
            asked.lock().unwrap().then_some(()).ok_or(denied)
        }));
        holder.get().await.unwrap();
        *permitted.lock().unwrap() = false;
        assert!(matches!(
            holder.clone().get().await,
            Err(IdentityError::NotGranted { .. })
        ));
        credentials.get().await.unwrap();
        *permitted.lock().unwrap() = true;
        holder.get().await.unwrap();
    }

    #[test]
    fn credentials_are_renewed_before_their_end() {
        let now = SystemTime::now();
        for (life, expected) in [(3600, 3300), (900, 600), (120, 60), (0, 0)] {
            let end = Some(now + Duration::from_secs(life));
            let credentials = Credentials::new("AKID", "hush", None, end, "test");
            let current = Current::new(credentials, now);
            assert_eq!(
                current.renew_at,
                Some(now + Duration::from_secs(expected)),
                "{life}"
            );
        }
    }
}
