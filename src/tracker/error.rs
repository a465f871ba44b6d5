//! Errors of the tracker and of its UAA: message, class, and the setting to correct. No I/O.

use std::time::Duration;

use super::CredentialsKey;
use crate::api::{Remedy, Setting, SettingNames};
use crate::egress::{CaError, HostDenied};

/// Response of the caller to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackerErrorClass {
    /// Try again later, not before `after` where the service states it.
    Retry {
        /// Wait that `Retry-After` asks for.
        after: Option<Duration>,
    },
    /// Something outside must change first: credentials, a role, a free session, the allow-list, a gateway.
    Wait,
    /// Trying again cannot help.
    Terminal,
}

/// An error of the tracker or of its UAA. No variant holds a token or any other secret.
///
/// `Display` states what failed; [`TrackerError::remedy`] is the setting to correct, if one is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackerError {
    /// 401, also with a fresh token.
    #[error(
        "{host} rejects the token obtained with the {key} (status 401){}",
        quoted(message)
    )]
    Unauthorized {
        /// Host that rejected the token.
        host: String,
        /// Origin of the token.
        key: CredentialsKey,
        /// Text of the reply.
        message: String,
    },
    /// The UAA rejects the credentials.
    #[error("{host} rejects the {key}{}{}", quoted(message), hint(*key))]
    CredentialsRefused {
        /// The UAA.
        host: String,
        /// Keys of the Secret at fault.
        key: CredentialsKey,
        /// Text of the reply.
        message: String,
    },
    /// 403.
    #[error(
        "{host} denies access to space {space}{}: the user needs the developer role in the space, and for account events the permission of the account",
        quoted(message)
    )]
    Forbidden {
        /// Host that denied access.
        host: String,
        /// The space.
        space: String,
        /// Text of the reply.
        message: String,
    },
    /// No session was opened: the space is full, or the role is missing; the status does not tell them apart.
    #[error("cannot open a session in space {space} (status {status}){}", quoted(message))]
    Capacity {
        /// The space.
        space: String,
        /// HTTP status.
        status: u16,
        /// True if the reply itself names the number of sessions as the cause.
        names_capacity: bool,
        /// Text of the reply.
        message: String,
        /// Wait that `Retry-After` asks for.
        after: Option<Duration>,
    },
    /// 429 for any request but a new session.
    #[error("{host} throttles requests (status 429){}", quoted(message))]
    Throttled {
        /// Host that throttles.
        host: String,
        /// Text of the reply.
        message: String,
        /// Wait that `Retry-After` asks for.
        after: Option<Duration>,
    },
    /// 5xx, 408, or a router that found no instance.
    #[error("{host} failed (status {status}){}", quoted(message))]
    Server {
        /// Host that failed.
        host: String,
        /// HTTP status.
        status: u16,
        /// Text of the reply.
        message: String,
        /// Wait that `Retry-After` asks for.
        after: Option<Duration>,
    },
    /// No daily listing: a gateway rejects a GET with a body. The export continues without a listing.
    #[error("{host} provides no daily listing (status {status}){}", quoted(message))]
    ListingRefused {
        /// Host that refused.
        host: String,
        /// HTTP status.
        status: u16,
        /// Text of the reply.
        message: String,
    },
    /// 404 where it means that the address is wrong.
    #[error("{host} does not know {what} (status 404){}", quoted(message))]
    NotFound {
        /// Host that answered.
        host: String,
        /// Object of the request.
        what: &'static str,
        /// Text of the reply.
        message: String,
    },
    /// Any other rejection.
    #[error("{host} rejects the request for {what} (status {status}){}", quoted(message))]
    Refused {
        /// Host that rejected the request.
        host: String,
        /// Object of the request.
        what: &'static str,
        /// HTTP status.
        status: u16,
        /// Text of the reply.
        message: String,
    },
    /// No connection, or it broke.
    #[error("cannot reach {host}: {why}")]
    Network {
        /// Host of the request.
        host: String,
        /// The chain of causes.
        why: String,
        /// True if the request may have arrived.
        sent: bool,
    },
    /// No reply in time.
    #[error("{host} did not reply in time")]
    Timeout {
        /// Host of the request.
        host: String,
        /// True if the request may have arrived.
        sent: bool,
    },
    /// A redirect that is not followed, because a token goes to no other host.
    #[error("{host} redirects to {to_host}, and tokens are not sent to another host")]
    Redirected {
        /// Host of the request.
        host: String,
        /// Target of the redirect; the same host where the redirect could not be followed.
        to_host: String,
    },
    /// The allow-list of the operator forbids the host.
    #[error(transparent)]
    Egress(#[from] HostDenied),
    /// A reply that cannot be read.
    #[error("unexpected reply from {host} to the request for {what}: {why}")]
    BadReply {
        /// Host that replied.
        host: String,
        /// Object of the request.
        what: &'static str,
        /// The defect of the reply.
        why: String,
    },
    /// `/v2/info` names no UAA.
    #[error("{host} names no UAA: /v2/info has no authorization_endpoint")]
    UaaUnknown {
        /// Host that replied.
        host: String,
    },
    /// `/v2/info` names a UAA of another domain.
    #[error("{host} names the UAA {uaa}, which is of another domain, so that no credentials are sent to it")]
    ForeignUaa {
        /// Host that replied.
        host: String,
        /// Host of the UAA.
        uaa: String,
    },
    /// The certificate of the peer is not trusted, or TLS failed.
    #[error("cannot establish a trusted connection to {host}: {why}")]
    Tls {
        /// Host of the request.
        host: String,
        /// The error of TLS.
        why: String,
    },
    /// The UAA failed, so the request itself was never sent.
    #[error("cannot obtain a token: {0}")]
    NoToken(#[source] Box<TrackerError>),
    /// The certificate authorities of the user cannot be used.
    #[error("the certificate authority {0}")]
    Ca(#[from] CaError),
    /// A setting has a value that the client cannot use.
    #[error("invalid value: {why}")]
    Config {
        /// The setting at fault.
        setting: Setting,
        /// The defect of the value; never the value.
        why: String,
    },
    /// A session id that cannot stand in a URL.
    #[error("cannot ask {host} for a session whose id is not 1 to 256 visible ASCII characters")]
    InvalidSessionId {
        /// Host of the request.
        host: String,
    },
}

impl TrackerError {
    /// The setting to correct, if one is at fault.
    pub const fn remedy(&self) -> Option<Remedy> {
        let (setting, action) = match self {
            Self::Unauthorized { .. } => (
                Setting::SourceCredentials,
                "check {}: the credentials must be valid and of the region of the service",
            ),
            Self::CredentialsRefused { .. } => (Setting::SourceCredentials, "correct {}"),
            Self::NotFound { .. } => (Setting::SourceEndpoint, "check {}"),
            Self::Redirected { .. } => (
                Setting::SourceEndpoint,
                "if the service is at that host, set {} to its address",
            ),
            Self::UaaUnknown { .. } => (Setting::UaaEndpoint, "set {}"),
            Self::ForeignUaa { .. } => (
                Setting::UaaEndpoint,
                "if it is the UAA of the service, set {} to its URL",
            ),
            Self::Tls { .. } => (
                Setting::SourceCa,
                "if the service has a private certificate authority, set {}",
            ),
            Self::Ca(_) => (Setting::SourceCa, "correct {}"),
            Self::Config { setting, .. } => (*setting, "correct {}"),
            Self::NoToken(cause) => match &**cause {
                Self::NotFound { .. } | Self::Refused { .. } => (Setting::UaaEndpoint, "check {}"),
                Self::Redirected { .. } => (
                    Setting::UaaEndpoint,
                    "if the UAA is at that host, set {} to its URL",
                ),
                other => return other.remedy(),
            },
            Self::Forbidden { .. }
            | Self::Capacity { .. }
            | Self::Throttled { .. }
            | Self::Server { .. }
            | Self::ListingRefused { .. }
            | Self::Refused { .. }
            | Self::Network { .. }
            | Self::Timeout { .. }
            | Self::Egress(_)
            | Self::BadReply { .. }
            | Self::InvalidSessionId { .. } => return None,
        };
        Some(Remedy::new(setting, action))
    }

    /// The error and its remedy, in the names of a front end.
    pub fn describe(&self, names: &SettingNames) -> String {
        names.describe(&self.to_string(), self.remedy().as_ref())
    }

    /// Response of the caller.
    pub fn class(&self) -> TrackerErrorClass {
        match self {
            Self::Throttled { after, .. } | Self::Server { after, .. } => TrackerErrorClass::Retry { after: *after },
            Self::NoToken(cause) => cause.class(),
            Self::Network { .. }
            | Self::Timeout { .. }
            | Self::BadReply { .. }
            | Self::UaaUnknown { .. } => TrackerErrorClass::Retry { after: None },
            Self::Unauthorized { .. }
            | Self::CredentialsRefused { .. }
            | Self::Forbidden { .. }
            | Self::Capacity { .. }
            // A gateway that has lost its service for a moment says the same as a wrong address.
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::Redirected { .. }
            | Self::Egress(_)
            | Self::ForeignUaa { .. }
            | Self::Tls { .. }
            | Self::Ca(_) => TrackerErrorClass::Wait,
            Self::ListingRefused { .. } | Self::Config { .. } | Self::InvalidSessionId { .. } => {
                TrackerErrorClass::Terminal
            }
        }
    }

    /// True if the request may have taken effect: after a POST, a session with an unknown id may be open.
    pub fn may_have_executed(&self) -> bool {
        match self {
            Self::Network { sent, .. } | Self::Timeout { sent, .. } => *sent,
            Self::Server { .. } | Self::BadReply { .. } => true,
            Self::Unauthorized { .. }
            | Self::CredentialsRefused { .. }
            | Self::Forbidden { .. }
            | Self::Capacity { .. }
            | Self::Throttled { .. }
            | Self::ListingRefused { .. }
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::Redirected { .. }
            | Self::Egress(_)
            | Self::Tls { .. }
            | Self::NoToken(_)
            | Self::UaaUnknown { .. }
            | Self::ForeignUaa { .. }
            | Self::Ca(_)
            | Self::Config { .. }
            | Self::InvalidSessionId { .. } => false,
        }
    }

    /// The same error for a request that was never sent, because a request before it failed.
    pub(super) fn before_sending(self) -> Self {
        match self {
            Self::Network { host, why, .. } => Self::Network {
                host,
                why,
                sent: false,
            },
            Self::Timeout { host, .. } => Self::Timeout { host, sent: false },
            // A missing UAA must not look like a missing session.
            Self::Server { .. }
            | Self::BadReply { .. }
            | Self::UaaUnknown { .. }
            | Self::NotFound { .. }
            | Self::Redirected { .. }
            | Self::Refused { .. } => Self::NoToken(Box::new(self)),
            other => other,
        }
    }
}

/// Returns what else may be wrong with credentials that were rejected.
const fn hint(key: CredentialsKey) -> &'static str {
    match key {
        CredentialsKey::RefreshToken => {
            " (a UAA that rotates refresh tokens accepts each once, also after a restart: an API key does not have this limit)"
        }
        CredentialsKey::ApiKey | CredentialsKey::Password | CredentialsKey::Token => "",
    }
}

/// Text of a reply as the end of a sentence.
fn quoted(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(", saying “{message}”")
    }
}

/// An error of a download after its first reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The session cannot continue; the window needs a new one.
    #[error("the download stopped after {at} bytes and cannot resume in its session: {why}")]
    CannotResume {
        /// Bytes delivered.
        at: u64,
        /// Why the service cannot resume it.
        why: String,
    },
    /// The service no longer knows the session.
    #[error("session {session} disappeared after {at} bytes of its download")]
    SessionGone {
        /// Its id.
        session: String,
        /// Bytes delivered.
        at: u64,
    },
    /// The body is not gzip; nothing of it was delivered.
    #[error("the body is not gzip (1f 8b) but begins with “{excerpt}” (Content-Type: {})", content_type.as_deref().unwrap_or("none"))]
    NotGzip {
        /// The first printable characters, at most 120.
        excerpt: String,
        /// `Content-Type` of the reply.
        content_type: Option<String>,
    },
    /// Cut too often.
    #[error("the download was cut too often: {at} bytes came, then {why}")]
    Cut {
        /// Bytes delivered.
        at: u64,
        /// End of the last try.
        why: String,
        /// True if the last try waited for bytes in vain: a smaller window may help.
        timed_out: bool,
    },
    /// The request to resume failed permanently.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
}

impl StreamError {
    /// Response of the caller; `Retry` means from the first byte, in a new session.
    pub fn class(&self) -> TrackerErrorClass {
        match self {
            Self::CannotResume { .. }
            | Self::SessionGone { .. }
            | Self::NotGzip { .. }
            | Self::Cut { .. } => TrackerErrorClass::Retry { after: None },
            Self::Tracker(error) => error.class(),
        }
    }
}
