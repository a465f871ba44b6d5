//! The client: a request with its token, once or until it succeeds. Speaks over the network.

use std::fmt;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Method, header};
use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep};
use url::Url;

use super::config::{below, source_name};
use super::http::{Ask, Reply, Wire, host_of, read};
use super::refusal::{Purpose, Refusal, retry_after};
use super::said::said;
use super::uaa::{Account, Means, user_of};
use super::{Class, RetryPolicy, Timeouts, TokenCache, TrackerConfig, TrackerError, Uaa};
use crate::egress::Peer;

/// A client of one tracker with one set of credentials. Cheap to clone.
#[derive(Clone)]
pub struct Tracker(Arc<Inner>);

struct Inner {
    endpoint: Url,
    name: String,
    wire: Wire,
    account: Arc<Account>,
    timeouts: Timeouts,
    retry: RetryPolicy,
}

/// A request in the service's terms.
pub(super) struct Call<'a> {
    pub purpose: Purpose,
    pub method: Method,
    /// Segments below the endpoint.
    pub path: &'a [&'a str],
    pub space: &'a str,
    /// For the header `SESSIONID`.
    pub session: Option<&'a str>,
    /// The first byte wanted; 0 asks for the whole.
    pub from: u64,
    /// JSON.
    pub body: Option<Bytes>,
}

impl Tracker {
    /// A client; nothing is sent yet. Fails on hosts that are not allowed, an unusable CA, or an endpoint that is no
    /// base of a service.
    pub fn new(config: TrackerConfig, tokens: &TokenCache) -> Result<Self, TrackerError> {
        let TrackerConfig {
            endpoint,
            uaa,
            credentials,
            ca_pem,
            hosts,
            timeouts,
            retry,
            traffic,
        } = config;
        let name = source_name(&endpoint)?;
        let uaa_url = match &uaa {
            Uaa::Discover { api: url } | Uaa::Endpoint(url) => url,
        };
        let wire = Wire::new(
            &[&endpoint, uaa_url],
            hosts,
            ca_pem.as_deref(),
            &timeouts,
            traffic,
        )?;
        let account = tokens.account(&uaa, &credentials);
        Ok(Self(Arc::new(Inner {
            endpoint,
            name,
            wire,
            account,
            timeouts,
            retry,
        })))
    }

    /// The endpoint as receipts name it: no trailing slash, no default port.
    pub fn endpoint(&self) -> &str {
        &self.0.name
    }

    /// Proves the credentials: a token is at hand or can be had. A ready token cannot be proved without a space;
    /// the first request does that.
    pub async fn login(&self) -> Result<(), TrackerError> {
        self.0.account.token(&self.means()).await.map(|_| ())
    }

    /// The user, where the token says who that is, as those of a UAA do (the claim `user_name` of a JSON web token).
    /// Logs in if need be. Nothing is proved by it: the service alone judges the token.
    pub async fn user(&self) -> Result<Option<String>, TrackerError> {
        let token = self.0.account.token(&self.means()).await?;
        Ok(user_of(token.expose_secret()))
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.0.timeouts
    }

    pub(super) fn retry(&self) -> &RetryPolicy {
        &self.0.retry
    }

    /// Where the tracker is, for errors.
    pub(super) fn host(&self) -> String {
        host_of(&self.0.endpoint)
    }

    fn means(&self) -> Means<'_> {
        Means {
            wire: &self.0.wire,
            timeouts: &self.0.timeouts,
            retry: &self.0.retry,
        }
    }

    /// Asks once, and once more with a fresh token after a 401: the service refuses those before it acts. Any
    /// status but 401 comes back, with the time by which the reply must be read.
    pub(super) async fn respond(
        &self,
        call: &Call<'_>,
    ) -> Result<(reqwest::Response, Instant), TrackerError> {
        let patience = match call.purpose {
            Purpose::Download => self.0.timeouts.idle_read,
            _ => self.0.timeouts.request,
        };
        let mut token = self
            .0
            .account
            .token(&self.means())
            .await
            .map_err(TrackerError::before_sending)?;
        let mut renewed = false;
        loop {
            let ask = self.ask(call, &token)?;
            let deadline = Instant::now() + patience;
            let response = self.0.wire.send(&ask, deadline).await?;
            if response.status() != ::http::StatusCode::UNAUTHORIZED {
                return Ok((response, deadline));
            }
            if renewed {
                return Err(self.refusal(response, call, deadline).await);
            }
            let fresh = self
                .0
                .account
                .renew(&self.means(), &token)
                .await
                .map_err(TrackerError::before_sending)?;
            if fresh.expose_secret() == token.expose_secret() {
                // A ready token: there is no other.
                return Err(self.refusal(response, call, deadline).await);
            }
            (token, renewed) = (fresh, true);
        }
    }

    /// One request and its whole reply, a success.
    pub(super) async fn once(&self, call: &Call<'_>) -> Result<Reply, TrackerError> {
        let (response, deadline) = self.respond(call).await?;
        if response.status().is_success() {
            read(response, call.purpose.what(), deadline).await
        } else {
            Err(self.refusal(response, call, deadline).await)
        }
    }

    /// One idempotent request, tried again as the policy says.
    pub(super) async fn repeatedly(&self, call: &Call<'_>) -> Result<Reply, TrackerError> {
        let mut patience = Patience::new();
        loop {
            match self.once(call).await {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    patience.after(error, self.retry()).await?;
                    self.repeated();
                }
            }
        }
    }

    /// Notes that a request is repeated.
    pub(super) fn repeated(&self) {
        self.0.wire.repeated(Peer::Tracker);
    }

    /// The error that a reply without success is; reads a little of its body.
    pub(super) async fn refusal(
        &self,
        response: reqwest::Response,
        call: &Call<'_>,
        deadline: Instant,
    ) -> TrackerError {
        let host = host_of(response.url());
        let reply = match read(response, call.purpose.what(), deadline).await {
            Ok(reply) => reply,
            Err(error) => return error,
        };
        let gzip = reply.headers.get(header::CONTENT_ENCODING).is_some();
        let said = self.with_secrets(|secrets| said(&reply.body, gzip, secrets));
        let refusal = Refusal {
            host: &host,
            space: call.space,
            key: self.0.account.credentials().key(),
            status: reply.status,
            headers: &reply.headers,
            said,
            after: retry_after(&reply.headers, Timestamp::now()),
        };
        refusal.of(call.purpose)
    }

    /// Runs `show` with everything that must not be shown.
    pub(super) fn with_secrets<T>(&self, show: impl FnOnce(&[&str]) -> T) -> T {
        self.0.account.with_secrets(show)
    }

    fn ask(&self, call: &Call<'_>, token: &SecretString) -> Result<Ask, TrackerError> {
        let config = |field, why: &str| TrackerError::Config {
            field,
            why: why.to_owned(),
        };
        let mut headers = HeaderMap::new();
        let mut bearer = HeaderValue::from_str(&format!("bearer {}", token.expose_secret()))
            .map_err(|_| config("the Secret's token", "it cannot be put in a header"))?;
        bearer.set_sensitive(true);
        headers.insert("x-auth-token", bearer);
        let space = HeaderValue::from_str(call.space)
            .map_err(|_| config("spec.space", "it must be visible ASCII"))?;
        headers.insert("x-auth-project-id", space);
        if let Some(id) = call.session {
            let id = HeaderValue::from_str(id)
                .map_err(|_| config("the session id", "it must be visible ASCII"))?;
            headers.insert("sessionid", id);
        }
        if call.purpose == Purpose::Download {
            // The bytes are stored as they come; the client never unpacks them.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(
                header::ACCEPT,
                HeaderValue::from_static("application/octet-stream, application/json"),
            );
        } else {
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        }
        if call.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if call.from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", call.from))
        {
            headers.insert(header::RANGE, range);
        }
        Ok(Ask {
            asked: call.purpose.asked(),
            method: call.method.clone(),
            url: below(&self.0.endpoint, call.path),
            headers,
            body: call.body.clone(),
        })
    }
}

/// Counts the tries of one request and pauses between them.
pub(super) struct Patience {
    began: Instant,
    tried: u32,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            tried: 0,
        }
    }

    /// Pauses before the next try, or gives the error back when there is none.
    pub(super) async fn after(
        &mut self,
        error: TrackerError,
        policy: &RetryPolicy,
    ) -> Result<(), TrackerError> {
        self.tried += 1;
        // A login that failed was tried as often as it may already.
        let Class::Retry { after } = error.class() else {
            return Err(error);
        };
        if matches!(error, TrackerError::NoToken(_)) {
            return Err(error);
        }
        match policy.pause(self.tried, self.began.elapsed(), after, rand::random()) {
            Some(pause) => {
                sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker")
            .field("endpoint", &self.0.name)
            .finish_non_exhaustive()
    }
}
