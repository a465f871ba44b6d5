//! How a command ends: exit codes, and errors that say which of them they are. No I/O.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: all that is wanted and due is stored and proved, or an accepted gap.
    Done,
    /// 1: something failed, is missing, or was stopped.
    Failed,
    /// 2: the arguments or the manifest cannot be used; nothing was attempted.
    Usage,
    /// 141: nobody reads standard output any more. As the shell tells of a program that SIGPIPE ended, such as `cat`.
    PipeClosed,
}

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments, the manifest or the environment are at fault.
    #[error("{0}")]
    Usage(String),
    /// Something failed.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl CliError {
    /// The arguments, the manifest or the environment are at fault.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// How the command ends because of it.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Failed(_) => Exit::Failed,
        }
    }
}

impl Exit {
    /// The code that the process ends with.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::PipeClosed => 141,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
