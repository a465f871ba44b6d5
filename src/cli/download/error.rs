//! Why a download ends before it is whole, in words for whoever typed it. No I/O.

use std::io;

use super::fetch::FetchError;
use super::part::{PartError, io_error};
use super::sink::DownloadSink;
use crate::cli::source::SourceConnection;
use crate::export::proof::ProofError;
use crate::tracker::StreamError;

/// Why a download ends early.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// A signal.
    #[error("stopped")]
    Stopped,
    /// Nobody reads standard output any more, as after `| head`.
    #[error("nobody reads standard output any more")]
    StdoutClosed,
    /// Standard output takes no more.
    #[error("standard output cannot be written: {0}")]
    StdoutWrite(io::Error),
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
    SessionNotFound {
        /// What was asked for.
        id: String,
        /// Where.
        space: String,
    },
    /// The session went away under the download.
    #[error(
        "the session {id} is gone: somebody deleted it, or the service did; what came of it cannot be completed"
    )]
    SessionGone {
        /// Its id.
        id: String,
    },
    /// The session cannot be gone on with where it stopped.
    #[error("{0}")]
    CannotResume(StreamError),
    /// Cut, or not gzip.
    #[error("{0}")]
    Transfer(StreamError),
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
    SessionMismatch(String),
    /// No byte came, and nothing proves that there was nothing.
    #[error("the service sent nothing, and nothing is written")]
    NoBytes,
    /// A session may be open that nobody knows the id of.
    #[error("{reason}; a session may have been opened all the same: {hint}")]
    SessionUnknown {
        /// What failed.
        reason: String,
        /// Where to look for it.
        hint: String,
    },
}

impl DownloadError {
    /// What the end of a transfer means to a person.
    pub fn from_fetch(
        error: FetchError,
        source: &SourceConnection,
        session: &str,
        sink: &DownloadSink,
    ) -> Self {
        match error {
            FetchError::Tracker(error) | FetchError::Download(StreamError::Tracker(error)) => {
                Self::Service(source.error_text(&error))
            }
            FetchError::Download(StreamError::SessionGone { session, .. }) => {
                Self::SessionGone { id: session }
            }
            FetchError::Download(error @ StreamError::CannotResume { .. }) => Self::CannotResume(error),
            FetchError::Download(error @ (StreamError::NotGzip { .. } | StreamError::Cut { .. })) => {
                Self::Transfer(error)
            }
            FetchError::Proof(error) => Self::Proof {
                session: session.to_owned(),
                error,
            },
            FetchError::Part(error) => Self::Part(error),
            FetchError::Write(error) => Self::from_write(error, sink),
        }
    }

    /// What a failed write means to a person.
    pub fn from_write(error: io::Error, sink: &DownloadSink) -> Self {
        match sink {
            DownloadSink::File(part) => Self::Part(io_error(&part.paths.part, "written", error)),
            DownloadSink::Stdout(_) if error.kind() == io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            DownloadSink::Stdout(_) => Self::StdoutWrite(error),
        }
    }

    /// Whether the session's bytes from its start, or another session of ours, may help.
    pub fn is_restartable(&self, owned: bool) -> bool {
        match self {
            Self::CannotResume(_) => true,
            Self::Proof { error, .. } => !matches!(error, ProofError::Interrupted | ProofError::ReaderClosed),
            Self::SessionGone { .. } => owned,
            Self::Stopped
            | Self::StdoutClosed
            | Self::StdoutWrite(_)
            | Self::Part(_)
            | Self::Service(_)
            | Self::SessionNotFound { .. }
            | Self::Transfer(_)
            | Self::SessionMismatch(_)
            | Self::NoBytes
            | Self::SessionUnknown { .. } => false,
        }
    }
}
