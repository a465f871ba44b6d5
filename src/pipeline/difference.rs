//! Supplement of two stored bodies: reads an earlier and a later one, compares them, and copies the new events to a sink.
//! Bounded memory for any size. I/O with the store and the sink.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::copy::{CopyError, Sink};
use super::gzip::GzipError;
use super::prover::{Proof, Prover};
use super::supplement::{CompareError, Comparer, Comparison, PASS_EVENTS};
use crate::storage::{Crc64, Store, StoreError};

/// Size of the ranges that are read from the store: 4 MiB.
const RANGE_BYTES: u64 = 4 << 20;

/// Compressed bytes that are compared at once on a blocking thread: 256 KiB.
const PIECE_BYTES: usize = 256 * 1024;

/// Memory for one event of the table of a comparison, in bytes: a digest and a count, and as much again while it grows.
const EVENT_BYTES: u64 = 48;

/// A stored body with the facts that its receipt states.
#[derive(Clone, Debug)]
pub struct StoredBody {
    /// The full key.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal digits.
    pub sha256: String,
    /// Size after decompression in bytes.
    pub decompressed: u64,
}

/// A supplement in a sink.
#[derive(Debug)]
pub struct StoredSupplement<B> {
    /// Proof of its bytes.
    pub proof: Proof,
    /// What the sink holds.
    pub body: B,
}

/// Result of a comparison of stored bodies.
#[derive(Debug)]
pub enum Difference<B> {
    /// The later body has all events of the earlier one; the supplement holds the others.
    Contained(StoredSupplement<B>),
    /// The later body lacks events of the earlier one.
    Changed(Comparison),
}

/// A comparison that ended early.
#[derive(Debug)]
pub enum DifferenceError<E> {
    /// A stored body cannot be read or compared.
    Body(BodyError),
    /// The sink failed.
    Sink(CopyError<E>),
}

impl<E> From<BodyError> for DifferenceError<E> {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

/// Error of a stored body.
#[derive(Debug)]
pub enum BodyError {
    /// The store failed.
    Store(StoreError),
    /// A body has other bytes than its receipt states, or does not exist.
    BodyDiffers {
        /// The full key.
        key: String,
    },
    /// A body is no complete gzip.
    Gzip(GzipError),
    /// The bodies cannot be compared.
    Compare(CompareError),
    /// The comparison was interrupted: the process is stopping, or a bug.
    Interrupted,
}

/// Returns the memory that a comparison needs besides its sink, in bytes. `events`: number of earlier events.
pub fn memory_of_comparison(events: u64) -> u64 {
    RANGE_BYTES + EVENT_BYTES * events.min(PASS_EVENTS)
}

/// Which body the next bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Earlier,
    Later,
}

/// State of a comparison that moves to a blocking thread and back.
#[derive(Debug)]
struct ComparisonState {
    comparer: Comparer,
    /// Prover of the body that is being read.
    body: Prover,
    /// Prover of the supplement.
    supplement: Prover,
}

/// Compares two stored bodies and copies the new events to the sink, as a gzip of lines. `earlier`: `None` if nothing is
/// stored yet; it has `earlier_events`. Aborts the sink unless it returns a supplement.
pub async fn copy_difference<S: Sink>(
    store: &dyn Store,
    earlier: Option<(&StoredBody, u64)>,
    later: &StoredBody,
    sink: &mut S,
    stop: &CancellationToken,
) -> Result<Difference<S::Body>, DifferenceError<S::Error>> {
    let work = compare(store, earlier, later, sink);
    let result = tokio::select! {
        biased;
        () = stop.cancelled() => Err(DifferenceError::Sink(CopyError::Stopped)),
        result = work => result,
    };
    if !matches!(result, Ok(Difference::Contained(_))) {
        sink.abort().await;
    }
    result
}

async fn compare<S: Sink>(
    store: &dyn Store,
    earlier: Option<(&StoredBody, u64)>,
    later: &StoredBody,
    sink: &mut S,
) -> Result<Difference<S::Body>, DifferenceError<S::Error>> {
    let events = earlier.map_or(0, |(_, events)| events);
    let mut state = ComparisonState {
        comparer: Comparer::new(events).map_err(BodyError::Compare)?,
        body: Prover::default(),
        supplement: Prover::default(),
    };
    let mut crc64 = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    loop {
        if let Some((body, _)) = earlier {
            state = read_body(store, body, Side::Earlier, state, sink, &mut crc64).await?;
            state.comparer.end_earlier().map_err(BodyError::Compare)?;
        }
        state = read_body(store, later, Side::Later, state, sink, &mut crc64).await?;
        if !state.comparer.end_pass().map_err(BodyError::Compare)? {
            break;
        }
    }
    let ComparisonState {
        comparer,
        mut supplement,
        ..
    } = state;
    let (comparison, rest) = comparer.finish();
    if comparison.missing > 0 {
        return Ok(Difference::Changed(comparison));
    }
    supplement.push(&rest);
    push(sink, rest.into(), &mut crc64).await?;
    let body = sink
        .finish(Crc64(crc64.finalize()))
        .await
        .map_err(DifferenceError::Sink)?;
    let proof = supplement.finish();
    Ok(Difference::Contained(StoredSupplement { proof, body }))
}

/// Reads a body to its end, compares its events, and checks that it has the bytes that its receipt states.
async fn read_body<S: Sink>(
    store: &dyn Store,
    body: &StoredBody,
    side: Side,
    mut state: ComparisonState,
    sink: &mut S,
    crc64: &mut crc_fast::Digest,
) -> Result<ComparisonState, DifferenceError<S::Error>> {
    state.body = Prover::with_limit(body.decompressed);
    let differs = || BodyError::BodyDiffers {
        key: body.key.clone(),
    };
    let mut offset = 0;
    while offset < body.bytes {
        let wanted = RANGE_BYTES.min(body.bytes - offset);
        let range = store.get_range(&body.key, offset, wanted, None).await;
        let mut range = range.map_err(BodyError::Store)?.ok_or_else(differs)?;
        if range.is_empty() {
            return Err(differs().into());
        }
        offset += range.len() as u64;
        while !range.is_empty() {
            let piece = range.split_to(PIECE_BYTES.min(range.len()));
            let output;
            (state, output) = compare_piece(state, piece, side).await?;
            if !output.is_empty() {
                push(sink, output.into(), crc64).await?;
            }
        }
    }
    let proof = state.body.finish();
    proof.stats.map_err(BodyError::Gzip)?;
    if proof.sha256 != body.sha256.to_ascii_lowercase() {
        return Err(differs().into());
    }
    Ok(state)
}

/// Compares the events of a piece on a blocking thread. Returns compressed bytes of the supplement.
async fn compare_piece(
    state: ComparisonState,
    piece: Bytes,
    side: Side,
) -> Result<(ComparisonState, Vec<u8>), BodyError> {
    let compared = tokio::task::spawn_blocking(move || {
        let ComparisonState {
            mut comparer,
            mut body,
            mut supplement,
        } = state;
        let (mut output, mut compared) = (Vec::new(), Ok(()));
        body.digests.push(&piece);
        let inflated = body.contents.push(&piece, &mut |data| {
            if compared.is_err() {
                return;
            }
            compared = match side {
                Side::Earlier => comparer.push_earlier(data),
                Side::Later => comparer.push_later(data).map(|new| output.extend(new)),
            };
        });
        inflated.map_err(BodyError::Gzip)?;
        compared.map_err(BodyError::Compare)?;
        supplement.push(&output);
        let state = ComparisonState {
            comparer,
            body,
            supplement,
        };
        Ok((state, output))
    });
    compared.await.unwrap_or(Err(BodyError::Interrupted))
}

/// Passes bytes to a sink, in chunks for which it has room.
async fn push<S: Sink>(
    sink: &mut S,
    mut bytes: Bytes,
    crc64: &mut crc_fast::Digest,
) -> Result<(), DifferenceError<S::Error>> {
    while !bytes.is_empty() {
        let room = usize::try_from(sink.room()).unwrap_or(usize::MAX);
        let chunk = bytes.split_to(room.min(bytes.len()));
        crc64.update(&chunk);
        sink.push(chunk, Crc64(crc64.finalize()))
            .await
            .map_err(DifferenceError::Sink)?;
    }
    Ok(())
}
