//! Faults of a body in transit.

use std::io;
use std::time::Duration;

use axum::body::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};

/// Body in transit.
pub(super) type BodyStream = BoxStream<'static, io::Result<Bytes>>;

/// Number of pieces of a trickling body, and the pause before each.
const TRICKLE: (usize, Duration) = (24, Duration::from_millis(100));

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
        let broken = io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the test");
        Some((Err(broken), (pieces, 0, end)))
    })
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
