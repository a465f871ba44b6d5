//! Request bodies over segments that are never joined, and the idle timeout of a transfer. No I/O of its own.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::storage::Segments;

/// Size of the frames handed to the connection, so that progress is visible within a large segment: 256 KiB.
const FRAME_BYTES: usize = 256 << 10;

/// Number of bytes of a request or reply that were transferred.
#[derive(Debug, Default)]
pub(super) struct TransferProgress(AtomicU64);

/// No byte was transferred for this duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdleTimeout(pub(super) Duration);

impl TransferProgress {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits for a request as long as bytes move; fails between one and two `idle` after the last byte.
    pub(super) async fn watch<T>(
        &self,
        idle: Duration,
        request: impl Future<Output = T>,
    ) -> Result<T, IdleTimeout> {
        let mut request = pin!(request);
        loop {
            let before = self.bytes();
            match tokio::time::timeout(idle, &mut request).await {
                Ok(reply) => return Ok(reply),
                Err(_) if self.bytes() != before => {}
                Err(_) => return Err(IdleTimeout(idle)),
            }
        }
    }
}

/// Returns a new body for one attempt. Its length is known; its bytes are not copied.
pub(super) fn body_stream(segments: &Segments, progress: &Arc<TransferProgress>) -> ByteStream {
    ByteStream::new(SdkBody::from_body_1_x(SegmentsBody {
        pieces: segments.pieces().to_vec().into_iter(),
        current: Bytes::new(),
        left: segments.len(),
        progress: Arc::clone(progress),
    }))
}

struct SegmentsBody {
    pieces: std::vec::IntoIter<Bytes>,
    current: Bytes,
    left: u64,
    progress: Arc<TransferProgress>,
}

impl Body for SegmentsBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.current.is_empty() {
            match self.pieces.next() {
                Some(piece) => self.current = piece,
                None => return Poll::Ready(None),
            }
        }
        let length = self.current.len().min(FRAME_BYTES);
        let frame = self.current.split_to(length);
        self.left -= length as u64;
        self.progress.add(length);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_streams_its_segments_in_order_with_a_known_length() {
        let mut segments = Segments::default();
        let large = Bytes::from(vec![7u8; FRAME_BYTES + 3]);
        for piece in [
            Bytes::from_static(b"ab"),
            Bytes::new(),
            large.clone(),
            Bytes::from_static(b"c"),
        ] {
            segments.push(piece);
        }
        let progress = Arc::new(TransferProgress::default());
        let body = body_stream(&segments, &progress);
        assert_eq!(body.size_hint(), (segments.len(), Some(segments.len())));
        let all = body.collect().await.unwrap().into_bytes();
        assert_eq!(all, [b"ab", &large[..], b"c"].concat());
        assert_eq!(progress.bytes(), segments.len());
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_idle_request_times_out() {
        let progress = TransferProgress::default();
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                progress.add(1);
            }
        };
        assert_eq!(progress.watch(Duration::from_mins(1), moving).await, Ok(()));
        let idle = Duration::from_mins(1);
        let dead = std::future::pending::<()>();
        assert_eq!(progress.watch(idle, dead).await, Err(IdleTimeout(idle)));
    }
}
