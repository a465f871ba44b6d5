//! Tokens from the Cloud Foundry UAA: one login at a time for the same credentials, kept until shortly before they
//! expire. Speaks over the network; secrets stay in memory.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use url::Url;

use super::config::join_path;
use super::error_reply::{is_router_error, retry_after};
use super::error_text::error_text;
use super::http::{HttpRequest, Reply, Transport, host_of};
use super::reply::name;
use super::{Credentials, RetryConfig, Timeouts, TrackerError, TrackerErrorClass, UaaSource};
use crate::egress::{Peer, RequestLabel};

/// How long before its end a token is no longer used, at most.
const EXPIRY_MARGIN: Duration = Duration::from_mins(1);
/// How long a token is taken to live when the UAA does not say.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(10);
/// How long refused credentials are not tried again: a UAA locks a user after a few wrong passwords.
const REFUSAL_TTL: Duration = Duration::from_secs(30);
/// Bytes of a token at most: servers refuse headers that are much longer.
const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// Tokens, old and new, that are kept out of errors.
const MAX_REMEMBERED_TOKENS: usize = 8;
/// `cf:`, the public client of the Cloud Foundry command line, in base64.
const CF_CLIENT: HeaderValue = HeaderValue::from_static("Basic Y2Y6");

/// One set of credentials at one UAA.
pub(super) struct Account {
    uaa: UaaSource,
    credentials: Credentials,
    state: tokio::sync::Mutex<LoginState>,
    /// Tokens that a peer may echo.
    issued: Mutex<Vec<SecretString>>,
}

#[derive(Default)]
struct LoginState {
    uaa: Option<Url>,
    token: Option<CachedToken>,
    refresh: Option<SecretString>,
    failure: Option<LoginFailure>,
}

struct CachedToken {
    token: SecretString,
    usable_until: Instant,
}

struct LoginFailure {
    at: Instant,
    error: TrackerError,
}

/// What a request needs to log in.
pub(super) struct LoginContext<'a> {
    pub transport: &'a Transport,
    pub timeouts: &'a Timeouts,
    pub retry: &'a RetryConfig,
}

/// The reply to a log-in.
#[derive(Deserialize)]
pub(super) struct TokenResponse {
    pub(super) access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<f64>,
}

impl TokenResponse {
    /// Reads it, or says what is wrong with it without a word of it.
    pub(super) fn parse(body: &[u8]) -> Result<Self, &'static str> {
        // serde's own words could quote the reply, and with it the token.
        let response: Self =
            serde_json::from_slice(body).map_err(|_| "it is no JSON with an access_token")?;
        let token = &response.access_token;
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || HeaderValue::from_str(token).is_err() {
            return Err("its access_token cannot be put in a header");
        }
        Ok(response)
    }

    /// For how long the token is used: a little less than it lives.
    pub(super) fn lifetime(&self) -> Duration {
        let expires_in = self.expires_in;
        let lifetime = expires_in
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or(DEFAULT_LIFETIME);
        lifetime.saturating_sub(EXPIRY_MARGIN.min(lifetime / 5))
    }
}

impl Account {
    pub(super) fn new(uaa: UaaSource, credentials: Credentials) -> Self {
        Self {
            uaa,
            credentials,
            state: tokio::sync::Mutex::default(),
            issued: Mutex::default(),
        }
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Runs `show` with everything that must not be shown.
    pub(super) fn with_secrets<T>(&self, show: impl FnOnce(&[&str]) -> T) -> T {
        // Never held across a log-in, so this does not wait; a token in flight is not yet known to any peer.
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let mut secrets = vec![self.credentials.secret().expose_secret()];
        secrets.extend(issued.iter().map(ExposeSecret::expose_secret));
        show(&secrets)
    }

    fn remember_token(&self, secret: &SecretString) {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if issued.len() >= MAX_REMEMBERED_TOKENS {
            issued.remove(0);
        }
        issued.push(secret.clone());
    }

    /// A token that is good for a while.
    pub(super) async fn token(&self, context: &LoginContext<'_>) -> Result<SecretString, TrackerError> {
        self.obtain(context, None).await
    }

    /// Another token than the one that was refused; one login, however many ask for it.
    pub(super) async fn renew(
        &self,
        context: &LoginContext<'_>,
        refused: &SecretString,
    ) -> Result<SecretString, TrackerError> {
        self.obtain(context, Some(refused)).await
    }

    async fn obtain(
        &self,
        context: &LoginContext<'_>,
        refused: Option<&SecretString>,
    ) -> Result<SecretString, TrackerError> {
        if let Credentials::Token(token) = &self.credentials {
            return Ok(token.clone());
        }
        let requested_at = Instant::now();
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(cached) = &state.token
            && cached.usable_until > now
            && refused.is_none_or(|refused| refused.expose_secret() != cached.token.expose_secret())
        {
            return Ok(cached.token.clone());
        }
        // Whoever waited while the login failed shares its outcome.
        if let Some(LoginFailure { at, error }) = &state.failure
            && (*at >= requested_at
                || (matches!(error, TrackerError::CredentialsRefused { .. }) && now < *at + REFUSAL_TTL))
        {
            return Err(error.clone());
        }
        match self.log_in(context, &mut state).await {
            Ok(token) => {
                state.failure = None;
                Ok(token)
            }
            Err(error) => {
                state.failure = Some(LoginFailure {
                    at: Instant::now(),
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    async fn log_in(
        &self,
        context: &LoginContext<'_>,
        state: &mut LoginState,
    ) -> Result<SecretString, TrackerError> {
        let uaa = match &state.uaa {
            Some(uaa) => uaa.clone(),
            None => self.discover_uaa(context).await?,
        };
        let url = if uaa.path().trim_end_matches('/').ends_with("/oauth/token") {
            uaa.clone()
        } else {
            join_path(&uaa, &["oauth", "token"])
        };
        state.uaa = Some(uaa);
        if let Some(refresh) = state.refresh.take() {
            match self
                .request_token(context, state, &url, &refresh_form(&refresh))
                .await
            {
                // The refresh token is spent; the Secret's own credentials may still be good.
                Err(TrackerError::CredentialsRefused { .. }) => {}
                other => {
                    if other.is_err() {
                        state.refresh = Some(refresh);
                    }
                    return other;
                }
            }
        }
        let form = match &self.credentials {
            Credentials::ApiKey(key) => password_form("apikey", key),
            Credentials::Password { username, password } => password_form(username, password),
            Credentials::RefreshToken(refresh) | Credentials::Token(refresh) => refresh_form(refresh),
        };
        let response = self.request_token(context, state, &url, &form).await;
        if matches!(
            response,
            Err(TrackerError::NotFound { .. } | TrackerError::Redirected { .. })
        ) {
            // The UAA may have moved: ask for it again next time.
            state.uaa = None;
        }
        response
    }

    async fn request_token(
        &self,
        context: &LoginContext<'_>,
        state: &mut LoginState,
        url: &Url,
        form: &str,
    ) -> Result<SecretString, TrackerError> {
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, CF_CLIENT),
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            ),
        ]);
        let request = HttpRequest {
            label: label("Login"),
            method: Method::POST,
            url: url.clone(),
            headers,
            body: Some(form.to_owned().into()),
        };
        let began = Instant::now();
        let reply = self.send_with_retry(context, &request, "a token").await?;
        let bad = |why: &str| TrackerError::BadReply {
            host: host_of(url),
            what: "a token",
            why: why.to_owned(),
        };
        let response = TokenResponse::parse(&reply.body).map_err(bad)?;
        let usable_until = began
            .checked_add(response.lifetime())
            .unwrap_or(began + DEFAULT_LIFETIME);
        let token = SecretString::from(response.access_token);
        self.remember_token(&token);
        state.token = Some(CachedToken {
            token: token.clone(),
            usable_until,
        });
        if let Some(refresh) = response.refresh_token.filter(|refresh| !refresh.is_empty()) {
            let refresh = SecretString::from(refresh);
            self.remember_token(&refresh);
            state.refresh = Some(refresh);
        }
        Ok(token)
    }

    /// The UAA, as configured or as the API names it; a discovered one is judged by the list of hosts like any other.
    async fn discover_uaa(&self, context: &LoginContext<'_>) -> Result<Url, TrackerError> {
        let api = match &self.uaa {
            UaaSource::Endpoint(uaa) => return Ok(uaa.clone()),
            UaaSource::Discover { api } => api,
        };
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
        let request = HttpRequest {
            label: label("Discover"),
            method: Method::GET,
            url: join_path(api, &["v2", "info"]),
            headers,
            body: None,
        };
        let what = "the address of the UAA (/v2/info)";
        let reply = self.send_with_retry(context, &request, what).await?;
        authorization_endpoint(&reply.body).ok_or_else(|| TrackerError::BadReply {
            host: host_of(api),
            what,
            why: "it has no authorization_endpoint; name the UAA in spec.source.uaaEndpoint".to_owned(),
        })
    }

    /// One request to UAA or API, tried again as the policy says. A login that ran twice does no harm.
    async fn send_with_retry(
        &self,
        context: &LoginContext<'_>,
        request: &HttpRequest,
        what: &'static str,
    ) -> Result<Reply, TrackerError> {
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let deadline = Instant::now() + context.timeouts.request;
            let error = match context.transport.send_and_read(request, what, deadline).await {
                Ok(reply) if reply.status.is_success() => return Ok(reply),
                Ok(reply) => self.response_error(&reply, request, what),
                Err(error) => error,
            };
            let TrackerErrorClass::Retry { after } = error.class() else {
                return Err(error);
            };
            let Some(pause) = context
                .retry
                .pause(attempts, began.elapsed(), after, rand::random())
            else {
                return Err(error);
            };
            sleep(pause).await;
            context.transport.record_retry(Peer::Uaa);
        }
    }

    fn response_error(&self, reply: &Reply, request: &HttpRequest, what: &'static str) -> TrackerError {
        let host = host_of(&request.url);
        let message = self.with_secrets(|secrets| error_text(&reply.body, false, secrets));
        let after = retry_after(&reply.headers, Timestamp::now());
        match reply.status.as_u16() {
            408 | 500..=599 => TrackerError::Server {
                host,
                status: reply.status.as_u16(),
                message,
                after,
            },
            status if is_router_error(&reply.headers) => TrackerError::Server {
                host,
                status,
                message,
                after,
            },
            429 => TrackerError::Throttled { host, message, after },
            404 => TrackerError::NotFound { host, what, message },
            400..=499 if request.method == Method::POST => TrackerError::CredentialsRefused {
                host,
                key: self.credentials.key(),
                message,
            },
            status => TrackerError::Refused {
                host,
                what,
                status,
                message,
            },
        }
    }
}

/// The address of the UAA in the reply to `GET /v2/info`.
pub(super) fn authorization_endpoint(body: &[u8]) -> Option<Url> {
    let info: serde_json::Value = serde_json::from_slice(body).ok()?;
    Url::parse(info.get("authorization_endpoint")?.as_str()?).ok()
}

/// The claim `user_name` of a JSON web token (RFC 7519, in the compact form of RFC 7515).
pub(super) fn user_name_claim(token: &str) -> Option<String> {
    let claims = token
        .split('.')
        .nth(1)
        .filter(|_| token.split('.').count() == 3)?;
    // From the alphabet for URLs, without padding, to the usual one.
    let mut usual = claims.replace('-', "+").replace('_', "/");
    while !usual.len().is_multiple_of(4) {
        usual.push('=');
    }
    let claims = aws_smithy_types::base64::decode(usual).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    name(claims.get("user_name")).filter(|name| !name.is_empty())
}

const fn label(operation: &'static str) -> RequestLabel {
    RequestLabel {
        peer: Peer::Uaa,
        operation,
    }
}

fn password_form(username: &str, password: &SecretString) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "password")
        .append_pair("username", username)
        .append_pair("password", password.expose_secret())
        .finish()
}

fn refresh_form(refresh: &SecretString) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", refresh.expose_secret())
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_name_is_read_from_the_token() {
        // {"user_name":"a?>@b","x":"ü"}
        let claims = "eyJ1c2VyX25hbWUiOiJhPz5AYiIsIngiOiLDvCJ9";
        assert_eq!(
            user_name_claim(&format!("e30.{claims}.c2ln")),
            Some("a?>@b".to_owned())
        );
        for other in [
            "opaque",
            "a.b.c",
            &format!("{claims}.{claims}"),
            "e30.e30.c2ln",
            "",
        ] {
            assert_eq!(user_name_claim(other), None, "{other}");
        }
    }
}
