//! State machine of a download: opens each session, transfers and verifies its events, and deletes the sessions that it
//! opened. Network I/O through the tracker client and `fetch`; writes to the sink.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::civil::Date;

use super::blocking_writer::BlockingWriter;
use super::error::DownloadError;
use super::evaluate::{self, DayCounts, evaluate};
use super::fetch::{FetchError, FetchOutcome, FetchTarget, SessionRef, fetch};
use super::meter::ProgressMeter;
use super::part_state::{CompletedSession, CurrentSession, RecordedEnd};
use super::replay::replay;
use super::report::DownloadReport;
use super::request::{DownloadRequest, format_days};
use super::sink::DownloadSink;
use crate::archive::counts::{DayListing, EmptyAnswer, listing_range};
use crate::cli::human;
use crate::cli::session::create::today;
use crate::cli::settings::source::SourceConnection;
use crate::cli::stop::ShutdownSignals;
use crate::pipeline::events::EventCount;
use crate::pipeline::prover_pool::{ProofError, ProofFacts, ProverPool, StreamProver};
use crate::session::guard::{OpenError, OpenSessions, OpenedSession};
use crate::session::occupancy::SessionHolder;
use crate::tracker::{ResumePoint, SessionRequest};

/// Maximum number of times the bytes of a session are downloaded from the start: 3.
const TRIES_MAX: u32 = 3;

/// Maximum number of requests for one session while the service answers with `Retry-After`: 5.
const CREATE_TRIES_MAX: u32 = 5;

/// Maximum wait for a session that `Retry-After` can ask for: 5 min.
const CREATE_WAIT_MAX: Duration = Duration::from_mins(5);

/// Maximum time to delete a session when the download ends: 30 s.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// A download in progress.
pub struct Downloader<'a> {
    pub(super) source: &'a SourceConnection,
    pub(super) request: &'a DownloadRequest,
    /// True if the events are those of the account instead of the space.
    pub(super) account: bool,
    /// True if sessions that this download opens stay open.
    pub(super) keep_sessions: bool,
    pub(super) sink: DownloadSink,
    pub(super) meter: ProgressMeter,
    pub(super) stop: &'a ShutdownSignals,
    pub(super) pool: ProverPool,
    /// ID of the open session that this download owns. Shared, so that it can be printed on an immediate exit.
    pub(super) open_session_id: Arc<Mutex<Option<String>>>,
    /// IDs of owned sessions that stay open, and why.
    pub(super) leftover_sessions: Vec<(String, String)>,
    pub(super) sections: Vec<CompletedSession>,
    pub(super) before: DayCounts,
    /// SHA-256 of all verified bytes, hexadecimal.
    pub(super) sha256: Option<String>,
    pub(super) proof: Option<StreamProver>,
    pub(super) resume_point: ResumePoint,
    pub(super) current: Option<CurrentSession>,
    /// Bytes that an earlier process downloaded.
    pub(super) resumed_bytes: u64,
    /// Bytes of the current session that were written to standard output.
    pub(super) transferred: u64,
}

impl Downloader<'_> {
    /// Downloads all requested sessions. Call [`Downloader::close`] afterwards, also after an error.
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

    /// Deletes the session of a partial file that `--force` discarded, if that download opened it.
    pub async fn delete_discarded_session(&mut self) {
        let DownloadSink::File(part) = &mut self.sink else {
            return;
        };
        let discarded = part
            .discarded
            .take()
            .and_then(|state| Some((state.current?, state.identity)));
        let Some((current, identity)) = discarded.filter(|(current, _)| current.ours) else {
            return;
        };
        let source = self.source;
        if (identity.endpoint.as_str(), &identity.space) == (source.tracker.endpoint(), &source.space) {
            self.set_open_session(Some(current.session));
            self.close_session().await;
        } else {
            let destination = format!("space {} at {}", identity.space, identity.endpoint);
            let why = format!("opened for the partial file that --force discarded, in {destination}");
            self.leftover_sessions.push((current.session, why));
        }
    }

    /// Deletes the open session and releases the sink, after success as well as after an error. Returns the bytes after
    /// which the same command can resume, or that were written to standard output.
    pub async fn close(&mut self) -> u64 {
        self.meter.finish();
        let owned = self.current.as_ref().is_some_and(|current| current.ours);
        let leftover_before = self.leftover_sessions.len();
        self.close_session().await;
        let deleted = owned && self.leftover_sessions.len() == leftover_before;
        // The prover may hold a sender of the writer, which ends when all senders are dropped.
        self.proof = None;
        let DownloadSink::File(part) = &mut self.sink else {
            return self.sections.iter().map(|section| section.bytes).sum::<u64>() + self.transferred;
        };
        if deleted {
            let boundary = part.state().boundary();
            // If this fails, the next run detects the damage.
            let _ = part.truncate(boundary);
            let _ = part.update_state(|state| state.current = None);
        }
        let _ = part.sync().await;
        part.bytes().unwrap_or(0)
    }

    /// Returns the report; a complete download is compared with the current listing of the service.
    pub async fn report(&mut self, complete: bool) -> DownloadReport {
        let ranges = || self.sections.iter().filter_map(|section| section.range);
        let (start, end) = (
            ranges().map(|range| range.0).min(),
            ranges().map(|range| range.1).max(),
        );
        let after = match start.zip(end).filter(|_| complete) {
            Some((start, end)) => self.fetch_listing(start, end).await,
            None => None,
        };
        let sessions: Vec<_> = std::mem::take(&mut self.sections)
            .into_iter()
            .map(|section| {
                let evaluation = evaluate(&section, &self.before, after.as_ref());
                (section, evaluation)
            })
            .collect();
        let warnings = sessions
            .iter()
            .flat_map(|(_, evaluation)| evaluation.warnings.clone());
        DownloadReport {
            file: None,
            decompressed: false,
            warnings: if complete { warnings.collect() } else { Vec::new() },
            sessions,
            sha256: self.sha256.take(),
            resumed_bytes: self.resumed_bytes,
            leftover_sessions: std::mem::take(&mut self.leftover_sessions),
            sessions_kept: self.keep_sessions,
            failure: None,
        }
    }

    /// Verifies the partial file of an earlier process and restores the state from it.
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
                // The session is for other days than the first missing section.
                self.abandon_session().await?;
            }
        }
        if self.resumed_bytes > 0 {
            self.meter.println(&format!(
                "Resuming after {} of an earlier run.",
                human::bytes(self.resumed_bytes)
            ));
        }
        Ok(())
    }

    /// Downloads a session that the user opened.
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

    /// Downloads one session; starts again after a recoverable error, up to [`TRIES_MAX`] times in all.
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
                .println(&format!("{error}. Downloading the session again from its start."));
            self.rewind(request.is_some()).await?;
        }
    }

    /// Downloads one session, opening it if none is current.
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
                events: facts.events.events,
                uncounted: facts.events.uncounted.map(Into::into),
                members: facts.members,
                decompressed: facts.decompressed,
                end,
                resumes,
                empty: (facts.events == EventCount::default()).then_some(EmptyAnswer::GzipOfNothing),
                ..empty_session(&current)
            },
            (FetchOutcome::Empty(answer), _) => CompletedSession {
                empty: Some(answer),
                ..empty_session(&current)
            },
            (FetchOutcome::Bytes { .. }, None) => return Err(DownloadError::Stopped),
        };
        let readable = section.empty.is_none() || self.session_exists(&current.session).await?;
        if !readable && section.empty == Some(EmptyAnswer::NotFound) {
            return Err(DownloadError::SessionGone { id: current.session });
        }
        self.complete_session(CompletedSession { readable, ..section })
            .await
    }

    /// Transfers the bytes of a session and verifies them.
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
                // Also after a failure: the next run resumes after these bytes.
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

    /// Syncs the bytes of a complete session, deletes the session, and records it as complete.
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

    /// Returns to the start of the current session; a session that this download opened is replaced by a new one.
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

    /// Deletes the current session and discards its bytes.
    async fn abandon_session(&mut self) -> Result<(), DownloadError> {
        self.close_session().await;
        if let DownloadSink::File(part) = &mut self.sink {
            let boundary = part.state().boundary();
            part.truncate(boundary)?;
        }
        self.resume_point = ResumePoint::new(None);
        self.set_current(None)
    }

    /// Opens a session. A signal waits for the response once the request is sent, since otherwise a session with an
    /// unknown ID could stay open.
    async fn open_session(&mut self, request: &SessionRequest) -> Result<CurrentSession, DownloadError> {
        let source = self.source;
        let sessions = source.sessions();
        let own = |id: &str| self.leftover_sessions.iter().any(|(own, _)| own == id);
        let holder = |id: &str| {
            if own(id) {
                SessionHolder::Own
            } else {
                SessionHolder::Unknown
            }
        };
        let before = tokio::select! {
            biased;
            () = self.stop.graceful.cancelled() => return Err(DownloadError::Stopped),
            listed = sessions.list(holder) => listed.map_err(|error| DownloadError::Service(source.error_text(&error)))?,
        };
        if self.stop.graceful.is_cancelled() {
            return Err(DownloadError::Stopped);
        }
        let opened = match self.create_session(request, &before).await {
            Ok(opened) => opened,
            Err(error @ OpenError::PossiblyOpen(_)) => {
                return Err(DownloadError::SessionUnknown {
                    reason: error.describe(source.setting_names()),
                    hint: sessions.orphan_hint(request, &before).await,
                });
            }
            Err(error) => return Err(DownloadError::Service(error.describe(source.setting_names()))),
        };
        let session = opened.session();
        self.set_open_session(Some(session.id.clone()));
        let current = CurrentSession {
            session: session.id.clone(),
            range: session.range.or(Some((request.start, request.end))),
            hour: request.hour,
            ours: true,
            total: None,
        };
        self.set_current(Some(current.clone()))?;
        let days = format_days(request.start, request.end, request.hour);
        self.meter
            .println(&format!("Session {} opened for {days}.", session.id));
        let checked = opened.check();
        checked.map_err(|mismatch| DownloadError::SessionMismatch(mismatch.to_string()))?;
        Ok(current)
    }

    /// Requests a session. While the service asks to wait, repeats the request, at most [`CREATE_TRIES_MAX`] times in all.
    async fn create_session(
        &self,
        request: &SessionRequest,
        before: &OpenSessions,
    ) -> Result<OpenedSession, OpenError> {
        let mut tries = 1;
        loop {
            let error = match self.source.sessions().create(request, before).await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            let after = match error.retry_after() {
                Some(after) if tries < CREATE_TRIES_MAX => after.min(CREATE_WAIT_MAX),
                _ => return Err(error),
            };
            tries += 1;
            self.meter
                .println(&format!("{error}; will try again in {} s", after.as_secs()));
            tokio::select! {
                () = self.stop.graceful.cancelled() => return Err(error),
                () = tokio::time::sleep(after) => {}
            }
        }
    }

    /// Deletes the open session unless it is kept. A session that cannot be deleted is added to `leftover_sessions`.
    async fn close_session(&mut self) {
        let open = self
            .open_session_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(id) = open else { return };
        if self.keep_sessions {
            self.leftover_sessions
                .push((id, "kept because of --keep-session".to_owned()));
            self.set_open_session(None);
            return;
        }
        let source = self.source;
        let deleted = source.sessions().close_within(&id, DELETE_TIMEOUT).await;
        self.set_open_session(None);
        match deleted {
            Ok(()) => self.meter.println(&format!("Session {id} deleted.")),
            Err(error) => {
                let why = error.describe(source.setting_names());
                self.leftover_sessions.push((id, why));
            }
        }
    }

    async fn session_exists(&self, session: &str) -> Result<bool, DownloadError> {
        let found = self.source.tracker.get_session(&self.source.space, session).await;
        found
            .map(|session| session.is_some())
            .map_err(|error| DownloadError::Service(self.source.error_text(&error)))
    }

    /// Sets the current session, for this process and in the partial file for the next one.
    fn set_current(&mut self, current: Option<CurrentSession>) -> Result<(), DownloadError> {
        self.current.clone_from(&current);
        if let DownloadSink::File(part) = &mut self.sink {
            part.update_state(|state| state.current = current)?;
        }
        Ok(())
    }

    fn set_open_session(&self, session: Option<String>) {
        *self
            .open_session_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Stores the event counts that the service reports before the first byte, unless an earlier process stored them.
    async fn fetch_counts_before(&mut self, range: Option<(Date, Date)>) -> Result<(), DownloadError> {
        let Some((start, end)) = range.filter(|_| self.before.is_empty()) else {
            return Ok(());
        };
        let Some(listing) = self.fetch_listing(start, end).await else {
            return Ok(());
        };
        self.before = evaluate::day_counts(&listing, start, end);
        if let DownloadSink::File(part) = &mut self.sink {
            let before = self.before.clone();
            part.update_state(|state| state.before = before)?;
        }
        Ok(())
    }

    /// Lists the days of a range. A failed listing is printed and does not stop the download.
    async fn fetch_listing(&self, start: Date, end: Date) -> Option<DayListing> {
        let source = self.source;
        let (first, last) = listing_range(start, end, today());
        tokio::select! {
            biased;
            () = self.stop.graceful.cancelled() => None,
            days = source.tracker.list_days(&source.space, first, last, self.account) => match days {
                Ok(days) => Some(DayListing::new(days)),
                Err(error) => {
                    let why = source.error_text(&error);
                    self.meter.println(&format!("No event counts to compare with: {why}."));
                    None
                }
            },
        }
    }
}

fn empty_session(current: &CurrentSession) -> CompletedSession {
    CompletedSession {
        session: current.session.clone(),
        range: current.range,
        hour: current.hour,
        bytes: 0,
        events: 0,
        uncounted: None,
        members: 0,
        decompressed: 0,
        end: RecordedEnd::Length,
        resumes: 0,
        empty: None,
        readable: false,
    }
}
