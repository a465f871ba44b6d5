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

use super::pool::{PartPool, PartRoom};
use super::proof::{Proof, ProofError, ProofFacts};
use crate::storage::{Crc64, Part, PutOptions, Segments, Store, StoreError, Upload};
use crate::tracker::{Download, DownloadError, TransferEnd};

/// Parts of one transfer that are on their way at a time.
const PARTS_IN_FLIGHT: usize = 4;

/// The most parts that stores take.
const PARTS_MAX: u16 = 10_000;

/// How long parts on their way may take to land when their upload is to be aborted.
const LANDING: Duration = Duration::from_secs(10);

/// Pieces smaller than this are joined: 4 KiB.
const CRUMB_BYTES: usize = 4 * 1024;

/// What arrived at the store, not yet visible.
#[derive(Debug)]
pub(super) struct Sent {
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
    pub body: Body,
    /// Room in the pool that a small body still needs: given back once it is stored.
    pub _room: Option<PartRoom>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Body {
    /// In memory: less than one part.
    Small(Segments),
    /// At the store, in parts.
    Parts(Upload, Vec<Part>),
}

/// Why a transfer ended early.
#[derive(Debug)]
pub(super) enum TransferError {
    /// The download.
    Download(DownloadError),
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
pub(super) struct Route<'a> {
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
    pub loose: &'a AtomicBool,
    /// How the object is to be stored; its checksum is filled in by the transfer.
    pub options: PutOptions,
}

/// Moves a download to the store, up to the commit. On any error the upload is aborted before it returns, or
/// [`Route::loose`] says that it could not be.
pub(super) async fn transfer(
    download: Download,
    proof: Proof,
    room: PartRoom,
    route: &Route<'_>,
) -> Result<Sent, TransferError> {
    let mut parts = Parts {
        route,
        upload: None,
        flying: JoinSet::new(),
        done: Vec::new(),
        spare: Vec::new(),
        next: 1,
    };
    let moved = parts.move_all(download, proof, room).await;
    if moved.is_err() {
        parts.abandon().await;
    }
    moved
}

struct Parts<'a> {
    route: &'a Route<'a>,
    upload: Option<Upload>,
    flying: JoinSet<(Result<Part, StoreError>, PartRoom)>,
    done: Vec<Part>,
    spare: Vec<PartRoom>,
    next: u16,
}

impl Parts<'_> {
    async fn move_all(
        &mut self,
        mut download: Download,
        mut proof: Proof,
        room: PartRoom,
    ) -> Result<Sent, TransferError> {
        let route = self.route;
        let mut filling = Filling::default();
        let mut room = Some(room);
        // Of what is in parts already.
        let mut in_parts = Crc64::of(b"");
        loop {
            let missing = route.part_bytes - filling.len();
            let piece = tokio::select! {
                biased;
                () = route.stop.cancelled() => return Err(TransferError::Stopped),
                piece = download.next_within(missing) => piece.map_err(TransferError::Download)?,
            };
            let Some(piece) = piece else { break };
            (route.progress)(download.received());
            proof.push(piece.clone()).await.map_err(TransferError::Proof)?;
            filling.push(piece);
            if filling.len() == route.part_bytes {
                let part = std::mem::take(&mut filling).into_segments();
                let so_far = Crc64(download.crc64nvme());
                let crc64 = so_far.since(in_parts, part.len());
                in_parts = so_far;
                let own = match room.take() {
                    Some(own) => own,
                    None => self.room().await?,
                };
                self.send(part, crc64, own).await?;
                room = Some(self.room().await?);
            }
        }
        // The download says how it ended once it gave its last byte.
        let end = download.end().unwrap_or(TransferEnd::CloseUnconfirmed);
        let (bytes, resumes) = (download.received(), download.resumes());
        let crc64 = Crc64(download.crc64nvme());
        drop(download);
        let rest = filling.into_segments();
        let proof = if bytes == 0 {
            None
        } else {
            Some(proof.finish().await.map_err(TransferError::Proof)?)
        };
        if self.upload.is_none() {
            return Ok(Sent {
                bytes,
                crc64,
                proof,
                end,
                resumes,
                body: Body::Small(rest),
                _room: room,
            });
        }
        if !rest.is_empty() {
            let own = match room.take() {
                Some(own) => own,
                None => self.room().await?,
            };
            let rest_crc64 = crc64.since(in_parts, rest.len());
            self.send(rest, rest_crc64, own).await?;
        }
        while !self.flying.is_empty() {
            self.land().await?;
        }
        let (Some(upload), mut parts) = (self.upload.clone(), std::mem::take(&mut self.done)) else {
            return Err(TransferError::Stopped);
        };
        parts.sort_by_key(|part| part.number);
        Ok(Sent {
            bytes,
            crc64,
            proof,
            end,
            resumes,
            body: Body::Parts(upload, parts),
            _room: None,
        })
    }

    /// Room for the next part: left over, free in the pool, or given back by a part that has landed.
    async fn room(&mut self) -> Result<PartRoom, TransferError> {
        loop {
            if let Some(room) = self.spare.pop() {
                return Ok(room);
            }
            if self.flying.len() < PARTS_IN_FLIGHT
                && let Some(room) = self.route.pool.try_reserve(self.route.part_bytes)
            {
                return Ok(room);
            }
            self.land().await?;
        }
    }

    async fn send(&mut self, body: Segments, crc64: Crc64, room: PartRoom) -> Result<(), TransferError> {
        if self.next > PARTS_MAX {
            return Err(TransferError::TooLarge);
        }
        let upload = if let Some(upload) = &self.upload {
            upload.clone()
        } else {
            let route = self.route;
            let begun = route.store.begin_upload(route.key, &route.options).await;
            let begun = begun.map_err(|error| {
                // Its reply may have been lost, and its id with it.
                route.loose.store(true, Ordering::Relaxed);
                TransferError::Store(error)
            })?;
            if begun.repeated {
                route.loose.store(true, Ordering::Relaxed);
            }
            self.upload.insert(begun).clone()
        };
        let (store, number) = (Arc::clone(self.route.store), self.next);
        self.next += 1;
        let span = tracing::info_span!("upload", part = number, bytes = body.len());
        let landing = async move { (store.upload_part(&upload, number, body, crc64).await, room) };
        self.flying.spawn(landing.instrument(span));
        Ok(())
    }

    /// Waits for one part to be at the store.
    async fn land(&mut self) -> Result<(), TransferError> {
        let landed = tokio::select! {
            () = self.route.stop.cancelled() => return Err(TransferError::Stopped),
            landed = self.flying.join_next() => landed,
        };
        match landed {
            Some(Ok((part, room))) => {
                self.done.push(part.map_err(TransferError::Store)?);
                self.spare.push(room);
                Ok(())
            }
            // A part's task cannot end otherwise than by the process stopping.
            Some(Err(_)) | None => Err(TransferError::Stopped),
        }
    }

    async fn abandon(&mut self) {
        // A part that is on its way while its upload is aborted may still arrive, and outlive the abort, so parts are let
        // land first. https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        let landed = tokio::select! {
            // Who is told to stop has no time for that: the next start sweeps it.
            () = self.route.stop.cancelled() => true,
            landed = timeout(LANDING, async { while self.flying.join_next().await.is_some() {} }) => landed.is_ok(),
        };
        if !landed {
            self.route.loose.store(true, Ordering::Relaxed);
        }
        self.flying.shutdown().await;
        if let Some(upload) = self.upload.take()
            && let Err(error) = self.route.store.abort_upload(&upload).await
        {
            self.route.loose.store(true, Ordering::Relaxed);
            tracing::warn!(%error, key = upload.key, "an upload could not be aborted: it is swept later");
        }
    }
}

/// The part that is being filled.
#[derive(Default)]
struct Filling {
    body: Segments,
    crumbs: BytesMut,
}

impl Filling {
    fn len(&self) -> u64 {
        self.body.len() + self.crumbs.len() as u64
    }

    fn push(&mut self, piece: Bytes) {
        if piece.len() < CRUMB_BYTES {
            self.crumbs.extend_from_slice(&piece);
            if self.crumbs.len() >= CRUMB_BYTES {
                self.sweep();
            }
        } else {
            self.sweep();
            self.body.push(piece);
        }
    }

    fn sweep(&mut self) {
        if !self.crumbs.is_empty() {
            self.body.push(self.crumbs.split().freeze());
        }
    }

    fn into_segments(mut self) -> Segments {
        self.sweep();
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_are_joined_and_nothing_is_lost() {
        let mut filling = Filling::default();
        let mut expected = Vec::new();
        for n in 0..100usize {
            let piece = vec![u8::try_from(n).unwrap(); n * 97];
            expected.extend_from_slice(&piece);
            filling.push(Bytes::from(piece));
            assert_eq!(filling.len(), expected.len() as u64);
        }
        let body = filling.into_segments();
        assert!(body.pieces().len() < 100);
        assert!(body.pieces().concat() == expected);
    }
}
