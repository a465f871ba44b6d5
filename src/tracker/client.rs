//! The client: sends a request with its token, once or with retries. Network I/O.

use std::fmt;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Method, header};
use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep};
use url::Url;

use super::config::{join_path, source_name};
use super::error_reply::{ApiOperation, ErrorReply, retry_after};
use super::error_text::error_text;
use super::http::{HttpRequest, Reply, Transport, host_of, read_reply};
use super::uaa::{Account, LoginContext, user_name_claim};
use super::{RetryConfig, Timeouts, TokenCache, TrackerConfig, TrackerError, TrackerErrorClass, UaaSource};
use crate::api::Setting;
use crate::egress::Peer;

/// Client of one Activity Tracker with one set of credentials. Cheap to clone.
#[derive(Clone)]
pub struct Tracker(Arc<TrackerInner>);

struct TrackerInner {
    endpoint: Url,
    name: String,
    transport: Transport,
    account: Arc<Account>,
    timeouts: Timeouts,
    retry: RetryConfig,
}

/// Request to the service, before it becomes an HTTP request.
pub(super) struct ServiceRequest<'a> {
    pub operation: ApiOperation,
    pub method: Method,
    /// Path segments below the endpoint.
    pub path: &'a [&'a str],
    pub space: &'a str,
    /// Value of the header `SESSIONID`.
    pub session: Option<&'a str>,
    /// Offset of the first byte; 0 requests the complete body.
    pub from: u64,
    /// JSON.
    pub body: Option<Bytes>,
}

impl Tracker {
    /// Creates a client. Sends nothing. Fails if a host is not allowed, the CA is unusable, or the endpoint is not the
    /// base URL of a service.
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
            UaaSource::Discover { api: url } | UaaSource::Endpoint(url) => url,
        };
        let transport = Transport::new(
            &[&endpoint, uaa_url],
            hosts,
            ca_pem.as_deref(),
            &timeouts,
            traffic,
        )?;
        let account = tokens.account(&uaa, &credentials);
        Ok(Self(Arc::new(TrackerInner {
            endpoint,
            name,
            transport,
            account,
            timeouts,
            retry,
        })))
    }

    /// Returns the endpoint as receipts name it: no trailing slash, no default port.
    pub fn endpoint(&self) -> &str {
        &self.0.name
    }

    /// Checks the credentials: obtains a token unless one is cached. A ready token cannot be checked without a space;
    /// the first request does that.
    pub async fn login(&self) -> Result<(), TrackerError> {
        self.0.account.token(&self.login_context()).await.map(|_| ())
    }

    /// Returns the user from the claim `user_name`, if the token is a JSON web token of a UAA. Logs in if necessary.
    /// Proves nothing: only the service verifies the token.
    pub async fn user(&self) -> Result<Option<String>, TrackerError> {
        let token = self.0.account.token(&self.login_context()).await?;
        Ok(user_name_claim(token.expose_secret()))
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.0.timeouts
    }

    pub(super) fn retry(&self) -> &RetryConfig {
        &self.0.retry
    }

    /// Returns the host of the tracker, for errors.
    pub(super) fn host(&self) -> String {
        host_of(&self.0.endpoint)
    }

    fn login_context(&self) -> LoginContext<'_> {
        LoginContext {
            transport: &self.0.transport,
            timeouts: &self.0.timeouts,
            retry: &self.0.retry,
        }
    }

    /// Sends a request once, and once more with a new token after a 401: the service rejects those before it acts.
    /// Returns replies of any status except 401, with the deadline for reading them.
    pub(super) async fn send_authenticated(
        &self,
        request: &ServiceRequest<'_>,
    ) -> Result<(reqwest::Response, Instant), TrackerError> {
        let timeout = match request.operation {
            ApiOperation::Download => self.0.timeouts.idle_read,
            _ => self.0.timeouts.request,
        };
        let mut token = self
            .0
            .account
            .token(&self.login_context())
            .await
            .map_err(TrackerError::before_sending)?;
        let mut renewed = false;
        loop {
            let http_request = self.build_request(request, &token)?;
            let deadline = Instant::now() + timeout;
            let response = self.0.transport.send(&http_request, deadline).await?;
            if response.status() != ::http::StatusCode::UNAUTHORIZED {
                return Ok((response, deadline));
            }
            if renewed {
                return Err(self.response_error(response, request, deadline).await);
            }
            let fresh = self
                .0
                .account
                .renew(&self.login_context(), &token)
                .await
                .map_err(TrackerError::before_sending)?;
            if fresh.expose_secret() == token.expose_secret() {
                // A ready token cannot be renewed.
                return Err(self.response_error(response, request, deadline).await);
            }
            (token, renewed) = (fresh, true);
        }
    }

    /// Sends a request once and reads the complete reply. Any status but success is an error.
    pub(super) async fn send_once(&self, request: &ServiceRequest<'_>) -> Result<Reply, TrackerError> {
        let (response, deadline) = self.send_authenticated(request).await?;
        if response.status().is_success() {
            read_reply(response, request.operation.description(), deadline).await
        } else {
            Err(self.response_error(response, request, deadline).await)
        }
    }

    /// Sends an idempotent request, with retries by policy.
    pub(super) async fn send_with_retry(&self, request: &ServiceRequest<'_>) -> Result<Reply, TrackerError> {
        let mut budget = RetryBudget::new();
        loop {
            match self.send_once(request).await {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    budget.pause_after(error, self.retry()).await?;
                    self.record_retry();
                }
            }
        }
    }

    /// Counts a repeated request.
    pub(super) fn record_retry(&self) {
        self.0.transport.record_retry(Peer::Tracker);
    }

    /// Converts a reply without success into an error; reads the beginning of its body.
    pub(super) async fn response_error(
        &self,
        response: reqwest::Response,
        request: &ServiceRequest<'_>,
        deadline: Instant,
    ) -> TrackerError {
        let host = host_of(response.url());
        let reply = match read_reply(response, request.operation.description(), deadline).await {
            Ok(reply) => reply,
            Err(error) => return error,
        };
        let message = self.with_secrets(|secrets| error_text(&reply.body, secrets));
        let error_reply = ErrorReply {
            host: &host,
            space: request.space,
            key: self.0.account.credentials().key(),
            status: reply.status,
            headers: &reply.headers,
            message,
            after: retry_after(&reply.headers, Timestamp::now()),
        };
        error_reply.into_error(request.operation)
    }

    /// Calls `show` with all secrets, to redact them.
    pub(super) fn with_secrets<T>(&self, show: impl FnOnce(&[&str]) -> T) -> T {
        self.0.account.with_secrets(show)
    }

    fn build_request(
        &self,
        request: &ServiceRequest<'_>,
        token: &SecretString,
    ) -> Result<HttpRequest, TrackerError> {
        let config = |setting, why: &str| TrackerError::Config {
            setting,
            why: why.to_owned(),
        };
        let mut headers = HeaderMap::new();
        let mut bearer =
            HeaderValue::from_str(&format!("bearer {}", token.expose_secret())).map_err(|_| {
                config(
                    Setting::SourceCredentials,
                    "the token has characters that HTTP headers do not allow",
                )
            })?;
        bearer.set_sensitive(true);
        headers.insert("x-auth-token", bearer);
        let space = HeaderValue::from_str(request.space)
            .map_err(|_| config(Setting::Space, "the space id must be visible ASCII"))?;
        headers.insert("x-auth-project-id", space);
        if let Some(id) = request.session {
            let id = HeaderValue::from_str(id)
                .map_err(|_| TrackerError::InvalidSessionId { host: self.host() })?;
            headers.insert("sessionid", id);
        }
        if request.operation == ApiOperation::Download {
            // The bytes are stored as received; the client never decompresses them.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(
                header::ACCEPT,
                HeaderValue::from_static("application/octet-stream, application/json"),
            );
        } else {
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        }
        if request.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if request.from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", request.from))
        {
            headers.insert(header::RANGE, range);
        }
        Ok(HttpRequest {
            label: request.operation.label(),
            method: request.method.clone(),
            url: join_path(&self.0.endpoint, request.path),
            headers,
            body: request.body.clone(),
        })
    }
}

/// Counts the attempts of one request, and pauses between them.
pub(super) struct RetryBudget {
    started_at: Instant,
    attempts: u32,
}

impl RetryBudget {
    pub(super) fn new() -> Self {
        Self {
            started_at: Instant::now(),
            attempts: 0,
        }
    }

    /// Pauses before the next attempt. Returns the error if there is none.
    pub(super) async fn pause_after(
        &mut self,
        error: TrackerError,
        policy: &RetryConfig,
    ) -> Result<(), TrackerError> {
        self.attempts += 1;
        // A failed login has used up its own retries.
        let TrackerErrorClass::Retry { after } = error.class() else {
            return Err(error);
        };
        if matches!(error, TrackerError::NoToken(_)) {
            return Err(error);
        }
        match policy.pause(self.attempts, self.started_at.elapsed(), after, rand::random()) {
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
