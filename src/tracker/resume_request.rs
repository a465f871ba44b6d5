//! Requests the rest of an interrupted download. Network I/O; `resume` classifies the replies.

use ::http::{Method, StatusCode, header};
use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::sleep;

use super::client::ServiceRequest;
use super::download::{Interruption, ReplyBody};
use super::error_reply::{ApiOperation, is_router_error, retry_after};
use super::resume::{
    BodyFraming, ContentRange, ReplyHead, ResumeAction, ResumeState, classify, confirms_end, parse_head,
};
use super::{Download, StreamError, TrackerError, TrackerErrorClass, TransferEnd};

impl Download {
    /// Requests the remaining bytes.
    pub(super) async fn request_remainder(&mut self) -> Result<(), StreamError> {
        let policy = *self.tracker.retry();
        if self.attempts_without_progress >= policy.resumes_without_progress
            || self.resume_attempts >= policy.resumes
        {
            if self.interruption.confirming {
                self.end = Some(TransferEnd::CloseUnconfirmed);
                return Ok(());
            }
            let Interruption { why, timed_out, .. } = self.interruption.clone();
            return Err(StreamError::Cut {
                at: self.received,
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
            at: self.received,
            total: self.total,
            confirming: self.interruption.confirming,
        };
        tracing::debug!(session = %self.session, at = state.at, cause = %self.interruption.why, "resuming download");
        let Some(response) = self.request_from(self.received).await? else {
            return Ok(());
        };
        let head = reply_head(&response);
        match classify(&head, state) {
            ResumeAction::Append | ResumeAction::CompareFromStart => {
                if !state.confirming {
                    self.resumes += 1;
                }
                self.attach_reply(response, &head, state.confirming);
            }
            ResumeAction::Complete(end) => self.end = Some(end),
            ResumeAction::ProbeLastByte => {
                let last = self.request_from(self.received.saturating_sub(1)).await?;
                if let Some(last) = last {
                    let proved = confirms_end(&reply_head(&last), self.received);
                    self.end = Some(if proved {
                        TransferEnd::CloseConfirmed
                    } else {
                        TransferEnd::CloseUnconfirmed
                    });
                }
            }
            ResumeAction::SessionGone => {
                return Err(StreamError::SessionGone {
                    session: self.session.clone(),
                    at: self.received,
                });
            }
            ResumeAction::Retry => {
                self.interruption.why = format!("the service replied with status {}", head.status.as_u16());
                self.interruption.after = retry_after(response.headers(), jiff::Timestamp::now());
            }
            ResumeAction::Fail(why) => {
                return Err(self.cannot_resume(&format!("{why} (status {})", head.status.as_u16())));
            }
        }
        Ok(())
    }

    /// Returns the head of the reply. `None`: there was no reply, and a retry makes sense.
    async fn request_from(&mut self, from: u64) -> Result<Option<reqwest::Response>, StreamError> {
        let error = match self
            .tracker
            .send_authenticated(&download_request(&self.space, &self.session, from))
            .await
        {
            Ok((response, _)) => return Ok(Some(response)),
            Err(error) => error,
        };
        match error.class() {
            TrackerErrorClass::Retry { after } => {
                self.interruption.timed_out = matches!(error, TrackerError::Timeout { .. });
                self.interruption.why = error.to_string();
                self.interruption.after = after;
                Ok(None)
            }
            TrackerErrorClass::Wait | TrackerErrorClass::Terminal if self.interruption.confirming => {
                self.end = Some(TransferEnd::CloseUnconfirmed);
                Ok(None)
            }
            TrackerErrorClass::Wait | TrackerErrorClass::Terminal => Err(error.into()),
        }
    }

    /// Continues with the body of this reply, which begins at the current offset or at the start.
    pub(super) fn attach_reply(&mut self, response: reqwest::Response, head: &ReplyHead, confirming: bool) {
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
        self.body = Some(ReplyBody {
            framing: head.framing,
            at,
            until,
            compare: (at < self.received).then(|| Digest::new(CrcAlgorithm::Crc64Nvme)),
            confirming,
            content_type,
            response,
        });
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
