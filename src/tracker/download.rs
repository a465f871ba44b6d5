//! A download that takes itself up again: every byte once and in order, read only when asked for. Speaks over the
//! network; what a reply means is decided in `resume`.

use std::fmt;
use std::io;
use std::time::Duration;

use ::http::StatusCode;
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::timeout;

use super::client::RetryBudget;
use super::error_reply::{ApiOperation, is_router_error};
use super::error_text::excerpt;
use super::http::{causes, find_cause};
use super::resume::BodyFraming;
use super::resume_request::{download_request, reply_head};
use super::{StreamError, Tracker, TrackerError, TransferEnd};

/// Every gzip member begins so (RFC 1952 § 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Characters of a body that is not gzip that are shown.
const MAX_EXCERPT_CHARS: usize = 120;
/// Bytes that those are taken from.
const MAX_EXCERPT_BYTES: usize = 512;

/// The first reply to a download.
#[derive(Debug)]
pub enum DownloadResponse {
    /// The bytes.
    Body(Box<Download>),
    /// 204: nothing. No proof that there were no events.
    NoContent,
    /// 404: no events, or no session. No proof of either.
    NotFound,
}

/// The bytes of a session, as the service sends them. Dropping it ends the transfer.
pub struct Download {
    pub(super) tracker: Tracker,
    pub(super) space: String,
    pub(super) session: String,
    pub(super) body: Option<ReplyBody>,
    /// The first byte, when it came alone.
    prefix: Bytes,
    /// What came and was not delivered yet.
    pending: Bytes,
    pub(super) received: u64,
    /// CRC-64/NVME of what was delivered, to recognise it when it is sent again.
    pub(super) crc: Digest,
    announced: Option<u64>,
    pub(super) total: Option<u64>,
    pub(super) end: Option<TransferEnd>,
    error: Option<StreamError>,
    pub(super) interruption: Interruption,
    pub(super) resumes: u32,
    pub(super) resume_attempts: u32,
    pub(super) attempts_without_progress: u32,
}

/// The body of one reply.
pub(super) struct ReplyBody {
    pub(super) response: reqwest::Response,
    pub(super) framing: BodyFraming,
    /// The offset of the next byte in the whole.
    pub(super) at: u64,
    /// The offset after the last one, where the reply says so.
    pub(super) until: Option<u64>,
    /// What was delivered before, on its way again.
    pub(super) compare: Option<Digest>,
    /// Whether it only was to confirm the end.
    pub(super) confirming: bool,
    pub(super) content_type: Option<String>,
}

/// Why there is no body to read from.
#[derive(Clone, Debug)]
pub(super) struct Interruption {
    pub(super) why: String,
    pub(super) timed_out: bool,
    /// The connection closed where nothing says whether it was the end.
    pub(super) confirming: bool,
    /// The service sent less than the whole on purpose: go on without a pause.
    pub(super) partial: bool,
    pub(super) after: Option<Duration>,
}

impl Tracker {
    /// Begins the download of a session; the head of the reply must come within the idle time-out, the whole may
    /// take as long as it likes.
    pub async fn download(&self, space: &str, id: &str) -> Result<DownloadResponse, TrackerError> {
        self.check_id(id)?;
        let request = download_request(space, id, 0);
        let mut budget = RetryBudget::new();
        loop {
            let error = match self.send_authenticated(&request).await {
                Ok((response, deadline)) => match response.status() {
                    StatusCode::NO_CONTENT => return Ok(DownloadResponse::NoContent),
                    StatusCode::NOT_FOUND if !is_router_error(response.headers()) => {
                        return Ok(DownloadResponse::NotFound);
                    }
                    StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                        return Download::begin(self, space, id, response)
                            .map(|download| DownloadResponse::Body(Box::new(download)));
                    }
                    _ => self.response_error(response, &request, deadline).await,
                },
                Err(error) => error,
            };
            budget.pause_after(error, self.retry()).await?;
        }
    }
}

impl Download {
    pub(super) fn new(tracker: &Tracker, space: &str, id: &str) -> Self {
        Self {
            tracker: tracker.clone(),
            space: space.to_owned(),
            session: id.to_owned(),
            body: None,
            prefix: Bytes::new(),
            pending: Bytes::new(),
            received: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Nvme),
            announced: None,
            total: None,
            end: None,
            error: None,
            interruption: Interruption {
                why: String::new(),
                timed_out: false,
                confirming: false,
                partial: false,
                after: None,
            },
            resumes: 0,
            resume_attempts: 0,
            attempts_without_progress: 0,
        }
    }

    fn begin(
        tracker: &Tracker,
        space: &str,
        id: &str,
        response: reqwest::Response,
    ) -> Result<Self, TrackerError> {
        let head = reply_head(&response);
        let span = head
            .range
            .and_then(|range| range.span)
            .filter(|_| head.status == StatusCode::PARTIAL_CONTENT);
        if head.status == StatusCode::PARTIAL_CONTENT && span.is_none_or(|(first, _)| first != 0) {
            return Err(tracker.bad_reply(
                ApiOperation::Download,
                "it is a part (206) that nobody asked for".to_owned(),
            ));
        }
        let mut download = Self {
            announced: match head.framing {
                BodyFraming::Length(length) => Some(length),
                BodyFraming::Chunked | BodyFraming::Close => None,
            },
            ..Self::new(tracker, space, id)
        };
        download.attach_reply(response, &head, false);
        Ok(download)
    }

    /// The next bytes; `None` at the end, when [`Download::end`] says how it ended. Takes the transfer up again
    /// where it was cut. After an error it gives the same error again. A call that is dropped loses no byte.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.next_within(u64::MAX).await
    }

    /// As [`Download::next`], but no more than `limit` bytes, at least one; the others come with the next call. So the
    /// checksum so far can be had at any offset.
    pub async fn next_within(&mut self, limit: u64) -> Result<Option<Bytes>, StreamError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        let result = self.advance(limit).await;
        if let Err(error) = &result {
            self.body = None;
            self.error = Some(error.clone());
        }
        result
    }

    /// Bytes of the whole so far: those delivered, and those that were held before.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// CRC-64/NVME of all that was delivered.
    pub fn crc64nvme(&self) -> u64 {
        self.crc.finalize()
    }

    /// How the transfer ended; `None` while it has not.
    pub fn end(&self) -> Option<TransferEnd> {
        self.end
    }

    /// How often it was cut and went on.
    pub fn resumes(&self) -> u32 {
        self.resumes
    }

    /// `Content-Length` of the first reply.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// Bytes of the whole, where a reply has told.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    async fn advance(&mut self, limit: usize) -> Result<Option<Bytes>, StreamError> {
        loop {
            if !self.pending.is_empty() {
                return Ok(Some(self.deliver(limit)));
            }
            if self.end.is_some() {
                return Ok(None);
            }
            let Some(body) = &mut self.body else {
                self.request_remainder().await?;
                continue;
            };
            match timeout(self.tracker.timeouts().idle_read, body.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.accept_chunk(chunk).await?,
                Ok(Ok(None)) => self.finish_body()?,
                // A close without TLS's goodbye is a close: whether it was the end is asked either way.
                Ok(Err(error)) if body.framing == BodyFraming::Close && is_unexpected_eof(&error) => {
                    self.finish_body()?;
                }
                Ok(Err(error)) => {
                    let why = causes(&error.without_url()).join(": ");
                    self.interrupt(why, false);
                }
                Err(_) => {
                    let seconds = self.tracker.timeouts().idle_read.as_secs_f64();
                    self.interrupt(format!("nothing came for {seconds} s"), true);
                }
            }
        }
    }

    /// Compares what is known, keeps what is new.
    async fn accept_chunk(&mut self, mut chunk: Bytes) -> Result<(), StreamError> {
        let at = self.received;
        let Some(body) = &mut self.body else {
            return Ok(());
        };
        body.at = body
            .at
            .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if body.until.is_some_and(|until| body.at > until) {
            return Err(self.cannot_resume("the service sent more bytes than it announced"));
        }
        if let Some(compared) = &mut body.compare {
            let known = match usize::try_from(body.at.saturating_sub(at)) {
                Ok(new) if new <= chunk.len() => chunk.split_to(chunk.len() - new),
                // More is new than this chunk holds: cannot be while comparing.
                _ => Bytes::new(),
            };
            compared.update(&known);
            if body.at < at {
                return Ok(());
            }
            if compared.finalize() != self.crc.finalize() {
                return Err(self.cannot_resume("the service sent other bytes than before"));
            }
            body.compare = None;
        }
        if self.received == 0 {
            return self.accept_first_chunk(chunk).await;
        }
        self.pending = chunk;
        Ok(())
    }

    /// The first bytes must be those of gzip.
    async fn accept_first_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        let chunk = if self.prefix.is_empty() {
            chunk
        } else {
            [&self.prefix[..], &chunk[..]].concat().into()
        };
        self.prefix = Bytes::new();
        if chunk.starts_with(&GZIP_MAGIC) {
            self.pending = chunk;
            return Ok(());
        }
        if chunk.len() < GZIP_MAGIC.len() && GZIP_MAGIC.starts_with(&chunk) {
            self.prefix = chunk;
            return Ok(());
        }
        let content_type = self.body.as_ref().and_then(|body| body.content_type.clone());
        let mut shown = BytesMut::from(chunk.get(..MAX_EXCERPT_BYTES).unwrap_or(&chunk));
        // Said before the wait for more, so that a caller who drops it does not read on in a broken body.
        self.error = Some(self.not_gzip(&shown, content_type.as_deref()));
        while let Some(body) = self.body.as_mut().filter(|_| shown.len() < MAX_EXCERPT_BYTES) {
            match timeout(self.tracker.timeouts().idle_read, body.response.chunk()).await {
                Ok(Ok(Some(more))) => shown.extend_from_slice(more.get(..MAX_EXCERPT_BYTES).unwrap_or(&more)),
                _ => break,
            }
        }
        Err(self.not_gzip(&shown, content_type.as_deref()))
    }

    fn deliver(&mut self, limit: usize) -> Bytes {
        let bytes = self.pending.split_to(limit.min(self.pending.len()));
        self.crc.update(&bytes);
        self.received = self
            .received
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.attempts_without_progress = 0;
        bytes
    }

    /// The body ended as its framing says; whether the whole did is another question.
    fn finish_body(&mut self) -> Result<(), StreamError> {
        let Some(body) = self.body.take() else {
            return Ok(());
        };
        if !self.prefix.is_empty() {
            return Err(self.not_gzip(&self.prefix, body.content_type.as_deref()));
        }
        if let Some(until) = body.until.filter(|until| body.at < *until) {
            self.interrupt(
                format!("the connection closed {} bytes before the end", until - body.at),
                false,
            );
            return Ok(());
        }
        if body.compare.is_some() && body.at < self.received {
            if body.confirming {
                let nothing = body.at == 0;
                self.end = Some(if nothing {
                    TransferEnd::CloseConfirmed
                } else {
                    TransferEnd::CloseUnconfirmed
                });
                return Ok(());
            }
            return Err(
                self.cannot_resume("the service sent a body that is shorter than what was already there")
            );
        }
        match (self.total, body.framing) {
            (Some(total), _) if self.received > total => {
                return Err(self.cannot_resume("more bytes came than the whole has"));
            }
            (Some(total), _) if self.received < total => {
                self.interrupt(format!("only {} of {total} bytes came", self.received), false);
                self.interruption.partial = true;
            }
            (Some(_), BodyFraming::Chunked) => self.end = Some(TransferEnd::Chunked),
            (Some(_), BodyFraming::Length(_) | BodyFraming::Close) => self.end = Some(TransferEnd::Length),
            (None, BodyFraming::Chunked) if body.until.is_none() => self.end = Some(TransferEnd::Chunked),
            (None, BodyFraming::Length(_)) if body.until.is_none() => self.end = Some(TransferEnd::Length),
            (None, _) if body.confirming && self.attempts_without_progress > 0 => {
                self.end = Some(TransferEnd::CloseConfirmed);
            }
            // Closed, or a part (206) of a whole of unknown length.
            (None, _) => {
                self.interrupt(
                    "the connection closed without saying whether that was the end".to_owned(),
                    false,
                );
                self.interruption.confirming = true;
            }
        }
        Ok(())
    }

    fn interrupt(&mut self, why: String, timed_out: bool) {
        // Whether the end is only to be confirmed stays what it was: no byte came since.
        let confirming =
            self.body.take().is_some_and(|body| body.confirming) && self.attempts_without_progress > 0;
        self.prefix = Bytes::new();
        self.interruption = Interruption {
            why,
            timed_out,
            confirming,
            partial: false,
            after: None,
        };
    }

    pub(super) fn cannot_resume(&self, why: &str) -> StreamError {
        StreamError::CannotResume {
            at: self.received,
            why: why.to_owned(),
        }
    }

    fn not_gzip(&self, first: &[u8], content_type: Option<&str>) -> StreamError {
        let show = |text: &str| {
            self.tracker
                .with_secrets(|secrets| excerpt(text, MAX_EXCERPT_CHARS, secrets))
        };
        StreamError::NotGzip {
            excerpt: show(&String::from_utf8_lossy(first)),
            content_type: content_type.map(show),
        }
    }
}

fn is_unexpected_eof(error: &reqwest::Error) -> bool {
    find_cause::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("session", &self.session)
            .field("received", &self.received)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
