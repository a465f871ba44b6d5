//! Classification of replies to `Range: bytes=N-` for a download that stopped at N. No I/O.

use ::http::{HeaderMap, StatusCode, Version, header};

use super::TransferEnd;

/// Marker of the end of a body (RFC 9112 § 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// Number of bytes.
    Length(u64),
    /// A final chunk, or the end of an HTTP/2 stream.
    Chunked,
    /// The end of the connection, which looks the same as an interruption.
    Close,
}

/// Relevant parts of the head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyHead {
    pub status: StatusCode,
    pub framing: BodyFraming,
    pub range: Option<ContentRange>,
}

/// `Content-Range` (RFC 9110 § 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// Offsets of the first byte and after the last one. `None` in a 416.
    pub span: Option<(u64, u64)>,
    /// Total length. `None`: the service does not know it.
    pub total: Option<u64>,
}

/// Progress of the download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResumeState {
    /// Bytes delivered: the N of the request.
    pub at: u64,
    /// Total length, if it was announced.
    pub total: Option<u64>,
    /// The connection closed at the end of the body, and the request only confirms the end.
    pub confirming: bool,
}

/// Action for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResumeAction {
    /// Deliver the body: it begins at N.
    Append,
    /// Compare the first N bytes, then deliver the rest.
    CompareFromStart,
    /// End: nothing follows.
    Complete(TransferEnd),
    /// Request the last byte, to distinguish the end from a service that rejects every range.
    ProbeLastByte,
    /// Fail: the session does not exist any more.
    SessionGone,
    /// Retry: the service failed.
    Retry,
    /// Fail: the session cannot be resumed.
    Fail(&'static str),
}

/// Parses the head of a reply.
pub(super) fn parse_head(version: Version, status: StatusCode, headers: &HeaderMap) -> ReplyHead {
    let has_chunks = headers.get_all(header::TRANSFER_ENCODING).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.to_ascii_lowercase().contains("chunked"))
    });
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let framing = match length {
        _ if has_chunks => BodyFraming::Chunked,
        Some(length) => BodyFraming::Length(length),
        None if version >= Version::HTTP_2 => BodyFraming::Chunked,
        None => BodyFraming::Close,
    };
    let range = headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| parse_content_range(value.to_str().ok()?));
    ReplyHead {
        status,
        framing,
        range,
    }
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (span, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let span = match span.trim() {
        "*" => None,
        span => {
            let (first, last) = span.split_once('-')?;
            let (first, last) = (
                first.trim().parse::<u64>().ok()?,
                last.trim().parse::<u64>().ok()?,
            );
            Some((first, last.checked_add(1).filter(|end| *end > first)?))
        }
    };
    Some(ContentRange { span, total })
}

/// Returns the action for a reply. While confirming an end, a failure leaves the end unconfirmed.
pub(super) fn classify(head: &ReplyHead, state: ResumeState) -> ResumeAction {
    let action = classify_strictly(head, state);
    match action {
        ResumeAction::SessionGone | ResumeAction::Fail(_) if state.confirming => {
            ResumeAction::Complete(TransferEnd::CloseUnconfirmed)
        }
        action => action,
    }
}

fn classify_strictly(head: &ReplyHead, state: ResumeState) -> ResumeAction {
    let ResumeState {
        at,
        total,
        confirming,
    } = state;
    match (head.status.as_u16(), head.range) {
        (200, _) => match head.framing {
            BodyFraming::Length(0) if confirming => ResumeAction::Complete(TransferEnd::CloseConfirmed),
            BodyFraming::Length(length) if length < at => {
                ResumeAction::Fail("the service sent a body that is shorter than the bytes already received")
            }
            _ => ResumeAction::CompareFromStart,
        },
        (
            206,
            Some(ContentRange {
                span: Some((first, _)),
                total: new_total,
            }),
        ) => {
            if new_total.is_some() && total.is_some() && new_total != total {
                ResumeAction::Fail("the total length changed")
            } else if first == at {
                ResumeAction::Append
            } else if first == 0 {
                ResumeAction::CompareFromStart
            } else {
                // Bytes in between cannot be compared: only the checksum of all delivered bytes is kept.
                ResumeAction::Fail("the service resumed at another offset than requested")
            }
        }
        (206, _) => ResumeAction::Fail("the service resumed at an unknown offset (no Content-Range)"),
        (204, _) if confirming => ResumeAction::Complete(TransferEnd::CloseConfirmed),
        (
            416,
            Some(ContentRange {
                total: Some(length), ..
            }),
        ) if length == at => ResumeAction::Complete(TransferEnd::CloseConfirmed),
        (416, Some(ContentRange { total: Some(_), .. })) => {
            ResumeAction::Fail("the service rejects the range (416), although the total length differs")
        }
        (416, _) if confirming && at > 0 => ResumeAction::ProbeLastByte,
        (416, _) => ResumeAction::Fail("the service rejects the range (416)"),
        (404, _) => ResumeAction::SessionGone,
        (408 | 429 | 500 | 502..=599, _) => ResumeAction::Retry,
        _ => ResumeAction::Fail("the service rejects the request to resume"),
    }
}

/// Returns true if the reply to a request of the last byte proves that ranges work and that nothing follows.
pub(super) fn confirms_end(head: &ReplyHead, at: u64) -> bool {
    let last = Some((at.saturating_sub(1), at));
    head.status == StatusCode::PARTIAL_CONTENT
        && head
            .range
            .is_some_and(|range| range.span == last && range.total.is_none_or(|total| total == at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &str)]) -> ReplyHead {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        parse_head(Version::HTTP_11, StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn range_replies_are_classified() {
        use ResumeAction::{Append, CompareFromStart, Complete, Retry, SessionGone};
        let cut = ResumeState {
            at: 100,
            total: Some(500),
            confirming: false,
        };
        let range = |text| [("content-range", text)];
        for (reply, action) in [
            (reply(206, &range("bytes 100-499/500")), Some(Append)),
            (reply(206, &range("bytes 100-199/*")), Some(Append)),
            (reply(206, &range("bytes 0-499/500")), Some(CompareFromStart)),
            (reply(206, &range("bytes 50-499/500")), None),
            (reply(206, &range("bytes 101-499/500")), None),
            (reply(206, &range("bytes 100-599/600")), None),
            (reply(206, &range("bytes 100-50/500")), None),
            (reply(206, &range("items 1-2/3")), None),
            (reply(206, &[]), None),
            (reply(200, &[("content-length", "500")]), Some(CompareFromStart)),
            (
                reply(200, &[("transfer-encoding", "chunked")]),
                Some(CompareFromStart),
            ),
            (reply(200, &[("content-length", "99")]), None),
            (reply(204, &[]), None),
            (
                reply(416, &range("bytes */100")),
                Some(Complete(TransferEnd::CloseConfirmed)),
            ),
            (reply(416, &range("bytes */500")), None),
            (reply(416, &[]), None),
            (reply(404, &[]), Some(SessionGone)),
            (reply(400, &[]), None),
            (reply(403, &[]), None),
            (reply(409, &[]), None),
            (reply(501, &[]), None),
            (reply(429, &[]), Some(Retry)),
            (reply(500, &[]), Some(Retry)),
            (reply(503, &[]), Some(Retry)),
        ] {
            let actual = classify(&reply, cut);
            match action {
                Some(action) => assert_eq!(actual, action, "{reply:?}"),
                None => assert!(matches!(actual, ResumeAction::Fail(_)), "{reply:?} {actual:?}"),
            }
        }
    }

    #[test]
    fn the_end_of_a_body_without_length_is_confirmed() {
        use ResumeAction::{Append, CompareFromStart, Complete, ProbeLastByte, Retry};
        use TransferEnd::{CloseConfirmed, CloseUnconfirmed};
        let end = ResumeState {
            at: 100,
            total: None,
            confirming: true,
        };
        for (reply, action) in [
            (
                reply(416, &[("content-range", "bytes */100")]),
                Complete(CloseConfirmed),
            ),
            (
                reply(416, &[("content-range", "bytes */500")]),
                Complete(CloseUnconfirmed),
            ),
            (reply(416, &[]), ProbeLastByte),
            (reply(204, &[]), Complete(CloseConfirmed)),
            (reply(200, &[("content-length", "0")]), Complete(CloseConfirmed)),
            (reply(200, &[("content-length", "100")]), CompareFromStart),
            (
                reply(200, &[("content-length", "50")]),
                Complete(CloseUnconfirmed),
            ),
            (reply(206, &[("content-range", "bytes 100-499/500")]), Append),
            (reply(404, &[]), Complete(CloseUnconfirmed)),
            (reply(403, &[]), Complete(CloseUnconfirmed)),
            (reply(409, &[]), Complete(CloseUnconfirmed)),
            (reply(502, &[]), Retry),
        ] {
            assert_eq!(classify(&reply, end), action, "{reply:?}");
        }
        assert!(confirms_end(
            &reply(206, &[("content-range", "bytes 99-99/100")]),
            100
        ));
        assert!(!confirms_end(
            &reply(206, &[("content-range", "bytes 99-499/500")]),
            100
        ));
        assert!(!confirms_end(&reply(416, &[]), 100));
    }

    #[test]
    fn a_body_is_framed_by_chunks_length_or_close() {
        assert_eq!(
            reply(200, &[("content-length", "7"), ("transfer-encoding", "Chunked")]).framing,
            BodyFraming::Chunked
        );
        assert_eq!(
            reply(200, &[("content-length", "7")]).framing,
            BodyFraming::Length(7)
        );
        assert_eq!(reply(200, &[]).framing, BodyFraming::Close);
    }
}
