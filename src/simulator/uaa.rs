//! The UAA: logins, refreshes, and the user of a token. No I/O but the clock.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::connection::ServerRequest;
use super::effect::Effect;
use super::fault::{FaultContext, RequestKind};
use super::reply::ApiError;
use super::service::{ServiceState, SimulatedService};
use super::validate::single_header;

/// Basic authentication header of the user `cf` with an empty password.
const CF_CLIENT: &str = "Basic Y2Y6";
/// User name of logins with an API key.
const API_KEY_USER: &str = "apikey";

/// User and space of a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) user: String,
    pub(super) account: bool,
    pub(super) space: Arc<str>,
}

/// Serves `GET /v2/info`. This service is its own UAA.
pub(super) fn info(service: &SimulatedService, request: &ServerRequest) -> Value {
    let url = format!("http://{}", service.authority(request));
    json!({
        "name": "simulator",
        "authorization_endpoint": url,
        "token_endpoint": url,
        "api_version": "2.92.0",
    })
}

/// Returns true if the form requests a refresh.
pub(super) fn is_refresh(request: &ServerRequest) -> bool {
    url::form_urlencoded::parse(&request.body)
        .any(|(name, value)| name == "grant_type" && value == "refresh_token")
}

/// Serves `POST /oauth/token`.
pub(super) fn token(
    service: &SimulatedService,
    request: &ServerRequest,
    context: FaultContext,
) -> Result<Value, ApiError> {
    if single_header(request, "authorization")? != Some(CF_CLIENT) {
        return Err(ApiError::violation(
            401,
            "basic authentication is not for user cf with an empty password",
        ));
    }
    let media = single_header(request, "content-type")?.unwrap_or("");
    if !media.starts_with("application/x-www-form-urlencoded") {
        return Err(ApiError::violation(
            415,
            format!("Content-Type is {media:?}, not a form"),
        ));
    }
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
    let wanted: &[&str] = if context.kind == RequestKind::Refresh {
        &["grant_type", "refresh_token"]
    } else {
        &["grant_type", "password", "username"]
    };
    let mut names: Vec<&str> = form.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if names != wanted {
        return Err(ApiError::violation(
            400,
            format!("the form has the fields {names:?}, not {wanted:?}"),
        ));
    }
    let field = |name: &str| {
        form.iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value.as_str())
    };
    if context.kind == RequestKind::Refresh {
        return refresh(service, field("refresh_token"), context);
    }
    if field("grant_type") != "password" {
        return Err(ApiError::violation(
            400,
            "grant_type is neither password nor refresh_token",
        ));
    }
    let (name, password) = (field("username"), field("password"));
    let bad = || ApiError::new(401, "Bad credentials");
    let user = if name == API_KEY_USER {
        service
            .settings
            .users
            .iter()
            .find(|user| user.api_key.as_deref() == Some(password))
            .ok_or_else(bad)?
    } else {
        let user = service
            .user(name)
            .ok_or_else(|| ApiError::violation(401, format!("unknown user {name:?}")))?;
        if user.password == password {
            user
        } else {
            return Err(bad());
        }
    };
    let mut state = service.state();
    state.ledger.logins += 1;
    let refresh_token = state.issue_refresh(&user.name);
    let access_token = state.issue(service, &user.name);
    Ok(token_response(service, &access_token, &refresh_token))
}

fn refresh(service: &SimulatedService, token: &str, context: FaultContext) -> Result<Value, ApiError> {
    let rotate = service
        .fault(context, |effect| {
            (*effect == Effect::RotateRefreshTokens).then_some(())
        })
        .is_some();
    let mut state = service.state();
    let user = state
        .refresh_tokens
        .get(token)
        .cloned()
        .ok_or_else(|| ApiError::new(401, "invalid refresh token"))?;
    let refresh_token = if rotate {
        state.refresh_tokens.remove(token);
        state.issue_refresh(&user)
    } else {
        token.to_owned()
    };
    state.ledger.refreshes += 1;
    let access_token = state.issue(service, &user);
    Ok(token_response(service, &access_token, &refresh_token))
}

fn token_response(service: &SimulatedService, access_token: &str, refresh_token: &str) -> Value {
    json!({
        "access_token": access_token,
        "refresh_token": refresh_token,
        "token_type": "bearer",
        "expires_in": service.settings.token_lifetime.as_secs(),
        "scope": "openid",
        "jti": "simulated",
    })
}

impl ServiceState {
    fn issue_refresh(&mut self, user: &str) -> String {
        let token = format!("{}-r", self.ids.uuid());
        self.refresh_tokens.insert(token.clone(), user.to_owned());
        token
    }

    /// Issues a token in the format of a JWT, like UAA. Removes expired tokens.
    pub(super) fn issue(&mut self, service: &SimulatedService, user: &str) -> String {
        let now = Instant::now();
        self.tokens
            .retain(|_, (_, until)| until.is_none_or(|until| until > now));
        let lifetime = service.settings.token_lifetime;
        let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + lifetime;
        let claims = json!({
            "jti": self.ids.uuid(), "user_name": user, "email": user, "client_id": "cf", "exp": expires.as_secs(),
        });
        let header = base64url(br#"{"alg":"none","typ":"JWT"}"#);
        let token = format!(
            "{header}.{}.c2ltdWxhdGVk",
            base64url(claims.to_string().as_bytes())
        );
        self.tokens
            .insert(token.clone(), (user.to_owned(), now.checked_add(lifetime)));
        token
    }
}

/// Encodes base64 for URLs, without padding (RFC 4648, 5).
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..=three.len() {
            let letter = (bits >> (18 - 6 * place)) & 63;
            text.extend(
                usize::try_from(letter)
                    .ok()
                    .and_then(|at| LETTERS.get(at))
                    .map(|byte| char::from(*byte)),
            );
        }
    }
    text
}

fn token_of(request: &ServerRequest) -> Result<&str, ApiError> {
    let value = single_header(request, "x-auth-token")?
        .ok_or_else(|| ApiError::violation(401, "header X-Auth-Token is missing"))?;
    match value.split_once(' ') {
        Some((word, token)) if word.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(token.trim())
        }
        _ => Err(ApiError::violation(
            401,
            "header X-Auth-Token is not `bearer TOKEN`",
        )),
    }
}

/// Removes the token of a request before its expiry.
pub(super) fn expire_token(service: &SimulatedService, request: &ServerRequest) {
    if let Ok(token) = token_of(request) {
        service.state().tokens.remove(token);
    }
}

/// Returns the caller if token, space and role are valid.
pub(super) fn caller(service: &SimulatedService, request: &ServerRequest) -> Result<Caller, ApiError> {
    let token = token_of(request)?;
    let known = service.state().tokens.get(token).cloned();
    let user = match known {
        Some((user, until)) if until.is_none_or(|until| until > Instant::now()) => user,
        _ => return Err(ApiError::new(401, "the token is unknown or has expired")),
    };
    let space = single_header(request, "x-auth-project-id")?
        .filter(|space| !space.is_empty())
        .ok_or_else(|| ApiError::violation(400, "header X-Auth-Project-Id is missing"))?;
    if !service.settings.spaces.is_empty() && !service.settings.spaces.iter().any(|known| known == space) {
        return Err(ApiError::violation(403, format!("unknown space {space:?}")));
    }
    let Some(rights) = service.user(&user).filter(|user| user.developer) else {
        return Err(ApiError::new(
            403,
            format!("{user} does not have the developer role in the space"),
        ));
    };
    Ok(Caller {
        account: rights.account,
        user,
        space: space.into(),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64url_matches_the_rfc() {
        let texts =
            ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| super::base64url(text.as_bytes()));
        assert_eq!(texts, ["", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"]);
    }
}
