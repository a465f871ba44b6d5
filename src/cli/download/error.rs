//! Errors of a download, as the command line prints them. No I/O.

use std::io;

use super::part::PartError;
use crate::cli::settings::source::SourceConnection;
use crate::pipeline::prover_pool::ProofError;
use crate::tracker::{StreamError, TrackerError};

/// Failed download.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// A signal stopped the download.
    #[error("stopped")]
    Stopped,
    /// The reader of standard output closed the pipe, for example `| head`.
    #[error("the reader closed standard output")]
    StdoutClosed,
    /// Writing to standard output failed.
    #[error("cannot write to standard output: {0}")]
    StdoutWrite(io::Error),
    /// FILE or its partial file failed.
    #[error("{0}")]
    Part(#[from] PartError),
    /// The service refused or failed a request; the text is that of `SourceConnection::error_text`.
    #[error("{0}")]
    Service(String),
    /// The session does not exist.
    #[error("no session {id} in space {space}: `eventexport session list` shows the open sessions")]
    SessionNotFound {
        /// Requested session ID.
        id: String,
        /// Space ID.
        space: String,
    },
    /// The session was deleted during the download.
    #[error("session {id} is gone: a user or the service deleted it, so its download cannot be completed")]
    SessionGone {
        /// Session ID.
        id: String,
    },
    /// The transfer was cut or cannot be resumed, or its body is not gzip.
    #[error("{0}")]
    Transfer(StreamError),
    /// The received bytes failed verification.
    #[error("session {session}: the received data is not valid: {error}")]
    Proof {
        /// Session ID.
        session: String,
        /// Failed check.
        error: ProofError,
    },
    /// The service opened a session for other days, another hour or another scope.
    #[error("{0}; nothing of this session was downloaded")]
    SessionMismatch(String),
    /// The service sent no byte, and nothing proves that there are no events.
    #[error("the service sent no data; nothing is written")]
    NoBytes,
    /// A failed request may have opened a session with an unknown ID.
    #[error("{reason}; the request may have opened a session: {hint}")]
    SessionUnknown {
        /// Failure of the request.
        reason: String,
        /// Remedy: find or delete the session.
        hint: String,
    },
}

impl DownloadError {
    /// Converts the error of a request.
    pub fn from_service(error: &TrackerError, source: &SourceConnection) -> Self {
        Self::Service(source.error_text(error))
    }

    /// Converts the error of a transfer.
    pub fn from_stream(error: StreamError, source: &SourceConnection) -> Self {
        match error {
            StreamError::Tracker(error) => Self::from_service(&error, source),
            StreamError::SessionGone { session, .. } => Self::SessionGone { id: session },
            error => Self::Transfer(error),
        }
    }

    /// Converts the error of a write to standard output.
    pub fn from_stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::StdoutWrite(error),
        }
    }

    /// True if downloading the session again from its start, or in a new session if it is `owned`, may succeed.
    pub fn is_restartable(&self, owned: bool) -> bool {
        match self {
            Self::Transfer(StreamError::CannotResume { .. }) => true,
            Self::Proof { error, .. } => !matches!(error, ProofError::Interrupted | ProofError::ReaderClosed),
            Self::SessionGone { .. } => owned,
            // The service answers no request to resume.
            Self::Transfer(StreamError::Cut { at, .. }) => *at > 0,
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
