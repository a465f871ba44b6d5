//! Store without conditional writes: a rule that removes the `If-None-Match` header from PUT and POST requests.
//!
//! Clients sign that header, so the request needs a new signature. A body in signed chunks, whose chain starts at the
//! old signature, is joined first. Such bodies are held in memory: conditional writes are small.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::rules::{Action, RequestMatcher, Rule};
use crate::bed::{Gateway, signature};

/// Returns the rule for the store. Clients use the gateway's root keys and region.
pub(crate) fn strip_if_none_match(gateway: &Gateway) -> Rule {
    let keys = (gateway.access_key().to_owned(), gateway.secret_key().to_owned());
    let conditional = RequestMatcher::when(|_, line, headers| {
        let writes = line.starts_with("PUT ") || line.starts_with("POST ");
        writes && headers.contains_key(header::IF_NONE_MATCH)
    });
    let rewrite = move |request| unconditional(request, &keys.0, &keys.1);
    Rule::new(conditional, Action::RewriteRequest(Arc::new(rewrite)))
}

/// Removes the condition from a request and signs it again.
fn unconditional(request: Request<Bytes>, access_key: &str, secret_key: &str) -> Result<Request<Bytes>> {
    let (mut head, mut body) = request.into_parts();
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
    signature::sign(&mut request, access_key, secret_key)?;
    Ok(request)
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
