//! Sessions of our own: opened for a download, and deleted with it whatever becomes of it. Speaks over the network.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::asked::{days, difference};
use super::flow::{DELETE_MAX, Flow};
use super::note::Current;
use super::place::Place;
use super::trouble::Trouble;
use crate::tracker::{Session, SessionRequest, TrackerError};

/// Sessions that are named when one may have been opened unseen.
const NAMED: usize = 5;

impl Flow<'_> {
    /// Opens a session. Once the request is on its way a signal waits for its answer: a session whose id nobody knows
    /// would stay open.
    pub(super) async fn create(&mut self, ask: &SessionRequest) -> Result<Current, Trouble> {
        let source = self.source;
        let worded = |error: &TrackerError| Trouble::Service(source.worded(error));
        let open = tokio::select! {
            biased;
            () = self.stop.orderly.cancelled() => return Err(Trouble::Stopped),
            open = source.tracker.sessions(&source.space) => open.map_err(|error| worded(&error))?,
        };
        if self.stop.orderly.is_cancelled() {
            return Err(Trouble::Stopped);
        }
        let session = match source.tracker.create_session(&source.space, ask).await {
            Ok(session) => session,
            Err(error) if error.may_have_executed() => {
                return Err(Trouble::Lost {
                    why: source.worded(&error),
                    look: self.look(ask, &open).await,
                });
            }
            Err(error) => return Err(worded(&error)),
        };
        self.opened(Some(session.id.clone()));
        let current = Current {
            session: session.id.clone(),
            range: session.range.or(Some((ask.start, ask.end))),
            hour: ask.hour,
            ours: true,
            total: None,
        };
        self.note_current(Some(current.clone()))?;
        let of = days(ask.start, ask.end, ask.hour);
        self.meter
            .remark(&format!("Session {} opened for {of}.", session.id));
        match difference(ask, &session) {
            Some(difference) => Err(Trouble::Differs(difference)),
            None => Ok(current),
        }
    }

    /// Deletes the session that is open, if it is ours and not to be kept; one that cannot be deleted is told.
    pub(super) async fn let_go(&mut self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(id) = open else { return };
        if self.keep {
            self.left.push((id, "kept, as --keep-session says".to_owned()));
            self.opened(None);
            return;
        }
        let source = self.source;
        let deleted =
            tokio::time::timeout(DELETE_MAX, source.tracker.delete_session(&source.space, &id)).await;
        let why = match deleted {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(source.worded(&error)),
            Err(_) => Some(format!(
                "the service did not answer for {} s",
                DELETE_MAX.as_secs()
            )),
        };
        self.opened(None);
        match why {
            None => self.meter.remark(&format!("Session {id} deleted.")),
            Some(why) => self.left.push((id, why)),
        }
    }

    /// The end, however it came about: nothing stays open that is not to, and what is of no more use goes. Gives the
    /// bytes that the same command can go on behind, or that standard output has seen.
    pub(super) async fn close(&mut self) -> u64 {
        self.meter.finish();
        let ours = self.current.as_ref().is_some_and(|current| current.ours);
        let open_before = self.left.len();
        self.let_go().await;
        let gone = ours && self.left.len() == open_before;
        // It may hold a way into standard output, which ends when all are closed.
        self.proof = None;
        let Place::File(part) = &mut self.place else {
            return self.sections.iter().map(|section| section.bytes).sum::<u64>() + self.seen;
        };
        if gone {
            let boundary = part.note().boundary();
            // What cannot be put right now is found to be damaged by the next run.
            let _ = part.truncate(boundary);
            let _ = part.noted(|note| note.current = None);
        }
        let _ = part.sync().await;
        part.bytes().unwrap_or(0)
    }

    /// The sessions that are new and could be the one that was asked for.
    async fn look(&self, ask: &SessionRequest, before: &[Session]) -> String {
        let known: BTreeSet<_> = before.iter().map(|session| session.id.as_str()).collect();
        let found = self
            .source
            .tracker
            .sessions(&self.source.space)
            .await
            .unwrap_or_default();
        let ids: Vec<_> = found
            .iter()
            .filter(|session| !known.contains(session.id.as_str()) && difference(ask, session).is_none())
            .map(|session| session.id.as_str())
            .take(NAMED)
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
