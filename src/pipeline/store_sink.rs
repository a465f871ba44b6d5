//! Sink of a copy in an object store: parts of an upload, several in flight, or one small body. I/O with the store.
//!
//! A part goes to the store while the next one fills. All memory beyond the first bytes is reserved from the pool. Only small
//! chunks are copied and joined, so that a slow stream of tiny chunks needs no extra memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::copy::{CopyError, Sink};
use super::part_pool::{FIRST_BYTES, PartPool, PartReservation};
use crate::shares::queue::Tenant;
use crate::storage::{Crc64, PutOptions, Segments, Store, StoreError, Upload, UploadedPart};

/// Maximum number of parts of one copy in flight.
const PARTS_IN_FLIGHT: usize = 4;

/// Maximum number of parts that stores accept.
const PARTS_MAX: u16 = 10_000;

/// Maximum time to wait for parts in flight before their upload is aborted: 10 s.
const ABORT_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Chunks smaller than this are joined: 4 KiB.
const SMALL_CHUNK_BYTES: usize = 4 * 1024;

/// Bytes of an object that is not visible in the store yet.
#[derive(Debug)]
pub enum StagedBody {
    /// In memory; smaller than one part. Its memory returns to the pool once the body is stored.
    InMemory(Segments, Option<PartReservation>),
    /// In the store, as parts.
    Multipart(Upload, Vec<UploadedPart>),
}

/// Failure of the store sink.
#[derive(Debug)]
pub enum StoreSinkError {
    /// The store failed.
    Store(StoreError),
    /// More parts than a store accepts: the day must be split into hours.
    TooLarge,
}

/// Object that a copy creates, and the resources for it.
pub struct StoreTarget<'a> {
    /// The store.
    pub store: &'a Arc<dyn Store>,
    /// The object's key.
    pub key: &'a str,
    /// Size of a part in bytes.
    pub part_bytes: u64,
    /// Memory for parts.
    pub pool: &'a PartPool,
    /// Export that takes the memory.
    pub tenant: &'a Tenant,
    /// Position among the windows of the export that wait for memory.
    pub order: i64,
    /// True while the sink waits for memory.
    pub awaits_memory: &'a AtomicBool,
    /// Stop signal.
    pub stop: &'a CancellationToken,
    /// Set if an upload may be left that could not be aborted.
    pub needs_recovery: &'a AtomicBool,
    /// Attributes of the object; the sink fills in the checksum.
    pub options: PutOptions,
}

/// Sink in an object store. After a failure it aborts its upload, or sets [`StoreTarget::needs_recovery`] if that is not
/// possible.
pub struct StoreSink<'a> {
    target: StoreTarget<'a>,
    /// Part that is being filled, and its memory.
    buffer: PartBuffer,
    reservation: Option<PartReservation>,
    /// Checksum of the bytes that are in parts already.
    sent_crc64: Crc64,
    upload: Option<Upload>,
    in_flight: JoinSet<(Result<UploadedPart, StoreError>, PartReservation)>,
    uploaded: Vec<UploadedPart>,
    spare_reservations: Vec<PartReservation>,
    next_number: u16,
}

impl Sink for StoreSink<'_> {
    type Body = StagedBody;
    type Error = StoreSinkError;

    fn room(&self) -> u64 {
        let bytes = match self.reservation {
            Some(_) => self.target.part_bytes,
            None => FIRST_BYTES,
        };
        bytes - self.buffer.len()
    }

    async fn push(&mut self, chunk: Bytes, crc64: Crc64) -> Result<(), StoreCopyError> {
        self.buffer.push(chunk);
        if self.reservation.is_none() && self.buffer.len() == FIRST_BYTES {
            self.reservation = Some(self.reserve_first_part().await?);
        }
        if self.buffer.len() == self.target.part_bytes {
            self.send_part(crc64).await?;
            self.reservation = Some(self.reserve_part().await?);
        }
        Ok(())
    }

    async fn finish(&mut self, crc64: Crc64) -> Result<StagedBody, StoreCopyError> {
        if self.upload.is_none() {
            let body = std::mem::take(&mut self.buffer).into_segments();
            return Ok(StagedBody::InMemory(body, self.reservation.take()));
        }
        if self.buffer.len() > 0 {
            self.send_part(crc64).await?;
        }
        while !self.in_flight.is_empty() {
            self.await_part().await?;
        }
        let Some(upload) = self.upload.clone() else {
            return Err(CopyError::Stopped);
        };
        let mut parts = std::mem::take(&mut self.uploaded);
        parts.sort_by_key(|part| part.number);
        Ok(StagedBody::Multipart(upload, parts))
    }

    async fn abort(&mut self) {
        // A part in flight may still arrive after the abort and stay stored, so parts are awaited first.
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        let drained = tokio::select! {
            // A stop leaves no time to wait: recovery after the next start aborts the upload.
            () = self.target.stop.cancelled() => true,
            drained = timeout(ABORT_DRAIN_TIMEOUT, async { while self.in_flight.join_next().await.is_some() {} }) => drained.is_ok(),
        };
        if !drained {
            self.target.needs_recovery.store(true, Ordering::Relaxed);
        }
        self.in_flight.shutdown().await;
        if let Some(upload) = self.upload.take()
            && let Err(error) = self.target.store.abort_upload(&upload).await
        {
            self.target.needs_recovery.store(true, Ordering::Relaxed);
            tracing::warn!(%error, key = upload.key, "cannot abort upload, recovery will retry");
        }
    }
}

type StoreCopyError = CopyError<StoreSinkError>;

impl<'a> StoreSink<'a> {
    /// Creates a sink, with memory for its first part if the caller reserved it.
    pub fn new(target: StoreTarget<'a>, reservation: Option<PartReservation>) -> Self {
        Self {
            target,
            buffer: PartBuffer::default(),
            reservation,
            sent_crc64: Crc64::of(b""),
            upload: None,
            in_flight: JoinSet::new(),
            uploaded: Vec::new(),
            spare_reservations: Vec::new(),
            next_number: 1,
        }
    }

    /// Sends the buffer as the next part; `crc64` is the checksum of all bytes up to its end.
    async fn send_part(&mut self, crc64: Crc64) -> Result<(), StoreCopyError> {
        let part = std::mem::take(&mut self.buffer).into_segments();
        let part_crc64 = crc64.suffix(self.sent_crc64, part.len());
        self.sent_crc64 = crc64;
        let reservation = match self.reservation.take() {
            Some(reservation) => reservation,
            None => self.reserve_part().await?,
        };
        self.upload_part(part, part_crc64, reservation).await
    }

    /// Waits for memory for the first part. The download pauses meanwhile.
    async fn reserve_first_part(&self) -> Result<PartReservation, StoreCopyError> {
        let StoreTarget {
            pool,
            tenant,
            order,
            part_bytes,
            awaits_memory,
            stop,
            ..
        } = self.target;
        awaits_memory.store(true, Ordering::Relaxed);
        let reserved = tokio::select! {
            () = stop.cancelled() => Err(CopyError::Stopped),
            reservation = pool.reserve(tenant, order, part_bytes) => Ok(reservation),
        };
        awaits_memory.store(false, Ordering::Relaxed);
        reserved
    }

    /// Reserves memory for the next part: a spare reservation, free memory of the pool, or that of a finished part.
    async fn reserve_part(&mut self) -> Result<PartReservation, StoreCopyError> {
        loop {
            if let Some(reservation) = self.spare_reservations.pop() {
                return Ok(reservation);
            }
            if self.in_flight.len() < PARTS_IN_FLIGHT
                && let Some(reservation) = self
                    .target
                    .pool
                    .try_reserve(self.target.tenant, self.target.part_bytes)
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
    ) -> Result<(), StoreCopyError> {
        if self.next_number > PARTS_MAX {
            return Err(CopyError::Sink(StoreSinkError::TooLarge));
        }
        let upload = if let Some(upload) = &self.upload {
            upload.clone()
        } else {
            let target = &self.target;
            let created = target.store.begin_upload(target.key, &target.options).await;
            let created = created.map_err(|error| {
                // The response, and the upload id with it, may be lost.
                target.needs_recovery.store(true, Ordering::Relaxed);
                CopyError::Sink(StoreSinkError::Store(error))
            })?;
            if created.retried {
                target.needs_recovery.store(true, Ordering::Relaxed);
            }
            self.upload.insert(created).clone()
        };
        let (store, number) = (Arc::clone(self.target.store), self.next_number);
        self.next_number += 1;
        let span = tracing::info_span!("upload", part = number, bytes = body.len());
        let upload_task = async move { (store.upload_part(&upload, number, body, crc64).await, reservation) };
        self.in_flight.spawn(upload_task.instrument(span));
        Ok(())
    }

    /// Waits until one part is stored.
    async fn await_part(&mut self) -> Result<(), StoreCopyError> {
        let finished = tokio::select! {
            () = self.target.stop.cancelled() => return Err(CopyError::Stopped),
            finished = self.in_flight.join_next() => finished,
        };
        match finished {
            Some(Ok((part, reservation))) => {
                self.uploaded
                    .push(part.map_err(|error| CopyError::Sink(StoreSinkError::Store(error)))?);
                self.spare_reservations.push(reservation);
                Ok(())
            }
            // The task of a part ends without a result only if the process stops.
            Some(Err(_)) | None => Err(CopyError::Stopped),
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
