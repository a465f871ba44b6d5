//! Reads a partial file again after an interruption: what is there is proved anew, so nothing rests on what a process
//! that died may have believed. Reads a file.

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;

use super::meter::Meter;
use super::part::{Part, PartError, io_error};
use crate::export::proof::{Proof, ProofError, ProofFacts, ProofPool};
use crate::tracker::Held;

/// Bytes that are read at a time: 256 KiB.
const READ_BYTES: usize = 256 * 1024;

/// A part as it stands.
pub struct Replayed {
    /// The proof, as far as the bytes go.
    pub proof: Proof,
    /// The bytes of the session in transfer.
    pub held: Held,
    /// The hash of everything up to the session in transfer, where there is anything.
    pub sha256: Option<String>,
}

/// Proves a part anew. What does not prove is cut off, with all that follows, and its session begins anew.
pub async fn replay(part: &mut Part, pool: &ProofPool, meter: &mut Meter) -> Result<Replayed, PartError> {
    // Each round cuts something off, so there are as many as there are sections, and one for the tail.
    for _ in 0..=part.note().sections.len() {
        match attempt(part, pool, meter).await? {
            Ok(replayed) => return Ok(replayed),
            Err(Broken { sound }) => {
                part.noted(|note| {
                    if sound < note.sections.len() {
                        note.sections.truncate(sound);
                    }
                    if let Some(current) = &mut note.current {
                        current.total = None;
                    }
                })?;
                let boundary = part.note().boundary();
                part.truncate(boundary)?;
                meter.remark(&format!(
                    "What is behind byte {boundary} of {} is damaged and is downloaded again.",
                    part.names.part.display()
                ));
            }
        }
    }
    part.noted(|note| note.sections.clear())?;
    part.truncate(0)?;
    Ok(Replayed {
        proof: pool.begin(),
        held: Held::of(None),
        sha256: None,
    })
}

/// Some bytes do not prove; so many sections before them do.
struct Broken {
    sound: usize,
}

async fn attempt(
    part: &Part,
    pool: &ProofPool,
    meter: &mut Meter,
) -> Result<Result<Replayed, Broken>, PartError> {
    let note = part.note();
    let total = part.bytes()?;
    let mut reader = Reader {
        file: tokio::fs::File::from_std(part.reader()?),
        part,
        at: 0,
        total,
    };
    if total > 0 {
        meter.begin("Checking what is there", 0);
    }
    let mut proof = pool.begin();
    let mut sha256 = None;
    for (sound, section) in note.sections.iter().enumerate() {
        let mut left = section.bytes;
        while let Some(piece) = reader.next(left, meter).await? {
            left -= piece.len() as u64;
            if proof.push(piece).await.is_err() {
                return Ok(Err(Broken { sound }));
            }
        }
        if section.bytes > 0 {
            let facts: Result<ProofFacts, ProofError> = proof.divide().await;
            let Some(facts) = facts
                .ok()
                .filter(|facts| left == 0 && facts.events == section.events)
            else {
                return Ok(Err(Broken { sound }));
            };
            sha256 = Some(facts.sha256);
        }
    }
    let sound = note.sections.len();
    let mut held = Held::of(note.current.as_ref().and_then(|current| current.total));
    if note.current.is_some() {
        while let Some(piece) = reader.next(u64::MAX, meter).await? {
            held.push(&piece);
            if proof.push(piece).await.is_err() {
                return Ok(Err(Broken { sound }));
            }
        }
        // A batch that is still on its way tells its failure to the next, which may be long in coming.
        if proof.flush().await.is_err() {
            return Ok(Err(Broken { sound }));
        }
    } else if reader.at < total {
        return Ok(Err(Broken { sound }));
    }
    meter.finish();
    Ok(Ok(Replayed { proof, held, sha256 }))
}

struct Reader<'a> {
    file: tokio::fs::File,
    part: &'a Part,
    at: u64,
    total: u64,
}

impl Reader<'_> {
    /// The next bytes, at most so many; `None` at the end.
    async fn next(&mut self, most: u64, meter: &Meter) -> Result<Option<Bytes>, PartError> {
        let most = usize::try_from(most).unwrap_or(READ_BYTES).min(READ_BYTES);
        if most == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::zeroed(most);
        let read = self
            .file
            .read(&mut piece)
            .await
            .map_err(|error| io_error(&self.part.names.part, "read", error))?;
        piece.truncate(read);
        self.at += read as u64;
        meter.at(self.at, Some(self.total));
        Ok((read > 0).then(|| piece.freeze()))
    }
}
