//! Destination of a download: a partial file, which can be resumed, or standard output, which cannot. Writes.

use std::path::PathBuf;

use super::error::DownloadError;
use super::part::PartFile;
use super::part_state::PartState;
use crate::cli::human;
use crate::pipeline::stdout_sink::StdoutSink;

/// Destination of a download.
#[derive(Debug)]
pub enum DownloadSink {
    /// Partial file, renamed to FILE when it is complete.
    File(PartFile),
    /// Standard output.
    Stdout(StdoutSink),
}

impl DownloadSink {
    /// Records the state for the next process; standard output has none.
    pub fn save(&self, state: &PartState) -> Result<(), DownloadError> {
        match self {
            Self::File(part) => Ok(part.save(state)?),
            Self::Stdout(_) => Ok(()),
        }
    }

    /// Discards the bytes after an offset; standard output keeps them.
    pub fn truncate(&self, bytes: u64) -> Result<(), DownloadError> {
        match self {
            Self::File(part) => Ok(part.truncate(bytes)?),
            Self::Stdout(_) => Ok(()),
        }
    }

    /// Writes the bytes durably; standard output cannot.
    pub async fn sync(&self) -> Result<(), DownloadError> {
        match self {
            Self::File(part) => Ok(part.sync().await?),
            Self::Stdout(_) => Ok(()),
        }
    }

    /// Finishes a transferred download: creates FILE, or `FILE.incomplete` if the events are not `complete`, and returns
    /// its path; or flushes standard output. Without a byte, nothing is written unless that is complete.
    pub async fn finish(
        self,
        no_bytes: bool,
        complete: bool,
        decompress: bool,
    ) -> Result<Option<PathBuf>, DownloadError> {
        match self {
            Self::File(part) if no_bytes && !complete => part.discard(),
            Self::File(part) => return Ok(Some(part.commit(decompress, complete).await?)),
            Self::Stdout(_) if no_bytes && !complete => {}
            Self::Stdout(mut stdout) => {
                let closed = stdout.close(no_bytes).await;
                return closed.map(|()| None).map_err(DownloadError::from_stdout);
            }
        }
        Err(DownloadError::NoBytes)
    }

    /// Finishes a failed download: keeps the partial file if it can be resumed or inspected, and returns the error message
    /// with the remedy. `bytes_kept`: bytes in the partial file or on standard output.
    pub fn finish_failed(self, cause: &DownloadError, bytes_kept: u64) -> String {
        let part = match self {
            Self::Stdout(_) if bytes_kept > 0 => {
                return format!("{cause}; the data on standard output is incomplete: do not use it");
            }
            Self::Stdout(_) => return cause.to_string(),
            Self::File(part) => part,
        };
        let (bytes, path) = (human::bytes(bytes_kept), part.path.display().to_string());
        match cause {
            DownloadError::Proof { .. } => match part.quarantine() {
                Ok(broken) => format!(
                    "{cause}; the received data is kept in {}: `gzip -dc` decompresses its readable part",
                    broken.display()
                ),
                Err(error) => format!("{cause}; {error}"),
            },
            _ if bytes_kept == 0 => {
                part.discard();
                cause.to_string()
            }
            DownloadError::SessionGone { .. } | DownloadError::SessionNotFound { .. } => format!(
                "{cause}; {path} holds {bytes} of it: delete that file, or start another download with --force"
            ),
            _ => format!("{cause}; {bytes} are kept in {path}: run the same command to resume"),
        }
    }
}
