//! Size limit for replies. The SDK buffers every reply except the body of an object, so an endless one would fill the
//! memory. No I/O of its own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Maximum size of a buffered reply: 8 MiB. A thousand keys of 1 KiB with every byte escaped need less than half of it.
pub(super) const RESPONSE_MAX_BYTES: u64 = 8 << 20;

/// A connector that limits the size of replies.
#[derive(Debug)]
pub(super) struct LimitedConnector(pub(super) SharedHttpConnector);

/// A reply is larger than [`RESPONSE_MAX_BYTES`].
#[derive(Debug, thiserror::Error)]
#[error("response larger than 8 MiB: the endpoint does not look like an S3 store")]
struct ResponseTooLarge;

struct LimitedBody {
    inner: SdkBody,
    left: u64,
}

impl HttpConnector for LimitedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let object = request.method() == "GET" && is_object_request(request.uri());
        let inner = self.0.clone();
        HttpConnectorFuture::new(async move {
            let mut reply = inner.call(request).await?;
            if !(object && reply.status().is_success()) {
                let body = std::mem::replace(reply.body_mut(), SdkBody::taken());
                *reply.body_mut() = SdkBody::from_body_1_x(LimitedBody {
                    inner: body,
                    left: RESPONSE_MAX_BYTES,
                });
            }
            Ok(reply)
        })
    }
}

/// Returns true if a GET reads an object, which has a limit of its own. Requests to the bucket and to uploads are
/// recognized by their query.
fn is_object_request(uri: &str) -> bool {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    !query
        .split('&')
        .any(|pair| matches!(pair.split('=').next(), Some("list-type" | "uploads" | "uploadId")))
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = aws_sdk_s3::error::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(Some(Err(ResponseTooLarge.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.inner)
    }
}
