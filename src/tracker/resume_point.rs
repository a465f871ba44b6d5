//! Goes on with a download that an earlier process began. Sends nothing by itself.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

use super::{Download, Tracker, TrackerError, TransferEnd};

/// What an earlier process has of a session's bytes: enough to go on behind them, and to recognise them when the
/// service sends them again.
#[derive(Clone)]
pub struct ResumePoint {
    bytes: u64,
    crc: Digest,
    total: Option<u64>,
}

impl ResumePoint {
    /// Nothing yet of a whole of `total` bytes, where an earlier reply announced that.
    pub fn new(total: Option<u64>) -> Self {
        Self {
            bytes: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Nvme),
            total,
        }
    }

    /// Takes the next bytes that are there.
    pub fn push(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(more);
    }

    /// How many there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for ResumePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("bytes", &self.bytes)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl Tracker {
    /// Goes on behind the bytes that are held. Nothing is sent before [`Download::next`] is called, which treats the
    /// download as one that was just cut; where the held bytes are all that was announced, nothing is asked at all.
    pub fn resume_download(
        &self,
        space: &str,
        id: &str,
        resume_point: &ResumePoint,
    ) -> Result<Box<Download>, TrackerError> {
        self.check_id(id)?;
        let ResumePoint { bytes, crc, total } = resume_point;
        let mut download = Download::new(self, space, id);
        download.received = *bytes;
        download.crc = *crc;
        download.total = *total;
        download.end = (*total == Some(*bytes)).then_some(TransferEnd::Length);
        "it was interrupted".clone_into(&mut download.interruption.why);
        download.interruption.partial = true;
        Ok(Box::new(download))
    }
}
