//! Transfers the bytes of one session from the service to the prover and the writer. Network I/O.

use std::io;

use super::blocking_writer::BlockingWriter;
use super::meter::ProgressMeter;
use super::part::PartError;
use super::part_state::RecordedEnd;
use crate::archive::counts::EmptyAnswer;
use crate::pipeline::prover_pool::{ProofError, StreamProver};
use crate::tracker::{DownloadResponse, ResumePoint, StreamError, Tracker, TrackerError, TransferEnd};

/// Result of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The session has bytes.
    Bytes {
        /// Bytes of the session, including those of earlier processes.
        bytes: u64,
        /// End of the transfer.
        end: RecordedEnd,
        /// Number of times the transfer was cut and resumed.
        resumes: u32,
    },
    /// The service sent no byte.
    Empty(EmptyAnswer),
}

/// Failed transfer.
#[derive(Debug)]
pub enum FetchError {
    /// The first request failed.
    Tracker(TrackerError),
    /// The transfer failed.
    Download(StreamError),
    /// The received bytes failed verification.
    Proof(ProofError),
    /// Writing the bytes failed.
    Write(io::Error),
    /// Recording the size of the session in the partial file failed.
    Part(PartError),
}

/// Session to download.
#[derive(Clone, Copy, Debug)]
pub struct SessionRef<'a> {
    /// Client of the service.
    pub tracker: &'a Tracker,
    /// Space ID.
    pub space: &'a str,
    /// Session ID.
    pub session: &'a str,
}

/// Destination of the bytes.
#[derive(Debug)]
pub struct FetchTarget<'a> {
    /// Writer of the sink.
    pub writer: &'a mut BlockingWriter,
    /// True if the prover sends the decompressed bytes to the writer.
    pub fed_by_proof: bool,
}

/// Downloads the bytes after `resume_point`. Calls `on_total` with the session's size once the service announces it.
pub async fn fetch(
    from: SessionRef<'_>,
    resume_point: &ResumePoint,
    proof: &mut StreamProver,
    target: FetchTarget<'_>,
    meter: &ProgressMeter,
    on_total: &mut (dyn FnMut(u64) -> Result<(), PartError> + Send),
) -> Result<FetchOutcome, FetchError> {
    let SessionRef {
        tracker,
        space,
        session,
    } = from;
    let mut download = if resume_point.bytes() > 0 {
        tracker
            .resume_download(space, session, resume_point)
            .map_err(FetchError::Tracker)?
    } else {
        match tracker
            .download(space, session)
            .await
            .map_err(FetchError::Tracker)?
        {
            DownloadResponse::Body(download) => download,
            DownloadResponse::NoContent => return Ok(FetchOutcome::Empty(EmptyAnswer::NoContent)),
            DownloadResponse::NotFound => return Ok(FetchOutcome::Empty(EmptyAnswer::NotFound)),
        }
    };
    let (mut total, mut resumes) = (None, 0);
    loop {
        let at = download.received();
        let chunk = download.next().await.map_err(FetchError::Download)?;
        if download.total() != total {
            total = download.total();
            if let Some(total) = total {
                on_total(total).map_err(FetchError::Part)?;
            }
        }
        if download.resumes() > resumes {
            resumes = download.resumes();
            // The first request of a resumed download is not a cut.
            if at > resume_point.bytes() {
                meter.resumed(at);
            }
        }
        meter.set_position(download.received(), total);
        let Some(chunk) = chunk else { break };
        if !target.fed_by_proof {
            target
                .writer
                .push(chunk.clone())
                .await
                .map_err(FetchError::Write)?;
        }
        match proof.push(chunk).await {
            Err(ProofError::ReaderClosed) => return Err(FetchError::Write(target.writer.failure().await)),
            pushed => pushed.map_err(FetchError::Proof)?,
        }
    }
    let bytes = download.received();
    if bytes == 0 {
        return Ok(FetchOutcome::Empty(EmptyAnswer::ZeroBytes));
    }
    Ok(FetchOutcome::Bytes {
        bytes,
        end: download.end().unwrap_or(TransferEnd::CloseUnconfirmed).into(),
        resumes: download.resumes(),
    })
}
