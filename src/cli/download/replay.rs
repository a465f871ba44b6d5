//! Verifies a partial file again after an interruption, without relying on the state of the interrupted process.
//! Reads a file.

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;

use super::meter::ProgressMeter;
use super::part::{PartError, PartFile, io_error};
use crate::pipeline::prover_pool::{ProofError, ProofFacts, ProverPool, StreamProver};
use crate::tracker::ResumePoint;

/// Size of a read: 256 KiB.
const READ_BYTES: usize = 256 * 1024;

/// Verified partial file.
pub struct ReplayedPart {
    /// Prover that has read all bytes of the file.
    pub proof: StreamProver,
    /// Bytes of the current session.
    pub resume_point: ResumePoint,
    /// SHA-256 of the bytes before the current session, if there are any.
    pub sha256: Option<String>,
}

/// Verifies a partial file. Truncates it before the first damaged session, which is then downloaded again.
pub async fn replay(
    part: &mut PartFile,
    pool: &ProverPool,
    meter: &mut ProgressMeter,
) -> Result<ReplayedPart, PartError> {
    // Each round removes a section or the tail.
    for _ in 0..=part.state().sections.len() {
        match replay_once(part, pool, meter).await? {
            Ok(replayed) => return Ok(replayed),
            Err(DamagedPart { intact }) => {
                part.update_state(|state| {
                    if intact < state.sections.len() {
                        state.sections.truncate(intact);
                    }
                    if let Some(current) = &mut state.current {
                        current.total = None;
                    }
                })?;
                let boundary = part.state().boundary();
                part.truncate(boundary)?;
                meter.println(&format!(
                    "{} is damaged after byte {boundary}: downloading the rest again.",
                    part.paths.part.display()
                ));
            }
        }
    }
    part.update_state(|state| state.sections.clear())?;
    part.truncate(0)?;
    Ok(ReplayedPart {
        proof: pool.begin(),
        resume_point: ResumePoint::new(None),
        sha256: None,
    })
}

/// Partial file with invalid bytes.
struct DamagedPart {
    /// Number of valid sections before them.
    intact: usize,
}

async fn replay_once(
    part: &PartFile,
    pool: &ProverPool,
    meter: &mut ProgressMeter,
) -> Result<Result<ReplayedPart, DamagedPart>, PartError> {
    let state = part.state();
    let total = part.bytes()?;
    let mut reader = PartReader {
        file: tokio::fs::File::from_std(part.reader()?),
        part,
        at: 0,
        total,
    };
    if total > 0 {
        meter.begin("Verifying partial file", 0);
    }
    let mut proof = pool.begin();
    let mut sha256 = None;
    for (intact, section) in state.sections.iter().enumerate() {
        let mut remaining = section.bytes;
        while let Some(chunk) = reader.next(remaining, meter).await? {
            remaining -= chunk.len() as u64;
            if proof.push(chunk).await.is_err() {
                return Ok(Err(DamagedPart { intact }));
            }
        }
        if section.bytes > 0 {
            let facts: Result<ProofFacts, ProofError> = proof.finish_section().await;
            let Some(facts) = facts
                .ok()
                .filter(|facts| remaining == 0 && facts.events.events == section.events)
            else {
                return Ok(Err(DamagedPart { intact }));
            };
            sha256 = Some(facts.sha256);
        }
    }
    let intact = state.sections.len();
    let mut resume_point = ResumePoint::new(state.current.as_ref().and_then(|current| current.total));
    if state.current.is_some() {
        while let Some(chunk) = reader.next(u64::MAX, meter).await? {
            resume_point.push(&chunk);
            if proof.push(chunk).await.is_err() {
                return Ok(Err(DamagedPart { intact }));
            }
        }
        // A queued batch reports its failure only with the next push, which may come much later.
        if proof.flush().await.is_err() {
            return Ok(Err(DamagedPart { intact }));
        }
    } else if reader.at < total {
        return Ok(Err(DamagedPart { intact }));
    }
    meter.finish();
    Ok(Ok(ReplayedPart {
        proof,
        resume_point,
        sha256,
    }))
}

struct PartReader<'a> {
    file: tokio::fs::File,
    part: &'a PartFile,
    at: u64,
    total: u64,
}

impl PartReader<'_> {
    /// Reads at most `limit` bytes; `None` at the end.
    async fn next(&mut self, limit: u64, meter: &ProgressMeter) -> Result<Option<Bytes>, PartError> {
        let limit = usize::try_from(limit).unwrap_or(READ_BYTES).min(READ_BYTES);
        if limit == 0 {
            return Ok(None);
        }
        let mut chunk = BytesMut::zeroed(limit);
        let read = self
            .file
            .read(&mut chunk)
            .await
            .map_err(|error| io_error(&self.part.paths.part, "read", error))?;
        chunk.truncate(read);
        self.at += read as u64;
        meter.set_position(self.at, Some(self.total));
        Ok((read > 0).then(|| chunk.freeze()))
    }
}
