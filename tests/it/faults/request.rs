//! A request as a proxy sees it, and the names by which it is known again in another run. No I/O.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Instant;

use anyhow::{Context as _, Result};
use axum::http::StatusCode;
use percent_encoding::percent_decode_str;
use regex::Regex;

use super::fault::Fault;

/// Whom the operator asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Peer {
    /// The Kubernetes API server.
    Cluster,
    /// The Activity Tracker.
    Tracker,
    /// Who gives tokens.
    Uaa,
    /// The bucket.
    Store,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "API server",
            Self::Tracker => "tracker",
            Self::Uaa => "UAA",
            Self::Store => "store",
        })
    }
}

/// What a request is, whichever run it is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Request {
    pub(crate) peer: Peer,
    /// `METHOD /path?query` without what differs from run to run: see [`named`].
    pub(crate) name: String,
}

/// A request as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) peer: Peer,
    /// `METHOD /path?query`, percent-decoded.
    pub(crate) line: String,
    pub(crate) at: Instant,
    /// What the peer answered, also where the operator never heard of it.
    pub(crate) status: Option<StatusCode>,
    /// Bytes of the reply's body, as far as they came by.
    pub(crate) reply_bytes: u64,
    /// What befell it.
    pub(crate) fault: Option<Fault>,
}

impl Seen {
    pub(crate) fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.is_success())
    }

    /// Whether the line has all these parts.
    pub(crate) fn is(&self, parts: &[&str]) -> bool {
        parts.iter().all(|part| self.line.contains(part))
    }

    pub(crate) fn request(&self) -> Request {
        Request {
            peer: self.peer,
            name: named(self.peer, &self.line),
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
static OF_RUN: LazyLock<Regex> = LazyLock::new(|| pattern("/(namespaces|leases)/[^/?]+"));

/// A line without the run that it is of: names of attempts, sessions, uploads and pages, the bucket, the namespace, the
/// lease.
fn named(peer: Peer, line: &str) -> String {
    let line = match peer {
        Peer::Store => BUCKET.replace(line, "$1 "),
        Peer::Cluster => OF_RUN.replace_all(line, "/$1/…"),
        Peer::Tracker | Peer::Uaa => line.into(),
    };
    let line = QUERY.replace_all(&line, "$1=…");
    let line = ULID.replace_all(&line, "ULID");
    UUID.replace_all(&line, "ID").into_owned()
}

impl Request {
    pub(crate) fn new(peer: Peer, line: &str) -> Self {
        Self {
            peer,
            name: named(peer, line),
        }
    }

    pub(crate) fn method(&self) -> &str {
        self.name.split(' ').next().unwrap_or_default()
    }

    /// Whether the peer is asked to go on telling what changes.
    pub(crate) fn watches(&self) -> bool {
        self.peer == Peer::Cluster && self.name.contains("watch=")
    }

    /// Whether the peer is asked to change nothing.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD")
    }

    /// What is asked for, as a row of a table.
    pub(crate) fn kind(&self) -> String {
        let name = &self.name;
        let has = |part: &str| name.contains(part);
        match self.peer {
            Peer::Store => self.operation(),
            Peer::Tracker | Peer::Uaa => {
                let line = name.split('?').next().unwrap_or_default();
                line.replace("/ID", "/{id}")
            }
            Peer::Cluster => {
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

    /// By the name that S3 has for it, and what the object is for.
    fn operation(&self) -> String {
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

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.peer, self.name)
    }
}

impl FromStr for Request {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (peer, name) = text.split_once(": ").context("write PEER: METHOD /PATH")?;
        let peers = [Peer::Cluster, Peer::Tracker, Peer::Uaa, Peer::Store];
        let peer = peers.into_iter().find(|known| known.to_string() == peer);
        Ok(Self {
            peer: peer.context("the peers are API server, tracker, UAA and store")?,
            name: name.to_owned(),
        })
    }
}

/// Method, path and query, as [`Seen`] has them.
pub(super) fn line(method: &str, path: &str) -> String {
    format!("{method} {}", percent_decode_str(path).decode_utf8_lossy())
}

#[test]
fn a_request_is_known_again_in_another_run() {
    let root = "tracker/space=c1234567-6d55-4193-a9de-378620d6fab5/scope=space";
    let attempt = |bucket: &str, ulid: &str| {
        let line = line(
            "PUT",
            &format!("/{bucket}/{root}/_journal/2018-06-04.{ulid}.attempt.json?x-id=PutObject"),
        );
        Request::new(Peer::Store, &line)
    };
    let one = attempt("one-1", "01CFSV3B40HK8N6M5P7Q9R0S1T");
    assert_eq!(one, attempt("other-22", "01KAK43Z9G6VCY1V6S0A8XN2QD"));
    assert_eq!(one.kind(), "PutObject attempt");
    let kinds = [
        (
            Peer::Store,
            "PUT /b/k/date=2018-06-05/events.json.gz?partNumber=2&uploadId=x",
            "UploadPart events",
        ),
        (
            Peer::Store,
            "POST /b/k/date=2018-06-05/events.json.gz?uploadId=x",
            "CompleteMultipartUpload events",
        ),
        (Peer::Store, "GET /b?list-type=2&prefix=tracker/", "ListObjectsV2"),
        (Peer::Store, "POST /b?delete", "DeleteObjects"),
        (
            Peer::Tracker,
            "DELETE /v3/sessions/c1234567-6d55-4193-a9de-378620d6fab5",
            "DELETE /v3/sessions/{id}",
        ),
        (Peer::Uaa, "POST /oauth/token", "POST /oauth/token"),
        (
            Peer::Cluster,
            "PATCH /apis/eventexport.io/v1alpha1/namespaces/one-1/eventexports/june/status?x=y",
            "PATCH eventexports/june/status",
        ),
        (
            Peer::Cluster,
            "GET /api/v1/namespaces/one-1/secrets/bucket",
            "GET secrets/bucket",
        ),
        (
            Peer::Cluster,
            "PUT /apis/coordination.k8s.io/v1/namespaces/one-1/leases/operator-one-1?",
            "PUT leases/…",
        ),
        (
            Peer::Cluster,
            "GET /apis/eventexport.io/v1alpha1/eventexports?watch=true&resourceVersion=7",
            "watch eventexports",
        ),
    ];
    for (peer, line, kind) in kinds {
        assert_eq!(Request::new(peer, line).kind(), kind, "{line}");
    }
}
