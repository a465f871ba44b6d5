//! A download that takes itself up again: every byte once and in order, read only when asked for. Speaks over the
//! network; what a reply means is decided in `resume`.

use std::fmt;
use std::io;
use std::time::Duration;

use ::http::StatusCode;
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::timeout;

use super::client::Patience;
use super::http::{causes, find};
use super::refusal::{Purpose, from_router};
use super::rest::{call, head_of};
use super::resume::Framing;
use super::said::excerpt;
use super::{DownloadError, Tracker, TrackerError, TransferEnd};

/// Every gzip member begins so (RFC 1952 § 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Characters of a body that is not gzip that are shown.
const MAX_EXCERPT_CHARS: usize = 120;
/// Bytes that those are taken from.
const MAX_EXCERPT_BYTES: usize = 512;

/// The first reply to a download.
#[derive(Debug)]
pub enum Opened {
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
    pub(super) body: Option<Body>,
    /// The first byte, when it came alone.
    held: Bytes,
    /// What came and was not delivered yet.
    ahead: Bytes,
    pub(super) received: u64,
    /// CRC-64/NVME of what was delivered, to recognise it when it is sent again.
    pub(super) crc: Digest,
    announced: Option<u64>,
    pub(super) total: Option<u64>,
    pub(super) end: Option<TransferEnd>,
    failed: Option<DownloadError>,
    pub(super) stop: Stop,
    pub(super) resumes: u32,
    pub(super) asked: u32,
    pub(super) asked_in_vain: u32,
}

/// The body of one reply.
pub(super) struct Body {
    pub(super) response: reqwest::Response,
    pub(super) framing: Framing,
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
pub(super) struct Stop {
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
    pub async fn download(&self, space: &str, id: &str) -> Result<Opened, TrackerError> {
        self.check_id(id)?;
        let call = call(space, id, 0);
        let mut patience = Patience::new();
        loop {
            let error = match self.respond(&call).await {
                Ok((response, deadline)) => match response.status() {
                    StatusCode::NO_CONTENT => return Ok(Opened::NoContent),
                    StatusCode::NOT_FOUND if !from_router(response.headers()) => return Ok(Opened::NotFound),
                    StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                        return Download::begin(self, space, id, response)
                            .map(|download| Opened::Body(Box::new(download)));
                    }
                    _ => self.refusal(response, &call, deadline).await,
                },
                Err(error) => error,
            };
            patience.after(error, self.retry()).await?;
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
            held: Bytes::new(),
            ahead: Bytes::new(),
            received: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Nvme),
            announced: None,
            total: None,
            end: None,
            failed: None,
            stop: Stop {
                why: String::new(),
                timed_out: false,
                confirming: false,
                partial: false,
                after: None,
            },
            resumes: 0,
            asked: 0,
            asked_in_vain: 0,
        }
    }

    fn begin(
        tracker: &Tracker,
        space: &str,
        id: &str,
        response: reqwest::Response,
    ) -> Result<Self, TrackerError> {
        let head = head_of(&response);
        let span = head
            .range
            .and_then(|range| range.span)
            .filter(|_| head.status == StatusCode::PARTIAL_CONTENT);
        if head.status == StatusCode::PARTIAL_CONTENT && span.is_none_or(|(first, _)| first != 0) {
            return Err(tracker.bad_reply(
                Purpose::Download,
                "it is a part (206) that nobody asked for".to_owned(),
            ));
        }
        let mut download = Self {
            announced: match head.framing {
                Framing::Length(length) => Some(length),
                Framing::Chunked | Framing::Close => None,
            },
            ..Self::new(tracker, space, id)
        };
        download.read_from(response, &head, false);
        Ok(download)
    }

    /// The next bytes; `None` at the end, when [`Download::end`] says how it ended. Takes the transfer up again
    /// where it was cut. After an error it gives the same error again. A call that is dropped loses no byte.
    pub async fn next(&mut self) -> Result<Option<Bytes>, DownloadError> {
        self.next_within(u64::MAX).await
    }

    /// As [`Download::next`], but no more than `limit` bytes, at least one; the others come with the next call. So the
    /// checksum so far can be had at any offset.
    pub async fn next_within(&mut self, limit: u64) -> Result<Option<Bytes>, DownloadError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        let result = self.advance(limit).await;
        if let Err(error) = &result {
            self.body = None;
            self.failed = Some(error.clone());
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

    async fn advance(&mut self, limit: usize) -> Result<Option<Bytes>, DownloadError> {
        loop {
            if !self.ahead.is_empty() {
                return Ok(Some(self.deliver(limit)));
            }
            if self.end.is_some() {
                return Ok(None);
            }
            let Some(body) = &mut self.body else {
                self.go_on().await?;
                continue;
            };
            match timeout(self.tracker.timeouts().idle_read, body.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.take(chunk).await?,
                Ok(Ok(None)) => self.body_ended()?,
                // A close without TLS's goodbye is a close: whether it was the end is asked either way.
                Ok(Err(error)) if body.framing == Framing::Close && is_unexpected_eof(&error) => {
                    self.body_ended()?;
                }
                Ok(Err(error)) => {
                    let why = causes(&error.without_url()).join(": ");
                    self.cut(why, false);
                }
                Err(_) => {
                    let seconds = self.tracker.timeouts().idle_read.as_secs_f64();
                    self.cut(format!("nothing came for {seconds} s"), true);
                }
            }
        }
    }

    /// Compares what is known, keeps what is new.
    async fn take(&mut self, mut chunk: Bytes) -> Result<(), DownloadError> {
        let at = self.received;
        let Some(body) = &mut self.body else {
            return Ok(());
        };
        body.at = body
            .at
            .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if body.until.is_some_and(|until| body.at > until) {
            return Err(self.cannot("the service sent more bytes than it announced"));
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
                return Err(self.cannot("the service sent other bytes than before"));
            }
            body.compare = None;
        }
        if self.received == 0 {
            return self.take_first(chunk).await;
        }
        self.ahead = chunk;
        Ok(())
    }

    /// The first bytes must be those of gzip.
    async fn take_first(&mut self, chunk: Bytes) -> Result<(), DownloadError> {
        let chunk = if self.held.is_empty() {
            chunk
        } else {
            [&self.held[..], &chunk[..]].concat().into()
        };
        self.held = Bytes::new();
        if chunk.starts_with(&GZIP_MAGIC) {
            self.ahead = chunk;
            return Ok(());
        }
        if chunk.len() < GZIP_MAGIC.len() && GZIP_MAGIC.starts_with(&chunk) {
            self.held = chunk;
            return Ok(());
        }
        let content_type = self.body.as_ref().and_then(|body| body.content_type.clone());
        let mut shown = BytesMut::from(chunk.get(..MAX_EXCERPT_BYTES).unwrap_or(&chunk));
        // Said before the wait for more, so that a caller who drops it does not read on in a broken body.
        self.failed = Some(self.not_gzip(&shown, content_type.as_deref()));
        while let Some(body) = self.body.as_mut().filter(|_| shown.len() < MAX_EXCERPT_BYTES) {
            match timeout(self.tracker.timeouts().idle_read, body.response.chunk()).await {
                Ok(Ok(Some(more))) => shown.extend_from_slice(more.get(..MAX_EXCERPT_BYTES).unwrap_or(&more)),
                _ => break,
            }
        }
        Err(self.not_gzip(&shown, content_type.as_deref()))
    }

    fn deliver(&mut self, limit: usize) -> Bytes {
        let bytes = self.ahead.split_to(limit.min(self.ahead.len()));
        self.crc.update(&bytes);
        self.received = self
            .received
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.asked_in_vain = 0;
        bytes
    }

    /// The body ended as its framing says; whether the whole did is another question.
    fn body_ended(&mut self) -> Result<(), DownloadError> {
        let Some(body) = self.body.take() else {
            return Ok(());
        };
        if !self.held.is_empty() {
            return Err(self.not_gzip(&self.held, body.content_type.as_deref()));
        }
        if let Some(until) = body.until.filter(|until| body.at < *until) {
            self.cut(
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
            return Err(self.cannot("the service sent a body that is shorter than what was already there"));
        }
        match (self.total, body.framing) {
            (Some(total), _) if self.received > total => {
                return Err(self.cannot("more bytes came than the whole has"));
            }
            (Some(total), _) if self.received < total => {
                self.cut(format!("only {} of {total} bytes came", self.received), false);
                self.stop.partial = true;
            }
            (Some(_), Framing::Chunked) => self.end = Some(TransferEnd::Chunked),
            (Some(_), Framing::Length(_) | Framing::Close) => self.end = Some(TransferEnd::Length),
            (None, Framing::Chunked) if body.until.is_none() => self.end = Some(TransferEnd::Chunked),
            (None, Framing::Length(_)) if body.until.is_none() => self.end = Some(TransferEnd::Length),
            (None, _) if body.confirming && self.asked_in_vain > 0 => {
                self.end = Some(TransferEnd::CloseConfirmed);
            }
            // Closed, or a part (206) of a whole of unknown length.
            (None, _) => {
                self.cut(
                    "the connection closed without saying whether that was the end".to_owned(),
                    false,
                );
                self.stop.confirming = true;
            }
        }
        Ok(())
    }

    fn cut(&mut self, why: String, timed_out: bool) {
        // Whether the end is only to be confirmed stays what it was: no byte came since.
        let confirming = self.body.take().is_some_and(|body| body.confirming) && self.asked_in_vain > 0;
        self.held = Bytes::new();
        self.stop = Stop {
            why,
            timed_out,
            confirming,
            partial: false,
            after: None,
        };
    }

    pub(super) fn cannot(&self, why: &str) -> DownloadError {
        DownloadError::CannotResume {
            at: self.received,
            why: why.to_owned(),
        }
    }

    fn not_gzip(&self, first: &[u8], content_type: Option<&str>) -> DownloadError {
        let show = |text: &str| {
            self.tracker
                .with_secrets(|secrets| excerpt(text, MAX_EXCERPT_CHARS, secrets))
        };
        DownloadError::NotGzip {
            excerpt: show(&String::from_utf8_lossy(first)),
            content_type: content_type.map(show),
        }
    }
}

fn is_unexpected_eof(error: &reqwest::Error) -> bool {
    find::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
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
