//! Asks for the rest of a download that stopped. Speaks over the network; what a reply means is decided in `resume`.

use ::http::{Method, StatusCode, header};
use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::sleep;

use super::client::Call;
use super::download::{Body, Stop};
use super::refusal::{Purpose, from_router, retry_after};
use super::resume::{ContentRange, Framing, Head, Standing, Step, head, judge, last_byte_is_last};
use super::{Class, Download, DownloadError, TrackerError, TransferEnd};

impl Download {
    /// Asks for the rest.
    pub(super) async fn go_on(&mut self) -> Result<(), DownloadError> {
        let policy = *self.tracker.retry();
        if self.asked_in_vain >= policy.resumes_without_progress || self.asked >= policy.resumes {
            if self.stop.confirming {
                self.end = Some(TransferEnd::CloseUnconfirmed);
                return Ok(());
            }
            let Stop { why, timed_out, .. } = self.stop.clone();
            return Err(DownloadError::Cut {
                at: self.received,
                why,
                timed_out,
            });
        }
        self.asked += 1;
        self.asked_in_vain += 1;
        self.tracker.repeated();
        if !(self.stop.partial && self.asked_in_vain == 1) {
            sleep(policy.jittered(self.asked_in_vain, self.stop.after.take(), rand::random())).await;
        }
        let standing = Standing {
            at: self.received,
            total: self.total,
            confirming: self.stop.confirming,
        };
        tracing::debug!(session = %self.session, at = standing.at, why = %self.stop.why, "asking for the rest of a download");
        let Some(response) = self.ask_from(self.received).await? else {
            return Ok(());
        };
        let head = head_of(&response);
        match judge(&head, standing) {
            Step::GoOn | Step::CompareFromStart => {
                if !standing.confirming {
                    self.resumes += 1;
                }
                self.read_from(response, &head, standing.confirming);
            }
            Step::Ended(end) => self.end = Some(end),
            Step::AskForLastByte => {
                let last = self.ask_from(self.received.saturating_sub(1)).await?;
                if let Some(last) = last {
                    let proved = last_byte_is_last(&head_of(&last), self.received);
                    self.end = Some(if proved {
                        TransferEnd::CloseConfirmed
                    } else {
                        TransferEnd::CloseUnconfirmed
                    });
                }
            }
            Step::Gone => {
                return Err(DownloadError::SessionGone {
                    session: self.session.clone(),
                    at: self.received,
                });
            }
            Step::AskAgain => {
                self.stop.why = format!("the service answered with status {}", head.status.as_u16());
                self.stop.after = retry_after(response.headers(), jiff::Timestamp::now());
            }
            Step::Cannot(why) => {
                return Err(self.cannot(&format!("{why} (status {})", head.status.as_u16())));
            }
        }
        Ok(())
    }

    /// The head of the reply; `None` when there was none and it is worth asking again.
    async fn ask_from(&mut self, from: u64) -> Result<Option<reqwest::Response>, DownloadError> {
        let error = match self
            .tracker
            .respond(&call(&self.space, &self.session, from))
            .await
        {
            Ok((response, _)) => return Ok(Some(response)),
            Err(error) => error,
        };
        match error.class() {
            Class::Retry { after } => {
                self.stop.timed_out = matches!(error, TrackerError::Timeout { .. });
                self.stop.why = error.to_string();
                self.stop.after = after;
                Ok(None)
            }
            Class::Wait | Class::Terminal if self.stop.confirming => {
                self.end = Some(TransferEnd::CloseUnconfirmed);
                Ok(None)
            }
            Class::Wait | Class::Terminal => Err(error.into()),
        }
    }

    /// Reads on from this reply, which begins at what is there already or at the start.
    pub(super) fn read_from(&mut self, response: reqwest::Response, head: &Head, confirming: bool) {
        let part = head.range.filter(|_| head.status == StatusCode::PARTIAL_CONTENT);
        let (at, until) = match part.and_then(|range| range.span) {
            Some((first, end)) => (first, Some(end)),
            None => (0, None),
        };
        let whole = match (part, head.framing) {
            (Some(ContentRange { total, .. }), _) => total.or(self.total),
            (None, Framing::Length(length)) => Some(length),
            // The same bytes, sent without a length this time: what was announced before still binds.
            (None, Framing::Chunked | Framing::Close) => self.total,
        };
        self.total = whole;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        self.body = Some(Body {
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

pub(super) fn call<'a>(space: &'a str, id: &'a str, from: u64) -> Call<'a> {
    Call {
        purpose: Purpose::Download,
        method: Method::GET,
        path: &["v3", "events", "download"],
        space,
        session: Some(id),
        from,
        body: None,
    }
}

/// A router's own 404 is a failure, not the end of a session.
pub(super) fn head_of(response: &reqwest::Response) -> Head {
    let head = head(response.version(), response.status(), response.headers());
    if from_router(response.headers()) && head.status == StatusCode::NOT_FOUND {
        return Head {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..head
        };
    }
    head
}
