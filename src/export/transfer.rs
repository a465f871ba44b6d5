//! The byte path: a download becomes the parts of an upload, or one small body, and its proof.
//!
//! Pieces are reference-counted: the same bytes are uploaded and proved, none is copied (but crumbs, which
//! are joined so that a trickle does not cost more memory than it brings). Memory is what the pool gave.

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::pool::{PartPool, PartReservation};
use super::proof::{ProofError, ProofFacts, StreamProver};
use crate::storage::{Crc64, PutOptions, Segments, Store, StoreError, Upload, UploadedPart};
use crate::tracker::{Download, StreamError, TransferEnd};

/// Parts of one transfer that are on their way at a time.
const PARTS_IN_FLIGHT: usize = 4;

/// The most parts that stores take.
const PARTS_MAX: u16 = 10_000;

/// How long parts on their way may take to land when their upload is to be aborted.
const ABORT_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Pieces smaller than this are joined: 4 KiB.
const SMALL_CHUNK_BYTES: usize = 4 * 1024;

/// What arrived at the store, not yet visible.
#[derive(Debug)]
pub(super) struct StagedObject {
    /// Bytes.
    pub bytes: u64,
    /// CRC-64/NVME of them all.
    pub crc64: Crc64,
    /// What was proved while they passed; `None` when there was no byte.
    pub proof: Option<ProofFacts>,
    /// How the transfer ended.
    pub end: TransferEnd,
    /// How often it was cut and went on.
    pub resumes: u32,
    /// Where the bytes are.
    pub body: StagedBody,
    /// Room in the pool that a small body still needs: given back once it is stored.
    pub _reservation: Option<PartReservation>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum StagedBody {
    /// In memory: less than one part.
    InMemory(Segments),
    /// At the store, in parts.
    Multipart(Upload, Vec<UploadedPart>),
}

/// Why a transfer ended early.
#[derive(Debug)]
pub(super) enum TransferError {
    /// The download.
    Download(StreamError),
    /// The store.
    Store(StoreError),
    /// The proof.
    Proof(ProofError),
    /// More parts than stores take: the day has to be split into hours.
    TooLarge,
    /// Asked to stop.
    Stopped,
}

/// Where a transfer goes, and what it may use.
pub(super) struct TransferContext<'a> {
    /// The store.
    pub store: &'a Arc<dyn Store>,
    /// The object's key.
    pub key: &'a str,
    /// Bytes of a part.
    pub part_bytes: u64,
    /// Room for further parts.
    pub pool: &'a PartPool,
    /// Told how many bytes have arrived so far.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Asks to stop.
    pub stop: &'a CancellationToken,
    /// Set when an upload may be left that could not be aborted.
    pub needs_recovery: &'a AtomicBool,
    /// How the object is to be stored; its checksum is filled in by the transfer.
    pub options: PutOptions,
}

/// Moves a download to the store, up to the commit. On any error the upload is aborted before it returns, or
/// [`TransferContext::needs_recovery`] says that it could not be.
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
        // Of what is in parts already.
        let mut uploaded_crc64 = Crc64::of(b"");
        loop {
            let missing = ctx.part_bytes - buffer.len();
            let piece = tokio::select! {
                biased;
                () = ctx.stop.cancelled() => return Err(TransferError::Stopped),
                piece = download.next_within(missing) => piece.map_err(TransferError::Download)?,
            };
            let Some(piece) = piece else { break };
            (ctx.progress)(download.received());
            proof.push(piece.clone()).await.map_err(TransferError::Proof)?;
            buffer.push(piece);
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
        // The download says how it ended once it gave its last byte.
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

    /// Room for the next part: left over, free in the pool, or given back by a part that has landed.
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
                // Its reply may have been lost, and its id with it.
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

    /// Waits for one part to be at the store.
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
            // A part's task cannot end otherwise than by the process stopping.
            Some(Err(_)) | None => Err(TransferError::Stopped),
        }
    }

    async fn abort(&mut self) {
        // A part that is on its way while its upload is aborted may still arrive, and outlive the abort, so parts are let
        // land first. https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        let drained = tokio::select! {
            // Who is told to stop has no time for that: the next start sweeps it.
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
            tracing::warn!(%error, key = upload.key, "an upload could not be aborted: it is swept later");
        }
    }
}

/// The part that is being filled.
#[derive(Default)]
struct PartBuffer {
    body: Segments,
    small_chunks: BytesMut,
}

impl PartBuffer {
    fn len(&self) -> u64 {
        self.body.len() + self.small_chunks.len() as u64
    }

    fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL_CHUNK_BYTES {
            self.small_chunks.extend_from_slice(&piece);
            if self.small_chunks.len() >= SMALL_CHUNK_BYTES {
                self.flush_small_chunks();
            }
        } else {
            self.flush_small_chunks();
            self.body.push(piece);
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
            let piece = vec![u8::try_from(n).unwrap(); n * 97];
            expected.extend_from_slice(&piece);
            buffer.push(Bytes::from(piece));
            assert_eq!(buffer.len(), expected.len() as u64);
        }
        let body = buffer.into_segments();
        assert!(body.pieces().len() < 100);
        assert!(body.pieces().concat() == expected);
    }
}
