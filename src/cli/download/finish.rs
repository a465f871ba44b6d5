//! Finishes the output of a download: commits, keeps, quarantines or discards the partial file. Writes to the sink.

use super::commit;
use super::error::DownloadError;
use super::report::DownloadReport;
use super::sink::{DownloadSink, EMPTY_GZIP};
use crate::cli::human;

/// Finishes a complete download: creates FILE, or flushes standard output.
pub async fn finish(
    sink: DownloadSink,
    report: &DownloadReport,
    decompress: bool,
) -> Result<(), DownloadError> {
    let no_bytes = report.sha256.is_none();
    if no_bytes && !report.warnings.is_empty() {
        if let DownloadSink::File(part) = sink {
            part.discard();
        }
        return Err(DownloadError::NoBytes);
    }
    match sink {
        DownloadSink::File(part) => Ok(commit::commit(*part, decompress).await?),
        DownloadSink::Stdout(mut stdout) => {
            let mut written = Ok(());
            if no_bytes && !decompress {
                written = stdout.writer.push(EMPTY_GZIP.as_slice().into()).await;
            }
            if written.is_ok() {
                written = stdout.writer.finish().await;
            }
            written.map_err(|error| DownloadError::from_write(error, &DownloadSink::Stdout(stdout)))
        }
    }
}

/// Finishes a failed download: keeps the partial file if it can be resumed or inspected, and returns the error message
/// with the remedy. `bytes_kept`: bytes in the partial file or on standard output.
pub fn finish_failed(sink: DownloadSink, cause: &DownloadError, bytes_kept: u64) -> String {
    let DownloadSink::File(part) = sink else {
        return if bytes_kept > 0 {
            format!("{cause}; the data on standard output is incomplete: do not use it")
        } else {
            cause.to_string()
        };
    };
    let bytes = human::bytes(bytes_kept);
    match cause {
        DownloadError::Proof { .. } => match part.quarantine() {
            Ok(broken) => format!(
                "{cause}; the received data is kept in {}: `gzip -dc` decompresses its readable part",
                broken.display()
            ),
            Err(error) => format!("{cause}; {error}"),
        },
        DownloadError::SessionMismatch(_) => {
            part.discard();
            cause.to_string()
        }
        _ if bytes_kept == 0 => {
            part.discard();
            cause.to_string()
        }
        DownloadError::SessionGone { .. } | DownloadError::SessionNotFound { .. } => format!(
            "{cause}; {} holds {bytes} of it: delete that file, or start another download with --force",
            part.paths.part.display()
        ),
        _ => format!(
            "{cause}; {bytes} are kept in {}: run the same command to resume",
            part.paths.part.display()
        ),
    }
}
