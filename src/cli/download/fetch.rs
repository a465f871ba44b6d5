//! Moves the bytes of one session: from the service into the proof and to where they are poured. Speaks over the
//! network.

use std::io;

use super::meter::Meter;
use super::note::End;
use super::part::PartError;
use super::pour::Pour;
use crate::export::proof::{Proof, ProofError};
use crate::export::verdict::EmptyAnswer;
use crate::tracker::{DownloadError, Held, Opened, Tracker, TrackerError, TransferEnd};

/// What came of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Bytes, so many of the session in all.
    Bytes {
        /// Those held before included.
        bytes: u64,
        /// How the transfer ended.
        end: End,
        /// How often it was cut and went on.
        resumes: u32,
    },
    /// No byte.
    Nothing(EmptyAnswer),
}

/// Why the bytes of a session did not all come through.
#[derive(Debug)]
pub enum FetchError {
    /// The first request.
    Tracker(TrackerError),
    /// The transfer.
    Download(DownloadError),
    /// The bytes are not what they should be.
    Proof(ProofError),
    /// They could not be written.
    Write(io::Error),
    /// It could not be noted how large the whole is.
    Part(PartError),
}

/// Whose bytes.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The service.
    pub tracker: &'a Tracker,
    /// The space.
    pub space: &'a str,
    /// The session.
    pub session: &'a str,
}

/// Where the bytes go; `tapped` where the pour is fed by the proof, with what it inflates.
#[derive(Debug)]
pub struct Target<'a> {
    /// The writer.
    pub pour: &'a mut Pour,
    /// Whether the proof feeds it.
    pub tapped: bool,
}

/// Fetches what is not held yet. `whole` is told how large the session's body is, once that is known.
pub async fn fetch(
    from: Origin<'_>,
    held: &Held,
    proof: &mut Proof,
    into: Target<'_>,
    meter: &Meter,
    whole: &mut (dyn FnMut(u64) -> Result<(), PartError> + Send),
) -> Result<Fetched, FetchError> {
    let Origin {
        tracker,
        space,
        session,
    } = from;
    let mut download = if held.bytes() > 0 {
        tracker
            .take_up(space, session, held)
            .map_err(FetchError::Tracker)?
    } else {
        match tracker
            .download(space, session)
            .await
            .map_err(FetchError::Tracker)?
        {
            Opened::Body(download) => download,
            Opened::NoContent => return Ok(Fetched::Nothing(EmptyAnswer::NoContent)),
            Opened::NotFound => return Ok(Fetched::Nothing(EmptyAnswer::NotFound)),
        }
    };
    let (mut total, mut resumes) = (None, 0);
    loop {
        let at = download.received();
        let piece = download.next().await.map_err(FetchError::Download)?;
        if download.total() != total {
            total = download.total();
            if let Some(total) = total {
                whole(total).map_err(FetchError::Part)?;
            }
        }
        if download.resumes() > resumes {
            resumes = download.resumes();
            // The first request of a process that goes on is no cut.
            if at > held.bytes() {
                meter.resumed(at);
            }
        }
        meter.at(download.received(), total);
        let Some(piece) = piece else { break };
        if !into.tapped {
            into.pour.push(piece.clone()).await.map_err(FetchError::Write)?;
        }
        match proof.push(piece).await {
            Err(ProofError::Unread) => return Err(FetchError::Write(into.pour.failure().await)),
            pushed => pushed.map_err(FetchError::Proof)?,
        }
    }
    let bytes = download.received();
    if bytes == 0 {
        return Ok(Fetched::Nothing(EmptyAnswer::ZeroBytes));
    }
    Ok(Fetched::Bytes {
        bytes,
        end: download.end().unwrap_or(TransferEnd::CloseUnconfirmed).into(),
        resumes: download.resumes(),
    })
}
