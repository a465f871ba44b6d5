//! The end of a download: FILE appears, or what is there is kept, put aside or thrown away, and what it means is told.
//! Writes through its place.

use jiff::Timestamp;

use super::commit;
use super::downloader::Downloader;
use super::error::DownloadError;
use super::evaluate::evaluate;
use super::report::DownloadReport;
use super::sink::{DownloadSink, EMPTY_GZIP};
use crate::cli::human;

impl Downloader<'_> {
    /// Deletes the session of a part that `--force` threw away, where it was opened for that part.
    pub(super) async fn delete_discarded_session(&mut self) {
        let DownloadSink::File(part) = &mut self.sink else {
            return;
        };
        let discarded = part
            .discarded
            .take()
            .and_then(|state| Some((state.current?, state.identity)));
        let Some((current, identity)) = discarded.filter(|(current, _)| current.ours) else {
            return;
        };
        let source = self.source;
        if (identity.endpoint.as_str(), &identity.space) == (source.tracker.endpoint(), &source.space) {
            self.set_open_session(Some(current.session));
            self.close_session().await;
        } else {
            let destination = format!("space {} at {}", identity.space, identity.endpoint);
            let why = format!("it was opened for the part that --force threw away, in {destination}");
            self.leftover_sessions.push((current.session, why));
        }
    }

    /// What came of it; judged by what the service reports where it came whole.
    pub(super) async fn report(&mut self, complete: bool) -> DownloadReport {
        let ranges = || self.sections.iter().filter_map(|section| section.range);
        let (start, end) = (
            ranges().map(|range| range.0).min(),
            ranges().map(|range| range.1).max(),
        );
        let after = match start.zip(end).filter(|_| complete) {
            Some((start, end)) => self.fetch_listing(start, end).await,
            None => None,
        };
        let now = Timestamp::now();
        let sessions: Vec<_> = std::mem::take(&mut self.sections)
            .into_iter()
            .map(|section| {
                let evaluation = evaluate(&section, &self.before, after.as_ref(), now);
                (section, evaluation)
            })
            .collect();
        let doubts = sessions
            .iter()
            .flat_map(|(_, evaluation)| evaluation.doubts.clone());
        DownloadReport {
            file: None,
            decompressed: false,
            doubts: if complete { doubts.collect() } else { Vec::new() },
            sessions,
            sha256: self.sha256.take(),
            resumed_bytes: self.resumed_bytes,
            leftover_sessions: std::mem::take(&mut self.leftover_sessions),
            sessions_kept: self.keep_sessions,
            failure: None,
        }
    }
}

/// All came: FILE appears, or the last byte goes out.
pub async fn finish(
    sink: DownloadSink,
    report: &DownloadReport,
    decompress: bool,
) -> Result<(), DownloadError> {
    let no_bytes = report.sha256.is_none();
    if no_bytes && !report.doubts.is_empty() {
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

/// It ended early: what is there is kept where it is of use, and a person is told what to do. `bytes_kept` are the bytes that
/// are in the part, or that standard output has seen.
pub fn finish_failed(sink: DownloadSink, cause: &DownloadError, bytes_kept: u64) -> String {
    let DownloadSink::File(part) = sink else {
        return if bytes_kept > 0 {
            format!("{cause}; what standard output has seen is not the whole: do not use it")
        } else {
            cause.to_string()
        };
    };
    let bytes = human::bytes(bytes_kept);
    match cause {
        DownloadError::Proof { .. } => match part.quarantine() {
            Ok(broken) => format!(
                "{cause}; the bytes are kept as {}, for `gzip -dc` to show what can be read of them",
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
            "{cause}; {} has {bytes} of it: remove it, or begin another download with --force",
            part.paths.part.display()
        ),
        _ => format!(
            "{cause}; {bytes} are kept in {}: the same command goes on behind them",
            part.paths.part.display()
        ),
    }
}
