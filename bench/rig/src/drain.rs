//! A bucket that keeps what is small (the journal) and drains what is large, without storing or hashing it: as fast
//! as a store can be, so that what is measured is who writes to it. Signatures and checksums are not looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::AsyncWriteExt as _;

use crate::http::{self, Connection, Head, Service, Socket};
use crate::{Outcome, certificates};

/// Bytes that are kept of an object: 64 KiB. Nothing that the journal needs is longer.
const KEPT: usize = 64 << 10;
/// What every object has; the dash says that it is no MD5.
const ETAG: &str = "\"00000000000000000000000000000000-1\"";

#[derive(Clone, Default)]
struct Bucket(Arc<Inner>);

#[derive(Default)]
struct Inner {
    objects: Mutex<BTreeMap<String, Object>>,
    /// Bytes of the parts of each upload so far.
    uploads: Mutex<BTreeMap<String, u64>>,
    last: AtomicU64,
}

#[derive(Clone)]
struct Object {
    size: u64,
    bytes: Vec<u8>,
    /// `x-amz-meta-…` and the checksum, to be told again.
    facts: Vec<(String, String)>,
    written: SystemTime,
}

/// Serves one bucket under whatever name.
pub fn serve(plain: u16, tls: u16, folder: &str) -> Outcome {
    http::serve(Bucket::default(), plain, tls, certificates::server(folder)?)
}

enum Reply {
    Empty(u16),
    Xml(u16, String),
    /// Of an object, with its bytes unless only asked about.
    Object(Object, bool),
}

impl Service for Bucket {
    async fn answer<S: Socket>(&self, head: Head, connection: &mut Connection<S>) -> io::Result<()> {
        let (kept, length) = connection.body(&head, KEPT).await?;
        match self.decide(&head, &kept, length) {
            Reply::Empty(status) => connection.reply(status, &[("ETag", ETAG)], b"").await,
            Reply::Xml(status, text) => {
                connection
                    .reply(status, &[("Content-Type", "application/xml")], text.as_bytes())
                    .await
            }
            Reply::Object(object, told) => {
                let modified = httpdate::fmt_http_date(object.written);
                let mut headers = vec![("ETag", ETAG), ("Last-Modified", modified.as_str())];
                headers.extend(
                    object
                        .facts
                        .iter()
                        .map(|(name, value)| (name.as_str(), value.as_str())),
                );
                let text = http::head_of(200, &headers, object.size);
                connection.stream.write_all(text.as_bytes()).await?;
                if told {
                    connection.stream.write_all(&object.bytes).await?;
                }
                connection.stream.flush().await
            }
        }
    }
}

impl Bucket {
    fn decide(&self, head: &Head, body: &[u8], length: u64) -> Reply {
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
        let created = |objects: &mut BTreeMap<String, Object>, object: Object, reply: Reply| {
            if absent && objects.contains_key(key) {
                return Reply::Xml(412, error("PreconditionFailed"));
            }
            objects.insert(key.to_owned(), object);
            reply
        };
        let mut uploads = self.0.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let upload = head.query.get("uploadId").cloned().unwrap_or_default();
        // Of a body in chunks that carry its checksum.
        let decoded = head
            .header("x-amz-decoded-content-length")
            .and_then(|value| value.parse().ok());
        match head.method.as_str() {
            "PUT" if has("partNumber") => {
                *uploads.entry(upload).or_default() += decoded.unwrap_or(length);
                Reply::Empty(200)
            }
            "PUT" if key.is_empty() => Reply::Empty(200),
            "PUT" => {
                let facts = ["x-amz-checksum-crc64nvme", "x-amz-checksum-sha256"].into_iter();
                let facts = facts
                    .filter_map(|name| Some((name.to_owned(), head.header(name)?.to_owned())))
                    .collect();
                let object = Object {
                    size: decoded.unwrap_or(length),
                    bytes: if length <= KEPT as u64 {
                        body.to_vec()
                    } else {
                        Vec::new()
                    },
                    facts,
                    written: SystemTime::now(),
                };
                created(&mut objects, object, Reply::Empty(200))
            }
            "POST" if has("uploads") => {
                let id = self.0.last.fetch_add(1, Ordering::Relaxed);
                let text = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                Reply::Xml(200, text)
            }
            "POST" if has("uploadId") => {
                let object = Object {
                    size: uploads.remove(&upload).unwrap_or(0),
                    bytes: Vec::new(),
                    facts: Vec::new(),
                    written: SystemTime::now(),
                };
                let text = format!(
                    "<CompleteMultipartUploadResult><ETag>{ETAG}</ETag></CompleteMultipartUploadResult>"
                );
                created(&mut objects, object, Reply::Xml(200, text))
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
                Reply::Xml(200, result + "</DeleteResult>")
            }
            "DELETE" => {
                if uploads.remove(&upload).is_none() {
                    objects.remove(key);
                }
                Reply::Empty(204)
            }
            "GET" if has("uploads") => Reply::Xml(200, "<ListMultipartUploadsResult/>".to_owned()),
            "GET" if key.is_empty() => Reply::Xml(200, list(&objects, head)),
            "HEAD" if key.is_empty() => Reply::Empty(200),
            "GET" | "HEAD" => match objects.get(key) {
                Some(object) => Reply::Object(object.clone(), head.method == "GET"),
                None if head.method == "GET" => Reply::Xml(404, error("NoSuchKey")),
                None => Reply::Empty(404),
            },
            _ => Reply::Xml(400, error("InvalidRequest")),
        }
    }
}

fn error(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>")
}

/// One page of a listing: 1,000 keys.
fn list(objects: &BTreeMap<String, Object>, head: &Head) -> String {
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
            .written
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
