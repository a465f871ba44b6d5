//! The byte path: turns a download into the parts of an upload, or one small body, and a proof.
//!
//! Chunks are reference-counted: the same bytes are uploaded and proved without a copy. Only small chunks are copied
//! and joined, so that a slow stream of tiny chunks needs no extra memory. All memory is reserved from the pool.

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::pool::{PartPool, PartReservation};
use crate::pipeline::proof::{ProofError, ProofFacts, StreamProver};
use crate::storage::{Crc64, PutOptions, Segments, Store, StoreError, Upload, UploadedPart};
use crate::tracker::{Download, StreamError, TransferEnd};

/// Maximum number of parts of one transfer in flight.
const PARTS_IN_FLIGHT: usize = 4;

/// Maximum number of parts that stores accept.
const PARTS_MAX: u16 = 10_000;

/// Maximum time to wait for parts in flight before their upload is aborted: 10 s.
const ABORT_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Chunks smaller than this are joined: 4 KiB.
const SMALL_CHUNK_BYTES: usize = 4 * 1024;

/// A transferred object that is not visible in the store yet.
#[derive(Debug)]
pub(super) struct StagedObject {
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-64/NVME of all bytes.
    pub crc64: Crc64,
    /// Facts that were proved during the transfer; `None` if there was no byte.
    pub proof: Option<ProofFacts>,
    /// End of the transfer.
    pub end: TransferEnd,
    /// Number of times that the transfer was interrupted and resumed.
    pub resumes: u32,
    /// Location of the bytes.
    pub body: StagedBody,
    /// Memory of a small body; returned to the pool once the body is stored.
    pub _reservation: Option<PartReservation>,
}

/// Location of the bytes.
#[derive(Debug)]
pub(super) enum StagedBody {
    /// In memory; smaller than one part.
    InMemory(Segments),
    /// In the store, as parts.
    Multipart(Upload, Vec<UploadedPart>),
}

/// A transfer that ended early.
#[derive(Debug)]
pub(super) enum TransferError {
    /// The download failed.
    Download(StreamError),
    /// The store failed.
    Store(StoreError),
    /// The proof failed.
    Proof(ProofError),
    /// Too many parts for a store: the day must be split into hours.
    TooLarge,
    /// The transfer was stopped.
    Stopped,
}

/// Destination and resources of a transfer.
pub(super) struct TransferContext<'a> {
    /// The store.
    pub store: &'a Arc<dyn Store>,
    /// The object's key.
    pub key: &'a str,
    /// Size of a part in bytes.
    pub part_bytes: u64,
    /// Memory for further parts.
    pub pool: &'a PartPool,
    /// Called with the number of bytes received so far.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Stop signal.
    pub stop: &'a CancellationToken,
    /// Set if an upload may be left that could not be aborted.
    pub needs_recovery: &'a AtomicBool,
    /// Attributes of the object; the transfer fills in the checksum.
    pub options: PutOptions,
}

/// Transfers a download to the store, up to the commit. On error, aborts the upload before it returns, or sets
/// [`TransferContext::needs_recovery`] if that is not possible.
pub(super) async fn transfer(
    download: Download,
    proof: StreamProver,
    reservation: PartReservation,
    ctx: &TransferContext<'_>,
) -> Result<StagedObject, TransferError> {
    let mut uploader = PartUploader {
        ctx,
        upload: None,
        in_flight: JoinSet::new(),
        uploaded: Vec::new(),
        spare_reservations: Vec::new(),
        next_number: 1,
    };
    let result = uploader.run(download, proof, reservation).await;
    if result.is_err() {
        uploader.abort().await;
    }
    result
}

struct PartUploader<'a> {
    ctx: &'a TransferContext<'a>,
    upload: Option<Upload>,
    in_flight: JoinSet<(Result<UploadedPart, StoreError>, PartReservation)>,
    uploaded: Vec<UploadedPart>,
    spare_reservations: Vec<PartReservation>,
    next_number: u16,
}

impl PartUploader<'_> {
    async fn run(
        &mut self,
        mut download: Download,
        mut proof: StreamProver,
        reservation: PartReservation,
    ) -> Result<StagedObject, TransferError> {
        let ctx = self.ctx;
        let mut buffer = PartBuffer::default();
        let mut reservation = Some(reservation);
        // Checksum of the bytes that are in parts already.
        let mut uploaded_crc64 = Crc64::of(b"");
        loop {
            let missing = ctx.part_bytes - buffer.len();
            let chunk = tokio::select! {
                biased;
                () = ctx.stop.cancelled() => return Err(TransferError::Stopped),
                chunk = download.next_within(missing) => chunk.map_err(TransferError::Download)?,
            };
            let Some(chunk) = chunk else { break };
            (ctx.progress)(download.received());
            proof.push(chunk.clone()).await.map_err(TransferError::Proof)?;
            buffer.push(chunk);
            if buffer.len() == ctx.part_bytes {
                let part = std::mem::take(&mut buffer).into_segments();
                let crc64_so_far = Crc64(download.crc64nvme());
                let crc64 = crc64_so_far.suffix(uploaded_crc64, part.len());
                uploaded_crc64 = crc64_so_far;
                let part_reservation = match reservation.take() {
                    Some(part_reservation) => part_reservation,
                    None => self.reserve_part().await?,
                };
                self.upload_part(part, crc64, part_reservation).await?;
                reservation = Some(self.reserve_part().await?);
            }
        }
        // The end of the download is known after its last byte.
        let end = download.end().unwrap_or(TransferEnd::CloseUnconfirmed);
        let (bytes, resumes) = (download.received(), download.resumes());
        let crc64 = Crc64(download.crc64nvme());
        drop(download);
        let rest = buffer.into_segments();
        let proof = if bytes == 0 {
            None
        } else {
            Some(proof.finish().await.map_err(TransferError::Proof)?)
        };
        if self.upload.is_none() {
            return Ok(StagedObject {
                bytes,
                crc64,
                proof,
                end,
                resumes,
                body: StagedBody::InMemory(rest),
                _reservation: reservation,
            });
        }
        if !rest.is_empty() {
            let part_reservation = match reservation.take() {
                Some(part_reservation) => part_reservation,
                None => self.reserve_part().await?,
            };
            let rest_crc64 = crc64.suffix(uploaded_crc64, rest.len());
            self.upload_part(rest, rest_crc64, part_reservation).await?;
        }
        while !self.in_flight.is_empty() {
            self.await_part().await?;
        }
        let (Some(upload), mut parts) = (self.upload.clone(), std::mem::take(&mut self.uploaded)) else {
            return Err(TransferError::Stopped);
        };
        parts.sort_by_key(|part| part.number);
        Ok(StagedObject {
            bytes,
            crc64,
            proof,
            end,
            resumes,
            body: StagedBody::Multipart(upload, parts),
            _reservation: None,
        })
    }

    /// Reserves memory for the next part: a spare reservation, free memory of the pool, or that of a finished part.
    async fn reserve_part(&mut self) -> Result<PartReservation, TransferError> {
        loop {
            if let Some(reservation) = self.spare_reservations.pop() {
                return Ok(reservation);
            }
            if self.in_flight.len() < PARTS_IN_FLIGHT
                && let Some(reservation) = self.ctx.pool.try_reserve(self.ctx.part_bytes)
            {
                return Ok(reservation);
            }
            self.await_part().await?;
        }
    }

    async fn upload_part(
        &mut self,
        body: Segments,
        crc64: Crc64,
        reservation: PartReservation,
    ) -> Result<(), TransferError> {
        if self.next_number > PARTS_MAX {
            return Err(TransferError::TooLarge);
        }
        let upload = if let Some(upload) = &self.upload {
            upload.clone()
        } else {
            let ctx = self.ctx;
            let created = ctx.store.begin_upload(ctx.key, &ctx.options).await;
            let created = created.map_err(|error| {
                // The response, and the upload id with it, may be lost.
                ctx.needs_recovery.store(true, Ordering::Relaxed);
                TransferError::Store(error)
            })?;
            if created.retried {
                ctx.needs_recovery.store(true, Ordering::Relaxed);
            }
            self.upload.insert(created).clone()
        };
        let (store, number) = (Arc::clone(self.ctx.store), self.next_number);
        self.next_number += 1;
        let span = tracing::info_span!("upload", part = number, bytes = body.len());
        let upload_task = async move { (store.upload_part(&upload, number, body, crc64).await, reservation) };
        self.in_flight.spawn(upload_task.instrument(span));
        Ok(())
    }

    /// Waits until one part is stored.
    async fn await_part(&mut self) -> Result<(), TransferError> {
        let finished = tokio::select! {
            () = self.ctx.stop.cancelled() => return Err(TransferError::Stopped),
            finished = self.in_flight.join_next() => finished,
        };
        match finished {
            Some(Ok((part, reservation))) => {
                self.uploaded.push(part.map_err(TransferError::Store)?);
                self.spare_reservations.push(reservation);
                Ok(())
            }
            // The task of a part ends without a result only if the process stops.
            Some(Err(_)) | None => Err(TransferError::Stopped),
        }
    }

    async fn abort(&mut self) {
        // A part in flight may still arrive after the abort and stay stored, so parts are awaited first.
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        let drained = tokio::select! {
            // A stop leaves no time to wait: recovery after the next start aborts the upload.
            () = self.ctx.stop.cancelled() => true,
            drained = timeout(ABORT_DRAIN_TIMEOUT, async { while self.in_flight.join_next().await.is_some() {} }) => drained.is_ok(),
        };
        if !drained {
            self.ctx.needs_recovery.store(true, Ordering::Relaxed);
        }
        self.in_flight.shutdown().await;
        if let Some(upload) = self.upload.take()
            && let Err(error) = self.ctx.store.abort_upload(&upload).await
        {
            self.ctx.needs_recovery.store(true, Ordering::Relaxed);
            tracing::warn!(%error, key = upload.key, "cannot abort upload, recovery will retry");
        }
    }
}

/// Buffer of the part that is being filled.
#[derive(Default)]
struct PartBuffer {
    body: Segments,
    small_chunks: BytesMut,
}

impl PartBuffer {
    fn len(&self) -> u64 {
        self.body.len() + self.small_chunks.len() as u64
    }

    fn push(&mut self, chunk: Bytes) {
        if chunk.len() < SMALL_CHUNK_BYTES {
            self.small_chunks.extend_from_slice(&chunk);
            if self.small_chunks.len() >= SMALL_CHUNK_BYTES {
                self.flush_small_chunks();
            }
        } else {
            self.flush_small_chunks();
            self.body.push(chunk);
        }
    }

    fn flush_small_chunks(&mut self) {
        if !self.small_chunks.is_empty() {
            self.body.push(self.small_chunks.split().freeze());
        }
    }

    fn into_segments(mut self) -> Segments {
        self.flush_small_chunks();
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_joined_and_no_byte_is_lost() {
        let mut buffer = PartBuffer::default();
        let mut expected = Vec::new();
        for n in 0..100usize {
            let chunk = vec![u8::try_from(n).unwrap(); n * 97];
            expected.extend_from_slice(&chunk);
            buffer.push(Bytes::from(chunk));
            assert_eq!(buffer.len(), expected.len() as u64);
        }
        let body = buffer.into_segments();
        assert!(body.pieces().len() < 100);
        assert!(body.pieces().concat() == expected);
    }
}
