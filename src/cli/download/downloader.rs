//! A download from its first session to its last: opened where it is ours, fetched, proved, deleted again. Speaks over
//! the network, through `fetch`; writes through its place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::blocking_writer::BlockingWriter;
use super::error::DownloadError;
use super::evaluate::DayCounts;
use super::fetch::{FetchError, FetchOutcome, FetchTarget, SessionRef, fetch};
use super::meter::ProgressMeter;
use super::part_state::{CompletedSession, CurrentSession, RecordedEnd};
use super::replay::replay;
use super::request::{DownloadRequest, format_days};
use super::sink::DownloadSink;
use crate::cli::human;
use crate::cli::source::SourceConnection;
use crate::cli::stop::ShutdownSignals;
use crate::export::proof::{ProofError, ProofFacts, ProverPool, StreamProver};
use crate::export::verdict::EmptyAnswer;
use crate::tracker::{ResumePoint, SessionRequest};

/// How often a session's bytes are fetched from their start: 3 times.
const TRIES_MAX: u32 = 3;

/// The longest that deleting a session may take when the download ends: 30 s.
pub const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// A download under way.
pub struct Downloader<'a> {
    pub(super) source: &'a SourceConnection,
    pub(super) request: &'a DownloadRequest,
    /// Whether the events are the account's.
    pub(super) account: bool,
    /// Whether sessions of ours stay open.
    pub(super) keep_sessions: bool,
    pub(super) sink: DownloadSink,
    pub(super) meter: ProgressMeter,
    pub(super) stop: &'a ShutdownSignals,
    pub(super) pool: ProverPool,
    /// The session that is open now and is ours; readable also when the process is left at once.
    pub(super) open_session_id: Arc<Mutex<Option<String>>>,
    /// Sessions of ours that stay open, and why.
    pub(super) leftover_sessions: Vec<(String, String)>,
    pub(super) sections: Vec<CompletedSession>,
    pub(super) before: DayCounts,
    /// The hash of everything that is whole.
    pub(super) sha256: Option<String>,
    pub(super) proof: Option<StreamProver>,
    pub(super) resume_point: ResumePoint,
    pub(super) current: Option<CurrentSession>,
    /// Bytes that an earlier process left.
    pub(super) resumed_bytes: u64,
    /// Bytes of the session in transfer that standard output has seen.
    pub(super) transferred: u64,
}

impl Downloader<'_> {
    /// Fetches every session that is asked for. Whatever comes of it, [`Downloader::close`] is to be called.
    pub async fn run(&mut self) -> Result<(), DownloadError> {
        self.resume_part().await?;
        match self.request.clone() {
            DownloadRequest::Session { id } if self.sections.is_empty() => {
                self.run_existing_session(&id).await
            }
            DownloadRequest::Session { .. } => Ok(()),
            DownloadRequest::Days { start, end, .. } => {
                self.fetch_counts_before(Some((start, end))).await?;
                for request in self.request.session_requests().iter().skip(self.sections.len()) {
                    self.download_session(Some(request)).await?;
                }
                Ok(())
            }
        }
    }

    /// What an earlier process left.
    async fn resume_part(&mut self) -> Result<(), DownloadError> {
        let DownloadSink::File(part) = &mut self.sink else {
            self.proof = Some(self.sink.proof(&self.pool));
            return Ok(());
        };
        let sections = part.state().sections.len();
        let replayed = tokio::select! {
            biased;
            () = self.stop.graceful.cancelled() => return Err(DownloadError::Stopped),
            replayed = replay(part, &self.pool, &mut self.meter) => replayed?,
        };
        self.resumed_bytes = part.bytes()?;
        let state = part.state();
        let sections_lost = state.sections.len() < sections;
        (self.sections, self.current) = (state.sections.clone(), state.current.clone());
        self.before.clone_from(&state.before);
        (self.proof, self.resume_point, self.sha256) =
            (Some(replayed.proof), replayed.resume_point, replayed.sha256);
        if let Some(current) = self.current.clone().filter(|current| current.ours) {
            self.set_open_session(Some(current.session));
            if sections_lost {
                // It is of other days than those that come next now.
                self.abandon_session().await?;
            }
        }
        if self.resumed_bytes > 0 {
            let words = "of an earlier run are there: going on behind them.";
            self.meter
                .println(&format!("{} {words}", human::bytes(self.resumed_bytes)));
        }
        Ok(())
    }

    /// A session of somebody's.
    async fn run_existing_session(&mut self, id: &str) -> Result<(), DownloadError> {
        let source = self.source;
        let session = tokio::select! {
            biased;
            () = self.stop.graceful.cancelled() => return Err(DownloadError::Stopped),
            session = source.tracker.get_session(&source.space, id) => session,
        };
        let session = session.map_err(|error| DownloadError::Service(source.error_text(&error)))?;
        let Some(session) = session else {
            return Err(DownloadError::SessionNotFound {
                id: id.to_owned(),
                space: source.space.clone(),
            });
        };
        self.account = session.account.unwrap_or(self.account);
        let total = self.current.as_ref().and_then(|current| current.total);
        self.set_current(Some(CurrentSession {
            session: id.to_owned(),
            range: session.range,
            hour: session.hour.flatten(),
            ours: false,
            total,
        }))?;
        self.fetch_counts_before(session.range).await?;
        self.download_session(None).await
    }

    /// One session, from its start again where that helps.
    async fn download_session(&mut self, request: Option<&SessionRequest>) -> Result<(), DownloadError> {
        let mut tries = 1;
        loop {
            let error = match self.try_once(request).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let can_restart = matches!(self.sink, DownloadSink::File(_)) || self.transferred == 0;
            if tries >= TRIES_MAX || !can_restart || !error.is_restartable(request.is_some()) {
                return Err(error);
            }
            tries += 1;
            self.meter
                .println(&format!("{error}. Downloading it again from its start."));
            self.rewind(request.is_some()).await?;
        }
    }

    async fn try_once(&mut self, request: Option<&SessionRequest>) -> Result<(), DownloadError> {
        let current = match (&self.current, request) {
            (Some(current), _) => current.clone(),
            (None, Some(request)) => self.open_session(request).await?,
            (None, None) => return Err(DownloadError::Stopped),
        };
        let name = current.range.map_or_else(
            || format!("session {}", current.session),
            |(start, end)| format_days(start, end, current.hour),
        );
        self.meter.begin(&name, self.resume_point.bytes());
        let (fetched, section) = self.transfer(&current).await?;
        self.meter.finish();
        self.sha256 = section
            .as_ref()
            .map(|facts| facts.sha256.clone())
            .or(self.sha256.take());
        let section = match (fetched, section) {
            (FetchOutcome::Bytes { bytes, end, resumes }, Some(facts)) => CompletedSession {
                bytes,
                events: facts.events,
                members: facts.members,
                decompressed: facts.decompressed,
                end,
                resumes,
                empty: (facts.events == 0).then_some(EmptyAnswer::GzipOfNothing),
                ..empty_session(&current)
            },
            (FetchOutcome::Empty(answer), _) => CompletedSession {
                empty: Some(answer),
                ..empty_session(&current)
            },
            (FetchOutcome::Bytes { .. }, None) => return Err(DownloadError::Stopped),
        };
        let readable = section.events > 0 || self.session_exists(&current.session).await?;
        if !readable && section.empty == Some(EmptyAnswer::NotFound) {
            return Err(DownloadError::SessionGone { id: current.session });
        }
        self.complete_session(CompletedSession { readable, ..section })
            .await
    }

    /// Moves the bytes of a session, and proves them.
    async fn transfer(
        &mut self,
        current: &CurrentSession,
    ) -> Result<(FetchOutcome, Option<ProofFacts>), DownloadError> {
        let source = self.source;
        let mut proof = match self.proof.take() {
            Some(proof) => proof,
            None => self.sink.proof(&self.pool),
        };
        let from = SessionRef {
            tracker: &source.tracker,
            space: &source.space,
            session: &current.session,
        };
        let fetched = match &mut self.sink {
            DownloadSink::File(part) => {
                let mut writer = BlockingWriter::new(part.writer()?);
                let mut on_total = |total| {
                    part.update_state(|state| {
                        if let Some(current) = &mut state.current {
                            current.total = Some(total);
                        }
                    })
                };
                let target = FetchTarget {
                    writer: &mut writer,
                    fed_by_proof: false,
                };
                let fetched = tokio::select! {
                    biased;
                    () = self.stop.graceful.cancelled() => None,
                    fetched = fetch(from, &self.resume_point, &mut proof, target, &self.meter, &mut on_total) => Some(fetched),
                };
                // Also after a failure: what came is there for the next run.
                let written = writer.finish().await;
                match (fetched, written) {
                    (Some(Ok(_)) | None, Err(error)) => Some(Err(FetchError::Write(error))),
                    (fetched, _) => fetched,
                }
            }
            DownloadSink::Stdout(stdout) => {
                let target = FetchTarget {
                    fed_by_proof: stdout.decompress,
                    writer: &mut stdout.writer,
                };
                let mut on_total = |_| Ok(());
                let resume_point = ResumePoint::new(None);
                tokio::select! {
                    biased;
                    () = self.stop.graceful.cancelled() => None,
                    fetched = fetch(from, &resume_point, &mut proof, target, &self.meter, &mut on_total) => Some(fetched),
                }
            }
        };
        self.transferred = self.meter.position();
        let fetched = fetched.ok_or(DownloadError::Stopped)?;
        let fetched = fetched
            .map_err(|error| DownloadError::from_fetch(error, source, &current.session, &self.sink))?;
        let facts = match fetched {
            FetchOutcome::Bytes { .. } => Some(proof.finish_section().await),
            FetchOutcome::Empty(_) => None,
        };
        let facts = match facts {
            Some(Err(ProofError::ReaderClosed)) => {
                let DownloadSink::Stdout(stdout) = &mut self.sink else {
                    return Err(DownloadError::StdoutClosed);
                };
                let error = stdout.writer.failure().await;
                return Err(DownloadError::from_write(error, &self.sink));
            }
            Some(facts) => Some(facts.map_err(|error| DownloadError::Proof {
                session: current.session.clone(),
                error,
            })?),
            None => None,
        };
        self.proof = Some(proof);
        Ok((fetched, facts))
    }

    /// A session is there whole: its bytes are made durable, it is deleted, and then it counts.
    async fn complete_session(&mut self, section: CompletedSession) -> Result<(), DownloadError> {
        if let DownloadSink::File(part) = &self.sink {
            part.sync().await?;
        }
        if self.current.as_ref().is_some_and(|current| current.ours) {
            self.close_session().await;
        }
        self.sections.push(section);
        (self.current, self.resume_point, self.transferred) = (None, ResumePoint::new(None), 0);
        if let DownloadSink::File(part) = &mut self.sink {
            let sections = self.sections.clone();
            part.update_state(|state| {
                state.sections = sections;
                state.current = None;
            })?;
        }
        Ok(())
    }

    /// Back to the start of the session in transfer; one of ours is given up for a new one.
    async fn rewind(&mut self, owned: bool) -> Result<(), DownloadError> {
        if owned {
            self.abandon_session().await?;
        } else if let Some(current) = &self.current {
            let restarted = CurrentSession {
                total: None,
                ..current.clone()
            };
            self.set_current(Some(restarted))?;
        }
        (self.resume_point, self.transferred) = (ResumePoint::new(None), 0);
        self.proof = Some(match &mut self.sink {
            DownloadSink::File(part) => {
                let boundary = part.state().boundary();
                part.truncate(boundary)?;
                replay(part, &self.pool, &mut self.meter).await?.proof
            }
            DownloadSink::Stdout(_) => self.sink.proof(&self.pool),
        });
        Ok(())
    }

    /// Gives the session in transfer up: deletes it, and what came of it counts no more.
    async fn abandon_session(&mut self) -> Result<(), DownloadError> {
        self.close_session().await;
        if let DownloadSink::File(part) = &mut self.sink {
            let boundary = part.state().boundary();
            part.truncate(boundary)?;
        }
        self.resume_point = ResumePoint::new(None);
        self.set_current(None)
    }

    /// What the session in transfer is, for this process and the next.
    pub(super) fn set_current(&mut self, current: Option<CurrentSession>) -> Result<(), DownloadError> {
        self.current.clone_from(&current);
        if let DownloadSink::File(part) = &mut self.sink {
            part.update_state(|state| state.current = current)?;
        }
        Ok(())
    }

    pub(super) fn set_open_session(&self, session: Option<String>) {
        *self
            .open_session_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = session;
    }

    async fn session_exists(&self, session: &str) -> Result<bool, DownloadError> {
        let found = self.source.tracker.get_session(&self.source.space, session).await;
        found
            .map(|session| session.is_some())
            .map_err(|error| DownloadError::Service(self.source.error_text(&error)))
    }
}

fn empty_session(current: &CurrentSession) -> CompletedSession {
    CompletedSession {
        session: current.session.clone(),
        range: current.range,
        hour: current.hour,
        bytes: 0,
        events: 0,
        members: 0,
        decompressed: 0,
        end: RecordedEnd::Length,
        resumes: 0,
        empty: None,
        readable: false,
    }
}
