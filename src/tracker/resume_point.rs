//! Resumes a download of an earlier process. Sends nothing by itself.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

use super::{Download, Tracker, TrackerError};

/// Bytes of a session that an earlier process received: enough to resume after them, and to recognize them when the
/// service sends them again.
#[derive(Clone)]
pub struct ResumePoint {
    bytes: u64,
    crc: Digest,
    total: Option<u64>,
}

impl ResumePoint {
    /// Creates a point at offset 0, with the total length if an earlier reply announced it.
    pub fn new(total: Option<u64>) -> Self {
        Self {
            bytes: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Nvme),
            total,
        }
    }

    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(more);
    }

    /// Returns the number of bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for ResumePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumePoint")
            .field("bytes", &self.bytes)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl Tracker {
    /// Resumes after the bytes of the resume point. Sends nothing before the first call of [`Download::next`], which
    /// treats the download as interrupted. If the resume point has all announced bytes, no request is sent.
    pub fn resume_download(
        &self,
        space: &str,
        id: &str,
        resume_point: &ResumePoint,
    ) -> Result<Box<Download>, TrackerError> {
        self.check_id(id)?;
        let ResumePoint { bytes, crc, total } = resume_point;
        let download = Download::new(self, space, id);
        Ok(Box::new(download.resumed(*bytes, crc, *total)))
    }
}
