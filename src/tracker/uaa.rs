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

use super::config::below;
use super::http::{Ask, Reply, Wire, host_of};
use super::refusal::{from_router, retry_after};
use super::reply::name;
use super::said::said;
use super::{Class, Credentials, RetryPolicy, Timeouts, TrackerError, Uaa};
use crate::egress::{Asked, Peer};

/// How long before its end a token is no longer used, at most.
const EXPIRY_MARGIN: Duration = Duration::from_mins(1);
/// How long a token is taken to live when the UAA does not say.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(10);
/// How long refused credentials are not tried again: a UAA locks a user after a few wrong passwords.
const REFUSAL_KEPT: Duration = Duration::from_secs(30);
/// Bytes of a token at most: servers refuse headers that are much longer.
const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// Tokens, old and new, that are kept out of errors.
const MAX_REMEMBERED_TOKENS: usize = 8;
/// `cf:`, the public client of the Cloud Foundry command line, in base64.
const CF_CLIENT: HeaderValue = HeaderValue::from_static("Basic Y2Y6");

/// One set of credentials at one UAA.
pub(super) struct Account {
    uaa: Uaa,
    credentials: Credentials,
    state: tokio::sync::Mutex<State>,
    /// Tokens that a peer may echo.
    shown: Mutex<Vec<SecretString>>,
}

#[derive(Default)]
struct State {
    uaa: Option<Url>,
    token: Option<Held>,
    refresh: Option<SecretString>,
    failure: Option<Failure>,
}

struct Held {
    token: SecretString,
    good_until: Instant,
}

struct Failure {
    at: Instant,
    error: TrackerError,
}

/// What a request needs to log in.
pub(super) struct Means<'a> {
    pub wire: &'a Wire,
    pub timeouts: &'a Timeouts,
    pub retry: &'a RetryPolicy,
}

/// The reply to a log-in.
#[derive(Deserialize)]
pub(super) struct Granted {
    pub(super) access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<f64>,
}

impl Granted {
    /// Reads it, or says what is wrong with it without a word of it.
    pub(super) fn read(body: &[u8]) -> Result<Self, &'static str> {
        // serde's own words could quote the reply, and with it the token.
        let granted: Self = serde_json::from_slice(body).map_err(|_| "it is no JSON with an access_token")?;
        let token = &granted.access_token;
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || HeaderValue::from_str(token).is_err() {
            return Err("its access_token cannot be put in a header");
        }
        Ok(granted)
    }

    /// For how long the token is used: a little less than it lives.
    pub(super) fn lifetime(&self) -> Duration {
        let told = self.expires_in;
        let lifetime = told
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or(DEFAULT_LIFETIME);
        lifetime.saturating_sub(EXPIRY_MARGIN.min(lifetime / 5))
    }
}

impl Account {
    pub(super) fn new(uaa: Uaa, credentials: Credentials) -> Self {
        Self {
            uaa,
            credentials,
            state: tokio::sync::Mutex::default(),
            shown: Mutex::default(),
        }
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Runs `show` with everything that must not be shown.
    pub(super) fn with_secrets<T>(&self, show: impl FnOnce(&[&str]) -> T) -> T {
        // Never held across a log-in, so this does not wait; a token in flight is not yet known to any peer.
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut secrets = vec![self.credentials.secret().expose_secret()];
        secrets.extend(shown.iter().map(ExposeSecret::expose_secret));
        show(&secrets)
    }

    fn never_show(&self, secret: &SecretString) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.len() >= MAX_REMEMBERED_TOKENS {
            shown.remove(0);
        }
        shown.push(secret.clone());
    }

    /// A token that is good for a while.
    pub(super) async fn token(&self, means: &Means<'_>) -> Result<SecretString, TrackerError> {
        self.obtain(means, None).await
    }

    /// Another token than the one that was refused; one login, however many ask for it.
    pub(super) async fn renew(
        &self,
        means: &Means<'_>,
        refused: &SecretString,
    ) -> Result<SecretString, TrackerError> {
        self.obtain(means, Some(refused)).await
    }

    async fn obtain(
        &self,
        means: &Means<'_>,
        refused: Option<&SecretString>,
    ) -> Result<SecretString, TrackerError> {
        if let Credentials::Token(token) = &self.credentials {
            return Ok(token.clone());
        }
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(held) = &state.token
            && held.good_until > now
            && refused.is_none_or(|refused| refused.expose_secret() != held.token.expose_secret())
        {
            return Ok(held.token.clone());
        }
        // Whoever waited while the login failed shares its outcome.
        if let Some(Failure { at, error }) = &state.failure
            && (*at >= asked
                || (matches!(error, TrackerError::CredentialsRefused { .. }) && now < *at + REFUSAL_KEPT))
        {
            return Err(error.clone());
        }
        match self.log_in(means, &mut state).await {
            Ok(token) => {
                state.failure = None;
                Ok(token)
            }
            Err(error) => {
                state.failure = Some(Failure {
                    at: Instant::now(),
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    async fn log_in(&self, means: &Means<'_>, state: &mut State) -> Result<SecretString, TrackerError> {
        let uaa = match &state.uaa {
            Some(uaa) => uaa.clone(),
            None => self.find_uaa(means).await?,
        };
        let url = if uaa.path().trim_end_matches('/').ends_with("/oauth/token") {
            uaa.clone()
        } else {
            below(&uaa, &["oauth", "token"])
        };
        state.uaa = Some(uaa);
        if let Some(refresh) = state.refresh.take() {
            match self.grant(means, state, &url, &refresh_form(&refresh)).await {
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
        let granted = self.grant(means, state, &url, &form).await;
        if matches!(
            granted,
            Err(TrackerError::NotFound { .. } | TrackerError::Redirected { .. })
        ) {
            // The UAA may have moved: ask for it again next time.
            state.uaa = None;
        }
        granted
    }

    async fn grant(
        &self,
        means: &Means<'_>,
        state: &mut State,
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
        let ask = Ask {
            asked: asked("Login"),
            method: Method::POST,
            url: url.clone(),
            headers,
            body: Some(form.to_owned().into()),
        };
        let began = Instant::now();
        let reply = self.ask(means, &ask, "a token").await?;
        let bad = |why: &str| TrackerError::BadReply {
            host: host_of(url),
            what: "a token",
            why: why.to_owned(),
        };
        let granted = Granted::read(&reply.body).map_err(bad)?;
        let good_until = began
            .checked_add(granted.lifetime())
            .unwrap_or(began + DEFAULT_LIFETIME);
        let token = SecretString::from(granted.access_token);
        self.never_show(&token);
        state.token = Some(Held {
            token: token.clone(),
            good_until,
        });
        if let Some(refresh) = granted.refresh_token.filter(|refresh| !refresh.is_empty()) {
            let refresh = SecretString::from(refresh);
            self.never_show(&refresh);
            state.refresh = Some(refresh);
        }
        Ok(token)
    }

    /// The UAA, as configured or as the API names it; a discovered one is judged by the list of hosts like any other.
    async fn find_uaa(&self, means: &Means<'_>) -> Result<Url, TrackerError> {
        let api = match &self.uaa {
            Uaa::Endpoint(uaa) => return Ok(uaa.clone()),
            Uaa::Discover { api } => api,
        };
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
        let ask = Ask {
            asked: asked("Discover"),
            method: Method::GET,
            url: below(api, &["v2", "info"]),
            headers,
            body: None,
        };
        let what = "the address of the UAA (/v2/info)";
        let reply = self.ask(means, &ask, what).await?;
        authorization_endpoint(&reply.body).ok_or_else(|| TrackerError::BadReply {
            host: host_of(api),
            what,
            why: "it has no authorization_endpoint; name the UAA in spec.source.uaaEndpoint".to_owned(),
        })
    }

    /// One request to UAA or API, tried again as the policy says. A login that ran twice does no harm.
    async fn ask(&self, means: &Means<'_>, ask: &Ask, what: &'static str) -> Result<Reply, TrackerError> {
        let began = Instant::now();
        let mut tried = 0;
        loop {
            tried += 1;
            let deadline = Instant::now() + means.timeouts.request;
            let error = match means.wire.exchange(ask, what, deadline).await {
                Ok(reply) if reply.status.is_success() => return Ok(reply),
                Ok(reply) => self.refusal(&reply, ask, what),
                Err(error) => error,
            };
            let Class::Retry { after } = error.class() else {
                return Err(error);
            };
            let Some(pause) = means.retry.pause(tried, began.elapsed(), after, rand::random()) else {
                return Err(error);
            };
            sleep(pause).await;
            means.wire.repeated(Peer::Uaa);
        }
    }

    fn refusal(&self, reply: &Reply, ask: &Ask, what: &'static str) -> TrackerError {
        let host = host_of(&ask.url);
        let said = self.with_secrets(|secrets| said(&reply.body, false, secrets));
        let after = retry_after(&reply.headers, Timestamp::now());
        match reply.status.as_u16() {
            408 | 500..=599 => TrackerError::Server {
                host,
                status: reply.status.as_u16(),
                said,
                after,
            },
            status if from_router(&reply.headers) => TrackerError::Server {
                host,
                status,
                said,
                after,
            },
            429 => TrackerError::Throttled { host, said, after },
            404 => TrackerError::NotFound { host, what, said },
            400..=499 if ask.method == Method::POST => TrackerError::CredentialsRefused {
                host,
                key: self.credentials.key(),
                said,
            },
            status => TrackerError::Refused {
                host,
                what,
                status,
                said,
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
pub(super) fn user_of(token: &str) -> Option<String> {
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

const fn asked(operation: &'static str) -> Asked {
    Asked {
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
    fn a_token_of_a_uaa_says_whose_it_is() {
        // {"user_name":"a?>@b","x":"ü"}
        let claims = "eyJ1c2VyX25hbWUiOiJhPz5AYiIsIngiOiLDvCJ9";
        assert_eq!(user_of(&format!("e30.{claims}.c2ln")), Some("a?>@b".to_owned()));
        for other in [
            "opaque",
            "a.b.c",
            &format!("{claims}.{claims}"),
            "e30.e30.c2ln",
            "",
        ] {
            assert_eq!(user_of(other), None, "{other}");
        }
    }
}
