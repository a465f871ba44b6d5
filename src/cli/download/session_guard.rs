//! Sessions of our own: opened for a download, and deleted with it whatever becomes of it. Speaks over the network.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::downloader::{DELETE_TIMEOUT, Downloader};
use super::error::DownloadError;
use super::part_state::CurrentSession;
use super::request::{format_days, mismatch};
use super::sink::DownloadSink;
use crate::tracker::{Session, SessionRequest, TrackerError};

/// Sessions that are named when one may have been opened unseen.
const NAMED_MAX: usize = 5;

impl Downloader<'_> {
    /// Opens a session. Once the request is on its way a signal waits for its answer: a session whose id nobody knows
    /// would stay open.
    pub(super) async fn open_session(
        &mut self,
        request: &SessionRequest,
    ) -> Result<CurrentSession, DownloadError> {
        let source = self.source;
        let service_error = |error: &TrackerError| DownloadError::Service(source.error_text(error));
        let open = tokio::select! {
            biased;
            () = self.stop.graceful.cancelled() => return Err(DownloadError::Stopped),
            open = source.tracker.list_sessions(&source.space) => open.map_err(|error| service_error(&error))?,
        };
        if self.stop.graceful.is_cancelled() {
            return Err(DownloadError::Stopped);
        }
        let session = match source.tracker.create_session(&source.space, request).await {
            Ok(session) => session,
            Err(error) if error.may_have_executed() => {
                return Err(DownloadError::SessionUnknown {
                    reason: source.error_text(&error),
                    hint: self.orphan_hint(request, &open).await,
                });
            }
            Err(error) => return Err(service_error(&error)),
        };
        self.set_open_session(Some(session.id.clone()));
        let current = CurrentSession {
            session: session.id.clone(),
            range: session.range.or(Some((request.start, request.end))),
            hour: request.hour,
            ours: true,
            total: None,
        };
        self.set_current(Some(current.clone()))?;
        let of = format_days(request.start, request.end, request.hour);
        self.meter
            .println(&format!("Session {} opened for {of}.", session.id));
        match mismatch(request, &session) {
            Some(difference) => Err(DownloadError::SessionMismatch(difference)),
            None => Ok(current),
        }
    }

    /// Deletes the session that is open, if it is ours and not to be kept; one that cannot be deleted is told.
    pub(super) async fn close_session(&mut self) {
        let open = self
            .open_session_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(id) = open else { return };
        if self.keep_sessions {
            self.leftover_sessions
                .push((id, "kept, as --keep-session says".to_owned()));
            self.set_open_session(None);
            return;
        }
        let source = self.source;
        let deleted =
            tokio::time::timeout(DELETE_TIMEOUT, source.tracker.delete_session(&source.space, &id)).await;
        let why = match deleted {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(source.error_text(&error)),
            Err(_) => Some(format!(
                "the service did not answer for {} s",
                DELETE_TIMEOUT.as_secs()
            )),
        };
        self.set_open_session(None);
        match why {
            None => self.meter.println(&format!("Session {id} deleted.")),
            Some(why) => self.leftover_sessions.push((id, why)),
        }
    }

    /// The end, however it came about: nothing stays open that is not to, and what is of no more use goes. Gives the
    /// bytes that the same command can go on behind, or that standard output has seen.
    pub(super) async fn close(&mut self) -> u64 {
        self.meter.finish();
        let owned = self.current.as_ref().is_some_and(|current| current.ours);
        let open_before = self.leftover_sessions.len();
        self.close_session().await;
        let gone = owned && self.leftover_sessions.len() == open_before;
        // It may hold a way into standard output, which ends when all are closed.
        self.proof = None;
        let DownloadSink::File(part) = &mut self.sink else {
            return self.sections.iter().map(|section| section.bytes).sum::<u64>() + self.transferred;
        };
        if gone {
            let boundary = part.state().boundary();
            // What cannot be put right now is found to be damaged by the next run.
            let _ = part.truncate(boundary);
            let _ = part.update_state(|state| state.current = None);
        }
        let _ = part.sync().await;
        part.bytes().unwrap_or(0)
    }

    /// The sessions that are new and could be the one that was asked for.
    async fn orphan_hint(&self, request: &SessionRequest, before: &[Session]) -> String {
        let known_ids: BTreeSet<_> = before.iter().map(|session| session.id.as_str()).collect();
        let found = self
            .source
            .tracker
            .list_sessions(&self.source.space)
            .await
            .unwrap_or_default();
        let ids: Vec<_> = found
            .iter()
            .filter(|session| {
                !known_ids.contains(session.id.as_str()) && mismatch(request, session).is_none()
            })
            .map(|session| session.id.as_str())
            .take(NAMED_MAX)
            .collect();
        if ids.is_empty() {
            "`eventexport session list` shows what is open, `eventexport session delete ID` deletes it"
                .to_owned()
        } else {
            format!(
                "if nobody else opened it just now, `eventexport session delete {}` deletes it",
                ids.join(" ")
            )
        }
    }
}
