//! State machine of a download: opens each session, copies its events to the sink, and deletes the sessions that it
//! opened. Network I/O through the tracker client; writes to the sink.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::civil::Date;

use super::error::DownloadError;
use super::part_state::{CompletedSession, CurrentSession, PartState};
use super::replay::{Position, replay};
use super::report::{DownloadReport, SessionReport};
use super::request::{DownloadRequest, format_days};
use super::sink::DownloadSink;
use crate::archive::counts::days::{DaysEvidence, day_counts, evaluate_days};
use crate::archive::counts::{DayListing, listing_range};
use crate::cli::human;
use crate::cli::progress::meter::ProgressMeter;
use crate::cli::session::create::today;
use crate::cli::settings::source::SourceConnection;
use crate::cli::stop::ShutdownSignals;
use crate::pipeline::copy::{Copied, CopyControl, CopyError, copy};
use crate::pipeline::events::EventCount;
use crate::pipeline::file_sink::FileSink;
use crate::pipeline::prover::GzipStats;
use crate::pipeline::prover_pool::{ProofError, ProverPool, StreamProver};
use crate::session::guard::{OpenError, OpenSessions, OpenedSession};
use crate::session::occupancy::SessionHolder;
use crate::tracker::{Download, DownloadResponse, ResumePoint, SessionRequest, TrackerError, TransferEnd};

/// Maximum number of times the bytes of a session are downloaded from the start: 3.
const TRIES_MAX: u32 = 3;

/// Maximum number of requests for one session while the service asks to wait: 5.
const CREATE_TRIES_MAX: u32 = 5;

/// Maximum wait for a session that `Retry-After` can ask for: 5 min.
const CREATE_WAIT_MAX: Duration = Duration::from_mins(5);

/// Minimum wait for a session: 1 s after the first request, then doubled.
const CREATE_WAIT_MIN: Duration = Duration::from_secs(1);

/// Maximum time to delete a session when the download ends: 30 s.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// Session that a download owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OwnSession {
    /// No session is open.
    #[default]
    None,
    /// The request for a session has no reply yet.
    Requested,
    /// The session with this ID is open.
    Open(String),
}

/// A download in progress.
pub struct Downloader<'a> {
    pub(super) source: &'a SourceConnection,
    /// True if the events are those of the account instead of the space.
    pub(super) account: bool,
    /// True if sessions that this download opens stay open.
    pub(super) keep_sessions: bool,
    pub(super) sink: DownloadSink,
    /// Complete sessions and the current one; also in the partial file, for the next process.
    pub(super) state: PartState,
    pub(super) meter: ProgressMeter,
    pub(super) stop: &'a ShutdownSignals,
    pub(super) pool: ProverPool,
    /// Open session that this download owns. Shared, so that it can be printed on an immediate exit.
    pub(super) open_session: Arc<Mutex<OwnSession>>,
    /// IDs of owned sessions that stay open, and why.
    pub(super) leftover_sessions: Vec<(String, String)>,
    pub(super) position: Position,
    /// Prover of all bytes; `None` before the first one and after the last one.
    pub(super) prover: Option<StreamProver>,
    /// Bytes that an earlier process downloaded.
    pub(super) resumed_bytes: u64,
    /// Bytes of the current session that were received.
    pub(super) transferred: u64,
}

impl Downloader<'_> {
    /// Downloads all requested sessions. Call [`Downloader::close`] afterwards, also after an error.
    pub async fn run(&mut self) -> Result<(), DownloadError> {
        self.resume_part().await?;
        match self.state.identity.asked.clone() {
            DownloadRequest::Session { id } if self.state.sections.is_empty() => {
                self.run_existing_session(&id).await
            }
            DownloadRequest::Session { .. } => Ok(()),
            request @ DownloadRequest::Days { start, end, .. } => {
                self.fetch_counts_before(Some((start, end))).await?;
                let sessions = request.session_requests();
                for session in sessions.iter().skip(self.state.sections.len()) {
                    self.download_session(Some(session)).await?;
                }
                Ok(())
            }
        }
    }

    /// Deletes the session of a partial file that `--force` discarded, if that download opened it.
    pub async fn delete_discarded_session(&mut self, discarded: Option<PartState>) {
        let discarded = discarded.and_then(|state| Some((state.current?, state.identity)));
        let Some((current, identity)) = discarded.filter(|(current, _)| current.ours) else {
            return;
        };
        let source = self.source;
        if (identity.endpoint.as_str(), &identity.space) == (source.tracker.endpoint(), &source.space) {
            self.set_open_session(OwnSession::Open(current.session));
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
        let deleted = self.close_session().await;
        // It may hold a sender of the writer, which ends when all senders are dropped.
        self.prover = None;
        let boundary = self.state.boundary();
        if deleted {
            // If this fails, the next run detects the damage.
            let _ = self.sink.truncate(boundary);
            let _ = self.set_current(None);
        }
        let _ = self.sink.sync().await;
        match &self.sink {
            DownloadSink::File(part) => part.bytes().unwrap_or(0),
            DownloadSink::Stdout(_) => boundary.saturating_add(self.transferred),
        }
    }

    /// Returns the report; a complete download is compared with the current listing of the service.
    pub async fn report(&mut self, complete: bool) -> DownloadReport {
        let ranges = || self.state.sections.iter().filter_map(|section| section.range);
        let (start, end) = (
            ranges().map(|range| range.0).min(),
            ranges().map(|range| range.1).max(),
        );
        let after = match start.zip(end).filter(|_| complete) {
            Some((start, end)) => self.fetch_listing(start, end).await,
            None => None,
        };
        let sections = std::mem::take(&mut self.state.sections).into_iter();
        let sessions: Vec<_> = sections
            .zip(&self.position.stats)
            .map(|(session, stats)| SessionReport {
                verdict: evaluate_days(&DaysEvidence {
                    range: session.range,
                    hour: session.hour,
                    count: stats.events,
                    end: session.end,
                    session_readable: session.readable,
                    before: &self.state.before,
                    after: after.as_ref(),
                }),
                stats: *stats,
                session,
            })
            .collect();
        DownloadReport {
            file: None,
            decompressed: false,
            warnings: if complete {
                sessions.iter().flat_map(SessionReport::warnings).collect()
            } else {
                Vec::new()
            },
            sessions,
            sha256: self.position.sha256.take(),
            resumed_bytes: self.resumed_bytes,
            leftover_sessions: std::mem::take(&mut self.leftover_sessions),
            sessions_kept: self.keep_sessions,
            failure: None,
        }
    }

    /// Continues after the partial file of an earlier process.
    async fn resume_part(&mut self) -> Result<(), DownloadError> {
        let sections = self.state.sections.len();
        // Before the proof of the bytes, which takes minutes and may be stopped: the session is known from here on.
        if let Some(current) = self.state.current.as_ref().filter(|current| current.ours) {
            self.set_open_session(OwnSession::Open(current.session.clone()));
        }
        self.replay().await?;
        self.resumed_bytes = self
            .state
            .boundary()
            .saturating_add(self.position.resume_point.bytes());
        if self.state.current.as_ref().is_some_and(|current| current.ours)
            && self.state.sections.len() < sections
        {
            // The session is for other days than the first missing section.
            self.abandon_session().await?;
        }
        if self.resumed_bytes > 0 {
            let bytes = human::bytes(self.resumed_bytes);
            self.meter
                .println(&format!("Resuming after {bytes} of an earlier run."));
        }
        Ok(())
    }

    /// Proves the bytes of the partial file, and sets the position after them. Standard output has none.
    async fn replay(&mut self) -> Result<(), DownloadError> {
        let (position, prover) = match &self.sink {
            DownloadSink::File(part) => tokio::select! {
                biased;
                () = self.stop.graceful.cancelled() => return Err(DownloadError::Stopped),
                replayed = replay(part, &mut self.state, &self.pool, &mut self.meter) => replayed?,
            },
            DownloadSink::Stdout(stdout) => (Position::start(), stdout.begin_proof(&self.pool)),
        };
        (self.position, self.prover) = (position, Some(prover));
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
        let session = session.map_err(|error| DownloadError::from_service(&error, source))?;
        let Some(session) = session else {
            return Err(DownloadError::SessionNotFound {
                id: id.to_owned(),
                space: source.space.clone(),
            });
        };
        self.account = session.account.unwrap_or(self.account);
        let total = self.state.current.as_ref().and_then(|current| current.total);
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
        let current = match (&self.state.current, request) {
            (Some(current), _) => current.clone(),
            (None, Some(request)) => self.open_session(request).await?,
            (None, None) => return Err(DownloadError::Stopped),
        };
        let name = current.range.map_or_else(
            || format!("session {}", current.session),
            |(start, end)| format_days(start, end, current.hour),
        );
        self.meter.begin(&name, self.position.resume_point.bytes());
        let (copied, not_found) = match self.begin_download(&current.session).await? {
            DownloadResponse::Body(download) => (Some(self.copy_session(*download, &current).await?), false),
            DownloadResponse::NoContent => (None, false),
            DownloadResponse::NotFound => (None, true),
        };
        self.meter.finish();
        let (bytes, end, resumes) = copied.as_ref().map_or((0, TransferEnd::Length, 0), |copied| {
            (copied.bytes, copied.end, copied.resumes)
        });
        let proof = copied.and_then(|copied| copied.proof);
        let stats = proof
            .as_ref()
            .map_or_else(GzipStats::default, |proof| proof.stats);
        let readable = stats.events != EventCount::default() || self.session_exists(&current.session).await?;
        if not_found && !readable {
            return Err(DownloadError::SessionGone { id: current.session });
        }
        self.position.stats.push(stats);
        self.position.resume_point = ResumePoint::new(None);
        if let Some(proof) = proof {
            self.position.sha256 = Some(proof.sha256);
        }
        self.complete_session(CompletedSession {
            session: current.session,
            range: current.range,
            hour: current.hour,
            bytes,
            end,
            resumes,
            readable,
        })
        .await
    }

    /// Requests the bytes of a session after those that are there.
    async fn begin_download(&self, session: &str) -> Result<DownloadResponse, DownloadError> {
        let (tracker, space) = (&self.source.tracker, &self.source.space);
        let resume_point = &self.position.resume_point;
        let begun = if resume_point.bytes() > 0 {
            tracker
                .resume_download(space, session, resume_point)
                .map(DownloadResponse::Body)
        } else {
            tokio::select! {
                biased;
                () = self.stop.graceful.cancelled() => return Err(DownloadError::Stopped),
                begun = tracker.download(space, session) => begun,
            }
        };
        begun.map_err(|error| DownloadError::from_service(&error, self.source))
    }

    /// Copies the bytes of a session to the sink.
    async fn copy_session(
        &mut self,
        download: Download,
        current: &CurrentSession,
    ) -> Result<Copied<()>, DownloadError> {
        let total = download.total();
        self.set_current(Some(CurrentSession {
            total,
            ..current.clone()
        }))?;
        let Some(prover) = &mut self.prover else {
            return Err(DownloadError::Stopped);
        };
        let meter = &self.meter;
        let control = CopyControl {
            stop: &self.stop.graceful,
            progress: &|progress| meter.update(progress),
        };
        let copied = match &mut self.sink {
            DownloadSink::File(part) => {
                copy(download, prover, &mut FileSink::new(part.writer()?), &control).await
            }
            DownloadSink::Stdout(stdout) => copy(download, prover, stdout, &control).await,
        };
        self.transferred = self.meter.position();
        let error = match copied {
            Ok(copied) => return Ok(copied),
            Err(error) => error,
        };
        Err(match (error, &mut self.sink) {
            (CopyError::Stopped, _) => DownloadError::Stopped,
            (CopyError::Download(error), _) => DownloadError::from_stream(error, self.source),
            (CopyError::Sink(error), DownloadSink::File(part)) => part.error("write", error).into(),
            (CopyError::Sink(error), DownloadSink::Stdout(_)) => DownloadError::from_stdout(error),
            (CopyError::Proof(ProofError::ReaderClosed), DownloadSink::Stdout(stdout)) => {
                DownloadError::from_stdout(stdout.failure().await)
            }
            (CopyError::Proof(error), _) => DownloadError::Proof {
                session: current.session.clone(),
                error,
            },
        })
    }

    /// Syncs the bytes of a complete session, deletes the session, and records it as complete.
    async fn complete_session(&mut self, section: CompletedSession) -> Result<(), DownloadError> {
        self.sink.sync().await?;
        if self.state.current.as_ref().is_some_and(|current| current.ours) {
            self.close_session().await;
        }
        self.state.sections.push(section);
        self.transferred = 0;
        self.set_current(None)
    }

    /// Returns to the start of the current session; a session that this download opened is replaced by a new one.
    async fn rewind(&mut self, owned: bool) -> Result<(), DownloadError> {
        if owned {
            self.abandon_session().await?;
        } else if let Some(current) = self.state.current.clone() {
            self.sink.truncate(self.state.boundary())?;
            self.set_current(Some(CurrentSession {
                total: None,
                ..current
            }))?;
        }
        self.transferred = 0;
        // Nothing was written to standard output: its prover goes on.
        if matches!(self.sink, DownloadSink::File(_)) {
            self.replay().await?;
        }
        Ok(())
    }

    /// Deletes the current session and discards its bytes.
    async fn abandon_session(&mut self) -> Result<(), DownloadError> {
        self.close_session().await;
        self.sink.truncate(self.state.boundary())?;
        self.position.resume_point = ResumePoint::new(None);
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
            listed = sessions.list(holder) => listed.map_err(|error| DownloadError::from_service(&error, source))?,
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
            self.set_open_session(OwnSession::Requested);
            let created = self.source.sessions().create(request, before).await;
            self.set_open_session(match &created {
                Ok(opened) => OwnSession::Open(opened.id().to_owned()),
                Err(_) => OwnSession::None,
            });
            let error = match created {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            let after = match requested_wait(&error) {
                Some(after) if tries < CREATE_TRIES_MAX => {
                    let least = CREATE_WAIT_MIN.saturating_mul(1 << (tries - 1));
                    after.min(CREATE_WAIT_MAX).max(least)
                }
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

    /// Deletes the open session unless it is kept. Returns true if it is deleted; one that cannot be deleted is added to
    /// `leftover_sessions`.
    async fn close_session(&mut self) -> bool {
        let open = self
            .open_session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let OwnSession::Open(id) = open else { return false };
        if self.keep_sessions {
            self.leftover_sessions
                .push((id, "kept because of --keep-session".to_owned()));
            self.set_open_session(OwnSession::None);
            return false;
        }
        let source = self.source;
        let deleted = source.sessions().close_within(&id, DELETE_TIMEOUT).await;
        self.set_open_session(OwnSession::None);
        match deleted {
            Ok(()) => {
                self.meter.println(&format!("Session {id} deleted."));
                true
            }
            Err(error) => {
                let why = error.describe(source.setting_names());
                self.leftover_sessions.push((id, why));
                false
            }
        }
    }

    async fn session_exists(&self, session: &str) -> Result<bool, DownloadError> {
        let found = self.source.tracker.get_session(&self.source.space, session).await;
        found
            .map(|session| session.is_some())
            .map_err(|error| DownloadError::from_service(&error, self.source))
    }

    /// Sets the current session, for this process and in the partial file for the next one.
    fn set_current(&mut self, current: Option<CurrentSession>) -> Result<(), DownloadError> {
        self.state.current = current;
        self.sink.save(&self.state)
    }

    fn set_open_session(&self, session: OwnSession) {
        *self.open_session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Stores the event counts that the service reports before the first byte, unless an earlier process stored them.
    async fn fetch_counts_before(&mut self, range: Option<(Date, Date)>) -> Result<(), DownloadError> {
        let Some((start, end)) = range.filter(|_| self.state.before.is_empty()) else {
            return Ok(());
        };
        let Some(listing) = self.fetch_listing(start, end).await else {
            return Ok(());
        };
        self.state.before = day_counts(&listing, start, end);
        self.sink.save(&self.state)
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

/// Returns the wait that the service asks for. A 429 asks for one even without a readable `Retry-After`.
fn requested_wait(error: &OpenError) -> Option<Duration> {
    let after = error.retry_after();
    match error {
        OpenError::Full(full) if matches!(full.refusal, Some(TrackerError::Capacity { status: 429, .. })) => {
            Some(after.unwrap_or_default())
        }
        _ => after,
    }
}
