//! A download that resumes: delivers every byte once and in order, and reads only on demand. Network I/O; `resume`
//! classifies the replies.

use std::fmt;
use std::io;

use ::http::StatusCode;
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::timeout;

use super::client::RetryBudget;
use super::error_reply::{ApiOperation, is_router_error};
use super::resume::{BodyFraming, ResumeState};
use super::resume_request::{
    DownloadRequests, Interruption, Remainder, ReplyBody, download_request, reply_head,
};
use super::{StreamError, Tracker, TrackerError, TransferEnd};
use crate::api::{find_cause, redact, redact_error};

/// First bytes of every gzip member (RFC 1952 § 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Maximum length of the excerpt of a body that is not gzip.
const MAX_EXCERPT_CHARS: usize = 120;
/// Maximum number of bytes that the excerpt is taken from.
const MAX_EXCERPT_BYTES: usize = 512;

/// First reply to a download.
#[derive(Debug)]
pub enum DownloadResponse {
    /// Body of the download.
    Body(Box<Download>),
    /// 204. No proof that there were no events.
    NoContent,
    /// 404: no events, or no session. No proof of either.
    NotFound,
}

/// Bytes of a session, as the service sends them. Dropping it ends the transfer.
pub struct Download {
    requests: DownloadRequests,
    body: Option<ReplyBody>,
    /// First byte, if it arrived alone.
    prefix: Bytes,
    /// Bytes that are received and not yet delivered.
    pending: Bytes,
    received: u64,
    /// CRC-64/NVME of the delivered bytes, to recognize them when they are sent again.
    crc: Digest,
    announced: Option<u64>,
    end: Option<TransferEnd>,
    error: Option<StreamError>,
}

impl Tracker {
    /// Starts the download of a session. The head of the reply must arrive within the idle timeout; the duration of the
    /// download is not limited.
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
            requests: DownloadRequests::new(tracker, space, id),
            body: None,
            prefix: Bytes::new(),
            pending: Bytes::new(),
            received: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Nvme),
            announced: None,
            end: None,
            error: None,
        }
    }

    /// Continues after the bytes of an earlier process, without a request before the first call of [`Download::next`].
    pub(super) fn resumed(mut self, received: u64, crc: &Digest, total: Option<u64>) -> Self {
        self.received = received;
        self.crc = *crc;
        self.requests.total = total;
        self.end = (total == Some(received)).then_some(TransferEnd::Length);
        self.interrupt("the download was interrupted".to_owned(), false);
        self.requests.interruption.partial = true;
        self
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
                "a partial reply (206) that was not requested".to_owned(),
            ));
        }
        let mut download = Self {
            announced: match head.framing {
                BodyFraming::Length(length) => Some(length),
                BodyFraming::Chunked | BodyFraming::Close => None,
            },
            ..Self::new(tracker, space, id)
        };
        let start = ResumeState {
            at: 0,
            total: None,
            confirming: false,
        };
        download.body = Some(download.requests.accept_reply(response, &head, start));
        Ok(download)
    }

    /// Returns the next bytes, or `None` at the end, after which [`Download::end`] returns the kind of end. Resumes an
    /// interrupted transfer. After an error, it returns the same error again. Cancel-safe: a dropped call loses no
    /// byte.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.next_within(u64::MAX).await
    }

    /// Returns the next bytes as [`Download::next`], but at most `limit` and at least one; later calls return the rest.
    /// This makes the checksum available at any offset.
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

    /// Returns the number of bytes so far, including those of the resume point.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns the CRC-64/NVME of all delivered bytes.
    pub fn crc64nvme(&self) -> u64 {
        self.crc.finalize()
    }

    /// Returns the kind of end. `None`: not at the end.
    pub fn end(&self) -> Option<TransferEnd> {
        self.end
    }

    /// Returns the number of times that the transfer was resumed.
    pub fn resumes(&self) -> u32 {
        self.requests.resumes
    }

    /// Returns the `Content-Length` of the first reply.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// Returns the total length, if a reply stated it.
    pub fn total(&self) -> Option<u64> {
        self.requests.total
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
                match self.requests.request_remainder(self.received).await? {
                    Remainder::Body(body) => self.body = Some(*body),
                    Remainder::End(end) => self.end = Some(end),
                    Remainder::Retry => {}
                }
                continue;
            };
            match timeout(self.requests.tracker.timeouts().idle_read, body.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.accept_chunk(chunk).await?,
                Ok(Ok(None)) => self.finish_body()?,
                // A close without TLS close_notify counts as a close: the end is confirmed in either case.
                Ok(Err(error)) if body.framing == BodyFraming::Close && is_unexpected_eof(&error) => {
                    self.finish_body()?;
                }
                Ok(Err(error)) => {
                    let why = redact_error(&error.without_url(), &[]);
                    self.interrupt(why, false);
                }
                Err(_) => {
                    let seconds = self.requests.tracker.timeouts().idle_read.as_secs_f64();
                    self.interrupt(format!("no data arrived for {seconds} s"), true);
                }
            }
        }
    }

    /// Compares known bytes, and keeps new ones.
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
                // More new bytes than the chunk has: impossible while comparing.
                _ => Bytes::new(),
            };
            compared.update(&known);
            if body.at < at {
                return Ok(());
            }
            if compared.finalize() != self.crc.finalize() {
                return Err(self.cannot_resume("the service sent different bytes than before"));
            }
            body.compare = None;
        }
        if self.received == 0 {
            return self.accept_first_chunk(chunk).await;
        }
        self.pending = chunk;
        Ok(())
    }

    /// Checks that the first bytes are those of gzip.
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
        // Set before waiting for more, so that a canceled call does not continue with an invalid body.
        self.error = Some(self.not_gzip(&shown, content_type.as_deref()));
        while let Some(body) = self.body.as_mut().filter(|_| shown.len() < MAX_EXCERPT_BYTES) {
            match timeout(self.requests.tracker.timeouts().idle_read, body.response.chunk()).await {
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
        self.requests.attempts_without_progress = 0;
        bytes
    }

    /// Handles the end of a body by its framing, and decides about the end of the download.
    fn finish_body(&mut self) -> Result<(), StreamError> {
        let Some(body) = self.body.take() else {
            return Ok(());
        };
        if !self.prefix.is_empty() {
            if body.framing != BodyFraming::Close {
                return Err(self.not_gzip(&self.prefix, body.content_type.as_deref()));
            }
            // Not an end that another request could confirm: one byte is no gzip.
            self.interrupt("the connection closed after one byte".to_owned(), false);
            return Ok(());
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
                let empty = body.at == 0;
                self.end = Some(if empty {
                    TransferEnd::CloseConfirmed
                } else {
                    TransferEnd::CloseUnconfirmed
                });
                return Ok(());
            }
            return Err(
                self.cannot_resume("the service sent a body that is shorter than the bytes already received")
            );
        }
        match (self.requests.total, body.framing) {
            (Some(total), _) if self.received > total => {
                return Err(self.cannot_resume("more bytes arrived than the total length"));
            }
            (Some(total), _) if self.received < total => {
                self.interrupt(format!("only {} of {total} bytes arrived", self.received), false);
                self.requests.interruption.partial = true;
            }
            (Some(_), BodyFraming::Chunked) => self.end = Some(TransferEnd::Chunked),
            (Some(_), BodyFraming::Length(_) | BodyFraming::Close) => self.end = Some(TransferEnd::Length),
            (None, BodyFraming::Chunked) if body.until.is_none() => self.end = Some(TransferEnd::Chunked),
            (None, BodyFraming::Length(_)) if body.until.is_none() => self.end = Some(TransferEnd::Length),
            (None, _) if body.confirming && self.requests.attempts_without_progress > 0 => {
                self.end = Some(TransferEnd::CloseConfirmed);
            }
            // Closed, or a part (206) of a body of unknown length.
            (None, _) => {
                self.interrupt(
                    "the connection closed without marking the end of the body".to_owned(),
                    false,
                );
                self.requests.interruption.confirming = true;
            }
        }
        Ok(())
    }

    fn interrupt(&mut self, why: String, timed_out: bool) {
        // No byte arrived since: if the end was being confirmed, it still is.
        let confirming = self.body.take().is_some_and(|body| body.confirming)
            && self.requests.attempts_without_progress > 0;
        self.prefix = Bytes::new();
        self.requests.interruption = Interruption {
            why,
            timed_out,
            confirming,
            partial: false,
            after: None,
        };
    }

    fn cannot_resume(&self, why: &str) -> StreamError {
        StreamError::CannotResume {
            at: self.received,
            why: why.to_owned(),
        }
    }

    fn not_gzip(&self, first: &[u8], content_type: Option<&str>) -> StreamError {
        let show = |text: &str| {
            self.requests
                .tracker
                .with_secrets(|secrets| redact(text, secrets, MAX_EXCERPT_CHARS))
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
            .field("session", &self.requests.session)
            .field("received", &self.received)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
