//! Proofs of bodies while their bytes pass, on the blocking threads of the runtime.
//!
//! The reference-counted chunks that a sink takes are also proved, in batches; a pool with one permit per processor keeps
//! proofs from starving other work. A copy has at most one batch being proved and one being filled, so a slow processor
//! slows the download. If a processor is free, a batch is hashed and inflated in parallel; otherwise in sequence.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::gzip::GzipError;
use super::prover::{BodyDigests, GzipStats, Prover};
use crate::storage::Crc64;

/// Size of a batch: 512 KiB, some milliseconds of work.
const BATCH_BYTES: usize = 512 * 1024;

/// Facts that a proof establishes about a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofFacts {
    /// SHA-256 of all bytes, hexadecimal.
    pub sha256: String,
    /// CRC-64/NVME of all bytes.
    pub crc64: Crc64,
    /// Contents.
    pub stats: GzipStats,
}

/// A stream that cannot be proved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The stream is not complete gzip.
    #[error(transparent)]
    Gzip(#[from] GzipError),
    /// The proving thread ended without a result: the process is stopping, or a bug.
    #[error("verification of the download was interrupted")]
    Interrupted,
    /// The reader of the decompressed bytes is gone.
    #[error("the reader of the decompressed bytes is closed")]
    ReaderClosed,
}

/// Limits concurrent proofs to the number of processors.
#[derive(Clone, Debug)]
pub struct ProverPool(Arc<Semaphore>);

impl ProverPool {
    /// Creates a pool that runs one proof per processor.
    pub fn new(processors: usize) -> Self {
        Self(Arc::new(Semaphore::new(processors.max(1))))
    }

    /// Starts a proof.
    pub fn begin(&self) -> StreamProver {
        self.begin_into(None)
    }

    /// Starts a proof that sends the decompressed bytes to a reader. A slow reader slows the proof, which holds its
    /// permit meanwhile: only for a pool that serves one copy.
    pub fn begin_into(&self, inflated: Option<mpsc::Sender<Bytes>>) -> StreamProver {
        StreamProver {
            pool: self.clone(),
            state: Some(Box::new(ProverState {
                prover: Prover::default(),
                inflated,
            })),
            running: None,
            batch: Vec::new(),
            filled: 0,
        }
    }
}

struct ProverState {
    prover: Prover,
    /// Reader of the decompressed bytes.
    inflated: Option<mpsc::Sender<Bytes>>,
}

impl ProverState {
    /// Proves the contents. Runs on a blocking thread: waits for the reader.
    fn push_contents(&mut self, bytes: &[u8]) -> Result<(), ProofError> {
        let mut closed = false;
        let reader = self.inflated.as_ref();
        self.prover.contents.push(bytes, &mut |data| {
            if let Some(reader) = reader.filter(|_| !closed && !data.is_empty()) {
                closed = reader.blocking_send(Bytes::copy_from_slice(data)).is_err();
            }
        })?;
        if closed {
            Err(ProofError::ReaderClosed)
        } else {
            Ok(())
        }
    }

    /// Returns the facts of the bytes since the last section; the digests cover all bytes.
    fn finish_section(&mut self) -> Result<ProofFacts, ProofError> {
        let proof = self.prover.finish();
        Ok(ProofFacts {
            sha256: proof.sha256,
            crc64: proof.crc64,
            stats: proof.stats?,
        })
    }
}

/// A batch that is being proved.
struct RunningBatch {
    /// The contents, and the digests unless they are made aside.
    state: JoinHandle<Result<Box<ProverState>, ProofError>>,
    /// The digests, on a processor of their own.
    digest_task: Option<JoinHandle<BodyDigests>>,
}

/// A proof under way. Exactly one of `state` and `running` is there between calls.
pub struct StreamProver {
    pool: ProverPool,
    state: Option<Box<ProverState>>,
    running: Option<RunningBatch>,
    batch: Vec<Bytes>,
    filled: usize,
}

impl StreamProver {
    /// Adds the next bytes; waits if the batch is full while the previous one is still being proved.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), ProofError> {
        self.filled += bytes.len();
        self.batch.push(bytes);
        if self.filled >= BATCH_BYTES {
            self.submit_batch().await
        } else {
            Ok(())
        }
    }

    /// Ends one of several concatenated streams and returns its facts; the next one begins. The digests cover all bytes
    /// since the beginning.
    pub async fn finish_section(&mut self) -> Result<ProofFacts, ProofError> {
        self.flush().await?;
        self.state
            .as_mut()
            .ok_or(ProofError::Interrupted)?
            .finish_section()
    }

    /// Waits until all added bytes are proved.
    pub async fn flush(&mut self) -> Result<(), ProofError> {
        self.submit_batch().await?;
        self.join_batch().await
    }

    async fn join_batch(&mut self) -> Result<(), ProofError> {
        if let Some(running) = self.running.take() {
            let mut state = running.state.await.map_err(|_| ProofError::Interrupted)??;
            if let Some(digest_task) = running.digest_task {
                state.prover.digests = digest_task.await.map_err(|_| ProofError::Interrupted)?;
            }
            self.state = Some(state);
        }
        Ok(())
    }

    async fn submit_batch(&mut self) -> Result<(), ProofError> {
        self.join_batch().await?;
        let mut state = self.state.take().ok_or(ProofError::Interrupted)?;
        let batch = std::mem::take(&mut self.batch);
        self.filled = 0;
        let pool = || Arc::clone(&self.pool.0);
        let permit = pool()
            .acquire_owned()
            .await
            .map_err(|_| ProofError::Interrupted)?;
        let digest_task = pool().try_acquire_owned().ok().map(|permit| {
            let (batch, mut digests) = (batch.clone(), std::mem::take(&mut state.prover.digests));
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                for bytes in &batch {
                    digests.push(bytes);
                }
                digests
            })
        });
        let digested = digest_task.is_some();
        let state = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            for bytes in &batch {
                if !digested {
                    state.prover.digests.push(bytes);
                }
                state.push_contents(bytes)?;
            }
            Ok(state)
        });
        self.running = Some(RunningBatch { state, digest_task });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;

    use sha2::{Digest as _, Sha256};

    use super::super::events::EventCount;
    use super::super::prover::hex;
    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn a_proof_counts_and_hashes_what_passed() {
        let mut lines = String::new();
        for n in 0..50_000 {
            writeln!(lines, "{{\"n\":{n},\"x\":\"{}\"}}", n * 7919).unwrap();
        }
        let bytes = [gzip(lines.as_bytes()), gzip(b"{\"n\":0}\n")].concat();
        let sha256 = hex(&Sha256::digest(&bytes));
        let expected = ProofFacts {
            sha256,
            crc64: Crc64::of(&bytes),
            stats: GzipStats {
                members: 2,
                decompressed: lines.len() as u64 + 8,
                events: EventCount {
                    events: 50_001,
                    uncounted: None,
                },
            },
        };
        // With one processor hashing and inflating run in sequence, with more in parallel.
        for processors in [1, 2] {
            let mut proof = ProverPool::new(processors).begin();
            for chunk in bytes.chunks(10_000) {
                proof.push(Bytes::copy_from_slice(chunk)).await.unwrap();
            }
            assert_eq!(
                proof.finish_section().await.as_ref(),
                Ok(&expected),
                "{processors} processors"
            );
        }
    }

    #[tokio::test]
    async fn a_broken_stream_is_rejected_while_it_passes() {
        let mut bytes = gzip(&vec![b'\n'; 4_000_000]);
        bytes.extend(std::iter::repeat_n(0u8, 3 * BATCH_BYTES));
        let mut proof = ProverPool::new(1).begin();
        let mut result = Ok(());
        for chunk in bytes.chunks(100_000) {
            result = proof.push(Bytes::copy_from_slice(chunk)).await;
            if result.is_err() {
                break;
            }
        }
        assert_eq!(result, Err(ProofError::Gzip(GzipError::Trailing { members: 1 })));
    }
}
