//! The byte path: copies a download to a sink while a prover proves it. I/O through the download and the sink.
//!
//! Chunks are reference-counted: the same bytes are stored and proved without a copy. Nothing is read ahead: a chunk is
//! requested once the sink has room for it, so a slow sink or a slow proof slows its own download, and nothing else.

use std::future::Future;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::prover_pool::{ProofError, ProofFacts, StreamProver};
use crate::storage::Crc64;
use crate::tracker::{Download, StreamError, TransferEnd};

/// Destination of a copy. Its memory is bounded: a full sink waits.
pub trait Sink: Send {
    /// What the sink holds after the last byte.
    type Body;
    /// Failure of the sink.
    type Error;

    /// Returns the maximum size of the next chunk, at least 1.
    fn room(&self) -> u64 {
        u64::MAX
    }

    /// Takes the next bytes; `crc64` is the checksum of all bytes of the copy up to their end.
    fn push(
        &mut self,
        chunk: Bytes,
        crc64: Crc64,
    ) -> impl Future<Output = Result<(), CopyError<Self::Error>>> + Send;

    /// Ends the body after its last byte; `crc64` is the checksum of all its bytes.
    fn finish(
        &mut self,
        crc64: Crc64,
    ) -> impl Future<Output = Result<Self::Body, CopyError<Self::Error>>> + Send;

    /// Ends the body after a failure of the copy.
    fn abort(&mut self) -> impl Future<Output = ()> + Send;
}

/// Result of a copy.
#[derive(Debug)]
pub struct Copied<B> {
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-64/NVME of all bytes.
    pub crc64: Crc64,
    /// Facts that were proved during the copy; `None` if there was no byte.
    pub proof: Option<ProofFacts>,
    /// End of the transfer.
    pub end: TransferEnd,
    /// Number of times that the transfer was interrupted and resumed.
    pub resumes: u32,
    /// What the sink holds.
    pub body: B,
}

/// A copy that ended early.
#[derive(Debug)]
pub enum CopyError<E> {
    /// The download failed.
    Download(StreamError),
    /// The proof failed.
    Proof(ProofError),
    /// The sink failed.
    Sink(E),
    /// The copy was stopped.
    Stopped,
}

/// Progress of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// Bytes received so far, including those of the resume point.
    pub bytes: u64,
    /// Total size, if the service stated it.
    pub total: Option<u64>,
    /// Number of times that the transfer was interrupted and resumed.
    pub resumes: u32,
}

/// Control of a copy.
pub struct CopyControl<'a> {
    /// Stop signal.
    pub stop: &'a CancellationToken,
    /// Called after each chunk.
    pub progress: &'a (dyn Fn(CopyProgress) + Sync),
}

/// Copies a download to a sink, and proves it. On error, aborts the sink before it returns.
pub async fn copy<S: Sink>(
    download: Download,
    prover: &mut StreamProver,
    sink: &mut S,
    control: &CopyControl<'_>,
) -> Result<Copied<S::Body>, CopyError<S::Error>> {
    let result = copy_to_end(download, prover, sink, control).await;
    if result.is_err() {
        sink.abort().await;
    }
    result
}

async fn copy_to_end<S: Sink>(
    mut download: Download,
    prover: &mut StreamProver,
    sink: &mut S,
    control: &CopyControl<'_>,
) -> Result<Copied<S::Body>, CopyError<S::Error>> {
    let CopyControl { stop, progress } = control;
    loop {
        let chunk = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(CopyError::Stopped),
            chunk = download.next_within(sink.room()) => chunk.map_err(CopyError::Download)?,
        };
        progress(CopyProgress {
            bytes: download.received(),
            total: download.total(),
            resumes: download.resumes(),
        });
        let Some(chunk) = chunk else { break };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(CopyError::Stopped),
            pushed = prover.push(chunk.clone()) => pushed.map_err(CopyError::Proof)?,
        }
        sink.push(chunk, Crc64(download.crc64nvme())).await?;
    }
    let (bytes, resumes) = (download.received(), download.resumes());
    // The end of the download is known after its last byte.
    let end = download.end().unwrap_or(TransferEnd::CloseUnconfirmed);
    let crc64 = Crc64(download.crc64nvme());
    drop(download);
    let proof = if bytes == 0 {
        None
    } else {
        Some(prover.finish_section().await.map_err(CopyError::Proof)?)
    };
    Ok(Copied {
        bytes,
        crc64,
        proof,
        end,
        resumes,
        body: sink.finish(crc64).await?,
    })
}
