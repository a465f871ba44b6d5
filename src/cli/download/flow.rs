//! A download from its first session to its last: opened where it is ours, fetched, proved, deleted again. Speaks over
//! the network, through `fetch`; writes through its place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::asked::{Asked, days};
use super::fetch::{FetchError, Fetched, Origin, Target, fetch};
use super::judge::Counts;
use super::meter::Meter;
use super::note::{Current, End, Section};
use super::place::Place;
use super::pour::Pour;
use super::replay::replay;
use super::trouble::Trouble;
use crate::cli::size;
use crate::cli::source::Source;
use crate::cli::stop::Stop;
use crate::export::proof::{Proof, ProofError, ProofFacts, ProofPool};
use crate::export::verdict::EmptyAnswer;
use crate::tracker::{Held, SessionRequest};

/// How often a session's bytes are fetched from their start: 3 times.
const TRIES: u32 = 3;

/// The longest that deleting a session may take when the download ends: 30 s.
pub const DELETE_MAX: Duration = Duration::from_secs(30);

/// A download under way.
pub struct Flow<'a> {
    pub(super) source: &'a Source,
    pub(super) asked: &'a Asked,
    /// Whether the events are the account's.
    pub(super) account: bool,
    /// Whether sessions of ours stay open.
    pub(super) keep: bool,
    pub(super) place: Place,
    pub(super) meter: Meter,
    pub(super) stop: &'a Stop,
    pub(super) pool: ProofPool,
    /// The session that is open now and is ours; readable also when the process is left at once.
    pub(super) open: Arc<Mutex<Option<String>>>,
    /// Sessions of ours that stay open, and why.
    pub(super) left: Vec<(String, String)>,
    pub(super) sections: Vec<Section>,
    pub(super) before: Counts,
    /// The hash of everything that is whole.
    pub(super) sha256: Option<String>,
    pub(super) proof: Option<Proof>,
    pub(super) held: Held,
    pub(super) current: Option<Current>,
    /// Bytes that an earlier process left.
    pub(super) found: u64,
    /// Bytes of the session in transfer that standard output has seen.
    pub(super) seen: u64,
}

impl Flow<'_> {
    /// Fetches every session that is asked for. Whatever comes of it, [`Flow::close`] is to be called.
    pub async fn run(&mut self) -> Result<(), Trouble> {
        self.take_up().await?;
        match self.asked.clone() {
            Asked::Session { id } if self.sections.is_empty() => self.theirs(&id).await,
            Asked::Session { .. } => Ok(()),
            Asked::Days { start, end, .. } => {
                self.list_before(Some((start, end))).await?;
                for ask in self.asked.sessions().iter().skip(self.sections.len()) {
                    self.whole(Some(ask)).await?;
                }
                Ok(())
            }
        }
    }

    /// What an earlier process left.
    async fn take_up(&mut self) -> Result<(), Trouble> {
        let Place::File(part) = &mut self.place else {
            self.proof = Some(self.place.proof(&self.pool));
            return Ok(());
        };
        let sections = part.note().sections.len();
        let replayed = tokio::select! {
            biased;
            () = self.stop.orderly.cancelled() => return Err(Trouble::Stopped),
            replayed = replay(part, &self.pool, &mut self.meter) => replayed?,
        };
        self.found = part.bytes()?;
        let note = part.note();
        let astray = note.sections.len() < sections;
        (self.sections, self.current) = (note.sections.clone(), note.current.clone());
        self.before.clone_from(&note.before);
        (self.proof, self.held, self.sha256) = (Some(replayed.proof), replayed.held, replayed.sha256);
        if let Some(current) = self.current.clone().filter(|current| current.ours) {
            self.opened(Some(current.session));
            if astray {
                // It is of other days than those that come next now.
                self.forget().await?;
            }
        }
        if self.found > 0 {
            let words = "of an earlier run are there: going on behind them.";
            self.meter.remark(&format!("{} {words}", size::bytes(self.found)));
        }
        Ok(())
    }

    /// A session of somebody's.
    async fn theirs(&mut self, id: &str) -> Result<(), Trouble> {
        let source = self.source;
        let session = tokio::select! {
            biased;
            () = self.stop.orderly.cancelled() => return Err(Trouble::Stopped),
            session = source.tracker.session(&source.space, id) => session,
        };
        let session = session.map_err(|error| Trouble::Service(source.worded(&error)))?;
        let Some(session) = session else {
            return Err(Trouble::NoSession {
                id: id.to_owned(),
                space: source.space.clone(),
            });
        };
        self.account = session.account.unwrap_or(self.account);
        let total = self.current.as_ref().and_then(|current| current.total);
        self.note_current(Some(Current {
            session: id.to_owned(),
            range: session.range,
            hour: session.hour.flatten(),
            ours: false,
            total,
        }))?;
        self.list_before(session.range).await?;
        self.whole(None).await
    }

    /// One session, from its start again where that helps.
    async fn whole(&mut self, ask: Option<&SessionRequest>) -> Result<(), Trouble> {
        let mut tried = 1;
        loop {
            let trouble = match self.once(ask).await {
                Ok(()) => return Ok(()),
                Err(trouble) => trouble,
            };
            let fresh = matches!(self.place, Place::File(_)) || self.seen == 0;
            if tried >= TRIES || !fresh || !trouble.may_restart(ask.is_some()) {
                return Err(trouble);
            }
            tried += 1;
            self.meter
                .remark(&format!("{trouble}. Downloading it again from its start."));
            self.rewind(ask.is_some()).await?;
        }
    }

    async fn once(&mut self, ask: Option<&SessionRequest>) -> Result<(), Trouble> {
        let current = match (&self.current, ask) {
            (Some(current), _) => current.clone(),
            (None, Some(ask)) => self.create(ask).await?,
            (None, None) => return Err(Trouble::Stopped),
        };
        let name = current.range.map_or_else(
            || format!("session {}", current.session),
            |(start, end)| days(start, end, current.hour),
        );
        self.meter.begin(&name, self.held.bytes());
        let (fetched, section) = self.transfer(&current).await?;
        self.meter.finish();
        self.sha256 = section
            .as_ref()
            .map(|facts| facts.sha256.clone())
            .or(self.sha256.take());
        let section = match (fetched, section) {
            (Fetched::Bytes { bytes, end, resumes }, Some(facts)) => Section {
                bytes,
                events: facts.events,
                members: facts.members,
                decompressed: facts.decompressed,
                end,
                resumes,
                empty: (facts.events == 0).then_some(EmptyAnswer::GzipOfNothing),
                ..nothing(&current)
            },
            (Fetched::Nothing(answer), _) => Section {
                empty: Some(answer),
                ..nothing(&current)
            },
            (Fetched::Bytes { .. }, None) => return Err(Trouble::Stopped),
        };
        let readable = section.events > 0 || self.readable(&current.session).await?;
        if !readable && section.empty == Some(EmptyAnswer::NotFound) {
            return Err(Trouble::Gone { id: current.session });
        }
        self.finished(Section { readable, ..section }).await
    }

    /// Moves the bytes of a session, and proves them.
    async fn transfer(&mut self, current: &Current) -> Result<(Fetched, Option<ProofFacts>), Trouble> {
        let source = self.source;
        let mut proof = match self.proof.take() {
            Some(proof) => proof,
            None => self.place.proof(&self.pool),
        };
        let from = Origin {
            tracker: &source.tracker,
            space: &source.space,
            session: &current.session,
        };
        let fetched = match &mut self.place {
            Place::File(part) => {
                let mut pour = Pour::into(part.writer()?);
                let mut whole = |total| {
                    part.noted(|note| {
                        if let Some(current) = &mut note.current {
                            current.total = Some(total);
                        }
                    })
                };
                let into = Target {
                    pour: &mut pour,
                    tapped: false,
                };
                let fetched = tokio::select! {
                    biased;
                    () = self.stop.orderly.cancelled() => None,
                    fetched = fetch(from, &self.held, &mut proof, into, &self.meter, &mut whole) => Some(fetched),
                };
                // Also after a failure: what came is there for the next run.
                let written = pour.finish().await;
                match (fetched, written) {
                    (Some(Ok(_)) | None, Err(error)) => Some(Err(FetchError::Write(error))),
                    (fetched, _) => fetched,
                }
            }
            Place::Pipe(pipe) => {
                let into = Target {
                    tapped: pipe.decompress,
                    pour: &mut pipe.pour,
                };
                let mut whole = |_| Ok(());
                let held = Held::of(None);
                tokio::select! {
                    biased;
                    () = self.stop.orderly.cancelled() => None,
                    fetched = fetch(from, &held, &mut proof, into, &self.meter, &mut whole) => Some(fetched),
                }
            }
        };
        self.seen = self.meter.seen();
        let fetched = fetched.ok_or(Trouble::Stopped)?;
        let fetched = fetched.map_err(|error| Trouble::of(error, source, &current.session, &self.place))?;
        let facts = match fetched {
            Fetched::Bytes { .. } => Some(proof.divide().await),
            Fetched::Nothing(_) => None,
        };
        let facts = match facts {
            Some(Err(ProofError::Unread)) => {
                let Place::Pipe(pipe) = &mut self.place else {
                    return Err(Trouble::Closed);
                };
                let error = pipe.pour.failure().await;
                return Err(Trouble::of_write(error, &self.place));
            }
            Some(facts) => Some(facts.map_err(|error| Trouble::Proof {
                session: current.session.clone(),
                error,
            })?),
            None => None,
        };
        self.proof = Some(proof);
        Ok((fetched, facts))
    }

    /// A session is there whole: its bytes are made durable, it is deleted, and then it counts.
    async fn finished(&mut self, section: Section) -> Result<(), Trouble> {
        if let Place::File(part) = &self.place {
            part.sync().await?;
        }
        if self.current.as_ref().is_some_and(|current| current.ours) {
            self.let_go().await;
        }
        self.sections.push(section);
        (self.current, self.held, self.seen) = (None, Held::of(None), 0);
        if let Place::File(part) = &mut self.place {
            let sections = self.sections.clone();
            part.noted(|note| {
                note.sections = sections;
                note.current = None;
            })?;
        }
        Ok(())
    }

    /// Back to the start of the session in transfer; one of ours is given up for a new one.
    async fn rewind(&mut self, ours: bool) -> Result<(), Trouble> {
        if ours {
            self.forget().await?;
        } else if let Some(current) = &self.current {
            let anew = Current {
                total: None,
                ..current.clone()
            };
            self.note_current(Some(anew))?;
        }
        (self.held, self.seen) = (Held::of(None), 0);
        self.proof = Some(match &mut self.place {
            Place::File(part) => {
                let boundary = part.note().boundary();
                part.truncate(boundary)?;
                replay(part, &self.pool, &mut self.meter).await?.proof
            }
            Place::Pipe(_) => self.place.proof(&self.pool),
        });
        Ok(())
    }

    /// Gives the session in transfer up: deletes it, and what came of it counts no more.
    async fn forget(&mut self) -> Result<(), Trouble> {
        self.let_go().await;
        if let Place::File(part) = &mut self.place {
            let boundary = part.note().boundary();
            part.truncate(boundary)?;
        }
        self.held = Held::of(None);
        self.note_current(None)
    }

    /// What the session in transfer is, for this process and the next.
    pub(super) fn note_current(&mut self, current: Option<Current>) -> Result<(), Trouble> {
        self.current.clone_from(&current);
        if let Place::File(part) = &mut self.place {
            part.noted(|note| note.current = current)?;
        }
        Ok(())
    }

    pub(super) fn opened(&self, session: Option<String>) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    async fn readable(&self, session: &str) -> Result<bool, Trouble> {
        let found = self.source.tracker.session(&self.source.space, session).await;
        found
            .map(|session| session.is_some())
            .map_err(|error| Trouble::Service(self.source.worded(&error)))
    }
}

fn nothing(current: &Current) -> Section {
    Section {
        session: current.session.clone(),
        range: current.range,
        hour: current.hour,
        bytes: 0,
        events: 0,
        members: 0,
        decompressed: 0,
        end: End::Length,
        resumes: 0,
        empty: None,
        readable: false,
    }
}
