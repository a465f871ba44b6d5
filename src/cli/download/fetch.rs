//! Moves the bytes of one session: from the service into the proof and to where they are poured. Speaks over the
//! network.

use std::io;

use super::blocking_writer::BlockingWriter;
use super::meter::ProgressMeter;
use super::part::PartError;
use super::part_state::RecordedEnd;
use crate::export::proof::{ProofError, StreamProver};
use crate::export::verdict::EmptyAnswer;
use crate::tracker::{DownloadResponse, ResumePoint, StreamError, Tracker, TrackerError, TransferEnd};

/// What came of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// Bytes, so many of the session in all.
    Bytes {
        /// Those held before included.
        bytes: u64,
        /// How the transfer ended.
        end: RecordedEnd,
        /// How often it was cut and went on.
        resumes: u32,
    },
    /// No byte.
    Empty(EmptyAnswer),
}

/// Why the bytes of a session did not all come through.
#[derive(Debug)]
pub enum FetchError {
    /// The first request.
    Tracker(TrackerError),
    /// The transfer.
    Download(StreamError),
    /// The bytes are not what they should be.
    Proof(ProofError),
    /// They could not be written.
    Write(io::Error),
    /// It could not be noted how large the whole is.
    Part(PartError),
}

/// Whose bytes.
#[derive(Clone, Copy, Debug)]
pub struct SessionRef<'a> {
    /// The service.
    pub tracker: &'a Tracker,
    /// The space.
    pub space: &'a str,
    /// The session.
    pub session: &'a str,
}

/// Where the bytes go; `fed_by_proof` where the pour is fed by the proof, with what it inflates.
#[derive(Debug)]
pub struct FetchTarget<'a> {
    /// The writer.
    pub writer: &'a mut BlockingWriter,
    /// Whether the proof feeds it.
    pub fed_by_proof: bool,
}

/// Fetches what is not held yet. `on_total` is told how large the session's body is, once that is known.
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
            // The first request of a process that goes on is no cut.
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
