//! Size limit for replies. The SDK buffers every reply except the body of an object, so an endless one would fill the
//! memory. No I/O of its own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::metered::operation;

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
    /// True once a byte other than white space has arrived. XML begins there: some stores send blanks before its
    /// declaration, which XML does not allow.
    begun: bool,
}

impl HttpConnector for LimitedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        // An object has a limit of its own.
        let object = operation(request.method(), request.uri()) == "GetObject";
        let has_body = request.method() != "HEAD";
        let inner = self.0.clone();
        HttpConnectorFuture::new(async move {
            let mut reply = inner.call(request).await?;
            if has_body && !(object && reply.status().is_success()) {
                // hyper has compared it; the body may lose its first blanks.
                reply.headers_mut().remove("content-length");
                let body = std::mem::replace(reply.body_mut(), SdkBody::taken());
                *reply.body_mut() = SdkBody::from_body_1_x(LimitedBody {
                    inner: body,
                    left: RESPONSE_MAX_BYTES,
                    begun: false,
                });
            }
            Ok(reply)
        })
    }
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
                let begun = self.begun;
                let frame = frame.map_data(|data| if begun { data } else { trim_start(&data) });
                self.begun |= frame.data_ref().is_some_and(|data| !data.is_empty());
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(Some(Err(ResponseTooLarge.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::default();
        if let Some(upper) = Body::size_hint(&self.inner).upper() {
            hint.set_upper(upper);
        }
        hint
    }
}

/// Removes white space and a byte order mark from the beginning.
fn trim_start(data: &Bytes) -> Bytes {
    let text = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    data.slice_ref(text.trim_ascii_start())
}
