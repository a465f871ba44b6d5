//! A fake Activity Tracker v3 and UAA with fault injection.
//!
//! [`Simulator::start`] serves both on one loopback address, for tests and for `run --simulate`; [`simulate`] is the
//! command. It shares no code with the exporter, so that both do not have the same bug.
//!
//! **Request validation.** A request that violates the protocol (a missing, wrong or unknown header or field, an
//! inverted or too long range, a token that followed a redirect to another host) is rejected and recorded in
//! [`Ledger::violations`].
//!
//! **Any size from a seed.** Events depend only on seed, space, scope, day, hour and revision. A body is a list of runs
//! of compressed blocks with known lengths, so a byte range is generated on demand and no body is kept. An hour has up
//! to 512 events of its own. More events come from two template blocks, which are compressed once and sent repeatedly
//! without a copy, in one valid gzip member or several. Template events have a time in 2000 and repeat their ids.
//!
//! **Faults.** Errors are injected by a list of [`Fault`]s; [`presets`] names the usual ones.

mod admin;
mod block;
mod command;
mod connection;
mod download;
mod effect;
mod events;
mod fault;
mod layout;
mod ledger;
mod listing;
mod outcome;
mod presets;
mod random;
mod reply;
mod router;
mod server;
mod service;
mod sessions;
mod settings;
#[cfg(test)]
mod tests;
mod uaa;
mod validate;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use jiff::civil::Date;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use command::{SimulateArgs, simulate};
pub use effect::{
    BodyOffset, Effect, EmptyReply, ErrorForm, ListForm, NoReplyMode, RangeReply, RepeatDownload,
};
pub use fault::{Fault, RequestKind, WindowFilter};
pub use ledger::{DownloadStats, Ledger};
pub use presets::{InvalidFault, presets};
#[cfg(test)]
pub(crate) use random::Random;
pub use service::SessionView;
pub use settings::{
    DEFAULT_API_KEY, DEFAULT_PASSWORD, DEFAULT_PERSON, DEFAULT_USER, Framing, GzipSettings, JsonShape,
    Members, READY_REFRESH_TOKEN, READY_TOKEN, SESSION_LIMIT, Settings, User, Volume,
};

use layout::{Layout, Pieces};
use service::{Selection, SimulatedService};

/// A running simulator. It stops without waiting when it is dropped.
#[derive(Debug)]
pub struct Simulator {
    service: Arc<SimulatedService>,
    url: Url,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Simulator {
    /// Serves on a free port of 127.0.0.1, in the caller's runtime.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        Self::serve(settings, TcpListener::bind(("127.0.0.1", 0)).await?)
    }

    /// Serves on a listener.
    pub fn serve(settings: Settings, listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let url = Url::parse(&format!("http://{address}")).map_err(io::Error::other)?;
        let service = Arc::new(SimulatedService::new(settings, address));
        let stop = CancellationToken::new();
        let server = tokio::spawn(server::serve(Arc::clone(&service), listener, stop.clone()));
        Ok(Self {
            service,
            url,
            stop,
            server,
        })
    }

    /// Returns `http://ADDRESS:PORT/` of the listener, the endpoint of both tracker and UAA.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the ledger.
    pub fn ledger(&self) -> Ledger {
        self.service.ledger()
    }

    /// Replaces all faults.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.service.state().faults.set(faults);
    }

    /// Adds a fault.
    pub fn add_fault(&self, fault: Fault) {
        self.service.state().faults.add(fault);
    }

    /// Adds the faults of a preset: `NAME[@2018-06-03][#NTH][xTIMES]`.
    pub fn add_preset(&self, text: &str) -> Result<(), InvalidFault> {
        Fault::preset(text)?
            .into_iter()
            .for_each(|fault| self.add_fault(fault));
        Ok(())
    }

    /// Opens sessions of today in the space scope, as a human user does. Returns their ids.
    pub fn open_sessions_as(&self, user: &str, space: &str, count: usize) -> Vec<String> {
        self.service.open_as(user, space, count)
    }

    /// Returns all open sessions, by id.
    pub fn open_sessions(&self) -> Vec<SessionView> {
        self.service.open_sessions()
    }

    /// Adds late events to a day, in every space and scope: downloads then have the earlier events, with
    /// `extra_events` more between them.
    pub fn grow_day(&self, date: Date, extra_events: u64) {
        self.service.grow(date, extra_events);
    }

    /// Moves the create-time and access-time of every open session back, as if it had been idle for so long.
    pub fn age_sessions(&self, seconds: i64) {
        self.service.age(seconds);
    }

    /// Issues an access token for a user.
    pub fn token_of(&self, user: &str) -> String {
        self.service.state().issue(&self.service, user)
    }

    /// Returns the body of a download of a day, or of one hour of it, without faults.
    pub fn body_of(&self, space: &str, account: bool, date: Date, hour: Option<u8>) -> EventsBody {
        let selection = Selection {
            space: space.into(),
            account,
            start: date,
            end: date,
            hour,
        };
        let layout = Arc::new(self.service.layout(&selection, self.service.shape()));
        EventsBody {
            pieces: layout.pieces(&self.service.blocks, 0, u64::MAX),
            layout,
        }
    }

    /// Closes every connection, and waits until they are closed.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.server).await {
            tracing::warn!(%error, "simulator task failed");
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The bytes of a download, generated on demand.
#[derive(Debug)]
pub struct EventsBody {
    layout: Arc<Layout>,
    pieces: Pieces,
}

impl EventsBody {
    /// Returns the compressed size in bytes.
    pub fn len(&self) -> u64 {
        self.layout.bytes
    }

    /// Returns true if it has no events. It has some bytes even then.
    pub fn is_empty(&self) -> bool {
        self.layout.events == 0
    }

    /// Returns the number of events.
    pub fn events(&self) -> u64 {
        self.layout.events
    }
}

impl Iterator for EventsBody {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.pieces.next()
    }
}
