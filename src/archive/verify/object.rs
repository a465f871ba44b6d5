//! Reads one object, and checks its bytes by the prover of downloads. Reads files and the store, in bounded memory: three ranges
//! of an object of a bucket, or one buffer of a file.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::options::VerifyProgress;
use super::pace::Pace;
use crate::pipeline::prover::{Proof, Prover};
use crate::storage::{ObjectSummary, Store, StoreError};

/// Size of the pieces that are checked at a time: 256 KiB, which fit the processor's cache.
const PIECE_BYTES: usize = 256 * 1024;
/// Size of the ranges that are read from a bucket: 4 MiB.
const RANGE_BYTES: u64 = 4 << 20;

/// Receiver of the decompressed data of an object, which is not proved before its end.
pub trait DataReceiver: Send + 'static {
    /// Takes the next data.
    fn push(&mut self, data: &[u8]);

    /// Returns true if no more data is wanted: the rest of the object is not read.
    fn is_closed(&self) -> bool;
}

/// Receives nothing, and has every object read to its end.
impl DataReceiver for () {
    fn push(&mut self, _: &[u8]) {}

    fn is_closed(&self) -> bool {
        false
    }
}

/// Reads the objects of a store.
#[derive(Debug)]
pub struct ObjectReader {
    /// Store of the objects.
    pub store: Arc<dyn Store>,
    /// Bound of the bytes per second; `None`: no limit.
    pub pace: Option<Pace>,
    /// Counts the bytes.
    pub progress: Arc<VerifyProgress>,
}

impl ObjectReader {
    /// Reads and checks an object that should inflate to at most `limit` bytes, and passes its data to a receiver. Returns
    /// the proof of the bytes read, and the receiver; `None` if the object was deleted after the listing.
    pub async fn prove<R: DataReceiver>(
        &self,
        listed: &ObjectSummary,
        limit: u64,
        receiver: R,
    ) -> Result<Option<(Proof, R)>, StoreError> {
        // A file is read at once, which cannot be slowed down.
        if self.store.is_local() && self.pace.is_none() {
            self.prove_file(listed, limit, receiver).await
        } else {
            self.prove_ranges(listed, limit, receiver).await
        }
    }

    async fn prove_file<R: DataReceiver>(
        &self,
        listed: &ObjectSummary,
        limit: u64,
        receiver: R,
    ) -> Result<Option<(Proof, R)>, StoreError> {
        let (store, key, size) = (Arc::clone(&self.store), listed.key.clone(), listed.size);
        let mut proving = Proving::new(limit, receiver);
        let progress = Arc::clone(&self.progress);
        let read = tokio::task::spawn_blocking(move || {
            let Some(file) = store.open_local(&key)? else {
                return Ok(None);
            };
            Ok::<_, StoreError>(Some(
                proving.read(file, size, &progress).map(|()| proving.finish()),
            ))
        })
        .await
        .map_err(|error| self.interrupted(listed, &error))??;
        read.transpose()
            .map_err(|error| self.error(listed, format!("cannot read: {error}")))
    }

    async fn prove_ranges<R: DataReceiver>(
        &self,
        listed: &ObjectSummary,
        limit: u64,
        receiver: R,
    ) -> Result<Option<(Proof, R)>, StoreError> {
        // One range is checked, one waits, one is being read.
        let (ranges, mut queue) = mpsc::channel::<Bytes>(1);
        let mut proving = Proving::new(limit, receiver);
        let prover = tokio::task::spawn_blocking(move || {
            while let Some(range) = queue.blocking_recv() {
                if !range.chunks(PIECE_BYTES).all(|piece| proving.push(piece)) {
                    break;
                }
            }
            proving.finish()
        });
        let mut offset = 0;
        while offset < listed.size {
            let rest = listed.size - offset;
            let wanted = match &self.pace {
                None => RANGE_BYTES.min(rest),
                Some(pace) => pace.next_read(RANGE_BYTES.min(rest)).await,
            };
            let range = self
                .store
                .get_range(&listed.key, offset, wanted, listed.etag.as_deref());
            let Some(range) = range.await? else {
                return Ok(None);
            };
            if range.is_empty() {
                return Err(self.error(listed, "the object is shorter than its listed size".to_owned()));
            }
            let length = range.len() as u64;
            offset += length;
            if ranges.send(range).await.is_err() {
                break;
            }
            self.progress.bytes_done.fetch_add(length, Ordering::Relaxed);
        }
        drop(ranges);
        let outcome = prover.await;
        outcome
            .map(Some)
            .map_err(|error| self.interrupted(listed, &error))
    }

    fn interrupted(&self, listed: &ObjectSummary, error: &tokio::task::JoinError) -> StoreError {
        self.error(listed, format!("the check was interrupted: {error}"))
    }

    fn error(&self, listed: &ObjectSummary, message: String) -> StoreError {
        StoreError::Io {
            store: self.store.identity().to_string(),
            key: listed.key.clone(),
            message,
        }
    }
}

/// Proof in progress, with the receiver of the data.
struct Proving<R> {
    prover: Prover,
    receiver: R,
}

impl<R: DataReceiver> Proving<R> {
    fn new(limit: u64, receiver: R) -> Self {
        Self {
            prover: Prover::with_limit(limit),
            receiver,
        }
    }

    /// Reads a file of `size` bytes, and one byte more at most: it may grow meanwhile.
    fn read(&mut self, file: File, size: u64, progress: &VerifyProgress) -> io::Result<()> {
        let mut file = file.take(size.saturating_add(1));
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    progress.bytes_done.fetch_add(read as u64, Ordering::Relaxed);
                    if !self.push(buffer.get(..read).unwrap_or_default()) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds the next bytes; returns false if the receiver is closed.
    fn push(&mut self, bytes: &[u8]) -> bool {
        let Self { prover, receiver } = self;
        prover.push_into(bytes, &mut |data| receiver.push(data));
        !receiver.is_closed()
    }

    fn finish(mut self) -> (Proof, R) {
        (self.prover.finish(), self.receiver)
    }
}
