//! What a reply to `Range: bytes=N-` means for a download that stopped at N. Pure, no I/O.

use ::http::{HeaderMap, StatusCode, Version, header};

use super::TransferEnd;

/// How HTTP tells the end of a body (RFC 9112 § 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// A final chunk, or the end of an HTTP/2 stream.
    Chunked,
    /// The end of the connection, which an interruption looks like too.
    Close,
}

/// The head of a reply, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub status: StatusCode,
    pub framing: Framing,
    pub range: Option<ContentRange>,
}

/// `Content-Range` (RFC 9110 § 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// First byte and the one after the last; `None` in a 416.
    pub span: Option<(u64, u64)>,
    /// Length of the whole; `None` when the service does not know.
    pub total: Option<u64>,
}

/// Where the download stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Bytes delivered: the N of the request.
    pub at: u64,
    /// Length of the whole, where it was announced.
    pub total: Option<u64>,
    /// The body ended by closing the connection, and this only asks whether that was the end.
    pub confirming: bool,
}

/// What to do with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Deliver the body: it begins at N.
    GoOn,
    /// Read N bytes and compare, then deliver what follows.
    CompareFromStart,
    /// Nothing follows.
    Ended(TransferEnd),
    /// Nothing follows, or this service refuses every range: ask for the last byte to tell.
    AskForLastByte,
    /// The session is gone.
    Gone,
    /// The service failed: ask again.
    AskAgain,
    /// There is no way on in this session.
    Cannot(&'static str),
}

/// Reads the head of a reply.
pub(super) fn head(version: Version, status: StatusCode, headers: &HeaderMap) -> Head {
    let has_chunks = headers.get_all(header::TRANSFER_ENCODING).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.to_ascii_lowercase().contains("chunked"))
    });
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let framing = match length {
        _ if has_chunks => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None if version >= Version::HTTP_2 => Framing::Chunked,
        None => Framing::Close,
    };
    let range = headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| content_range(value.to_str().ok()?));
    Head {
        status,
        framing,
        range,
    }
}

fn content_range(text: &str) -> Option<ContentRange> {
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

/// What the reply means. An answer that only confirms an end is judged less strictly: what does not confirm it leaves
/// it unconfirmed.
pub(super) fn judge(head: &Head, standing: Standing) -> Step {
    let step = strictly(head, standing);
    match step {
        Step::Gone | Step::Cannot(_) if standing.confirming => Step::Ended(TransferEnd::CloseUnconfirmed),
        step => step,
    }
}

fn strictly(head: &Head, standing: Standing) -> Step {
    let Standing {
        at,
        total,
        confirming,
    } = standing;
    match (head.status.as_u16(), head.range) {
        (200, _) => match head.framing {
            Framing::Length(0) if confirming => Step::Ended(TransferEnd::CloseConfirmed),
            Framing::Length(length) if length < at => {
                Step::Cannot("the service sent a body that is shorter than what was already there")
            }
            _ => Step::CompareFromStart,
        },
        (
            206,
            Some(ContentRange {
                span: Some((first, _)),
                total: whole,
            }),
        ) => {
            if whole.is_some() && total.is_some() && whole != total {
                Step::Cannot("the whole has another length than before")
            } else if first == at {
                Step::GoOn
            } else if first == 0 {
                Step::CompareFromStart
            } else {
                // Bytes between cannot be compared: only the checksum of all that came before is kept.
                Step::Cannot("the service went on at another place than it was asked to")
            }
        }
        (206, _) => Step::Cannot("the service went on without saying where (no Content-Range)"),
        (204, _) if confirming => Step::Ended(TransferEnd::CloseConfirmed),
        (
            416,
            Some(ContentRange {
                total: Some(whole), ..
            }),
        ) if whole == at => Step::Ended(TransferEnd::CloseConfirmed),
        (416, Some(ContentRange { total: Some(_), .. })) => {
            Step::Cannot("the service refuses to go on there (416), though the whole has another length")
        }
        (416, _) if confirming && at > 0 => Step::AskForLastByte,
        (416, _) => Step::Cannot("the service refuses to go on there (416)"),
        (404, _) => Step::Gone,
        (408 | 429 | 500 | 502..=599, _) => Step::AskAgain,
        _ => Step::Cannot("the service refuses to go on"),
    }
}

/// Does this reply to a range of only the last byte prove that ranges work and that nothing follows?
pub(super) fn last_byte_is_last(head: &Head, at: u64) -> bool {
    let last = Some((at.saturating_sub(1), at));
    head.status == StatusCode::PARTIAL_CONTENT
        && head
            .range
            .is_some_and(|range| range.span == last && range.total.is_none_or(|total| total == at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &str)]) -> Head {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        head(Version::HTTP_11, StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn resume_on_the_wire() {
        use Step::{AskAgain, CompareFromStart, Ended, GoOn, Gone};
        let cut = Standing {
            at: 100,
            total: Some(500),
            confirming: false,
        };
        let range = |text| [("content-range", text)];
        for (reply, step) in [
            (reply(206, &range("bytes 100-499/500")), Some(GoOn)),
            (reply(206, &range("bytes 100-199/*")), Some(GoOn)),
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
                Some(Ended(TransferEnd::CloseConfirmed)),
            ),
            (reply(416, &range("bytes */500")), None),
            (reply(416, &[]), None),
            (reply(404, &[]), Some(Gone)),
            (reply(400, &[]), None),
            (reply(403, &[]), None),
            (reply(409, &[]), None),
            (reply(501, &[]), None),
            (reply(429, &[]), Some(AskAgain)),
            (reply(500, &[]), Some(AskAgain)),
            (reply(503, &[]), Some(AskAgain)),
        ] {
            let judged = judge(&reply, cut);
            match step {
                Some(step) => assert_eq!(judged, step, "{reply:?}"),
                None => assert!(matches!(judged, Step::Cannot(_)), "{reply:?} {judged:?}"),
            }
        }
    }

    #[test]
    fn the_end_of_a_body_without_length_is_asked_for() {
        use Step::{AskAgain, AskForLastByte, CompareFromStart, Ended, GoOn};
        use TransferEnd::{CloseConfirmed, CloseUnconfirmed};
        let end = Standing {
            at: 100,
            total: None,
            confirming: true,
        };
        for (reply, step) in [
            (
                reply(416, &[("content-range", "bytes */100")]),
                Ended(CloseConfirmed),
            ),
            (
                reply(416, &[("content-range", "bytes */500")]),
                Ended(CloseUnconfirmed),
            ),
            (reply(416, &[]), AskForLastByte),
            (reply(204, &[]), Ended(CloseConfirmed)),
            (reply(200, &[("content-length", "0")]), Ended(CloseConfirmed)),
            (reply(200, &[("content-length", "100")]), CompareFromStart),
            (reply(200, &[("content-length", "50")]), Ended(CloseUnconfirmed)),
            (reply(206, &[("content-range", "bytes 100-499/500")]), GoOn),
            (reply(404, &[]), Ended(CloseUnconfirmed)),
            (reply(403, &[]), Ended(CloseUnconfirmed)),
            (reply(409, &[]), Ended(CloseUnconfirmed)),
            (reply(502, &[]), AskAgain),
        ] {
            assert_eq!(judge(&reply, end), step, "{reply:?}");
        }
        assert!(last_byte_is_last(
            &reply(206, &[("content-range", "bytes 99-99/100")]),
            100
        ));
        assert!(!last_byte_is_last(
            &reply(206, &[("content-range", "bytes 99-499/500")]),
            100
        ));
        assert!(!last_byte_is_last(&reply(416, &[]), 100));
    }

    #[test]
    fn a_body_is_framed_by_chunks_length_or_close() {
        assert_eq!(
            reply(200, &[("content-length", "7"), ("transfer-encoding", "Chunked")]).framing,
            Framing::Chunked
        );
        assert_eq!(reply(200, &[("content-length", "7")]).framing, Framing::Length(7));
        assert_eq!(reply(200, &[]).framing, Framing::Close);
    }
}
