//! What can go wrong at the tracker's boundary, worded for whoever must act, and what to do about it.

use std::time::Duration;

use super::CredentialsKey;
use crate::egress::{CaError, HostDenied};

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackerErrorClass {
    /// Ask again later; not before `after`, where the service said so.
    Retry {
        /// What `Retry-After` asked for.
        after: Option<Duration>,
    },
    /// Something outside must change first: credentials, a role, room for a session, the list of hosts, a gateway.
    Wait,
    /// Asking again cannot help.
    Terminal,
}

/// An error of the tracker or of its UAA. No variant holds a token or any other secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackerError {
    /// 401, also with a fresh token.
    #[error(
        "{host} does not accept the token of the Secret's {key}{}; check that the credentials are of this region and still valid",
        quoted(message)
    )]
    Unauthorized {
        /// Who refused.
        host: String,
        /// Where the credentials came from.
        key: CredentialsKey,
        /// The service's words.
        message: String,
    },
    /// The UAA does not know the credentials.
    #[error("{host} refuses the Secret's {key}{}; give it a valid one", quoted(message))]
    CredentialsRefused {
        /// The UAA.
        host: String,
        /// The Secret's keys at fault.
        key: CredentialsKey,
        /// The UAA's words.
        message: String,
    },
    /// 403.
    #[error(
        "{host} forbids this in space {space}{}; the user needs the developer role in the space, and for the account's events the account's permission",
        quoted(message)
    )]
    Forbidden {
        /// Who refused.
        host: String,
        /// The space asked for.
        space: String,
        /// The service's words.
        message: String,
    },
    /// No session was opened: the space is full, or the role is missing; the service does not tell them apart.
    #[error(
        "no session could be opened in space {space} (status {status}){}; at most 30 may be open there at once, and the user needs the developer role (for the account's events the account's permission)",
        quoted(message)
    )]
    Capacity {
        /// The space asked for.
        space: String,
        /// HTTP status.
        status: u16,
        /// The service's words.
        message: String,
    },
    /// 429 for anything but a new session.
    #[error("{host} asks for patience (status 429){}", quoted(message))]
    Throttled {
        /// Who asked.
        host: String,
        /// The service's words.
        message: String,
        /// What `Retry-After` asked for.
        after: Option<Duration>,
    },
    /// 5xx, 408, or a router that found no instance.
    #[error("{host} failed (status {status}){}", quoted(message))]
    Server {
        /// Who failed.
        host: String,
        /// HTTP status.
        status: u16,
        /// The service's words.
        message: String,
        /// What `Retry-After` asked for.
        after: Option<Duration>,
    },
    /// The daily listing is not to be had: a gateway refuses a GET with a body. Go on without a listing.
    #[error("{host} gives no daily listing (status {status}){}", quoted(message))]
    ListingRefused {
        /// Who refused.
        host: String,
        /// HTTP status.
        status: u16,
        /// The service's words.
        message: String,
    },
    /// 404 where it means that the address is wrong.
    #[error(
        "{host} answers a request for {what} with “not found” (404){}; check the endpoint",
        quoted(message)
    )]
    NotFound {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// The service's words.
        message: String,
    },
    /// Any other refusal.
    #[error("{host} refuses the request for {what} (status {status}){}", quoted(message))]
    Refused {
        /// Who refused.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// HTTP status.
        status: u16,
        /// The service's words.
        message: String,
    },
    /// No connection, or it broke.
    #[error("{host} cannot be reached: {why}")]
    Network {
        /// Who was asked.
        host: String,
        /// The causes, joined.
        why: String,
        /// Whether the request may have arrived.
        sent: bool,
    },
    /// No answer in time.
    #[error("{host} did not answer in time")]
    Timeout {
        /// Who was asked.
        host: String,
        /// Whether the request may have arrived.
        sent: bool,
    },
    /// A redirect that is not followed, because a token goes to no other host.
    #[error(
        "{host} redirects to {to_host}, and a token goes to no other host; if that is the service, name it as the endpoint"
    )]
    Redirected {
        /// Who was asked.
        host: String,
        /// Where it pointed; the same host where the redirect could not be followed.
        to_host: String,
    },
    /// The operator's list of hosts forbids it.
    #[error(transparent)]
    Egress(#[from] HostDenied),
    /// An answer that makes no sense.
    #[error("{host} answered a request for {what} with something else: {why}")]
    BadReply {
        /// Who answered.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The peer's certificate is not trusted, or TLS failed.
    #[error(
        "no trusted connection to {host}: {why}; for a certificate authority of your own, name it in spec.source.caSecretRef"
    )]
    Tls {
        /// Who was asked.
        host: String,
        /// What TLS says.
        why: String,
    },
    /// The UAA failed, so the request itself was never sent.
    #[error("no token could be had: {0}")]
    NoToken(#[source] Box<TrackerError>),
    /// The certificate authorities of the Secret cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The client cannot be made as configured.
    #[error("{field} cannot be used: {why}")]
    Config {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl TrackerError {
    /// What to do about it.
    pub fn class(&self) -> TrackerErrorClass {
        match self {
            Self::Throttled { after, .. } | Self::Server { after, .. } => TrackerErrorClass::Retry { after: *after },
            Self::NoToken(cause) => cause.class(),
            Self::Network { .. } | Self::Timeout { .. } | Self::BadReply { .. } => {
                TrackerErrorClass::Retry { after: None }
            }
            Self::Unauthorized { .. }
            | Self::CredentialsRefused { .. }
            | Self::Forbidden { .. }
            | Self::Capacity { .. }
            // A gateway that has lost its service for a moment says the same as a wrong address.
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::Redirected { .. }
            | Self::Egress(_)
            | Self::Tls { .. }
            | Self::Ca(_) => TrackerErrorClass::Wait,
            Self::ListingRefused { .. } | Self::Config { .. } => TrackerErrorClass::Terminal,
        }
    }

    /// Whether the request may have taken effect all the same: after a POST, a session may be open whose id nobody
    /// knows.
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
            | Self::Ca(_)
            | Self::Config { .. } => false,
        }
    }

    /// The same error of a request that was never sent, because what came before it failed.
    pub(super) fn before_sending(self) -> Self {
        match self {
            Self::Network { host, why, .. } => Self::Network {
                host,
                why,
                sent: false,
            },
            Self::Timeout { host, .. } => Self::Timeout { host, sent: false },
            // A UAA that is not found must not look like a session that is gone.
            Self::Server { .. } | Self::BadReply { .. } | Self::NotFound { .. } | Self::Refused { .. } => {
                Self::NoToken(Box::new(self))
            }
            other => other,
        }
    }
}

/// The service's words as the end of a sentence.
fn quoted(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(", saying “{message}”")
    }
}

/// An error of a download, after its first reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// There is no way on in this session: the window needs a new one.
    #[error("the download stopped after {at} bytes and cannot go on in its session: {why}")]
    CannotResume {
        /// Bytes delivered.
        at: u64,
        /// Why not.
        why: String,
    },
    /// The service does not know the session any more.
    #[error("the session {session} was gone after {at} bytes of its download")]
    SessionGone {
        /// Its id.
        session: String,
        /// Bytes delivered.
        at: u64,
    },
    /// The body is not what the service promises: nothing of it was delivered.
    #[error("the body does not begin as gzip does (1f 8b) but with “{excerpt}” (Content-Type: {})", content_type.as_deref().unwrap_or("none"))]
    NotGzip {
        /// The first printable characters, at most 120.
        excerpt: String,
        /// What the service calls it.
        content_type: Option<String>,
    },
    /// Cut too often.
    #[error("the download was cut too often: {at} bytes came, then {why}")]
    Cut {
        /// Bytes delivered.
        at: u64,
        /// How the last try ended.
        why: String,
        /// The last try waited for bytes in vain: a smaller window may help.
        timed_out: bool,
    },
    /// The request to go on failed in a way that trying again does not help.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
}

impl StreamError {
    /// What to do about it; `Retry` means from the start, in a new session.
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
