//! Why a download ends before it is whole, in words for whoever typed it. No I/O.

use std::io;

use super::fetch::FetchError;
use super::part::{PartError, io_error};
use super::place::Place;
use crate::cli::source::Source;
use crate::export::proof::ProofError;
use crate::tracker::DownloadError;

/// Why a download ends early.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A signal.
    #[error("stopped")]
    Stopped,
    /// Nobody reads standard output any more, as after `| head`.
    #[error("nobody reads standard output any more")]
    Closed,
    /// Standard output takes no more.
    #[error("standard output cannot be written: {0}")]
    Output(io::Error),
    /// The file.
    #[error("{0}")]
    Part(#[from] PartError),
    /// The service refuses or fails, in the words of the command line.
    #[error("{0}")]
    Service(String),
    /// There is no such session.
    #[error(
        "there is no session {id} in space {space}: `eventexport session list` shows those that are open"
    )]
    NoSession {
        /// What was asked for.
        id: String,
        /// Where.
        space: String,
    },
    /// The session went away under the download.
    #[error(
        "the session {id} is gone: somebody deleted it, or the service did; what came of it cannot be completed"
    )]
    Gone {
        /// Its id.
        id: String,
    },
    /// The session cannot be gone on with where it stopped.
    #[error("{0}")]
    CannotResume(DownloadError),
    /// Cut, or not gzip.
    #[error("{0}")]
    Download(DownloadError),
    /// The bytes are not what they should be.
    #[error("session {session}: what came is not whole: {error}")]
    Proof {
        /// Its id.
        session: String,
        /// Why not.
        error: ProofError,
    },
    /// The service opened a session of something else.
    #[error("{0}; nothing was downloaded, since events of other days under these names would mislead")]
    Differs(String),
    /// No byte came, and nothing proves that there was nothing.
    #[error("the service sent nothing, and nothing is written")]
    Nothing,
    /// A session may be open that nobody knows the id of.
    #[error("{why}; a session may have been opened all the same: {look}")]
    Lost {
        /// What failed.
        why: String,
        /// Where to look for it.
        look: String,
    },
}

impl Trouble {
    /// What the end of a transfer means to a person.
    pub fn of(error: FetchError, source: &Source, session: &str, place: &Place) -> Self {
        match error {
            FetchError::Tracker(error) | FetchError::Download(DownloadError::Tracker(error)) => {
                Self::Service(source.worded(&error))
            }
            FetchError::Download(DownloadError::SessionGone { session, .. }) => Self::Gone { id: session },
            FetchError::Download(error @ DownloadError::CannotResume { .. }) => Self::CannotResume(error),
            FetchError::Download(error @ (DownloadError::NotGzip { .. } | DownloadError::Cut { .. })) => {
                Self::Download(error)
            }
            FetchError::Proof(error) => Self::Proof {
                session: session.to_owned(),
                error,
            },
            FetchError::Part(error) => Self::Part(error),
            FetchError::Write(error) => Self::of_write(error, place),
        }
    }

    /// What a failed write means to a person.
    pub fn of_write(error: io::Error, place: &Place) -> Self {
        match place {
            Place::File(part) => Self::Part(io_error(&part.names.part, "written", error)),
            Place::Pipe(_) if error.kind() == io::ErrorKind::BrokenPipe => Self::Closed,
            Place::Pipe(_) => Self::Output(error),
        }
    }

    /// Whether the session's bytes from its start, or another session of ours, may help.
    pub fn may_restart(&self, ours: bool) -> bool {
        match self {
            Self::CannotResume(_) => true,
            Self::Proof { error, .. } => !matches!(error, ProofError::Interrupted | ProofError::Unread),
            Self::Gone { .. } => ours,
            Self::Stopped
            | Self::Closed
            | Self::Output(_)
            | Self::Part(_)
            | Self::Service(_)
            | Self::NoSession { .. }
            | Self::Download(_)
            | Self::Differs(_)
            | Self::Nothing
            | Self::Lost { .. } => false,
        }
    }
}
