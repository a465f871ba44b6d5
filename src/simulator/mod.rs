//! An Activity Tracker v3 and its UAA that behave as documented, and misbehave on demand.
//!
//! [`Simulator::start`] serves both on one loopback address, for tests and for `run --simulate`;
//! [`simulate`] is the command of its own. Nothing of the exporter is used here, so that a mistake there is
//! not repeated here.
//!
//! **Sound requests only.** Whatever breaks the protocol (a header or field that is missing, wrong or
//! unknown, a range inverted or too long, a token that followed a redirect to another host) is refused and
//! noted in [`Ledger::violations`].
//!
//! **Any size from a seed.** Events depend on seed, space, scope, day, hour and revision only. A body is a
//! list of runs of compressed blocks whose lengths are known before a byte is made; a byte range is made
//! anew and no body is kept. Up to 512 events of an hour are its own; beyond that volume comes from two
//! template blocks that are compressed once and sent again and again without a copy, in one valid gzip
//! member or in several. Template events carry a time in 2000 and repeat their ids; the hour's own do not.
//!
//! **Misbehaviour** is a list of [`Fault`]s; [`presets`] names the usual ones.

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

/// A running simulator. Dropped, it stops too, without waiting.
#[derive(Debug)]
pub struct Simulator {
    service: Arc<SimulatedService>,
    url: Url,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Simulator {
    /// Serves on a free port of 127.0.0.1, in the runtime of the caller.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        Self::serve(settings, TcpListener::bind(("127.0.0.1", 0)).await?)
    }

    /// Serves on a listener.
    pub fn serve(settings: Settings, listener: TcpListener) -> io::Result<Self> {
        let authority = listener.local_addr()?.to_string();
        let url = Url::parse(&format!("http://{authority}")).map_err(io::Error::other)?;
        let service = Arc::new(SimulatedService::new(settings, authority));
        let stop = CancellationToken::new();
        let server = tokio::spawn(server::serve(Arc::clone(&service), listener, stop.clone()));
        Ok(Self {
            service,
            url,
            stop,
            server,
        })
    }

    /// `http://127.0.0.1:PORT/`: the endpoint of tracker and UAA alike.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What happened so far.
    pub fn ledger(&self) -> Ledger {
        self.service.ledger()
    }

    /// Misbehaves in these ways from now on, and in no others.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.service.state().faults.set(faults);
    }

    /// Misbehaves in one more way.
    pub fn add_fault(&self, fault: Fault) {
        self.service.state().faults.add(fault);
    }

    /// Misbehaves in the ways of a preset too: `NAME[@2018-06-03][#NTH][xTIMES]`.
    pub fn add_preset(&self, text: &str) -> Result<(), InvalidFault> {
        Fault::preset(text)?
            .into_iter()
            .for_each(|fault| self.add_fault(fault));
        Ok(())
    }

    /// Opens sessions as a person does, of today and in the space scope; tells their ids.
    pub fn open_sessions_as(&self, user: &str, space: &str, count: usize) -> Vec<String> {
        self.service.open_as(user, space, count)
    }

    /// All open sessions, by id.
    pub fn open_sessions(&self) -> Vec<SessionView> {
        self.service.open_sessions()
    }

    /// Lets events of a day come late, in every space and scope: from now on a download of it has all
    /// events that it had, and `extra_events` more in between.
    pub fn grow_day(&self, date: Date, extra_events: u64) {
        self.service.grow(date, extra_events);
    }

    /// Moves the create- and access-time of every open session back, as if nobody had used it for so long.
    pub fn age_sessions(&self, seconds: i64) {
        self.service.age(seconds);
    }

    /// An access token of a user, as a user may bring it.
    pub fn token_of(&self, user: &str) -> String {
        self.service.state().issue(&self.service, user)
    }

    /// What a download of a day, or of one hour of it, has now if nothing misbehaves.
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

    /// Closes every connection, and waits for that.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.server).await {
            tracing::warn!(%error, "the simulator did not end well");
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The bytes of a download, made as they are asked for.
#[derive(Debug)]
pub struct EventsBody {
    layout: Arc<Layout>,
    pieces: Pieces,
}

impl EventsBody {
    /// Compressed bytes of the whole.
    pub fn len(&self) -> u64 {
        self.layout.bytes
    }

    /// Whether it has no events; it has some bytes all the same.
    pub fn is_empty(&self) -> bool {
        self.layout.events == 0
    }

    /// Events in it.
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
