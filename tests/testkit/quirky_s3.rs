//! An S3 store in memory that imitates the peculiarities of real stores, by name. Serves on 127.0.0.1.
//!
//! It checks no signatures and no permissions: any bucket exists, and any client may do anything that no quirk
//! forbids. Used by the tests, and by hand: `cargo run --example quirky-s3 -- --quirk list-lag=30s`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use eventexport::storage::Crc64;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Maximum bytes of a request body: 64 MiB.
const BODY_MAX: usize = 64 << 20;
/// Time stamps of listings.
const ISO_8601: &str = "%Y-%m-%dT%H:%M:%S.000Z";
/// Maximum keys of one page, as S3.
const PAGE_KEYS: usize = 1000;

/// A peculiarity of a store, by a name of [`QUIRKS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quirk {
    name: &'static str,
    value: QuirkValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum QuirkValue {
    None,
    Time(Duration),
    Reply(Refusal),
    Endpoint(String),
}

/// An error reply: status, code, message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: String,
    message: String,
}

/// Names of all quirks with their values and effects, for `--help`.
#[rustfmt::skip]
pub(crate) const QUIRKS: &[(&str, &str)] = &[
    ("list-lag=DURATION", "listings show the keys of some time ago (`30s`, `5m`)"),
    ("read-lag=DURATION", "GET and HEAD of a key are 404 for some time after it was written; a second create is refused"),
    ("truncated-without-token", "listings are truncated and name no continuation"),
    ("repeated-token", "each page of a listing is the first one and names the same continuation"),
    ("circular-tokens", "two pages of a listing name each other"),
    ("endless-pages", "each page of a listing is the first one and names a new continuation"),
    ("slow-list=DURATION", "listings are answered after that time"),
    ("cut-documents", "successful documents, such as listings, end in the middle, with a matching Content-Length"),
    ("delete-refused[=STATUS:CODE:MESSAGE]", "deletes are refused (451:UnavailableForLegalReasons, as under a retention policy)"),
    ("batch-delete-refused[=STATUS:CODE:MESSAGE]", "DeleteObjects is refused (403:AccessDenied), DeleteObject is not"),
    ("write-refused[=STATUS:CODE:MESSAGE]", "PutObject and CreateMultipartUpload are refused (403:AccessDenied, storage cap exceeded)"),
    ("no-crc64nvme[=STATUS:CODE:MESSAGE]", "requests with a CRC-64/NVME are refused (400:InvalidRequest)"),
    ("content-md5-required", "PutObject and UploadPart require Content-MD5, even with another checksum"),
    ("no-list-uploads", "ListMultipartUploads is not implemented (501)"),
    ("ignores-if-none-match", "conditional writes overwrite"),
    ("html", "every reply is an HTML page with status 200"),
    ("iso-last-modified", "Last-Modified of HEAD and GET is in ISO 8601"),
    ("blanks-before-xml", "documents begin with blanks and an XML declaration"),
    ("redirect=ENDPOINT", "every reply is a 301 PermanentRedirect to that host"),
    ("empty-list-404", "a listing without keys is a 404 NoSuchKey"),
    ("no-date", "replies have no Date header"),
    ("no-part-etag", "replies to UploadPart have no ETag"),
    ("acl-required", "writes without the ACL bucket-owner-full-control are refused (403:AccessDenied)"),
    ("requester-pays", "requests without x-amz-request-payer are refused (403:AccessDenied)"),
    ("example-policy", "overwrites and deletes that examples/bucket-policy.json forbids are refused (403:AccessDenied)"),
];

/// Replies of quirks without a value.
const REFUSALS: [(&str, &str); 4] = [
    (
        "delete-refused",
        "451:UnavailableForLegalReasons:the object is protected by a retention policy",
    ),
    (
        "batch-delete-refused",
        "403:AccessDenied:DeleteObjects is not allowed",
    ),
    (
        "write-refused",
        "403:AccessDenied:Cannot upload, storage cap exceeded",
    ),
    (
        "no-crc64nvme",
        "400:InvalidRequest:Value for x-amz-checksum-algorithm header is invalid.",
    ),
];

/// Returns the name and the kind of value of a row of [`QUIRKS`].
fn name_and_value(row: &(&'static str, &str)) -> (&'static str, &'static str) {
    row.0.split_at(row.0.find(['=', '[']).unwrap_or(row.0.len()))
}

impl FromStr for Quirk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (wanted, given) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let known = QUIRKS
            .iter()
            .map(name_and_value)
            .find(|(name, _)| *name == wanted);
        let (name, kind) = known.ok_or_else(|| format!("{wanted:?} is not a quirk"))?;
        let value = match kind {
            "" if given.is_some() => return Err(format!("{name:?} is not a quirk with a value")),
            "" => QuirkValue::None,
            "=DURATION" => QuirkValue::Time(parse_duration(given.unwrap_or_default())?),
            "=ENDPOINT" => QuirkValue::Endpoint(given.ok_or("redirect needs an endpoint")?.to_owned()),
            _ => {
                let default = REFUSALS.iter().find(|(of, _)| *of == name);
                let default = default.map_or("", |(_, reply)| reply);
                QuirkValue::Reply(given.unwrap_or(default).parse()?)
            }
        };
        Ok(Self { name, value })
    }
}

impl FromStr for Refusal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = text.splitn(3, ':');
        let status = fields.next().and_then(|status| status.parse().ok());
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        Ok(Self {
            status: status.ok_or_else(|| format!("{text:?} does not begin with a status"))?,
            code: fields.next().unwrap_or("AccessDenied").to_owned(),
            message: fields.next().unwrap_or("refused by the fake").to_owned(),
        })
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    let parsed = units.iter().find_map(|(unit, millis)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_millis(count.saturating_mul(*millis)))
    });
    parsed.ok_or_else(|| format!("{text:?} is not a duration such as 30s"))
}

/// A running store. Stops when dropped.
pub(crate) struct QuirkyS3 {
    address: SocketAddr,
    bucket: Arc<Contents>,
    server: JoinHandle<()>,
}

/// Everything that is stored, and the requests that were served.
struct Contents {
    quirks: Vec<Quirk>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By bucket and key.
    slots: BTreeMap<(String, String), Slot>,
    uploads: BTreeMap<String, OpenUpload>,
    next_id: u64,
    requests: Vec<String>,
}

/// Object of a key, and its rows in listings over time.
#[derive(Default)]
struct Slot {
    object: Option<Object>,
    /// State of the key from an instant on; `None`: deleted.
    rows: Vec<(Instant, Option<Row>)>,
}

#[derive(Clone)]
struct Object {
    body: Bytes,
    row: Row,
    /// Headers that are returned as they were sent.
    headers: HeaderMap,
}

#[derive(Clone)]
struct Row {
    size: usize,
    etag: String,
    last_modified: Timestamp,
}

struct OpenUpload {
    bucket: String,
    key: String,
    headers: HeaderMap,
    parts: BTreeMap<u16, Bytes>,
    initiated: Timestamp,
}

impl QuirkyS3 {
    /// Serves on a port of 127.0.0.1; 0: any.
    pub(crate) async fn start(port: u16, quirks: Vec<Quirk>) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let dated = !quirks.iter().any(|quirk| quirk.name == "no-date");
        let bucket = Arc::new(Contents {
            quirks,
            state: Mutex::default(),
        });
        let contents = Arc::clone(&bucket);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let contents = Arc::clone(&contents);
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
                        let contents = Arc::clone(&contents);
                        async move { Ok::<_, Infallible>(contents.serve(request.map(Body::new)).await) }
                    });
                    // Most connections end because the client closes.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .auto_date_header(dated)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self {
            address,
            bucket,
            server,
        })
    }

    /// Returns the endpoint, for path-style addressing.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns method, path and status of the requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.bucket.lock().requests)
    }
}

impl Drop for QuirkyS3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One request, read completely.
struct S3Call {
    method: Method,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

impl S3Call {
    fn has(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn writes_object(&self) -> bool {
        !self.key.is_empty()
            && (self.method == Method::PUT || (self.method == Method::POST && self.has("uploads")))
    }
}

type Reply = Response<Body>;

impl Contents {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quirk(&self, name: &str) -> Option<&QuirkValue> {
        let known = QUIRKS.iter().any(|row| name_and_value(row).0 == name);
        assert!(known, "{name} is not a quirk");
        let found = self.quirks.iter().find(|quirk| quirk.name == name);
        found.map(|quirk| &quirk.value)
    }

    fn has(&self, name: &str) -> bool {
        self.quirk(name).is_some()
    }

    fn time(&self, name: &str) -> Option<Duration> {
        match self.quirk(name)? {
            QuirkValue::Time(time) => Some(*time),
            _ => None,
        }
    }

    fn refusal(&self, name: &str) -> Option<&Refusal> {
        match self.quirk(name)? {
            QuirkValue::Reply(refusal) => Some(refusal),
            _ => None,
        }
    }

    async fn serve(&self, request: Request<Body>) -> Reply {
        let (head, body) = request.into_parts();
        let line = format!("{} {}", head.method, head.uri);
        let path = head.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
        };
        let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
        let call = S3Call {
            method: head.method.clone(),
            bucket: decode(bucket),
            key: decode(key),
            query: query.into_owned().collect(),
            headers: head.headers,
            body: to_bytes(body, BODY_MAX).await.unwrap_or_default(),
        };
        if call.method == Method::GET && call.key.is_empty() {
            tokio::time::sleep(self.time("slow-list").unwrap_or_default()).await;
        }
        let reply = self.answer(&call);
        self.lock()
            .requests
            .push(format!("{line} {}", reply.status().as_u16()));
        reply
    }

    fn answer(&self, call: &S3Call) -> Reply {
        if let Some(refused) = self.refuse(call) {
            return refused;
        }
        match call.method.as_str() {
            "HEAD" if call.key.is_empty() => empty(StatusCode::OK),
            "GET" if call.has("uploads") => self.list_uploads(call),
            "GET" if call.key.is_empty() => self.list(call),
            "HEAD" | "GET" => self.read(call),
            "PUT" if call.has("partNumber") => self.upload_part(call),
            "PUT" => self.put(call, call.body.clone(), &call.headers.clone()),
            "POST" if call.has("delete") => self.delete_batch(call),
            "POST" if call.has("uploads") => self.create_upload(call),
            "POST" if call.has("uploadId") => self.complete_upload(call),
            "DELETE" if call.has("uploadId") => {
                let removed = self.lock().uploads.remove(&call.query["uploadId"]);
                removed.map_or_else(no_such_upload, |_| empty(StatusCode::NO_CONTENT))
            }
            "DELETE" => {
                if let Some(refusal) = self.delete_refusal(&call.key) {
                    return error_reply(&refusal);
                }
                self.remove(&call.bucket, &call.key);
                empty(StatusCode::NO_CONTENT)
            }
            _ => error(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "unknown request",
            ),
        }
    }

    /// Applies the quirks that concern a request before its effect.
    fn refuse(&self, call: &S3Call) -> Option<Reply> {
        let denied = |message| Some(error(StatusCode::FORBIDDEN, "AccessDenied", message));
        if self.has("html") {
            let page = "<!DOCTYPE html><html><body>Please sign in</body></html>";
            return Some(document(StatusCode::OK, "text/html", page.to_owned()));
        }
        if let Some(QuirkValue::Endpoint(endpoint)) = self.quirk("redirect") {
            let body = format!(
                "<Error><Code>PermanentRedirect</Code><Message>The bucket you are attempting to access must be \
                 addressed using the specified endpoint.</Message><Endpoint>{}</Endpoint></Error>",
                escape(endpoint)
            );
            return Some(document(StatusCode::MOVED_PERMANENTLY, "application/xml", body));
        }
        if self.has("requester-pays") && call.header("x-amz-request-payer") != Some("requester") {
            return denied("the requester pays");
        }
        let writes = call.writes_object();
        let starts = writes && !call.has("partNumber");
        if starts && self.has("acl-required") && call.header("x-amz-acl") != Some("bucket-owner-full-control")
        {
            return denied("the ACL bucket-owner-full-control is required");
        }
        if self.has("example-policy") {
            // S3 evaluates the conditions where an object becomes visible: PutObject, CompleteMultipartUpload.
            let creates =
                call.method == Method::PUT && starts || call.method == Method::POST && call.has("uploadId");
            if creates
                && !call.headers.contains_key(header::IF_NONE_MATCH)
                && in_example_policy("Deny", "s3:PutObject", &call.key)
            {
                return denied("evidence is only created: If-None-Match is required");
            }
        }
        if let Some(refusal) = self.refusal("write-refused").filter(|_| starts) {
            return Some(error_reply(refusal));
        }
        let crc64 = call.headers.contains_key("x-amz-checksum-crc64nvme")
            || call.header("x-amz-checksum-algorithm") == Some("CRC64NVME");
        if let Some(refusal) = self.refusal("no-crc64nvme").filter(|_| crc64) {
            return Some(error_reply(refusal));
        }
        if writes && call.method == Method::PUT {
            if let Some(sent) = call.header("content-md5") {
                let computed = aws_smithy_types::base64::encode(Md5::digest(&call.body));
                if sent != computed {
                    return Some(error(StatusCode::BAD_REQUEST, "BadDigest", "Content-MD5 differs"));
                }
            } else if self.has("content-md5-required") {
                return Some(error(
                    StatusCode::BAD_REQUEST,
                    "InvalidRequest",
                    "Content-MD5 HTTP header is required for Put Part requests with Object Lock parameters",
                ));
            }
            if let Some(sent) = call.header("x-amz-checksum-crc64nvme")
                && sent != encode_crc64(&call.body)
            {
                return Some(error(StatusCode::BAD_REQUEST, "BadDigest", "the CRC-64 differs"));
            }
        }
        None
    }

    fn put(&self, call: &S3Call, body: Bytes, headers: &HeaderMap) -> Reply {
        let mut state = self.lock();
        state.next_id += 1;
        let row = Row {
            size: body.len(),
            etag: format!("\"{:032x}\"", state.next_id),
            last_modified: Timestamp::now(),
        };
        let slot = state
            .slots
            .entry((call.bucket.clone(), call.key.clone()))
            .or_default();
        let once = call.headers.contains_key(header::IF_NONE_MATCH);
        if once && slot.object.is_some() && !self.has("ignores-if-none-match") {
            return error(
                StatusCode::PRECONDITION_FAILED,
                "PreconditionFailed",
                "the key exists",
            );
        }
        slot.rows.push((Instant::now(), Some(row.clone())));
        let kept = |name: &str| name.starts_with("x-amz-meta-") || name.starts_with("x-amz-checksum-crc");
        let headers = headers.iter().filter(|(name, _)| kept(name.as_str()));
        let headers: HeaderMap = headers
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut reply = empty(StatusCode::OK);
        set(&mut reply, "etag", &row.etag);
        if let Some(sum) = call.headers.get("x-amz-checksum-crc64nvme") {
            reply
                .headers_mut()
                .insert("x-amz-checksum-crc64nvme", sum.clone());
        }
        slot.object = Some(Object { body, row, headers });
        reply
    }

    fn read(&self, call: &S3Call) -> Reply {
        let state = self.lock();
        let slot = state.slots.get(&(call.bucket.clone(), call.key.clone()));
        let lag = self.time("read-lag").unwrap_or_default();
        let readable = |slot: &&Slot| slot.rows.iter().any(|(since, _)| since.elapsed() >= lag);
        let slot = slot.filter(readable);
        let Some(object) = slot.and_then(|slot| slot.object.as_ref()) else {
            return error(StatusCode::NOT_FOUND, "NoSuchKey", "the key does not exist");
        };
        let mut body = object.body.clone();
        let mut status = StatusCode::OK;
        if let Some((first, last)) = call.header("range").and_then(parse_range) {
            if first >= body.len() {
                return error(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "InvalidRange",
                    "beyond the end",
                );
            }
            body = body.slice(first..body.len().min(last.saturating_add(1)));
            status = StatusCode::PARTIAL_CONTENT;
        }
        let length = body.len().to_string();
        let head = call.method == Method::HEAD;
        let mut reply = Response::new(if head { Body::empty() } else { Body::from(body) });
        *reply.status_mut() = status;
        reply.headers_mut().extend(object.headers.clone());
        set(&mut reply, "content-length", &length);
        set(&mut reply, "etag", &object.row.etag);
        let format = if self.has("iso-last-modified") {
            ISO_8601
        } else {
            "%a, %d %b %Y %H:%M:%S GMT"
        };
        let modified = object.row.last_modified.strftime(format).to_string();
        set(&mut reply, "last-modified", &modified);
        reply
    }

    fn list(&self, call: &S3Call) -> Reply {
        let prefix = call.query.get("prefix").map_or("", String::as_str);
        let token = call.query.get("continuation-token").map_or("", String::as_str);
        let lag = self.time("list-lag");
        let state = self.lock();
        let rows = state.slots.iter().filter_map(|((bucket, key), slot)| {
            let row = match lag {
                None => slot.object.as_ref().map(|object| &object.row),
                Some(lag) => {
                    let mut rows = slot.rows.iter().rev();
                    let seen = rows.find(|(since, _)| since.elapsed() >= lag);
                    seen.and_then(|(_, row)| row.as_ref())
                }
            }?;
            (*bucket == call.bucket && key.starts_with(prefix)).then_some((key, row))
        });
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() && self.has("empty-list-404") {
            return error(
                StatusCode::NOT_FOUND,
                "NoSuchKey",
                "The specified key does not exist.",
            );
        }
        // A token is the last key of the page before it.
        let normal = |rows: &[(&String, &Row)]| {
            let begin = rows.partition_point(|(key, _)| !token.is_empty() && key.as_str() <= token);
            let end = rows.len().min(begin + PAGE_KEYS);
            let next = (end < rows.len()).then(|| rows[end - 1].0.clone());
            (begin..end, end < rows.len(), next)
        };
        let whole = 0..rows.len().min(PAGE_KEYS);
        let (range, truncated, next) = if self.has("truncated-without-token") {
            (whole, true, None)
        } else if self.has("repeated-token") {
            (whole, true, Some("again".to_owned()))
        } else if self.has("circular-tokens") {
            let other = if token == "one" { "two" } else { "one" };
            (whole, true, Some(other.to_owned()))
        } else if self.has("endless-pages") {
            let page: u64 = token.parse().unwrap_or(0);
            (whole, true, Some((page + 1).to_string()))
        } else {
            normal(&rows)
        };
        let mut body = format!(
            "<ListBucketResult><Name>{}</Name><EncodingType>url</EncodingType><IsTruncated>{truncated}</IsTruncated>",
            escape(&call.bucket)
        );
        if let Some(next) = next {
            let _ = write!(
                body,
                "<NextContinuationToken>{}</NextContinuationToken>",
                escape(&next)
            );
        }
        for (key, row) in &rows[range] {
            let _ = write!(
                body,
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
                encode(key),
                row.last_modified.strftime(ISO_8601),
                escape(&row.etag),
                row.size
            );
        }
        self.xml(&(body + "</ListBucketResult>"))
    }

    fn list_uploads(&self, call: &S3Call) -> Reply {
        if self.has("no-list-uploads") {
            return error(
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "ListMultipartUploads is not implemented",
            );
        }
        let prefix = call.query.get("prefix").map_or("", String::as_str);
        let mut body = String::from(
            "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>",
        );
        for (id, upload) in &self.lock().uploads {
            if upload.bucket == call.bucket && upload.key.starts_with(prefix) {
                let _ = write!(
                    body,
                    "<Upload><Key>{}</Key><UploadId>{id}</UploadId><Initiated>{}</Initiated></Upload>",
                    encode(&upload.key),
                    upload.initiated.strftime(ISO_8601)
                );
            }
        }
        self.xml(&(body + "</ListMultipartUploadsResult>"))
    }

    fn create_upload(&self, call: &S3Call) -> Reply {
        let mut state = self.lock();
        state.next_id += 1;
        let id = format!("upload-{}", state.next_id);
        let upload = OpenUpload {
            bucket: call.bucket.clone(),
            key: call.key.clone(),
            headers: call.headers.clone(),
            parts: BTreeMap::new(),
            initiated: Timestamp::now(),
        };
        state.uploads.insert(id.clone(), upload);
        self.xml(&format!(
            "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        ))
    }

    fn upload_part(&self, call: &S3Call) -> Reply {
        let mut state = self.lock();
        let number: u16 = call.query["partNumber"].parse().unwrap_or(1);
        let id = call.query.get("uploadId").map_or("", String::as_str);
        let Some(upload) = state.uploads.get_mut(id) else {
            return no_such_upload();
        };
        upload.parts.insert(number, call.body.clone());
        let mut reply = empty(StatusCode::OK);
        if !self.has("no-part-etag") {
            set(&mut reply, "etag", &format!("\"part-{number}\""));
        }
        if let Some(sum) = call.headers.get("x-amz-checksum-crc64nvme") {
            reply
                .headers_mut()
                .insert("x-amz-checksum-crc64nvme", sum.clone());
        }
        reply
    }

    fn complete_upload(&self, call: &S3Call) -> Reply {
        let id = call.query["uploadId"].clone();
        let (body, mut headers) = {
            let state = self.lock();
            let Some(upload) = state.uploads.get(&id) else {
                return no_such_upload();
            };
            let parts: Vec<&[u8]> = upload.parts.values().map(AsRef::as_ref).collect();
            (Bytes::from(parts.concat()), upload.headers.clone())
        };
        let sum = call.headers.get("x-amz-checksum-crc64nvme").cloned();
        if let Some(sum) = &sum {
            if sum.as_bytes() != encode_crc64(&body).as_bytes() {
                return error(
                    StatusCode::BAD_REQUEST,
                    "BadDigest",
                    "the CRC-64 of the object differs",
                );
            }
            headers.insert("x-amz-checksum-crc64nvme", sum.clone());
        }
        let stored = self.put(call, body, &headers);
        if !stored.status().is_success() {
            return stored;
        }
        self.lock().uploads.remove(&id);
        let etag = stored.headers()["etag"].to_str().unwrap_or_default().to_owned();
        let sum = sum.map_or_else(String::new, |sum| {
            format!(
                "<ChecksumCRC64NVME>{}</ChecksumCRC64NVME>",
                sum.to_str().unwrap_or_default()
            )
        });
        self.xml(&format!(
            "<CompleteMultipartUploadResult><ETag>{}</ETag>{sum}</CompleteMultipartUploadResult>",
            escape(&etag)
        ))
    }

    fn delete_refusal(&self, key: &str) -> Option<Refusal> {
        if self.has("example-policy") && !in_example_policy("Allow", "s3:DeleteObject", key) {
            let denied = "403:AccessDenied:the policy allows no delete of this key";
            return denied.parse().ok();
        }
        self.refusal("delete-refused").cloned()
    }

    fn delete_batch(&self, call: &S3Call) -> Reply {
        if let Some(refusal) = self.refusal("batch-delete-refused") {
            return error_reply(refusal);
        }
        let text = String::from_utf8_lossy(&call.body).into_owned();
        let keys = text.split("<Key>").skip(1);
        let keys = keys.filter_map(|rest| Some(unescape(rest.split_once("</Key>")?.0)));
        let mut body = String::from("<DeleteResult>");
        for key in keys {
            match self.delete_refusal(&key) {
                None => self.remove(&call.bucket, &key),
                Some(Refusal { code, message, .. }) => {
                    let key = escape(&key);
                    let _ = write!(
                        body,
                        "<Error><Key>{key}</Key><Code>{code}</Code><Message>{message}</Message></Error>"
                    );
                }
            }
        }
        self.xml(&(body + "</DeleteResult>"))
    }

    fn remove(&self, bucket: &str, key: &str) {
        if let Some(slot) = self.lock().slots.get_mut(&(bucket.to_owned(), key.to_owned())) {
            slot.object = None;
            slot.rows.push((Instant::now(), None));
        }
    }

    fn xml(&self, body: &str) -> Reply {
        let body = if self.has("blanks-before-xml") {
            format!("\n  \n<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}")
        } else {
            body.to_owned()
        };
        let end = if self.has("cut-documents") {
            body.len() / 2
        } else {
            body.len()
        };
        document(StatusCode::OK, "application/xml", body[..end].to_owned())
    }
}

fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = status;
    reply
}

fn document(status: StatusCode, kind: &str, body: String) -> Reply {
    let mut reply = Response::new(Body::from(body));
    *reply.status_mut() = status;
    set(&mut reply, "content-type", kind);
    reply
}

fn set(reply: &mut Reply, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

/// Returns true if a statement of examples/bucket-policy.json with this effect and action names the key, whatever the
/// prefix of the archive is.
fn in_example_policy(effect: &str, action: &str, key: &str) -> bool {
    let policy = serde_json::from_str::<serde_json::Value>(include_str!("../../examples/bucket-policy.json"));
    let policy = policy.unwrap_or_default();
    let statements = policy["Statement"].as_array().into_iter().flatten();
    let statements = statements.filter(|statement| {
        let actions = statement["Action"].as_array();
        statement["Effect"] == effect
            && actions.is_some_and(|actions| actions.iter().any(|name| name == action))
    });
    let resources = statements.flat_map(|statement| statement["Resource"].as_array().into_iter().flatten());
    let patterns =
        resources.filter_map(|resource| resource.as_str()?.strip_prefix("arn:aws:s3:::audit/tracker/"));
    let mut patterns = patterns.peekable();
    assert!(
        patterns.peek().is_some(),
        "the example has no {effect} of {action} by key"
    );
    patterns.any(|pattern| matches(pattern, key))
}

/// Returns true if a text matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(after, rest)))
        }),
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Reply {
    let (code, message) = (escape(code), escape(message));
    let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    document(status, "application/xml", body)
}

fn error_reply(refusal: &Refusal) -> Reply {
    error(refusal.status, &refusal.code, &refusal.message)
}

fn no_such_upload() -> Reply {
    error(StatusCode::NOT_FOUND, "NoSuchUpload", "the upload does not exist")
}

fn encode_crc64(body: &[u8]) -> String {
    aws_smithy_types::base64::encode(Crc64::of(body).0.to_be_bytes())
}

fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().unwrap_or(usize::MAX)))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

/// Decodes the entities of XML, named and numeric.
fn unescape(text: &str) -> String {
    let mut pieces = text.split('&');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (entity, rest) = piece.split_once(';').unwrap_or((piece, ""));
        let number = match entity.strip_prefix('#') {
            Some(hex) if hex.starts_with(['x', 'X']) => u32::from_str_radix(&hex[1..], 16).ok(),
            Some(decimal) => decimal.parse().ok(),
            None => None,
        };
        decoded.push(match entity {
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            "amp" => '&',
            _ => number.and_then(char::from_u32).unwrap_or('?'),
        });
        decoded.push_str(rest);
    }
    decoded
}

/// Encodes a key of a listing with `encoding-type=url`.
fn encode(key: &str) -> String {
    url::form_urlencoded::byte_serialize(key.as_bytes()).collect()
}
