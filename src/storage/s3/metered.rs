//! Metering of requests of the SDK: each waits for the fence and is counted by its operation, which is derived from the
//! request itself, so that no caller can omit it. Does I/O.

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

use crate::egress::{Peer, RequestLabel, Traffic};

/// A connector that counts requests.
#[derive(Debug)]
pub(super) struct MeteredConnector {
    pub(super) inner: SharedHttpConnector,
    pub(super) traffic: Traffic,
    pub(super) label: fn(&HttpRequest) -> RequestLabel,
}

impl HttpConnector for MeteredConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let label = (self.label)(&request);
        let (inner, traffic) = (self.inner.clone(), self.traffic.clone());
        HttpConnectorFuture::new(async move {
            // Polled only after the fence opens.
            let sent = async { inner.call(request).await };
            traffic
                .send(label, sent, |reply| {
                    reply.as_ref().ok().map(|reply| reply.status().as_u16())
                })
                .await
        })
    }
}

/// Returns the label of a request to a store.
pub(super) fn s3_label(request: &HttpRequest) -> RequestLabel {
    RequestLabel {
        peer: Peer::S3,
        operation: operation(request.method(), request.uri()),
    }
}

/// Returns the operation of a request, as the API reference names it.
pub(super) fn operation(method: &str, uri: &str) -> &'static str {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match method {
        "PUT" if has("partNumber") => "UploadPart",
        "PUT" => "PutObject",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        "POST" if has("delete") => "DeleteObjects",
        "DELETE" if has("uploadId") => "AbortMultipartUpload",
        "DELETE" => "DeleteObject",
        "GET" if has("list-type") => "ListObjectsV2",
        "GET" if has("uploads") => "ListMultipartUploads",
        "GET" if has("versions") => "ListObjectVersions",
        "GET" => "GetObject",
        "HEAD" => "HeadObject",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_its_operation() {
        for (method, uri, wanted) in [
            ("PUT", "http://s/b/k?x-id=PutObject", "PutObject"),
            ("PUT", "http://s/b/k?partNumber=1&uploadId=u", "UploadPart"),
            ("POST", "http://s/b/k?uploads", "CreateMultipartUpload"),
            ("POST", "http://s/b/k?uploadId=uploads", "CompleteMultipartUpload"),
            ("POST", "http://s/b?delete", "DeleteObjects"),
            ("DELETE", "http://s/b/k?uploadId=u", "AbortMultipartUpload"),
            ("DELETE", "http://s/b/uploadId=1", "DeleteObject"),
            ("GET", "http://s/b?list-type=2&prefix=uploads", "ListObjectsV2"),
            (
                "GET",
                "http://s/b?uploads&prefix=list-type",
                "ListMultipartUploads",
            ),
            ("GET", "http://s/b?versions&prefix=p", "ListObjectVersions"),
            ("GET", "http://s/b/k", "GetObject"),
            ("GET", "http://s/b/versions?x-id=GetObject", "GetObject"),
            ("HEAD", "http://s/b/k", "HeadObject"),
            ("PATCH", "http://s/b/k", "Other"),
        ] {
            assert_eq!(operation(method, uri), wanted, "{method} {uri}");
        }
    }
}
