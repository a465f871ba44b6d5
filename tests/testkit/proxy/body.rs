//! Bodies in transit and their faults.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::broadcast;

use super::rules::{Interruption, LineRewriter, ProxiedPeer, Rules};

/// Body in transit.
pub(super) type BodyStream = BoxStream<'static, io::Result<Bytes>>;

/// Number of pieces of a trickling body, and the pause before each.
const TRICKLE: (usize, Duration) = (24, Duration::from_millis(100));

pub(super) fn body_stream(body: Body) -> BodyStream {
    body.into_data_stream()
        .map(|piece| piece.map_err(io::Error::other))
        .boxed()
}

/// Passes the first `bytes` of a body, then runs `end` and breaks the connection.
pub(super) fn cut(
    pieces: BodyStream,
    bytes: usize,
    end: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let state = (pieces, bytes, Some(Box::pin(end)));
    stream::unfold(state, async |(mut pieces, left, mut end)| {
        if left > 0
            && let Some(Ok(mut piece)) = pieces.next().await
        {
            piece.truncate(left);
            return Some((Ok(piece.clone()), (pieces, left - piece.len(), end)));
        }
        end.take()?.await;
        Some((Err(broken()), (pieces, 0, end)))
    })
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the test")
}

/// Sends a body of about that many bytes slowly and in small pieces.
pub(super) fn trickle(
    pieces: BodyStream,
    bytes: usize,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let most = bytes.div_ceil(TRICKLE.0).max(1);
    stream::unfold(
        (pieces, Bytes::new(), most),
        async |(mut pieces, mut left, most)| {
            if left.is_empty() {
                match pieces.next().await? {
                    Ok(piece) => left = piece,
                    Err(error) => return Some((Err(error), (pieces, left, most))),
                }
            }
            tokio::time::sleep(TRICKLE.1).await;
            let piece = left.split_to(most.min(left.len()));
            Some((Ok(piece), (pieces, left, most)))
        },
    )
}

/// Body of a reply that is counted, and that rules may hold back, rewrite, extend or break.
pub(super) struct ReplyBody {
    pub(super) pieces: BodyStream,
    pub(super) rules: Arc<Rules>,
    pub(super) peer: ProxiedPeer,
    pub(super) line: String,
    pub(super) number: usize,
    pub(super) lines: Option<LineRewriter>,
    interruptions: broadcast::Receiver<Interruption>,
    /// Start of a line.
    rest: Vec<u8>,
    due: VecDeque<io::Result<Bytes>>,
}

impl ReplyBody {
    pub(super) fn new(
        pieces: BodyStream,
        rules: &Arc<Rules>,
        peer: ProxiedPeer,
        line: &str,
        number: usize,
    ) -> Self {
        Self {
            pieces,
            interruptions: rules.interruptions.subscribe(),
            rules: Arc::clone(rules),
            peer,
            line: line.to_owned(),
            number,
            lines: None,
            rest: Vec::new(),
            due: VecDeque::new(),
        }
    }

    pub(super) fn into_stream(self) -> BodyStream {
        stream::unfold(self, async |mut body| {
            body.next().await.map(|piece| (piece, body))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut ended = false;
        while self.due.is_empty() && !ended {
            tokio::select! {
                biased;
                piece = self.pieces.next() => match piece {
                    Some(Ok(piece)) => self.receive(&piece),
                    Some(Err(error)) => self.due.push_back(Err(error)),
                    None => ended = true,
                },
                interruption = self.interruptions.recv() => {
                    let ours = interruption.ok().filter(|one| one.concerns(self.peer, &self.line));
                    self.due.extend(ours.map(|one| one.text.map(Bytes::from).ok_or_else(broken)));
                }
            }
        }
        self.rules
            .wait_released(self.peer, &self.line, self.number, true)
            .await;
        let piece = self.due.pop_front()?;
        let bytes = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.rules.update(self.number, |seen| seen.reply_bytes += bytes);
        Some(piece)
    }

    fn receive(&mut self, piece: &Bytes) {
        let Some(lines) = &self.lines else {
            self.due.push_back(Ok(piece.clone()));
            return;
        };
        self.rest.extend_from_slice(piece);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = self.rest.drain(..=end).collect();
            let text = String::from_utf8_lossy(&text).trim_end().to_owned();
            self.due
                .extend(lines(text).into_iter().map(|line| Ok(Bytes::from(line + "\n"))));
        }
    }
}
