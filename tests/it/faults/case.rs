//! A case: which faults befall which requests. It is written so that it can be read again. No I/O.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use rand::prelude::*;

use super::{Fault, Peer, Plan, Refusal, Request, Seen, Wanted};

/// The peers whose requests are counted after a first fault.
pub(crate) const COUNTED: [Peer; 3] = [Peer::Tracker, Peer::Uaa, Peer::Store];

/// What befalls which request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blow {
    /// The `nth` request of that name, from 1.
    At {
        fault: Fault,
        nth: usize,
        request: Request,
    },
    /// The `nth` request after the blow before, from 1, to tracker, UAA or store.
    Later { fault: Fault, nth: usize },
}

/// Blows, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case(pub(crate) Vec<Blow>);

/// A request of the reference.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) request: Request,
    /// Which of those of that name, from 1.
    pub(crate) nth: usize,
    pub(crate) reply_bytes: u64,
}

/// The requests of a run in their order, each told from others of its name. Those to the API server depend on the
/// clock, and are not among them.
pub(crate) fn steps(seen: &[Seen]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for seen in seen.iter().filter(|seen| COUNTED.contains(&seen.peer)) {
        let request = seen.request();
        let nth = 1 + steps.iter().filter(|step| step.request == request).count();
        steps.push(Step {
            request,
            nth,
            reply_bytes: seen.reply_bytes,
        });
    }
    steps
}

/// How many requests of one name to the API server are counted: an operator goes on renewing its lease and watching.
const REPEATED: usize = 2;

/// The first requests of each name to the API server, in their order.
pub(crate) fn cluster_steps(seen: &[Seen]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for seen in seen.iter().filter(|seen| seen.peer == Peer::Cluster) {
        let request = seen.request();
        let nth = 1 + steps.iter().filter(|step| step.request == request).count();
        if nth <= REPEATED {
            steps.push(Step {
                request,
                nth,
                reply_bytes: seen.reply_bytes,
            });
        }
    }
    steps
}

/// Every fault at every request, and why some make no sense: as many as steps times faults in all.
pub(crate) fn singles(steps: &[Step]) -> (Vec<Case>, Vec<(Fault, Request, &'static str)>) {
    let (mut cases, mut not_applicable) = (Vec::new(), Vec::new());
    for step in steps {
        for fault in Fault::all() {
            match fault.not_for(&step.request, step.reply_bytes) {
                Some(why) => not_applicable.push((fault, step.request.clone(), why)),
                None => cases.push(Case(vec![step.struck_by(fault)])),
            }
        }
    }
    (cases, not_applicable)
}

impl Step {
    pub(crate) fn struck_by(&self, fault: Fault) -> Blow {
        Blow::At {
            fault,
            nth: self.nth,
            request: self.request.clone(),
        }
    }
}

/// Crashes at every request, each with another at every one of the `most` requests after the restart: one list for each
/// request. That the peer did as asked, always: before the next request is the same moment as after the one before it,
/// for whoever starts again.
pub(crate) fn crashes(steps: &[Step], most: usize) -> Vec<Vec<Case>> {
    let second = |nth| Blow::Later {
        fault: Fault::KillAfter,
        nth,
    };
    let after = |step: &Step, nth| Case(vec![step.struck_by(Fault::KillAfter), second(nth)]);
    steps
        .iter()
        .map(|step| (1..=most).map(|nth| after(step, nth)).collect())
        .collect()
}

/// Faults that make sense at any request.
fn anywhere() -> Vec<Fault> {
    let own = [
        Fault::KillBefore,
        Fault::KillAfter,
        Fault::DropBefore,
        Fault::LoseReply,
    ];
    let refusals = [
        Refusal::Unauthorized,
        Refusal::TooMany,
        Refusal::Internal,
        Refusal::BadGateway,
        Refusal::Unavailable,
        Refusal::GatewayTimeout,
    ];
    own.into_iter().chain(refusals.map(Fault::Answer)).collect()
}

/// So many pairs: any single case, and then a fault at one of the next `far` requests.
pub(crate) fn pairs(singles: &[Case], far: usize, count: usize, random: &mut StdRng) -> Vec<Case> {
    let faults = anywhere();
    (0..count)
        .filter_map(|_| {
            let mut blows = singles.choose(random)?.0.clone();
            blows.push(Blow::Later {
                fault: *faults.choose(random)?,
                nth: random.random_range(1..=far),
            });
            Some(Case(blows))
        })
        .collect()
}

impl Case {
    /// For the board.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        self.0
            .iter()
            .map(|blow| match blow {
                Blow::At { fault, nth, request } => Plan {
                    wanted: Wanted::Named(request.clone()),
                    nth: *nth,
                    fault: *fault,
                },
                Blow::Later { fault, nth } => Plan {
                    wanted: Wanted::Of(COUNTED.to_vec()),
                    nth: *nth,
                    fault: *fault,
                },
            })
            .collect()
    }

    pub(crate) fn faults(&self) -> impl Iterator<Item = Fault> {
        self.0.iter().map(|blow| match blow {
            Blow::At { fault, .. } | Blow::Later { fault, .. } => *fault,
        })
    }

    /// Whether it befalls requests to the API server.
    pub(crate) fn is_of_cluster(&self) -> bool {
        self.0
            .iter()
            .any(|blow| matches!(blow, Blow::At { request, .. } if request.peer == Peer::Cluster))
    }

    /// The row of the table that it belongs to.
    pub(crate) fn kind(&self) -> String {
        match self.0.as_slice() {
            [Blow::At { request, .. }] => format!("{}: {}", request.peer, request.kind()),
            _ => "pairs".to_owned(),
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { fault, nth, request } => write!(f, "{fault} #{nth} {request}"),
            Self::Later { fault, nth } => write!(f, "{fault} +{nth}"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blows: Vec<String> = self.0.iter().map(Blow::to_string).collect();
        f.write_str(&blows.join(" then "))
    }
}

impl FromStr for Blow {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let form = || format!("{text}: write FAULT #NTH PEER: REQUEST, or FAULT +NTH");
        let (fault, rest) = text.split_once(' ').with_context(form)?;
        let fault = fault.parse()?;
        if let Some(nth) = rest.strip_prefix('+') {
            let nth = nth.parse().with_context(form)?;
            return Ok(Self::Later { fault, nth });
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

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let blows: Vec<Blow> = text.split(" then ").map(str::parse).collect::<Result<_>>()?;
        ensure!(!blows.is_empty());
        Ok(Self(blows))
    }
}

#[test]
fn a_case_is_read_as_it_is_written() -> Result<()> {
    let create = Request::new(Peer::Tracker, "POST /v3/sessions");
    let put = Request::new(
        Peer::Store,
        "PUT /b/tracker/space=x/_journal/2018-06-04.receipt.json?x-id=PutObject",
    );
    let step = |request, nth| Step {
        request,
        nth,
        reply_bytes: 0,
    };
    let (cases, _) = singles(&[step(create, 2), step(put, 1)]);
    let pairs = pairs(&cases, 9, 20, &mut StdRng::seed_from_u64(1));
    for case in cases.iter().chain(&pairs) {
        ensure!(case.to_string().parse::<Case>()? == *case, "{case}");
    }
    Ok(())
}

#[test]
fn every_fault_at_every_request_is_tried_or_said_to_make_no_sense() {
    let lines = ["POST /v3/sessions", "DELETE /v3/sessions/1", "GET /v3/events"];
    let steps: Vec<Step> = lines
        .iter()
        .map(|line| Step {
            request: Request::new(Peer::Tracker, line),
            nth: 1,
            reply_bytes: 9,
        })
        .collect();
    let (cases, not_applicable) = singles(&steps);
    assert_eq!(
        cases.len() + not_applicable.len(),
        lines.len() * Fault::all().len()
    );
    let crashes = crashes(&steps, 7);
    assert_eq!(crashes.len(), lines.len());
    assert!(crashes.iter().all(|cases| cases.len() == 7));
}
