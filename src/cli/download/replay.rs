//! Proves a partial file again after an interruption, without relying on the state of the interrupted process. Reads a
//! file.

use std::io;

use bytes::BytesMut;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::part::{PartError, PartFile};
use super::part_state::PartState;
use crate::cli::progress::meter::ProgressMeter;
use crate::pipeline::prover::GzipStats;
use crate::pipeline::prover_pool::{ProverPool, StreamProver};
use crate::tracker::ResumePoint;

/// Size of a read: 256 KiB.
const READ_BYTES: usize = 256 * 1024;

/// What is proved of a download, and the place to go on.
#[derive(Debug)]
pub struct Position {
    /// Bytes of the current session.
    pub resume_point: ResumePoint,
    /// Contents of the complete sessions.
    pub stats: Vec<GzipStats>,
    /// SHA-256 of the bytes of the complete sessions, if there are any.
    pub sha256: Option<String>,
}

impl Position {
    /// Creates the position before the first byte.
    pub fn start() -> Self {
        Self {
            resume_point: ResumePoint::new(None),
            stats: Vec::new(),
            sha256: None,
        }
    }
}

/// Proves a partial file, and returns the position and the prover after its bytes. Truncates it before the first damaged
/// session, which is then downloaded again.
pub async fn replay(
    part: &PartFile,
    state: &mut PartState,
    pool: &ProverPool,
    meter: &mut ProgressMeter,
) -> Result<(Position, StreamProver), PartError> {
    // Each round removes a session or the tail.
    for _ in 0..state.sections.len() + 2 {
        let mut reader = PartReader {
            file: File::from_std(part.reader()?),
            total: part.bytes()?,
            at: 0,
            prover: pool.begin(),
        };
        let mut position = Position::start();
        let intact = reader.prove(state, &mut position, meter).await;
        if intact.map_err(|error| part.error("read", error))? {
            meter.finish();
            return Ok((position, reader.prover));
        }
        state.sections.truncate(position.stats.len());
        if let Some(current) = &mut state.current {
            current.total = None;
        }
        part.save(state)?;
        let boundary = state.boundary();
        part.truncate(boundary)?;
        meter.println(&format!(
            "{} is damaged after byte {boundary}: downloading the rest again.",
            part.path.display()
        ));
    }
    Err(part.error("read", io::Error::other("it changes while it is read")))
}

struct PartReader {
    file: File,
    total: u64,
    at: u64,
    prover: StreamProver,
}

impl PartReader {
    /// Proves all bytes; returns false at the first damaged session.
    async fn prove(
        &mut self,
        state: &PartState,
        position: &mut Position,
        meter: &mut ProgressMeter,
    ) -> io::Result<bool> {
        if self.total > 0 {
            meter.begin("Verifying partial file", 0);
        }
        for section in &state.sections {
            if section.bytes == 0 {
                position.stats.push(GzipStats::default());
                continue;
            }
            let end = self.at.saturating_add(section.bytes);
            let intact = self.feed(end, position, meter).await? && self.at == end;
            let facts = self.prover.finish_section().await;
            let Some(facts) = facts.ok().filter(|_| intact) else {
                return Ok(false);
            };
            position.stats.push(facts.stats);
            position.sha256 = Some(facts.sha256);
        }
        let current = state.current.as_ref();
        position.resume_point = ResumePoint::new(current.and_then(|current| current.total));
        if current.is_none() {
            return Ok(self.at == self.total);
        }
        // A queued batch reports its failure only with the next push, which may come much later.
        Ok(self.feed(u64::MAX, position, meter).await? && self.prover.flush().await.is_ok())
    }

    /// Reads and proves the bytes up to an offset or the end of the file; returns false if they are damaged.
    async fn feed(&mut self, until: u64, position: &mut Position, meter: &ProgressMeter) -> io::Result<bool> {
        loop {
            let left = usize::try_from(until - self.at).unwrap_or(READ_BYTES);
            let mut chunk = BytesMut::zeroed(left.min(READ_BYTES));
            let read = self.file.read(&mut chunk).await?;
            if read == 0 {
                return Ok(true);
            }
            chunk.truncate(read);
            self.at += read as u64;
            meter.set_position(self.at, Some(self.total));
            position.resume_point.push(&chunk);
            if self.prover.push(chunk.freeze()).await.is_err() {
                return Ok(false);
            }
        }
    }
}
