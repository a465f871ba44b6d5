//! Tokens from the Cloud Foundry UAA: concurrent requests with the same credentials share one login, and tokens are
//! cached until shortly before they expire. Network I/O; secrets stay in memory.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep};
use url::Url;

use super::config::join_path;
use super::error_reply::{is_router_error, retry_after};
use super::error_text::error_text;
use super::http::{HttpRequest, Reply, Transport, host_of};
use super::reply::name;
use super::{Credentials, RetryConfig, Timeouts, TrackerError, TrackerErrorClass, UaaSource};
use crate::egress::{Peer, RequestLabel};

/// Maximum time before its expiry at which a token is no longer used.
const EXPIRY_MARGIN: Duration = Duration::from_mins(1);
/// Lifetime of a token if the UAA does not state it.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(10);
/// Time for which rejected credentials are not tried again: a UAA locks a user after a few wrong passwords.
const REFUSAL_TTL: Duration = Duration::from_secs(30);
/// Maximum size of a token: servers reject headers that are much longer.
const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// Number of tokens, current and former, that are redacted from errors.
const MAX_REMEMBERED_TOKENS: usize = 8;
/// `cf:` in base64, the public client of the Cloud Foundry command line.
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
    /// True if the UAA replaced the refresh token of the credentials.
    rotated: bool,
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

/// Resources that a login needs.
pub(super) struct LoginContext<'a> {
    pub transport: &'a Transport,
    pub timeouts: &'a Timeouts,
    pub retry: &'a RetryConfig,
}

/// Reply to a login. Only the access token is required.
pub(super) struct TokenResponse {
    pub(super) access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<f64>,
}

impl TokenResponse {
    /// Parses the reply. Errors quote nothing of it.
    pub(super) fn parse(body: &[u8]) -> Result<Self, &'static str> {
        // The message of serde could quote the reply, and with it the token.
        let json: serde_json::Value = serde_json::from_slice(body).map_err(|_| "not JSON")?;
        let text = |key: &str| json.get(key)?.as_str().map(str::to_owned);
        let seconds =
            |value: &serde_json::Value| value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        let response = Self {
            access_token: text("access_token").ok_or("not JSON with an access_token")?,
            refresh_token: text("refresh_token"),
            expires_in: json.get("expires_in").and_then(seconds),
        };
        let token = &response.access_token;
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || HeaderValue::from_str(token).is_err() {
            return Err("the access_token has characters that HTTP headers do not allow, or is too long");
        }
        Ok(response)
    }

    /// Returns the time for which the token is used: a little less than its lifetime.
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

    /// Calls `show` with all secrets, to redact them.
    pub(super) fn with_secrets<T>(&self, show: impl FnOnce(&[&str]) -> T) -> T {
        // Never locked during a login, so this does not wait. No peer knows a token that is still being issued.
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

    /// Returns a token that is valid for a while.
    pub(super) async fn token(&self, context: &LoginContext<'_>) -> Result<SecretString, TrackerError> {
        self.obtain(context, None).await
    }

    /// Returns a token other than the rejected one. Concurrent callers share one login.
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
        // Callers that waited for a failed login share its result.
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
                // The refresh token is used up; the credentials may still be valid.
                Err(TrackerError::CredentialsRefused { .. }) => {}
                other => {
                    // Without a new one in the reply, the old one stays valid (RFC 6749, section 6).
                    state.refresh.get_or_insert(refresh);
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
            // The UAA may have moved: discover it again next time.
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
        let started_at = Instant::now();
        let reply = self.send_with_retry(context, &request, "a token").await?;
        let bad_reply = |why: &str| TrackerError::BadReply {
            host: host_of(url),
            what: "a token",
            why: why.to_owned(),
        };
        let response = TokenResponse::parse(&reply.body).map_err(bad_reply)?;
        let usable_until = started_at
            .checked_add(response.lifetime())
            .unwrap_or(started_at + DEFAULT_LIFETIME);
        let token = SecretString::from(response.access_token);
        self.remember_token(&token);
        state.token = Some(CachedToken {
            token: token.clone(),
            usable_until,
        });
        if let Some(refresh) = response.refresh_token.filter(|refresh| !refresh.is_empty()) {
            if let Credentials::RefreshToken(sent) = &self.credentials
                && sent.expose_secret() != refresh
                && !std::mem::replace(&mut state.rotated, true)
            {
                tracing::warn!(
                    host = host_of(url),
                    "the UAA replaced the refresh token: this process keeps the new one in memory, and the one of the credentials may work no more after a restart; an API key does not have this limit"
                );
            }
            let refresh = SecretString::from(refresh);
            self.remember_token(&refresh);
            state.refresh = Some(refresh);
        }
        Ok(token)
    }

    /// Returns the UAA as configured, or as the API names it. Credentials go to a discovered UAA only if the policy of
    /// hosts trusts it.
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
        let uaa = authorization_endpoint(&reply.body)
            .ok_or_else(|| TrackerError::UaaUnknown { host: host_of(api) })?;
        context.transport.hosts().check_url(&uaa)?;
        if !context.transport.hosts().trusts_discovered(api, &uaa) {
            return Err(TrackerError::ForeignUaa {
                host: host_of(api),
                uaa: host_of(&uaa),
            });
        }
        Ok(uaa)
    }

    /// Sends a request to UAA or API, with retries by policy. A login that runs twice is harmless.
    async fn send_with_retry(
        &self,
        context: &LoginContext<'_>,
        request: &HttpRequest,
        what: &'static str,
    ) -> Result<Reply, TrackerError> {
        let started_at = Instant::now();
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
                .pause(attempts, started_at.elapsed(), after, rand::random())
            else {
                return Err(error);
            };
            sleep(pause).await;
            context.transport.record_retry(Peer::Uaa);
        }
    }

    fn response_error(&self, reply: &Reply, request: &HttpRequest, what: &'static str) -> TrackerError {
        let host = host_of(&request.url);
        let message = self.with_secrets(|secrets| error_text(&reply.body, secrets));
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
            // Others are refusals of the request: 403 of a gateway, 415, 422.
            400 | 401 if request.method == Method::POST => TrackerError::CredentialsRefused {
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

/// Returns the URL of the UAA from the reply to `GET /v2/info`.
pub(super) fn authorization_endpoint(body: &[u8]) -> Option<Url> {
    let info: serde_json::Value = serde_json::from_slice(body).ok()?;
    Url::parse(info.get("authorization_endpoint")?.as_str()?).ok()
}

/// Returns the claim `user_name` of a JSON web token (RFC 7519, in the compact form of RFC 7515).
pub(super) fn user_name_claim(token: &str) -> Option<String> {
    let claims = token
        .split('.')
        .nth(1)
        .filter(|_| token.split('.').count() == 3)?;
    // From base64url without padding to standard base64.
    let mut standard = claims.replace('-', "+").replace('_', "/");
    while !standard.len().is_multiple_of(4) {
        standard.push('=');
    }
    let claims = aws_smithy_types::base64::decode(standard).ok()?;
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
    fn only_the_access_token_is_required_of_a_reply() {
        for (more, seconds) in [
            ("", 540),
            (r#", "expires_in": 3600"#, 3540),
            (r#", "expires_in": "3600""#, 3540),
            (r#", "expires_in": 3600.5, "refresh_token": null"#, 3540),
            (r#", "expires_in": "soon", "refresh_token": 7"#, 540),
            (r#", "expires_in": -1, "scope": []"#, 540),
            (r#", "expires_in": null"#, 540),
        ] {
            let reply = format!(r#"{{"access_token": "t"{more}}}"#);
            let response = TokenResponse::parse(reply.as_bytes()).ok().unwrap();
            assert_eq!(response.lifetime().as_secs(), seconds, "{reply}");
        }
        for bad in [
            "",
            "{}",
            r#"{"access_token": 7}"#,
            r#"{"access_token": ""}"#,
            "<html>",
        ] {
            assert!(TokenResponse::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

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
