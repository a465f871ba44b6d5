//! Fault cases: faults and their requests, with a text form that can be parsed. No I/O.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use rand::prelude::*;

use super::{ErrorStatus, InjectedFault, ProxiedPeer, RecordedRequest, RequestKey};
use crate::testkit::proxy::{RequestMatcher, Rule};

/// Peers whose requests are counted after a first fault.
pub(crate) const COUNTED_PEERS: [ProxiedPeer; 3] =
    [ProxiedPeer::Tracker, ProxiedPeer::Uaa, ProxiedPeer::Store];

/// Fault at a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Injection {
    /// The `nth` request of that name, from 1.
    At {
        fault: InjectedFault,
        nth: usize,
        request: RequestKey,
    },
    /// The `nth` request after the previous fault, from 1, to tracker, UAA or store.
    After { fault: InjectedFault, nth: usize },
}

/// Faults, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FaultCase(pub(crate) Vec<Injection>);

/// Request of the reference run.
#[derive(Clone, Debug)]
pub(crate) struct ReferenceRequest {
    pub(crate) request: RequestKey,
    /// Ordinal among the requests of that name, from 1.
    pub(crate) nth: usize,
    pub(crate) reply_bytes: u64,
}

/// Returns the requests of a run in order, numbered by name. Requests to the API server depend on the clock and are
/// left out.
pub(crate) fn reference_requests(seen: &[RecordedRequest]) -> Vec<ReferenceRequest> {
    let mut requests: Vec<ReferenceRequest> = Vec::new();
    for seen in seen.iter().filter(|seen| COUNTED_PEERS.contains(&seen.peer)) {
        let request = seen.key();
        let nth = 1 + requests.iter().filter(|step| step.request == request).count();
        requests.push(ReferenceRequest {
            request,
            nth,
            reply_bytes: seen.reply_bytes,
        });
    }
    requests
}

/// Maximum number of API server requests of one name that are used: an operator renews its lease and watches
/// continuously.
const MAX_REPEATS: usize = 2;

/// Returns the first API server requests of each name, in order.
pub(crate) fn api_server_requests(seen: &[RecordedRequest]) -> Vec<ReferenceRequest> {
    let mut requests: Vec<ReferenceRequest> = Vec::new();
    for seen in seen.iter().filter(|seen| seen.peer == ProxiedPeer::ApiServer) {
        let request = seen.key();
        let nth = 1 + requests.iter().filter(|step| step.request == request).count();
        if nth <= MAX_REPEATS {
            requests.push(ReferenceRequest {
                request,
                nth,
                reply_bytes: seen.reply_bytes,
            });
        }
    }
    requests
}

/// Returns each fault at each request, and the reasons for combinations that do not apply. Both together are steps
/// times faults.
pub(crate) fn single_faults(
    requests: &[ReferenceRequest],
) -> (Vec<FaultCase>, Vec<(InjectedFault, RequestKey, &'static str)>) {
    let (mut cases, mut not_applicable) = (Vec::new(), Vec::new());
    for step in requests {
        for fault in InjectedFault::all() {
            match fault.not_applicable_reason(&step.request, step.reply_bytes) {
                Some(why) => not_applicable.push((fault, step.request.clone(), why)),
                None => cases.push(FaultCase(vec![step.with_fault(fault)])),
            }
        }
    }
    (cases, not_applicable)
}

impl ReferenceRequest {
    pub(crate) fn with_fault(&self, fault: InjectedFault) -> Injection {
        Injection::At {
            fault,
            nth: self.nth,
            request: self.request.clone(),
        }
    }
}

/// Returns each crash combined with a crash at each of the `most` requests after the restart, one list per request.
/// The first crash is always after the peer acted: for the restarted process that equals a crash before the next
/// request.
pub(crate) fn crash_pairs(requests: &[ReferenceRequest], most: usize) -> Vec<Vec<FaultCase>> {
    let second = |nth| Injection::After {
        fault: InjectedFault::KillAfter,
        nth,
    };
    let after = |step: &ReferenceRequest, nth| {
        FaultCase(vec![step.with_fault(InjectedFault::KillAfter), second(nth)])
    };
    requests
        .iter()
        .map(|step| (1..=most).map(|nth| after(step, nth)).collect())
        .collect()
}

/// Faults that apply to any request.
fn universal_faults() -> Vec<InjectedFault> {
    let own = [
        InjectedFault::KillBefore,
        InjectedFault::KillAfter,
        InjectedFault::DropBefore,
        InjectedFault::LoseReply,
    ];
    let refusals = [
        ErrorStatus::Unauthorized,
        ErrorStatus::TooManyRequests,
        ErrorStatus::InternalServerError,
        ErrorStatus::BadGateway,
        ErrorStatus::ServiceUnavailable,
        ErrorStatus::GatewayTimeout,
    ];
    own.into_iter()
        .chain(refusals.map(InjectedFault::ErrorReply))
        .collect()
}

/// Returns this many pairs: any single case, then a fault at one of the next `far` requests.
pub(crate) fn random_pairs(
    singles: &[FaultCase],
    far: usize,
    count: usize,
    random: &mut StdRng,
) -> Vec<FaultCase> {
    let faults = universal_faults();
    (0..count)
        .filter_map(|_| {
            let mut injections = singles.choose(random)?.0.clone();
            injections.push(Injection::After {
                fault: *faults.choose(random)?,
                nth: random.random_range(1..=far),
            });
            Some(FaultCase(injections))
        })
        .collect()
}

impl FaultCase {
    /// Returns the rules of the proxies, in sequence.
    pub(crate) fn rules(&self) -> Vec<Rule> {
        self.0
            .iter()
            .map(|injection| match injection {
                Injection::At { fault, nth, request } => fault.rule(request.matcher(), *nth),
                Injection::After { fault, nth } => {
                    fault.rule(RequestMatcher::Peers(COUNTED_PEERS.to_vec()), *nth)
                }
            })
            .collect()
    }

    pub(crate) fn faults(&self) -> impl Iterator<Item = InjectedFault> {
        self.0.iter().map(|injection| match injection {
            Injection::At { fault, .. } | Injection::After { fault, .. } => *fault,
        })
    }

    /// Row of the report.
    pub(crate) fn row_label(&self) -> String {
        match self.0.as_slice() {
            [Injection::At { request, .. }] => format!("{}: {}", request.peer, request.row_label()),
            _ => "pairs".to_owned(),
        }
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { fault, nth, request } => write!(f, "{fault} #{nth} {request}"),
            Self::After { fault, nth } => write!(f, "{fault} +{nth}"),
        }
    }
}

impl fmt::Display for FaultCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let injections: Vec<String> = self.0.iter().map(Injection::to_string).collect();
        f.write_str(&injections.join(" then "))
    }
}

impl FromStr for Injection {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let form = || format!("{text}: write FAULT #NTH PEER: REQUEST, or FAULT +NTH");
        let (fault, rest) = text.split_once(' ').with_context(form)?;
        let fault = fault.parse()?;
        if let Some(nth) = rest.strip_prefix('+') {
            let nth = nth.parse().with_context(form)?;
            return Ok(Self::After { fault, nth });
        }
        let (nth, request) = rest.split_once(' ').with_context(form)?;
        let nth = nth
            .strip_prefix('#')
            .with_context(form)?
            .parse()
            .with_context(form)?;
        let request = request.parse().with_context(form)?;
        Ok(Self::At { fault, nth, request })
    }
}

impl FromStr for FaultCase {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let injections: Vec<Injection> = text.split(" then ").map(str::parse).collect::<Result<_>>()?;
        ensure!(!injections.is_empty());
        Ok(Self(injections))
    }
}

#[test]
fn a_case_round_trips_through_text() -> Result<()> {
    let create = RequestKey::new(ProxiedPeer::Tracker, "POST /v3/sessions");
    let put = RequestKey::new(
        ProxiedPeer::Store,
        "PUT /b/tracker/space=x/_journal/2018-06-04.receipt.json?x-id=PutObject",
    );
    let step = |request, nth| ReferenceRequest {
        request,
        nth,
        reply_bytes: 0,
    };
    let (cases, _) = single_faults(&[step(create, 2), step(put, 1)]);
    let pairs = random_pairs(&cases, 9, 20, &mut StdRng::seed_from_u64(1));
    for case in cases.iter().chain(&pairs) {
        ensure!(case.to_string().parse::<FaultCase>()? == *case, "{case}");
    }
    Ok(())
}

#[test]
fn every_fault_at_every_request_is_tried_or_listed_as_not_applicable() {
    let lines = ["POST /v3/sessions", "DELETE /v3/sessions/1", "GET /v3/events"];
    let requests: Vec<ReferenceRequest> = lines
        .iter()
        .map(|line| ReferenceRequest {
            request: RequestKey::new(ProxiedPeer::Tracker, line),
            nth: 1,
            reply_bytes: 9,
        })
        .collect();
    let (cases, not_applicable) = single_faults(&requests);
    assert_eq!(
        cases.len() + not_applicable.len(),
        lines.len() * InjectedFault::all().len()
    );
    let crashes = crash_pairs(&requests, 7);
    assert_eq!(crashes.len(), lines.len());
    assert!(crashes.iter().all(|cases| cases.len() == 7));
}
