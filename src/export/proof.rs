//! The proof of a transfer: SHA-256, whole gzip and the event count, computed while bytes pass.
//!
//! The same reference-counted pieces that are uploaded pass here, in batches, on the blocking threads of the
//! runtime; a pool of as many permits as processors keeps proofs from crowding out everything else. A
//! transfer has at most one batch being proved and one being filled, so a slow processor slows the download.
//! While a processor is to spare, a batch is hashed on it beside being inflated; else one after the other.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::events::{EventCounter, EventsError};
use super::gzip::{GzipError, GzipVerifier};

/// Bytes of a batch: 512 KiB, some milliseconds of work.
const BATCH_BYTES: usize = 512 * 1024;

/// What was proved of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofFacts {
    /// SHA-256 of the bytes, hexadecimal.
    pub sha256: String,
    /// Members of the gzip.
    pub members: u64,
    /// Bytes after decompression.
    pub decompressed: u64,
    /// Events counted.
    pub events: u64,
}

/// Why a stream is no proof.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not whole gzip.
    #[error(transparent)]
    Gzip(#[from] GzipError),
    /// Not events.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// The proving thread ended without a result: the process is stopping, or a defect of ours.
    #[error("the proof was interrupted")]
    Interrupted,
    /// Whoever was to read the decompressed bytes has gone.
    #[error("nobody reads the decompressed bytes any more")]
    ReaderClosed,
}

/// The processors that proofs may use.
#[derive(Clone, Debug)]
pub struct ProverPool(Arc<Semaphore>);

impl ProverPool {
    /// As many proofs at a time as there are processors.
    pub fn new(processors: usize) -> Self {
        Self(Arc::new(Semaphore::new(processors.max(1))))
    }

    /// Begins a proof.
    pub fn begin(&self) -> StreamProver {
        self.begin_into(None)
    }

    /// Begins a proof that gives what it inflates to a reader, who slows it down by being slow.
    pub fn begin_into(&self, inflated: Option<mpsc::Sender<Bytes>>) -> StreamProver {
        let contents = ContentState {
            inflated,
            ..ContentState::default()
        };
        let state = ProverState {
            contents,
            ..ProverState::default()
        };
        StreamProver {
            pool: self.clone(),
            state: Some(Box::new(state)),
            running: None,
            batch: Vec::new(),
            filled: 0,
        }
    }
}

#[derive(Default)]
struct ProverState {
    sha: Sha256,
    contents: ContentState,
}

/// What is in the bytes.
#[derive(Default)]
struct ContentState {
    gzip: GzipVerifier,
    events: EventCounter,
    /// Who reads what comes out.
    inflated: Option<mpsc::Sender<Bytes>>,
}

impl ContentState {
    /// On a blocking thread: waits for the reader.
    fn push(&mut self, bytes: &[u8]) -> Result<(), ProofError> {
        let Self {
            gzip,
            events,
            inflated,
        } = self;
        let mut closed = false;
        gzip.push(bytes, &mut |data| {
            events.push(data);
            if let Some(reader) = inflated.as_ref().filter(|_| !closed && !data.is_empty()) {
                closed = reader.blocking_send(Bytes::copy_from_slice(data)).is_err();
            }
        })?;
        if closed {
            Err(ProofError::ReaderClosed)
        } else {
            Ok(())
        }
    }
}

impl ProverState {
    /// The facts of what passed since the last division; the hash is of everything.
    fn finish_section(&mut self) -> Result<ProofFacts, ProofError> {
        let (members, decompressed) = std::mem::take(&mut self.contents.gzip).finish()?;
        let events = std::mem::take(&mut self.contents.events).finish()?;
        let sha256 = hex(&self.sha.clone().finalize());
        Ok(ProofFacts {
            sha256,
            members,
            decompressed,
            events,
        })
    }
}

/// A batch that is being proved.
struct RunningBatch {
    /// The contents, and the hash unless it is made aside.
    state: JoinHandle<Result<Box<ProverState>, ProofError>>,
    /// The hash, on a processor of its own.
    hash_task: Option<JoinHandle<Sha256>>,
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
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
    /// Takes the next bytes; waits while an earlier batch is still being proved and this one is full.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), ProofError> {
        self.filled += bytes.len();
        self.batch.push(bytes);
        if self.filled >= BATCH_BYTES {
            self.submit_batch().await
        } else {
            Ok(())
        }
    }

    /// The facts, once every byte has passed.
    pub async fn finish(mut self) -> Result<ProofFacts, ProofError> {
        self.finish_section().await
    }

    /// The facts of one of several streams that stand one behind the other: it is whole, and the next begins. The
    /// hash is of everything since the beginning.
    pub async fn finish_section(&mut self) -> Result<ProofFacts, ProofError> {
        self.flush().await?;
        self.state
            .as_mut()
            .ok_or(ProofError::Interrupted)?
            .finish_section()
    }

    /// Waits until all that was given has passed.
    pub async fn flush(&mut self) -> Result<(), ProofError> {
        self.submit_batch().await?;
        self.join_batch().await
    }

    async fn join_batch(&mut self) -> Result<(), ProofError> {
        if let Some(running) = self.running.take() {
            let mut state = running.state.await.map_err(|_| ProofError::Interrupted)??;
            if let Some(hash_task) = running.hash_task {
                state.sha = hash_task.await.map_err(|_| ProofError::Interrupted)?;
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
        let hash_task = pool().try_acquire_owned().ok().map(|permit| {
            let (batch, mut sha) = (batch.clone(), std::mem::take(&mut state.sha));
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                for bytes in &batch {
                    sha.update(bytes);
                }
                sha
            })
        });
        let hashed = hash_task.is_some();
        let state = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            for bytes in &batch {
                if !hashed {
                    state.sha.update(bytes);
                }
                state.contents.push(bytes)?;
            }
            Ok(state)
        });
        self.running = Some(RunningBatch { state, hash_task });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::io::Write as _;

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
            members: 2,
            decompressed: lines.len() as u64 + 8,
            events: 50_001,
        };
        // With one processor the hash is made in turn, with more beside.
        for processors in [1, 2] {
            let mut proof = ProverPool::new(processors).begin();
            for piece in bytes.chunks(10_000) {
                proof.push(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            assert_eq!(
                proof.finish().await.as_ref(),
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
        for piece in bytes.chunks(100_000) {
            result = proof.push(Bytes::copy_from_slice(piece)).await;
            if result.is_err() {
                break;
            }
        }
        assert_eq!(result, Err(ProofError::Gzip(GzipError::Trailing { members: 1 })));
    }
}
