//! State of the attempts of a run, as their events and results tell it. Only the loop of the run changes it. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use super::open::Leftover;
use super::snapshot::{TransferFacts, TransferPhase};
use super::task_events::TaskEvent;
use crate::archive::layout::AttemptId;
use crate::archive::window::Window;

/// Maximum number of remembered attempts without an open session. An older one that a listing still shows is searched for
/// in vain.
const CLOSED_ATTEMPTS_MAX: usize = 10_000;

/// Attempts, sessions and transfers of a run.
#[derive(Debug, Default)]
pub(super) struct ActiveWork {
    /// Attempts that tasks of this run work on.
    attempts: BTreeSet<AttemptId>,
    /// Sessions of this run that are not known to be deleted.
    sessions: BTreeMap<String, Window>,
    transfers: BTreeMap<Window, RunningTransfer>,
    /// Sessions that interrupted attempts may have left open, at the last search.
    suspected_sessions: BTreeSet<String>,
    /// Attempts that certainly have no session open, at most [`CLOSED_ATTEMPTS_MAX`].
    closed_attempts: BTreeSet<AttemptId>,
    /// User of the sessions, once a reply named it.
    tracker_user: Option<String>,
}

#[derive(Debug)]
struct RunningTransfer {
    announced: Option<u64>,
    bytes: watch::Receiver<u64>,
}

/// Consequence of an event for the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventEffect {
    /// The next snapshot shows it.
    Noted,
    /// A session was opened: the snapshot is published at once.
    SessionOpened,
    /// As [`EventEffect::SessionOpened`], and the user of the sessions is known now.
    UserKnown,
}

impl ActiveWork {
    /// Applies an event.
    pub(super) fn apply(&mut self, event: TaskEvent) -> EventEffect {
        match event {
            TaskEvent::AttemptStarted(id) => {
                self.attempts.insert(id);
            }
            TaskEvent::SessionOpened {
                session,
                window,
                user,
            } => {
                self.sessions.insert(session, window);
                // Later replies name the same user.
                if self.tracker_user.is_none() && user.is_some() {
                    self.tracker_user = user;
                    return EventEffect::UserKnown;
                }
                return EventEffect::SessionOpened;
            }
            TaskEvent::SessionClosed(session) => {
                self.sessions.remove(&session);
                self.suspected_sessions.remove(&session);
            }
            TaskEvent::TransferStarted {
                window,
                announced,
                bytes,
            } => {
                self.transfers
                    .insert(window, RunningTransfer { announced, bytes });
            }
            TaskEvent::SessionsSuspected(sessions) => self.suspected_sessions = sessions,
        }
        EventEffect::Noted
    }

    /// Removes the attempt of a window whose task ended; `None`: it left nothing, or panicked.
    pub(super) fn end_attempt(&mut self, window: Window, leftover: Option<Leftover>) {
        self.attempts.retain(|id| id.window != window);
        self.transfers.remove(&window);
        if let Some(leftover) = leftover.filter(|leftover| leftover.closed) {
            self.mark_closed(leftover.id);
        }
    }

    /// Remembers an attempt that has no session open.
    pub(super) fn mark_closed(&mut self, id: AttemptId) {
        self.closed_attempts.insert(id);
        if self.closed_attempts.len() > CLOSED_ATTEMPTS_MAX {
            self.closed_attempts.pop_first();
        }
    }

    /// Returns the attempts that tasks work on.
    pub(super) const fn attempts(&self) -> &BTreeSet<AttemptId> {
        &self.attempts
    }

    /// Returns the attempts that certainly have no session open.
    pub(super) const fn closed_attempts(&self) -> &BTreeSet<AttemptId> {
        &self.closed_attempts
    }

    /// Returns the sessions that are not known to be deleted.
    pub(super) const fn sessions(&self) -> &BTreeMap<String, Window> {
        &self.sessions
    }

    /// Returns the sessions that interrupted attempts may have left open.
    pub(super) const fn suspected_sessions(&self) -> &BTreeSet<String> {
        &self.suspected_sessions
    }

    /// Returns the user of the sessions, once known.
    pub(super) const fn tracker_user(&self) -> Option<&String> {
        self.tracker_user.as_ref()
    }

    /// Returns true while a download is in progress.
    pub(super) fn is_transferring(&self) -> bool {
        !self.transfers.is_empty()
    }

    /// Returns the windows that attempts work on.
    pub(super) fn transfers(&self) -> Vec<TransferFacts> {
        let windows: BTreeSet<Window> = self.attempts.iter().map(|id| id.window).collect();
        let facts = |window: Window| match self.transfers.get(&window) {
            None => TransferFacts {
                window,
                phase: TransferPhase::Opening,
                bytes: 0,
                announced: None,
            },
            Some(RunningTransfer { announced, bytes }) => TransferFacts {
                window,
                // The download drops its end of the channel after the last byte.
                phase: match bytes.has_changed() {
                    Ok(_) => TransferPhase::Downloading,
                    Err(_) => TransferPhase::Storing,
                },
                bytes: *bytes.borrow(),
                announced: *announced,
            },
        };
        windows.into_iter().map(facts).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use ulid::Ulid;

    use super::*;

    fn attempt(day: i8) -> AttemptId {
        AttemptId {
            window: Window::day(date(2018, 6, day)),
            ulid: Ulid::from_parts(1, 1),
        }
    }

    fn opened(session: &str, id: AttemptId, user: Option<&str>) -> TaskEvent {
        TaskEvent::SessionOpened {
            session: session.to_owned(),
            window: id.window,
            user: user.map(str::to_owned),
        }
    }

    #[test]
    fn a_session_stays_known_until_it_is_deleted_even_if_its_task_ends() {
        let (one, two) = (attempt(1), attempt(2));
        let mut work = ActiveWork::default();
        for id in [one, two] {
            assert_eq!(work.apply(TaskEvent::AttemptStarted(id)), EventEffect::Noted);
        }
        assert_eq!(work.apply(opened("a", one, None)), EventEffect::SessionOpened);
        assert_eq!(work.apply(opened("b", two, Some("u"))), EventEffect::UserKnown);
        assert_eq!(
            work.apply(opened("c", two, Some("u"))),
            EventEffect::SessionOpened
        );
        work.apply(TaskEvent::SessionClosed("b".to_owned()));
        // The task of the first window panicked, that of the second closed its session.
        work.end_attempt(one.window, None);
        work.end_attempt(
            two.window,
            Some(Leftover {
                id: two,
                closed: true,
                journaled: false,
            }),
        );
        assert!(work.attempts().is_empty());
        assert_eq!(work.closed_attempts(), &BTreeSet::from([two]));
        let open: Vec<&String> = work.sessions().keys().collect();
        assert_eq!(open, ["a", "c"]);
        assert_eq!(work.tracker_user(), Some(&"u".to_owned()));
    }

    #[test]
    fn a_transfer_shows_its_phase_and_latest_bytes_until_its_task_ends() {
        let id = attempt(1);
        let mut work = ActiveWork::default();
        let shown = |work: &ActiveWork| -> Vec<(TransferPhase, u64)> {
            let transfers = work.transfers().into_iter();
            transfers
                .map(|transfer| (transfer.phase, transfer.bytes))
                .collect()
        };
        work.apply(TaskEvent::AttemptStarted(id));
        assert_eq!(shown(&work), [(TransferPhase::Opening, 0)]);
        let (bytes, received) = watch::channel(0);
        work.apply(TaskEvent::TransferStarted {
            window: id.window,
            announced: Some(10),
            bytes: received,
        });
        bytes.send_replace(7);
        assert_eq!(shown(&work), [(TransferPhase::Downloading, 7)]);
        drop(bytes);
        assert_eq!(shown(&work), [(TransferPhase::Storing, 7)]);
        assert!(work.is_transferring());
        work.end_attempt(id.window, None);
        assert!(!work.is_transferring() && shown(&work).is_empty());
    }

    #[test]
    fn the_memory_for_closed_attempts_is_bounded() {
        let mut work = ActiveWork::default();
        for number in 0..=CLOSED_ATTEMPTS_MAX as u128 {
            let id = AttemptId {
                ulid: Ulid::from_parts(1, number),
                ..attempt(1)
            };
            work.mark_closed(id);
        }
        assert_eq!(work.closed_attempts().len(), CLOSED_ATTEMPTS_MAX);
    }
}
