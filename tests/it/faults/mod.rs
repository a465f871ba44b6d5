//! Faults at every request that the operator sends, one after the other, and what must hold after each.

// Proxies may offer more than today's campaigns use.
#![allow(dead_code)]

mod board;
mod body;
mod campaign;
mod case;
mod fault;
mod observed;
mod oracle;
mod play;
mod proxy;
mod refusal;
mod relay;
mod request;
mod stage;
mod table;
mod watches;

pub(crate) use self::board::{Board, Plan, Told, Victim, Wanted, within};
pub(crate) use self::fault::{Fault, Refusal};
pub(crate) use self::proxy::Proxy;
pub(crate) use self::request::{Peer, Request, Seen};
