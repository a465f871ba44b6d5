//! A bucket that stores small objects (the journal) and discards large ones without hashing them. It is as fast as a
//! store can be, so that a measurement shows the writer. It ignores signatures and checksums.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::AsyncWriteExt as _;

use crate::http::{self, Connection, RequestHead, Service, Socket};
use crate::{BenchResult, certificates};

/// Maximum size of a stored object: 64 KiB. No journal entry is larger.
const KEPT_MAX_BYTES: usize = 64 << 10;
/// Entity tag of every object; the dash marks it as no MD5.
const ETAG: &str = "\"00000000000000000000000000000000-1\"";

#[derive(Clone, Default)]
struct Bucket(Arc<BucketState>);

#[derive(Default)]
struct BucketState {
    objects: Mutex<BTreeMap<String, Object>>,
    /// Received bytes of each upload.
    uploads: Mutex<BTreeMap<String, u64>>,
    last: AtomicU64,
}

#[derive(Clone)]
struct Object {
    size: u64,
    bytes: Vec<u8>,
    /// Checksum headers, returned on reads.
    headers: Vec<(String, String)>,
    last_modified: SystemTime,
}

/// Serves one bucket under any name.
pub fn serve(plain: u16, tls: u16, folder: &str) -> BenchResult {
    http::serve(Bucket::default(), plain, tls, certificates::server(folder)?)
}

enum S3Response {
    Empty(u16),
    Xml(u16, String),
    /// An object, and true if its bytes are sent.
    Object(Object, bool),
}

impl Service for Bucket {
    async fn respond<S: Socket>(&self, head: RequestHead, connection: &mut Connection<S>) -> io::Result<()> {
        let (kept, length) = connection.body(&head, KEPT_MAX_BYTES).await?;
        match self.route(&head, &kept, length) {
            S3Response::Empty(status) => connection.reply(status, &[("ETag", ETAG)], b"").await,
            S3Response::Xml(status, text) => {
                connection
                    .reply(status, &[("Content-Type", "application/xml")], text.as_bytes())
                    .await
            }
            S3Response::Object(object, with_body) => {
                let modified = httpdate::fmt_http_date(object.last_modified);
                let mut headers = vec![("ETag", ETAG), ("Last-Modified", modified.as_str())];
                headers.extend(
                    object
                        .headers
                        .iter()
                        .map(|(name, value)| (name.as_str(), value.as_str())),
                );
                let text = http::response_head(200, &headers, object.size);
                connection.stream.write_all(text.as_bytes()).await?;
                if with_body {
                    connection.stream.write_all(&object.bytes).await?;
                }
                connection.stream.flush().await
            }
        }
    }
}

impl Bucket {
    fn route(&self, head: &RequestHead, body: &[u8], length: u64) -> S3Response {
        let mut objects = self.0.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, key) = head
            .path
            .trim_start_matches('/')
            .split_once('/')
            .unwrap_or_default();
        let (has, absent) = (
            |name: &str| head.query.contains_key(name),
            head.header("if-none-match").is_some(),
        );
        let created = |objects: &mut BTreeMap<String, Object>, object: Object, reply: S3Response| {
            if absent && objects.contains_key(key) {
                return S3Response::Xml(412, error("PreconditionFailed"));
            }
            objects.insert(key.to_owned(), object);
            reply
        };
        let mut uploads = self.0.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let upload = head.query.get("uploadId").cloned().unwrap_or_default();
        // Size of a chunked body with a trailing checksum.
        let decoded = head
            .header("x-amz-decoded-content-length")
            .and_then(|value| value.parse().ok());
        match head.method.as_str() {
            "PUT" if has("partNumber") => {
                *uploads.entry(upload).or_default() += decoded.unwrap_or(length);
                S3Response::Empty(200)
            }
            "PUT" if key.is_empty() => S3Response::Empty(200),
            "PUT" => {
                let headers = ["x-amz-checksum-crc64nvme", "x-amz-checksum-sha256"].into_iter();
                let headers = headers
                    .filter_map(|name| Some((name.to_owned(), head.header(name)?.to_owned())))
                    .collect();
                let object = Object {
                    size: decoded.unwrap_or(length),
                    bytes: if length <= KEPT_MAX_BYTES as u64 {
                        body.to_vec()
                    } else {
                        Vec::new()
                    },
                    headers,
                    last_modified: SystemTime::now(),
                };
                created(&mut objects, object, S3Response::Empty(200))
            }
            "POST" if has("uploads") => {
                let id = self.0.last.fetch_add(1, Ordering::Relaxed);
                let text = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                S3Response::Xml(200, text)
            }
            "POST" if has("uploadId") => {
                let object = Object {
                    size: uploads.remove(&upload).unwrap_or(0),
                    bytes: Vec::new(),
                    headers: Vec::new(),
                    last_modified: SystemTime::now(),
                };
                let text = format!(
                    "<CompleteMultipartUploadResult><ETag>{ETAG}</ETag></CompleteMultipartUploadResult>"
                );
                created(&mut objects, object, S3Response::Xml(200, text))
            }
            "POST" => {
                let text = String::from_utf8_lossy(body);
                let mut result = String::from("<DeleteResult>");
                for key in text
                    .split("<Key>")
                    .skip(1)
                    .filter_map(|rest| rest.split("</Key>").next())
                {
                    objects.remove(key);
                    let _ = write!(result, "<Deleted><Key>{key}</Key></Deleted>");
                }
                S3Response::Xml(200, result + "</DeleteResult>")
            }
            "DELETE" => {
                if uploads.remove(&upload).is_none() {
                    objects.remove(key);
                }
                S3Response::Empty(204)
            }
            "GET" if has("uploads") => S3Response::Xml(200, "<ListMultipartUploadsResult/>".to_owned()),
            "GET" if key.is_empty() => S3Response::Xml(200, list(&objects, head)),
            "HEAD" if key.is_empty() => S3Response::Empty(200),
            "GET" | "HEAD" => match objects.get(key) {
                Some(object) => S3Response::Object(object.clone(), head.method == "GET"),
                None if head.method == "GET" => S3Response::Xml(404, error("NoSuchKey")),
                None => S3Response::Empty(404),
            },
            _ => S3Response::Xml(400, error("InvalidRequest")),
        }
    }
}

fn error(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>")
}

/// Returns one page of a listing: 1,000 keys.
fn list(objects: &BTreeMap<String, Object>, head: &RequestHead) -> String {
    let word = |name: &str| head.query.get(name).map_or("", String::as_str);
    let (prefix, after) = (
        word("prefix"),
        word("continuation-token").max(word("start-after")),
    );
    let mut found = objects
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(prefix))
        .filter(|(key, _)| after.is_empty() || key.as_str() > after);
    let mut text = String::from("<ListBucketResult><EncodingType>url</EncodingType>");
    let mut last = "";
    for (key, object) in found.by_ref().take(1000) {
        last = key;
        let seconds = object
            .last_modified
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let _ = write!(
            text,
            "<Contents><Key>{}</Key><Size>{}</Size><ETag>{ETAG}</ETag><LastModified>{}</LastModified></Contents>",
            utf8_percent_encode(key, NON_ALPHANUMERIC),
            object.size,
            crate::source::rfc3339(seconds),
        );
    }
    let more = found.next().is_some();
    let _ = write!(text, "<IsTruncated>{more}</IsTruncated>");
    if more {
        let _ = write!(text, "<NextContinuationToken>{last}</NextContinuationToken>");
    }
    text + "</ListBucketResult>"
}
