//! What can befall a request, and which of that makes sense for which request. No I/O.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result};

use super::request::{ProxiedPeer, RequestKey};

/// What befalls a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum InjectedFault {
    /// The operator is killed; the peer never hears of the request.
    KillBefore,
    /// The peer did as asked; the operator is killed before it hears of that.
    KillAfter,
    /// The operator is killed when the peer got so many bytes of the body.
    KillSending(usize),
    /// The operator is killed when it got so many bytes of the reply, and has since got an answer to a request of
    /// the store whose line has these parts.
    KillReceiving(usize, &'static [&'static str]),
    /// The peer never hears of the request: the connection breaks off.
    DropBefore,
    /// The peer did as asked; the connection breaks off before a byte of the reply.
    LoseReply,
    /// The peer did as asked; the reply comes no sooner than the client gives up.
    HangReply,
    /// Half of the reply's body comes, then the connection breaks off.
    CutBody,
    /// The reply's body comes in small pieces, with pauses.
    TrickleBody,
    /// Something before the peer answers, and the peer never hears of the request.
    ErrorReply(ErrorStatus),
}

/// An answer in the peer's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ErrorStatus {
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 410.
    Gone,
    /// 429, with `Retry-After`.
    TooManyRequests,
    /// 500.
    InternalServerError,
    /// 502, with a page of HTML.
    BadGateway,
    /// 503; of a store: `SlowDown`.
    ServiceUnavailable,
    /// 504, without a body.
    GatewayTimeout,
}

impl ErrorStatus {
    pub(crate) const ALL: [Self; 10] = [
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::Gone,
        Self::TooManyRequests,
        Self::InternalServerError,
        Self::BadGateway,
        Self::ServiceUnavailable,
        Self::GatewayTimeout,
    ];

    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Gone => 410,
            Self::TooManyRequests => 429,
            Self::InternalServerError => 500,
            Self::BadGateway => 502,
            Self::ServiceUnavailable => 503,
            Self::GatewayTimeout => 504,
        }
    }
}

impl InjectedFault {
    /// Those that the campaign tries at each request.
    pub(crate) fn all() -> Vec<Self> {
        let own = [
            Self::KillBefore,
            Self::KillAfter,
            Self::DropBefore,
            Self::LoseReply,
            Self::HangReply,
            Self::CutBody,
            Self::TrickleBody,
        ];
        own.into_iter()
            .chain(ErrorStatus::ALL.map(Self::ErrorReply))
            .collect()
    }

    /// Whether the operator does not survive it.
    pub(crate) const fn kills(self) -> bool {
        matches!(
            self,
            Self::KillBefore | Self::KillAfter | Self::KillSending(_) | Self::KillReceiving(..)
        )
    }

    /// Whether the peer hears of the request.
    pub(crate) const fn reaches_peer(self) -> bool {
        !matches!(self, Self::KillBefore | Self::DropBefore | Self::ErrorReply(_))
    }

    /// Why it makes no sense for such a request, whose reply's body has so many bytes, if it does not.
    pub(crate) fn not_applicable_reason(
        self,
        request: &RequestKey,
        reply_bytes: u64,
    ) -> Option<&'static str> {
        match self {
            Self::KillAfter | Self::LoseReply | Self::HangReply | Self::CutBody | Self::TrickleBody
                if request.is_watch() =>
            {
                Some(
                    "a watch goes on telling, and has no reply that could be lost as a whole: see watches.rs",
                )
            }
            Self::CutBody | Self::TrickleBody => {
                (reply_bytes < 2).then_some("the reply has no body, or none that can be cut")
            }
            Self::ErrorReply(ErrorStatus::Conflict) => request
                .is_read()
                .then_some("a request that changes nothing conflicts with nothing"),
            Self::ErrorReply(ErrorStatus::NotFound | ErrorStatus::Gone)
                if request.peer == ProxiedPeer::ApiServer && request.name.contains("/secrets/") =>
            {
                Some("the API server alone knows whether a Secret is there: then a person has to make it")
            }
            // The session would stay open, and nobody could know.
            Self::ErrorReply(ErrorStatus::NotFound | ErrorStatus::Gone) => {
                (request.peer == ProxiedPeer::Tracker && request.method() == "DELETE").then_some(
                    "that a session is not there means that it is deleted: a lie that nobody can see through",
                )
            }
            Self::KillBefore
            | Self::KillAfter
            | Self::KillSending(_)
            | Self::KillReceiving(..)
            | Self::DropBefore
            | Self::LoseReply
            | Self::HangReply
            | Self::ErrorReply(
                ErrorStatus::Unauthorized
                | ErrorStatus::Forbidden
                | ErrorStatus::TooManyRequests
                | ErrorStatus::InternalServerError
                | ErrorStatus::BadGateway
                | ErrorStatus::ServiceUnavailable
                | ErrorStatus::GatewayTimeout,
            ) => None,
        }
    }
}

impl fmt::Display for InjectedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillBefore => f.write_str("kill-before"),
            Self::KillAfter => f.write_str("kill-after"),
            Self::KillSending(bytes) => write!(f, "kill-sending-{bytes}"),
            Self::KillReceiving(bytes, _) => write!(f, "kill-receiving-{bytes}"),
            Self::DropBefore => f.write_str("drop-before"),
            Self::LoseReply => f.write_str("lose-reply"),
            Self::HangReply => f.write_str("hang"),
            Self::CutBody => f.write_str("cut-body"),
            Self::TrickleBody => f.write_str("trickle-body"),
            Self::ErrorReply(refusal) => write!(f, "answer-{}", refusal.status()),
        }
    }
}

impl FromStr for InjectedFault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = Self::all();
        let found = all.iter().find(|fault| fault.to_string() == text);
        found.copied().with_context(|| {
            let names: Vec<String> = all.iter().map(Self::to_string).collect();
            format!("{text} is no fault; there are {}", names.join(", "))
        })
    }
}

#[test]
fn a_fault_round_trips_through_text() -> Result<()> {
    for fault in InjectedFault::all() {
        anyhow::ensure!(fault.to_string().parse::<InjectedFault>()? == fault, "{fault}");
    }
    anyhow::ensure!("answer-418".parse::<InjectedFault>().is_err());
    Ok(())
}

#[test]
fn a_fault_is_tried_where_it_makes_sense() {
    let get = (RequestKey::new(ProxiedPeer::Store, "GET /audit?list-type=2"), 300);
    let head = (RequestKey::new(ProxiedPeer::Store, "HEAD /audit/key"), 0);
    let put = (RequestKey::new(ProxiedPeer::Store, "PUT /audit/key"), 0);
    let delete = (RequestKey::new(ProxiedPeer::Tracker, "DELETE /v3/sessions/1"), 40);
    let all = [&get, &head, &put, &delete];
    // In the order of `all`.
    let fits = |fault: InjectedFault| {
        all.map(|(request, bytes)| fault.not_applicable_reason(request, *bytes).is_none())
    };
    for fault in [InjectedFault::CutBody, InjectedFault::TrickleBody] {
        assert_eq!(fits(fault), [true, false, false, true], "{fault}");
    }
    for refusal in ErrorStatus::ALL {
        let expected = match refusal {
            ErrorStatus::Conflict => [false, false, true, true],
            ErrorStatus::NotFound | ErrorStatus::Gone => [true, true, true, false],
            _ => [true; 4],
        };
        assert_eq!(fits(InjectedFault::ErrorReply(refusal)), expected, "{refusal:?}");
    }
    let everywhere = [
        InjectedFault::KillBefore,
        InjectedFault::KillAfter,
        InjectedFault::DropBefore,
        InjectedFault::LoseReply,
        InjectedFault::HangReply,
    ];
    for fault in everywhere {
        assert_eq!(fits(fault), [true; 4], "{fault}");
    }
}
