//! Fault injection at each request of the operator, and the invariants after each fault.

// Proxies may offer more than today's campaigns use.
#![allow(dead_code)]

mod body;
mod campaign;
mod case;
mod error_replies;
mod fault;
mod fixture;
mod injector;
mod invariants;
mod observation;
mod proxy;
mod report;
mod request;
mod run_case;
mod watch_faults;
mod watch_proxy;

pub(crate) use self::fault::{ErrorStatus, InjectedFault};
pub(crate) use self::injector::{
    FaultInjector, FaultPlan, InjectionReceiver, RequestMatcher, TargetProcess, wait_injected,
};
pub(crate) use self::proxy::FaultProxy;
pub(crate) use self::request::{ProxiedPeer, RecordedRequest, RequestKey};
