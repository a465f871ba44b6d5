//! Store without conditional writes: a proxy before the gateway that removes the `If-None-Match` header from PUT and
//! POST requests. Everything else passes unchanged.
//!
//! Clients sign that header, so the request needs a new signature. A body in signed chunks, whose chain starts at the
//! old signature, is joined first. Such bodies are held in memory: conditional writes are small.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::gateway::Gateway;
use super::{http_client, signature};

/// Larger than any conditional write of a test.
const LARGEST_BODY: usize = 64 << 20;

/// Serves until dropped, on the runtime of the test that started it.
pub(crate) struct StripHeader {
    port: u16,
    upstream: Arc<Upstream>,
    server: JoinHandle<()>,
}

struct Upstream {
    endpoint: String,
    access_key: String,
    secret_key: String,
    client: reqwest::Client,
    stripped: AtomicUsize,
}

impl StripHeader {
    /// Starts a proxy before that gateway. Clients use the gateway's root keys and region.
    pub(crate) async fn start(gateway: &Gateway) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let upstream = Arc::new(Upstream {
            endpoint: gateway.endpoint(),
            access_key: gateway.access_key().to_owned(),
            secret_key: gateway.secret_key().to_owned(),
            client: http_client()?,
            stripped: AtomicUsize::new(0),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&upstream));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            port,
            upstream,
            server,
        })
    }

    /// `http://127.0.0.1:…`, for path-style addressing.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Number of requests without their header.
    pub(crate) fn stripped(&self) -> usize {
        self.upstream.stripped.load(Ordering::Relaxed)
    }
}

impl Drop for StripHeader {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(upstream): State<Arc<Upstream>>, request: Request<Body>) -> Response {
    upstream
        .forward(request)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("test proxy: {error:#}")).into_response())
}

impl Upstream {
    async fn forward(&self, mut request: Request<Body>) -> Result<Response> {
        // The Host header is signed and stays that of the proxy.
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("{}{path}", self.endpoint).parse()?;

        let writes = [Method::PUT, Method::POST].contains(request.method());
        let request = if writes && request.headers().contains_key(header::IF_NONE_MATCH) {
            self.stripped.fetch_add(1, Ordering::Relaxed);
            self.unconditional(request).await?
        } else {
            request.map(|body| reqwest::Body::wrap_stream(body.into_data_stream()))
        };
        let response = self.client.execute(request.try_into()?).await?;
        let mut response = axum::http::Response::from(response).map(Body::new);
        // This header belongs to the connection, not to the response.
        response.headers_mut().remove(header::CONNECTION);
        response.headers_mut().remove(header::TRANSFER_ENCODING);
        Ok(response)
    }

    /// Removes the condition from a request and signs it again.
    async fn unconditional(&self, request: Request<Body>) -> Result<Request<reqwest::Body>> {
        let (mut head, body) = request.into_parts();
        let mut body = to_bytes(body, LARGEST_BODY).await?;
        head.headers.remove(header::IF_NONE_MATCH);
        let chunked = head
            .headers
            .get("x-amz-content-sha256")
            .is_some_and(|hash| hash.as_bytes().starts_with(b"STREAMING-"));
        if chunked {
            body = unchunk(&body, &mut head.headers).context("a body that is not aws-chunked")?;
        }
        head.headers.remove(header::TRANSFER_ENCODING);
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut request = Request::from_parts(head, body);
        signature::sign(&mut request, &self.access_key, &self.secret_key)?;
        Ok(request.map(reqwest::Body::from))
    }
}

/// Returns the content of an aws-chunked body; its trailers become headers.
///
/// Chunks are `<size in hex>[;chunk-signature=…]\r\n<content>\r\n`; after the chunk of size 0 come trailers and an
/// empty line.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html>
fn unchunk(mut body: &[u8], headers: &mut HeaderMap) -> Result<Bytes> {
    let mut content = Vec::with_capacity(body.len());
    loop {
        let line = take_line(&mut body)?;
        let size = line.split(';').next().unwrap_or_default();
        let size =
            usize::from_str_radix(size, 16).with_context(|| format!("{size:?} is no size of a chunk"))?;
        if size == 0 {
            break;
        }
        let (chunk, rest) = body.split_at_checked(size).context("a chunk is cut")?;
        content.extend_from_slice(chunk);
        body = rest
            .strip_prefix(b"\r\n")
            .context("a chunk ends without a line break")?;
    }
    while !body.is_empty() {
        let line = take_line(&mut body)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("{line:?} is no trailer"))?;
        if name != "x-amz-trailer-signature" {
            headers.insert(HeaderName::try_from(name)?, value.trim().try_into()?);
        }
    }
    headers.remove("x-amz-trailer");
    headers.remove("x-amz-decoded-content-length");
    remove_aws_chunked(headers)?;
    Ok(content.into())
}

fn take_line<'a>(body: &mut &'a [u8]) -> Result<&'a str> {
    let end = body
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .context("a line without an end")?;
    let (line, rest) = body.split_at(end);
    *body = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    Ok(std::str::from_utf8(line)?)
}

/// Removes the content encoding `aws-chunked` and keeps those of the object.
fn remove_aws_chunked(headers: &mut HeaderMap) -> Result<()> {
    let Some(encodings) = headers.remove(header::CONTENT_ENCODING) else {
        return Ok(());
    };
    let own: Vec<&str> = encodings
        .to_str()?
        .split(',')
        .map(str::trim)
        .filter(|encoding| !encoding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    if !own.is_empty() {
        headers.insert(header::CONTENT_ENCODING, own.join(",").try_into()?);
    }
    Ok(())
}
