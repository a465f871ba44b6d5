//! Fault injection at each request of the operator, and the invariants after each fault.

mod campaign;
mod case;
mod fault;
mod fixture;
mod invariants;
mod observation;
mod report;
mod request;
mod run_case;
mod watch_faults;
mod watch_rules;

pub(crate) use self::fault::InjectedFault;
pub(crate) use self::request::RequestKey;
pub(crate) use crate::testkit::proxy::{ErrorStatus, InjectionReceiver, ProxiedPeer, RecordedRequest};
