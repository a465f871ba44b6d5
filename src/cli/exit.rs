//! Exit codes of commands, and errors with their exit code. No I/O.

use std::process::ExitCode;

/// Exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything wanted and due is stored and proved, or an accepted gap.
    Done,
    /// 1: something failed, is missing, or was stopped. `verify`, `inspect` and `report`: the archive is not proved, or incomplete.
    Failed,
    /// 2: the arguments or the manifest are invalid; nothing was attempted.
    Usage,
    /// 3: `verify`, `inspect` and `report` could not check the archive, for example because the store is unreachable.
    Unchecked,
    /// 141: standard output is closed. The shell reports the same code for a program that SIGPIPE ends, such as `cat`.
    PipeClosed,
}

/// Error of a command.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments, the manifest or the environment are invalid.
    #[error("{0}")]
    Usage(String),
    /// An operation failed.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    /// A check did not come to a result.
    #[error("{0:#}")]
    Unchecked(anyhow::Error),
}

impl CliError {
    /// Returns an error for invalid arguments, an invalid manifest or an invalid environment.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Returns the error of a command that checks an archive: a failed operation means that the check has no result.
    #[must_use]
    pub fn unchecked(self) -> Self {
        match self {
            Self::Failed(error) => Self::Unchecked(error),
            Self::Usage(_) | Self::Unchecked(_) => self,
        }
    }

    /// Returns the exit status for the error.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Failed(_) => Exit::Failed,
            Self::Unchecked(_) => Exit::Unchecked,
        }
    }
}

impl Exit {
    /// Returns the exit code of the process.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unchecked => 3,
            Self::PipeClosed => 141,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
