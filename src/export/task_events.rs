//! Events of the tasks of a run for its loop: the way in which a task changes the state of the run before it ends. No I/O.

use std::collections::BTreeSet;

use tokio::sync::{mpsc, watch};

use crate::archive::layout::AttemptId;
use crate::archive::window::Window;

/// Capacity of the channel; senders wait when it is full. A loop that lists its bucket reads no event for minutes; it
/// starts no task meanwhile, and each of its tasks sends only a few.
const CAPACITY: usize = 512;

/// Event of a task.
#[derive(Debug)]
pub(super) enum TaskEvent {
    /// An attempt begins: its keys may be in the journal from now on.
    AttemptStarted(AttemptId),
    /// A session is open. The service names the user that opened it.
    SessionOpened {
        /// Id of the session.
        session: String,
        /// Window of the session.
        window: Window,
        /// User, if the service names one.
        user: Option<String>,
    },
    /// A session is deleted.
    SessionClosed(String),
    /// A download begins.
    TransferStarted {
        /// Window of the download.
        window: Window,
        /// Total bytes, if the service announced them.
        announced: Option<u64>,
        /// Bytes so far.
        bytes: watch::Receiver<u64>,
    },
    /// Sessions that interrupted attempts may have left open, at a search.
    SessionsSuspected(BTreeSet<String>),
}

/// Sender of events. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct TaskEvents(mpsc::Sender<TaskEvent>);

impl TaskEvents {
    /// Creates the channel.
    pub(super) fn channel() -> (Self, mpsc::Receiver<TaskEvent>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self(sender), receiver)
    }

    /// Sends an event. Without a loop (a release, or a run that gave up waiting), nobody needs it.
    pub(super) async fn send(&self, event: TaskEvent) {
        let _ = self.0.send(event).await;
    }
}
