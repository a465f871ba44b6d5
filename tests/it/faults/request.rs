//! Requests as a proxy sees them, and keys that identify them across runs. No I/O.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use axum::http::Method;
use regex::Regex;

use crate::testkit::proxy::{ProxiedPeer, RecordedRequest, RequestMatcher, request_line};

/// Identity of a request across runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestKey {
    pub(crate) peer: ProxiedPeer,
    /// `METHOD /path?query` without the parts that differ between runs: see [`normalized`].
    pub(crate) name: String,
}

impl RecordedRequest {
    pub(crate) fn key(&self) -> RequestKey {
        RequestKey {
            peer: self.peer,
            name: normalized(self.peer, &self.line),
        }
    }
}

#[expect(clippy::expect_used, reason = "constants")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern")
}

static ULID: LazyLock<Regex> = LazyLock::new(|| pattern("[0-9A-HJKMNP-TV-Z]{26}"));
static UUID: LazyLock<Regex> = LazyLock::new(|| pattern("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"));
static QUERY: LazyLock<Regex> = LazyLock::new(|| {
    pattern("(uploadId|upload-id-marker|key-marker|continuation-token|resourceVersion|timeoutSeconds)=[^&]*")
});
static BUCKET: LazyLock<Regex> = LazyLock::new(|| pattern("^([A-Z]+) /[^/?]+"));
static RUN_SPECIFIC: LazyLock<Regex> = LazyLock::new(|| pattern("/(namespaces|leases)/[^/?]+"));

/// Removes the parts of a line that differ between runs: ids of attempts, sessions, uploads and pages; bucket,
/// namespace and lease.
fn normalized(peer: ProxiedPeer, line: &str) -> String {
    let line = match peer {
        ProxiedPeer::Store => BUCKET.replace(line, "$1 "),
        ProxiedPeer::ApiServer => RUN_SPECIFIC.replace_all(line, "/$1/…"),
        ProxiedPeer::Tracker | ProxiedPeer::Uaa => line.into(),
    };
    let line = QUERY.replace_all(&line, "$1=…");
    let line = ULID.replace_all(&line, "ULID");
    UUID.replace_all(&line, "ID").into_owned()
}

impl RequestKey {
    pub(crate) fn new(peer: ProxiedPeer, line: &str) -> Self {
        Self {
            peer,
            name: normalized(peer, line),
        }
    }

    /// Matches the requests with this key.
    pub(crate) fn matcher(&self) -> RequestMatcher {
        let key = self.clone();
        RequestMatcher::when(move |peer, line, _| peer == key.peer && Self::new(peer, line) == key)
    }

    pub(crate) fn method(&self) -> &str {
        self.name.split(' ').next().unwrap_or_default()
    }

    /// True for a watch.
    pub(crate) fn is_watch(&self) -> bool {
        self.peer == ProxiedPeer::ApiServer && self.name.contains("watch=")
    }

    /// True if it changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD")
    }

    /// Row of the report.
    pub(crate) fn row_label(&self) -> String {
        let name = &self.name;
        let has = |part: &str| name.contains(part);
        match self.peer {
            ProxiedPeer::Store => self.s3_operation(),
            ProxiedPeer::Tracker | ProxiedPeer::Uaa => {
                let line = name.split('?').next().unwrap_or_default();
                line.replace("/ID", "/{id}")
            }
            ProxiedPeer::ApiServer => {
                let (method, path) = name.split_once(' ').unwrap_or_default();
                let path = path.split('?').next().unwrap_or_default();
                let verb = if has("watch=true") || has("watch=1") {
                    "watch"
                } else {
                    method
                };
                let path = path.replace("/namespaces/…", "");
                let of = path.rsplit_once("/v").map_or(path.as_str(), |(_, of)| of);
                format!("{verb} {}", of.split_once('/').map_or(of, |(_, of)| of))
            }
        }
    }

    /// Name of the S3 operation and kind of the object.
    fn s3_operation(&self) -> String {
        let (method, rest) = self.name.split_once(' ').unwrap_or_default();
        let (key, query) = rest.split_once('?').unwrap_or((rest, ""));
        let query: Vec<&str> = query
            .split('&')
            .map(|pair| pair.split('=').next().unwrap_or_default())
            .collect();
        let asks = |field: &str| query.contains(&field);
        let what = ["attempt", "session", "prepared", "receipt", "split", "expired"]
            .into_iter()
            .find(|what| key.contains(&format!(".{what}.")))
            .or_else(|| key.contains("/_manifests/").then_some("manifest"))
            .or_else(|| key.contains("/events").then_some("events"))
            .unwrap_or("");
        let operation = match method {
            "GET" if asks("list-type") => "ListObjectsV2",
            "GET" if asks("uploads") => "ListMultipartUploads",
            "GET" => "GetObject",
            "HEAD" => "HeadObject",
            "POST" if asks("uploads") => "CreateMultipartUpload",
            "POST" if asks("uploadId") => "CompleteMultipartUpload",
            "POST" if asks("delete") => "DeleteObjects",
            "PUT" if asks("partNumber") => "UploadPart",
            "PUT" => "PutObject",
            "DELETE" if asks("uploadId") => "AbortMultipartUpload",
            "DELETE" => "DeleteObject",
            other => other,
        };
        format!("{operation} {what}").trim_end().to_owned()
    }
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.peer, self.name)
    }
}

impl FromStr for RequestKey {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (peer, name) = text.split_once(": ").context("write PEER: METHOD /PATH")?;
        let peers = [
            ProxiedPeer::ApiServer,
            ProxiedPeer::Tracker,
            ProxiedPeer::Uaa,
            ProxiedPeer::Store,
        ];
        let peer = peers.into_iter().find(|known| known.to_string() == peer);
        Ok(Self {
            peer: peer.context("the peers are API server, tracker, UAA and store")?,
            name: name.to_owned(),
        })
    }
}

#[test]
fn a_request_has_the_same_key_in_every_run() {
    let root = "tracker/space=c1234567-6d55-4193-a9de-378620d6fab5/scope=space";
    let attempt = |bucket: &str, ulid: &str| {
        let line = request_line(
            &Method::PUT,
            &format!("/{bucket}/{root}/_journal/2018-06-04.{ulid}.attempt.json?x-id=PutObject"),
        );
        RequestKey::new(ProxiedPeer::Store, &line)
    };
    let one = attempt("one-1", "01CFSV3B40HK8N6M5P7Q9R0S1T");
    assert_eq!(one, attempt("other-22", "01KAK43Z9G6VCY1V6S0A8XN2QD"));
    assert_eq!(one.row_label(), "PutObject attempt");
    let kinds = [
        (
            ProxiedPeer::Store,
            "PUT /b/k/date=2018-06-05/events.json.gz?partNumber=2&uploadId=x",
            "UploadPart events",
        ),
        (
            ProxiedPeer::Store,
            "POST /b/k/date=2018-06-05/events.json.gz?uploadId=x",
            "CompleteMultipartUpload events",
        ),
        (
            ProxiedPeer::Store,
            "GET /b?list-type=2&prefix=tracker/",
            "ListObjectsV2",
        ),
        (ProxiedPeer::Store, "POST /b?delete", "DeleteObjects"),
        (
            ProxiedPeer::Tracker,
            "DELETE /v3/sessions/c1234567-6d55-4193-a9de-378620d6fab5",
            "DELETE /v3/sessions/{id}",
        ),
        (ProxiedPeer::Uaa, "POST /oauth/token", "POST /oauth/token"),
        (
            ProxiedPeer::ApiServer,
            "PATCH /apis/eventexport.io/v1alpha1/namespaces/one-1/eventexports/june/status?x=y",
            "PATCH eventexports/june/status",
        ),
        (
            ProxiedPeer::ApiServer,
            "GET /api/v1/namespaces/one-1/secrets/bucket",
            "GET secrets/bucket",
        ),
        (
            ProxiedPeer::ApiServer,
            "PUT /apis/coordination.k8s.io/v1/namespaces/one-1/leases/operator-one-1?",
            "PUT leases/…",
        ),
        (
            ProxiedPeer::ApiServer,
            "GET /apis/eventexport.io/v1alpha1/eventexports?watch=true&resourceVersion=7",
            "watch eventexports",
        ),
    ];
    for (peer, line, kind) in kinds {
        assert_eq!(RequestKey::new(peer, line).row_label(), kind, "{line}");
    }
}
