//! Faults at every request that the operator sends, one after the other, and what must hold after each.

mod board;
mod body;
mod fault;
mod proxy;
mod refusal;
mod relay;
mod request;
mod watches;

pub(crate) use self::board::{Board, Plan, Told, Victim, Wanted, within};
pub(crate) use self::fault::{Fault, Refusal};
pub(crate) use self::proxy::Proxy;
pub(crate) use self::request::{Peer, Request, Seen};
