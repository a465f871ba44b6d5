//! Faults of a request, and the requests that each applies to. No I/O.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result};

use super::request::RequestKey;
use crate::testkit::proxy::{Action, ErrorStatus, ProxiedPeer, RequestMatcher, Rule};

/// Fault of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum InjectedFault {
    /// Kills the operator before the peer gets the request.
    KillBefore,
    /// Kills the operator after the peer acted, before the reply.
    KillAfter,
    /// Kills the operator when the peer has got this many bytes of the body.
    KillSending(usize),
    /// Kills the operator when it has got this many bytes of the reply and the store has since answered a request
    /// with these parts in its line.
    KillReceiving(usize, &'static [&'static str]),
    /// Breaks the connection before the peer gets the request.
    DropBefore,
    /// The peer acts; breaks the connection before the first byte of the reply.
    LoseReply,
    /// The peer acts; delays the reply until the client gives up.
    HangReply,
    /// Breaks the connection in the middle of the reply's body.
    CutBody,
    /// Sends the reply's body in small pieces with pauses.
    TrickleBody,
    /// An intermediary replies; the peer does not get the request.
    ErrorReply(ErrorStatus),
}

impl InjectedFault {
    /// Returns the faults that the campaign tries at each request.
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

    /// Returns the rule that injects it into the `nth` of these requests.
    pub(crate) fn rule(self, matcher: RequestMatcher, nth: usize) -> Rule {
        let action = match self {
            Self::KillBefore | Self::DropBefore => Action::DropRequest,
            Self::KillAfter | Self::LoseReply => Action::LoseReply,
            Self::KillSending(bytes) => Action::CutRequest(bytes),
            Self::KillReceiving(bytes, parts) => Action::CutReply(bytes, parts),
            Self::HangReply => Action::HangReply,
            Self::CutBody => Action::HalveReply,
            Self::TrickleBody => Action::TrickleReply,
            Self::ErrorReply(status) => Action::ErrorReply(status),
        };
        let rule = Rule::new(matcher, action).nth(nth).named(&self);
        if self.kills() { rule.kill() } else { rule }
    }

    /// True if it kills the operator.
    pub(crate) const fn kills(self) -> bool {
        matches!(
            self,
            Self::KillBefore | Self::KillAfter | Self::KillSending(_) | Self::KillReceiving(..)
        )
    }

    /// Returns the reason that the fault does not apply to such a request with a reply body of this size.
    pub(crate) fn not_applicable_reason(
        self,
        request: &RequestKey,
        reply_bytes: u64,
    ) -> Option<&'static str> {
        match self {
            Self::KillAfter | Self::LoseReply | Self::HangReply | Self::CutBody | Self::TrickleBody
                if request.is_watch() =>
            {
                Some("a watch is an open stream without a reply to lose: see watch_faults.rs")
            }
            Self::CutBody | Self::TrickleBody => {
                (reply_bytes < 2).then_some("the reply has no body, or one too short to cut")
            }
            Self::ErrorReply(ErrorStatus::Conflict) => request.is_read().then_some("a read never conflicts"),
            Self::ErrorReply(ErrorStatus::NotFound | ErrorStatus::Gone)
                if request.peer == ProxiedPeer::ApiServer && request.name.contains("/secrets/") =>
            {
                Some("a missing Secret needs manual action, and only the API server knows")
            }
            // The session would stay open undetectably.
            Self::ErrorReply(ErrorStatus::NotFound | ErrorStatus::Gone) => {
                (request.peer == ProxiedPeer::Tracker && request.method() == "DELETE")
                    .then_some("a missing session counts as deleted, and a false reply is undetectable")
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
            format!("{text} is not a fault; known faults: {}", names.join(", "))
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
fn a_fault_is_injected_where_it_applies() {
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
