//! Requests the bytes of a download, from the start or where it stopped. Network I/O; `resume` classifies the replies.

use std::time::Duration;

use ::http::{Method, StatusCode, header};
use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::sleep;

use super::client::ServiceRequest;
use super::error_reply::{ApiOperation, is_router_error, retry_after};
use super::resume::{
    BodyFraming, ContentRange, ReplyHead, ResumeAction, ResumeState, classify, confirms_end, parse_head,
};
use super::{StreamError, Tracker, TrackerError, TrackerErrorClass, TransferEnd};

/// Requests for the bytes of one session.
pub(super) struct DownloadRequests {
    pub(super) tracker: Tracker,
    pub(super) space: String,
    pub(super) session: String,
    /// Total length of the download, if a reply stated it.
    pub(super) total: Option<u64>,
    pub(super) interruption: Interruption,
    /// Replies that continued the download.
    pub(super) resumes: u32,
    resume_attempts: u32,
    /// Requests since the last new byte.
    pub(super) attempts_without_progress: u32,
}

/// Result of a request for the remaining bytes.
pub(super) enum Remainder {
    /// The body continues.
    Body(Box<ReplyBody>),
    /// Nothing follows.
    End(TransferEnd),
    /// The request failed, and a further one may succeed.
    Retry,
}

/// Body of one reply.
pub(super) struct ReplyBody {
    pub(super) response: reqwest::Response,
    pub(super) framing: BodyFraming,
    /// Offset of the next byte in the download.
    pub(super) at: u64,
    /// Offset after the last byte, if the reply states it.
    pub(super) until: Option<u64>,
    /// Checksum of the bytes that were delivered before and are sent again.
    pub(super) compare: Option<Digest>,
    /// True if the request only confirms the end.
    pub(super) confirming: bool,
    pub(super) content_type: Option<String>,
}

/// Cause of a missing body.
#[derive(Clone, Debug, Default)]
pub(super) struct Interruption {
    pub(super) why: String,
    pub(super) timed_out: bool,
    /// The connection closed without marking the end of the body.
    pub(super) confirming: bool,
    /// The service sent a part on purpose: resume without a pause.
    pub(super) partial: bool,
    pub(super) after: Option<Duration>,
}

impl DownloadRequests {
    pub(super) fn new(tracker: &Tracker, space: &str, id: &str) -> Self {
        Self {
            tracker: tracker.clone(),
            space: space.to_owned(),
            session: id.to_owned(),
            total: None,
            interruption: Interruption::default(),
            resumes: 0,
            resume_attempts: 0,
            attempts_without_progress: 0,
        }
    }

    /// Requests the bytes after the received ones.
    pub(super) async fn request_remainder(&mut self, received: u64) -> Result<Remainder, StreamError> {
        let policy = *self.tracker.retry();
        if self.attempts_without_progress >= policy.resumes_without_progress
            || self.resume_attempts >= policy.resumes
        {
            if self.interruption.confirming {
                return Ok(Remainder::End(TransferEnd::CloseUnconfirmed));
            }
            let Interruption { why, timed_out, .. } = self.interruption.clone();
            return Err(StreamError::Cut {
                at: received,
                why,
                timed_out,
            });
        }
        self.resume_attempts += 1;
        self.attempts_without_progress += 1;
        self.tracker.record_retry();
        if !(self.interruption.partial && self.attempts_without_progress == 1) {
            sleep(policy.backoff(
                self.attempts_without_progress,
                self.interruption.after.take(),
                rand::random(),
            ))
            .await;
        }
        let state = ResumeState {
            at: received,
            total: self.total,
            confirming: self.interruption.confirming,
        };
        tracing::debug!(session = %self.session, at = state.at, cause = %self.interruption.why, "resuming download");
        let response = match self.request_from(received).await? {
            Ok(response) => response,
            Err(remainder) => return Ok(remainder),
        };
        let head = reply_head(&response);
        match classify(&head, state) {
            ResumeAction::Append | ResumeAction::CompareFromStart => {
                if !state.confirming {
                    self.resumes += 1;
                }
                Ok(Remainder::Body(Box::new(
                    self.accept_reply(response, &head, state),
                )))
            }
            ResumeAction::Complete(end) => Ok(Remainder::End(end)),
            ResumeAction::ProbeLastByte => {
                let last = match self.request_from(received.saturating_sub(1)).await? {
                    Ok(last) => last,
                    Err(remainder) => return Ok(remainder),
                };
                let proved = confirms_end(&reply_head(&last), received);
                Ok(Remainder::End(if proved {
                    TransferEnd::CloseConfirmed
                } else {
                    TransferEnd::CloseUnconfirmed
                }))
            }
            ResumeAction::SessionGone => Err(StreamError::SessionGone {
                session: self.session.clone(),
                at: received,
            }),
            ResumeAction::Retry => {
                self.interruption.why = format!("the service replied with status {}", head.status.as_u16());
                self.interruption.after = retry_after(response.headers(), jiff::Timestamp::now());
                Ok(Remainder::Retry)
            }
            ResumeAction::Fail(why) => Err(StreamError::CannotResume {
                at: received,
                why: format!("{why} (status {})", head.status.as_u16()),
            }),
        }
    }

    /// Returns the reply, or the result without one.
    async fn request_from(&mut self, from: u64) -> Result<Result<reqwest::Response, Remainder>, StreamError> {
        let error = match self
            .tracker
            .send_authenticated(&download_request(&self.space, &self.session, from))
            .await
        {
            Ok((response, _)) => return Ok(Ok(response)),
            Err(error) => error,
        };
        match error.class() {
            TrackerErrorClass::Retry { after } => {
                self.interruption.timed_out = matches!(error, TrackerError::Timeout { .. });
                self.interruption.why = error.to_string();
                self.interruption.after = after;
                Ok(Err(Remainder::Retry))
            }
            TrackerErrorClass::Wait | TrackerErrorClass::Terminal if self.interruption.confirming => {
                Ok(Err(Remainder::End(TransferEnd::CloseUnconfirmed)))
            }
            TrackerErrorClass::Wait | TrackerErrorClass::Terminal => Err(error.into()),
        }
    }

    /// Returns the body of a reply, which begins at the requested offset or at the start.
    pub(super) fn accept_reply(
        &mut self,
        response: reqwest::Response,
        head: &ReplyHead,
        state: ResumeState,
    ) -> ReplyBody {
        let part = head.range.filter(|_| head.status == StatusCode::PARTIAL_CONTENT);
        let (at, until) = match part.and_then(|range| range.span) {
            Some((first, end)) => (first, Some(end)),
            None => (0, None),
        };
        let total = match (part, head.framing) {
            (Some(ContentRange { total, .. }), _) => total.or(self.total),
            (None, BodyFraming::Length(length)) => Some(length),
            // The same bytes without a length: the earlier announcement still applies.
            (None, BodyFraming::Chunked | BodyFraming::Close) => self.total,
        };
        self.total = total;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        ReplyBody {
            framing: head.framing,
            at,
            until,
            compare: (at < state.at).then(|| Digest::new(CrcAlgorithm::Crc64Nvme)),
            confirming: state.confirming,
            content_type,
            response,
        }
    }
}

pub(super) fn download_request<'a>(space: &'a str, id: &'a str, from: u64) -> ServiceRequest<'a> {
    ServiceRequest {
        operation: ApiOperation::Download,
        method: Method::GET,
        path: &["v3", "events", "download"],
        space,
        session: Some(id),
        from,
        body: None,
    }
}

/// Parses the head of a reply. A 404 of a router is a failure, not the end of a session.
pub(super) fn reply_head(response: &reqwest::Response) -> ReplyHead {
    let head = parse_head(response.version(), response.status(), response.headers());
    if is_router_error(response.headers()) && head.status == StatusCode::NOT_FOUND {
        return ReplyHead {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..head
        };
    }
    head
}
