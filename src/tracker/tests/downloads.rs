//! Downloads: the end of a body, resuming after an interruption, and bodies that are not events.

use super::scripted_server::{ReceivedRequest, ScriptedReply};
use super::*;

const PATH: &str = "/v3/events/download";
const CUT: usize = 40_000;

/// Reply to a further request, given N.
type ResumeScript = fn(usize) -> ScriptedReply;

/// Returns bytes that begin like gzip and do not repeat.
fn data() -> Vec<u8> {
    let mut state = 7_u32;
    let mut bytes = vec![0x1f, 0x8b];
    bytes.extend(
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(99_998),
    );
    bytes
}

/// Number of bytes requested at once.
const LIMIT: u64 = 9_973;

/// Runs a download. Returns all bytes and the result.
async fn run(
    script: impl Fn(&ReceivedRequest, usize) -> ScriptedReply + Send + Sync + 'static,
) -> (Vec<u8>, Result<Box<Download>, StreamError>) {
    let server = ScriptedServer::new(script).await;
    let tracker = tracker(&server);
    let DownloadResponse::Body(mut download) = tracker.download(SPACE, "id-1").await.unwrap() else {
        panic!("no body")
    };
    let mut bytes = Vec::new();
    loop {
        // Later calls return the rest, also across an interruption.
        match download.next_within(LIMIT).await {
            Ok(Some(chunk)) => {
                assert!((1..=LIMIT).contains(&(chunk.len() as u64)), "{}", chunk.len());
                bytes.extend_from_slice(&chunk);
                let crc64 = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
                assert_eq!(
                    (download.received(), download.crc64nvme()),
                    (bytes.len() as u64, crc64)
                );
            }
            Ok(None) => return (bytes, Ok(download)),
            Err(error) => {
                assert_eq!(download.next().await.unwrap_err(), error);
                return (bytes, Err(error));
            }
        }
    }
}

/// Runs a download that is cut at [`CUT`]; `rest` gets N and replies to every further request.
async fn resumed(
    rest: impl Fn(usize, usize) -> ScriptedReply + Send + Sync + 'static,
) -> (Vec<u8>, Result<Box<Download>, StreamError>) {
    run(move |request, number| match number {
        0 => ScriptedReply::new(200, data()).cut(CUT),
        _ => rest(request.range_start().unwrap(), number),
    })
    .await
}

/// Runs a download of a body without length that closes at [`CUT`].
async fn closed(
    rest: impl Fn(usize, usize) -> ScriptedReply + Send + Sync + 'static,
) -> (Vec<u8>, Result<Box<Download>, StreamError>) {
    run(move |request, number| match number {
        0 => ScriptedReply::close(200, &data()[..CUT]),
        _ => rest(request.range_start().unwrap(), number),
    })
    .await
}

#[tokio::test]
async fn a_body_ends_by_length_chunks_or_close() {
    let (bytes, download) = run(|_, _| ScriptedReply::new(200, data())).await;
    let download = download.unwrap();
    assert!(bytes == data());
    assert_eq!(
        (download.end(), download.announced()),
        (Some(TransferEnd::Length), Some(100_000))
    );
    assert_eq!((download.received(), download.resumes()), (100_000, 0));

    let (bytes, download) = run(|_, _| ScriptedReply::chunked(200, &data(), true)).await;
    assert!(bytes == data());
    assert_eq!(download.unwrap().end(), Some(TransferEnd::Chunked));

    let (bytes, download) = run(|_, number| match number {
        0 => ScriptedReply::close(200, data()),
        _ => ScriptedReply::new(416, "").with("Content-Range", "bytes */100000"),
    })
    .await;
    assert!(bytes == data());
    assert_eq!(download.unwrap().end(), Some(TransferEnd::CloseConfirmed));
}

#[tokio::test]
async fn resume_answered_by_206_at_n() {
    let (bytes, download) = resumed(|n, number| match number {
        1 => ScriptedReply::part(&data(), n).cut(20_000),
        _ => ScriptedReply::part(&data(), n),
    })
    .await;
    assert!(bytes == data());
    let download = download.unwrap();
    assert_eq!(
        (download.end(), download.resumes()),
        (Some(TransferEnd::Length), 2)
    );
}

#[tokio::test]
async fn resume_of_a_chunked_body() {
    let (bytes, download) = run(|request, number| match number {
        0 => ScriptedReply::chunked(200, &data()[..CUT], false),
        _ => ScriptedReply::part(&data(), request.range_start().unwrap()),
    })
    .await;
    assert!(bytes == data());
    assert_eq!(download.unwrap().end(), Some(TransferEnd::Length));
}

#[tokio::test]
async fn resume_answered_by_206_at_another_offset() {
    for (first, complete) in [(0, true), (10, false), (CUT + 10, false)] {
        let (bytes, download) = resumed(move |_, _| ScriptedReply::part(&data(), first)).await;
        assert_eq!(bytes == data(), complete);
        assert_eq!(download.is_ok(), complete);
        assert!(data().starts_with(&bytes));
    }
}

#[tokio::test]
async fn resume_answered_by_200_with_the_complete_body() {
    let (bytes, download) = resumed(|_, _| ScriptedReply::chunked(200, &data(), true)).await;
    assert!(bytes == data());
    assert_eq!(download.unwrap().resumes(), 1);

    let (bytes, download) = resumed(|_, _| {
        let mut other = data();
        other[100] ^= 1;
        ScriptedReply::new(200, other)
    })
    .await;
    assert!(data().starts_with(&bytes));
    assert!(matches!(
        download,
        Err(StreamError::CannotResume { at: 40_000, .. })
    ));
}

#[tokio::test]
async fn resume_answered_by_200_with_the_remainder_only() {
    let (bytes, download) = resumed(|n, _| ScriptedReply::new(200, &data()[n..])).await;
    assert_eq!(bytes.len(), CUT);
    assert!(matches!(download, Err(StreamError::CannotResume { .. })));
}

#[tokio::test]
async fn resume_answered_by_416() {
    for total in [None, Some("bytes */100000")] {
        let (_, download) = resumed(move |_, _| match total {
            Some(total) => ScriptedReply::new(416, "").with("Content-Range", total),
            None => ScriptedReply::new(416, ""),
        })
        .await;
        assert!(matches!(download, Err(StreamError::CannotResume { .. })));
    }
    // All of a chunked body except the final chunk was received.
    let (bytes, download) = run(|_, number| match number {
        0 => ScriptedReply::chunked(200, &data(), false),
        _ => ScriptedReply::new(416, "").with("Content-Range", "bytes */100000"),
    })
    .await;
    assert!(bytes == data());
    assert_eq!(download.unwrap().end(), Some(TransferEnd::CloseConfirmed));
}

#[tokio::test]
async fn resume_answered_by_an_error() {
    let (bytes, download) = resumed(|n, number| match number {
        1 => ScriptedReply::new(503, "busy").with("Retry-After", "0"),
        2 => ScriptedReply::new(404, "no route").with("X-Cf-RouterError", "unknown_route"),
        3 => ScriptedReply::new(502, "<html>"),
        _ => ScriptedReply::part(&data(), n),
    })
    .await;
    assert!(bytes == data() && download.is_ok());

    let (_, download) = resumed(|_, _| ScriptedReply::new(404, "")).await;
    assert!(matches!(
        download,
        Err(StreamError::SessionGone { at: 40_000, .. })
    ));
    let (_, download) = resumed(|_, _| ScriptedReply::new(403, "no")).await;
    assert!(matches!(download, Err(StreamError::CannotResume { .. })));
    let (_, download) = resumed(|_, _| ScriptedReply::new(500, "no")).await;
    assert!(matches!(download, Err(StreamError::Cut { timed_out: false, .. })));
}

#[tokio::test]
async fn a_download_resumes_from_a_resume_point() {
    let cases: [(&str, Option<u64>, ResumeScript, bool, usize); 6] = [
        (
            "206 at N",
            Some(100_000),
            |n| ScriptedReply::part(&data(), n),
            true,
            1,
        ),
        (
            "206, size unknown",
            None,
            |n| ScriptedReply::part(&data(), n),
            true,
            1,
        ),
        (
            "200, complete",
            None,
            |_| ScriptedReply::new(200, data()),
            true,
            1,
        ),
        (
            "200, the remainder",
            None,
            |n| ScriptedReply::new(200, &data()[n..]),
            false,
            1,
        ),
        (
            "another size",
            Some(99_999),
            |n| ScriptedReply::part(&data(), n),
            false,
            1,
        ),
        (
            "all is there",
            Some(CUT as u64),
            |_| ScriptedReply::new(500, ""),
            true,
            0,
        ),
    ];
    for (name, total, rest, complete, requests) in cases {
        let server = ScriptedServer::new(move |request, _| rest(request.range_start().unwrap())).await;
        let mut resume_point = ResumePoint::new(total);
        data()[..CUT]
            .chunks(1000)
            .for_each(|piece| resume_point.push(piece));
        let mut download = tracker(&server)
            .resume_download(SPACE, "id-1", &resume_point)
            .unwrap();
        let mut bytes = data()[..CUT].to_vec();
        let ended = loop {
            match download.next().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert_eq!(ended.is_ok(), complete, "{name}: {ended:?}");
        let expected = if requests == 0 {
            &data()[..CUT]
        } else {
            &data()[..]
        };
        assert!(!complete || bytes == expected, "{name}");
        assert_eq!(server.count("GET", PATH), requests, "{name}");
    }
}

#[tokio::test]
async fn a_close_without_length_is_confirmed_or_reported_unconfirmed() {
    use TransferEnd::{CloseConfirmed, CloseUnconfirmed, Length};
    let all = |data: Vec<u8>| data[..CUT].to_vec();
    let cases: [(&str, ResumeScript, TransferEnd, bool); 9] = [
        (
            "416 with the total",
            |n| ScriptedReply::new(416, "").with("Content-Range", &format!("bytes */{n}")),
            CloseConfirmed,
            false,
        ),
        (
            "416 to everything",
            |_| ScriptedReply::new(416, ""),
            CloseUnconfirmed,
            false,
        ),
        ("204", |_| ScriptedReply::close(204, ""), CloseConfirmed, false),
        ("empty", |_| ScriptedReply::new(200, ""), CloseConfirmed, false),
        (
            "empty, closed",
            |_| ScriptedReply::close(200, ""),
            CloseConfirmed,
            false,
        ),
        (
            "the same again",
            |_| ScriptedReply::close(200, &data()[..CUT]),
            CloseConfirmed,
            false,
        ),
        ("404", |_| ScriptedReply::new(404, ""), CloseUnconfirmed, false),
        ("500", |_| ScriptedReply::new(500, ""), CloseUnconfirmed, false),
        ("more", |n| ScriptedReply::part(&data(), n), Length, true),
    ];
    for (name, rest, end, complete) in cases {
        let (bytes, download) = closed(move |n, _| rest(n)).await;
        assert!(
            if complete {
                bytes == data()
            } else {
                bytes == all(data())
            },
            "{name}"
        );
        assert_eq!(download.unwrap().end(), Some(end), "{name}");
    }
    // A 416 without total counts if the service returns the last byte on request.
    let (_, download) = run(|request, number| match (number, request.range_start()) {
        (0, _) => ScriptedReply::close(200, &data()[..CUT]),
        (_, Some(CUT)) => ScriptedReply::new(416, ""),
        (_, n) => ScriptedReply::part(&data()[..CUT], n.unwrap()),
    })
    .await;
    assert_eq!(download.unwrap().end(), Some(CloseConfirmed));
}

#[tokio::test]
async fn a_silent_service_times_out_and_is_retried() {
    let (bytes, download) = run(|request, number| match number {
        0 => ScriptedReply::new(200, data()).cut(CUT).hang(),
        _ => ScriptedReply::part(&data(), request.range_start().unwrap()),
    })
    .await;
    assert!(bytes == data() && download.is_ok());
    let (bytes, download) = resumed(|n, _| ScriptedReply::part(&data(), n).cut(0).hang()).await;
    assert_eq!(bytes.len(), CUT);
    assert!(matches!(
        download,
        Err(StreamError::Cut {
            timed_out: true,
            at: 40_000,
            ..
        })
    ));
}

#[tokio::test]
async fn gzip_in_transit_is_stored_as_it_comes() {
    let server =
        ScriptedServer::new(|_, _| ScriptedReply::new(200, data()).with("Content-Encoding", "gzip")).await;
    let DownloadResponse::Body(mut download) = tracker(&server).download(SPACE, "id-1").await.unwrap() else {
        panic!()
    };
    let mut bytes = Vec::new();
    while let Some(chunk) = download.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes == data());
    let received = server
        .requests()
        .into_iter()
        .find(|request| request.matches("GET", PATH))
        .unwrap();
    assert_eq!(received.headers["accept-encoding"], "gzip");
    assert_eq!(received.headers["sessionid"], "id-1");
    assert_eq!(received.headers["x-auth-project-id"], SPACE);
    assert_eq!(received.token(), "bearer token-1");
    assert!(!received.headers.contains_key("range"));
}

#[tokio::test]
async fn a_body_that_is_not_gzip_is_rejected() {
    let (bytes, download) = run(|_, _| {
        ScriptedReply::new(200, "<html>please log in, bearer token-1</html>")
            .with("Content-Type", "text/html")
    })
    .await;
    let error = download.unwrap_err().to_string();
    assert!(
        bytes.is_empty() && error.contains("please log in") && error.contains("text/html"),
        "{error}"
    );
    assert!(!error.contains("token-1"), "{error}");
    for body in [&[0x1f_u8][..], &[0x1f, 0x8c], b"{"] {
        let (bytes, download) = run(move |_, _| ScriptedReply::new(200, body)).await;
        assert!(bytes.is_empty() && matches!(download, Err(StreamError::NotGzip { .. })));
    }
}

#[tokio::test]
async fn a_connection_that_closes_after_one_byte_is_an_interruption() {
    let (bytes, download) = run(|_, number| match number {
        0 => ScriptedReply::close(200, &data()[..1]),
        _ => ScriptedReply::new(200, data()),
    })
    .await;
    assert_eq!(download.unwrap().end(), Some(TransferEnd::Length));
    assert_eq!(bytes, data());
    let (bytes, download) = run(|_, _| ScriptedReply::close(200, &data()[..1])).await;
    assert!(bytes.is_empty() && matches!(download, Err(StreamError::Cut { at: 0, .. })));
}

#[tokio::test]
async fn an_empty_range_is_404_or_204_or_zero_bytes() {
    let server = ScriptedServer::new(|_, number| match number {
        0 => ScriptedReply::new(404, r#"{"message":"no events"}"#),
        _ => ScriptedReply::close(204, ""),
    })
    .await;
    let tracker = tracker(&server);
    assert!(matches!(
        tracker.download(SPACE, "id").await,
        Ok(DownloadResponse::NotFound)
    ));
    assert!(matches!(
        tracker.download(SPACE, "id").await,
        Ok(DownloadResponse::NoContent)
    ));
    for (reply, end) in [
        (ScriptedReply::new(200, ""), TransferEnd::Length),
        (ScriptedReply::chunked(200, b"", true), TransferEnd::Chunked),
        (ScriptedReply::close(200, ""), TransferEnd::CloseConfirmed),
    ] {
        let (bytes, download) = run(move |_, _| reply.clone()).await;
        let download = download.unwrap();
        assert_eq!(
            (bytes.len(), download.received(), download.end()),
            (0, 0, Some(end))
        );
    }
}

#[tokio::test]
async fn a_401_during_a_download_renews_the_token_once() {
    let server = ScriptedServer::new(|request, number| match number {
        0 => ScriptedReply::new(200, data()).cut(CUT),
        _ if request.token() == "bearer token-1" => ScriptedReply::new(401, "expired"),
        _ => ScriptedReply::part(&data(), request.range_start().unwrap()),
    })
    .await;
    let DownloadResponse::Body(mut download) = tracker(&server).download(SPACE, "id-1").await.unwrap() else {
        panic!()
    };
    while download.next().await.unwrap().is_some() {}
    assert_eq!(download.received(), 100_000);
    assert_eq!(server.count("POST", "/oauth/token"), 2);
}

#[tokio::test]
async fn nothing_is_read_ahead() {
    const TOTAL: usize = 64 * 1024 * 1024;
    let body = [&[0x1f, 0x8b][..], &vec![0; TOTAL]].concat();
    let server = ScriptedServer::new(move |_, _| ScriptedReply::new(200, body.clone())).await;
    let DownloadResponse::Body(mut download) = tracker(&server).download(SPACE, "id-1").await.unwrap() else {
        panic!()
    };
    download.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    // Only the socket buffers were filled, far less than the body.
    assert!(server.written() < TOTAL as u64 / 2, "{}", server.written());
}

#[tokio::test]
async fn a_download_can_run_in_a_spawned_task() {
    let server = ScriptedServer::new(|request, _| match request.path.as_str() {
        PATH => ScriptedReply::new(200, data()),
        _ => ScriptedReply::new(200, r#"{"id":"id-1"}"#),
    })
    .await;
    let tracker = tracker(&server);
    let task = tokio::spawn(async move {
        let session = tracker.create_session(SPACE, &request()).await.unwrap();
        let DownloadResponse::Body(mut download) = tracker.download(SPACE, &session.id).await.unwrap() else {
            panic!()
        };
        while download.next().await.unwrap().is_some() {}
        tracker.delete_session(SPACE, &session.id).await.unwrap();
        download.received()
    });
    assert_eq!(task.await.unwrap(), 100_000);
}
